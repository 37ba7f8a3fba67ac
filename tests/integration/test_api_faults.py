"""Every way in which an API server fails, during a rollout that is good and one that goes back: nothing of it shows.

One controller and one replica that serves live through all of it, each behind a fault proxy of its own. For each
fault two registries: in `good` a new version is asked for while the fault lasts; in `bad` a candidate's check begins
to fail. A reader of each reads all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pytest
from tests.cluster import KubeCluster
from tests.faults import (
    Armed,
    FaultProxy,
    Rule,
    behind,
    black_hole,
    cut,
    end,
    expire,
    garbage,
    hold,
    refuse,
    reset,
    stall,
)
from tests.faults.reader import content, reading
from tests.faults.rules import Flow
from tests.integration.running import WITHIN, Client, Operator, candidate, running, said, stable
from tests.servers import AppServer

from configregistry.kube.paths import REGISTRIES, REVISIONS
from configregistry.model.names import LABEL_HASH

pytestmark = pytest.mark.xdist_group("api-faults")

CODES: Final = (401, 403, 409, 422, 429, 500, 503, 504)
STATUS: Final = r"/configregistries/[^/]+/status$"
VERSIONS: Final = r"/controllerrevisions$"
OURS: Final = r"/(configregistries|controllerrevisions)"
BURST: Final = 40
"""Requests at once, as every watch is opened again."""
TALK: Final = 80
"""Lines of one process about one fault that would be a flood."""


@dataclass
class World:
    """What lives through all faults."""

    namespace: str
    processes: dict[str, Operator]
    proxies: dict[str, FaultProxy]
    well: AppServer
    sick: AppServer


class Case(NamedTuple):
    """A fault: rules for the proxies, and for how long (or, with `hits`, until each rule has had its hits)."""

    rules: Callable[[World], dict[str, tuple[Rule, ...]]]
    seconds: float = 1.5
    stale: bool = False
    busy: float = 40.0
    """Requests a second of one process, of some ten watches and two registries, that would be a busy loop."""


def both(*rules: Rule) -> Callable[[World], dict[str, tuple[Rule, ...]]]:
    """For the controller and for the replica."""
    return lambda _world: {"controller": rules, "serve": rules}


def controller(*rules: Rule) -> Callable[[World], dict[str, tuple[Rule, ...]]]:
    """For the controller alone."""
    return lambda _world: {"controller": rules}


def serve(*rules: Rule) -> Callable[[World], dict[str, tuple[Rule, ...]]]:
    """For the replica alone."""
    return lambda _world: {"serve": rules}


def past(*names: str) -> Callable[[World], dict[str, tuple[Rule, ...]]]:
    """Reads are answered from how it was before the fault."""

    def rules(world: World) -> dict[str, tuple[Rule, ...]]:
        paths = (REGISTRIES.path(world.namespace), REVISIONS.path(world.namespace))
        found: dict[str, tuple[Rule, ...]] = {}
        for name in names:
            picture = world.proxies[name].picture(*paths)
            found[name] = (Rule(behind(picture, flow=Flow.EXPIRE), path=OURS), Rule(expire(), path=OURS, watch=True))
        return found

    return rules


def each(path: str, method: str) -> tuple[Rule, ...]:
    """One after the other, every refusal."""
    return tuple(
        Rule(refuse(code, retry_after=1 if code == 429 else None), methods={method}, path=path, hits=1)
        for code in CODES
    )


CASES: Final = {
    "writes-refused": Case(controller(*each(STATUS, "PUT"))),
    "versions-refused": Case(controller(*each(VERSIONS, "POST"))),
    "writes-lost": Case(
        controller(
            Rule(reset(), methods={"PUT"}, path=STATUS, hits=2),
            Rule(reset(after=True), methods={"PUT"}, path=STATUS, hits=2),
            Rule(stall(after=True), methods={"PUT"}, path=STATUS, hits=1),
            Rule(reset(after=True), methods={"POST"}, path=VERSIONS, hits=1),
        )
    ),
    "unavailable": Case(both(Rule(refuse(503, flow=Flow.CUT))), seconds=3.0),
    "unauthorized": Case(both(Rule(refuse(401, flow=Flow.CUT))), seconds=2.0),
    "throttled": Case(both(Rule(refuse(429, retry_after=1, flow=Flow.CUT))), seconds=2.0),
    "crd-gone": Case(both(Rule(refuse(404, flow=Flow.CUT), methods={"GET"}, path="/configregistries"))),
    "not-kubernetes": Case(both(Rule(refuse(404, text="<html>no backend</html>", flow=Flow.CUT)))),
    "watches-broken": Case(
        both(*(Rule(fault, watch=True, hits=6) for fault in (cut(), expire(), garbage(), end()))),
    ),
    "events-late": Case(both(Rule(hold(), watch=True))),
    "events-late-for-readers": Case(serve(Rule(hold(), watch=True))),
    # An annotation is tried 20 times at once against other writers, whom a reader of the past never sees win.
    "past-of-all": Case(past("controller", "serve"), seconds=2.0, busy=150.0),
    "past-of-controller": Case(past("controller"), seconds=2.0, busy=150.0),
    "black-hole": Case(both(Rule(black_hole())), seconds=5.0),
    "gone": Case(both(), seconds=7.0, stale=True),
}
"""Each with what it is called in the names of its registries."""


@pytest.fixture(scope="module")
def world(crd: KubeCluster, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One controller and one replica, each behind a proxy."""
    directory = tmp_path_factory.mktemp("faults")
    with contextlib.ExitStack() as stack:
        proxies = {
            name: stack.enter_context(FaultProxy(crd.kubeconfig, directory, name=name))
            for name in ("controller", "serve")
        }
        processes = {
            name: stack.enter_context(
                running(
                    crd,
                    place,
                    directory / name,
                    kubeconfig=proxy.kubeconfig,
                    command=name,
                )
            )
            for name, proxy in proxies.items()
        }
        well, sick = stack.enter_context(AppServer()), stack.enter_context(AppServer())
        yield World(place, processes, proxies, well, sick)
        for process in processes.values():
            assert process.alive
            # kopf gives up where credentials are refused, and is started again: it names only what reflectors name too.
            said_wrong = [line for line in process.lines if "exception" in line and "kopf" not in line["event"]]
            defects = [line for line in said_wrong if str(line.get("logger")).startswith("configregistry.")]
            assert not defects, defects


def spec(n: int, app: AppServer, pause: dict[str, str]) -> dict[str, Any]:
    """A registry whose candidates are checked by asking an app."""
    check = {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz"}}
    return {"data": content(n), "rollout": {"steps": [{"setWeight": 50}, {"pause": pause}], "checks": [check]}}


@pytest.mark.parametrize("name", CASES)
async def test_a_fault_of_the_api_server_changes_no_configuration(world: World, client: Client, name: str) -> None:
    case = CASES[name]
    good, bad = f"{name}-good", f"{name}-bad"
    world.sick.health = 200
    for registry, app in ((good, world.well), (bad, world.sick)):
        await client.apply(registry, **spec(1, app, {}))
        await client.ready(registry)
    await client.apply(bad, **spec(2, world.sick, {}))
    await client.until(bad, lambda s: candidate(s, 2, 50) and said(s, Ready=("False", "Paused")))
    port = world.processes["serve"].port
    for registry, target in ((good, "anybody"), (bad, "pod-7"), (bad, "pod-8")):
        # Its watches may still wait for their turn after the fault before.
        path = f"/v1/namespaces/{client.namespace}/registries/{registry}?target={target}"
        await asyncio.to_thread(world.processes["serve"].read, path)
    talked = {each: len(process.lines) for each, process in world.processes.items()}
    async with AsyncExitStack() as stack:
        histories = [await stack.enter_async_context(client.history(each)) for each in (good, bad)]
        readers = [
            await stack.enter_async_context(reading(port, client.namespace, each, target))
            for each, target in ((good, "anybody"), (bad, "anybody"), (bad, "pod-7"), (bad, "pod-8"))
        ]
        rates = {each: stack.enter_context(proxy.counted()) for each, proxy in world.proxies.items()}
        async with faulty(world, case, gone=name == "gone"):
            await client.apply(good, **spec(2, world.well, {"duration": "200ms"}))
            world.sick.health = 500
        await client.until(bad, lambda s: stable(s, 1))
        await client.until(good, lambda s: stable(s, 2))
        revisions = [(await client.status(each))["revision"] for each in (good, bad, bad, bad)]
        await client.wait(
            lambda: caught_up([reader.last.get("revision", 0) for reader in readers], revisions),
            lambda: f"readers to have {revisions}: {[reader.last for reader in readers]}",
        )
    for rate in rates.values():
        rate.stop()
    for reader in readers:
        assert reader.wrong == [], name
        assert reader.answers > 10
    assert [reader.last["version"] for reader in readers] == [2, 1, 1, 1]
    for history in histories:
        history.check()
    # Nothing but what was asked for was ever decided, and each of it once.
    assert [place[:3] for place in histories[0].places if place[1]] in ([(1, 2, 50)], [(1, 2, 50), (1, 2, 100)])
    assert [place[:2] for place in histories[1].places] in ([(1, None)], [(1, 2), (1, None)])
    outcome = (await client.status(bad))["lastOutcome"]
    assert (outcome["result"], outcome["version"]) == ("RolledBack", 2), outcome
    for registry in (good, bad):
        versions = await client.revisions(registry)
        hashes = {each["metadata"]["labels"][LABEL_HASH] for each in versions.values()}
        assert sorted(versions) == [1, 2], "a version was recorded twice"
        assert len(hashes) == 2
    if case.stale:
        assert readers[0].stale, "nobody was told that it is stale"
    for each, process in world.processes.items():
        assert process.starts == 1
        assert process.alive
        asked = "\n".join(f"{number} {what}" for what, number in rates[each].of.most_common(8))
        assert rates[each].requests < BURST + case.busy * rates[each].seconds, asked
        said_now = process.lines[talked[each] :]
        assert len(said_now) < TALK, [line["event"] for line in said_now]


async def caught_up(read: list[int], wanted: list[int]) -> bool:
    """Whether readers have these revisions."""
    return all(one >= other for one, other in zip(read, wanted, strict=True))


@contextlib.asynccontextmanager
async def faulty(world: World, case: Case, *, gone: bool) -> AsyncIterator[None]:
    """Have a fault, and leave it when it has happened often or long enough."""
    rules = await asyncio.to_thread(case.rules, world)
    with contextlib.ExitStack() as stack:
        armed: list[Armed] = []
        for each, proxy in world.proxies.items():
            if gone:
                await asyncio.to_thread(stack.enter_context, proxy.gone())
            else:
                armed += stack.enter_context(proxy.during(*rules.get(each, ())))
        yield
        began = asyncio.get_running_loop().time()

        def over() -> bool:
            counted = [one for one in armed if one.rule.hits is not None]
            if counted:
                return all(one.hits >= (one.rule.hits or 0) for one in counted)
            return asyncio.get_running_loop().time() - began > case.seconds

        async with asyncio.timeout(WITHIN):
            while not over():  # noqa: ASYNC110 - a proxy tells nobody
                await asyncio.sleep(0.05)
