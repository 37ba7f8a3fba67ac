"""When the runner probes, what it keeps and whom it wakes, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.servers.virtual import VirtualTime

from configregistry.errors import FieldError
from configregistry.health import Finding, Kind, Question, RolloutKey, Runner, StageKey, Subject
from configregistry.model.spec import Check, HttpCheck
from configregistry.rollout.observation import Probe, Verdict
from configregistry.rollout.plan import CheckPlan

PASS, FAIL, ERROR, NO_DATA = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA
KEY = RolloutKey("shop", "checkout", "uid", 8, "9d3c")
SUBJECT = Subject("shop", "checkout", 8, "9d3c", 7)
ONE, TWO = StageKey(0, False, "t1"), StageKey(1, False, "t2")


def plan(name: str = "alive", *, interval: float = 10.0, delay: float = 0.0, **spec: Any) -> CheckPlan:
    check = Check(name, http=HttpCheck("http://h/"), **spec)
    return CheckPlan(check, f"{name} {interval} {delay} {sorted(spec.items())}", interval, delay)


class World:
    """A runner whose probers do as they are told, and all that it did."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.asked: list[tuple[str, float]] = []
        self.questions: list[Question] = []
        self.changed: list[tuple[RolloutKey, float]] = []
        self.probed: list[tuple[str, Verdict]] = []
        self.answers: dict[str, list[Verdict | float | BaseException]] = {}
        """By check: what its probes do next (verdict, seconds, exception); then it passes."""
        self.runner = Runner(
            None,  # type: ignore[arg-type]
            self.time,
            lambda key: self.changed.append((key, self.time.now)),
            probed=lambda _, check, probe: self.probed.append((check.name, probe.verdict)),
            sleep=self.time.sleep,
            kinds={"http": Kind(self._probe, lambda _: 5.0, lambda *_: None)},
        )

    async def _probe(self, question: Question, _: object) -> Finding:
        self.asked.append((question.check.name, self.time.now))
        self.questions.append(question)
        verdict = PASS
        while script := self.answers.get(question.check.name):
            following = script.pop(0)
            if isinstance(following, BaseException):
                raise following
            if isinstance(following, Verdict):
                verdict = following
                break
            await self.time.sleep(following)
        return Finding(verdict, "", verdict.value)

    def watch(self, *checks: CheckPlan, stage: StageKey = ONE, started: float = 0.0, key: RolloutKey = KEY) -> None:
        self.runner.watch(key, checks or (plan(),), SUBJECT, stage, started)

    def report(self, key: RolloutKey = KEY) -> dict[str, tuple[list[Verdict], bool]]:
        return {each.name: ([probe.verdict for probe in each.unsaved], each.passed) for each in self.runner.report(key)}

    def save(self, key: RolloutKey = KEY) -> None:
        self.runner.saved(key, {each.name: len(each.unsaved) for each in self.runner.report(key)})

    def times(self, name: str = "alive") -> list[float]:
        return [at for asked, at in self.asked if asked == name]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.runner.close()
    assert len(asyncio.all_tasks()) == 1


# When it probes


async def test_probes_at_once_and_then_every_interval(world: World) -> None:
    world.watch()
    await world.time.advance(25)
    assert world.times() == [0, 10, 20]


async def test_the_interval_is_from_start_to_start(world: World) -> None:
    world.answers["alive"] = [4.0, PASS, 3.0]
    world.watch()
    await world.time.advance(25)
    assert world.times() == [0, 10, 20]


async def test_a_probe_longer_than_the_interval_is_followed_at_once_and_never_overlapped(
    world: World,
) -> None:
    world.answers["alive"] = [3.0, PASS, 3.0, PASS]
    world.watch(plan(interval=2))
    await world.time.advance(9)
    assert world.times() == [0, 3, 6, 8]


@pytest.mark.parametrize(
    ("delay", "started", "first"), [(30, 0, 30), (30, 12, 18), (30, 30, 0), (30, 99, 0), (0, 0, 0)]
)
async def test_initial_delay_counts_from_the_start_of_the_rollout(
    world: World, delay: float, started: float, first: float
) -> None:
    world.watch(plan(delay=delay), started=started)
    await world.time.advance(35)
    assert world.times()[0] == first


async def test_a_new_stage_does_not_shorten_the_initial_delay(world: World) -> None:
    world.watch(plan(delay=30))
    await world.time.advance(10)
    world.watch(plan(delay=30), stage=TWO, started=10)
    await world.time.advance(15)
    assert world.times() == []
    await world.time.advance(5)
    assert world.times() == [30]


async def test_watching_again_changes_nothing(world: World) -> None:
    for _ in range(5):
        world.watch(started=world.time.now)
        await world.time.advance(5)
    assert world.times() == [0, 10, 20]


async def test_a_new_stage_is_probed_at_once(world: World) -> None:
    world.watch()
    await world.time.advance(4)
    world.watch(stage=TWO)
    await world.time.advance(15)
    assert world.times() == [0, 4, 14]
    assert [question.stage for question in world.questions] == [ONE, TWO, TWO]


async def test_an_edited_check_starts_anew_and_the_others_go_on(world: World) -> None:
    world.watch(plan("a"), plan("b"))
    await world.time.advance(4)
    world.watch(plan("a", failure_limit=3), plan("b"))
    await world.time.advance(7)
    assert (world.times("a"), world.times("b")) == ([0, 4], [0, 10])


async def test_a_gone_check_stops_even_in_its_probe(world: World) -> None:
    world.answers["a"] = [4.0]
    world.watch(plan("a"), plan("b"))
    await world.time.advance(1)
    world.watch(plan("b"))
    await world.time.advance(20)
    assert (world.times("a"), world.times("b")) == ([0], [0, 10, 20])
    assert list(world.report()) == ["b"]
    assert ("a", PASS) not in world.probed


async def test_forget_stops_and_forgets(world: World) -> None:
    world.watch()
    await world.time.advance(1)
    world.runner.forget(KEY)
    world.runner.forget(KEY)
    await world.time.advance(20)
    assert (world.times(), world.report(), world.runner.keys) == ([0], {}, frozenset())


async def test_a_slow_check_delays_no_other(world: World) -> None:
    other = KEY._replace(registry="other")
    world.answers["slow"] = [4.9] * 100
    world.watch(plan("slow", interval=1), plan("quick", interval=1))
    world.watch(plan("elsewhere", interval=1), key=other)
    await world.time.advance(3)
    assert world.times("quick") == world.times("elsewhere") == [0, 1, 2, 3]


async def test_close_ends_a_probe_under_way(world: World) -> None:
    world.answers["alive"] = [4.0]
    world.watch()
    await world.time.advance(1)
    await world.runner.close()
    assert len(asyncio.all_tasks()) == 1
    assert world.runner.keys == frozenset()


async def test_after_close_nothing_is_probed(world: World) -> None:
    await world.runner.close()
    world.watch()
    await world.time.advance(1)
    assert (world.times(), world.report(), world.runner.keys) == ([], {}, frozenset())


async def test_the_subject_may_change(world: World) -> None:
    world.watch()
    await world.time.advance(1)
    world.runner.watch(KEY, (plan(),), SUBJECT._replace(stable_version=9), ONE, 0)
    await world.time.advance(10)
    assert [question.subject.stable_version for question in world.questions] == [7, 9]


# What it keeps


@pytest.mark.parametrize("verdict", [FAIL, ERROR])
async def test_after_a_fail_or_an_error_it_waits_until_that_is_stored(world: World, verdict: Verdict) -> None:
    world.answers["alive"] = [PASS, verdict]
    world.watch()
    await world.time.advance(95)
    assert world.times() == [0, 10]
    assert world.report() == {"alive": ([PASS, verdict], True)}
    world.runner.saved(KEY, {"alive": 1})
    await world.time.advance(10)
    assert world.report() == {"alive": ([verdict], True)}
    world.runner.saved(KEY, {"alive": 1})
    await world.time.advance(12)
    assert world.times() == [0, 10, 105, 115]


async def test_stored_in_time_a_fail_does_not_shift_the_interval(world: World) -> None:
    world.answers["alive"] = [FAIL]
    world.watch()
    await world.time.advance(2)
    world.save()
    await world.time.advance(20)
    assert world.times() == [0, 10, 20]


async def test_only_the_check_that_failed_waits(world: World) -> None:
    world.answers["a"] = [FAIL]
    world.watch(plan("a"), plan("b"))
    await world.time.advance(25)
    assert (world.times("a"), world.times("b")) == ([0], [0, 10, 20])


async def test_a_new_stage_does_not_free_a_check_whose_fail_is_not_stored(world: World) -> None:
    world.answers["alive"] = [FAIL]
    world.watch()
    await world.time.advance(1)
    world.watch(stage=TWO)
    await world.time.advance(20)
    assert world.times() == [0]
    world.save()
    await world.time.advance(0)
    assert world.times() == [0, 21]


@pytest.mark.parametrize(
    ("policy", "asked", "passed"),
    [("Wait", [0, 10, 20], False), ("Fail", [0], False), ("Pass", [0, 10, 20], True)],
)
async def test_no_data_counts_as_its_policy_says(world: World, policy: str, asked: list[float], passed: bool) -> None:
    world.answers["alive"] = [NO_DATA] * 9
    world.watch(plan(no_data=policy))
    await world.time.advance(25)
    assert world.times() == asked
    assert world.report()["alive"][1] is passed


async def test_passes_go_on_and_are_all_counted(world: World) -> None:
    world.watch(plan(interval=1))
    await world.time.advance(30)
    assert world.report() == {"alive": ([PASS] * 31, True)}
    world.save()
    assert world.report() == {"alive": ([], True)}


async def test_what_came_after_the_report_is_not_taken_for_saved(world: World) -> None:
    world.watch()
    await world.time.advance(11)
    counts = {each.name: len(each.unsaved) for each in world.runner.report(KEY)}
    await world.time.advance(10)
    world.runner.saved(KEY, counts)
    assert world.report() == {"alive": ([PASS], True)}


async def test_a_pass_of_an_earlier_stage_counts_nowhere(world: World) -> None:
    world.watch()
    await world.time.advance(1)
    assert world.report() == {"alive": ([PASS], True)}
    world.watch(stage=TWO)
    assert world.report() == {"alive": ([], False)}
    await world.time.advance(0)
    assert world.report() == {"alive": ([PASS], True)}


@pytest.mark.parametrize(("verdict", "kept"), [(PASS, []), (NO_DATA, []), (FAIL, [FAIL]), (ERROR, [ERROR])])
async def test_of_a_probe_that_began_in_the_stage_before_only_a_fail_or_error_counts(
    world: World, verdict: Verdict, kept: list[Verdict]
) -> None:
    world.answers["alive"] = [4.0, verdict, 2.0]
    world.watch()
    await world.time.advance(1)
    world.watch(stage=TWO)
    await world.time.advance(4)
    assert world.report() == {"alive": (kept, False)}
    assert world.times() == ([0] if kept else [0, 4])


async def test_an_edited_check_has_nothing_unsaved(world: World) -> None:
    world.answers["alive"] = [FAIL]
    world.watch()
    await world.time.advance(1)
    counts = {each.name: len(each.unsaved) for each in world.runner.report(KEY)}
    world.watch(plan(failure_limit=3))
    await world.time.advance(0)
    world.runner.saved(KEY, counts)
    assert world.report() == {"alive": ([PASS], True)}


async def test_a_fail_does_not_take_back_the_pass_of_its_stage(world: World) -> None:
    world.answers["alive"] = [PASS, FAIL]
    world.watch()
    await world.time.advance(11)
    assert world.report() == {"alive": ([PASS, FAIL], True)}


async def test_saving_what_is_not_watched_does_nothing(world: World) -> None:
    world.watch()
    world.runner.saved(KEY, {"gone": 3})
    world.runner.saved(KEY._replace(version=9), {"alive": 3})
    await world.time.advance(1)
    assert world.report() == {"alive": ([PASS], True)}


async def test_a_superseded_candidate_keeps_its_verdict_beside_the_new_one(world: World) -> None:
    newer = KEY._replace(version=9, hash="beef")
    world.answers["alive"] = [FAIL]
    world.watch()
    await world.time.advance(1)
    world.watch(key=newer)
    await world.time.advance(1)
    assert (world.report(), world.report(newer)) == (
        {"alive": ([FAIL], False)},
        {"alive": ([PASS], True)},
    )


async def test_a_probe_tells_wall_time_value_and_message(world: World) -> None:
    world.answers["alive"] = [3.0, FAIL]
    world.watch()
    await world.time.advance(3)
    [report] = world.runner.report(KEY)
    assert report.unsaved == (Probe(FAIL, "", "Fail", "2030-01-01T00:00:03Z"),)


# What goes wrong


def _raised(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "the probe was cancelled"
    if isinstance(error, FieldError):
        return str(error)
    return f"the probe raised {type(error).__name__}"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        FieldError("url", None, "no"),
        KeyError(),
        TimeoutError(),
        asyncio.CancelledError(),
    ],
)
async def test_a_prober_that_raises_is_an_error_and_is_asked_again(world: World, error: BaseException) -> None:
    world.answers["alive"] = [error]
    world.watch()
    await world.time.advance(1)
    [report] = world.runner.report(KEY)
    assert [probe[:3] for probe in report.unsaved] == [(ERROR, "", _raised(error))]
    world.save()
    await world.time.advance(10)
    assert world.report() == {"alive": ([PASS], True)}


async def test_a_prober_that_forgets_its_timeout_is_given_up(world: World) -> None:
    world.answers["alive"] = [99.0]
    world.watch()
    await world.time.advance(6)
    [report] = world.runner.report(KEY)
    assert [probe[:3] for probe in report.unsaved] == [(ERROR, "", "the probe did not end within 5 s")]
    assert world.questions[0].timeout == 5.0


async def test_whoever_is_told_may_fail(world: World) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    world.runner._changed = world.runner._probed = fail
    world.watch()
    await world.time.advance(11)
    assert world.times() == [0, 10]


async def test_a_kind_that_is_not_in_the_table_is_never_a_pass(world: World) -> None:
    world.runner._kinds = {}
    world.watch()
    await world.time.advance(1)
    assert world.report() == {"alive": ([ERROR], False)}


# Whom it wakes


@pytest.mark.parametrize(
    ("verdicts", "wakes"),
    [
        ([PASS, PASS, PASS], [0]),
        ([FAIL, FAIL, FAIL], [0, 10, 20]),
        ([ERROR, ERROR, PASS], [0, 10, 20]),
        ([PASS, FAIL, PASS, PASS], [0, 10, 20]),
        ([NO_DATA, NO_DATA, NO_DATA], [0]),
        ([NO_DATA, PASS, PASS], [0, 10]),
        ([PASS, PASS, NO_DATA, NO_DATA, PASS, PASS], [0, 20, 40]),
    ],
)
async def test_wakes_for_what_may_change_a_decision(world: World, verdicts: list[Verdict], wakes: list[float]) -> None:
    def changed(key: RolloutKey) -> None:
        world.changed.append((key, world.time.now))
        world.save()

    world.answers["alive"] = list(verdicts)
    world.runner._changed = changed
    world.watch()
    await world.time.advance(10 * (len(verdicts) - 1))
    assert world.changed == [(KEY, at) for at in wakes]


async def test_the_first_pass_of_each_stage_wakes(world: World) -> None:
    world.watch()
    await world.time.advance(11)
    world.watch(stage=TWO)
    await world.time.advance(11)
    assert [at for _, at in world.changed] == [0, 11]


async def test_every_probe_is_told_to_the_metrics(world: World) -> None:
    world.answers["alive"] = [PASS, NO_DATA, FAIL]
    world.watch()
    await world.time.advance(50)
    assert world.probed == [("alive", PASS), ("alive", NO_DATA), ("alive", FAIL)]


# What a probe is told of time, and news


async def test_a_probe_is_told_how_long_the_stage_has_run(world: World) -> None:
    world.watch()
    await world.time.advance(14)
    world.runner.watch(KEY, (plan(),), SUBJECT, TWO, 14, elapsed=0.5)
    await world.time.advance(10)
    assert [(at, question.elapsed) for (_, at), question in zip(world.asked, world.questions, strict=True)] == [
        (0, 0),
        (10, 10),
        (14, 0.5),
        (24, 10.5),
    ]


@pytest.mark.parametrize("told", [0.0, 3.0, 500.0])
async def test_the_longest_time_of_a_stage_is_believed(world: World, told: float) -> None:
    """A status that is paused stands still; a leader that saw the stage begin does not forget it."""
    world.watch()
    await world.time.advance(9)
    world.runner.watch(KEY, (plan(), plan("new")), SUBJECT, ONE, 9, elapsed=told)
    await world.time.advance(1)
    assert [question.elapsed for question in world.questions] == [0, max(9, told), max(10, told + 1)]


async def test_news_are_probed_at_once(world: World) -> None:
    world.watch(plan("a"), plan("b"))
    await world.time.advance(3)
    world.runner.news("http", {("shop", "checkout")})
    await world.time.advance(0)
    assert world.times("a") == world.times("b") == [0, 3]
    await world.time.advance(10)
    assert world.times("a") == [0, 3, 13]


@pytest.mark.parametrize(("kind", "name"), [("consumers", "checkout"), ("http", "basket")])
async def test_news_of_others_are_none(world: World, kind: str, name: str) -> None:
    world.watch()
    await world.time.advance(3)
    world.runner.news(kind, {("shop", name)})
    await world.time.advance(3)
    assert world.times() == [0]


async def test_news_do_not_shorten_the_initial_delay(world: World) -> None:
    world.watch(plan(delay=30))
    await world.time.advance(3)
    world.runner.news("http", {("shop", "checkout")})
    await world.time.advance(28)
    assert world.times() == [30]


@pytest.mark.parametrize("verdict", [FAIL, ERROR])
async def test_what_fails_is_counted_at_intervals_whatever_is_new(world: World, verdict: Verdict) -> None:
    world.answers["alive"] = [verdict, 1.0, verdict]
    world.watch()
    await world.time.advance(0)
    world.save()
    await world.time.advance(2)
    world.runner.news("http", {("shop", "checkout")})
    await world.time.advance(8.5)
    assert world.times() == [0, 10]
    world.runner.news("http", {("shop", "checkout")})
    await world.time.advance(1)
    world.save()
    await world.time.advance(8.4)
    assert world.times() == [0, 10]


async def test_news_during_a_probe_are_probed_after_it(world: World) -> None:
    world.answers["alive"] = [2.0, PASS]
    world.watch()
    await world.time.advance(1)
    world.runner.news("http", {("shop", "checkout")})
    await world.time.advance(2)
    assert world.times() == [0, 2]


async def test_news_during_a_probe_that_fails_are_what_it_says(world: World) -> None:
    world.answers["alive"] = [2.0, FAIL]
    world.watch()
    await world.time.advance(1)
    world.runner.news("http", {("shop", "checkout")})
    await world.time.advance(2)
    world.save()
    await world.time.advance(6)
    assert world.times() == [0]
