"""How long nobody decides after a leader is gone, and what readers notice of it.

    PYTHONPATH=operator python -m tests.bench --only failover

Pairs of controllers, each with a namespace and a Lease of its own. An edit is applied, its leader is killed (SIGKILL)
or told to end (SIGTERM) at the same moment, and what is counted is the time until the other one has decided about the
edit: until its version is stable. Then the first one is started again, as the standby. Beside them one replica of
`serve` is read all the time: every answer other than 200 counts, and the longest wait for one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import ExitStack
from typing import Any

import msgspec
from tests.bench import harness
from tests.bench.product import Product
from tests.bench.timeline import APPLY
from tests.bench.world import World, say

from configregistry.kube.client import Api
from configregistry.kube.paths import NAMESPACES, REGISTRIES

PAIRS = 6
ROUNDS = {signal.SIGKILL: 17, signal.SIGTERM: 17}
QUICK = 1
NAME = "led"
WITHIN = 60.0
READ_EVERY = 0.005


class Reads:
    """Reads of one replica, one after the other; what went wrong, and how long they took."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seconds: list[float] = []
        self.failed = 0

    async def run(self, namespace: str) -> None:
        """Read until cancelled."""
        path = f"/v1/namespaces/{namespace}/registries/{NAME}/keys/edit"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            started = time.monotonic()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
            await reader.readexactly(int(fields.get("content-length", "0")))
            self.seconds.append(time.monotonic() - started)
            self.failed += not head.startswith("http/1.1 200")
            await asyncio.sleep(READ_EVERY)


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    found: dict[signal.Signals, list[float]] = {number: [] for number in ROUNDS}
    kept: list[Reads] = []

    async def measure(api: Api) -> None:
        with ExitStack() as stack:
            serve = stack.enter_context(world.product("serve"))
            serve.ready()
            pairs = [await _pair(world, stack, api, number) for number in range(1 if quick else PAIRS)]
            reads = Reads(serve.port)
            await _applied(api, pairs[0][0], 0)
            reading = asyncio.create_task(reads.run(pairs[0][0]))
            for number, rounds in ROUNDS.items():
                say(f"{len(pairs)} pairs, {number.name}")
                each = [_rounds(api, *pair, number, QUICK if quick else rounds) for pair in pairs]
                for seconds in await asyncio.gather(*each):
                    found[number] += seconds
            reading.cancel()
            kept.append(reads)

    world.run(measure)
    (reads,) = kept
    rows = [
        [f"{name}: from the signal to the other's decision", len(found[number]), *_shares(found[number])]
        for number, name in ((signal.SIGKILL, "killed"), (signal.SIGTERM, "told to end"))
    ]
    rows.append([f"reads meanwhile, {reads.failed} of them failed", len(reads.seconds), *_shares(reads.seconds)])
    table = harness.table(["", "times", "p50 s", "p95", "p99", "max"], rows)
    return f"## Failover: {PAIRS} pairs at once\n\n{harness.facts()}\n\n{table}"


def _shares(seconds: list[float]) -> list[str]:
    return [f"{harness.percentile(seconds, share):.3g}" for share in (0.5, 0.95, 0.99, 1)]


async def _pair(world: World, stack: ExitStack, api: Api, number: int) -> tuple[str, list[Product]]:
    """Two controllers, the first of which leads."""
    namespace = f"failover-{number}"
    await api.create(NAMESPACES.path(), msgspec.json.encode({"metadata": {"name": namespace}}))
    pair = []
    for name in ("a", "b"):
        product = stack.enter_context(
            world.product("controller", ["--namespace", namespace], name=f"controller-{number}{name}")
        )
        await asyncio.to_thread(product.ready)
        pair.append(product)
        if name == "a":
            await _applied(api, namespace, 0)
    return namespace, pair


async def _rounds(api: Api, namespace: str, pair: list[Product], number: signal.Signals, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        leader, standby = pair
        edit = time.monotonic_ns()
        started = time.monotonic()
        os.kill(leader.pid, number)
        await _applied(api, namespace, edit)
        found.append(time.monotonic() - started)
        await asyncio.to_thread(leader.stop)
        leader.start()
        await asyncio.to_thread(leader.ready)
        pair[:] = [standby, leader]
    return found


async def _applied(api: Api, namespace: str, edit: int) -> None:
    """Apply an edit, and wait until it is stable."""
    made = {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {"data": {"edit": edit}, "revisionHistoryLimit": 2},
    }
    path = REGISTRIES.path(namespace, NAME)
    applied = json.loads(
        await api.patch(f"{path}?fieldManager=bench&force=true", msgspec.json.encode(made), kind=APPLY)
    )
    generation = applied["metadata"]["generation"]
    deadline = time.monotonic() + WITHIN
    while True:
        status: dict[str, Any] = json.loads(await api.get(path)).get("status", {})
        if status.get("observedGeneration") == generation and "stable" in status and "canary" not in status:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(json.dumps(status))
        await asyncio.sleep(0.02)
