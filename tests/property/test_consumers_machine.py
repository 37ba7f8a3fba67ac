"""Reports of consumers in several replicas, merged by leaders that come and go.

First the merge by itself: the algebra that everything else rests on. Then a machine in virtual time:
replicas that restart, consumers that move between them, a leader that asks every 2 s and does not
always reach everybody. The model is one table of what each consumer did last. After two rounds in
which nothing else happens, every replica lists exactly who lives; and from then on a replica, or the
leader, or both may restart, and still nobody is lost.

Each process has a clock of its own origin, so anything but an age that crosses would be seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from configregistry.model.reports import (
    Exchange,
    Gathering,
    Gone,
    Merged,
    Observed,
    Reason,
    ReplicaReports,
    Report,
    keep_gone,
    merge,
)
from configregistry.serve.consumers import Consumers
from configregistry.serve.consumers.heartbeat import Heartbeat
from configregistry.serve.consumers.roster import Entry, Roster
from configregistry.state import Registry

IDS = ("a", "b")
# Few and exact, so that equal ages are common.
QUARTERS = st.integers(0, 8).map(lambda quarters: quarters / 4)
STEP = 0.25
"""Seconds between two things that consumers do."""
TRANSIT = STEP / 16
"""Seconds of each way of a call."""


# The merge.

reports = st.builds(
    Report,
    st.just("shop"),
    st.just("checkout"),
    st.sampled_from(["u1", "u2"]),
    st.sampled_from(IDS),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from([1.0, 2.0, 12.0]),
    QUARTERS,
    QUARTERS,
    st.sampled_from(["", "x"]),
)
gones = st.builds(
    Gone,
    st.just("shop"),
    st.just("checkout"),
    st.sampled_from(["u1", "u2"]),
    st.sampled_from(IDS),
    st.sampled_from(["r1", "r2"]),
    QUARTERS,
    st.sampled_from([1.0, 12.0]),
    st.sampled_from(["Unregistered", "Expired"]),
)
lists = st.lists(reports | gones, max_size=6)


def joined(*merged: Merged) -> Merged:
    return merge(([*each.consumers, *each.gone], 0.0) for each in merged)


def sets(merged: Merged) -> tuple[list[str], list[str]]:
    return sorted(map(repr, merged.consumers)), sorted(map(repr, merged.gone))


def only(statements: list[Report | Gone], passed: float = 0.0) -> Merged:
    return merge([(statements, passed)])


@given(lists, lists, lists)
def test_the_merge_is_commutative_associative_and_idempotent(
    one: list[Report | Gone], two: list[Report | Gone], three: list[Report | Gone]
) -> None:
    a, b, c = only(one), only(two), only(three)
    assert sets(joined(a, b)) == sets(joined(b, a))
    assert sets(joined(a, joined(b, c))) == sets(joined(joined(a, b), c))
    assert sets(joined(a, a)) == sets(a)
    assert sets(joined(a, b, c)) == sets(only([*one, *two, *three]))


@given(lists, lists, QUARTERS)
def test_time_may_pass_before_or_behind_the_merge(
    one: list[Report | Gone], two: list[Report | Gone], passed: float
) -> None:
    """But for statements that are forgotten meanwhile: they have done their work then."""
    kept = [[each for each in each_list if isinstance(each, Report)] for each_list in (one, two)]
    early = merge([([*merged.consumers, *merged.gone], passed) for merged in [merge((each, 0.0) for each in kept)]])
    late = merge((each, passed) for each in kept)
    assert {each.place for each in early.consumers} == {each.place for each in late.consumers}


@given(lists)
def test_the_youngest_statement_wins(statements: list[Report | Gone]) -> None:
    merged = only(statements)
    counting = [each for each in statements if isinstance(each, Report) or each.age <= each.keep]
    youngest: dict[Any, float] = {}
    for each in counting:
        youngest[each.place] = min(each.age, youngest.get(each.place, each.age))
    alive = {each.place: each for each in merged.consumers}
    assert len(alive) == len(merged.consumers)
    for place, age in youngest.items():
        first = [each for each in counting if each.place == place and each.age == age]
        lives = all(isinstance(each, Report) and each.age <= each.ttl for each in first)
        assert (place in alive) == lives
        if lives:
            assert alive[place] in first


# The machine.


class Clock:
    """The machine's time as one process sees it."""

    def __init__(self, machine: Machine, origin: float) -> None:
        self._machine = machine
        self._origin = origin

    def at(self, moment: float) -> float:
        return moment + self._origin

    def monotonic(self) -> float:
        return self.at(self._machine.now)

    def wall(self) -> Any:
        raise AssertionError("no wall clocks")


class Timer:
    def cancel(self) -> None:
        pass


class Snapshot:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def registry(self, _namespace: str, name: str) -> Registry | None:
        return self._machine.registry if name == "checkout" else None


class Told:
    """What a stream of one replica has been told: it must always come to what the roster has."""

    def __init__(self, roster: Roster) -> None:
        self.ids = set(roster.entries)
        roster.listeners.append(self)

    def joined(self, entry: Entry) -> None:
        assert entry.id not in self.ids
        self.ids.add(entry.id)

    def changed(self, entry: Entry) -> None:
        assert entry.id in self.ids

    def left(self, name: str, _reason: Reason) -> None:
        self.ids.remove(name)

    def replaced(self, roster: Roster | None) -> None:
        assert roster is not None
        self.ids = set(roster.entries)


class Replica:
    def __init__(self, machine: Machine) -> None:
        machine.processes += 1
        self.clock = Clock(machine, 1000.0 * machine.processes)
        self.machine = machine
        self.consumers = Consumers(
            lambda: Snapshot(machine),  # type: ignore[arg-type, return-value]
            self.clock,
            replica=f"replica-{machine.processes}",
            later=lambda _seconds, _call: Timer(),
        )
        self.told = Told(self.roster)
        self.missed = 0

    @property
    def roster(self) -> Roster:
        return self.consumers.roster("shop", self.machine.registry)


class Did(NamedTuple):
    """What a consumer did last."""

    at: float
    ttl: float
    """0: it unregistered."""
    version: int
    replica: Replica


class Machine(RuleBasedStateMachine):
    now = 0.0

    @initialize(replicas=st.integers(1, 3))
    def start(self, replicas: int) -> None:
        self.processes = 0
        self.lives = 0
        self.did: dict[str, Did] = {}
        self.ends: dict[str, float] = {}
        """The latest moment at which anything that a consumer ever said is over."""
        self.doubtful: dict[str, float] = {}
        """Whose unregistration may have been lost with a replica, and until when it may be listed."""
        self.recreate()
        self.replicas = [Replica(self) for _ in range(replicas)]
        self.elect()
        self.next_round = 2.0

    # What consumers do.

    @rule(
        id_=st.sampled_from(IDS),
        index=st.integers(0, 2),
        ttl=st.sampled_from([1.0, 4.0, 60.0]),
        version=st.integers(1, 2),
    )
    def beat(self, id_: str, index: int, ttl: float, version: int) -> None:
        self.pass_(STEP)
        self.beats(id_, self.replicas[index % len(self.replicas)], ttl, version)

    def beats(self, id_: str, replica: Replica, ttl: float, version: int) -> None:
        observed = Observed(version, "ok")
        said = Heartbeat(ttl, {"of": id_}, observed, says_observed=True, instance="")
        replica.consumers.beat(replica.roster, id_, said, "owner")
        self.did[id_] = Did(self.now, ttl, version, replica)
        self.ends[id_] = max(self.now + ttl, self.ends.get(id_, 0.0))
        self.doubtful.pop(id_, None)

    @rule(id_=st.sampled_from(IDS), index=st.integers(0, 2))
    def end(self, id_: str, index: int) -> None:
        self.pass_(STEP)
        replica = self.replicas[index % len(self.replicas)]
        replica.roster.end(id_, "owner", replica.clock.monotonic())
        self.did[id_] = Did(self.now, 0.0, 0, replica)

    # What the cluster does.

    @rule(seconds=st.sampled_from([0.25, 2.0, 5.0, 20.0]), missing=st.lists(st.booleans(), min_size=3, max_size=3))
    def wait(self, seconds: float, missing: list[bool]) -> None:
        self.pass_(seconds, missing)

    @rule(index=st.integers(0, 2), to=st.integers(0, 2))
    def restart(self, index: int, to: int) -> None:
        """A replica loses everything; those whose last word it had say it again, as clients do."""
        self.replicas[index % len(self.replicas)] = Replica(self)
        self.pass_(STEP)
        for id_, did in list(self.did.items()):
            if did.replica in self.replicas:
                continue
            if did.ttl and did.at + did.ttl >= self.now:
                self.beats(id_, self.replicas[to % len(self.replicas)], did.ttl, did.version)
            else:
                # Nobody may have heard that it is gone, or that its last TTL was a short one.
                self.doubtful[id_] = self.ends.get(id_, 0.0)

    @rule()
    def elect(self) -> None:
        self.gathering = Gathering()
        self.processes += 1
        self.leader = Clock(self, -77.0 * self.processes)
        self.merged: tuple[float, Merged | None] = (0.0, None)

    @rule()
    def recreate(self) -> None:
        """The registry is deleted and made again: nobody of the former one's counts."""
        self.lives += 1
        former = self.__dict__.get("registry")
        self.registry = Registry("checkout", f"uid-{self.lives}")
        self.did.clear()
        self.doubtful.clear()
        if former is not None:
            for replica in self.replicas:
                snapshot: Any = Snapshot(self)
                replica.consumers.published(snapshot, snapshot, [("shop", "checkout")])

    # What must hold.

    @rule(lost=st.lists(st.booleans(), min_size=3, max_size=3), leader=st.booleans())
    def agree(self, lost: list[bool], leader: bool) -> None:
        """After two rounds all agree; and then a restart loses nobody, as long as somebody has seen the list."""
        for _ in range(2):
            self.now += STEP
            self.round()
        self.check()
        before = list(self.replicas)
        for index in range(len(before)):
            # The one that stays is needed only where the leader forgets too.
            if lost[index] and not (leader and index == 0):
                self.replicas[index] = Replica(self)
        if leader:
            self.elect()
        for _ in range(2):
            self.now += STEP
            self.round()
        self.check()

    @invariant()
    def streams_were_told(self) -> None:
        for replica in self.replicas:
            assert replica.told.ids == set(replica.roster.entries)

    @invariant()
    def counts_are_of_who_is_there(self) -> None:
        for replica in self.replicas:
            own = [entry for entry in replica.roster.entries.values() if entry.replica == replica.consumers.replica]
            assert sum(number for *_, number in replica.consumers.counts()) == len(own)

    @invariant()
    def who_was_told_knows_at_once(self) -> None:
        for id_, did in self.did.items():
            if did.replica in self.replicas:
                entry = did.replica.roster.entries.get(id_)
                assert (entry is not None) == bool(did.ttl and did.at + did.ttl >= self.now), id_
                assert entry is None or (entry.replica, entry.heard) == (
                    did.replica.consumers.replica,
                    did.replica.clock.at(did.at),
                )

    def check(self) -> None:
        alive = {id_: did for id_, did in self.did.items() if did.ttl and did.at + did.ttl >= self.now}
        doubtful = {id_ for id_, until in self.doubtful.items() if until >= self.now}
        doubtful |= {id_ for id_, did in self.did.items() if abs(did.at + did.ttl - self.now) < STEP}
        for replica in self.replicas:
            listed = replica.roster.entries
            assert set(listed) - doubtful == set(alive) - doubtful, (self.now, replica.consumers.replica)
            for id_ in set(alive) - doubtful:
                entry, did = listed[id_], alive[id_]
                assert (entry.observed, entry.labels, entry.ttl) == (
                    Observed(did.version, "ok"),
                    {"of": id_},
                    did.ttl,
                )
                assert abs(entry.heard - replica.clock.at(did.at)) < STEP / 2

    def pass_(self, seconds: float, missing: list[bool] | None = None) -> None:
        """Let time pass, with a round every 2 s; nobody is missed more than twice in a row."""
        until = self.now + seconds
        while self.next_round <= until:
            self.now = max(self.now, self.next_round)
            self.round(missing)
            self.next_round += 2.0
        self.now = max(self.now, until)

    def round(self, missing: list[bool] | None = None) -> None:
        for index, replica in enumerate(self.replicas):
            if missing is not None and missing[index] and replica.missed < 2:
                replica.missed += 1
                continue
            replica.missed = 0
            made, merged = self.merged
            asked = self.leader.monotonic()
            given = Exchange.of(merged, asked - made)
            self.now += TRANSIT
            answer = replica.consumers.exchange(given)
            self.now += TRANSIT
            self.gathering.told(answer, asked)
        self.merged = (self.leader.monotonic(), self.gathering.merged(self.leader.monotonic()))


TestConsumers = Machine.TestCase
TestConsumers.settings = settings(max_examples=300, stateful_step_count=40)


def test_a_replica_restart_while_the_leader_stays() -> None:
    """The machine's shortest story, told: the list outlives who heard it, until the TTL is over."""
    gathering = Gathering()
    report = Report("shop", "checkout", "u", "a", "r1", 30.0, 1.0, 1.0)
    gathering.told(ReplicaReports("r1", [report]), 0.0)
    for now in (2.0, 10.0, 29.0):
        gathering.told(ReplicaReports("r2", []), now)
        merged = gathering.merged(now)
        assert merged is not None
        assert [(each.id, each.age) for each in merged.consumers] == [("a", 1.0 + now)]
    merged = gathering.merged(29.5)
    assert merged is not None
    assert not merged.consumers
    assert [each.reason for each in merged.gone] == ["Expired"]
    merged = gathering.merged(60.0)
    assert merged == Merged([], [])
    assert keep_gone(3600.0) == 600.0
