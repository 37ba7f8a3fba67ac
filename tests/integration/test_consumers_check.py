"""Rollouts that consumers themselves judge, on a real API server: in one process, and with replicas apart."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK
from tests.integration.running import Client, Operator, candidate, condition, running, stable, wait

from configregistry.kube.paths import REVISIONS

TTL = 600
BEAT = 0.3
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass
class Consumer:
    """Says again and again, to one replica, how a version does."""

    name: str
    replica: Operator
    version: int
    status: str = "ok"
    message: str = ""


@dataclass
class Consumers:
    """The consumers of one registry."""

    namespace: str
    registry: str
    all: list[Consumer] = field(default_factory=list)

    def url(self, replica: Operator, name: str) -> str:
        place = f"/v1/namespaces/{self.namespace}/registries/{self.registry}/consumers/{name}"
        return f"http://{LOOPBACK}:{replica.port}{place}"

    def add(self, *consumers: Consumer) -> None:
        self.all.extend(consumers)

    async def beat(self) -> None:
        """One round of heartbeats; a replica that is away is tried again in the next one."""
        for each in list(self.all):
            observed = {"version": each.version, "status": each.status, "message": each.message}
            body = json.dumps({"ttlSeconds": TTL, "observed": observed}).encode()
            with suppress(OSError):
                await asyncio.to_thread(_send, "PUT", self.url(each.replica, each.name), body)

    async def leave(self, consumer: Consumer) -> None:
        self.all.remove(consumer)
        await asyncio.to_thread(_send, "DELETE", self.url(consumer.replica, consumer.name))

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await self.beat()
                await asyncio.sleep(BEAT)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _send(method: str, url: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    with _open(request, timeout=5) as answer:
        return int(answer.status)


def spec(n: int, **check: Any) -> dict[str, Any]:
    asked = {"name": "consumers", "interval": "500ms", "consumers": {"maxErrorPercent": 3, "minReporting": 2}, **check}
    return {
        "data": {"n": n},
        "rollout": {"steps": [{"setWeight": 50}], "bake": "1s", "progressDeadline": "1h", "checks": [asked]},
    }


async def begun(client: Client, name: str, **check: Any) -> None:
    """Version 1 is stable, version 2 is the candidate."""
    await client.apply(name, **spec(1, **check))
    await client.ready(name)
    await client.apply(name, **spec(2, **check))
    await client.until(name, lambda status: candidate(status, 2, 50))


# One process


async def test_good_reports_promote(operator: Operator, client: Client) -> None:
    name = "good"
    await begun(client, name)
    consumers = Consumers(client.namespace, name)
    consumers.add(*(Consumer(f"pod-{number}", operator, 2) for number in range(3)))
    async with consumers.beating():
        status = await client.ready(name)
    assert stable(status, 2)


async def test_error_reports_roll_back_and_say_who(operator: Operator, client: Client) -> None:
    name = "bad"
    await begun(client, name)
    consumers = Consumers(client.namespace, name)
    consumers.add(Consumer("pod-0", operator, 1), Consumer("pod-1", operator, 2, "error", "no route to billing"))
    consumers.add(Consumer("pod-2", operator, 2))
    async with consumers.beating():
        status = await client.steady(name, Ready=("False", "RolledBack"), Healthy=("False", "CheckFailed"))
    assert stable(status, 1)
    said = status["rejected"][0]["message"]
    assert "1 of 2 consumers (50 %) report an error, expected at most 3 %: pod-1: no route to billing" in said


async def test_an_error_does_not_wait_for_the_interval(operator: Operator, client: Client) -> None:
    name = "news"
    await begun(client, name, interval="1h")
    consumers = Consumers(client.namespace, name)
    consumers.add(*(Consumer(f"pod-{number}", operator, 2, "error") for number in range(2)))
    async with consumers.beating():
        status = await client.until(name, lambda status: stable(status, 1))
    assert status["lastOutcome"]["result"] == "RolledBack"


async def test_too_few_wait_and_more_go_on(operator: Operator, client: Client) -> None:
    name = "few"
    await begun(client, name)
    consumers = Consumers(client.namespace, name)
    consumers.add(Consumer("pod-0", operator, 2), Consumer("pod-1", operator, 1))
    async with consumers.beating():
        await client.until(name, lambda status: condition(status, "Healthy").get("reason") == "NoData")
        said = "1 consumer reported on version 2 since the step began, expected at least 2"
        waited = await client.until(name, lambda status: said in json.dumps(status["canary"].get("checks")))
        assert candidate(waited, 2, 50)
        assert condition(waited, "Reconciling")["reason"] == "ChecksPending"
        consumers.all[1].version = 2
        assert stable(await client.ready(name), 2)


async def test_a_version_that_a_consumer_runs_with_is_kept(operator: Operator, client: Client) -> None:
    name = "kept"
    old = Consumer("pod-old", operator, 1)
    await client.apply(name, data={"n": 1}, revisionHistoryLimit=0)
    await client.ready(name)
    consumers = Consumers(client.namespace, name, [old])
    async with consumers.beating():
        await consumers.beat()
        await _collected(operator)
        for n in range(2, 6):
            await client.apply(name, data={"n": n}, revisionHistoryLimit=0)
            await client.ready(name)
        await client.wait(lambda: _versions(client, name, {1, 4, 5}), lambda: "versions 2 and 3 to go")
        await consumers.leave(old)
        changes = iter(range(10_000))

        async def gone() -> bool:
            # Any event has it looked at again; without one that takes 30 s.
            await client.annotate(name, touched=str(next(changes)))
            return await _versions(client, name, {4, 5})

        await client.wait(gone, lambda: "version 1 to go")


async def _collected(operator: Operator) -> None:
    """Wait until what was said by now has been collected."""
    name = "configregistry_replica_exchange_duration_seconds_count"
    before = operator.metrics(name)[""]
    await asyncio.to_thread(wait, lambda: operator.metrics(name)[""] >= before + 2, lambda: "two rounds to be over")


async def _versions(client: Client, name: str, wanted: set[int]) -> bool:
    page = json.loads(await client.api.list(REVISIONS.path(client.namespace)))
    prefix = f"{name}-"
    names = {each["metadata"]["name"] for each in page["items"]}
    return {int(each.removeprefix(prefix)) for each in names if each.startswith(prefix)} == wanted


# Replicas apart


@contextmanager
def apart(cluster: KubeCluster, namespace: str, directory: Path) -> Iterator[tuple[Operator, Operator, Operator]]:
    """Two replicas, and a controller that knows where they are."""
    with (
        running(cluster, namespace, directory / "one", command="serve") as one,
        running(cluster, namespace, directory / "two", command="serve") as two,
    ):
        urls = [f"--replica=http://{LOOPBACK}:{each.port}" for each in (one, two)]
        with running(cluster, namespace, directory / "controller", *urls, command="controller") as controller:
            yield controller, one, two


@pytest.fixture
async def person(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as made:
        yield made


async def test_over_replicas_that_restart(crd: KubeCluster, namespace: str, person: Client, tmp_path: Path) -> None:
    """Consumers of two replicas count together; a replica that is away is no reason to go on, nor one to go back."""
    name = "checkout"
    with apart(crd, namespace, tmp_path) as (controller, one, two):
        patient = {"consecutiveErrorLimit": 1000, "consumers": {"minReporting": 3}}
        await begun(person, name, **patient)
        consumers = Consumers(namespace, name)
        consumers.add(Consumer("pod-0", one, 2), Consumer("pod-1", one, 2), Consumer("pod-2", two, 1))
        async with consumers.beating():
            said = "2 consumers reported on version 2 since the step began, expected at least 3"
            await person.until(name, lambda status: said in json.dumps(status["canary"].get("checks")))

            two.kill()
            silent = f"a replica does not answer: http://{LOOPBACK}:{two.port}: no connection"
            status = await person.until(name, lambda status: silent in json.dumps(status["canary"].get("checks")))
            assert candidate(status, 2, 50)
            assert controller.metrics("configregistry_replica_exchange_errors_total")[""] >= 1

            two.start()
            consumers.all[2].version = 2
            assert stable(await person.ready(name), 2)

            # What the restarted replica never heard itself it knows from the leader.
            path = f"/v1/namespaces/{namespace}/registries/{name}/consumers"
            listed = {each["id"] for each in two.read(path)["consumers"]}
            assert listed == {"pod-0", "pod-1", "pod-2"}

            await person.apply(name, **spec(3, **patient))
            await person.until(name, lambda status: candidate(status, 3, 50))
            for each in consumers.all:
                each.version = 3
            consumers.all[0].status, consumers.all[0].message = "error", "boom"
            one.restart()
            status = await person.steady(name, Ready=("False", "RolledBack"))
    assert stable(status, 2)
    assert "pod-0: boom" in status["rejected"][0]["message"]


async def test_reports_outlive_the_replica_that_got_them(
    crd: KubeCluster, namespace: str, person: Client, tmp_path: Path
) -> None:
    """Said once, to a replica that then restarts: the leader still knows it."""
    name = "once"
    with apart(crd, namespace, tmp_path) as (_controller, one, two):
        await begun(person, name, consecutiveErrorLimit=1000, consumers={"minReporting": 3})
        consumers = Consumers(namespace, name)
        consumers.add(Consumer("pod-0", one, 2), Consumer("pod-1", one, 2))
        await consumers.beat()
        said = "2 consumers reported on version 2"
        await person.until(name, lambda status: said in json.dumps(status["canary"].get("checks")))
        one.restart()
        consumers.all[:] = [Consumer("pod-2", two, 2)]
        await consumers.beat()
        # The stage at 50 % is over with these; in the bake nobody says anything.
        status = await person.until(name, lambda status: candidate(status, 2, 100))
    assert not status.get("rejected")
