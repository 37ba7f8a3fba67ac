"""Who waits for its turn to lead knows the consumers, and hands out nothing. In virtual time, with real replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.test_collector import ROUND, World

from configregistry.reconcile.collector import Collector


class Standby(World):
    """A collector of a process that leads only when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.leads = False
        self.collector = Collector(
            self, self.time, self.metrics, tells=lambda: self.leads, sleep=self.time.sleep
        )  # fmt: skip


@pytest.fixture
async def standby() -> AsyncIterator[Standby]:
    made = Standby()
    yield made
    await made.resign()


async def test_it_hands_out_nothing_until_it_leads_and_nothing_any_more_after_that(standby: Standby) -> None:
    first, second = standby.replicas
    first.beat("a", 8)
    standby.lead()
    await standby.time.advance(3 * ROUND + 0.1)
    assert await standby.said() == {"a": (8, "ok")}
    assert [each.merged for each in second.given] == [None] * 4
    assert not second.roster.entries, "a replica hears of others' consumers from the leader alone"
    standby.leads = True
    await standby.time.advance(2 * ROUND)
    assert [[report.id for report in each.merged or ()] for each in second.given[4:]] == [["a"]] * 2
    assert set(second.roster.entries) == {"a"}
    standby.leads = False
    await standby.time.advance(2 * ROUND)
    assert [each.merged for each in second.given[6:]] == [None] * 2
    assert set(second.roster.entries) == {"a"}, "without a list a replica keeps the one that it has"
