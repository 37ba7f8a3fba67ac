"""One registry's consumers, as this replica knows them: what it heard itself, and what the leader's list says.

What it heard itself is its own statement (`model.reports`): a heartbeat, or that the consumer is gone.
What others heard is taken from the list as it stands. Of the two about one consumer the younger
counts; where that is another replica's, this one's own is dropped: the consumer has moved.

Times here are moments of this process's monotonic clock, given by whoever calls.

It must never look at a clock, and never say of another replica's consumer anything but what the list says.
"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from configregistry.model.reports import KEEP_GONE, Gone, Observed, Reason, Report, keep_gone
from configregistry.serve.consumers.heartbeat import Heartbeat
from configregistry.serve.responses import Problem

MAX_CONSUMERS: Final = 10_000
"""Of one registry; so many tombstones as well."""
FULL_RETRY: Final = 30
"""Seconds after which one who was turned away should ask again."""

Counted = tuple[int, str]
"""Observed version and status; (0, "none") of one that has not said."""


class Entry:
    """One live consumer. Changed in place by each heartbeat."""

    __slots__ = (
        "due",
        "heard",
        "id",
        "labels",
        "observed",
        "observed_at",
        "owner",
        "registered",
        "replica",
        "round",
        "told",
        "ttl",
    )

    def __init__(self, name: str, registered: float) -> None:
        self.id = name
        self.registered = registered
        self.replica = ""
        """Who heard it last."""
        self.heard = registered
        self.owner = ""
        self.ttl = 0.0
        self.labels: dict[str, str] = {}
        self.observed: Observed | None = None
        self.observed_at = 0.0
        self.round = 0
        """The last of the leader's lists that had it."""
        self.due: float | None = None
        """When its TTL is looked at next; None: never yet."""
        self.told: bytes | None = None
        """What `encoded` made of it, until it changes."""


class _Ended(NamedTuple):
    """This replica's own statement that a consumer is gone."""

    at: float
    keep: float
    reason: Reason


class Listener(Protocol):
    """Who is told of each change, right behind it."""

    def joined(self, entry: Entry) -> None:
        """There is a consumer that was not there."""
        ...

    def changed(self, entry: Entry) -> None:
        """One says something new; a heartbeat alone is nothing new."""
        ...

    def left(self, name: str, reason: Reason) -> None:
        """One is gone."""
        ...

    def replaced(self, roster: Roster | None) -> None:
        """The registry is another one of the same name from now on, or gone."""
        ...


class Roster:
    """The consumers of one registry's life."""

    def __init__(self, namespace: str, name: str, uid: str, replica: str) -> None:
        self.namespace = namespace
        self.name = name
        self.uid = uid
        self.entries: dict[str, Entry] = {}
        self.counts: Counter[Counted] = Counter()
        """Of those that this replica heard itself."""
        self.changes = 0
        """Raised by whatever a reader could see, but by ages."""
        self.listeners: list[Listener] = []
        self._replica = replica
        self._ended: dict[str, _Ended] = {}

    # What clients of this replica do.

    def beat(self, name: str, said: Heartbeat, owner: str, now: float) -> tuple[Entry, bool]:
        """Take a heartbeat; gives the consumer, and whether it is new. Raises `Problem` 409, 429."""
        entry = self.entries.get(name)
        if entry is None:
            if len(self.entries) >= MAX_CONSUMERS:
                raise _full(self)
            entry = Entry(name, now)
        else:
            self._check(entry, owner)
        observed, observed_at = entry.observed, entry.observed_at
        if said.says_observed:
            observed, observed_at = said.observed, now
        self._ended.pop(name, None)
        report = Report(
            self.namespace, self.name, self.uid, name, self._replica, said.ttl, 0.0, now - entry.registered,
            owner, said.labels, observed, now - observed_at,
        )  # fmt: skip
        return entry, self._set(entry, report, now)

    def end(self, name: str, owner: str, now: float) -> None:
        """Unregister. One that is not known may be known to another replica, so that is stated too. Raises 409."""
        entry = self.entries.get(name)
        ttl = None
        if entry is not None:
            self._check(entry, owner)
            ttl = entry.ttl
            self._drop(entry, "Unregistered")
        self._state(name, _Ended(now, keep_gone(ttl), "Unregistered"))

    def expire(self, entry: Entry) -> None:
        """Its TTL is over. Of one that was heard here, that is stated: see `model.reports`."""
        own = entry.replica == self._replica
        self._drop(entry, "Expired")
        if own:
            self._state(entry.id, _Ended(entry.heard, entry.ttl + KEEP_GONE, "Expired"))

    # What the leader's list says.

    def take(self, report: Report, now: float, round_: int) -> Entry | None:
        """Take one of a list that was made at `now`; gives the consumer if it is another replica's."""
        if report.replica == self._replica:
            return None
        heard = now - report.age
        entry = self.entries.get(report.id)
        if entry is None:
            ended = self._ended.get(report.id)
            if ended is not None and ended.at >= heard:
                return None
            entry = Entry(report.id, heard)
        elif entry.replica == self._replica and entry.heard >= heard:
            return None
        self._set(entry, report, now)
        entry.round = round_
        return entry

    def take_gone(self, gone: Gone, now: float) -> None:
        """Take a statement of another replica that a consumer is gone."""
        entry = self.entries.get(gone.id)
        if gone.replica != self._replica and entry is not None and entry.heard <= now - gone.age:
            self._drop(entry, gone.reason)

    def taken(self, round_: int) -> None:
        """The list is over: whoever was known from a former one, and is not in this one, is gone."""
        for entry in list(self.entries.values()):
            if entry.replica != self._replica and entry.round != round_:
                self._drop(entry, "Unregistered")

    # What this replica states.

    def reports(self, now: float, *, own: bool) -> list[Report]:
        """Give what was heard here, or elsewhere."""
        return [
            Report(
                self.namespace, self.name, self.uid, entry.id, entry.replica, entry.ttl, now - entry.heard,
                now - entry.registered, entry.owner, entry.labels, entry.observed,
                None if entry.observed is None else now - entry.observed_at,
            )
            for entry in self.entries.values()
            if (entry.replica == self._replica) == own
        ]  # fmt: skip

    def gone(self, now: float) -> list[Gone]:
        """Give who is gone, and forget what need not be said any more."""
        for name, ended in list(self._ended.items()):
            if now - ended.at > ended.keep:
                del self._ended[name]
        return [
            Gone(self.namespace, self.name, self.uid, name, self._replica, now - ended.at, ended.keep, ended.reason)
            for name, ended in self._ended.items()
        ]

    # Inside.

    def _check(self, entry: Entry, owner: str) -> None:
        if entry.owner != owner:
            told = f"another owner holds the id {entry.id!r} until it unregisters or its TTL is over"
            raise Problem(HTTPStatus.CONFLICT, "DuplicateID", told, field="id")

    def _set(self, entry: Entry, report: Report, now: float) -> bool:
        """Make an entry say what a report says; `now` is when its ages were. Gives whether it is new."""
        new = self.entries.get(entry.id) is not entry
        if not new and entry.replica == self._replica:
            self._count(entry, -1)
        same = (
            not new and entry.ttl == report.ttl and entry.observed == report.observed and entry.labels == report.labels
        )
        entry.replica, entry.owner, entry.ttl = report.replica, report.owner, report.ttl
        entry.heard, entry.registered = now - report.age, now - report.registered_age
        entry.labels, entry.observed = report.labels, report.observed
        entry.observed_at = now - (report.observed_age or 0.0)
        if report.replica == self._replica:
            self._count(entry, 1)
        if not same:
            entry.told = None
            self.changes += 1
            self.entries[entry.id] = entry
            for listener in self.listeners:
                (listener.joined if new else listener.changed)(entry)
        return new

    def _drop(self, entry: Entry, reason: Reason) -> None:
        del self.entries[entry.id]
        if entry.replica == self._replica:
            self._count(entry, -1)
        self.changes += 1
        for listener in self.listeners:
            listener.left(entry.id, reason)

    def _state(self, name: str, ended: _Ended) -> None:
        self._ended.pop(name, None)
        if len(self._ended) >= MAX_CONSUMERS:
            del self._ended[next(iter(self._ended))]
        self._ended[name] = ended

    def _count(self, entry: Entry, change: int) -> None:
        observed = entry.observed
        counted = (0, "none") if observed is None else (observed.version, observed.status)
        self.counts[counted] += change
        if not self.counts[counted]:
            del self.counts[counted]


def _full(roster: Roster) -> Problem:
    told = f"{roster.namespace}/{roster.name} has {MAX_CONSUMERS} consumers, which is the limit"
    headers = [("retry-after", str(FULL_RETRY))]
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "TooManyConsumers", told, headers=headers)
