"""The leader's rounds over all replicas, in virtual time: what it knows, what it says is missing, what it hands back.

The replicas are the real ones of serve/, without their HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.servers.virtual import VirtualTime

from configregistry.health import Known
from configregistry.health.consumers_check import STALE
from configregistry.model.reads import KEEP, Read
from configregistry.model.reports import EXCHANGE_EVERY, Exchange, Observed, ReplicaReports
from configregistry.reconcile.collector import EARLY_EVERY, LONG_AGO, READS_EVERY, Collector
from configregistry.reconcile.replicas import Answer, InProcess
from configregistry.serve.consumers.heartbeat import Heartbeat
from configregistry.serve.consumers.known import Consumers
from configregistry.state import Snapshot
from configregistry.telemetry.metrics import Metrics

OWNER = ("shop", "checkout", "uid")
ROUND = EXCHANGE_EVERY


class Replica:
    """One of serve's, with what can go wrong on the way to it."""

    def __init__(self, time: VirtualTime, name: str) -> None:
        self.time = time
        self.name = name
        self.error = ""
        self.latency = 0.0
        self.given: list[Exchange] = []
        self.lives = 0
        self.tells_reads = True
        self.late: list[Read] = []
        self.all: list[Read] = []
        """Their ages are moments, until they are stated."""
        self.restart()

    def restart(self) -> None:
        """Another process, which remembers nothing."""
        self.lives += 1
        self.consumers = Consumers(
            _no_snapshot,
            self.time,
            replica=f"{self.name}-{self.lives}",
            later=lambda _seconds, _call: _Timer(),
            reads=self._reads if self.tells_reads else None,
        )
        # As hydrated: the registry is known.
        self.roster = self.consumers._renew(OWNER[:2], OWNER[2])

    def _reads(self, every: bool) -> list[Read]:
        stated = self.all if every else self.late
        return [msgspec.structs.replace(each, age=self.time.now - each.age) for each in stated]

    def was_read(self, *ages: tuple[str, float], late: bool = False) -> None:
        """Registries were read so many seconds ago."""
        reads = [Read("shop", name, "uid", self.time.now - age) for name, age in ages]
        if late:
            self.late = reads
        else:
            self.all = reads

    def beat(self, name: str, version: int | None, status: Any = "ok", *, ttl: float = 30.0) -> None:
        observed = Observed(version, status) if version else None
        self.consumers.beat(self.roster, name, Heartbeat(ttl, {}, observed, observed is not None, ""), "")

    async def exchange(self, given: Exchange) -> Answer:
        if self.error:
            return Answer(self.name, None, self.error)
        self.given.append(given)
        reports = self.consumers.exchange(given)
        await self.time.sleep(self.latency)
        return Answer(self.name, reports)


class _Timer:
    def cancel(self) -> None:
        pass


def _no_snapshot() -> Snapshot:
    raise AssertionError("every registry is known")


class World:
    """A collector and its replicas. With `held` they can be waited for; else they are of an older version."""

    def __init__(self, replicas: int = 2, *, held: bool = True) -> None:
        self.held = held
        self.waits = 0
        self.counts: dict[str, int] = {}
        self.time = VirtualTime()
        self.replicas = [Replica(self.time, f"serve-{number}") for number in range(replicas)]
        self.rounds = 0
        self.raised: Exception | None = None
        self.told: list[tuple[float, set[tuple[str, str]]]] = []
        self.metrics = Metrics()
        self.collector = Collector(self, self.time, self.metrics, sleep=self.time.sleep)
        self.collector.subscribe(lambda registries: self.told.append((self.time.now, set(registries))))
        self.task: asyncio.Task[None] | None = None

    async def exchange(self, given: Exchange) -> Sequence[Answer]:
        self.rounds += 1
        if self.raised is not None:
            raise self.raised
        answers = await asyncio.gather(*(each.exchange(given) for each in self.replicas))
        self.counts = {each.name: each.reports.news or 0 for each in answers if each.reports}
        return answers

    async def news(self, seconds: float) -> bool:
        self.waits += 1
        if not self.held:
            return False
        waiting = [
            asyncio.create_task(each.consumers.newer(self.counts[each.name], seconds))
            for each in self.replicas
            if each.name in self.counts and not each.error
        ]
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return True
                waiting = [task for task in waiting if task not in done]
            return False
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        pass

    def lead(self) -> None:
        self.task = asyncio.create_task(self.collector.run())

    async def resign(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def known(self, owner: tuple[str, str, str] = OWNER) -> Known:
        async with asyncio.timeout(5):
            return await self.collector.known(*owner)

    async def said(self) -> dict[str, tuple[int, str]]:
        found = (await self.known()).consumers
        return {each.id: (each.observed.version, each.observed.status) for each in found if each.observed}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.resign()
    assert len(asyncio.all_tasks()) == 1


@pytest.fixture
async def older() -> AsyncIterator[World]:
    """Replicas that cannot be waited for."""
    made = World(held=False)
    yield made
    await made.resign()
    assert len(asyncio.all_tasks()) == 1


# Rounds


async def test_asks_every_two_seconds_from_start_to_start(world: World) -> None:
    world.replicas[0].latency = 1.4
    world.lead()
    await world.time.advance(3 * ROUND + 0.1)
    assert world.rounds == 4


async def test_a_round_longer_than_that_is_followed_at_once_and_never_overlapped(world: World) -> None:
    world.replicas[0].latency = 3.0
    world.lead()
    await world.time.advance(9.1)
    assert world.rounds == 4
    assert len(world.replicas[1].given) == 4


async def test_knows_the_consumers_of_all_replicas(world: World) -> None:
    world.replicas[0].beat("a", 8)
    world.replicas[1].beat("b", 7, "error")
    world.lead()
    await world.time.advance(0)
    assert await world.said() == {"a": (8, "ok"), "b": (7, "error")}
    assert (await world.known()).errors == {}
    assert (await world.known(("shop", "basket", "uid"))).consumers == ()
    assert (await world.known(("shop", "checkout", "namesake"))).consumers == ()


async def test_every_replica_is_handed_the_list_of_the_round_before(world: World) -> None:
    world.replicas[0].beat("a", 8)
    world.lead()
    await world.time.advance(ROUND)
    first, second = world.replicas[1].given
    assert first.merged is None
    assert [each.id for each in second.merged or ()] == ["a"]
    assert second.age == ROUND
    assert "a" in world.replicas[1].roster.entries


async def test_ages_go_on_between_the_rounds(world: World) -> None:
    world.replicas[0].beat("a", 8)
    await world.time.advance(3)
    world.replicas[0].beat("a", None)
    world.lead()
    await world.time.advance(1.5)
    known = await world.known()
    assert [(each.age, each.observed_age) for each in known.consumers] == [(1.5, 4.5)]
    assert known.age == 1.5


async def test_a_list_is_as_old_as_it_can_be(world: World) -> None:
    """What was said before a stage began must not seem to be of it because an answer took its time."""
    world.replicas[0].beat("a", 8)
    world.replicas[1].latency = 1.4
    world.lead()
    await world.time.advance(1.4)
    known = await world.known()
    assert [each.observed_age for each in known.consumers] == [1.4]
    assert known.age == 1.4


async def test_who_asks_before_the_first_round_waits_for_it(world: World) -> None:
    world.replicas[0].latency = 1.0
    world.replicas[0].beat("a", 8)
    asked = asyncio.create_task(world.collector.known(*OWNER))
    await world.time.advance(5)
    assert not asked.done()
    world.lead()
    await world.time.advance(1)
    assert [each.id for each in (await asked).consumers] == ["a"]


async def test_who_leads_no_more_knows_nothing_and_asks_nobody(world: World) -> None:
    world.replicas[0].beat("a", 8)
    world.lead()
    await world.time.advance(0)
    await world.resign()
    assert world.collector.reported(*OWNER) is None
    asked = asyncio.create_task(world.collector.known(*OWNER))
    await world.time.advance(10)
    assert not asked.done()
    assert world.rounds == 1
    world.replicas[0].restart()
    world.lead()
    await world.time.advance(0)
    assert (await asked).consumers == (), "what was known in an earlier term is not"


async def test_a_new_leader_learns_what_a_replica_heard_that_is_gone(world: World) -> None:
    world.replicas[0].beat("a", 8)
    world.lead()
    await world.time.advance(ROUND)
    await world.resign()
    world.replicas[0].restart()
    world.lead()
    await world.time.advance(0)
    assert await world.said() == {"a": (8, "ok")}


# Replicas in trouble


async def test_a_silent_replica_is_told_of_and_its_consumers_stay(world: World) -> None:
    world.replicas[0].beat("a", 8)
    world.replicas[1].beat("b", 8)
    world.lead()
    await world.time.advance(ROUND)
    world.replicas[1].error = "no answer in 1.5 s"
    await world.time.advance(ROUND)
    known = await world.known()
    assert known.errors == {"serve-1": "no answer in 1.5 s"}
    assert await world.said() == {"a": (8, "ok"), "b": (8, "ok")}
    assert world.collector.reported(*OWNER) is None
    world.replicas[1].error = ""
    await world.time.advance(ROUND)
    assert (await world.known()).errors == {}
    assert world.collector.reported(*OWNER) == frozenset({8})
    assert world.metrics.exchange_errors._value.get() == 1


async def test_what_a_silent_replica_said_ends_with_the_ttl(world: World) -> None:
    world.replicas[1].beat("b", 8, ttl=10)
    world.lead()
    await world.time.advance(ROUND)
    world.replicas[1].error = "gone"
    await world.time.advance(7.9)
    assert await world.said() == {"b": (8, "ok")}
    await world.time.advance(0.2)
    assert await world.said() == {}


async def test_a_replica_that_never_answered_is_an_error_and_not_nobody(world: World) -> None:
    for replica in world.replicas:
        replica.error = "no connection"
    world.lead()
    await world.time.advance(0)
    assert await world.known() == Known((), {"serve-0": "no connection", "serve-1": "no connection"}, 0.0)
    assert world.collector.reported(*OWNER) is None


async def test_a_restart_loses_nobody_that_was_heard_of(world: World) -> None:
    world.replicas[0].beat("a", 8, "error")
    world.lead()
    await world.time.advance(ROUND)
    world.replicas[0].restart()
    await world.time.advance(ROUND)
    assert await world.said() == {"a": (8, "error")}
    world.replicas[0].beat("a", 8, "ok")
    await world.time.advance(ROUND)
    assert await world.said() == {"a": (8, "ok")}
    assert (await world.known()).errors == {}


async def test_a_defect_ends_no_rounds_and_is_an_error(world: World) -> None:
    world.lead()
    await world.time.advance(0)
    world.raised = RuntimeError("sesame")
    await world.time.advance(ROUND)
    assert (await world.known()).errors == {"replicas": "asking failed with RuntimeError"}
    world.raised = None
    await world.time.advance(ROUND)
    assert (await world.known()).errors == {}


async def test_what_is_known_ages_while_a_round_hangs(world: World) -> None:
    world.lead()
    await world.time.advance(0)
    world.replicas[0].latency = 1000
    await world.time.advance(STALE + 0.5)
    assert (await world.known()).age == STALE + 0.5
    assert world.collector.reported(*OWNER) is None


# News


async def test_an_error_does_not_wait_for_the_round(world: World) -> None:
    world.lead()
    await world.time.advance(0.7)
    world.replicas[1].beat("a", 8, "error")
    await world.time.advance(0)
    assert world.told == [(0.7, {("shop", "checkout")})]
    assert await world.said() == {"a": (8, "error")}
    assert world.rounds == 2
    assert len(world.replicas[0].given) == 2, "all are asked, so that the list stays one"
    await world.time.advance(ROUND - 0.1)
    assert world.rounds == 2, "the next round comes its time after that one"
    await world.time.advance(0.2)
    assert world.rounds == 3


async def test_an_error_that_comes_during_a_round_is_asked_for_behind_it(world: World) -> None:
    world.replicas[0].latency = 1.0
    world.lead()
    await world.time.advance(0.5)
    world.replicas[1].beat("a", 8, "error")
    await world.time.advance(0.5)
    assert world.rounds == 2
    await world.time.advance(1.0)
    assert world.told == [(2.0, {("shop", "checkout")})]


async def test_a_burst_costs_some_rounds_a_second(world: World) -> None:
    world.lead()
    await world.time.advance(0)
    for number in range(1000):
        world.replicas[number % 2].beat(str(number), 8, "error")
        await world.time.advance(0.01)
    assert 10 / ROUND < world.rounds <= 10 / EARLY_EVERY + 2
    await world.time.advance(EARLY_EVERY)
    assert len(await world.said()) == 1000


async def test_slow_rounds_are_fewer(world: World) -> None:
    """Half of the time at most goes into them."""
    world.replicas[0].latency = 0.4
    world.lead()
    for number in range(500):
        world.replicas[1].beat(str(number), 8, "error")
        await world.time.advance(0.02)
    assert world.rounds <= 10 / (0.4 + 0.4) + 2


async def test_what_an_older_replica_hears_waits_for_the_round(older: World) -> None:
    older.lead()
    await older.time.advance(0.7)
    older.replicas[0].beat("a", 8, "error")
    await older.time.advance(ROUND)
    assert older.told == [(ROUND, {("shop", "checkout")})]
    assert older.waits == older.rounds == 2, "who cannot be waited for is not asked again and again"


async def test_a_defect_in_waiting_ends_no_rounds(world: World) -> None:
    world.collector._replicas = _Failing(world)
    world.lead()
    await world.time.advance(2 * ROUND + 0.1)
    assert world.rounds == 3


class _Failing:
    """Cannot be waited for."""

    def __init__(self, world: World) -> None:
        self.exchange = world.exchange
        self.close = world.close

    async def news(self, _seconds: float) -> bool:
        raise RuntimeError


async def test_new_errors_are_news_once(world: World) -> None:
    world.lead()
    await world.time.advance(0)
    world.replicas[0].beat("a", 8)
    await world.time.advance(ROUND)
    assert world.told == []
    world.replicas[0].beat("a", 8, "error")
    world.replicas[1].beat("b", 8, "error")
    await world.time.advance(3 * ROUND)
    assert world.told == [(ROUND, {("shop", "checkout")})]
    world.replicas[0].beat("a", 8, "error")
    await world.time.advance(ROUND)
    assert len(world.told) == 1
    world.replicas[0].beat("a", 9, "error")
    await world.time.advance(ROUND)
    assert [at for at, _ in world.told] == [ROUND, 5 * ROUND]


async def test_an_error_that_comes_back_is_news(world: World) -> None:
    world.lead()
    for status in ("error", "ok", "error"):
        world.replicas[0].beat("a", 8, status)
        await world.time.advance(ROUND)
    assert len(world.told) == 2


async def test_whoever_is_told_may_fail(world: World) -> None:
    def fail(_registries: object) -> None:
        raise RuntimeError

    world.collector.subscribe(fail)
    world.replicas[0].beat("a", 8, "error")
    world.lead()
    await world.time.advance(ROUND)
    assert world.rounds == 2


# Reads


async def test_the_latest_read_of_all_replicas_counts(world: World) -> None:
    assert world.collector.last_read(*OWNER) is None
    for replica, age in zip(world.replicas, (50.0, 9.0), strict=True):
        replica.was_read(("checkout", age))
    world.lead()
    await world.time.advance(1.5)
    assert world.collector.last_read(*OWNER) == 10.5
    assert world.collector.last_read("shop", "checkout", "namesake") == float("inf")
    world.replicas[0].was_read(("checkout", 0.5), late=True)
    await world.time.advance(1.0)
    assert world.collector.last_read(*OWNER) == 1.5
    world.replicas[0].was_read(("checkout", 500.0), late=True)
    await world.time.advance(ROUND)
    assert world.collector.last_read(*OWNER) == 3.5, "an older statement takes nothing back"


async def test_all_is_asked_for_once_and_then_rarely(world: World) -> None:
    world.lead()
    await world.time.advance(READS_EVERY + ROUND)
    asked = [given.reads for given in world.replicas[0].given]
    assert (asked[0], sum(asked)) == (True, 2)
    world.replicas[1].restart()
    before = len(asked)
    await world.time.advance(3 * ROUND)
    assert [given.reads for given in world.replicas[0].given[before:]] == [False, True, False]


async def test_nobody_can_say_before_each_replica_has_said_all(world: World) -> None:
    world.replicas[0].was_read(("checkout", 7.0), ("basket", LONG_AGO + 1))
    world.replicas[1].error = "no connection"
    world.lead()
    await world.time.advance(0)
    assert world.collector.last_read("shop", "unread", "uid") is None
    assert world.collector.last_read("shop", "basket", "uid") is None
    assert world.collector.last_read(*OWNER) == 7.0, "a read is a read, whatever others know"
    world.replicas[1].error = ""
    await world.time.advance(2 * ROUND)
    assert world.collector.last_read("shop", "unread", "uid") == float("inf")
    assert world.collector.last_read("shop", "basket", "uid") == LONG_AGO + 1 + 2 * ROUND
    world.replicas[1].error = "no connection"
    await world.time.advance(ROUND)
    assert world.collector.last_read("shop", "unread", "uid") == float("inf"), "it has been heard"
    world.replicas[1].error = ""
    world.replicas[1].was_read(("unread", 1.0))
    await world.time.advance(2 * ROUND)
    assert world.collector.last_read("shop", "unread", "uid") == 1.0 + 2 * ROUND, "what it was read meanwhile"


async def test_with_an_older_replica_nobody_can_say_ever(world: World) -> None:
    world.replicas[1].tells_reads = False
    world.replicas[1].restart()
    world.lead()
    await world.time.advance(3 * ROUND)
    assert world.collector.last_read("shop", "unread", "uid") is None
    assert [given.reads for given in world.replicas[0].given] == [True, False, False, False], "asking costs"


async def test_reads_are_told_of_when_they_are_new(world: World) -> None:
    told: list[set[tuple[str, str]]] = []
    world.collector.subscribe_reads(lambda registries: told.append(set(registries)))
    world.replicas[0].was_read(("checkout", 5.0), ("basket", 5.0))
    world.lead()
    await world.time.advance(ROUND)
    assert told == [{("shop", "checkout"), ("shop", "basket")}]
    world.replicas[0].was_read(("checkout", ROUND + 5.0), late=True)
    await world.time.advance(ROUND)
    assert len(told) == 1, "the same read"
    world.replicas[1].was_read(("checkout", 0.0), late=True)
    await world.time.advance(ROUND)
    assert told[1:] == [{("shop", "checkout")}]


async def test_what_is_long_over_is_forgotten(world: World) -> None:
    world.replicas[0].was_read(*((f"r{number}", KEEP) for number in range(10)))
    world.lead()
    await world.time.advance(0)
    assert len(world.collector._reads) == 10
    world.replicas[0].was_read()
    await world.time.advance(READS_EVERY + ROUND)
    assert len(world.collector._reads) == 0
    assert world.collector.last_read("shop", "r1", "uid") == float("inf")


# Versions in use


async def test_the_versions_that_consumers_run_with(world: World) -> None:
    assert world.collector.reported(*OWNER) is None
    world.replicas[0].beat("a", 3)
    world.replicas[1].beat("b", 8, ttl=5)
    world.replicas[1].beat("c", None)
    world.lead()
    await world.time.advance(0)
    assert world.collector.reported(*OWNER) == frozenset({3, 8})
    assert world.collector.reported("shop", "basket", "uid") == frozenset()
    await world.time.advance(5.5)
    assert world.collector.reported(*OWNER) == frozenset({3})


# One process


async def test_in_one_process() -> None:
    def exchange(given: Exchange) -> ReplicaReports:
        return ReplicaReports("one", list(given.merged or ()))

    alone = InProcess(exchange)
    assert await alone.exchange(Exchange()) == [Answer("this process", ReplicaReports("one", []))]
    assert not await alone.news(1000.0), "nobody to wait for"


async def test_in_one_process_an_error_is_waited_for() -> None:
    replica = Replica(VirtualTime(), "one")
    alone = InProcess(replica.consumers.exchange, replica.consumers.newer)
    await alone.exchange(Exchange())
    waiting = asyncio.create_task(alone.news(1000.0))
    await asyncio.sleep(0)
    replica.beat("a", 8)
    await asyncio.sleep(0)
    assert not waiting.done()
    replica.beat("a", 8, "error")
    assert await waiting
    assert await alone.news(1000.0), "nobody has asked for it yet"
    await alone.exchange(Exchange())
    waiting = asyncio.create_task(alone.news(1000.0))
    await asyncio.sleep(0)
    replica.consumers.news.drain()
    assert not await waiting


# Any history

_STEPS = st.one_of(
    st.tuples(st.just("beat"), st.integers(0, 2), st.integers(0, 4), st.sampled_from([7, 8]), st.booleans()),
    st.tuples(st.just("restart"), st.integers(0, 2)),
    st.tuples(st.just("silence"), st.integers(0, 2)),
    st.tuples(st.just("speech"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, 7.0])),
)


class Model:
    """What must be known: of each consumer its last heartbeat that a round has collected."""

    TTL = 9.0

    def __init__(self) -> None:
        self.collected: dict[str, tuple[float, int, str]] = {}
        self.pending: dict[int, dict[str, tuple[float, int, str]]] = {0: {}, 1: {}, 2: {}}

    def collect(self, replica: int) -> None:
        for name, heard in self.pending[replica].items():
            self.collected[name] = max(heard, self.collected.get(name, heard), key=lambda each: each[0])
        self.pending[replica] = {}

    def alive(self, now: float) -> dict[str, tuple[int, str]]:
        return {
            name: (version, status) for name, (at, version, status) in self.collected.items() if now - at <= self.TTL
        }


@settings(max_examples=200, deadline=None)
@given(st.lists(_STEPS, max_size=30))
def test_any_history_is_known_as_far_as_it_was_collected(steps: list[tuple[Any, ...]]) -> None:
    """Restarts, silence and moves from replica to replica lose nobody whose heartbeat a round has collected."""
    asyncio.run(_history(steps))


async def _history(steps: list[tuple[Any, ...]]) -> None:
    world, model = World(3), Model()
    original = world.exchange

    async def exchange(given: Exchange) -> Sequence[Answer]:
        for number, replica in enumerate(world.replicas):
            if not replica.error:
                model.collect(number)
        return await original(given)

    world.exchange = exchange  # type: ignore[method-assign]
    world.lead()
    await world.time.advance(0.1)
    do: dict[str, Callable[..., None]] = {
        "beat": lambda *said: _beat(world, model, *said),
        "restart": lambda number: _restart(world, model, number),
        "silence": lambda number: setattr(world.replicas[number], "error", "silent"),
        "speech": lambda number: setattr(world.replicas[number], "error", ""),
    }
    for verb, *arguments in steps:
        if verb == "wait":
            await world.time.advance(arguments[0])
        else:
            do[verb](*arguments)
            await world.time.advance(0.01)
        assert await world.said() == model.alive(world.time.now)
        silent = {each.name for each in world.replicas if each.error}
        assert (world.collector.reported(*OWNER) is None) == bool((await world.known()).errors)
        if verb == "wait" and arguments[0] >= ROUND:
            assert set((await world.known()).errors) == silent
    await world.resign()


def _beat(world: World, model: Model, replica: int, name: int, version: int, broken: bool) -> None:
    status = "error" if broken else "ok"
    world.replicas[replica].beat(str(name), version, status, ttl=model.TTL)
    model.pending[replica][str(name)] = (world.time.now, version, status)


def _restart(world: World, model: Model, number: int) -> None:
    world.replicas[number].restart()
    model.pending[number] = {}
