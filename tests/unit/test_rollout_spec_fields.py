"""Each field of spec.rollout has its effect, from the start and when it is edited in the middle."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.rollout_world import World, bring, check, rolling, served, steps

from configregistry.model.spec import Check, MatchRule, RolloutSpec
from configregistry.rollout.observation import HookState, Verb, Verdict
from configregistry.rollout.plan import PRESETS
from configregistry.rollout.table import Phase

EU = (MatchRule("region", ("eu-test",)),)


def preset() -> None:
    world = rolling(preset="Linear50PercentEvery30Seconds")
    world.run(29)
    assert world.canary.weight == 50
    world.run(1)
    assert (world.canary.weight, world.phase) == (100, Phase.BAKING)
    world.run(60)
    assert world.at(Phase.STEADY)


def steps_() -> None:
    world = rolling(5, "2s", 50, "3s")
    seen = [(world.canary.weight, world.canary.current_step_index)]
    while world.status.canary is not None:
        world.run(1)
        if world.status.canary is not None:
            seen.append((world.canary.weight, world.canary.current_step_index))
    assert seen == [(5, 0), (5, 0), (50, 2), (50, 2), (50, 2)]


def bake() -> None:
    world = rolling(bake="5s")
    assert (world.phase, world.canary.weight) == (Phase.BAKING, 100)
    world.run(4)
    assert world.at(Phase.BAKING)
    world.run(1)
    assert world.at(Phase.STEADY)


def match() -> None:
    assert rolling(5, "1h", match=EU).canary.match == EU
    assert first_write(match=EU).canary.match == EU


def first_write(**more: Any) -> World:
    """Who gets it is right in the very write that starts it, not put right by a second one."""
    world = served(asked="two", steps=steps(5, "1h"), **more)
    world.record("two")
    assert world.once().changed
    return world


def seed() -> None:
    assert first_write(seed="2026").canary.seed == "2026"
    world = rolling(5, "1h")
    assert world.canary.seed == world.canary.hash
    assert rolling(5, "1h", seed="2026").canary.seed == "2026"


def checks() -> None:
    world = rolling(5, "2s", checks=[check("a"), check("b")])
    world.run(3, passing=False)
    world.probe(Verdict.PASS, "a")
    world.settle()
    assert world.canary.weight == 5
    world.probe(Verdict.PASS, "b")
    world.settle()
    assert world.canary.weight == 100


def on_failure() -> None:
    world = rolling(5, "1h", checks=[check()], on_failure="Pause")
    world.probe(Verdict.FAIL)
    world.settle()
    assert (world.phase, world.canary.weight) == (Phase.FAILED, 5)
    world.edit(on_failure="Rollback")
    world.settle()
    assert world.at(Phase.STEADY)
    assert world.status.rejected[0].reason == "CheckFailed"


def progress_deadline() -> None:
    world = rolling(5, "2s", checks=[check()], progress_deadline="10s")
    world.run(11, passing=False)
    assert world.at(Phase.STEPPING)
    world.run(1, passing=False)
    assert world.at(Phase.STEADY)
    assert "progressDeadline 10s" in world.status.rejected[0].message
    assert "errors" in world.status.rejected[0].message


def paused() -> None:
    world = rolling(5, "2s", paused=True, match=EU)
    assert (world.phase, world.canary.weight, world.canary.match) == (Phase.QUEUED, 0, ())
    world.run(10)
    assert world.at(Phase.QUEUED)
    world.edit(paused=False)
    world.settle()
    assert (world.phase, world.canary.weight, world.canary.match) == (Phase.STEPPING, 5, EU)


EFFECTS = {"preset": preset, "steps": steps_, "bake": bake, "match": match, "seed": seed, "checks": checks,
           "on_failure": on_failure, "progress_deadline": progress_deadline, "paused": paused}  # fmt: skip


# A policy is put into the spec before the plan is made: test_rollout_policy.py.
@pytest.mark.parametrize("name", [name for name in RolloutSpec.__struct_fields__ if name != "policy_ref"])
def test_each_field_has_an_effect(name: str) -> None:
    EFFECTS[name]()


def outcome(one: Check, *verdicts: Verdict) -> tuple[str, bool]:
    """What a check's verdicts lead to at 5 %, with the pause over: the phase, and whether the stage ended."""
    world = rolling(5, "1s", 50, "1h", checks=[one])
    world.tick(2)
    for verdict in verdicts:
        world.probe(verdict)
        world.settle()
    return world.phase.value, world.status.canary is not None and world.canary.weight == 50


P, F, E, N = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA


@pytest.mark.parametrize(
    ("one", "verdicts", "expected"),
    [
        (check(), (P,), ("Stepping", True)),
        (check(), (F,), ("Steady", False)),
        (check(), (N, N, N), ("Stepping", False)),
        (check(failure_limit=1), (F,), ("Stepping", False)),
        (check(failure_limit=1), (F, F), ("Steady", False)),
        (check(failure_limit=1), (F, P, F), ("Steady", False)),
        (check(), (E, E, E, E), ("Stepping", False)),
        (check(), (E, E, E, E, E), ("Steady", False)),
        (check(), (E, E, E, E, N, E), ("Stepping", False)),
        (check(consecutive_error_limit=0), (E,), ("Steady", False)),
        (check(consecutive_error_limit=1), (E, F), ("Steady", False)),
        (check(no_data="Fail"), (N,), ("Steady", False)),
        (check(no_data="Fail", failure_limit=1), (N,), ("Stepping", False)),
        (check(no_data="Pass"), (N,), ("Stepping", True)),
        (check(no_data="Wait"), (N, P), ("Stepping", True)),
    ],
)
def test_the_limits_of_a_check(one: Check, verdicts: tuple[Verdict, ...], expected: tuple[str, bool]) -> None:
    assert outcome(one, *verdicts) == expected


def test_failures_count_over_all_stages_and_passes_in_each() -> None:
    world = rolling(5, "2s", 50, "2s", checks=[check(failure_limit=1)])
    world.probe(F)
    world.settle()
    world.run(2)
    assert world.canary.weight == 50
    assert [(state.passed, state.failed) for state in world.canary.checks] == [(0, 1)]
    world.probe(F)
    world.settle()
    assert world.at(Phase.STEADY)


def test_preset_names_are_those_of_the_documents() -> None:
    assert list(PRESETS) == [
        "AllAtOnce",
        "Linear50PercentEvery30Seconds",
        "Linear20PercentEvery6Minutes",
        "Canary10Percent20Minutes",
    ]


# --- edited in the middle ---------------------------------------------------------------------------------------


def middle(**more: Any) -> World:
    world = rolling(5, "10s", 50, "10s", checks=[check(failure_limit=2)], **more)
    world.run(12)
    world.probe(F)
    world.settle()
    assert world.canary.weight == 50
    assert world.canary.checks[0].failed == 1
    return world


@pytest.mark.parametrize("phase", [Phase.STEPPING, Phase.WAITING, Phase.BAKING], ids=lambda phase: phase.value)
def test_edited_steps_start_the_same_candidate_again(phase: Phase) -> None:
    world = bring(World(), phase)
    before, revision = world.canary, world.status.revision
    world.edit(steps=steps(3, "10s", 60, "10s"))
    world.settle()
    after = world.canary
    assert (after.version, after.started_at) == (before.version, before.started_at)
    assert (after.weight, after.current_step_index, after.steps, after.elapsed) == (3, 0, 4, "0s")
    assert (after.baking, after.paused) == (False, None)
    assert world.status.revision == revision + 1


@pytest.mark.parametrize(
    ("phase", "go_on"), [(Phase.PAUSED, Verb.RESUME), (Phase.FAILED, Verb.RESUME), (Phase.FROZEN, None)]
)
def test_edited_steps_wait_for_the_pause_to_be_lifted(phase: Phase, go_on: Verb | None) -> None:
    world = bring(World(), phase)
    weight = world.canary.weight
    world.edit(steps=steps(3, "10s", 60, "10s"))
    world.settle()
    assert (world.phase, world.canary.weight) == (phase, weight)
    if go_on:
        world.command(go_on)
    world.edit(paused=False)
    world.settle()
    assert (world.canary.weight, world.canary.current_step_index) == (3, 0)


def test_edited_steps_keep_the_failures() -> None:
    world = middle()
    world.edit(steps=steps(3, "10s"))
    world.settle()
    assert (world.canary.checks[0].failed, world.canary.checks[0].passed) == (1, 0)


def test_a_stage_that_begins_again_is_another_stage() -> None:
    """Its passes are told apart by stepStartedAt, even within one tick of the wall clock."""
    world = rolling(5, "10s")
    first = world.canary
    world.edit(steps=steps(70, "10s"))
    world.settle()
    assert world.canary.current_step_index == first.current_step_index
    assert world.canary.step_started_at != first.step_started_at
    assert world.canary.step_started_at.startswith("2026-01-05T10:00:00.")


def test_the_same_steps_by_another_name_are_no_edit() -> None:
    world = rolling(50, "30s", bake="1m")
    world.run(10)
    before = world.canary
    world.edit(preset="Linear50PercentEvery30Seconds", steps=(), bake=None)
    world.settle()
    assert world.canary == before


def test_match_and_seed_change_who_gets_it_and_nothing_else() -> None:
    world = middle()
    before, revision = world.canary, world.status.revision
    world.edit(match=EU)
    world.settle()
    world.edit(seed="2026")
    world.settle()
    after = world.canary
    assert (after.match, after.seed) == (EU, "2026")
    assert (after.weight, after.step_started_at, after.checks[0].failed) == (
        before.weight,
        before.step_started_at,
        before.checks[0].failed,
    )
    assert world.status.revision == revision + 2
    world.edit(seed="")
    world.settle()
    assert world.canary.seed == world.canary.hash


def test_the_counters_of_edited_checks_restart_and_only_those() -> None:
    world = rolling(5, "1h", checks=[check("a", failure_limit=2), check("b", failure_limit=2)])
    world.probe(F)
    world.settle()
    assert [state.failed for state in world.canary.checks] == [1, 1]
    world.edit(checks=(check("a", failure_limit=2), check("b", failure_limit=3), check("c")))
    world.tick(10)
    world.settle()
    assert [(state.name, state.failed) for state in world.canary.checks] == [("a", 1), ("b", 0), ("c", 0)]
    world.edit(checks=(check("a", failure_limit=2),))
    world.tick(10)
    world.settle()
    assert [state.name for state in world.canary.checks] == ["a"]


def test_a_check_that_is_added_must_pass_too() -> None:
    world = rolling(5, "10s", 50, "1h", checks=[check("a")])
    world.run(5)
    world.edit(checks=(check("a"), check("b")))
    world.tick(10)
    world.settle()
    assert world.canary.weight == 5
    world.probe(P, "b")
    world.settle()
    assert world.canary.weight == 50


def test_progress_deadline_counts_as_edited() -> None:
    world = rolling(5, "1s", checks=[check()])
    world.run(30, passing=False)
    assert world.at(Phase.STEPPING)
    world.edit(progress_deadline="20s")
    world.settle()
    assert world.at(Phase.STEADY)


def test_edited_steps_are_not_overdue_by_the_time_of_the_old_ones() -> None:
    world = rolling(5, "1h", 50, checks=[check()], progress_deadline="1m")
    world.run(600, each=10, passing=False)
    world.edit(steps=steps(5, "5s", 50))
    world.settle()
    assert (world.phase, world.canary.elapsed) == (Phase.STEPPING, "0s")


@pytest.mark.parametrize(("before", "after", "phase"), [("1h", "3s", Phase.STEADY), ("3s", "1h", Phase.BAKING)])
def test_bake_counts_as_edited(before: str, after: str, phase: Phase) -> None:
    world = rolling(bake=before)
    world.run(2)
    world.edit(bake=after)
    world.settle()
    world.run(2)
    assert world.at(phase)


def test_a_bake_that_is_added_in_the_last_stage() -> None:
    world = rolling(100, "5s")
    world.edit(bake="5s")
    world.run(6)
    assert world.at(Phase.BAKING)


def test_paused_in_the_middle_keeps_weight_and_time() -> None:
    world = rolling(5, "10s", 50, "1h")
    world.run(6)
    world.edit(paused=True)
    world.settle()
    world.run(60)
    assert (world.phase, world.canary.weight) == (Phase.FROZEN, 5)
    world.edit(paused=False)
    world.settle()
    world.run(3)
    assert world.canary.weight == 5
    world.run(1)
    assert world.canary.weight == 50


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.PAUSED, Phase.FROZEN, Phase.BAKING], ids=lambda p: p.value)
def test_checks_go_on_in_every_pause(phase: Phase) -> None:
    world = bring(World(), phase)
    world.edit(checks=(check(),))
    world.settle()
    world.probe(F)
    world.settle()
    assert world.at(Phase.STEADY)
    assert world.status.rejected[0].reason == "CheckFailed"


def test_spec_paused_shows_on_a_queued_candidate() -> None:
    world = rolling(5, "1h", hook=HookState.PENDING)
    for wanted, by in ((True, "Spec"), (False, None)):
        world.edit(paused=wanted)
        world.settle()
        assert (world.canary.paused and world.canary.paused.by) == by
        assert world.at(Phase.QUEUED)
