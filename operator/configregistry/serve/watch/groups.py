"""Streams that are alike: those that watch the same registries and stand at the same place are one group.

What is sent to one of a group is sent to all, and a publication finds the groups that it concerns by the registries
that decide on what they are given.

Nothing here may decide what is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from configregistry.kube.objects import Key
from configregistry.serve.view import concerned
from configregistry.serve.watch import events
from configregistry.serve.watch.cursor import Position, encode
from configregistry.serve.watch.standing import Standing
from configregistry.serve.watch.watcher import Watcher
from configregistry.state import Snapshot


class Group:
    """Streams that are alike."""

    __slots__ = ("_progress", "alone", "deps", "keys", "standings", "watchers")

    def __init__(
        self, keys: tuple[Key, ...], standings: Sequence[Standing], deps: tuple[frozenset[Key], ...], *, alone: bool
    ) -> None:
        self.alone = alone
        """Whether nobody may join it: what its client has seen is doubted here."""
        self.keys = keys
        self.standings = tuple(standings)
        self.deps = deps
        """For each registry of the stream, all that decide on what is given of it."""
        self.watchers: dict[Watcher, None] = {}
        self._progress: bytes | None = None

    @property
    def positions(self) -> tuple[Position, ...]:
        """Where all of them stand."""
        return tuple(standing.position for standing in self.standings)

    @property
    def progress(self) -> bytes:
        """Give the event that says how far they are; the very same bytes each time."""
        if self._progress is None:
            self._progress = progress(self.keys, self.standings)
        return self._progress


def progress(keys: tuple[Key, ...], standings: Sequence[Standing]) -> bytes:
    """Say how far a stream is."""
    positions = [standing.position for standing in standings]
    return events.event("progress", events.progress(keys, positions), encode(keys, positions))


class Groups:
    """All groups, by where they stand and by what they depend on."""

    def __init__(self) -> None:
        self._standing: dict[tuple[tuple[Key, ...], tuple[Position, ...]], Group] = {}
        self._by_key: dict[Key, dict[Group, None]] = {}

    def __len__(self) -> int:
        return len(self._standing)

    @property
    def keys(self) -> Collection[Key]:
        """The registries that somebody follows, with those that decide on what is given of them."""
        return self._by_key.keys()

    def concerned(self, changed: Collection[Key]) -> list[Group]:
        """Give the groups that depend on one of these registries."""
        groups: dict[Group, None] = {}
        for key in changed:
            groups.update(self._by_key.get(key, {}))
        return list(groups)

    def join(
        self,
        watchers: Iterable[Watcher],
        keys: tuple[Key, ...],
        standings: list[Standing],
        now: Snapshot,
        *,
        alone: bool,
    ) -> None:
        """Have streams follow from where they are."""
        positions = tuple(standing.position for standing in standings)
        group = None if alone else self._standing.get((keys, positions))
        if group is None:
            deps = tuple(
                frozenset([*concerned(now, *key), *((key[0], link.name) for link in position)])
                for key, position in zip(keys, positions, strict=True)
            )
            group = Group(keys, standings, deps, alone=alone)
            if not alone:
                self._standing[keys, positions] = group
            for key in frozenset[Key]().union(*deps):
                self._by_key.setdefault(key, {})[group] = None
        for watcher in watchers:
            group.watchers[watcher] = None
            watcher.group = group

    def leave(self, watcher: Watcher) -> None:
        """Have a stream follow no more."""
        group, watcher.group = watcher.group, None
        if group is not None:
            group.watchers.pop(watcher, None)
            if not group.watchers:
                self.detach(group)

    def detach(self, group: Group) -> None:
        """Forget a group. It keeps its watchers, who are to join another one."""
        place = (group.keys, group.positions)
        if self._standing.get(place) is group:
            del self._standing[place]
        for key in frozenset[Key]().union(*group.deps):
            groups = self._by_key.get(key)
            if groups is not None:
                groups.pop(group, None)
                if not groups:
                    del self._by_key[key]
