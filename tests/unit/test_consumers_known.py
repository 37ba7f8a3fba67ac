"""What replicas say of consumers to each other: stories that a machine would need luck to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from configregistry.model.reports import (
    EXCHANGE_EVERY,
    Exchange,
    Gathering,
    Gone,
    Merged,
    Observed,
    ReplicaReports,
    Report,
)
from configregistry.serve.consumers import Consumers
from configregistry.serve.consumers import known as known_module
from configregistry.serve.consumers.heartbeat import Heartbeat
from configregistry.serve.consumers.roster import Entry, Roster
from configregistry.serve.responses import Problem
from configregistry.state import Registry
from configregistry.telemetry.metrics import Metrics, Shown


class Time:
    """A clock and its timers, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> Any:
        raise AssertionError("no wall clocks")

    def later(self, seconds: float, call: Callable[[], None]) -> Any:
        timer = (self.now + seconds, call)
        self.timers.append(timer)

        def cancel(_: object) -> None:
            if timer in self.timers:  # as the event loop's: to cancel one that has rung is nothing
                self.timers.remove(timer)

        return type("Timer", (), {"cancel": cancel})()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and min(due for due, _ in self.timers) <= until:
            due, call = timer = min(self.timers, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now = max(self.now, due)
            call()
        self.now = until


class Snapshot:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def registry(self, _namespace: str, name: str) -> Registry | None:
        return self._cluster.registry if name == "checkout" else None


class Told:
    """Whoever listens."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def joined(self, entry: Entry) -> None:
        self.all.append(f"joined {entry.id}")

    def changed(self, entry: Entry) -> None:
        self.all.append(f"changed {entry.id}")

    def left(self, name: str, reason: str) -> None:
        self.all.append(f"left {name} {reason}")

    def replaced(self, roster: Roster | None) -> None:
        self.all.append("deleted" if roster is None else "replaced")


class Cluster:
    """Replicas and a leader that share a time."""

    def __init__(self, *names: str) -> None:
        self.time = Time()
        self.registry: Registry | None = Registry("checkout", "uid-1")
        self.replicas = {name: self.replica(name) for name in names}
        self.lead()

    def lead(self) -> None:
        self.gathering = Gathering()
        self.merged: Merged | None = None
        self.made = 0.0

    def replica(self, name: str) -> Consumers:
        snapshot: Any = Snapshot(self)
        return Consumers(lambda: snapshot, self.time, replica=name, later=self.time.later)

    def publish(self, registry: Registry | None) -> None:
        self.registry = registry
        snapshot: Any = Snapshot(self)
        for replica in self.replicas.values():
            replica.published(snapshot, snapshot, [("shop", "checkout")])

    def roster(self, replica: str) -> Roster:
        assert self.registry is not None
        return self.replicas[replica].roster("shop", self.registry)

    def beat(self, replica: str, name: str = "c", ttl: float = 60.0, **said: Any) -> tuple[Entry, bool]:
        observed = said.get("observed")
        labels = said.get("labels", {})
        heartbeat = Heartbeat(ttl, labels, observed, "observed" in said, "")
        return self.replicas[replica].beat(self.roster(replica), name, heartbeat, said.get("owner", ""))

    def end(self, replica: str, name: str = "c") -> None:
        self.roster(replica).end(name, "", self.time.now)

    def round(self, times: int = 1) -> None:
        for _ in range(times):
            self.time.advance(EXCHANGE_EVERY)
            for replica in self.replicas.values():
                self.gathering.told(
                    replica.exchange(Exchange.of(self.merged, self.time.now - self.made)), self.time.now
                )
            self.merged, self.made = self.gathering.merged(self.time.now), self.time.now

    def listed(self) -> dict[str, list[str]]:
        return {name: sorted(self.roster(name).entries) for name in self.replicas}


# One replica.


def test_a_missed_ttl_is_told_without_anybody_asking() -> None:
    cluster, told = Cluster("one"), Told()
    cluster.roster("one").listeners.append(told)
    for number in range(3):
        cluster.beat("one", f"c{number}", ttl=10.0)
        cluster.time.advance(1.0)
    cluster.beat("one", "c0", ttl=10.0)
    cluster.time.advance(8.9)  # c1 heard 10.9 ago, c2 9.9, c0 8.9
    assert told.all == ["joined c0", "joined c1", "joined c2", "left c1 Expired"]
    cluster.time.advance(0.2)
    assert told.all[-1] == "left c2 Expired"
    cluster.time.advance(2.0)
    assert told.all[-1] == "left c0 Expired"
    assert not cluster.time.timers
    assert list(cluster.replicas["one"].counts()) == []


def test_whoever_asks_sees_nobody_whose_ttl_is_over_even_before_the_timer() -> None:
    cluster = Cluster("one")
    cluster.beat("one", ttl=0.01)
    cluster.time.now += 0.02
    assert cluster.listed() == {"one": []}


def test_a_ttl_may_become_shorter_or_longer() -> None:
    cluster = Cluster("one")
    cluster.beat("one", ttl=100.0)
    cluster.beat("one", ttl=1.0)
    cluster.time.advance(1.1)
    assert cluster.listed() == {"one": []}
    cluster.beat("one", ttl=1.0)
    cluster.beat("one", ttl=100.0)
    cluster.time.advance(99.0)
    assert cluster.listed() == {"one": ["c"]}
    cluster.time.advance(1.2)
    assert cluster.listed() == {"one": []}


def test_what_is_observed_stays_until_something_else_is_said() -> None:
    cluster, told = Cluster("one"), Told()
    cluster.roster("one").listeners.append(told)
    cluster.beat("one", observed=Observed(7, "error", "boom"))
    cluster.time.advance(5.0)
    entry, new = cluster.beat("one")
    assert not new
    assert entry.observed == Observed(7, "error", "boom")
    (report,) = cluster.replicas["one"].stated(heard=False).consumers
    assert (report.age, report.observed_age, report.registered_age) == (0.0, 5.0, 5.0)
    assert told.all == ["joined c"], "a heartbeat is nothing new"
    cluster.beat("one", observed=None)
    assert cluster.roster("one").entries["c"].observed is None
    assert told.all == ["joined c", "changed c"]


def test_another_owner_is_refused_while_the_first_one_lives() -> None:
    cluster = Cluster("one", "two")
    cluster.beat("one", ttl=10.0, owner="x")
    cluster.round(2)
    for replica in ("one", "two"):
        with pytest.raises(Problem) as caught:
            cluster.beat(replica, owner="y")
        assert (caught.value.status, caught.value.name, caught.value.field) == (409, "DuplicateID", "id")
        with pytest.raises(Problem):
            cluster.roster(replica).end("c", "y", cluster.time.now)
    cluster.time.advance(7.0)
    assert cluster.beat("two", owner="y")[1]


def test_a_registry_has_so_many_consumers_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configregistry.serve.consumers.roster.MAX_CONSUMERS", 3)
    cluster = Cluster("one", "two")
    for number in range(3):
        cluster.beat("one", f"c{number}")
    cluster.round(2)
    for replica in ("one", "two"):
        with pytest.raises(Problem) as caught:
            cluster.beat(replica, "c3")
        assert (caught.value.status, caught.value.name) == (429, "TooManyConsumers")
    cluster.beat("two", "c0")
    cluster.end("one", "c1")
    assert cluster.beat("one", "c3")[1]
    for number in range(9):
        cluster.end("one", f"d{number}")
    assert len(cluster.roster("one").gone(cluster.time.now)) == 3


def test_those_who_come_and_go_leave_nothing_behind() -> None:
    cluster = Cluster("one")
    for _ in range(3):
        for number in range(3000):
            cluster.beat("one", f"c{number}", ttl=80_000.0)
        for number in range(3000):
            cluster.end("one", f"c{number}")
    assert len(cluster.replicas["one"]._heap) <= 3000 + 2 * known_module.STALE_ITEMS
    cluster.time.advance(700.0)
    cluster.replicas["one"].exchange(Exchange([], [], 0.0))
    assert cluster.roster("one")._ended == {}


def test_a_deleted_registry_takes_its_consumers_with_it() -> None:
    cluster, told = Cluster("one", "two"), Told()
    cluster.beat("one")
    cluster.round(2)
    cluster.roster("two").listeners.append(told)
    cluster.publish(Registry("checkout", "uid-2"))
    assert cluster.listed() == {"one": [], "two": []}
    cluster.round(2)
    assert cluster.listed() == {"one": [], "two": []}
    cluster.beat("one")
    cluster.round(2)
    assert cluster.listed() == {"one": ["c"], "two": ["c"]}
    assert told.all == ["replaced", "joined c"]
    cluster.publish(None)
    assert told.all == ["replaced", "joined c", "deleted"]
    assert cluster.replicas["one"].stated(heard=True) == ReplicaReports("one", [], [], [], news=0)
    cluster.round(2)
    assert cluster.merged == Merged([], [])


def test_a_list_that_is_being_taken_when_the_registry_is_replaced() -> None:
    cluster, told = Cluster("one"), Told()
    cluster.roster("one").listeners.append(told)
    taking = cluster.replicas["one"].taking(0.0)
    reports = [Report("shop", "checkout", "uid-1", name, "two", 60.0, 0.0, 0.0) for name in "ab"]
    taking.take(reports[:1])
    cluster.publish(Registry("checkout", "uid-2"))
    taking.take(reports[1:])
    taking.end()
    assert told.all == ["joined a", "replaced"]
    assert cluster.listed() == {"one": []}


def test_a_later_list_puts_an_end_to_one_that_is_being_taken() -> None:
    cluster = Cluster("one")
    reports = [Report("shop", "checkout", "uid-1", name, "two", 60.0, 0.0, 0.0) for name in "ab"]
    older, newer = cluster.replicas["one"].taking(0.0), cluster.replicas["one"].taking(0.0)
    newer.take(reports[:1])
    older.take(reports[1:])
    older.take_gone([Gone("shop", "checkout", "uid-1", "a", "three", 0.0, 10.0)])
    newer.end()
    older.end()
    assert cluster.listed() == {"one": ["a"]}


# Several.


def test_who_moves_is_listed_once_and_its_former_ttl_is_void() -> None:
    cluster = Cluster("one", "two")
    cluster.beat("one", ttl=60.0)
    cluster.time.advance(0.1)
    cluster.beat("two", ttl=1.0)
    cluster.time.advance(1.2)  # over before anybody asked
    cluster.round(2)
    assert cluster.listed() == {"one": [], "two": []}
    cluster.beat("one", ttl=60.0, observed=Observed(1, "ok"))
    cluster.round(2)
    entry, new = cluster.beat("two", ttl=60.0)
    assert not new
    assert entry.observed == Observed(1, "ok")
    cluster.round(2)
    assert [len(replica.stated(heard=False).consumers) for replica in cluster.replicas.values()] == [0, 1]
    assert list(cluster.replicas["one"].counts()) == []


def test_a_missed_ttl_says_nothing_about_a_later_heartbeat_elsewhere() -> None:
    cluster = Cluster("one", "two")
    cluster.beat("one", ttl=3.0)
    cluster.time.advance(2.5)
    cluster.beat("two", ttl=60.0)
    cluster.time.advance(1.0)
    cluster.round(2)
    assert cluster.listed() == {"one": ["c"], "two": ["c"]}


def test_a_ttl_shorter_than_the_way_of_the_list_does_not_flap() -> None:
    cluster, told = Cluster("one"), Told()
    cluster.roster("one").listeners.append(told)
    report = Report("shop", "checkout", "uid-1", "c", "two", 1.0, 0.5, 0.5)
    cluster.replicas["one"].exchange(Exchange([report], [], 0.6))
    assert told.all == []
    cluster.replicas["one"].exchange(Exchange([report], [], 0.4))
    assert told.all == ["joined c"]


def test_of_two_silent_replicas_only_the_later_one_counts() -> None:
    cluster = Cluster("one", "two", "three")
    cluster.beat("one", ttl=3000.0)
    cluster.time.advance(0.1)
    cluster.beat("two", ttl=8.0)
    cluster.round(1)
    del cluster.replicas["one"], cluster.replicas["two"]
    cluster.round(2)
    assert cluster.listed() == {"three": ["c"]}
    cluster.round(20)
    assert cluster.listed() == {"three": []}


def test_gone_at_once_also_where_another_replica_heard_it() -> None:
    cluster, told = Cluster("one", "two"), Told()
    cluster.beat("one")
    cluster.round(2)
    cluster.roster("one").listeners.append(told)
    cluster.end("two")
    assert cluster.listed()["two"] == []
    assert cluster.merged is not None
    cluster.replicas["two"].exchange(Exchange.of(cluster.merged, 0.5))
    assert cluster.listed()["two"] == [], "the list is older than that"
    cluster.round(2)
    assert cluster.listed() == {"one": [], "two": []}
    assert told.all == ["left c Unregistered"]
    cluster.time.advance(30.0)
    cluster.round(2)
    assert cluster.listed() == {"one": [], "two": []}


def test_one_that_is_not_known_yet_can_be_unregistered() -> None:
    cluster = Cluster("one", "two")
    cluster.beat("one", ttl=80_000.0)
    cluster.time.advance(0.5)
    cluster.end("two")
    cluster.time.advance(60.0)  # no leader meanwhile
    cluster.round(2)
    assert cluster.listed() == {"one": [], "two": []}


def test_a_replica_that_is_silent_says_no_more_than_what_still_counts() -> None:
    """Else its older heartbeat would come back once nobody remembers why it does not count."""
    cluster = Cluster("one", "two", "three")
    cluster.beat("one", ttl=3000.0)
    cluster.beat("one", "d", ttl=3000.0)
    cluster.round(1)
    del cluster.replicas["one"]
    cluster.beat("two", ttl=8.0)
    cluster.round(2)
    cluster.end("three")  # remembered for 10 s, which is longer than the TTL that it knows
    del cluster.replicas["two"]
    cluster.round(20)
    assert cluster.listed() == {"three": ["d"]}


def test_an_understated_age_of_an_own_heartbeat_is_no_move() -> None:
    cluster = Cluster("one")
    cluster.beat("one")
    (report,) = cluster.replicas["one"].stated(heard=False).consumers
    cluster.time.advance(2.0)
    cluster.replicas["one"].exchange(Exchange([report], [], 1.5))
    (again,) = cluster.replicas["one"].stated(heard=False).consumers
    assert again.age == 2.0
    gone = Gone("shop", "checkout", "uid-1", "c", "one", 0.0, 10.0)
    cluster.replicas["one"].exchange(Exchange([], [gone], 0.0))
    assert cluster.listed() == {"one": ["c"]}


def test_who_is_no_more_in_the_list_is_gone() -> None:
    cluster = Cluster("one", "two")
    cluster.beat("one")
    cluster.round(2)
    cluster.replicas["two"].exchange(Exchange(None))
    assert cluster.listed()["two"] == ["c"], "a new leader has no list yet"
    cluster.replicas["two"].exchange(Exchange([]))
    assert cluster.listed()["two"] == []


def test_the_list_outlives_who_heard_it_and_a_leader() -> None:
    cluster = Cluster("one", "two", "three")
    cluster.beat("one", ttl=60.0)
    cluster.round(2)
    del cluster.replicas["one"]
    cluster.replicas["two"] = cluster.replica("two-again")
    cluster.lead()
    cluster.round(2)
    assert cluster.listed() == {"two": ["c"], "three": ["c"]}
    cluster.time.advance(60.0)
    assert cluster.listed() == {"two": [], "three": []}
    cluster.round(8)
    assert cluster.merged == Merged([], [])


def test_hearsay_is_void_once_who_heard_it_speaks() -> None:
    gathering = Gathering()
    heard = [Report("shop", "checkout", "u", name, "one", 60.0, 5.0, 5.0) for name in "ab"]
    gathering.told(ReplicaReports("two", [], [], heard), 0.0)
    gathering.told(ReplicaReports("three", [], [], heard[:1]), 0.0)
    merged = gathering.merged(1.0)
    assert merged is not None
    assert sorted(each.id for each in merged.consumers) == ["a", "b"]
    gathering.told(ReplicaReports("one", heard[:1]), 1.0)
    gathering.told(ReplicaReports("three", [], [], heard), 1.0)
    merged = gathering.merged(1.0)
    assert merged is not None
    assert [each.id for each in merged.consumers] == ["a"]


def test_a_leader_without_answers_has_no_list() -> None:
    assert Gathering().merged(0.0) is None
    assert Exchange.of(None, 3.0) == Exchange(None, [], 0.0)


# Metrics.


def test_consumers_are_counted_when_somebody_looks() -> None:
    cluster = Cluster("one", "two")
    for each, labels in (
        (True, {"namespace": "shop", "registry": "checkout"}),
        (False, {"namespace": "", "registry": ""}),
    ):
        metrics = Metrics(per_registry=each)
        metrics.count_consumers(cluster.replicas["one"].counts)
        metrics.show("shop", "checkout", Shown(1, 7))
        cluster.beat("one", "a", observed=Observed(7, "ok"))
        cluster.beat("one", "b", observed=Observed(7, "error"))
        cluster.beat("one", "c", observed=None)
        cluster.beat("two", "d", observed=Observed(7, "error"))
        cluster.round(2)

        def value(version: str, status: str, labels: dict[str, str] = labels, metrics: Metrics = metrics) -> Any:
            told = {**labels, "version": version, "status": status}
            return metrics.registry.get_sample_value("configregistry_consumers", told)

        version = "7" if each else ""
        assert [value(version, "ok"), value(version, "error"), value("", "none")] == [1, 1, 1]
        cluster.beat("one", "b", observed=Observed(7, "ok"))
        cluster.end("one", "c")
        assert [value(version, "ok"), value(version, "error"), value("", "none")] == [2, None, None]
