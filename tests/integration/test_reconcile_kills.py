"""kill -9 at every stage of a rollout, good and bad: the same history as if nothing had happened.

Every write that the operator makes is met twice: the process is killed before the API server has heard of
it, and, when its successor comes to the same point, after the API server has accepted it and before the
answer is there. Between them lies every instruction at which it matters to die.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.integration.between import Between, Call
from tests.integration.running import Client, History, Operator, given, place_of, running, said, stable
from tests.servers import AppServer

from configregistry.kube.paths import REGISTRIES

NAME = "shop"
PAUSE = 2
"""Seconds of the stage that must not be shortened."""


def spec(app: AppServer, n: int) -> dict[str, Any]:
    check = {
        "name": "alive",
        "interval": "200ms",
        "failureLimit": 1,
        "http": {"url": f"http://{app.address}/healthz"},
    }
    steps = [{"setWeight": 20}, {"pause": {"duration": f"{PAUSE}s"}}, {"setWeight": 60}, {"pause": {}}]
    return {"data": {"n": n}, "rollout": {"steps": steps, "bake": f"{PAUSE}s", "checks": [check]}}


class Killer:
    """Kills the operator at each point once before and once after the API server hears of it."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.met: dict[tuple[Any, ...], int] = {}
        self.killed = asyncio.Event()

    def point(self, call: Call) -> tuple[Any, ...] | None:
        """Where in its work the operator is, by what it is about to write; None: nowhere of interest."""
        if call.method == "PUT" and call.path.endswith(f"/{NAME}/status"):
            status = call.json["status"]
            canary = status.get("canary") or {}
            failed = [each["failed"] for each in canary.get("checks", ())]
            reasons = tuple(each["reason"] for each in status["conditions"] if each["type"] == "Reconciling")
            return ("status", *place_of(status), canary.get("stepStartedAt", "") != "", *failed, *reasons)
        if call.writes("controllerrevisions"):
            return ("version", call.method)
        if call.writes("events"):
            return ("event", call.method)
        return None

    async def before(self, call: Call) -> bool:
        point = self.point(call)
        if point is None or self.met.get(point, 0) != 0:
            return False
        return self._kill(point)

    async def after(self, call: Call) -> bool:
        point = self.point(call)
        if point is None or self.met.get(point, 0) != 1:
            return False
        return self._kill(point)

    def _kill(self, point: tuple[Any, ...]) -> bool:
        if self.killed.is_set():
            return True  # it is dying already
        self.met[point] = self.met.get(point, 0) + 1
        self.operator.kill()
        self.killed.set()
        return True

    async def revive(self) -> None:
        """Start it again each time, until cancelled."""
        while True:
            await self.killed.wait()
            self.operator.kill()
            self.killed.clear()
            self.operator.start(ready=False)  # it may be killed again before it is ready


@asynccontextmanager
async def dying(cluster: KubeCluster, namespace: str, directory: Path) -> AsyncIterator[Killer]:
    """An operator behind a killer."""
    between = Between()
    async with between.listening(cluster.kubeconfig, directory) as kubeconfig:
        with running(cluster, namespace, directory, kubeconfig=kubeconfig, start=False) as operator:
            killer = Killer(operator)
            operator.start(ready=False)
            await asyncio.to_thread(operator.await_ready)
            between.before, between.after = killer.before, killer.after
            task = asyncio.create_task(killer.revive())
            try:
                yield killer
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


Person = Callable[[Client, dict[str, Any]], Awaitable[None]]


async def patient(client: Client, status: dict[str, Any]) -> None:
    """Pauses and resumes once at 20 %, and promotes what waits; each command once."""
    canary, done = status.get("canary") or {}, status.get("commands", {})
    by = canary.get("paused", {}).get("by")
    if canary.get("weight") == 20 and by is None and "pause" not in done:
        await client.command(NAME, "pause", "2:-:p")
    elif by == "Command" and "resume" not in done:
        await client.command(NAME, "resume", "2:-:r")
    elif by == "Step" and "promote" not in done:
        await client.command(NAME, "promote", f"2:{canary['currentStepIndex']}:g")


async def play(client: Client, app: AppServer, *, bad: bool) -> History:
    """One rollout, watched to its end."""
    async with client.history(NAME) as history:
        await client.apply(NAME, **spec(app, 2))
        acted = -1
        deadline = time.monotonic() + 240
        while not history.seen or not _over(history.seen[-1].status):
            assert time.monotonic() < deadline, json.dumps(history.seen[-1].status if history.seen else {}, indent=1)
            if len(history.seen) - 1 > acted:
                acted = len(history.seen) - 1
                status = history.seen[acted].status
                if bad and (status.get("canary") or {}).get("weight") == 60:
                    app.health = 500
                else:
                    await patient(client, status)
            await asyncio.sleep(0.02)
        await client.until(NAME, lambda s: not s.get("canary"))
        return history


def _over(status: dict[str, Any]) -> bool:
    return ("canary" not in status and status["lastOutcome"]["result"] != "Completed") or stable(status, 2)


async def undisturbed(cluster: KubeCluster, namespace: str, directory: Path, app: AppServer, *, bad: bool) -> History:
    """The history to compare with."""
    with running(cluster, namespace, directory):
        async with Client.of(cluster, namespace) as client:
            app.health = 200
            await client.apply(NAME, **spec(app, 1))
            await client.ready(NAME)
            history = await play(client, app, bad=bad)
            await client.delete(NAME)
            return history


def outline(history: History) -> list[tuple[Any, ...]]:
    """What must be the same: where the rollout stood, and how it ended."""
    last = history.seen[-1].status
    return [*history.places, (last["lastOutcome"]["result"], [each["version"] for each in last.get("rejected", ())])]


def check_counts(history: History) -> None:
    """Counters of failures only go up within a candidate, one at a time: none is lost or counted twice."""
    failed = [
        sum(each["failed"] for each in seen.status["canary"].get("checks", ()))
        for seen in history.seen
        if seen.status.get("canary")
    ]
    assert all(0 <= after - before <= 1 for before, after in pairwise(failed)), failed


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
async def test_killed_before_and_after_each_write(crd: KubeCluster, tmp_path: Path, app: AppServer, bad: bool) -> None:
    calm, stormy = crd.create_namespace(), crd.create_namespace()
    for each in ("calm", "stormy"):
        (tmp_path / each).mkdir()
    reference = await undisturbed(crd, calm, tmp_path / "calm", app, bad=bad)
    app.health = 200
    async with Client.of(crd, stormy) as client:
        with running(crd, stormy, tmp_path):
            await client.apply(NAME, **spec(app, 1))
            await client.ready(NAME)
        async with dying(crd, stormy, tmp_path / "stormy") as killer:
            history = await play(client, app, bad=bad)
            await client.until(NAME, lambda s: said(s, Reconciling=("False", "Idle")))
        assert outline(history) == outline(reference), killer.met
        history.check()
        check_counts(history)
        # Every place was met twice, and the records and marks too.
        statuses = [point for point in killer.met if point[0] == "status"]
        assert len(statuses) >= len(set(reference.places)) - 1, killer.met
        assert ("version", "POST") in killer.met
        assert killer.operator.starts >= 2 * len(statuses)
        assert sorted(await client.revisions(NAME)) == [1, 2]
        assert history.seen[-1].status["revision"] == reference.seen[-1].status["revision"]
        for place, stayed in history.stays().items():
            if place[2] in (20, 100) and place[4] is None and not bad:
                assert stayed >= PAUSE - 0.1 or place[2] == 20, (place, stayed)
        paused = [seen for seen in history.seen if (seen.status.get("canary") or {}).get("weight") == 20]
        following = next(s for s in history.seen if (s.status.get("canary") or {}).get("weight") == 60)
        assert following.at - paused[0].at >= PAUSE - 0.1
        if bad:
            # Once taken back it is never given again.
            places = history.places
            back = next(i for i, place in enumerate(places) if place[1] is None and i > 0)
            assert all(place[:2] == (1, None) for place in places[back:])
    for name in (calm, stormy):
        crd.delete_namespace(name)


async def test_a_restart_writes_nothing_about_what_is_steady(crd: KubeCluster, namespace: str, tmp_path: Path) -> None:
    specs: dict[str, dict[str, Any]] = {
        "plain": {"data": {"n": 1}},
        "sourced": {"dataFrom": [{"configMapRef": {"name": "base"}}]},
        "invalid": {"data": {"a b": 1}},
        "waiting": {"data": {"n": 1}, "dependsOn": [{"name": "nobody"}]},
        "pinned": {"data": {"n": 1}, "revisionHistoryLimit": 0},
    }
    async with Client.of(crd, namespace) as client:
        await client.configmap("base", {"a": "1"})
        with running(crd, namespace, tmp_path) as operator:
            for name, each in specs.items():
                await client.apply(name, **each)
            for name in specs:
                await client.until(name, lambda s: bool(s.get("conditions")))
            for name in ("plain", "sourced", "pinned"):
                await client.ready(name)
            await client.wait(lambda: _marked(client), lambda: "the verdicts to be copied")
            before = {name: await client.get(name) for name in specs}
            revisions = {name: await client.revisions(name) for name in specs}
            operator.restart()
            done = "configregistry_reconciles_total"

            async def all_seen() -> bool:
                return sum(operator.metrics(done).values()) >= len(specs)

            await client.wait(all_seen, lambda: f"all to be looked at: {operator.metrics(done)}")
            assert {name: await client.get(name) for name in specs} == before
            assert {name: await client.revisions(name) for name in specs} == revisions


async def _marked(client: Client) -> bool:
    found = [each for name in ("plain", "sourced", "pinned") for each in (await client.revisions(name)).values()]
    return all("configregistry.dev/verdict" in each["metadata"].get("annotations", {}) for each in found)


async def _rolled_back(client: Client, app: AppServer) -> dict[str, Any]:
    """Version 2 is stable, 1 previous, 3 was taken back."""
    app.health = 200
    for n in (1, 2):
        await client.apply(NAME, data={"n": n})
        await client.until(NAME, lambda s, n=n: stable(s, n))  # type: ignore[misc]
    app.health = 500
    await client.apply(NAME, **spec(app, 3))
    found = await client.steady(NAME, Stalled=("True", "RolledBack"))
    app.health = 200

    async def marked() -> bool:
        each = (await client.revisions(NAME))[3]["metadata"].get("annotations", {})
        return "rejected" in each.get("configregistry.dev/verdict", "")

    await client.wait(marked, lambda: "the rejection to be copied to version 3")
    return found


@pytest.mark.parametrize("how", ["deleted", "version", "both"])
async def test_what_a_hand_deleted_while_nobody_ran(
    crd: KubeCluster, namespace: str, tmp_path: Path, app: AppServer, how: str
) -> None:
    """A status that is lost is made again of what was copied; a version of what the spec asks for."""
    async with Client.of(crd, namespace) as client:
        with running(crd, namespace, tmp_path) as operator:
            before = await _rolled_back(client, app)
            if how != "deleted":
                await client.apply(NAME, data={"n": 2})
                before = await client.ready(NAME)
            operator.kill()
            if how != "version":
                found = await client.get(NAME)
                assert found is not None
                found["status"] = {}
                await client.api.replace(REGISTRIES.path(namespace, NAME, "status"), json.dumps(found).encode())
            if how == "version":
                await client.delete_revision(NAME, 2)
            if how == "both":
                await client.delete_revision(NAME, 1)
            operator.start(ready=False)
            after = await client.until(NAME, lambda s: bool(s.get("stable")))
            assert given(after) == given(before)
            assert after["revision"] >= before["revision"]
            assert after["rejectedHashes"] == before["rejectedHashes"]

            async def whole() -> bool:
                return 2 in await client.revisions(NAME)

            await client.wait(whole, lambda: "version 2 to be there")
            await asyncio.to_thread(operator.await_ready)
            served = operator.read(f"/v1/namespaces/{namespace}/registries/{NAME}")
            assert served["data"] == {"n": 2}
            # What was taken back stays so.
            await client.apply(NAME, **spec(app, 3))
            assert stable(await client.steady(NAME, Stalled=("True", "RolledBack")), 2)
