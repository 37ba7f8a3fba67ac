"""Ask kstatus (Flux's fork), Flux's healthCheckExprs and Argo CD's Lua engine about an object.

    Judges(lua=..., exprs={"current": ...}).ask(registry).kstatus.status == "Current"

It never talks to a cluster: it is given objects as the API server gave them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .building import ensure_judge

_WITHIN: Final = 60.0


class Verdict(NamedTuple):
    """What one tool says."""

    status: str
    message: str


class Judgement(NamedTuple):
    """What they all say; None: it was not asked."""

    kstatus: Verdict
    flux: Verdict | None
    argo: Verdict | None


class Judges:
    """The tools, with the texts that a user gives them."""

    def __init__(self, *, lua: str = "", exprs: Mapping[str, str] | None = None) -> None:
        self._program = ensure_judge()
        self._asked: dict[str, Any] = {"lua": lua, "exprs": dict(exprs) if exprs else None}

    def ask(self, *objects: Mapping[str, Any]) -> list[Judgement]:
        """Judge objects as the API server gave them."""
        lines = "".join(json.dumps({"object": each, **self._asked}) + "\n" for each in objects)
        told = subprocess.run(
            [self._program], input=lines, capture_output=True, text=True, check=True, timeout=_WITHIN
        ).stdout.splitlines()
        return [_judgement(json.loads(line)) for line in told]


def _judgement(told: dict[str, Any]) -> Judgement:
    if told.get("error"):
        raise ValueError(told["error"])
    found = {name: Verdict(**told[name]) if name in told else None for name in ("flux", "argo")}
    return Judgement(Verdict(**told["kstatus"]), **found)
