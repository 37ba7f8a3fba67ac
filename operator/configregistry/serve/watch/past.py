"""What this process has published lately: a bounded window of decisions, so that streams can be resumed.

Each publication is one moment, numbered by this process. Only decisions are kept, and versions by their number:
history is freed as the registry forgets it, and a moment whose content is gone is skipped (what it changed is part
of the next one).

    publication     1       2       3       4       5
    a             rev 4           rev 5           rev 6       base of a: rev 4
    b                     rev 9           rev 10              base of b: rev 9

A client that has (a 5, b 9) was there at 3, and is shown the moments 4 and 5; one that has (a 5, b 10) from another
replica, where b was quicker, is shown 5 only: what it has of a registry is never taken back.

A registry that was deleted takes its decisions with it: their content is not to be had any more. What remains is the
uid that it had, by which a client that has seen a younger one can be told from one that has seen less.

It must never keep a version, a registry or a snapshot alive.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from itertools import islice, takewhile
from operator import itemgetter
from typing import Final, NamedTuple

from pyrsistent import pmap

from configregistry.kube.objects import Key
from configregistry.serve.view import MAX_CHAIN, Source
from configregistry.serve.wanted import Named
from configregistry.serve.watch.cursor import Link, Position, mark
from configregistry.state import Canary, Match, Registry, Snapshot, Version

MAX_DECISIONS: Final = 16_384
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_FORMERS: Final = 65_536
MAX_MOMENTS: Final = 256
"""How many moments of a registry and its fallbacks are shown one by one. Who has missed more goes straight to the
present: replaying them is work that every other client of this replica would wait for."""
MAX_LIVES: Final = 16
"""Former uids that are remembered of one name."""
_OVERHEAD: Final = 700
"""About what one decision takes beside its match rules."""
_MAX_NAMES: Final = 64
_when: Final = itemgetter(0)


class Moment(NamedTuple):
    """What was published at one time."""

    snapshot: Snapshot
    dropped: Collection[Key]
    """Registries whose candidate was taken back before the next revision could be published (see `serve.hydrate`)."""


class _Decision(NamedTuple):
    """A registry without its content."""

    uid: str
    revision: int
    fallback: str | None
    stable: Named | None
    canary: Named | None
    weight: int
    seed: str
    match: tuple[Match, ...]
    dropped: bool


class _Lost:
    """Stands for a decision that nobody remembers."""


_LOST: Final = _Lost()
_Then = _Decision | None | _Lost
"""None: the registry did not exist."""


class _Run:
    """The moments at which one registry changed, and what it was before the first of them."""

    __slots__ = ("base", "moments")

    def __init__(self, base: _Then) -> None:
        self.base = base
        self.moments: deque[tuple[int, _Decision | None]] = deque()

    def at(self, number: int) -> _Then:
        place = bisect_right(self.moments, number, key=_when)
        return self.moments[place - 1][1] if place else self.base

    def after(self, number: int) -> Iterator[tuple[int, _Decision | None]]:
        """Give the moments later than one, newest first."""
        return takewhile(lambda each: each[0] > number, reversed(self.moments))

    def seen(self, link: Link) -> int:
        """Give the last moment that a client has seen; 0: none of them.

        All of a run are of one uid and of revisions that only rise; the first may be that there was nothing.
        """
        moments = self.moments
        last = moments[-1][1] if moments else None
        if last is None or mark(last.uid) != link.uid:
            return 0
        first = int(moments[0][1] is None)
        place = bisect_right(moments, (link.revision, link.dropped), lo=first, key=_which)
        return moments[place - 1][0] if place > first else 0


def _which(moment: tuple[int, _Decision | None]) -> tuple[int, bool]:
    decision = moment[1]
    assert decision is not None
    return decision.revision, decision.dropped


class Past:
    """The window. Belongs to the event loop's thread."""

    def __init__(
        self,
        source: Source,
        *,
        max_decisions: int = MAX_DECISIONS,
        max_bytes: int = MAX_BYTES,
        max_moments: int = MAX_MOMENTS,
    ) -> None:
        self._source = source
        self._max_decisions = max_decisions
        self._max_bytes = max_bytes
        self._max_moments = max_moments
        self._number = 0
        self._bytes = 0
        self._order: deque[tuple[int, Key, int]] = deque()
        self._runs: dict[Key, _Run] = {}
        self._formers: OrderedDict[Key, tuple[tuple[bytes, int], ...]] = OrderedDict()
        self.dropped: set[Key] = set()
        """Of the present moment."""

    def add(self, before: Snapshot, now: Snapshot, changed: Collection[Key]) -> None:
        """Remember a publication."""
        self._number += 1
        for key in changed:
            old, new = before.registry(*key), now.registry(*key)
            was = _decision(old, dropped=key in self.dropped)
            self._drop(key, old, new)
            is_ = _decision(new, dropped=key in self.dropped)
            if was == is_:
                continue  # history alone
            run = self._runs.get(key)
            if run is None:
                run = self._runs[key] = _Run(was)
            if was is not None and (is_ is None or is_.uid != was.uid):
                self._bury(key, was.uid, was.revision)
                run.base = _LOST
                run.moments.clear()
            run.moments.append((self._number, is_))
            size = _size(is_)
            self._order.append((self._number, key, size))
            self._bytes += size
        while len(self._order) > self._max_decisions or self._bytes > self._max_bytes:
            self._forget()

    def former(self, key: Key, uid: bytes = b"") -> bytes:
        """Give the mark of another uid that was there before `uid`, if there was one while this process looked."""
        return next((each for each, _ in reversed(self._formers.get(key, ())) if each != uid), b"")

    def buried(self, key: Key, uid: bytes, revision: int = 0) -> bool:
        """Tell whether a registry was seen to go, at this revision or a later one. It may have come back since."""
        return any(each == uid and revision <= last for each, last in self._formers.get(key, ()))

    def present(self, now: Snapshot) -> Moment:
        """Give the present moment."""
        return Moment(now, self.dropped)

    def since(self, now: Snapshot, key: Key, position: Position) -> Iterator[Moment]:
        """Give what a registry and its chain were behind a position, oldest first, without the present.

        Each has the registries of the chain alone. Nothing, if they were more than `MAX_MOMENTS`.
        """
        starts: dict[str, int] = {}
        for link in position:
            run = self._runs.get((key[0], link.name))
            starts[link.name] = run.seen(link) if run is not None else 0
        for number in self._moments(now, key, starts)[:-1]:
            moment = self._rebuild(now, key, number, starts)
            if moment is not None:
                yield moment

    def _bury(self, key: Key, uid: str, revision: int) -> None:
        self._formers[key] = (*self._formers.pop(key, ())[1 - MAX_LIVES :], (mark(uid), revision))
        if len(self._formers) > MAX_FORMERS:
            self._formers.popitem(last=False)

    def _drop(self, key: Key, old: Registry | None, new: Registry | None) -> None:
        """Note whether a candidate was taken back under the revision that it was given at."""
        if old is None or new is None or (old.uid, old.revision) != (new.uid, new.revision):
            self.dropped.discard(key)
        elif old.canary is not None and new.canary is None:
            self.dropped.add(key)

    def _forget(self) -> None:
        number, key, size = self._order.popleft()
        self._bytes -= size
        run = self._runs.get(key)
        if run is not None and run.moments and run.moments[0][0] == number:
            run.base = run.moments.popleft()[1]
            if not run.moments:
                del self._runs[key]  # unchanged in all of the window: what it is at present

    def _moments(self, now: Snapshot, key: Key, starts: Mapping[str, int]) -> list[int]:
        """Give when something changed in any registry that the chain may have had since, in order; none if too many."""
        namespace, name = key
        names = [name, *starts]
        met: set[str] = set()
        moments: set[int] = set()
        while names and len(met) < _MAX_NAMES:
            each = names.pop()
            if each in met:
                continue
            met.add(each)
            current = now.registry(namespace, each)
            fallbacks = {current.fallback} if current is not None else set()
            run = self._runs.get((namespace, each))
            if run is not None:
                start = starts.get(each, 0)
                recent = list(islice(run.after(start), self._max_moments + 2))
                moments.update(map(_when, recent))
                if len(moments) > self._max_moments + 1:  # one of them is the present
                    return []
                decisions = [run.at(start), *(decision for _, decision in recent)]
                fallbacks.update(each.fallback for each in decisions if isinstance(each, _Decision))
            names += [each for each in fallbacks if each is not None]
        return sorted(moments)

    def _rebuild(self, now: Snapshot, key: Key, number: int, starts: Mapping[str, int]) -> Moment | None:
        """Give a chain as it was; None where some of it is not to be had."""
        namespace, name = key
        chain: dict[str, Registry] = {}
        dropped: set[Key] = set()
        following: str | None = name
        while following is not None and following not in chain and len(chain) < MAX_CHAIN:
            current = now.registry(namespace, following)
            run = self._runs.get((namespace, following))
            if run is None:
                decision: _Then = _decision(current, dropped=(namespace, following) in self.dropped)
            else:
                decision = run.at(max(number, starts.get(following, 0)))
            if isinstance(decision, _Lost):
                return None
            if decision is None:
                break
            registry = self._registry(namespace, current, decision)
            if registry is None:
                return None
            chain[following] = registry
            if decision.dropped:
                dropped.add((namespace, following))
            following = decision.fallback
        return Moment(Snapshot(0, pmap({namespace: pmap(chain)} if chain else {})), dropped)

    def _registry(self, namespace: str, current: Registry | None, decision: _Decision) -> Registry | None:
        """Give a registry with the versions that a decision names, as long as they are to be had."""
        if current is None or current.uid != decision.uid:
            return None
        stable = self._version(namespace, current, decision.stable)
        candidate = self._version(namespace, current, decision.canary)
        if (stable is None) != (decision.stable is None) or (candidate is None) != (decision.canary is None):
            return None
        canary = None
        if candidate is not None:
            canary = Canary(candidate, decision.weight, decision.seed, decision.match)
        return Registry(current.name, current.uid, decision.revision, stable, canary, decision.fallback)

    def _version(self, namespace: str, current: Registry, named: Named | None) -> Version | None:
        if named is None:
            return None
        version = self._source.history(namespace, current, named.number)
        return version if version is not None and version.hash == named.hash else None


def _decision(registry: Registry | None, *, dropped: bool) -> _Decision | None:
    if registry is None:
        return None
    stable, canary = registry.stable, registry.canary
    return _Decision(
        registry.uid,
        registry.revision,
        registry.fallback,
        None if stable is None else Named(stable.number, stable.hash),
        None if canary is None else Named(canary.version.number, canary.version.hash),
        0 if canary is None else canary.weight,
        "" if canary is None else canary.seed,
        () if canary is None else canary.match,
        dropped,
    )


def _size(decision: _Decision | None) -> int:
    if decision is None:
        return _OVERHEAD
    rules = sum(len(rule.attribute) + sum(map(len, rule.values)) + 200 for rule in decision.match)
    return _OVERHEAD + 4 * rules
