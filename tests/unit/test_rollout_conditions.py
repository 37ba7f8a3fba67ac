"""Each row of the conditions table, exactly; and kstatus's reading of each status that can be reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from tests.unit.rollout_world import World, assert_whole, bring, check, conditions, kstatus, rolling, served

from configregistry.model import conditions as c
from configregistry.model.spec import NameRef
from configregistry.model.status import Status
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import Command, HookState, Problem, Verb, Verdict
from configregistry.rollout.table import Phase

T, F, U = "True", "False", "Unknown"
IDLE = (F, c.IDLE)
SERVED = (T, c.VERSION_SERVED)
NO_CANDIDATE = (U, c.NO_CANDIDATE)
UNKNOWN_YET = (U, c.NO_DATA)
PASSING = (T, c.CHECKS_PASSING)
FAILED = (F, c.CHECK_FAILED)


class Row(NamedTuple):
    """Available, Ready, Reconciling, Stalled, Healthy, and what kstatus makes of them."""

    world: Callable[[], World]
    available: tuple[str, str]
    ready: tuple[str, str]
    reconciling: tuple[str, str]
    stalled: tuple[str, str]
    healthy: tuple[str, str]
    kstatus: str


def acted(world: World, verb: Verb | None = None, **more: Any) -> World:
    if verb is not None:
        world.command(verb)
    world.edit(**more)
    world.settle()
    return world


def one_check(*parts: int | str | None, **more: Any) -> World:
    return rolling(*parts, checks=[check()], **more)


def probed(world: World, *verdicts: Verdict) -> World:
    for verdict in verdicts:
        world.probe(verdict)
    world.settle()
    return world


def passed(world: World, seconds: float = 10) -> World:
    """Every check passes, and that is stored."""
    world.probe(Verdict.PASS)
    world.tick(seconds)
    world.settle()
    return world


def completed() -> World:
    return passed(one_check(100))


def empty(**more: Any) -> World:
    return acted(World(), **more)


def problem(reason: str) -> Problem:
    return Problem(reason, "spec.somewhere: something")


ROWS = {
    "steady, nothing was ever measured": Row(
        lambda: acted(served()), SERVED, (T, c.ROLLOUT_COMPLETE), IDLE, IDLE, NO_CANDIDATE, "Current"
    ),
    "steady, the last verdict was good": Row(
        completed, SERVED, (T, c.ROLLOUT_COMPLETE), IDLE, IDLE, PASSING, "Current"
    ),
    "steady, the last verdict was bad": Row(
        lambda: acted(probed(one_check(10, "1h"), Verdict.FAIL), asked="one"),
        SERVED, (T, c.ROLLOUT_COMPLETE), IDLE, IDLE, FAILED, "Current",
    ),
    "pinned": Row(
        lambda: acted(completed(), pinned=1), SERVED, (T, c.PINNED), IDLE, IDLE, PASSING, "Current"
    ),
    "pinned, and invalid": Row(
        lambda: acted(completed(), pinned=1, problem=problem(c.INVALID_SPEC)),
        SERVED, (T, c.PINNED), IDLE, IDLE, PASSING, "Current",
    ),
    "rolling out, step running": Row(
        lambda: passed(one_check(10, "1h")),
        SERVED, (F, c.ROLLOUT_IN_PROGRESS), (T, c.STEP_RUNNING), IDLE, PASSING, "InProgress",
    ),
    "rolling out, checks pending": Row(
        lambda: one_check(10, 50),
        SERVED, (F, c.ROLLOUT_IN_PROGRESS), (T, c.CHECKS_PENDING), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "rolling out, no data": Row(
        lambda: probed(one_check(10, 50), Verdict.NO_DATA),
        SERVED, (F, c.ROLLOUT_IN_PROGRESS), (T, c.CHECKS_PENDING), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "queued for its hooks": Row(
        lambda: rolling(10, "1h", hook=HookState.PENDING),
        SERVED, (F, c.ROLLOUT_IN_PROGRESS), (T, c.STEP_RUNNING), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "waiting for a person, step": Row(
        lambda: passed(one_check(10, None)), SERVED, (F, c.PAUSED), (T, c.PAUSED), IDLE, PASSING, "InProgress"
    ),
    "waiting for a person, command": Row(
        lambda: acted(one_check(10, "1h"), Verb.PAUSE),
        SERVED, (F, c.PAUSED), (T, c.PAUSED), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "waiting for a person, spec": Row(
        lambda: acted(one_check(10, "1h"), paused=True),
        SERVED, (F, c.PAUSED), (T, c.PAUSED), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "waiting for a person, spec, before the first step": Row(
        lambda: one_check(10, "1h", paused=True),
        SERVED, (F, c.PAUSED), (T, c.PAUSED), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "baking": Row(
        lambda: one_check(bake="1h"), SERVED, (F, c.BAKING), (T, c.BAKING), IDLE, UNKNOWN_YET, "InProgress"
    ),
    "baking, passing": Row(
        lambda: passed(one_check(bake="1h")), SERVED, (F, c.BAKING), (T, c.BAKING), IDLE, PASSING, "InProgress"
    ),
    "baking, only checks are missing": Row(
        lambda: acted(one_check(bake="1h"), Verb.PROMOTE),
        SERVED, (F, c.BAKING), (T, c.BAKING), IDLE, UNKNOWN_YET, "InProgress",
    ),
    "rolled back": Row(
        lambda: probed(one_check(10, "1h"), Verdict.FAIL),
        SERVED, (F, c.ROLLED_BACK), IDLE, (T, c.ROLLED_BACK), FAILED, "Failed",
    ),
    "aborted": Row(
        lambda: acted(passed(one_check(10, "1h")), Verb.ABORT),
        SERVED, (F, c.ABORTED), IDLE, (T, c.ABORTED), PASSING, "Failed",
    ),
    "unpinned, and the content is what the pin left": Row(
        lambda: acted(acted(completed(), pinned=1), pinned=None),
        SERVED, (F, c.ABORTED), IDLE, (T, c.ABORTED), PASSING, "Failed",
    ),
    "failed with onFailure: Pause": Row(
        lambda: probed(one_check(10, "1h", on_failure="Pause"), Verdict.FAIL),
        SERVED, (F, c.CHECK_FAILED), IDLE, (T, c.CHECK_FAILED), FAILED, "Failed",
    ),
    "waiting for a dependency": Row(
        lambda: acted(served(), asked="two", waiting_for=("database",)),
        SERVED, (F, c.DEPENDENCY_NOT_READY), (T, c.WAITING_FOR_DEPENDENCY), IDLE, NO_CANDIDATE, "InProgress",
    ),
    "waiting for a dependency, first version": Row(
        lambda: empty(waiting_for=("database",)),
        (F, c.NO_VERSION), (F, c.DEPENDENCY_NOT_READY), (T, c.WAITING_FOR_DEPENDENCY), IDLE, NO_CANDIDATE,
        "InProgress",
    ),
    "source missing": Row(
        lambda: acted(completed(), problem=problem(c.SOURCE_NOT_FOUND)),
        SERVED, (F, c.SOURCE_NOT_FOUND), (T, c.SOURCE_NOT_FOUND), IDLE, NO_CANDIDATE, "InProgress",
    ),
    "source missing, first version": Row(
        lambda: empty(problem=problem(c.SOURCE_NOT_FOUND)),
        (F, c.NO_VERSION), (F, c.SOURCE_NOT_FOUND), (T, c.SOURCE_NOT_FOUND), IDLE, NO_CANDIDATE, "InProgress",
    ),
    "a validator does not answer": Row(
        lambda: acted(completed(), problem=problem(c.VALIDATOR_UNAVAILABLE)),
        SERVED, (F, c.VALIDATOR_UNAVAILABLE), (T, c.VALIDATOR_UNAVAILABLE), IDLE, NO_CANDIDATE, "InProgress",
    ),
    "a PreRollout hook said no": Row(
        lambda: rolling(10, "1h", hook=HookState.VETOED, hook_message="not on Fridays"),
        SERVED, (F, c.HOOK_VETOED), IDLE, (T, c.HOOK_VETOED), NO_CANDIDATE, "Failed",
    ),
    "projection target is somebody else's": Row(
        lambda: acted(completed(), projection="ConfigMap x is not ours"),
        SERVED, (F, c.PROJECTION_CONFLICT), IDLE, (T, c.PROJECTION_CONFLICT), NO_CANDIDATE, "Failed",
    ),
    "projection target is somebody else's, pinned": Row(
        lambda: acted(completed(), projection="ConfigMap x is not ours", pinned=1),
        SERVED, (F, c.PROJECTION_CONFLICT), IDLE, (T, c.PROJECTION_CONFLICT), NO_CANDIDATE, "Failed",
    ),
    "invalid, first version": Row(
        lambda: empty(problem=problem(c.INVALID_SPEC)),
        (F, c.NO_VERSION), (F, c.INVALID_SPEC), IDLE, (T, c.INVALID_SPEC), NO_CANDIDATE, "Failed",
    ),
    "invalid, later": Row(
        lambda: acted(completed(), problem=problem(c.INVALID_SPEC)),
        SERVED, (F, c.INVALID_SPEC), IDLE, (T, c.INVALID_SPEC), NO_CANDIDATE, "Failed",
    ),
    "invalid, with a candidate": Row(
        lambda: acted(passed(one_check(10, "1h")), problem=problem(c.INVALID_SPEC)),
        SERVED, (F, c.INVALID_SPEC), IDLE, (T, c.INVALID_SPEC), PASSING, "Failed",
    ),
    "pinned to what does not exist": Row(
        lambda: acted(completed(), pinned=99),
        SERVED, (F, c.INVALID_SPEC), IDLE, (T, c.INVALID_SPEC), NO_CANDIDATE, "Failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    row = ROWS[name]
    world = row.world()
    assert conditions(world) == {
        "Available": row.available,
        "Ready": row.ready,
        "Reconciling": row.reconciling,
        "Stalled": row.stalled,
        "Healthy": row.healthy,
    }
    assert kstatus(world) == row.kstatus
    assert_whole(world.status, world.generation)


@pytest.mark.parametrize(
    ("world", "ready"),
    [
        (
            lambda: acted(one_check(10, "1h"), projection="x", problem=problem(c.SOURCE_NOT_FOUND)),
            c.PROJECTION_CONFLICT,
        ),
        (lambda: acted(served(), asked="two", projection="x", waiting_for=("d",)), c.PROJECTION_CONFLICT),
        (lambda: acted(one_check(10, "1h"), projection="x"), c.PROJECTION_CONFLICT),
        (
            lambda: acted(probed(one_check(10, "1h"), Verdict.FAIL), problem=problem(c.SOURCE_NOT_FOUND)),
            c.SOURCE_NOT_FOUND,
        ),
        (
            lambda: acted(
                probed(one_check(10, "1h", on_failure="Pause"), Verdict.FAIL), problem=problem(c.SOURCE_NOT_FOUND)
            ),
            c.CHECK_FAILED,
        ),
        (lambda: acted(one_check(10, "1h"), asked="three", waiting_for=("d",)), c.DEPENDENCY_NOT_READY),
        (lambda: acted(one_check(10, None), problem=problem(c.VALIDATOR_UNAVAILABLE)), c.VALIDATOR_UNAVAILABLE),
    ],
)
def test_stalled_before_waiting_before_rolling_out(world: Callable[[], World], ready: str) -> None:
    assert conditions(world())["Ready"] == (F, ready)


def test_a_rollback_names_check_value_and_limit() -> None:
    world = one_check(10, "1h")
    world.probe(Verdict.FAIL, value="0.08", message="above max 0.03")
    world.settle()
    stalled = next(each for each in world.status.conditions if each.type == c.STALLED)
    for part in ("errors", "0.08", "above max 0.03", "limit 0"):
        assert part in stalled.message
    assert "version 2" in stalled.message


@pytest.mark.parametrize("phase", Phase)
def test_ready_is_never_true_in_the_write_before_something_starts(phase: Phase) -> None:
    """`kubectl wait` would take it for the end of a rollout that has not begun."""
    for pinned in (False, True):
        world = bring(World(), phase)
        number = world.record("three")
        world.edit(asked="three", pinned=number if pinned else None)
        world.commands[Verb.ABORT] = Command(Verb.ABORT, 77, "-", "wrong")
        world.once()
        assert world.status.commands["abort"].result == "Ignored"
        assert kstatus(world) == ("Failed" if phase is Phase.FAILED else "InProgress")
        assert_whole(world.status, world.generation)


def test_a_failure_is_the_last_verdict_even_if_a_pin_follows_at_once() -> None:
    world = passed(one_check(10, "1h"))
    assert conditions(world)["Healthy"] == PASSING
    world.probe(Verdict.FAIL)
    world.edit(pinned=1)
    world.settle()
    assert conditions(world)["Ready"] == (T, c.PINNED)
    assert conditions(world)["Healthy"] == FAILED


def test_ready_is_not_true_before_the_fallback_is_accepted() -> None:
    world = served(fallback=NameRef("defaults"))
    world.commands[Verb.ABORT] = Command(Verb.ABORT, 77, "-", "wrong")
    world.once()
    assert (world.status.fallback, kstatus(world)) == (None, "InProgress")
    world.settle()
    assert (world.status.fallback, kstatus(world)) == (NameRef("defaults"), "Current")


def test_transition_time_moves_with_the_status_only() -> None:
    world = one_check(10, "5s", 50, "5s")
    before = {each.type: each for each in world.status.conditions}
    world.run(5)
    after = {each.type: each for each in world.status.conditions}
    assert after["Ready"].message != before["Ready"].message
    assert after["Ready"].last_transition_time == before["Ready"].last_transition_time
    world.run(6)
    assert conditions(world)["Ready"] == (T, c.ROLLOUT_COMPLETE)
    ready = next(each for each in world.status.conditions if each.type == "Ready")
    assert ready.last_transition_time == world.status.stable.since if world.status.stable else ""


def test_messages_hold_no_time() -> None:
    """Or each look at a registry would be a write."""
    world = one_check(10, "1h")
    world.probe(Verdict.PASS)
    first = world.decide()
    world.tick(3)
    assert not world.decide().changed
    assert decide(Status(), world.observe()).status.conditions or first.status.conditions
    world.tick(7)
    world.settle()
    texts = {each.message for each in world.status.conditions}
    world.tick(10)
    world.settle()
    assert {each.message for each in world.status.conditions} == texts


def test_long_texts_are_cut() -> None:
    world = acted(served(), problem=Problem(c.INVALID_SPEC, "x" * 5000))
    stalled = next(each for each in world.status.conditions if each.type == c.STALLED)
    assert len(stalled.message) == 1024
    assert stalled.message.endswith("x...")
