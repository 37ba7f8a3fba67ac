"""Whole registries on the real API server, at random, beside the pure machine.

Many registries live at a time under one operator, which is killed every few seconds. To each is done what people,
surroundings and hands do, drawn from a seed. Every status that the API server accepts must be one decision of the
machine (`histories_model`), keep the rules that hold without it (`histories_rules`), and whatever consumers read
meanwhile must be whole and of its revision. A failure tells the seed; alone, and with the same operator:

    HISTORY_SEED=4711 pytest -n 0 tests/integration/test_histories.py

`HISTORIES=5000` plays more of them, `HISTORY_OPERATOR=<directory>` runs the package that is in there against the
machine of this checkout: that is how this test is seen to fail.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.cluster import KubeCluster
from tests.integration.histories_operations import play
from tests.integration.histories_play import History, HistoryError
from tests.integration.histories_world import Power, Reader, World
from tests.integration.running import Client, Operator, running

HISTORIES: Final = 500
"""In all parts together."""
PARTS: Final = 5
"""Each may run in another worker of pytest, and ends long before pytest takes it for hanging."""
AT_A_TIME: Final = 50
FIRST: Final = 20_260_101
"""The first seed. Not drawn: a CI that fails must fail again."""
ENOUGH: Final = 100
"""Histories in which all of this happens; it is the same in each run but for the kills."""
MUST_MEET: Final = (
    *("read", "probe 200", "probe 500", "probe 0", "killed", "killed in Steady", "killed in Stepping"),
    *("Completed", "RolledBack", "Aborted", "Superseded"),
    *("promote Done", "promote Ignored", "pause Done", "pause Ignored", "abort Ignored", "retry Ignored"),
    *("Healthy ChecksPassing", "Healthy NoData", "Healthy CheckFailed"),
    *("Reconciling StepRunning", "Reconciling ChecksPending", "Ready RolloutComplete", "Ready Pinned"),
    *("Ready Paused", "Ready RolledBack", "Ready InvalidSpec", "Ready CheckFailed"),
)


def seeds(part: int) -> list[int]:
    """What a part plays."""
    alone = os.environ.get("HISTORY_SEED")
    if alone:
        return [int(alone)] if part == 0 else []
    number = int(os.environ.get("HISTORIES", HISTORIES))
    return [FIRST + n for n in range(number) if n % PARTS == part]


async def one(world: World, reader: Reader, seed: int) -> None:
    """Play one history and forget it."""
    history = History(world, f"h{seed}", seed)
    reads = reader.found[history.name] = []
    try:
        await play(history)
        history.compare_reads(reads)
    except Exception as error:
        done = "\n".join(f"  {text}" for text in history.log)
        raise HistoryError(f"HISTORY_SEED={seed}\n{done}\n{type(error).__name__}: {error}") from error
    finally:
        del reader.found[history.name], world.told[history.name]
        await world.client.delete(history.name)


async def all_of(world: World, reader: Reader, todo: list[int]) -> list[str]:
    """Play many; gives what went wrong. Those that are under way end as well: one defect is seen in many ways."""
    failures: list[str] = []

    async def player() -> None:
        while todo and len(failures) < 3:
            try:
                await one(world, reader, todo.pop(0))
            except HistoryError as error:
                failures.append(str(error))

    await asyncio.gather(*(player() for _ in range(AT_A_TIME)))
    return failures


@pytest.fixture
def operator(crd: KubeCluster, place: str, tmp_path: Path) -> Iterator[Operator]:
    """One of this test: it is killed all the time."""
    with running(crd, place, tmp_path, start=False) as found:
        other = os.environ.get("HISTORY_OPERATOR")
        if other:
            found.environment["PYTHONPATH"] = other
        found.start()
        yield found
        defects = [line for line in found.lines if "reconcile failed" in str(line.get("event"))]
        assert not defects, defects


@pytest.mark.parametrize("part", range(PARTS))
async def test_histories(client: Client, operator: Operator, part: int) -> None:
    """Edits, commands, checks, kills, hands: always what the machine decides, and never a mixture."""
    todo = seeds(part)
    if not todo:
        pytest.skip("HISTORY_SEED is played once")
    moments = random.Random(FIRST + part)
    met, moving = Counter[str](), dict[str, str]()
    world = World(client, Power(operator, moments, met, moving), met, moving)
    reader = Reader(operator, client.namespace, moments)
    async with world.running():
        reading = [asyncio.create_task(reader.run()) for _ in range(2)]
        try:
            failures = await all_of(world, reader, list(todo))
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
    assert not failures, "\n\n".join(failures)
    missing = [each for each in MUST_MEET if not met[each]]
    print(f"\n{len(todo)} histories", dict(sorted(met.items())))
    assert not missing or len(todo) < ENOUGH, f"{missing} was never met: {met}"
