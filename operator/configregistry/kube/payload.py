"""How content stands in a ControllerRevision's `data`, and how it is had back with proof. Pure.

    {"data": {"timeout.ms": 2500}}                   small: an object that a person can read
    {"encoding": "zstd", "data": "KLUv/SQ..."}       above 64 KiB: canonical JSON, packed, base64

Why compressed: a registry of 512 KiB and its ten old versions are kept in etcd and in every watch.
Why the five escapes: Go's encoder writes these characters so. Stored in any other way, content that
holds one of them is not what the API server reads back to itself when an annotation is patched, and
it refuses the patch: "data: field is immutable".

It must never give content whose hash is not the one that it was recorded under, and never
decompress more than content may be: a ControllerRevision may have been edited by anybody.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from io import BytesIO
from typing import Final

import msgspec
import zstandard

from configregistry.errors import ConfigRegistryError
from configregistry.model.canonical import canonical, content_hash
from configregistry.model.names import MAX_CONTENT_BYTES

SMALL: Final = 64 * 1024
"""Content up to so many bytes of canonical JSON is stored as it is."""
ZSTD: Final = "zstd"
_LEVEL: Final = 9
_MAX_WINDOW: Final = 8 * 1024 * 1024
_ESCAPES: Final = {character.encode(): rf"\u{ord(character):04x}".encode() for character in "<>&\u2028\u2029"}
_PLAIN: Final = {escape: character for character, escape in _ESCAPES.items()}
_TO_ESCAPE: Final = re.compile(b"|".join(_ESCAPES))
# Every escape is matched, so that the second half of an escaped backslash begins none.
_ESCAPED: Final = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)


class DamagedVersion(ConfigRegistryError, ValueError):  # noqa: N818 - says what it is
    """What a ControllerRevision holds is not what was recorded under its hash."""


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: msgspec.Raw
    encoding: str = ""


_DECODER: Final = msgspec.json.Decoder(_Wire)


def encode(canonical_json: bytes) -> bytes:
    """Give the `data` that holds this content."""
    if len(canonical_json) <= SMALL:
        escaped = _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], canonical_json)
        return b'{"data":' + escaped + b"}"
    packed = b64encode(zstandard.ZstdCompressor(level=_LEVEL).compress(canonical_json))
    return b'{"data":"' + packed + b'","encoding":"' + ZSTD.encode() + b'"}'


def decode(payload: bytes, expected_hash: str) -> bytes:
    """Give the content's canonical JSON. Raises `DamagedVersion`."""
    try:
        wire = _DECODER.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DamagedVersion(f"the version is not readable: {error}") from error
    if not wire.encoding:
        json = _ESCAPED.sub(lambda found: _PLAIN.get(found[0], found[0]), bytes(wire.data))
        if content_hash(json) != expected_hash:
            # The same JSON in other words, as a backup tool would restore it.
            json = _canonical(json)
    elif wire.encoding == ZSTD:
        json = _unpacked(bytes(wire.data))
    else:
        raise DamagedVersion(f"the version is encoded as {wire.encoding!r}; expected {ZSTD!r} or none")
    found = content_hash(json)
    if found != expected_hash:
        raise DamagedVersion(f"the content's hash is {found}; it was recorded as {expected_hash}")
    return json


def _canonical(json: bytes) -> bytes:
    try:
        return canonical(msgspec.json.decode(json))
    except (ValueError, RecursionError) as error:
        raise DamagedVersion(f"the version is not canonical JSON: {error}") from error


def _unpacked(text: bytes) -> bytes:
    try:
        packed = b64decode(msgspec.json.decode(text, type=str), validate=True)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        # Read as a stream: what the frame says of its own size is not believed.
        json = unpacker.stream_reader(BytesIO(packed)).read(MAX_CONTENT_BYTES + 1)
    except (binascii.Error, msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise DamagedVersion(f"the version cannot be decompressed: {error}") from error
    if len(json) > MAX_CONTENT_BYTES:
        raise DamagedVersion(f"the version holds more than {MAX_CONTENT_BYTES:,} bytes")
    return json
