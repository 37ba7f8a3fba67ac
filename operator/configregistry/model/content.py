"""The content of a version: what `dataFrom` and `data` merge to, checked and with its hash.

Pure: sources come as the text that was read from ConfigMaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.errors import FieldError
from configregistry.model.canonical import MAX_SAFE_INTEGER, canonical, content_hash, join_object
from configregistry.model.names import KEY_PATTERN, MAX_CONTENT_BYTES, MAX_KEYS, is_key
from configregistry.model.spec import DataFrom


class Content(NamedTuple):
    """Checked content: its canonical JSON and what is often asked of it."""

    hash: str
    json: bytes
    keys: int


class Source(NamedTuple):
    """One `dataFrom` entry with the `data` of its ConfigMap (empty for an optional one that is absent)."""

    ref: DataFrom
    data: Mapping[str, str]


def merge(sources: Iterable[Source], data: Mapping[str, Any]) -> dict[str, Any]:
    """Sources in order, then `data`; the later wins, by whole top-level key. Raises `FieldError` for a bad key."""
    merged: dict[str, Any] = {}
    for index, source in enumerate(sources):
        for name, text in source.data.items():
            key = source.ref.prefix + name
            if not is_key(key):  # a ConfigMap may hold `_x` or `.x`; told here, where it is known whose it is
                place = f"spec.dataFrom[{index}]: ConfigMap {source.ref.config_map_ref.name}"
                raise FieldError(place, key, f"expected a key of the form {KEY_PATTERN}")
            merged[key] = _value(text, source.ref.format)
    merged.update(data)
    return merged


def build(merged: Mapping[str, Any]) -> Content:
    """Check a merged object and name it. Raises `FieldError` with the key's path."""
    if len(merged) > MAX_KEYS:
        raise FieldError("spec.data", f"{len(merged)} keys", f"expected at most {MAX_KEYS:,} keys")
    members = []
    for key, value in merged.items():
        if not is_key(key):
            raise FieldError(f"spec.data[{key!r}]", key, f"expected a key of the form {KEY_PATTERN}")
        members.append((key, _encode(f"spec.data[{key!r}]", value)))
    json = join_object(members)
    if len(json) > MAX_CONTENT_BYTES:
        raise FieldError(
            "spec.data",
            f"{len(json):,} bytes",
            f"expected at most {MAX_CONTENT_BYTES:,} bytes of canonical JSON after merging",
        )
    return Content(content_hash(json), json, len(members))


def members(json: bytes) -> dict[str, bytes]:
    """Each key of a canonical document with the JSON of its value. Raises `ValueError` for other bytes."""
    return {key: bytes(raw) for key, raw in _MEMBERS.decode(json).items()}


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _value(text: str, form: str) -> Any:
    """A ConfigMap's text as a value: in Auto a text that parses whole as JSON is that value."""
    if form == "Auto":
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return text
    return text


def _encode(field: str, value: Any) -> bytes:
    try:
        encoded = canonical(value)
    except RecursionError:
        raise FieldError(field, None, "expected a value that is nested less deeply") from None
    except ValueError as error:
        _refuse_unsafe(field, value)
        raise FieldError(field, None, f"expected a JSON value: {error}") from None
    if _LONG_NUMBER.search(encoded):
        _refuse_unsafe(field, value)
    return encoded


_LONG_NUMBER: Final = re.compile(rb"[0-9]{16}")
_EXPONENT_FROM: Final = 1e21
"""RFC 8785 writes doubles below this as integers: 1e20 has the bytes of an integer that is refused."""


def _refuse_unsafe(field: str, value: Any) -> None:
    """Raise where an integer beyond ±(2^53-1) stands. Not recursive, for it is asked about any value at all."""
    found = [(field, value)]
    while found:
        place, item = found.pop()
        if isinstance(item, dict):
            found += [(f"{place}.{key}", part) for key, part in item.items()]
        elif isinstance(item, list | tuple):
            found += [(f"{place}[{index}]", part) for index, part in enumerate(item)]
        elif _is_written_as_integer(item) and abs(item) > MAX_SAFE_INTEGER:
            raise FieldError(place, item, f"expected an integer within ±{MAX_SAFE_INTEGER}") from None


def _is_written_as_integer(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < _EXPONENT_FROM)
