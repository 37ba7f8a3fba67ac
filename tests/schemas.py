"""JSON Schemas that several suites use."""

from __future__ import annotations

from typing import Any


def doubling(levels: int) -> dict[str, Any]:
    """A schema each level of which doubles the time that a comparison takes."""
    defs = {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**defs, f"n{levels}": {"type": "object"}}, "$ref": "#/$defs/n0"}
