"""JSON one level deep, without recursion: for objects that are nested beyond what decoders follow.

Why: the API server takes values that are nested 10,000 deep, decoders end at about 1,000, and a
list or a watch brings everybody's objects together: one such object, of 6 KB, would otherwise blind
the program to all others. It is slow, and only asked when a decoder has given up.

It must never recurse, and never judge more than where a value begins and ends; what it cuts out is
decoded by others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]', re.DOTALL)


def members(raw: bytes) -> dict[str, bytes]:
    """Give an object's members with their JSON. Raises `msgspec.DecodeError` for anything else."""
    found = {}
    for part in _parts(raw, b"{", b"}"):
        key = _TOKEN.match(part)
        if key is None or not part[key.end() :].lstrip().startswith(b":"):
            raise msgspec.DecodeError("not a JSON object")
        value = part[key.end() :].lstrip()[1:].strip()
        found[msgspec.json.decode(key[0], type=str)] = value
    return found


def elements(raw: bytes) -> list[bytes]:
    """Give an array's elements as JSON. Raises `msgspec.DecodeError` for anything else."""
    return list(_parts(raw, b"[", b"]"))


def _parts(raw: bytes, opening: bytes, closing: bytes) -> Iterator[bytes]:
    """Cut what stands between the brackets at the commas that stand in no other brackets."""
    text = raw.strip()
    if not (text.startswith(opening) and text.endswith(closing)):
        raise msgspec.DecodeError(f"not JSON between {opening.decode()} and {closing.decode()}")
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in b"[{":
            depth += 1
        elif sign in b"]}":
            depth -= 1
            if depth == 0 and token.end() != len(text):
                raise msgspec.DecodeError("JSON ends too early")
        elif sign == b"," and depth == 1:
            yield text[start : token.start()].strip()
            start = token.end()
    if depth != 0:
        raise msgspec.DecodeError("JSON is cut off")
    if last := text[start:-1].strip():
        yield last
