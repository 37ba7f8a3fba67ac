"""Events as bytes: what Server-Sent Events look like on the wire, each encoded once for all who get it.

JSON never has a bare line break, so each event's data is one line.

It must never know a stream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

import msgspec

from configregistry.kube.objects import Key
from configregistry.serve.reads import data_body
from configregistry.serve.versions import change_body
from configregistry.serve.view import View
from configregistry.serve.watch.cursor import Position
from configregistry.serve.watch.standing import Standing, variant
from configregistry.state import Changes

MAX_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD: Final = 1024
"""About what one that is remembered takes beside its bytes and its name, rather too much than too little."""

_text = msgspec.json.encode


def event(name: str, data: bytes, cursor: bytes | None = None) -> bytes:
    """Give one event; without a cursor the client's own stays as it is."""
    place = b"" if cursor is None else b"id: %b\n" % cursor
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), place, data)


def snapshot(key: Key, standing: Standing, trace: str = "") -> bytes:
    """Give all that a consumer gets. `trace`: whose publication brought it, for those who go on with it."""
    assert standing.view is not None
    view: View = standing.view
    head = _text({**_registry(key), "version": view.given.version.number, **_about(standing, trace)})
    return b'%b,"data":%b}' % (head[:-1], data_body(view.data()))


def delta(key: Key, before: Standing, after: Standing, changes: Changes, trace: str = "") -> bytes:
    """Give what changed. `trace`: as of a snapshot."""
    ends = {"from": before.position[0].version, "to": after.position[0].version}
    head = _text({**_registry(key), **ends, **_about(after, trace)})
    return b'%b,"changes":[%b]}' % (head[:-1], b",".join(map(change_body, changes)))


def deleted(key: Key, before: Standing) -> bytes:
    """Say that there is nothing any more."""
    return _text({**_registry(key), "revision": before.position[0].revision})


def progress(keys: tuple[Key, ...], positions: list[Position]) -> bytes:
    """Say how far a stream is; 0: there is nothing."""
    revisions = [position[0].revision if position else 0 for position in positions]
    if len(keys) == 1:
        return _text({"revision": revisions[0]})
    return _text({"revisions": {"/".join(key): revision for key, revision in zip(keys, revisions, strict=True)}})


def cut_off(reason: str) -> bytes:
    """Say why a stream ends before its time."""
    return event("cut-off", _text({"reason": reason}))


def _registry(key: Key) -> dict[str, Any]:
    return {"namespace": key[0], "registry": key[1]}


def _about(standing: Standing, trace: str) -> dict[str, Any]:
    assert standing.view is not None
    carried = {"traceparent": trace} if trace else {}
    return {
        "hash": standing.view.given.version.hash,
        "variant": variant(standing.position[0]),
        "revision": standing.position[0].revision,
        **carried,
    }


class Encoded:
    """What was encoded lately, bounded by bytes: many streams open, or follow, in the same state.

    The names count as well: clients choose them in part, since a position may be one that a cursor told of.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._known: OrderedDict[Hashable, tuple[bytes, int]] = OrderedDict()

    def get(self, place: Hashable, make: Callable[[], bytes]) -> bytes:
        """Give what is known under this name, or make it."""
        found = self._known.get(place)
        if found is not None:
            self._known.move_to_end(place)
            return found[0]
        data = make()
        if not data:
            return data
        size = len(data) + _OVERHEAD + _weight(place)
        if size <= self._max_bytes:
            self._known[place] = data, size
            self.size += size
        while self.size > self._max_bytes:
            self.size -= self._known.popitem(last=False)[1][1]
        return data


def _weight(part: Hashable) -> int:
    """Give about the bytes of a name made of tuples and texts: 64 for each object, and what it holds."""
    if isinstance(part, tuple):
        return 64 + sum(8 + _weight(each) for each in part)
    return 64 + len(part) if isinstance(part, str | bytes) else 32
