"""Two controllers, one Lease: who decides, and who takes over when that one is killed, ends, or only sleeps."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster

from configregistry.kube.paths import LEASES

from .running import Client, Operator, given, install_crd, running

pytestmark = pytest.mark.xdist_group("election")

CRASHED = 17.0
ENDED = 3.0
SHARED = 10.0
"""Seconds more that a busy machine is given; docs/operations.md has what was measured on a quiet one."""
STEPS = [{"setWeight": 10}, {"pause": {"duration": "3s"}}, {"setWeight": 50}, {"pause": {}}]


@pytest.fixture(scope="module")
def crd(cluster: KubeCluster) -> KubeCluster:
    install_crd(cluster)
    return cluster


@pytest.fixture
async def client(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as found:
        yield found


@contextmanager
def two(cluster: KubeCluster, namespace: str, directory: Path) -> Iterator[tuple[Operator, Operator]]:
    """The first leads, the second stands by."""
    with (
        running(cluster, namespace, directory / "first", command="controller", election=True, start=False) as first,
        running(cluster, namespace, directory / "second", command="controller", election=True, start=False) as second,
    ):
        first.start()
        until(lambda: leads(first), 60)
        second.start()
        yield first, second


def leads(operator: Operator) -> bool:
    return operator.metrics("configregistry_leader ") == {"": 1.0}


def until(condition: Any, within: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within, f"waited {within} s in vain"
        time.sleep(0.05)
    return time.monotonic() - started


async def lease(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await client.api.get(LEASES.path(client.namespace, "configregistry")))
    spec: dict[str, Any] = found["spec"]
    return spec


async def test_one_decides_and_the_other_takes_over_when_it_is_killed(
    crd: KubeCluster, client: Client, tmp_path: Path
) -> None:
    with two(crd, client.namespace, tmp_path) as (first, second):
        await client.apply("checkout", data={"a": 1})
        stable = await client.ready("checkout")
        assert stable["leaderEpoch"] == (await lease(client))["leaseTransitions"] == 1
        assert not leads(second)
        await client.apply("checkout", data={"a": 2}, rollout={"steps": STEPS})
        await client.until("checkout", lambda s: s.get("canary", {}).get("weight") == 10)
        async with client.history("checkout") as history:
            first.kill()
            seconds = until(lambda: leads(second), CRASHED + SHARED)
            assert seconds > 5, "a Lease that is not over was taken"
            status = await client.until("checkout", lambda s: s.get("canary", {}).get("weight") == 50)
        assert status["leaderEpoch"] == 2
        history.check()
        assert list(dict.fromkeys(place[2] for place in history.places)) == [10, 50]
        assert "drift" not in second.log, "what the leader before wrote is no drift"


async def test_a_leader_that_ends_gives_up_its_lease(crd: KubeCluster, client: Client, tmp_path: Path) -> None:
    with two(crd, client.namespace, tmp_path) as (first, second):
        holder = (await lease(client))["holderIdentity"]
        first.send(signal.SIGTERM)
        until(lambda: leads(second), ENDED + SHARED)
        assert first.ended() == 0
        found = await lease(client)
        assert found["holderIdentity"] != holder
        assert (found["leaseTransitions"], found["leaseDurationSeconds"]) == (2, 15)
        await client.apply("checkout", data={"a": 1})
        assert (await client.ready("checkout"))["leaderEpoch"] == 2


async def test_a_leader_that_slept_through_its_lease_writes_nothing_when_it_wakes(
    crd: KubeCluster, client: Client, tmp_path: Path
) -> None:
    with two(crd, client.namespace, tmp_path) as (first, second):
        await client.apply("checkout", data={"a": 1})
        await client.ready("checkout")
        await client.apply("checkout", data={"a": 2}, rollout={"steps": STEPS})
        await client.until("checkout", lambda s: s.get("canary", {}).get("weight") == 10)
        async with client.history("checkout") as history:
            first.send(signal.SIGSTOP)
            until(lambda: leads(second), CRASHED + SHARED)
            await client.until("checkout", lambda s: s.get("canary", {}).get("weight") == 50)
            first.send(signal.SIGCONT)
            until(lambda: not leads(first), 30)
            # It is to have had the time and a reason to write: its own pause is long over, and something new is said.
            await client.command("checkout", "promote-full", "2:-:go")
            await client.until("checkout", lambda s: given(s)[1] is None)
        history.check()
        assert list(dict.fromkeys(place[2] for place in history.places)) == [10, 50, None]
        assert [each.status["leaderEpoch"] for each in history.seen if "canary" in each.status][-1] == 2
        assert {each.status["leaderEpoch"] for each in history.seen[1:]} <= {1, 2}
        epochs = [each.status["leaderEpoch"] for each in history.seen]
        assert epochs == sorted(epochs), "an epoch that was over has written"
        assert re.search(r"not leading any more", first.log)


async def test_who_finds_a_greater_epoch_begins_one_that_is_greater_still(
    crd: KubeCluster, client: Client, tmp_path: Path
) -> None:
    with running(crd, client.namespace, tmp_path / "one", command="controller", election=True):
        await client.apply("checkout", data={"a": 1})
        await client.ready("checkout")
        await client.patch_status("checkout", {"leaderEpoch": 40})
        await client.apply("checkout", data={"a": 2})
        status = await client.until("checkout", lambda s: s["stable"]["version"] == 2)
        assert status["leaderEpoch"] > 40
        assert (await lease(client))["leaseTransitions"] == status["leaderEpoch"]


async def test_a_lease_that_somebody_deleted_is_made_again(crd: KubeCluster, client: Client, tmp_path: Path) -> None:
    with running(crd, client.namespace, tmp_path / "one", command="controller", election=True):
        await client.apply("checkout", data={"a": 1})
        assert (await client.ready("checkout"))["leaderEpoch"] == 1
        await client.api.delete(LEASES.path(client.namespace, "configregistry"))
        await client.apply("checkout", data={"a": 2})
        await client.until("checkout", lambda s: s["stable"]["version"] == 2)
        await client.wait(lambda: _made(client), lambda: "the Lease to be there again")
        await client.apply("checkout", data={"a": 3})
        assert (await client.until("checkout", lambda s: s["stable"]["version"] == 3))["leaderEpoch"] >= 2


async def _made(client: Client) -> bool:
    listed = json.loads(await client.api.list(LEASES.path(client.namespace)))
    return any(each["metadata"]["name"] == "configregistry" for each in listed["items"])
