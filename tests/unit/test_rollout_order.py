"""The order of decisions: of any two things that are true at once, which one is decided first, and alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from tests.unit.rollout_world import World, check, hash_of, rolling, steps

from configregistry.model import conditions as c
from configregistry.model.spec import NameRef
from configregistry.rollout.observation import Problem, Verb, Verdict
from configregistry.rollout.table import Phase

Make = Callable[[World], None]


def fail(world: World) -> None:
    world.probe(Verdict.FAIL)


def abort(world: World) -> None:
    world.command(Verb.ABORT)


def pin(world: World) -> None:
    world.edit(pinned=1)


def pause(world: World) -> None:
    world.command(Verb.PAUSE)


def promote_full(world: World) -> None:
    world.command(Verb.PROMOTE_FULL)


def promote(world: World) -> None:
    world.command(Verb.PROMOTE)


def back_to_stable(world: World) -> None:
    world.edit(asked="one")


def other_content(world: World) -> None:
    world.record("three")
    world.edit(asked="three")


def fallback(world: World) -> None:
    world.edit(fallback=NameRef("defaults"))


def spec_paused(world: World) -> None:
    world.edit(paused=True)


def other_steps(world: World) -> None:
    world.edit(steps=steps(1, "1h"))


def other_seed(world: World) -> None:
    world.edit(seed="2026")


def time_over(world: World) -> None:
    world.probe(Verdict.PASS)
    world.tick(5)


ORDER: list[tuple[Make, str]] = [
    (fail, "CheckFailed"),
    (abort, "RolledBack"),
    (pin, "Cancelled"),
    (pause, "RolloutPaused"),
    (promote_full, "RolloutCompleted"),
    (promote, "StepAdvanced"),
    (back_to_stable, "Cancelled"),
    (other_content, "Superseded"),
    (fallback, ""),
    (spec_paused, "RolloutPaused"),
    (other_steps, "StepAdvanced"),
    (other_seed, ""),
    (time_over, "StepAdvanced"),
]
EXCLUDE = {
    (back_to_stable, other_content),  # one content at a time
    (promote, other_steps),  # the promote is ignored then: see test_rollout_commands
    (fail, time_over),  # a Pass after a Fail is one probe more; the Fail is first either way
}


def fresh() -> World:
    return rolling(10, "5s", 50, "1h", checks=[check()])


def first_event(*makes: Make, detail: bool = True) -> tuple[object, ...]:
    """What the first decision does, alone; `detail` says how the candidate then goes out."""
    world = fresh()
    for make in makes:
        make(world)
    decision = world.decide()
    after = decision.status
    return (
        decision.notes[0].reason if decision.notes else "",
        after.stable and after.stable.version,
        after.canary and after.canary.version,
        after.canary and detail and (after.canary.weight, after.canary.paused, after.canary.seed),
        after.fallback,
        after.last_outcome and after.last_outcome.result,
        sorted(verb for verb, record in after.commands.items() if record.result == "Done"),
    )


@pytest.mark.parametrize(("make", "reason"), ORDER, ids=lambda part: getattr(part, "__name__", str(part)))
def test_alone(make: Make, reason: str) -> None:
    assert first_event(make)[0] == reason


PAIRS = [
    pair
    for pair in itertools.combinations([make for make, _ in ORDER], 2)
    if pair not in EXCLUDE
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(make.__name__ for make in pair))
def test_each_pair(pair: tuple[Make, Make]) -> None:
    first, second = pair
    # Whoever enters a stage does so by the plan as it is now.
    detail = first not in (promote, other_content, other_steps) or second not in (spec_paused, other_steps, other_seed)
    both, alone = first_event(second, first, detail=detail), first_event(first, detail=detail)
    assert without_tokens(both) == without_tokens(alone)


def without_tokens(seen: tuple[object, ...]) -> str:
    return str(seen).replace("token-2", "token-1")


@pytest.mark.parametrize(
    ("make", "acts"),
    [(fail, True), (abort, True), (promote, True), (promote_full, True), (pause, True), (time_over, False)],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
@pytest.mark.parametrize("obstacle", ["invalid", "source", "rejected", "dependency", "bad pin"])
def test_a_held_candidate(make: Make, acts: bool, obstacle: str) -> None:
    """It keeps its weight; it is still checked, and can be rolled back, aborted, promoted."""
    world = fresh()
    if obstacle == "invalid":
        world.edit(problem=Problem(c.INVALID_SPEC, "x"))
    elif obstacle == "source":
        world.edit(problem=Problem(c.SOURCE_NOT_FOUND, "x"))
    elif obstacle == "bad pin":
        world.edit(pinned=99)
    elif obstacle == "dependency":
        world.edit(asked="three", waiting_for=("database",))
    else:
        world = rejected_then(fresh)
        world.edit(asked="zero")
    world.settle()
    assert world.status.canary is not None
    before = world.canary
    assert before.weight == 10
    make(world)
    world.settle()
    moved = world.status.canary is None or (world.canary.weight, world.canary.paused) != (before.weight, before.paused)
    assert moved is acts


def rejected_then(make: Callable[[], World]) -> World:
    """A rolling registry that has rejected the content "zero"."""
    world = make()
    world.edit(asked="zero")
    world.settle()
    world.command(Verb.ABORT)
    world.settle()
    world.edit(asked="two")
    world.settle()
    return world


def test_a_failing_check_rejects_content_that_was_superseded_meanwhile() -> None:
    world = fresh()
    fail(world)
    other_content(world)
    world.settle()
    assert world.status.rejected_hashes == (hash_of("two"),)
    assert world.canary.hash == hash_of("three")
    assert world.told()[-4:] == ["CheckFailed", "RolledBack", "RolloutStarted", "StepAdvanced"]


def test_nothing_is_recorded_for_what_cannot_start() -> None:
    for obstacle in ({"problem": Problem(c.INVALID_SPEC, "x")}, {"waiting_for": ("d",)}, {"pinned": 1}):
        world = fresh()
        world.edit(asked="three", **obstacle)
        decisions = world.settle()
        assert not any(decision.record for decision in decisions)
        assert hash_of("three") not in {version.hash for version in world.versions.values()}


def test_failures_are_stored_before_a_version_is_recorded() -> None:
    """Recording may fail for long, and the check waits for its Fail to be stored."""
    world = rolling(10, "1h", checks=[check(failure_limit=5)])
    world.edit(asked="three")
    fail(world)
    first = world.once()
    assert first.changed
    assert not first.record
    assert world.canary.checks[0].failed == 1
    assert world.once().record


def test_an_unchanged_registry_is_not_asked_again() -> None:
    world = fresh()
    world.command(Verb.PROMOTE_FULL)
    world.settle()
    assert world.at(Phase.STEADY)
    decision = world.decide()
    assert (decision.changed, decision.wake_in) == (False, None)
    world.tick(10_000)
    assert not world.decide().changed
