"""dependsOn on a real API server: the order of starts, rings, and what a rollback below means above."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from tests.integration.running import Client, Operator, Status, condition, stable
from tests.servers import AppServer

from configregistry.kube.paths import REGISTRIES

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

WAITS: dict[str, Any] = {"steps": [{"setWeight": 10}, {"pause": {}}]}


def needs(*names: str) -> dict[str, Any]:
    return {"dependsOn": [{"name": name} for name in names]}


def is_ready(found: dict[str, Any]) -> bool:
    ready = condition(found.get("status", {}), "Ready")
    return (ready.get("status"), ready.get("observedGeneration")) == ("True", found["metadata"]["generation"])


class Diary:
    """All registries of the namespace, each state of each, in the API server's order."""

    def __init__(self) -> None:
        self.states: list[dict[str, dict[str, Any]]] = [{}]

    async def follow(self, client: Client, version: str) -> None:
        async with client.api.watch(REGISTRIES.path(client.namespace), {"resourceVersion": version}) as lines:
            async for line in lines:
                found = json.loads(line)["object"]
                self.states.append({**self.states[-1], found["metadata"]["name"]: found})

    def starts(self, name: str, number: int) -> dict[str, dict[str, Any]]:
        """What there was when a version of a registry was first given to anybody."""
        for state in self.states:
            status: Status = state.get(name, {}).get("status", {})
            given = (status.get("stable", {}).get("version"), status.get("canary", {}).get("version"))
            if number in given:
                return state
        raise AssertionError(f"{name} never gave version {number}")


@asynccontextmanager
async def diary(client: Client) -> AsyncIterator[Diary]:
    kept = Diary()
    listed = json.loads(await client.api.list(REGISTRIES.path(client.namespace)))
    task = asyncio.create_task(kept.follow(client, listed["metadata"]["resourceVersion"]))
    try:
        yield kept
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_is_applied_in_the_wrong_order_starts_in_the_right_one(client: Client) -> None:
    below = {"page": ("api", "cache"), "api": ("base",), "cache": ("base",), "base": ()}
    for n in (1, 2):
        async with diary(client) as kept:
            if n == 1:
                for name, names in below.items():
                    await client.apply(name, data={"n": n}, **needs(*names))
                    await client.steady(
                        name, Ready=("False", "DependencyNotReady") if names else ("True", "RolloutComplete")
                    )
            else:
                # A change of all: the one below is asked first, and is not quick.
                for name, names in reversed(below.items()):
                    rollout: dict[str, Any] = {} if names else {"rollout": WAITS}
                    await client.apply(name, data={"n": n}, **needs(*names), **rollout)
                for name in ("page", "api", "cache"):
                    await client.steady(name, Ready=("False", "DependencyNotReady"))
                await client.command("base", "promote", "2:0:go")
            for name in below:
                await client.ready(name)
                await client.until(name, lambda s, n=n: stable(s, n))  # type: ignore[misc]

            async def told(kept: Diary = kept, n: int = n) -> bool:
                return all(stable(kept.states[-1].get(name, {}).get("status", {}), n) for name in below)

            await client.wait(told, lambda: "the watch to tell of all of it")
        for name, names in below.items():
            then = kept.starts(name, n)
            assert [each for each in names if not is_ready(then[each])] == [], (name, n)


async def idle(operator: Operator) -> bool:
    before = operator.metrics("configregistry_reconciles_total")
    await asyncio.sleep(1)
    return operator.metrics("configregistry_reconciles_total") == before


@pytest.mark.parametrize("served", [True, False], ids=["served", "new"])
async def test_each_member_of_a_ring_says_so_and_none_starts(client: Client, operator: Operator, served: bool) -> None:
    one, two, three, beside = (f"{name}-{'served' if served else 'new'}" for name in ("one", "two", "three", "beside"))
    ring = {one: two, two: three, three: one}
    for name in ring if served else ():
        await client.apply(name, data={"n": 1})
        await client.ready(name)
    for name, below in ring.items():
        await client.apply(name, data={"n": 1}, **needs(below))
        if not served and name != three:
            await client.steady(name, Ready=("False", "DependencyNotReady"))
            await client.wait(lambda: idle(operator), lambda: "nothing else to wake anybody")
    await client.apply(beside, data={"n": 1}, **needs(one))
    available = ("True", "VersionServed") if served else ("False", "NoVersion")
    for name, below in ring.items():
        path = [name, below, ring[below], name]
        held = await client.steady(name, Stalled=("True", "InvalidSpec"), Available=available)
        assert f"spec.dependsOn: expected no cycle: {' -> '.join(path)}" in condition(held, "Stalled")["message"]
    # Who only stands beside it waits, and is not accused.
    waits = await client.steady(beside, Ready=("False", "DependencyNotReady"))
    assert one in condition(waits, "Ready")["message"]
    for name, below in ring.items():
        await client.apply(name, data={"n": 2}, **needs(below))
        held = await client.steady(name, Stalled=("True", "InvalidSpec"))
        assert held.get("stable", {}).get("version") == (1 if served else None)
    # Broken at one place all are free, the one that was broken out first.
    number = 2 if served else 1
    async with diary(client) as kept:
        await client.apply(two, data={"n": 2})
        for name in (*ring, beside):
            await client.ready(name)

        async def all_told() -> bool:
            return all(is_ready(kept.states[-1].get(name, {"metadata": {"generation": 0}})) for name in (*ring, beside))

        await client.wait(all_told, lambda: "the watch to tell of all of it")
    assert is_ready(kept.starts(one, number)[two])
    assert is_ready(kept.starts(three, number)[one])
    assert is_ready(kept.starts(beside, 1)[one])


async def test_a_rollback_below_undoes_nothing_above_and_holds_what_comes_next(client: Client, app: AppServer) -> None:
    check = {"name": "alive", "interval": "100ms", "http": {"url": f"http://{app.address}/healthz"}}
    rollout = {"steps": [{"setWeight": 20}, {"pause": {"duration": "200ms"}}], "checks": [check]}
    app.health = 200
    await client.apply("database", data={"n": 1}, rollout=rollout)
    await client.apply("user", data={"n": 1}, **needs("database"))
    await client.ready("user")
    # While the change below is out, one above waits; a candidate that had begun does not.
    await client.apply("user", data={"n": 2}, rollout=WAITS, **needs("database"))
    begun = await client.steady("user", Ready=("False", "Paused"))
    app.health = 500
    await client.apply("database", data={"n": 2}, rollout=rollout)
    await client.steady("database", Ready=("False", "RolledBack"))
    still = await client.status("user")
    assert (still["stable"], still["canary"]["version"], still["revision"]) == (begun["stable"], 2, begun["revision"])
    await client.command("user", "promote", "2:0:go")
    done = await client.ready("user")
    assert stable(done, 2)

    await client.apply("user", data={"n": 3}, **needs("database"))
    held = await client.steady(
        "user", Ready=("False", "DependencyNotReady"), Reconciling=("True", "WaitingForDependency")
    )
    assert stable(held, 2)
    assert "database" in condition(held, "Ready")["message"]
    assert sorted(await client.revisions("user")) == [1, 2]
    # What is taken back is not undone by a rollback; the spec is: then it is Ready, and above it goes on by itself.
    app.health = 200
    await client.apply("database", data={"n": 1}, rollout=rollout)
    await client.ready("database")
    assert stable(await client.ready("user"), 3)


async def test_a_ring_that_others_close_holds_no_candidate_that_is_out(client: Client) -> None:
    await client.apply("below", data={"n": 1})
    await client.apply("above", data={"n": 1}, **needs("below"))
    await client.ready("above")
    await client.apply("above", data={"n": 2}, rollout=WAITS, **needs("below"))
    await client.steady("above", Ready=("False", "Paused"))
    await client.apply("below", data={"n": 1}, **needs("above"))
    await client.steady("below", Stalled=("True", "InvalidSpec"))
    await client.command("above", "promote", "2:0:go")
    done = await client.until("above", lambda status: stable(status, 2))
    assert "canary" not in done
    # It has nothing to go on with now, and says what holds its next start.
    named = await client.steady("above", Stalled=("True", "InvalidSpec"))
    assert "above -> below -> above" in condition(named, "Stalled")["message"]
    await client.apply("below", data={"n": 1})
    await client.ready("above")
