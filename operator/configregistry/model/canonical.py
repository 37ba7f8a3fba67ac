"""Canonical JSON (RFC 8785) and the hash that names content.

Two documents that mean the same have the same bytes, so equality of content is equality of hashes,
and a version is never recorded twice because of white space, key order or `1.0` for `1`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

import rfc8785

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON reader holds exactly (IEEE 754 double; RFC 8259, section 6)."""


def canonical(value: object) -> bytes:
    """RFC 8785 bytes of a JSON value. Raises `ValueError` for what JSON cannot say."""
    # The common leaves are encoded here: rfc8785 is pure Python and its dispatch costs ten times the work.
    if value is True:
        return b"true"
    if value is False:
        return b"false"
    if value is None:
        return b"null"
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return json.dumps(value).encode()
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def join_object(members: list[tuple[str, bytes]]) -> bytes:
    """Canonical bytes of an object from its members' canonical bytes.

    Keys are sorted by UTF-16 code units as RFC 8785 asks; those of a registry are ASCII, where that is
    the order of code points too.
    """
    ordered = sorted(members, key=lambda member: member[0].encode("utf-16-be"))
    return b"{" + b",".join(canonical(key) + b":" + value for key, value in ordered) + b"}"


def content_hash(canonical_bytes: bytes) -> str:
    """The first 16 hex digits of SHA-256: the name of content."""
    return hashlib.sha256(canonical_bytes).hexdigest()[:16]
