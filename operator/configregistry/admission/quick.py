"""Whether `data` is good content, told without its canonical JSON, which costs 26 ms for 512 KB.

Only ever a quick yes: at the least doubt the answer is no, and then `content.build` says what is so. It must never
say yes where that would refuse (a test compares the two).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from configregistry.errors import FieldError
from configregistry.model import content
from configregistry.model.canonical import MAX_SAFE_INTEGER
from configregistry.model.names import MAX_CONTENT_BYTES, MAX_KEYS, is_key

_DOUBTFUL: Final = re.compile(rb"[0-9]{16}|[0-9][eE][0-9+-]")
"""Numbers that canonical JSON writes otherwise, or that may be too large; in a string it only costs time."""
_PLAIN_FROM: Final = 1e-4
_PLAIN_TO: Final = 1e15
"""Doubles between these are written without an exponent, and by everybody with the same digits."""
_DEEP: Final = 50
"""Brackets of one value: fewer are not nested too deeply."""


def is_surely_content(data: Mapping[str, Any]) -> bool:
    """Whether `content.build` will take it, as far as can be said quickly."""
    if len(data) > MAX_KEYS or not all(map(is_key, data)):
        return False
    sure: dict[str, Any] = {}
    unsure: dict[str, Any] = {}
    for key, value in data.items():
        (sure if _is_sure(value) else unsure)[key] = value
    try:
        # Of what is sure, canonical JSON differs in its order, and says 1 for 1.0: it is not longer.
        return len(msgspec.json.encode(sure)) + len(content.build(unsure).json) <= MAX_CONTENT_BYTES
    except (FieldError, UnicodeEncodeError):
        return False


def _is_sure(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER)
    if kind is float:
        return bool(value == 0 or _PLAIN_FROM <= abs(value) < _PLAIN_TO)
    try:
        raw = msgspec.json.encode(value)
    except RecursionError:
        return False
    return raw.count(b"[") + raw.count(b"{") <= _DEEP and _DOUBTFUL.search(raw) is None
