"""All consumers that this replica knows: rosters by registry, their TTLs, the exchange with the leader.

One timer for all TTLs, over a heap that has each consumer once: a heartbeat moves nothing, what is on
top is only looked at, and comes again if its TTL is not over (as timers of idle connections are kept:
Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987, scheme 2 with lazy renewal). Every
access looks at it first, so nobody sees a consumer whose TTL is over, timer or not.

All of it belongs to the event loop's thread, but `counts`.

It must never wait, nor keep the consumers of a registry that is gone.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import count
from typing import Final

from configregistry.clock import Clock
from configregistry.kube.objects import Key
from configregistry.model.reads import Read
from configregistry.model.reports import Exchange, Gone, ReplicaReports, Report
from configregistry.serve.consumers.heartbeat import Heartbeat
from configregistry.serve.consumers.news import News
from configregistry.serve.consumers.roster import Entry, Roster
from configregistry.serve.waits import Later, Timer
from configregistry.state import Registry, Snapshot

TICK: Final = 0.1
"""Seconds between two looks of the timer at least: many TTLs end together."""
STALE_ITEMS: Final = 1024
"""So many items of the heap may be about nobody any more, beside half of them."""


class Consumers:
    """What this process knows of consumers. `replica` names it to the leader: random, so a restart is another.

    `reads` gives what was read here (`serve.usage`): all of it, or of late. None: nobody here knows.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        clock: Clock,
        *,
        replica: str | None = None,
        later: Later | None = None,
        reads: Callable[[bool], list[Read]] | None = None,
    ) -> None:
        self.replica = replica or secrets.token_hex(8)
        self.now = clock.monotonic
        self.later = later or (lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        self.news = News(self.later)
        self._reads = reads
        self._snapshot = snapshot
        self._rosters: dict[Key, Roster] = {}
        self._heap: list[tuple[float, int, Roster, Entry]] = []
        self._most_items = STALE_ITEMS
        self._number = count()
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._made: float | None = None
        """When the leader made the last list."""
        self.round = 0

    # For clients of this replica.

    def roster(self, namespace: str, registry: Registry) -> Roster:
        """Give the consumers of a registry that exists, without those whose TTL is over."""
        self.settle()
        key = (namespace, registry.name)
        roster = self._rosters.get(key)
        if roster is None or roster.uid != registry.uid:
            roster = self._renew(key, registry.uid)
        return roster

    def beat(self, roster: Roster, name: str, said: Heartbeat, owner: str) -> tuple[Entry, bool]:
        """Take a heartbeat; gives the consumer, and whether it is new. Raises `Problem` 409, 429."""
        known = roster.entries.get(name)
        before = known.observed if known is not None else None
        entry, new = roster.beat(name, said, owner, self.now())
        self.news.heard(before, entry.observed)
        self._watch(roster, entry)
        self._arm()
        return entry, new

    @property
    def list_age(self) -> float | None:
        """Give the age of what is known of other replicas' consumers, in seconds. None: nothing was told yet."""
        return None if self._made is None else self.now() - self._made

    # For the leader.

    def exchange(self, given: Exchange) -> ReplicaReports:
        """Take the leader's list and give what this replica states."""
        taking = self.taking(given.age) if given.merged is not None else None
        if taking is not None and given.merged is not None:
            taking.take(given.merged)
            taking.take_gone(given.gone)
            taking.end()
        return self.stated(heard=given.merged is None, reads=given.reads)

    async def newer(self, known: int, seconds: float) -> bool:
        """Wait for an error that is new beyond those that the leader knows of; gives whether there is one."""
        return await self.news.after(known, seconds) != known

    def taking(self, age: float) -> Taking:
        """Begin to take a list that the leader made so many seconds ago. A later one puts an end to it."""
        self.settle()
        self.round += 1
        return Taking(self, self.now() - age, self.round)

    def stated(self, *, heard: bool, reads: bool = False) -> ReplicaReports:
        """Give what this replica states; with `heard` also what it knows from the last list.

        With `reads`, or for a leader that has no list, all that was read.
        """
        self.settle()
        now = self.now()
        rosters = self._rosters.values()
        return ReplicaReports(
            self.replica,
            [report for roster in rosters for report in roster.reports(now, own=True)],
            [gone for roster in rosters for gone in roster.gone(now)],
            [report for roster in rosters for report in roster.reports(now, own=False)] if heard else [],
            self.news.count,
            None if self._reads is None else self._reads(heard or reads),
        )

    # For whoever else.

    def published(self, _before: Snapshot, now: Snapshot, changed: Collection[Key]) -> None:
        """Drop the consumers of registries that are gone, or others by now; subscribe this to the hydrator."""
        for key in changed:
            roster, registry = self._rosters.get(key), now.registry(*key)
            if roster is not None and (registry is None or registry.uid != roster.uid):
                self._renew(key, registry.uid if registry is not None else None)

    def counts(self) -> Iterator[tuple[str, str, int, str, int]]:
        """Give namespace, registry, observed version and status, and how many; of those that were heard here.

        Safe in any thread.
        """
        for (namespace, name), roster in list(self._rosters.items()):
            for (version, status), number in list(roster.counts.items()):
                yield namespace, name, version, status, number

    def settle(self) -> None:
        """Drop whose TTL is over."""
        now = self.now()
        while self._heap and self._heap[0][0] < now:
            due, _, roster, entry = heapq.heappop(self._heap)
            if roster.entries.get(entry.id) is not entry or entry.due != due:
                continue
            entry.due = None
            if entry.heard + entry.ttl < now:
                roster.expire(entry)
            else:
                self._watch(roster, entry)

    # Inside.

    def _known(self, namespace: str, name: str, uid: str) -> Roster | None:
        """Give the roster of a registry that a list names; None if that is not the one that is here."""
        roster = self._rosters.get((namespace, name))
        if roster is not None and roster.uid == uid:
            return roster
        registry = self._snapshot().registry(namespace, name)
        return self._renew((namespace, name), uid) if registry is not None and registry.uid == uid else None

    def _renew(self, key: Key, uid: str | None) -> Roster:
        former = self._rosters.pop(key, None)
        roster = Roster(*key, uid or "", self.replica)
        if uid is not None:
            self._rosters[key] = roster
        if former is not None:
            # What the heap, or a list that is being taken, still knows of the former one is about nobody.
            roster.listeners, former.listeners = former.listeners, []
            former.entries = {}
            for listener in list(roster.listeners):
                listener.replaced(roster if uid is not None else None)
        return roster

    def _watch(self, roster: Roster, entry: Entry) -> None:
        """See that a consumer is looked at when its TTL is over, or before."""
        due = entry.heard + entry.ttl
        if entry.due is not None and entry.due <= due:
            return
        entry.due = due
        heapq.heappush(self._heap, (due, next(self._number), roster, entry))
        if len(self._heap) > self._most_items:
            self._heap = [item for item in self._heap if item[3].due == item[0] and _there(item)]
            heapq.heapify(self._heap)
            self._most_items = 2 * len(self._heap) + STALE_ITEMS

    def _arm(self) -> None:
        """Have the timer look when the first TTL may be over."""
        if not self._heap:
            return
        due = self._heap[0][0]
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.later(max(due - self.now(), TICK), self._look)

    def _look(self) -> None:
        self._timer = None
        self.settle()
        self._arm()


def _there(item: tuple[float, int, Roster, Entry]) -> bool:
    return item[2].entries.get(item[3].id) is item[3]


class Taking:
    """One of the leader's lists, taken in parts, so that reads go on in between."""

    def __init__(self, consumers: Consumers, made: float, round_: int) -> None:
        self._all = consumers
        self._made = made
        self._round = round_
        self._rosters: dict[tuple[str, str, str], Roster | None] = {}

    def take(self, reports: Iterable[Report]) -> None:
        """Take some of the list."""
        if self._over():
            return
        passed = self._all.now() - self._made
        for report in reports:
            if report.age + passed > report.ttl:
                continue  # over by now: it would come only to go
            roster = self._roster(report)
            entry = roster.take(report, self._made, self._round) if roster is not None else None
            if entry is not None and roster is not None:
                self._all._watch(roster, entry)  # noqa: SLF001 - two halves of one thing

    def take_gone(self, statements: Iterable[Gone]) -> None:
        """Take some of those who are gone."""
        if self._over():
            return
        for gone in statements:
            roster = self._roster(gone)
            if roster is not None:
                roster.take_gone(gone, self._made)

    def end(self) -> None:
        """All has been taken."""
        if self._over():
            return
        self._all._made = self._made  # noqa: SLF001
        self._all.settle()
        for roster in self._all._rosters.values():  # noqa: SLF001
            roster.taken(self._round)
        self._all._arm()  # noqa: SLF001

    def _over(self) -> bool:
        return self._all.round != self._round

    def _roster(self, statement: Report | Gone) -> Roster | None:
        place = (statement.namespace, statement.registry, statement.uid)
        if place not in self._rosters:
            self._rosters[place] = self._all._known(*place)  # noqa: SLF001
        return self._rosters[place]
