"""A rollback as a promise: everybody is back on stable, nothing that hangs holds it up, no outage makes it forgotten.

How long it takes is measured by tests/bench/bench_rollback.py; here only bounds that a busy machine keeps as well.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import Cluster, KubeCluster
from tests.cluster.ports import LOOPBACK
from tests.integration.between import Between, Call
from tests.integration.running import Client, Operator, install_crd, place_of, running, stable
from tests.integration.watchers import Watchers, watching
from tests.servers import AppServer

WATCHERS = 200
ROLLBACKS = 10
BOUND = 20.0
"""Seconds from the failing answer to the last watcher: a hundred times what it takes."""
NAME = "checkout"


class FailingApp(AppServer):
    """Notes when it gave its first failing answer since it was well."""

    failed_at = 0.0

    def answer(self, path: str) -> tuple[int, bytes]:
        answer = super().answer(path)
        if answer[0] >= 500 and not self.failed_at:
            self.failed_at = time.monotonic()
        return answer

    def well(self) -> None:
        self.health, self.failed_at = 200, 0.0


@pytest.fixture
def failing() -> Iterator[FailingApp]:
    with FailingApp() as app:
        yield app


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word; gives its address."""
    with socket.create_server((LOOPBACK, 0), backlog=128) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


def checks(app: AppServer) -> list[dict[str, Any]]:
    return [
        {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz", "timeoutSeconds": 1}}
    ]


async def test_everybody_is_back_whatever_hangs(
    crd: KubeCluster, namespace: str, tmp_path: Path, failing: FailingApp
) -> None:
    """Ten times; meanwhile no event is ever taken, and neither Prometheus nor the hook ever answers."""
    between = Between()

    async def hang(call: Call) -> bool:
        if call.writes("events"):
            await asyncio.Event().wait()
        return False

    between.before = hang
    async with between.listening(crd.kubeconfig, tmp_path) as kubeconfig, Client.of(crd, namespace) as client:
        with (
            silent() as nobody,
            running(crd, namespace, tmp_path / "serve", command="serve") as serve,
            running(
                crd,
                namespace,
                tmp_path / "controller",
                f"--replica=http://{LOOPBACK}:{serve.port}",
                kubeconfig=kubeconfig,
                command="controller",
                start=False,
            ) as controller,
        ):
            await asyncio.to_thread(controller.start)  # the proxy is in this loop
            query = {"address": f"http://{nobody}", "query": "up"}
            hooks = [{"name": "told", "when": "Rollback", "url": f"http://{nobody}/", "timeoutSeconds": 5}]
            made = [
                *checks(failing),
                {"name": "slow", "max": 1, "consecutiveErrorLimit": 1000, "noData": "Pass", "prometheus": query},
            ]
            rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": made, "progressDeadline": "1h"}
            await client.apply(NAME, data={"n": 0}, rollout=rollout, hooks=hooks)
            await client.until(NAME, lambda status: stable(status, 1))
            with watching(serve.port, namespace, NAME, WATCHERS) as watchers:
                await watchers.until(lambda: watchers.at(1) == list(range(WATCHERS)), "version 1")
                for number in range(ROLLBACKS):
                    failing.well()
                    await client.apply(NAME, data={"n": number + 1}, rollout=rollout, hooks=hooks)
                    took = await rolled_back(client, serve, watchers, failing)
                    assert took < BOUND
                assert watchers.ended == []
                # A candidate is given once, and taken back once: whoever was back did not see it again.
                for number in range(WATCHERS):
                    given = [event.version for event in watchers.events if event.watcher == number]
                    assert given[0] == given[-1] == 1
                    assert all(version == 1 for version in given[::2]), given
                    assert len(set(given[1::2])) == len(given[1::2]), given


async def rolled_back(client: Client, serve: Operator, watchers: Watchers, app: FailingApp) -> float:
    """One rollback of what was just applied; gives the seconds from the failing answer to the last watcher."""
    status = await client.until(NAME, lambda status: status.get("canary"))
    version = status["canary"]["version"]
    await watchers.until(lambda: len(watchers.at(version)) > WATCHERS / 4, "the candidate")
    told = watchers.at(version)
    await asked(watchers, app)
    app.health = 500
    await watchers.until(lambda: not watchers.at(version) and app.failed_at, "stable")
    last = max(event.at for event in watchers.events)
    assert watchers.versions == [1] * WATCHERS
    path = f"/v1/namespaces/{client.namespace}/registries/{NAME}?target={watchers.targets[told[0]]}"
    assert serve.read(path)["version"] == 1
    status = await client.until(NAME, lambda status: stable(status, 1))
    assert version in [each["version"] for each in status["rejected"]]
    return last - app.failed_at


async def asked(watchers: Watchers, app: AppServer) -> None:
    """Wait until the candidate that is out was seen to be well."""
    before = len(app.asked)
    await watchers.until(lambda: len(app.asked) > before + 1, "the check to be made")


# An API server that is away


PAUSE = 5
STEPS = [{"setWeight": 30}, {"pause": {"duration": f"{PAUSE}s"}}, {"setWeight": 60}, {"pause": {}}]


@pytest.fixture
async def client(own_cluster: Cluster, namespace: str) -> AsyncIterator[Client]:
    install_crd(own_cluster)
    async with Client.of(own_cluster, namespace) as made:
        yield made


class Away(Between):
    """An API server that can be cut off as well as stopped; notes the statuses that the controller wants to write."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = False
        self.wanted: list[tuple[float, dict[str, Any]]] = []
        self.before = self._look

    async def _look(self, call: Call) -> bool:
        if call.method == "PUT" and call.path.endswith(f"/{NAME}/status"):
            self.wanted.append((time.monotonic(), call.json["status"]))
        return self.cut


@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed"])
async def test_what_failed_while_nothing_could_be_written_is_taken_back_first(
    own_cluster: Cluster, client: Client, tmp_path: Path, failing: FailingApp, killed: bool
) -> None:
    """The first write that the API server takes when it is back is the rollback, also by a successor."""
    namespace, between = client.namespace, Away()
    async with between.listening(own_cluster.kubeconfig, tmp_path) as kubeconfig:
        with (
            running(
                own_cluster,
                namespace,
                tmp_path / "controller",
                kubeconfig=kubeconfig,
                command="controller",
                start=False,
            ) as controller,
            running(own_cluster, namespace, tmp_path / "serve", command="serve") as serve,
        ):
            await asyncio.to_thread(controller.start)  # the proxy is in this loop
            rollout = {"steps": STEPS, "checks": checks(failing)}
            await client.apply(NAME, data={"n": 1}, rollout=rollout)
            await client.until(NAME, lambda status: stable(status, 1))
            with watching(serve.port, namespace, NAME, WATCHERS) as watchers:
                await watchers.until(lambda: watchers.at(1) == list(range(WATCHERS)), "version 1")
                await client.apply(NAME, data={"n": 2}, rollout=rollout)
                await watchers.until(lambda: watchers.at(2), "the candidate")
                await asked(watchers, failing)
                between.cut = True
                await asyncio.to_thread(own_cluster.kill_component, "kube-apiserver")
                try:
                    told, events = watchers.at(2), len(watchers.events)
                    failing.health = 500
                    await watchers.until(lambda: failing.failed_at, "the check to fail")
                    if killed:
                        await asyncio.to_thread(controller.kill)
                    # Longer than the pause, and than it takes a replica to say how old it may be.
                    await watchers.until(lambda: stale(serve, namespace), "readers to be told")
                    await watchers.until(lambda: time.monotonic() - failing.failed_at > PAUSE, "the end of the pause")
                    assert watchers.events[events:] == [], "nobody new gets it while nothing can be decided"
                    assert watchers.at(2) == told
                finally:
                    await asyncio.to_thread(own_cluster.start_component, "kube-apiserver")
                    between.cut = False
                if killed:
                    await asyncio.to_thread(controller.start, ready=False)
                status = await client.until(NAME, lambda status: stable(status, 1))
                await watchers.until(lambda: watchers.versions == [1] * WATCHERS, "stable")
                assert {event.watcher for event in watchers.events[events:]} == set(told)
            assert status["lastOutcome"]["result"] == "RolledBack"
            wanted = [(at > failing.failed_at, each) for at, each in between.wanted]
            assert {place_of(each)[:3] for late, each in wanted if not late and each.get("canary")} == {(1, 2, 30)}
            assert [place_of(each)[:3] for late, each in wanted if late][:1] == [(1, None, None)]
            assert not any(each.get("canary") for late, each in wanted if late), "nothing else was ever tried"


def stale(serve: Operator, namespace: str) -> bool:
    """Whether answers say how old they may be."""
    with socket.create_connection((LOOPBACK, serve.port), timeout=5) as opened:
        path = f"/v1/namespaces/{namespace}/registries/{NAME}"
        opened.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := opened.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    return b"x-configregistry-stale:" in answer.lower()
