"""What is worked out once for all streams that it holds for: where consumers stand, and the events of a change.

It must never know a stream.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from configregistry.kube.objects import Key
from configregistry.serve.view import Views, concerned
from configregistry.serve.watch import events
from configregistry.serve.watch.cursor import encode
from configregistry.serve.watch.past import Past
from configregistry.serve.watch.standing import Standing, changes, kind, stand
from configregistry.serve.watch.watcher import Who
from configregistry.state import Canary, Snapshot

_ALL: Final = 100


class Turn:
    """One publication: what is worked out for it once."""

    def __init__(self, views: Views, past: Past, now: Snapshot) -> None:
        self.now = now
        self._views = views
        self._past = past
        self._undecided: dict[Key, tuple[Canary, ...]] = {}
        self._standings: dict[tuple[Key, tuple[bool, ...]], Standing | None] = {}
        self.delivered: Counter[tuple[str, Key, int]] = Counter()
        """To how many streams what was written: of which trace, registry and revision."""

    def undecided(self, key: Key) -> tuple[Canary, ...]:
        """Give the candidates of a chain that some consumers get and some do not."""
        found = self._undecided.get(key)
        if found is None:
            met = (self.now.registry(*each) for each in concerned(self.now, *key))
            canaries = (registry.canary for registry in met if registry is not None)
            found = self._undecided[key] = tuple(
                canary for canary in canaries if canary is not None and (canary.match or 0 < canary.weight < _ALL)
            )
        return found

    def standing(self, key: Key, who: Who) -> Standing | None:
        """Give where a consumer, and whoever is given the same, stands now."""
        place = (key, tuple([who.gets(canary) for canary in self.undecided(key)]))
        if place not in self._standings:
            self._standings[place] = stand(self._views, self._past, self._past.present(self.now), key, who)
        return self._standings[place]


def event(
    encoded: events.Encoded,
    now: Snapshot,
    keys: tuple[Key, ...],
    standings: list[Standing],
    place: int,
    after: Standing,
    trace: str = "",
) -> bytes:
    """Give what brings a client from where it is to `after` in one of its registries; empty: nothing is new."""
    key, before = keys[place], standings[place]
    what = kind(before, after)
    if what is None or before.position == after.position:
        return b""

    def body() -> bytes:
        if what == "snapshot":
            return events.snapshot(key, after, trace)
        if what == "deleted":
            return events.deleted(key, before)
        found = changes(now, key[0], before, after)
        return events.delta(key, before, after, found, trace) if found is not None else b""

    def whole(data: bytes) -> bytes:
        positions = [standing.position for standing in standings]
        positions[place] = after.position
        return events.event(what, data, encode(keys, positions)) if data else b""

    known = (what, key, before.position if what != "snapshot" else (), after.position, trace)
    if len(keys) > 1:
        return whole(encoded.get(("data", *known), body))
    return encoded.get(known, lambda: whole(body()))
