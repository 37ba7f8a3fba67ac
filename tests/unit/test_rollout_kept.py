"""What the status keeps beside the rollout: that hooks were told how it ended, and who reads the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.rollout_world import World, check, rolling

from configregistry.model.spec import NameRef
from configregistry.rollout.observation import Command, Usage, Verb, Verdict
from configregistry.rollout.table import Phase

ENDINGS = frozenset({"Completed", "RolledBack", "Aborted"})


def completed(world: World) -> None:
    world.run(3)


def rolled_back(world: World) -> None:
    world.probe(Verdict.FAIL)


def aborted(world: World) -> None:
    world.commands[Verb.ABORT] = Command(Verb.ABORT, world.canary.version, "-", "t")


def superseded(world: World) -> None:
    world.asked = "three"


ENDED = [(completed, "Completed"), (rolled_back, "RolledBack"), (aborted, "Aborted"), (superseded, "Superseded")]


@pytest.mark.parametrize("tells", [frozenset(), ENDINGS, frozenset({"RolledBack"})])
@pytest.mark.parametrize(("end", "result"), ENDED)
def test_an_outcome_that_hooks_are_to_be_told_of_says_so(
    end: Callable[[World], None], result: str, tells: frozenset[str]
) -> None:
    world = rolling(5, "1s", checks=[check()])
    world.tells = tells
    end(world)
    world.settle()
    outcome = world.status.last_outcome
    assert outcome is not None
    assert outcome.result == result
    assert outcome.hooks == ("Pending" if result in tells else "")


def test_a_hook_that_is_added_later_is_not_told_of_what_was_before() -> None:
    world = World()
    world.settle()
    world.tells, world.fallback = ENDINGS, NameRef("defaults")
    assert world.settle()
    assert world.status.last_outcome is not None
    assert world.status.last_outcome.hooks == ""
    world.hooks_told = True
    assert not world.decide().changed


def test_what_was_told_is_written_once() -> None:
    world = World(tells=ENDINGS)
    world.settle()
    before = world.status
    world.hooks_told = True
    (written,) = world.settle()
    assert written.notes == ()
    assert world.status.last_outcome is not None
    assert world.status.last_outcome.hooks == "Told"
    assert world.status.revision == before.revision


def test_a_new_outcome_is_not_taken_for_told() -> None:
    """Though in one and the same decision the one before was."""
    world = rolling(5, "1h", checks=[check()])
    world.tells = ENDINGS
    world.run(1)
    world.probe(Verdict.FAIL)
    world.hooks_told = True
    world.once()
    assert world.at(Phase.STEADY)
    assert world.status.last_outcome is not None
    assert (world.status.last_outcome.result, world.status.last_outcome.hooks) == ("RolledBack", "Pending")


DAY = "2026-01-05T00:00:00Z"


@pytest.mark.parametrize(
    ("before", "usage", "after"),
    [
        (("", False), Usage(DAY, unused=False), (DAY, False)),
        ((DAY, True), Usage("", unused=None), (DAY, True)),
        ((DAY, False), Usage("2026-01-04T00:00:00Z", unused=None), (DAY, False)),
        ((DAY, False), Usage("", unused=True), (DAY, True)),
        ((DAY, True), Usage("2026-01-06T00:00:00Z", unused=False), ("2026-01-06T00:00:00Z", False)),
    ],
)
def test_usage_is_kept_and_never_goes_back(before: tuple[str, bool], usage: Usage, after: tuple[str, Any]) -> None:
    world = World(usage=Usage(*before))
    world.settle()
    revision = world.status.revision
    world.usage = usage
    assert len(world.settle()) == (before != after)
    assert (world.status.last_read_at, world.status.unused) == after
    assert world.status.revision == revision
