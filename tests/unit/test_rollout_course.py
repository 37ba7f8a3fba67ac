"""A registry's life: first version, rollouts, pins, rejections, time; and that the table is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.rollout_world import World, bring, check, conditions, hash_of, rolling, served, steps

from configregistry.model import conditions as c
from configregistry.model.durations import parse_duration
from configregistry.model.spec import NameRef
from configregistry.model.status import MAX_REJECTED, MAX_REJECTED_HASHES, Canary, Paused, Rejected, Stable, Status
from configregistry.rollout.changes import Change
from configregistry.rollout.effects import APPLY
from configregistry.rollout.machine import IllegalTransition, apply
from configregistry.rollout.observation import Command, HookState, Problem, Verb, Verdict, VersionInfo
from configregistry.rollout.table import CHECKED, RUNNING, TABLE, Event, Phase, phase_of

# --- the table ---------------------------------------------------------------------------------------------------


def test_every_event_has_an_effect_and_every_phase_a_row() -> None:
    assert set(APPLY) == set(Event)
    assert set(TABLE) == set(Phase)
    assert {event for row in TABLE.values() for event in row} == set(Event)


@pytest.mark.parametrize(
    ("phase", "event"),
    [(phase, event) for phase in Phase for event in Event if event not in TABLE[phase]],
    ids=lambda part: part.name,
)
def test_what_the_table_lacks_raises_and_changes_nothing(phase: Phase, event: Event) -> None:
    world = bring(World(), phase)
    before = world.status
    with pytest.raises(IllegalTransition, match=f"{event.name} in phase {phase.value}"):
        apply(before, Change(event, world.observe()))
    assert world.status == before


def test_an_effect_that_leads_elsewhere_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    world = bring(World(), Phase.STEPPING)
    monkeypatch.setitem(APPLY, Event.PAUSE, APPLY[Event.WAIT])
    with pytest.raises(IllegalTransition, match="PAUSE led from Stepping to Waiting"):
        apply(world.status, Change(Event.PAUSE, world.observe()))


def test_which_phases_run_and_are_checked() -> None:
    assert {phase.name for phase in RUNNING} == {"STEPPING", "BAKING"}
    assert {phase.name for phase in CHECKED} == {"STEPPING", "WAITING", "PAUSED", "FROZEN", "BAKING"}


BEGUN = Canary(2, "h", step_started_at="2026-01-05T10:00:00Z")


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        (Status(), Phase.EMPTY),
        (Status(stable=Stable(1, "g")), Phase.STEADY),
        (Status(canary=Canary(2, "h")), Phase.QUEUED),
        (Status(canary=Canary(2, "h", paused=Paused("Spec"))), Phase.QUEUED),
        (Status(canary=BEGUN), Phase.STEPPING),
        (Status(canary=replace(BEGUN, baking=True)), Phase.BAKING),
        (Status(canary=replace(BEGUN, baking=True, paused=Paused("Command"))), Phase.PAUSED),
        (Status(canary=replace(BEGUN, paused=Paused("Spec"))), Phase.FROZEN),
        (Status(canary=replace(BEGUN, paused=Paused("Step"))), Phase.WAITING),
        (Status(canary=replace(BEGUN, failed=True, baking=True)), Phase.FAILED),
    ],
)
def test_a_phase_is_read_from_the_status_alone(status: Status, phase: Phase) -> None:
    assert phase_of(status) is phase


# --- first version -----------------------------------------------------------------------------------------------


def test_the_first_version_skips_steps_and_checks() -> None:
    world = World()
    world.edit(steps=steps(5, "1h"), checks=(check(),), bake="1h", paused=True, fallback=NameRef("defaults"))
    decisions = world.settle()
    assert [decision.record for decision in decisions] == [True, False]
    stable, outcome = world.status.stable, world.status.last_outcome
    assert stable is not None
    assert (stable.version, stable.hash, stable.keys, stable.since) == (1, hash_of("one"), 1, "2026-01-05T10:00:00Z")
    assert (world.status.revision, world.status.last_version, world.status.previous) == (1, 1, None)
    assert world.status.fallback == NameRef("defaults")
    assert outcome is not None
    assert (outcome.version, outcome.result, outcome.trigger) == (1, "Completed", "System")


@pytest.mark.parametrize("obstacle", [{"problem": Problem(c.INVALID_SPEC, "x")}, {"waiting_for": ("database",)}])
def test_the_first_version_does_not_skip_validation_or_dependencies(obstacle: dict[str, Any]) -> None:
    world = World()
    world.edit(**obstacle)
    world.settle()
    assert world.at(Phase.EMPTY)
    assert not world.versions
    assert world.status.revision == 0


# --- versions ----------------------------------------------------------------------------------------------------


def test_a_rollout_from_the_start_to_the_end() -> None:
    world = rolling(5, "2s", 50, "2s", checks=[check()], bake="2s")
    canary = world.canary
    assert (canary.version, canary.steps, canary.started_at) == (2, 4, "2026-01-05T10:00:00Z")
    assert canary.pre_rollout_done
    world.run(6)
    stable, previous = world.status.stable, world.status.previous
    assert stable is not None
    assert previous is not None
    assert (stable.version, previous.version, previous.hash) == (2, 1, hash_of("one"))
    assert world.status.canary is None
    assert world.status.revision == 1 + 3 + 1  # first; 5, 50 and 100 %; stable
    assert world.told() == ["RolloutStarted", *["StepAdvanced"] * 3, "RolloutCompleted"]


def test_known_content_keeps_its_number() -> None:
    world = rolling(label="two")
    world.edit(asked="one", steps=steps(10, "1h"))
    decisions = world.settle()
    assert not any(decision.record for decision in decisions)
    assert (world.canary.version, world.status.last_version) == (1, 2)


def test_back_to_stable_cancels() -> None:
    world = rolling(5, "1h")
    world.edit(asked="one")
    world.settle()
    assert world.at(Phase.STEADY)
    outcome = world.status.last_outcome
    assert outcome is not None
    assert (outcome.version, outcome.result) == (2, "Cancelled")
    assert not world.status.rejected_hashes


def test_other_content_supersedes_and_starts_at_step_0() -> None:
    world = rolling(5, "2s", 50, "1h")
    world.run(3)
    assert world.canary.weight == 50
    world.edit(asked="three")
    world.settle()
    assert (world.canary.version, world.canary.weight, world.canary.current_step_index) == (3, 5, 0)
    outcome = world.status.last_outcome
    assert outcome is not None
    assert (outcome.version, outcome.result) == (2, "Superseded")
    assert not world.status.rejected_hashes


@pytest.mark.parametrize("asked", ["three", "one"])
def test_a_failed_candidate_is_rejected_however_it_ends(asked: str) -> None:
    world = bring(World(), Phase.FAILED)
    world.edit(asked=asked)
    world.settle()
    assert world.status.rejected_hashes == (hash_of("two"),)
    assert world.status.rejected[0].reason == "CheckFailed"
    world.edit(asked="two")
    world.settle()
    assert conditions(world)["Stalled"] == ("True", c.ROLLED_BACK)


def test_rolling_back_is_one_write() -> None:
    world = rolling(5, "1h", checks=[check()])
    world.tick(1)
    world.probe(Verdict.FAIL, value="500", message="status 500")
    before = world.status
    decision = world.decide()
    after = decision.status
    assert after.canary is None
    assert after.stable == before.stable
    assert after.rejected_hashes == (hash_of("two"),)
    assert after.revision == before.revision + 1
    assert after.last_outcome is not None
    assert (after.last_outcome.result, after.last_outcome.trigger) == ("RolledBack", "Check")
    assert [note.reason for note in decision.notes] == ["CheckFailed", "RolledBack"]
    world.settle()
    world.run(100)
    assert world.at(Phase.STEADY)


def test_rejected_content_stays_rejected_until_it_changes() -> None:
    world = rolling(5, "1h", checks=[check()])
    world.probe(Verdict.FAIL)
    world.settle()
    world.edit(asked="three")
    world.settle()
    world.command(Verb.PROMOTE_FULL)
    world.settle()
    world.edit(asked="two")
    world.settle()
    assert world.status.canary is None
    assert conditions(world)["Stalled"] == ("True", c.ROLLED_BACK)


def test_rejections_are_told_for_10_and_known_for_1000() -> None:
    world = served(steps=steps(5, "1h"))
    for number in range(MAX_REJECTED_HASHES + 5):
        label = f"bad-{number}"
        if number < MAX_REJECTED + 5:
            world.edit(asked=label)
            world.settle()
            world.command(Verb.ABORT)
            world.settle()
        else:
            world.status = replace(world.status, rejected_hashes=(*world.status.rejected_hashes, hash_of(label)))
    assert [entry.hash for entry in world.status.rejected] == [hash_of(f"bad-{number}") for number in range(5, 15)]
    known = world.status.rejection(hash_of("bad-0"))
    assert known == Rejected(0, hash_of("bad-0"), "CheckFailed", "rejected long ago")
    world.edit(asked="last")
    world.settle()
    world.command(Verb.ABORT)
    world.settle()
    assert len(world.status.rejected_hashes) == MAX_REJECTED_HASHES
    assert world.status.rejected_hashes[-1] == hash_of("last")


def test_a_veto_ends_the_candidate_and_rejects_nothing() -> None:
    world = rolling(5, "1h", hook=HookState.PENDING)
    world.hook, world.hook_message = HookState.VETOED, "x" * 50_000
    world.settle()
    assert world.status.canary is None
    assert not world.status.rejected_hashes
    assert world.status.last_outcome is not None
    assert world.status.last_outcome.result == "Cancelled"
    assert len(world.status.last_outcome.message) <= 1024
    world.hook = HookState.ALLOWED
    world.settle()
    assert world.canary.weight == 5


# --- pin ---------------------------------------------------------------------------------------------------------


def three_versions() -> World:
    """1 and 2 were stable, 3 is."""
    world = served()
    for label in ("two", "three"):
        world.edit(asked=label)
        world.settle()
    return world


def test_a_pin_is_served_at_once_by_one_write() -> None:
    world = three_versions()
    revision = world.status.revision
    world.edit(pinned=1, steps=steps(5, "1h"))
    decisions = world.settle()
    assert len(decisions) == 1
    stable, previous = world.status.stable, world.status.previous
    assert stable is not None
    assert previous is not None
    assert (stable.version, stable.hash, previous.version) == (1, hash_of("one"), 3)
    assert world.status.revision == revision + 1
    assert [(entry.version, entry.reason) for entry in world.status.rejected] == [(3, "Unpinned")]
    assert world.told()[-1] == "RolloutCompleted"


def test_clearing_a_pin_does_not_bring_the_content_back() -> None:
    world = three_versions()
    for pinned in (1, None):
        world.edit(pinned=pinned)
        world.settle()
    assert world.status.stable is not None
    assert world.status.stable.version == 1
    assert conditions(world)["Stalled"] == ("True", c.ABORTED)
    world.command(Verb.RETRY, version=3)
    world.settle()
    assert world.status.stable.version == 3


def test_a_pin_cancels_a_candidate() -> None:
    world = rolling(5, "1h")
    world.edit(pinned=1)
    world.settle()
    assert world.at(Phase.STEADY)
    assert not world.status.rejected_hashes
    assert world.status.last_outcome is not None
    assert (world.status.last_outcome.version, world.status.last_outcome.result) == (2, "Cancelled")


def test_a_pin_to_the_candidate_completes_it() -> None:
    world = rolling(5, "1h")
    world.edit(pinned=2)
    world.settle()
    assert world.status.stable is not None
    assert world.status.stable.version == 2
    assert world.status.last_outcome is not None
    assert (world.status.last_outcome.version, world.status.last_outcome.result) == (2, "Completed")


def test_a_pin_to_a_failed_candidate_is_refused() -> None:
    """Content that failed its checks is not served again by a pin either."""
    world = bring(World(), Phase.FAILED)
    before = world.status
    world.edit(pinned=2)
    world.settle()
    assert (world.status.stable, world.status.canary) == (before.stable, before.canary)
    world.edit(pinned=1)
    world.settle()
    assert world.status.rejected_hashes == (hash_of("two"),)


def test_a_pin_to_a_rejected_version_is_refused() -> None:
    world = rolling(5, "1h", checks=[check()])
    world.probe(Verdict.FAIL)
    world.settle()
    world.edit(pinned=2)
    world.settle()
    assert world.status.stable is not None
    assert world.status.stable.version == 1
    stalled = next(each for each in world.status.conditions if each.type == c.STALLED)
    assert (stalled.status, stalled.reason) == ("True", c.INVALID_SPEC)
    assert stalled.message.startswith("spec.pinnedVersion: 2: ")
    assert "CheckFailed" in stalled.message


def test_a_pin_to_an_unknown_version_is_refused() -> None:
    world = three_versions()
    before = world.status.stable
    world.edit(pinned=9)
    world.settle()
    assert world.status.stable == before
    stalled = next(each for each in world.status.conditions if each.type == c.STALLED)
    assert stalled.message == "spec.pinnedVersion: 9: expected a recorded version (latest: 1, 2, 3)"


def test_a_pin_needs_no_valid_content() -> None:
    world = three_versions()
    world.edit(pinned=2, problem=Problem(c.INVALID_SPEC, "x"))
    world.settle()
    assert world.status.stable is not None
    assert world.status.stable.version == 2


def test_a_pin_brings_an_empty_registry_its_version_back() -> None:
    world = World(pinned=1)
    world.record("one")
    world.settle()
    assert world.at(Phase.STEADY)
    assert conditions(world)["Ready"] == ("True", c.PINNED)


def test_a_pin_holds_the_content_and_not_the_fallback() -> None:
    world = three_versions()
    world.edit(pinned=3)
    world.settle()
    revision = world.status.revision
    world.edit(fallback=NameRef("defaults"))
    world.settle()
    assert world.status.fallback == NameRef("defaults")
    assert world.status.revision == revision + 1
    assert conditions(world)["Ready"] == ("True", c.PINNED)


def test_the_fallback_of_an_invalid_spec_is_not_accepted() -> None:
    world = three_versions()
    world.edit(fallback=NameRef("defaults"), problem=Problem(c.INVALID_SPEC, "x"))
    world.settle()
    assert world.status.fallback is None
    world.edit(pinned=3)
    world.settle()
    assert world.status.fallback is None
    assert conditions(world)["Ready"] == ("False", c.INVALID_SPEC)


# --- time --------------------------------------------------------------------------------------------------------


def test_elapsed_is_stored_every_10_seconds() -> None:
    world = rolling(5, "1h")
    world.tick(9.9)
    assert not world.decide().changed
    assert world.decide().wake_in == pytest.approx(0.1)
    world.tick(0.1)
    world.settle()
    assert world.canary.elapsed == "10s"
    assert world.status.revision == 2


def test_a_restart_never_shortens_a_pause() -> None:
    world = rolling(5, "30s", 50, "1h")
    world.tick(10)
    world.settle()
    world.tick(9)
    world.restart()
    world.settle()
    assert world.canary.elapsed == "10s"
    world.tick(19)
    world.settle()
    assert world.canary.weight == 5
    world.tick(1)
    world.settle()
    assert world.canary.weight == 50


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)])
def test_the_wall_clock_does_not_matter(jump: timedelta) -> None:
    world = rolling(5, "30s", 50, "1h", checks=[check()])
    world.run(10)
    world.wall += jump
    world.settle()
    assert world.canary.weight == 5
    world.run(19)
    assert world.canary.weight == 5
    world.run(1)
    assert world.canary.weight == 50


def test_wake_ups_come_when_time_alone_changes_something() -> None:
    world = rolling(5, "3s", 50, "1h", checks=[check()], progress_deadline="4s")
    assert world.decide().wake_in == pytest.approx(3)
    world.tick(3)
    world.settle()
    assert world.decide().wake_in == pytest.approx(4)
    world.tick(4)
    world.settle()
    assert world.at(Phase.STEADY)


def test_a_new_leader_needs_a_pass_of_its_own() -> None:
    world = rolling(5, "10s", 50, checks=[check()])
    world.run(9)
    world.restart()
    world.tick(10)
    world.settle()
    assert world.canary.weight == 5
    world.probe(Verdict.PASS)
    world.settle()
    assert world.canary.weight == 50


def test_a_held_candidate_is_not_overdue_to_a_new_leader() -> None:
    """It waited for content, not for a check; the deadline runs only while a check lacks a Pass."""
    world = rolling(5, "10s", 50, checks=[check()], progress_deadline="1m")
    world.edit(problem=Problem(c.INVALID_SPEC, "x"))
    world.run(600, each=5)
    world.restart()
    world.settle()
    assert (world.phase, world.canary.elapsed) == (Phase.STEPPING, "10s")
    world.run(55, passing=False)
    assert world.at(Phase.STEPPING)
    world.run(10, passing=False)
    assert world.at(Phase.STEADY)


def test_a_held_candidate_is_no_hot_loop() -> None:
    """There is nothing to store every 10 s, so it must not be tried again at once either."""
    world = rolling(5, "1s", 50)
    world.edit(problem=Problem(c.INVALID_SPEC, "x"))
    world.settle()
    world.tick(11)
    world.settle()
    world.tick(11)
    decision = world.decide()
    assert not decision.changed
    assert decision.wake_in is not None
    assert decision.wake_in > 0


def test_the_deadline_does_not_run_in_a_pause() -> None:
    for world in (bring(World(), Phase.WAITING), bring(World(), Phase.PAUSED), bring(World(), Phase.FROZEN)):
        world.edit(checks=(check(),), progress_deadline="5s")
        world.run(60, passing=False)
        assert world.status.canary is not None


def test_a_deadline_with_on_failure_pause_holds() -> None:
    world = rolling(5, "1s", checks=[check()], progress_deadline="5s", on_failure="Pause")
    world.run(7, passing=False)
    assert world.at(Phase.FAILED)
    assert "no Pass within progressDeadline 5s" in world.canary.failure


def test_conditions_do_not_count_time_twice() -> None:
    """A write stores what was measured; it must not be added once more for the conditions of that write."""
    world = rolling(5, "15s", 50, checks=[check()])
    world.tick(10)
    assert world.once().changed
    assert conditions(world)["Reconciling"] == ("True", c.STEP_RUNNING)
    world.tick(5)
    world.settle()
    assert conditions(world)["Reconciling"] == ("True", c.CHECKS_PENDING)


def test_conditions_of_a_new_stage_do_not_count_old_passes() -> None:
    world = rolling(5, "1s", 50, 60, checks=[check()])
    world.probe(Verdict.PASS)
    world.tick(1)
    world.once()
    assert world.canary.weight == 50
    assert conditions(world)["Reconciling"] == ("True", c.CHECKS_PENDING)


@pytest.mark.parametrize("text", ["", "soon", "-5s"])
def test_an_elapsed_that_a_hand_spoilt_waits_longer(text: str) -> None:
    world = rolling(5, "10s", 50, "1h")
    world.run(9)
    world.restart()
    world.status = replace(world.status, canary=replace(world.canary, elapsed=text))
    world.run(9)
    assert world.canary.weight == 5
    world.run(1)
    assert world.canary.weight == 50


def test_an_index_that_a_hand_spoilt_starts_again() -> None:
    world = rolling(5, "10s", 50, "1h")
    world.status = replace(world.status, canary=replace(world.canary, current_step_index=7))
    world.settle()
    assert (world.canary.weight, world.canary.current_step_index) == (5, 0)


def test_failures_are_stored_at_once_and_passes_every_10_seconds() -> None:
    world = rolling(5, "1h", checks=[check(failure_limit=9, consecutive_error_limit=9)])
    world.tick(1)
    world.probe(Verdict.PASS)
    assert not world.decide().changed
    for verdict in (Verdict.FAIL, Verdict.ERROR):
        world.probe(verdict, value="v" * 5000, message="m" * 5000)
        world.settle()
    state = world.canary.checks[0]
    assert (state.passed, state.failed, state.errors, state.consecutive_errors) == (1, 1, 1, 1)
    assert (len(state.last_value), len(state.message)) == (256, 1024)
    assert parse_duration(world.canary.elapsed) == 1
    world.probe(Verdict.PASS)
    world.tick(10)
    world.settle()
    state = world.canary.checks[0]
    assert (state.passed, state.errors, state.consecutive_errors) == (2, 1, 0)


def test_a_paused_candidates_passes_are_stored_too() -> None:
    world = rolling(5, "1h", checks=[check()])
    world.command(Verb.PAUSE)
    world.settle()
    assert world.decide().wake_in is None
    world.probe(Verdict.PASS)
    assert world.decide().wake_in == pytest.approx(10)
    world.tick(10)
    world.settle()
    assert world.canary.checks[0].passed == 1


def test_a_candidate_without_a_plan_holds() -> None:
    """A process that never saw a valid spec.rollout knows no checks and no steps."""
    world = rolling(5, "1s", 50, checks=[check()])
    world.restart()
    world.rollout = replace(world.rollout, bake="broken")
    world.generation += 1
    assert world.plan is None
    world.tick(1000)
    world.settle()
    assert world.canary.weight == 5
    assert conditions(world)["Stalled"] == ("True", c.INVALID_SPEC)
    assert world.decide().wake_in is None


def test_a_version_that_vanished_still_completes() -> None:
    world = rolling(5, "1s")
    del world.versions[2]
    world.run(3)
    assert world.status.stable is not None
    assert (world.status.stable.version, world.status.stable.keys) == (2, 0)


def test_nothing_of_the_status_is_changed_in_place() -> None:
    world = rolling(5, "1h", checks=[check()])
    before, copy = world.status, replace(world.status)
    world.command(Verb.ABORT)
    world.settle()
    assert before == copy
    assert before.commands == {}


def test_retry_of_the_number_of_a_recorded_version() -> None:
    """Its telling may be dropped from the latest ten."""
    world = served()
    number = world.record("old")
    world.versions[number] = VersionInfo(number, hash_of("old"), 1)
    world.status = replace(world.status, rejected_hashes=(hash_of("old"),))
    world.commands[Verb.RETRY] = Command(Verb.RETRY, number, "-", "t")
    world.settle()
    assert not world.status.rejected_hashes
