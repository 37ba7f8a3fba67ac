"""Two controllers, and a network or a machine between the leader and the API server that fails: one decides, always.

The leader is behind a fault proxy, the standby is not. Everything that a leader writes carries its epoch; what the
API server accepted is watched from outside, so that a second hand in it would be seen.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.faults import FaultProxy, Rule, black_hole, late
from tests.faults.reader import content
from tests.integration.running import Client, History, Operator, candidate, running, said, stable, wait

pytestmark = pytest.mark.xdist_group("leader-partition")

WAITS: dict[str, Any] = {"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]}
TAKEN = 17.0
"""Seconds that are promised; the assertion leaves room for a machine that is busy."""
ROOM = 15.0
STATUS = r"/configregistries/[^/]+/status$"


@dataclass
class Pair:
    """The leader behind its proxy, and who waits for its turn."""

    namespace: str
    proxy: FaultProxy
    first: Operator
    second: Operator


@pytest.fixture
def pair(crd: KubeCluster, namespace: str, tmp_path: Path) -> Iterator[Pair]:
    """Two controllers of one namespace and one Lease; the first leads."""
    lease = f"--lease={namespace}/leader"
    with (
        FaultProxy(crd.kubeconfig, tmp_path) as proxy,
        running(
            crd, namespace, tmp_path / "first", lease, kubeconfig=proxy.kubeconfig, command="controller", election=True
        ) as first,
    ):
        wait(lambda: leads(first), lambda: first.log[-2000:])
        with running(crd, namespace, tmp_path / "second", lease, command="controller", election=True) as second:
            assert not leads(second)
            yield Pair(namespace, proxy, first, second)
            for process in (first, second):
                assert process.alive
                assert "reconcile failed" not in process.log


def leads(process: Operator) -> bool:
    """Whether a process says that it leads."""
    return process.metrics("configregistry_leader").get("") == 1


@dataclass
class Terms:
    """Who said that it leads, looked at all the time."""

    pair: Pair
    both: int = 0
    first_ended: float = 0.0
    second_began: float = 0.0
    looks: int = 0
    wrong: list[str] = field(default_factory=list)

    async def look(self) -> None:
        """Look until cancelled; a process that is paused says nothing, so its silence is no answer."""
        while True:
            second = await asyncio.to_thread(leads, self.pair.second)
            # Asked second: what ended between the two is not counted as both.
            first = await asyncio.to_thread(self._first)
            now = time.monotonic()
            self.looks += 1
            self.both += first and second
            if not first and not self.first_ended:
                self.first_ended = now
            if second and not self.second_began:
                self.second_began = now
            await asyncio.sleep(0.02)

    def _first(self) -> bool:
        with suppress(OSError):
            return leads(self.pair.first)
        return False


@asynccontextmanager
async def watched(pair: Pair) -> AsyncIterator[Terms]:
    """Look at who leads meanwhile."""
    terms = Terms(pair)
    task = asyncio.create_task(terms.look())
    try:
        yield terms
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def out(client: Client, name: str) -> None:
    """A candidate waits at 10 %."""
    await client.apply(name, data=content(1), rollout=WAITS)
    await client.ready(name)
    await client.apply(name, data=content(2), rollout=WAITS)
    await client.until(name, lambda s: candidate(s, 2, 10) and said(s, Ready=("False", "Paused")))


async def finish(client: Client, name: str) -> None:
    """Complete it by command."""
    await client.command(name, "promote-full", f"2:-:{secrets.token_hex(4)}")
    await client.until(name, lambda s: stable(s, 2))


def one_hand(history: History) -> None:
    """Epochs never go back, revisions never do, nothing is decided twice."""
    history.check()
    epochs = [each.status.get("leaderEpoch", 0) for each in history.seen]
    assert epochs == sorted(epochs), epochs


async def test_a_leader_that_is_cut_off_stands_down_before_another_takes_over(crd: KubeCluster, pair: Pair) -> None:
    async with Client.of(crd, pair.namespace) as client:
        await out(client, "cut-off")
        await out(client, "late")
        async with client.history("cut-off") as history, client.history("late") as other:
            with pair.proxy.during(Rule(late(), methods={"PUT"}, path=STATUS)) as (held,):
                # The leader decides this, and what it writes stays in the network.
                await client.command("late", "promote", f"2:0:{secrets.token_hex(4)}")
                await client.wait(lambda: told(held.hits), lambda: pair.first.log[-2000:])
                with pair.proxy.during(Rule(black_hole())):
                    began = time.monotonic()
                    async with watched(pair) as terms:
                        await client.wait(
                            lambda: told(terms.second_began), lambda: pair.second.log[-2000:], TAKEN + ROOM
                        )
                    took = terms.second_began - began
                    print(
                        f"another leads after {took:.1f} s; the first stood down {terms.first_ended - began:.1f} s in"
                    )
                    assert terms.both == 0
                    assert terms.first_ended <= terms.second_began
                    assert took < TAKEN + ROOM
                    await finish(client, "cut-off")
                    await finish(client, "late")
            # All that lay about in the network arrives now.
            await client.wait(lambda: told(len(held.arrived) >= held.hits), lambda: str(held))
            assert set(held.arrived) == {409}, held
            for name in ("cut-off", "late"):
                assert stable(await client.status(name), 2)
            # The first comes back as the one who waits, and leads again when it is its turn.
            await client.wait(lambda: told(not leads(pair.first)), lambda: pair.first.log[-2000:])
            pair.second.kill()
            await client.wait(lambda: told(leads(pair.first)), lambda: pair.first.log[-2000:])
            await client.apply("cut-off", data=content(3))
            await client.until("cut-off", lambda s: stable(s, 3))
            pair.second.start()
        one_hand(history)
        one_hand(other)
        assert sorted(await client.revisions("cut-off")) == [1, 2, 3]


async def test_a_leader_that_wakes_from_a_pause_writes_nothing(crd: KubeCluster, pair: Pair) -> None:
    async with Client.of(crd, pair.namespace) as client:
        await out(client, "paused")
        async with client.history("paused") as history:
            pair.first.send(signal.SIGSTOP)
            try:
                # For the one who sleeps to decide, when it wakes.
                await client.command("paused", "promote", f"2:0:{secrets.token_hex(4)}")
                await client.wait(lambda: told(leads(pair.second)), lambda: pair.second.log[-2000:], TAKEN + ROOM)
                await client.until("paused", lambda s: candidate(s, 2, 50))
                await finish(client, "paused")
                before = pair.proxy.requests.copy()
            finally:
                pair.first.send(signal.SIGCONT)
            await client.wait(lambda: told(not leads(pair.first)), lambda: pair.first.log[-2000:])
            await client.apply("paused", data=content(3))
            await client.until("paused", lambda s: stable(s, 3))
            written = {
                place: number
                for place, number in (pair.proxy.requests - before).items()
                if place[0] != "GET" and "leases" not in place[1] and "events" not in place[1]
            }
            assert written == {}, written
        one_hand(history)


async def told(value: object) -> bool:
    return bool(value)
