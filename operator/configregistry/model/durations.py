"""Durations as people write them in a spec: `500ms`, `30s`, `5m`, `1h30m`."""

from __future__ import annotations

import re
from typing import Final

from configregistry.errors import FieldError

DURATION_PATTERN: Final = r"([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?"
_DURATION: Final = re.compile(r"(?=.)(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
_UNITS: Final = (3_600_000, 60_000, 1_000, 1)


def parse_duration(text: str, field: str = "duration") -> float:
    """Seconds of a written duration. Raises `FieldError` with `field` for any other text."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise FieldError(field, text, "expected a duration such as 500ms, 30s, 5m or 1h30m")
    millis = sum(int(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)
    return millis / 1000


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back to the same millisecond; never negative."""
    millis = max(0, round(seconds * 1000))
    parts = []
    for unit, name in zip(_UNITS, ("h", "m", "s", "ms"), strict=True):
        count, millis = divmod(millis, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"
