"""kill -9 at every await of a rollout's path, hundreds of times: what comes of it is what would have come anyway.

Eight stories (a first version, a good rollout, a bad one, commands, an abort, a projection, pruning, hooks) are
played at once under one `configregistry run`: once undisturbed, to learn how often which failpoint is reached and what
comes of it, and then round after round, in which the process kills itself at one failpoint after the other. What the
API server accepted meanwhile, and all that is there at the end, must be the same (`crash_judge`).

A failure tells the round's kills in order. The plan is made of a seed, so it is the same in each run but for timing:

    CRASH_SEED=7 pytest -n 0 tests/integration/test_crash_safety.py
    CRASH_KILLS=all ...                         each time that each place is reached in each story (an hour)
    CRASH_OPERATOR=<directory> ...              another package: that is how this test is seen to fail
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
from tests.cluster import KubeCluster
from tests.integration.crash_lives import Lane, Zygote
from tests.integration.crash_rounds import Aim, Stage, aims, by_story, rounds
from tests.integration.crash_stories import Surroundings
from tests.integration.running import Client

from configregistry import failpoints

SEED: Final = int(os.environ.get("CRASH_SEED", "20260101"))
ALL: Final = os.environ.get("CRASH_KILLS", "") == "all"
PARTS: Final = 6
"""Each may run in another worker of pytest, and ends long before pytest takes it for hanging."""
ENOUGH: Final = 200 // PARTS
"""Kills in a part."""
MISSED: Final = 0.1
"""Of the targets, that part that may never be come to: events, mostly, which a kill may lose."""
NOT_HERE: Final = {
    "sources.compare.before": "a process for each comparison; what is lost is an answer that is asked for again",
    "sources.compare.after": "the same",
    "policies.namespace.before": "only where no watch has told of the own namespace yet",
    "projection.owner.after": "only after a registry of the same name was deleted",
    "events.again.before": "only when one life tells the same twice, which few do",
    "events.again.after": "the same",
}
"""Failpoints that no story has to come to, and why."""


ALONE: Final = "--no-leader-election"
"""A life does not wait for the Lease of the one before."""


@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_every_await(crd: KubeCluster, namespace: str, tmp_path: Path, part: int) -> None:
    async with (
        Client.of(crd, namespace) as client,
        Surroundings().running() as around,
        Zygote.of(tmp_path) as zygote,
    ):
        stage = Stage(Lane(zygote, crd, namespace, tmp_path / "lane", ALONE), client, around)
        await stage.dependency()
        await stage.play(0, {}, {})
        reference, reached = stage.kept, by_story(stage.lane.reached, 0)
        never = set(failpoints.PLACES) - {name for _, name in reached} - NOT_HERE.keys()
        assert not never, f"no story comes to {sorted(never)}"
        todo = aims(reached, SEED, part, PARTS, all_of_them=ALL)
        number, missed = len(todo), todo
        for attempt in range(3):
            todo, missed = missed, []
            for at, aimed in enumerate(rounds(todo), start=1):
                missed += await stage.play(1000 * attempt + at, aimed, reference)
        print(
            f"\npart {part}: {len(stage.killed)} kills at {number} targets, {stage.lane.lives} lives; missed: {missed}"
        )
        assert len(stage.killed) >= ENOUGH
        assert len(missed) <= MISSED * number, missed


@pytest.mark.skipif(not ALONE, reason="this operator knows no leader election")
async def test_killed_while_it_leads(crd: KubeCluster, namespace: str, tmp_path: Path) -> None:
    """With a Lease, each next life begins when that of the one before is over, and goes on as well."""
    async with (
        Client.of(crd, namespace) as client,
        Surroundings().running() as around,
        Zygote.of(tmp_path) as zygote,
    ):
        stage = Stage(Lane(zygote, crd, namespace, tmp_path / "lane"), client, around)
        await stage.dependency()
        await stage.play(0, {}, {})
        write = "api.replace.configregistries/status"
        aimed = {"good": [Aim("good", f"{write}.sent", 4)], "commanded": [Aim("commanded", f"{write}.before", 9)]}
        assert await stage.play(1, aimed, stage.kept) == []
        assert len(stage.killed) == 2
