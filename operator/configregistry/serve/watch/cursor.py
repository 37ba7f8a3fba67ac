"""What a client has: the `id:` of each event, from which a stream goes on behind it, on any replica.

For each registry of the stream: every registry of its chain with its uid and revision, and which version and
variant of it was given. So a replica can tell whether it is behind, has been at that point, or what has to change
to get from there to here, without having met the client before. Opaque: clients may only give it back.

    base64url(msgpack([1, [[mark of namespace/name, [link, …]], …]]))       link: the fields of `Link`

The first link's name is left out, and what only has to be compared is a mark (the beginning of a hash), because a
cursor travels with each event and has to fit in a request header.

It must never be believed further than to choose what its own client is sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from configregistry.kube.objects import Key
from configregistry.serve.view import MAX_CHAIN

MAX_CURSOR: Final = 8 * 1024
"""Characters: a request's head may have 16 KiB."""
_FORMAT: Final = 1
_UID_MARK: Final = 6
_KEY_MARK: Final = 4
_Name = Annotated[str, msgspec.Meta(max_length=253)]
"""As long as a name in Kubernetes may be."""
_Mark = Annotated[bytes, msgspec.Meta(max_length=_UID_MARK)]


class Link(NamedTuple):
    """One registry of a chain, as a client knows it: nothing of it is longer than what this process makes."""

    name: _Name
    uid: _Mark
    """A mark; empty: it does not exist."""
    former: _Mark
    """A mark of the uid that its namesake had before, if the replica has seen that: older than this by any means."""
    revision: int
    version: int
    """What was given of it; 0: nothing."""
    hash: _Mark
    canary: bool
    dropped: bool
    """Whether the candidate of this revision was taken back before the next revision was here: later than without."""


Position = tuple[Link, ...]
"""Where a client is in one registry: the links of its chain, the registry itself first."""

UNKNOWN: Final[Position] = ()
"""The client has nothing, or nothing that could be read."""


@lru_cache(16_384)
def mark(text: str, size: int = _UID_MARK) -> bytes:
    """Give a few bytes that stand for a text; nothing stands for nothing."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:size] if text else b""


def encode(keys: Sequence[Key], positions: Sequence[Position]) -> bytes:
    """Give the cursor; empty (which resets a client's) where it would be too long to come back."""
    # Each event of a stream of a hundred registries has all of them: plain tuples, and the marks once for a stream.
    told = [
        (known, (("", *position[0][1:]), *position[1:]) if position else position)
        for known, position in zip(_marks(tuple(keys)), positions, strict=True)
    ]
    text = base64.urlsafe_b64encode(msgspec.msgpack.encode((_FORMAT, told))).rstrip(b"=")
    return text if len(text) <= MAX_CURSOR else b""


def decode(text: str | None, keys: Sequence[Key]) -> tuple[Position, ...]:
    """Give a client's position in each registry; `UNKNOWN` for those that the cursor does not tell of."""
    known = _read(text) if text else {}
    return tuple(_named(key[1], known.get(_mark(key), UNKNOWN)) for key in keys)


def _read(text: str) -> dict[bytes, Position]:
    if len(text) > MAX_CURSOR or not text.isascii():
        return {}
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return dict(_DECODER.decode(raw)[1])
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        return {}


def _mark(key: Key) -> bytes:
    return mark("/".join(key), _KEY_MARK)


@lru_cache(256)
def _marks(keys: tuple[Key, ...]) -> list[bytes]:
    return [_mark(key) for key in keys]


def _named(name: str, position: Position) -> Position:
    return (position[0]._replace(name=name), *position[1:]) if position else position


_Chain = Annotated[Position, msgspec.Meta(max_length=MAX_CHAIN)]
_DECODER: Final = msgspec.msgpack.Decoder(tuple[Literal[1], tuple[tuple[bytes, _Chain], ...]])
