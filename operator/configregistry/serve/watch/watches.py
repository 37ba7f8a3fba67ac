"""The one writer of all streams: what a publication means for each of them.

As in etcd there are streams that follow and streams that have to catch up. Those that follow are in groups of equal
standing (`groups`); a publication looks at the groups alone whose registries it changed, works out once for each
group and variant what differs, encodes that once, and writes the same bytes to all. Streams that catch up do so each
at its own pace, from the window of the past (`past`), until they are where a group is.

    open ──> catching up ──(at the present)──> following ──(publication)──> following
                 │  ^                              │
                 └──┘ pending is taken             └──(more pending than LIMIT)──> cut off

A stream whose client has seen more than this replica follows too: where its client is, until the replica is there.

Per stream nothing is queued here: what it was not able to take is pending in its sink, LIMIT and one event at most.
It must never send a state that is older than one that its client has had, and never wait for a client. A sink that
raises where it promised not to costs its own stream, and no other a byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from time import perf_counter
from typing import Final, Protocol

import structlog

from configregistry.kube.objects import Key
from configregistry.serve.responses import Sink
from configregistry.serve.traces import Traces
from configregistry.serve.view import Consumer, Views
from configregistry.serve.watch import events
from configregistry.serve.watch.cursor import Position
from configregistry.serve.watch.groups import Group, Groups, progress
from configregistry.serve.watch.past import Past
from configregistry.serve.watch.standing import Standing, lag, recall, stand
from configregistry.serve.watch.turn import Turn, event
from configregistry.serve.watch.watcher import PATIENCE, Watcher, Who
from configregistry.state import Canary, Snapshot
from configregistry.telemetry import tracing

LIMIT: Final = 256 * 1024
"""Bytes pending over which nothing more is written to a stream."""
BEATS: Final = 15
"""Each stream hears something every so many beats; one is a second."""
_CHUNK: Final = 256
"""Streams written to between two looks at the clock."""
_SLOW: Final = "slow-reader"
_DEFECT: Final = "defect"

_log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Is told what happens to streams. `telemetry.metrics.Metrics` is one."""

    def watching(self, change: int) -> None:
        """One stream more (1) or less (-1)."""
        ...

    def delivered(self, seconds: float, streams: int) -> None:
        """So many streams have been written an event, so long after its publication."""
        ...

    def cut_off(self, reason: str) -> None:
        """A stream was ended because it could not be served on."""
        ...


class Watches:
    """All streams of this replica. All of it runs in the event loop's thread."""

    def __init__(
        self,
        views: Views,
        observer: Observer,
        *,
        past: Past | None = None,
        limit: int = LIMIT,
        staleness: Callable[[], float] = lambda: 0.0,
        traces: Traces | None = None,
    ) -> None:
        self._views = views
        self._observer = observer
        self._staleness = staleness
        """Seconds for which this replica may have missed changes; 0: what it knows is the present."""
        self._traces = Traces() if traces is None else traces
        self._past = past or Past(views.source)
        self._limit = limit
        self._encoded = events.Encoded()
        self._groups = Groups()
        self._beats: list[dict[Watcher, None]] = [{} for _ in range(BEATS)]
        self._beat = 0
        self._opened = 0
        self.streams = 0

    @property
    def ready(self) -> bool:
        """Whether it is known here what exists."""
        return self._views.source.ready

    @property
    def watched(self) -> Collection[Key]:
        """The registries that streams follow."""
        return self._groups.keys

    def snapshot(self) -> Snapshot:
        """Give the published state."""
        return self._views.source.snapshot()

    # What streams do.

    def open(self, sink: Sink, consumer: Consumer, keys: tuple[Key, ...], positions: Iterable[Position]) -> Watcher:
        """Begin a stream behind what its client has."""
        now = self._views.source.snapshot()
        standings = [recall(self._views, now, key[0], position) for key, position in zip(keys, positions, strict=True)]
        self._opened += 1
        watcher = Watcher(self, sink, Who(consumer), keys, standings, self._opened % BEATS)
        self._beats[watcher.slot][watcher] = None
        self.streams += 1
        self._observer.watching(1)
        try:
            if not self._catch_up(watcher) and watcher.group is not None:
                sink.write(watcher.group.progress)  # whatever there is to say later: the client sees that it is heard
        except BaseException:
            self.forget(watcher)
            raise
        return watcher

    def resumed(self, watcher: Watcher) -> None:
        """Go on, if there was more to send than could be taken."""
        watcher.pending = 0
        if watcher.standings is not None:
            self._safely(watcher)

    def drain(self, watcher: Watcher) -> None:
        """Say how far the stream is, and end it: the client goes on elsewhere."""
        group = watcher.group
        self._leave(watcher)
        self._end(watcher, group.progress if group is not None else b"")

    def forget(self, watcher: Watcher) -> None:
        """Keep nothing of it."""
        self._leave(watcher)
        if self._beats[watcher.slot].pop(watcher, watcher) is None:
            self.streams -= 1
            self._observer.watching(-1)

    # What happens.

    def published(self, before: Snapshot, now: Snapshot, changed: Collection[Key]) -> None:
        """Tell all streams that a publication concerns; subscribe this to the hydrator."""
        started, began = perf_counter(), tracing.now()
        if self._views.source.ready:  # before that, nobody can have been here
            self._past.add(before, now, changed)
        turn = Turn(self._views, self._past, now)
        for group in self._groups.concerned(changed):
            touched = [place for place, deps in enumerate(group.deps) if not deps.isdisjoint(changed)]
            try:
                self._advance(group, touched, turn, started)
            except Exception:  # noqa: BLE001 - a defect must not keep others from what they wait for
                _log.exception("streams could not be brought up to date", registries=_names(group.keys))
                for watcher in list(group.watchers):
                    self._cut(watcher, _DEFECT)
        for (trace, (namespace, name), revision), streams in turn.delivered.items():
            about: dict[str, tracing.Value] = {"namespace": namespace, "registry": name, "revision": revision}
            tracing.past("watch delivery", began, tracing.now(), trace, streams=streams, **about)

    def beat(self) -> None:
        """Do what is to be done for one stream in fifteen; to be called once a second."""
        self._beat = (self._beat + 1) % BEATS
        stale = self._staleness() > 0
        for watcher in list(self._beats[self._beat]):
            try:
                self._tend(watcher, stale=stale)
            except Exception:  # noqa: BLE001 - whoever beats must outlive each of them
                _log.exception("a stream could not be looked after", registries=_names(watcher.keys))
                self._cut(watcher, _DEFECT)

    async def run(self) -> None:
        """Beat for as long as this runs."""
        while True:
            await asyncio.sleep(1.0)
            self.beat()

    def _tend(self, watcher: Watcher, *, stale: bool) -> None:
        pending = watcher.sink.pending
        if watcher.standings is not None:
            if 0 < watcher.pending <= pending:
                self._cut(watcher, _SLOW)
            watcher.pending = pending
        elif watcher.group is not None:
            if not pending:
                watcher.sink.write(watcher.group.progress)
            if watcher.group.alone and watcher.patience:
                if stale:  # never to have heard of something says nothing then, nor right after
                    watcher.patience = PATIENCE
                    return
                watcher.patience -= 1
                if not watcher.patience:
                    standings = list(watcher.group.standings)
                    self._leave(watcher)
                    watcher.standings = standings
                    self._safely(watcher)

    # Following.

    def _advance(self, group: Group, touched: list[int], turn: Turn, started: float) -> None:
        """Bring a group to the present: those of it who are given the same stay together."""
        parts = _alike(group, [canary for place in touched for canary in turn.undecided(group.keys[place])])
        self._groups.detach(group)
        for part in parts:
            # Who could not be written to may have taken others of its connection along.
            watchers = [watcher for watcher in part if watcher.group is group]
            if not watchers:
                continue
            standings = list(group.standings)
            told: list[bytes] = []
            moved = False
            for place in touched:
                key, before = group.keys[place], standings[place]
                after = turn.standing(key, watchers[0].who)
                if after is None or lag(self._past, turn.now, key[0], before.position).behind:
                    continue
                trace = self._trace(key, before, after)
                data = event(self._encoded, turn.now, group.keys, standings, place, after, trace)
                if data:
                    told.append(data)
                    moved = False
                    if trace:
                        turn.delivered[trace, key, after.position[0].revision] += len(watchers)
                elif after.position != before.position:
                    moved = True
                standings[place] = after
            self._groups.join(
                watchers, group.keys, standings, turn.now, alone=group.alone and self._doubts(group, turn.now)
            )
            if moved:
                told.append(progress(group.keys, standings))
            if told:
                self._write(watchers, told[0] if len(told) == 1 else b"".join(told), started)

    def _write(self, watchers: list[Watcher], data: bytes, started: float) -> None:
        """Send the same to many. Whoever has too much pending is cut off."""
        limit = self._limit
        for first in range(0, len(watchers), _CHUNK):
            some = watchers[first : first + _CHUNK]
            for watcher in some:
                sink = watcher.sink
                try:
                    if sink.pending > limit:
                        self._cut(watcher, _SLOW)
                    elif watcher.group is not None:
                        sink.write(data)
                except Exception:  # noqa: BLE001 - the others have to get it
                    self._observer.cut_off(_DEFECT)
                    self._abandon(watcher)
            self._observer.delivered(perf_counter() - started, len(some))

    def _leave(self, watcher: Watcher) -> None:
        """Neither follow nor catch up any more."""
        watcher.standings = None
        self._groups.leave(watcher)

    def _cut(self, watcher: Watcher, reason: str) -> None:
        """End a stream that cannot be served on. Its client comes back to where it was."""
        self._leave(watcher)
        self._observer.cut_off(reason)
        self._end(watcher, events.cut_off(reason))

    def _end(self, watcher: Watcher, goodbye: bytes) -> None:
        """Say the last thing."""
        try:
            if goodbye:
                watcher.sink.write(goodbye)
            watcher.sink.end()
        except Exception:  # noqa: BLE001 - it ends either way
            self._abandon(watcher)

    def _abandon(self, watcher: Watcher) -> None:
        """Have done with a stream whose sink raised. Its client comes back to where it was."""
        _log.exception("a stream could not be written to", registries=_names(watcher.keys))
        self.forget(watcher)
        with suppress(Exception):
            watcher.sink.abort()

    # Catching up.

    def _safely(self, watcher: Watcher) -> None:
        try:
            self._catch_up(watcher)
        except Exception:  # noqa: BLE001 - a defect of one stream shall not end the others
            _log.exception("a stream could not be brought up to date", registries=_names(watcher.keys))
            self._cut(watcher, _DEFECT)

    def _catch_up(self, watcher: Watcher) -> bool:
        """Write what the client lacks, as much as it takes; let the stream follow if that was all.

        Tells whether anything was written.
        """
        standings, now = watcher.standings, self._views.source.snapshot()
        assert standings is not None
        wrote = moved = doubted = False
        for place, key in enumerate(watcher.keys):
            behind = lag(self._past, now, key[0], standings[place].position)
            doubted = doubted or behind.doubtful
            if behind.behind and (watcher.patience or not behind.doubtful):
                continue
            for after in self._steps(now, key, standings[place], watcher.who):
                if watcher.sink.pending > self._limit:
                    return True
                trace = self._trace(key, standings[place], after)
                data = event(self._encoded, now, watcher.keys, standings, place, after, trace)
                if data:
                    watcher.sink.write(data)
                    wrote, moved = True, False
                elif after.position != standings[place].position:
                    moved = True
                standings[place] = after
        watcher.standings = None
        watcher.pending = 0
        self._groups.join([watcher], watcher.keys, standings, now, alone=doubted and watcher.patience > 0)
        if wrote and moved and watcher.group is not None:
            watcher.sink.write(watcher.group.progress)
        return wrote

    def _steps(self, now: Snapshot, key: Key, before: Standing, who: Who) -> Iterator[Standing]:
        """Give where a client has to be brought, in order, the present last."""
        past = self._past.since(now, key, before.position) if before.gives and before.view is not None else ()
        for at in chain(past, (self._past.present(now),)):
            standing = stand(self._views, self._past, at, key, who)
            if standing is not None:
                yield standing

    def _trace(self, key: Key, before: Standing, after: Standing) -> str:
        """The trace of what brought a client from one to the other: of the first link that has another revision."""
        if not self._traces:
            return ""
        had = {link.name: link.revision for link in before.position}
        moved = (link for link in after.position if had.get(link.name) != link.revision)
        return next((found for link in moved if (found := self._traces.of((key[0], link.name), link.revision))), "")

    def _doubts(self, group: Group, now: Snapshot) -> bool:
        return any(
            lag(self._past, now, key[0], standing.position).doubtful
            for key, standing in zip(group.keys, group.standings, strict=True)
        )


def _names(keys: Iterable[Key]) -> list[str]:
    return ["/".join(key) for key in keys]


def _alike(group: Group, canaries: list[Canary]) -> list[list[Watcher]]:
    """Part a group into those who get the same of all candidates."""
    if not canaries:
        return [list(group.watchers)]
    parts: dict[tuple[bool, ...], list[Watcher]] = {}
    for watcher in group.watchers:
        gets = watcher.who.gets
        parts.setdefault(tuple([gets(canary) for canary in canaries]), []).append(watcher)
    return list(parts.values())
