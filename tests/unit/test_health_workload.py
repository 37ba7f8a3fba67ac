"""What looks at a workload, one after another, come to: in seconds that a test passes itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.servers.virtual import VirtualTime

from configregistry.clock import timestamp
from configregistry.health import Finding, Means, Memory, Question, RolloutKey, Runner, StageKey, Subject
from configregistry.health.workload_check import SKEW, TIMEOUT, UNAVAILABLE_FOR, Seen, probe, timeout
from configregistry.kube.failures import Forbidden, Unavailable
from configregistry.kube.workloads import Container, Pod, Workload
from configregistry.model.spec import Check, WorkloadCheck
from configregistry.rollout.observation import Verdict
from configregistry.rollout.plan import CheckPlan

PASS, FAIL, ERROR, NO_DATA = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA
SUBJECT = Subject("shop", "checkout", 8, "9d3c", 7)
CHECK = Check("pods", workload=WorkloadCheck("Deployment", "checkout"))
ONE, TWO, THREE = (StageKey(number, False, f"t{number}") for number in (1, 2, 3))
START = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = ""


def at(seconds: float) -> str:
    """A time of another clock, by the seconds of this world's."""
    return timestamp(START + timedelta(seconds=seconds))


def container(restarts: int = 0, *, ended: str = NEVER, down: bool = False, name: str = "app") -> Container:
    return Container(name, restarts, NEVER if down else at(-500), ended, "OOMKilled" if ended else "")


def pod(name: str = "a", *containers: Container, created: str = "", terminating: bool = False) -> Pod:
    return Pod(f"checkout-{name}", f"uid-{name}", created or at(-1000), terminating, containers or (container(),))


class World:
    """A workload that a test changes, and one check of it. Its `look` is a fake of `kube.workloads`."""

    def __init__(self, *pods: Pod, desired: int = 3, available: int = 3, may_lack: int = 0) -> None:
        self.workload: Workload | None = Workload("w", desired, available, may_lack, pods)
        self.memory = Memory()
        self.stage, self.began, self.now = ONE, 0.0, 0.0
        self.fresh: list[bool] = []
        self.error: Exception | None = None

    async def look(self, namespace: str, kind: str, name: str, *, fresh: bool) -> Workload | None:
        assert (namespace, kind, name) == ("shop", "Deployment", "checkout")
        self.fresh.append(fresh)
        if self.error is not None:
            raise self.error
        return self.workload

    def change(self, *pods: Pod, **fields: Any) -> None:
        assert self.workload is not None
        self.workload = self.workload._replace(**fields, pods=pods or self.workload.pods)

    def go_to(self, stage: StageKey) -> None:
        self.stage, self.began = stage, self.now

    def leader_changes(self) -> None:
        self.memory = Memory()

    async def ask(self, after: float = 0.0) -> Finding:
        self.now += after
        question = Question(
            CHECK,
            SUBJECT,
            self.stage,
            TIMEOUT,
            self.now - self.began,
            "uid",
            self.now,
            START + timedelta(seconds=self.now),
            self.memory,
        )
        return await probe(question, Means(None, None, self))  # type: ignore[arg-type]

    async def verdict(self, after: float = 0.0) -> Verdict:
        return (await self.ask(after)).verdict


# Availability


async def test_as_many_as_desired_is_a_pass() -> None:
    assert await World(pod()).ask() == Finding(PASS, "3/3")


@pytest.mark.parametrize(
    ("desired", "available", "may_lack", "told"),
    [
        (3, 2, 1, "2/3 pods are available"),
        (3, 4, 0, "4/3 pods are available"),
        (3, 2, 0, "2/3 pods are available for 0 s, expected at least 3 within 30 s"),
        (3, 0, 1, "0/3 pods are available for 0 s, expected at least 2 within 30 s"),
        (0, 0, 0, "no pods are wanted, so none can tell"),
    ],
)
async def test_what_is_neither_well_nor_a_failure(desired: int, available: int, may_lack: int, told: str) -> None:
    finding = await World(desired=desired, available=available, may_lack=may_lack).ask()
    assert finding == Finding(NO_DATA, f"{available}/{desired}", told)


async def test_a_spec_that_its_controller_has_not_seen_is_no_pass() -> None:
    world = World()
    world.change(observed=False)
    finding = await world.ask()
    assert finding == Finding(NO_DATA, "3/3", "3/3 pods are available, of a spec that its controller has not seen yet")


async def test_too_few_for_30_seconds_are_a_failure() -> None:
    world = World()
    assert await world.verdict() is PASS
    world.change(available=2)
    assert await world.verdict(after=10) is NO_DATA
    assert await world.verdict(after=29.9) is NO_DATA
    assert await world.ask(after=0.1) == Finding(FAIL, "2/3", "2/3 pods are available for 30 s, expected at least 3")
    assert await world.verdict(after=10) is FAIL
    world.change(available=3)
    assert await world.verdict(after=10) is PASS


async def test_too_few_from_the_first_look_on_are_a_failure_too() -> None:
    world = World(available=0)
    assert await world.verdict() is NO_DATA
    assert await world.verdict(after=UNAVAILABLE_FOR) is FAIL


async def test_a_drain_is_no_failure_however_long_it_takes() -> None:
    world = World(may_lack=1)
    for available in (3, 2, 2, 2, 2, 3):
        world.change(available=available)
        assert await world.verdict(after=20) is (PASS if available == 3 else NO_DATA)


async def test_enough_for_a_moment_starts_the_seconds_anew() -> None:
    world = World(available=2)
    await world.ask()
    world.change(available=3)
    await world.ask(after=20)
    world.change(available=2)
    assert await world.verdict(after=20) is NO_DATA
    assert await world.verdict(after=29) is NO_DATA
    assert await world.verdict(after=1) is FAIL


async def test_enough_between_two_looks_is_known_by_the_condition_of_a_deployment() -> None:
    world = World(available=2)
    world.change(available_since=at(5))
    await world.ask()
    world.change(available_since=at(17))
    assert await world.verdict(after=30) is NO_DATA
    assert await world.verdict(after=30) is FAIL


async def test_the_clock_of_that_condition_measures_nothing() -> None:
    world = World(available=2)
    world.change(available_since=at(-86400))
    assert await world.verdict() is NO_DATA
    assert await world.verdict(after=29) is NO_DATA


async def test_too_few_are_counted_on_over_stages() -> None:
    world = World(available=2)
    await world.ask()
    world.now += 20
    world.go_to(TWO)
    assert await world.verdict() is NO_DATA
    assert await world.verdict(after=10) is FAIL


async def test_a_new_leader_counts_anew() -> None:
    world = World(available=2)
    await world.ask()
    world.now += 29
    world.leader_changes()
    assert await world.verdict() is NO_DATA
    assert await world.verdict(after=29) is NO_DATA
    assert await world.verdict(after=1) is FAIL


async def test_an_autoscalers_step_is_no_failure_however_long_it_takes() -> None:
    world = World()
    await world.ask()
    world.change(desired=10)
    for _ in range(4):
        finding = await world.ask(after=60)
        assert finding == Finding(NO_DATA, "3/10", "3/10 pods are available, more are wanted than before")
    world.change(available=9)
    assert await world.verdict(after=60) is NO_DATA
    world.change(available=10)
    assert await world.verdict(after=60) is PASS
    world.change(available=9)
    await world.ask(after=10)
    assert (await world.ask(after=30)).message == "9/10 pods are available for 30 s, expected at least 10"


async def test_who_loses_pods_while_it_grows_fails() -> None:
    world = World()
    await world.ask()
    world.change(desired=10, available=2)
    await world.ask(after=10)
    assert (await world.ask(after=30)).message == "2/10 pods are available for 30 s, expected at least 3"


async def test_enough_while_it_grows_starts_the_seconds_anew_too() -> None:
    world = World()
    await world.ask()
    world.change(available=2)
    await world.ask()
    world.change(desired=10, available=3)
    await world.ask(after=20)
    world.change(available=2)
    assert await world.verdict(after=20) is NO_DATA
    assert await world.verdict(after=30) is FAIL


async def test_a_step_down_is_no_failure() -> None:
    world = World(desired=10, available=10)
    await world.ask()
    world.change(desired=3)
    assert await world.verdict(after=60) is NO_DATA
    world.change(available=3)
    assert await world.verdict(after=60) is PASS


# Restarts


async def test_a_restart_in_the_stage_is_a_failure_until_its_end() -> None:
    world = World(pod("a", container(3)), pod("b"))
    assert await world.verdict() is PASS
    world.change(pod("a", container(4, ended=at(5))), pod("b"))
    told = "1 restart since the step began, expected none: pod checkout-a, container app (OOMKilled)"
    assert await world.ask(after=10) == Finding(FAIL, "1 restart", told)
    assert await world.verdict(after=10) is FAIL


async def test_restarts_are_a_failure_whatever_is_available() -> None:
    world = World(pod())
    await world.ask()
    world.change(pod("a", container(1)), available=0, observed=False)
    assert await world.verdict(after=10) is FAIL


async def test_many_restarts_are_counted_and_some_are_named() -> None:
    world = World(*(pod(name) for name in "abcde"))
    await world.ask()
    world.change(*(pod(name, container(2)) for name in "edcba"))
    finding = await world.ask(after=10)
    assert finding.value == "10 restarts"
    assert finding.message.endswith(
        "pod checkout-a, container app; pod checkout-b, container app; pod checkout-c, container app; and 2 more"
    )


async def test_any_container_of_a_pod_counts() -> None:
    world = World(pod("a", container(1), container(2, name="proxy")))
    await world.ask()
    world.change(pod("a", container(1), container(3, name="proxy")))
    assert (await world.ask(after=10)).message.endswith("container proxy")


async def test_restarts_from_before_are_none() -> None:
    world = World(pod("a", container(7, ended=at(-3))))
    assert await world.verdict() is PASS
    assert await world.verdict(after=100) is PASS


async def test_who_was_down_when_the_stage_began_may_come_up_once() -> None:
    world = World(pod("a", container(7, ended=at(-3), down=True)))
    await world.ask()
    world.change(pod("a", container(8, ended=at(-3))))
    assert await world.verdict(after=10) is PASS
    world.change(pod("a", container(9, ended=at(12))))
    assert await world.verdict(after=10) is FAIL


async def test_it_may_do_so_in_the_next_stage() -> None:
    world = World(pod("a", container(7, ended=at(-3), down=True)))
    await world.ask()
    world.go_to(TWO)
    world.change(pod("a", container(8, ended=at(-3))))
    assert await world.verdict() is PASS


async def test_a_pod_that_came_in_the_stage_may_restart() -> None:
    world = World(pod("a"))
    await world.ask()
    world.change(pod("a"), pod("b", container(0), created=at(5)))
    assert await world.verdict(after=10) is PASS
    world.change(pod("a"), pod("b", container(3), created=at(5)))
    assert await world.verdict(after=10) is PASS


async def test_in_the_next_stage_it_is_an_old_one() -> None:
    world = World(pod("a"))
    await world.ask()
    world.change(pod("a"), pod("b", container(3), created=at(5)))
    await world.ask(after=10)
    world.go_to(TWO)
    assert await world.verdict() is PASS
    world.change(pod("a"), pod("b", container(4), created=at(5)))
    assert await world.verdict(after=10) is FAIL


async def test_a_pod_that_ends_may_do_so_as_it_likes() -> None:
    world = World(pod("a"), pod("b"))
    await world.ask()
    world.change(pod("a"), pod("b", container(1), terminating=True))
    assert await world.verdict(after=10) is PASS


async def test_a_restart_after_the_last_look_in_a_stage_counts_in_the_next() -> None:
    world = World(pod("a", container(3)))
    await world.ask()
    world.change(pod("a", container(4)))
    world.now += 9
    world.go_to(TWO)
    assert await world.verdict() is FAIL


async def test_a_restart_that_was_told_is_not_told_in_the_next_stage() -> None:
    world = World(pod("a", container(3)))
    await world.ask()
    world.change(pod("a", container(4)))
    assert await world.verdict(after=5) is FAIL
    for stage in (TWO, THREE):
        world.now += 5
        world.go_to(stage)
        assert await world.verdict() is PASS
    world.change(pod("a", container(5)))
    assert await world.verdict(after=5) is FAIL


async def test_the_first_look_in_a_stage_is_a_fresh_one_even_after_errors() -> None:
    world = World(pod())
    world.error = Unavailable("GET /x: no answer in time")
    with pytest.raises(Unavailable):
        await world.ask()
    world.error = None
    await world.ask(after=1)
    await world.ask(after=10)
    world.go_to(TWO)
    await world.ask()
    await world.ask(after=10)
    assert world.fresh == [True, True, False, True, False]


async def test_an_error_between_two_looks_forgets_nothing() -> None:
    world = World(pod("a"))
    await world.ask()
    world.error = Unavailable("GET /x: no answer in time")
    with pytest.raises(Unavailable):
        await world.ask(after=10)
    world.error = None
    world.change(pod("a", container(1)))
    assert await world.verdict(after=10) is FAIL


# A first look that comes late: a new leader, an initialDelay


LATE = 300.0


async def late(*pods: Pod) -> World:
    """The stage began at 0, and nobody has looked."""
    world = World(*pods)
    world.now = LATE
    return world


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (-100.0, PASS),
        (10.0, PASS),
        (SKEW - 1, PASS),
        (SKEW + 1, FAIL),
        (LATE - 1, FAIL),
        (LATE + 30, PASS),
    ],
    ids=["before", "a clock may be ahead", "just too near", "in the stage", "just now", "a clock that is wrong"],
)
async def test_a_late_look_believes_only_what_a_clock_cannot_have_moved(ended: float, verdict: Verdict) -> None:
    world = await late(pod("a", container(5, ended=at(ended))))
    assert await world.verdict() is verdict


async def test_without_times_a_late_look_finds_nothing() -> None:
    world = await late(pod("a", container(5)), pod("b", Container("app", 5, "yesterday", "today", "")))
    assert await world.verdict() is PASS


async def test_who_went_down_in_the_stage_restarts_when_it_comes_up() -> None:
    world = await late(pod("a", container(5, ended=at(200), down=True)))
    assert await world.verdict() is PASS
    world.change(pod("a", container(6, ended=at(200))))
    assert await world.verdict(after=10) is FAIL


@pytest.mark.parametrize(
    ("created", "verdict"),
    [(-SKEW - 10, FAIL), (-10.0, PASS), (100.0, PASS)],
    ids=["older", "not for certain", "younger"],
)
async def test_a_late_look_takes_for_old_only_what_is_for_certain(created: float, verdict: Verdict) -> None:
    world = await late(pod("a", container(5, ended=at(-200)), created=at(created)))
    await world.ask()
    world.change(pod("a", container(6, ended=at(305)), created=at(created)))
    assert await world.verdict(after=10) is verdict


async def test_without_a_wall_clock_nothing_is_believed() -> None:
    question = Question(CHECK, SUBJECT, ONE, TIMEOUT, LATE)
    world = World(pod("a", container(5, ended=at(200))))
    assert (await probe(question, Means(None, None, world))).verdict is PASS  # type: ignore[arg-type]


# What cannot be asked


async def test_a_workload_that_is_absent_is_an_error() -> None:
    world = World()
    world.workload = None
    assert await world.ask() == Finding(ERROR, "", "there is no Deployment shop/checkout, expected one")


async def test_without_access_to_workloads_it_is_an_error() -> None:
    finding = await probe(Question(CHECK, SUBJECT, ONE, TIMEOUT), Means(None))  # type: ignore[arg-type]
    assert finding == Finding(ERROR, "", "this program may not look at workloads")


async def test_what_another_kind_left_is_not_read() -> None:
    world = World(pod())
    world.memory.kept = {"of": "somebody else"}
    assert await world.verdict() is PASS
    assert isinstance(world.memory.kept, Seen)


def test_the_timeout_is_fixed() -> None:
    assert timeout(CHECK) == TIMEOUT


# In the runner


async def test_the_runner_keeps_its_memory_as_long_as_the_check() -> None:
    """Over probes and stages; not over an edit of the check, nor over another candidate."""
    time, world = VirtualTime(), World(pod("a"))
    told: list[Verdict] = []
    runner = Runner(
        Means(None, None, world),  # type: ignore[arg-type]
        time,
        lambda _: None,
        probed=lambda _, __, one: told.append(one.verdict),
        sleep=time.sleep,
    )
    key = RolloutKey("shop", "checkout", "uid", 8, "9d3c")

    def watch(stage: StageKey, hash_: str = "h", key: RolloutKey = key) -> None:
        runner.watch(key, (CheckPlan(CHECK, hash_, 10.0, 0.0),), SUBJECT, stage, 0)

    watch(ONE)
    await time.advance(5)
    world.change(pod("a", container(1)))
    watch(TWO)
    await time.advance(1)
    assert told == [PASS, FAIL]
    watch(TWO, "edited")
    await time.advance(1)
    assert told == [PASS, FAIL, PASS]
    watch(TWO, "edited", key._replace(version=9))
    await time.advance(1)
    assert told == [PASS, FAIL, PASS, PASS]
    world.error = Forbidden("no right to list pods in namespace shop", status=403)
    await time.advance(10)
    assert runner.report(key)[0].unsaved[-1].message == "no right to list pods in namespace shop"
    assert told[-2:] == [ERROR, ERROR]
    await runner.close()
