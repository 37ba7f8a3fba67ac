"""What consumers report to serve replicas, and how the lists of several replicas become one.

Each replica states what it heard itself: the last heartbeat of a consumer, or that the consumer is
gone. The leader asks all replicas every 2 s, merges, and gives the merged list back, so that every
replica knows all consumers:

    gathering = Gathering()                         # the leader's, pure
    gathering.told(answer, asked)                   # the ReplicaReports of one replica, and when it was asked
    merged = gathering.merged(now)                  # who lives, who is gone; None before the first answer
    Exchange.of(merged, age)                        # POST to EXCHANGE_PATH; age: seconds since `merged` was made

Times are ages: seconds before the list that carries them was made. No clock of one machine is ever
compared with another's; what a call takes on its way is the error, so two statements about one
consumer by two replicas within that time may be taken in the wrong order. The next heartbeat mends it.

The merge is the minimum in a total order, by consumer: the youngest statement wins, of equal ages
the one that says gone. Hence it is commutative, associative and idempotent (a last-writer-wins
register: Shapiro et al., "A comprehensive study of convergent and commutative replicated data
types", 2011, 3.2.1). Two things follow from it that must not be "simplified":

- A missed TTL is a statement of the heartbeat's age, not an absence: else an older heartbeat with a
  longer TTL, still in another replica's list, would come back to life.
- Statements that say gone are forgotten by their own age alone, before the merge, never behind it.

Nothing here may ask a clock, nor know who is asked and how.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from configregistry.model.reads import Read

EXCHANGE_EVERY: Final = 2.0
"""Seconds between two rounds of the leader."""
EXCHANGE_PATH: Final = "/internal/v1/consumers"
NEWS_PATH: Final = EXCHANGE_PATH + "/news"
"""Where the leader waits between two rounds for an error that is new; it then asks at once."""
SILENT_AFTER: Final = 1.5 * EXCHANGE_EVERY
"""Seconds after which a replica has missed a round."""
KEEP_GONE: Final = 10.0
"""Seconds that it is remembered at least that a consumer is gone: five rounds."""
MAX_KEEP_GONE: Final = 600.0
"""And at most, behind an unregistration. A replica that was cut off from the leader for longer, with an
older heartbeat of the same consumer whose TTL is not over, brings it back until it is."""

Status = Literal["ok", "error"]
Reason = Literal["Unregistered", "Expired"]


class Observed(msgspec.Struct, frozen=True, gc=False):
    """What a consumer said of the configuration that it runs with."""

    version: int
    status: Status
    message: str = ""


class Place(NamedTuple):
    """Whom a statement is about. With the registry's UID: a namesake's consumers are not its own."""

    namespace: str
    registry: str
    uid: str
    id: str


class Report(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """The last heartbeat of one consumer, as one replica heard it. Times in seconds."""

    namespace: str
    registry: str
    uid: str
    """Of the registry."""
    id: str
    replica: str
    """Who heard it."""
    ttl: float
    age: float
    """Since that heartbeat."""
    registered_age: float
    owner: str = ""
    """Opaque: equal texts are the same owner."""
    labels: dict[str, str] = {}
    observed: Observed | None = None
    observed_age: float | None = None
    """Since the last heartbeat that said what was observed; at least `age`. None without `observed`."""

    @property
    def place(self) -> Place:
        """Whom this is about."""
        return Place(self.namespace, self.registry, self.uid, self.id)


class Gone(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A consumer is gone: every heartbeat that is as old as this or older counts no more."""

    namespace: str
    registry: str
    uid: str
    id: str
    replica: str
    """Who says so."""
    age: float
    """Since the unregistration; of a missed TTL since the last heartbeat, not since it was missed."""
    keep: float
    """The age at which this is forgotten."""
    reason: Reason = "Unregistered"

    @property
    def place(self) -> Place:
        """Whom this is about."""
        return Place(self.namespace, self.registry, self.uid, self.id)


class Merged(NamedTuple):
    """One statement for each consumer, in no particular order."""

    consumers: list[Report]
    """Who lives."""
    gone: list[Gone]


class ReplicaReports(msgspec.Struct, frozen=True):
    """A replica's answer to an exchange: all that it states at that moment."""

    replica: str
    """Random for each process, so that one that restarted is another."""
    consumers: list[Report]
    """Heartbeats that it received itself."""
    gone: list[Gone] = []
    heard: list[Report] = []
    """Only for a leader that has no list yet: the reports of other replicas in the list that this one was given."""
    news: int | None = None
    """Errors that were new to this replica, counted since its start; None: it cannot be waited for at NEWS_PATH."""
    reads: list[Read] | None = None
    """What was read here of late, or all of it for a leader that wants all; None: this replica does not know."""


class Counted(msgspec.Struct, frozen=True):
    """A replica's answer to who waits for news."""

    replica: str
    news: int


class Exchange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the leader gives to a replica."""

    merged: list[Report] | None = None
    """None: the leader is new and has no list; the replica keeps the one that it has."""
    gone: list[Gone] = []
    age: float = 0.0
    """Seconds since the leader made the list."""
    reads: bool = False
    """The leader wants to know of all that was read, not only of late. A new one always does."""

    @classmethod
    def of(cls, merged: Merged | None, age: float, *, reads: bool = False) -> Exchange:
        """Give the body for a merged list that was made so many seconds ago."""
        return cls(None, [], 0.0, reads) if merged is None else cls(merged.consumers, merged.gone, age, reads)


def keep_gone(ttl: float | None) -> float:
    """Give how long an unregistration is remembered: while older heartbeats may be about, within limits.

    None: their TTL is not known, because another replica heard them.
    """
    return MAX_KEEP_GONE if ttl is None else min(max(ttl, KEEP_GONE), MAX_KEEP_GONE)


def expired(report: Report, age: float) -> Gone:
    """Give what a report of that age says once its TTL is over."""
    return Gone(
        report.namespace,
        report.registry,
        report.uid,
        report.id,
        report.replica,
        age,
        report.ttl + KEEP_GONE,
        "Expired",
    )


def merge(lists: Iterable[tuple[Iterable[Report | Gone], float]]) -> Merged:
    """Merge lists of statements, each with the seconds that have passed since it was made. Linear."""
    best: dict[Place, Report | Gone] = {}
    for statements, passed in lists:
        for statement in statements:
            now = _present(statement, passed)
            if now is not None:
                place = now.place
                other = best.get(place)
                if other is None or now.age < other.age or (now.age == other.age and _order(now) < _order(other)):
                    best[place] = now
    consumers: list[Report] = []
    gone: list[Gone] = []
    for statement in best.values():
        if isinstance(statement, Report):
            consumers.append(statement)
        else:
            gone.append(statement)
    return Merged(consumers, gone)


def _present(statement: Report | Gone, passed: float) -> Report | Gone | None:
    """Give what a statement says so many seconds later; None when it is to be forgotten."""
    age = statement.age + passed
    if isinstance(statement, Report):
        if age <= statement.ttl:
            return _older(statement, passed) if passed else statement
        statement = expired(statement, age)
    elif passed:
        statement = msgspec.structs.replace(statement, age=age)
    return statement if statement.age <= statement.keep else None


def _older(report: Report, passed: float) -> Report:
    observed_age = report.observed_age
    # By place: three times as fast as structs.replace, and this is done for each consumer in each round.
    return Report(
        report.namespace,
        report.registry,
        report.uid,
        report.id,
        report.replica,
        report.ttl,
        report.age + passed,
        report.registered_age + passed,
        report.owner,
        report.labels,
        report.observed,
        None if observed_age is None else observed_age + passed,
    )


def _order(statement: Report | Gone) -> tuple[float, str, bytes]:
    """Order statements of equal age: gone first, then whose TTL is over first, so that time changes nothing.

    The rest only has to be the same for everybody.
    """
    return (
        statement.ttl if isinstance(statement, Report) else 0.0,
        statement.replica,
        msgspec.json.encode(statement, order="deterministic"),
    )


class _Stated(NamedTuple):
    """What one replica stated last."""

    at: float
    """When that was."""
    statements: list[Report | Gone]
    itself: bool
    """False: others say so, and it has not answered this leader yet."""


class Gathering:
    """What the leader knows: of each replica what it stated last.

    A replica's statement replaces its former one whole, so what it says of a consumer is never
    compared with what it said before, whatever the calls took. One that answers no more keeps its
    word until the TTLs in it are over, or another replica says something younger: a restart of a
    replica loses nobody. A new leader takes what others heard of such a replica for its word.
    """

    def __init__(self) -> None:
        self._stated: dict[str, _Stated] = {}

    def told(self, answer: ReplicaReports, now: float) -> None:
        """Take a replica's answer; `now` by a monotonic clock when the replica was asked.

        Not when it arrived: so ages are overstated by the way there, and the way there of the next round, by
        which the replica understates them, takes that off again.
        """
        self._stated[answer.replica] = _Stated(now, [*answer.consumers, *answer.gone], itself=True)
        others: dict[str, list[Report | Gone]] = {}
        for report in answer.heard:
            others.setdefault(report.replica, []).append(report)
        for replica, heard in others.items():
            former = self._stated.get(replica)
            if former is None:
                self._stated[replica] = _Stated(now, heard, itself=False)
            elif not former.itself:
                consumers, gone = merge([(former.statements, now - former.at), (heard, 0.0)])
                self._stated[replica] = _Stated(now, [*consumers, *gone], itself=False)

    def merged(self, now: float) -> Merged | None:
        """Give one statement for each consumer; None before any replica has answered."""
        if not self._stated:
            return None
        merged = merge((stated.statements, now - stated.at) for stated in self._stated.values())
        silent = {replica for replica, stated in self._stated.items() if now - stated.at > SILENT_AFTER}
        if silent:
            self._reduce(silent, merged)
        return merged

    def _reduce(self, silent: set[str], merged: Merged) -> None:
        """Have replicas that do not answer say no more than what still counts.

        Else what another replica said against it would have to be remembered for as long as the longest TTL.
        """
        counts = {(report.replica, report.place) for report in merged.consumers if report.replica in silent}
        counts.update((gone.replica, gone.place) for gone in merged.gone if gone.replica in silent)
        for replica in silent:
            stated = self._stated.pop(replica)
            left = [each for each in stated.statements if (replica, each.place) in counts]
            if left:
                self._stated[replica] = stated._replace(statements=left)
