"""Which registries were read here, and when: for the leader, who tells of those that nobody reads.

A read counts, an evaluation of a flag, a heartbeat, and a watch for as long as it is open; to look at versions or
at who is there does not. Whoever reads a registry depends on those that it falls back to, so they count as read too.

It costs a read one look into a set: a registry is marked once in REMARK seconds, so an age may be that much too
high. There are as many marks as there are registries, by UID: what a namesake was read is forgotten with it.
Answers that the wire gives again by itself were given by a route half a second before (`serve.wire.lasting`).

It must never refuse or delay a read, nor keep anything of a name that does not exist.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, NamedTuple

from configregistry.kube.objects import Key
from configregistry.model.reads import Read
from configregistry.serve.responses import Reply, Request
from configregistry.serve.routes import Endpoint, Place, Route
from configregistry.serve.view import concerned
from configregistry.state import Snapshot

REMARK: Final = 300.0
"""Seconds in which a registry is marked once, however often it is read."""
LATE: Final = 10.0
"""Seconds for which a mark is told in each exchange: five rounds, so that one that is lost loses nothing."""

_REGISTRY: Final = "/v1/namespaces/{namespace}/registries/{name}"
_FLAG: Final = "/ofrep/v1/evaluate/flags/{key*}"
"""Of a flag whose key names its registry."""
READS: Final = frozenset(
    {
        ("GET", _REGISTRY),
        ("GET", _REGISTRY + "/keys"),
        ("GET", _REGISTRY + "/keys/{key*}"),
        ("GET", _REGISTRY + "/watch"),
        ("GET", _REGISTRY + "/ofrep/v1/events"),
        ("POST", _REGISTRY + "/ofrep/v1/evaluate/flags"),
        ("POST", _REGISTRY + _FLAG),
        ("PUT", _REGISTRY + "/consumers/{consumer*}"),
        ("POST", _FLAG),
    }
)
"""The routes that read a registry; of a watch of several (`GET /v1/watch`) that is open `watched` tells."""


class _Mark(NamedTuple):
    uid: str
    at: float


class Usage:
    """Belongs to the event loop's thread. `watched`: each gives the registries that somebody waits for now."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        now: Callable[[], float],
        watched: Collection[Callable[[], Iterable[Key]]] = (),
    ) -> None:
        self._snapshot = snapshot
        self._now = now
        self._watched = watched
        self._marks: dict[Key, _Mark] = {}
        self._late: dict[Key, None] = {}
        """Marks that are told in each exchange, the oldest first."""
        self._fresh: set[Key] = set()
        """Registries that need no mark until `_ends`."""
        self._ends = now() + REMARK

    def __len__(self) -> int:
        return len(self._marks)

    def over(self, routes: Iterable[Route]) -> list[Route]:
        """Give the routes with those that read a registry observed."""
        return [
            route._replace(handle=self._on(route.handle, _named if route.pattern == _FLAG else _of_place))
            if (route.method, route.pattern) in READS
            else route
            for route in routes
        ]

    def mark(self, key: Key) -> None:
        """A registry is read."""
        if key not in self._fresh:
            self._mark(key)

    def reads(self, every: bool) -> list[Read]:
        """Give what was read, for an exchange: all of it, or what was marked of late."""
        now = self._now()
        if now >= self._ends:
            self._fresh.clear()
            self._ends = now + REMARK
            for watched in self._watched:
                for key in watched():
                    self.mark(key)
        for key in list(self._late):
            if now - self._marks[key].at <= LATE:
                break
            del self._late[key]
        marks = self._marks
        keys: Iterable[Key] = marks if every else self._late
        return [Read(*key, marks[key].uid, now - marks[key].at) for key in keys]

    def published(self, _before: Snapshot, now: Snapshot, changed: Collection[Key]) -> None:
        """Forget registries that are gone, or others by now; subscribe this to the hydrator."""
        for key in changed:
            mark = self._marks.get(key)
            if mark is not None:
                registry = now.registry(*key)
                if registry is None or registry.uid != mark.uid:
                    del self._marks[key]
                    self._late.pop(key, None)
                    self._fresh.discard(key)

    def _mark(self, key: Key) -> None:
        at, now = self._snapshot(), self._now()
        for each in concerned(at, *key):
            registry = at.registry(*each)
            if registry is not None:
                self._marks[each] = _Mark(registry.uid, now)
                self._late.pop(each, None)
                self._late[each] = None
                self._fresh.add(each)

    def _on(self, handle: Endpoint, key_of: Callable[[Place], Key]) -> Endpoint:
        fresh = self._fresh

        def observed(request: Request, place: Place) -> Reply | Awaitable[Reply]:
            reply = handle(request, place)  # whatever is refused was not read
            key = key_of(place)
            if key not in fresh:
                self._mark(key)
            return reply

        return observed


def _of_place(place: Place) -> Key:
    return place[:2]


def _named(place: Place) -> Key:
    namespace, _, rest = place.rest[0].partition("/")
    return namespace, rest.partition("/")[0]
