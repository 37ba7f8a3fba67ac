"""No probe is lost and none counted twice, however probes, reports, writes and stages cross."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.servers.virtual import VirtualTime

from configregistry.health import Finding, Kind, Question, RolloutKey, Runner, StageKey, Subject
from configregistry.health.unsaved import MAX_PASSES, Unsaved
from configregistry.model.spec import Check, HttpCheck
from configregistry.model.status import Canary
from configregistry.rollout.gates import count
from configregistry.rollout.observation import CheckReport, Probe, Verdict
from configregistry.rollout.plan import CheckPlan, Plan

PASS, FAIL, ERROR, NO_DATA = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA
URGENT = (FAIL, ERROR)
verdicts = st.sampled_from(list(Verdict))


class UnsavedBesideAList(RuleBasedStateMachine):
    """`Unsaved` beside a plain list that keeps every probe."""

    def __init__(self) -> None:
        super().__init__()
        self.unsaved = Unsaved()
        self.offered: list[tuple[Verdict, bool]] = []
        self.fresh: list[Verdict] = []
        self.number = 0

    @rule(verdict=verdicts, times=st.integers(1, 5))
    def add(self, verdict: Verdict, times: int) -> None:
        for _ in range(times):
            self.number += 1
            self.unsaved.add(Probe(verdict, str(self.number), "", ""), verdict)
            self.fresh.append(verdict)

    @rule()
    def offer(self) -> None:
        live = [verdict for verdict, void in self.offered if not void] + self.fresh
        kept = [verdict for at, verdict in enumerate(live) if verdict is not NO_DATA or at == len(live) - 1]
        self.offered, self.fresh = [(verdict, False) for verdict in kept], []
        given_now = self.unsaved.offer()
        assert [probe.verdict for probe in given_now] == kept
        numbers = [int(probe.value) for probe in given_now]
        assert numbers == sorted(numbers)

    @rule(number=st.integers(0, 12))
    def saved(self, number: int) -> None:
        self.unsaved.saved(number)
        self.offered = self.offered[number:]

    @rule()
    def all_saved(self) -> None:
        self.unsaved.saved(len(self.offered))
        self.offered = []

    @rule()
    def stage_over(self) -> None:
        self.unsaved.forget_passes()
        self.offered = [(verdict, void or verdict not in URGENT) for verdict, void in self.offered]
        self.fresh = [verdict for verdict in self.fresh if verdict in URGENT]

    @invariant()
    def says_whether_something_is_urgent(self) -> None:
        waiting = [verdict for verdict, _ in self.offered] + self.fresh
        assert self.unsaved.urgent == any(verdict in URGENT for verdict in waiting)


TestUnsavedBesideAList = UnsavedBesideAList.TestCase


def test_a_stage_change_between_report_and_save_shifts_nothing() -> None:
    unsaved = Unsaved()
    for verdict in (PASS, PASS, FAIL):
        unsaved.add(Probe(verdict, "", "", ""), verdict)
    assert len(unsaved.offer()) == 3
    unsaved.forget_passes()
    unsaved.saved(2)
    assert unsaved.urgent
    assert [probe.verdict for probe in unsaved.offer()] == [FAIL]
    unsaved.saved(1)
    assert not unsaved.urgent
    assert unsaved.offer() == ()


def test_memory_is_bounded_while_nothing_is_saved() -> None:
    unsaved = Unsaved()
    for number in range(3 * MAX_PASSES):
        unsaved.add(Probe(PASS, str(number), "", ""), PASS)
        unsaved.add(Probe(NO_DATA, "", "", ""), NO_DATA)
        if number % 1000 == 0:
            unsaved.offer()
            assert len(unsaved._offered) + len(unsaved._fresh) < 5
    assert len(unsaved.offer()) == MAX_PASSES + 1


actions = st.one_of(
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.4, 1.0, 2.5])),
    st.tuples(st.sampled_from(["report", "write", "lose", "stage", "watch"]), st.none()),
)


class Reconciler:
    """The least that a reconciler does, with a status that is kept for certain."""

    def __init__(self, script: list[tuple[Verdict, float]]) -> None:
        self.time = VirtualTime()
        self.script = script
        self.check = CheckPlan(Check("c", http=HttpCheck("http://h/")), "hash", 1.0, 0.0)
        self.plan = Plan((), 0, "", 0.0, (self.check,), (), "", True, 600.0, False)
        self.key = RolloutKey("n", "r", "u", 2, "h")
        self.canary = Canary(2, "h", step_started_at="0")
        self.runner = Runner(
            None,  # type: ignore[arg-type]
            self.time,
            lambda _: None,
            sleep=self.time.sleep,
            kinds={"http": Kind(self._probe, lambda _: 5.0, lambda *_: None)},
        )
        self.reports: tuple[CheckReport, ...] = ()
        self.watched = StageKey.of(self.canary)
        self.urgent: list[Verdict] = []
        """Every Fail and Error that a prober has given."""
        self.passes: list[StageKey] = []
        """The stage of every Pass, where it was still the stage when the probe ended."""

    async def _probe(self, question: Question, _: Any) -> Finding:
        assert len(self.urgent) == self._stored_urgent(), "probed before it was stored"
        verdict, seconds = self.script.pop(0) if self.script else (PASS, 0.0)
        await self.time.sleep(seconds)
        if verdict in URGENT:
            self.urgent.append(verdict)
        elif verdict is PASS and question.stage == self.watched:
            self.passes.append(question.stage)
        return Finding(verdict)

    def _stored_urgent(self) -> int:
        return sum(state.failed + state.errors for state in self.canary.checks)

    def watch(self) -> None:
        self.watched = StageKey.of(self.canary)
        self.runner.watch(self.key, (self.check,), Subject("n", "r", 2, "h", 1), self.watched, 0.0)

    def report(self) -> None:
        """As every reconcile does: watch what the status says now, then ask."""
        self.watch()
        self.reports = self.runner.report(self.key)

    def write(self) -> None:
        """An accepted write of what was reported, and its acknowledgement."""
        self.canary = count(self.canary, self.plan, self.reports)
        self.runner.saved(self.key, {each.name: len(each.unsaved) for each in self.reports})
        self.reports = ()

    def lose(self) -> None:
        """A conflict: nothing was written, and all is reported anew."""
        self.reports = ()

    def stage(self) -> None:
        """A write that begins a stage; the runner is told of it at the next `watch`."""
        checks = tuple(msgspec.structs.replace(each, passed=0) for each in self.canary.checks)
        began = str(int(self.canary.step_started_at) + 1)
        self.canary = msgspec.structs.replace(self.canary, step_started_at=began, checks=checks)


# No deadline: how long an example takes says how busy the machine is, and nothing else.
@settings(deadline=None)
@given(
    st.lists(actions, max_size=40),
    st.lists(st.tuples(verdicts, st.sampled_from([0.0, 0.3, 1.7])), max_size=30),
)
def test_each_probe_is_counted_once(steps: list[tuple[str, float | None]], script: list[tuple[Verdict, float]]) -> None:
    async def run() -> None:
        world = Reconciler(script)
        world.watch()
        for name, seconds in steps:
            if seconds is not None:
                await world.time.advance(seconds)
            elif name != "stage":
                getattr(world, name)()
            elif world.watched == StageKey.of(world.canary):
                # As a reconciler does: one decision counts what is reported, and begins the stage.
                world.report()
                await world.time.advance(0.2)
                world.write()
                world.stage()
        world.watch()
        await world.time.advance(9)
        for _ in range(99):
            world.report()
            world.write()
            await world.time.advance(1)
        world.report()
        world.write()
        [state] = world.canary.checks
        assert state.failed == world.urgent.count(FAIL)
        assert state.errors == world.urgent.count(ERROR)
        assert state.passed == world.passes.count(world.watched)
        await world.runner.close()

    asyncio.run(run())
