"""One change for 10,000 streams: from the status write that was accepted to the last of them having the event.

    PYTHONPATH=operator python -m tests.bench --only watch

`configregistry serve` on one core; the API server and the one process that holds all streams on the others. etcd is
watched through its own client, in the same rounds: with all watches on one gRPC stream (what its client does by
default), with a stream for each, and with a connection for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tests.bench import harness
from tests.bench.etcd import KEY, Peer, etcd, following, load_program
from tests.bench.product import SERVER_CORE, Product, client_cores, cpu_seconds, pin, resident_mib
from tests.bench.timeline import APPLY
from tests.bench.world import World, manifest
from tests.cluster.ports import LOOPBACK

from configregistry.kube.client import Api
from configregistry.kube.paths import REGISTRIES

STREAMS = 10_000
QUICK = 500
EVENTS = 60
PAUSE = 0.5
"""Seconds between two changes."""
NAMESPACE, NAME = "bench-0", "watched"
SIZE = 300
"""Bytes that are written to etcd: about what an event has here."""
MODES = {
    "shared": "etcd, all watches on one gRPC stream of one connection",
    "streams": "etcd, a gRPC stream for each watch, one connection",
    "connections": "etcd, a connection for each watch",
}


class Told(NamedTuple):
    """What following gave."""

    first: list[float]
    """Seconds from the write to the first watcher."""
    last: list[float]
    processor: float
    """Seconds that the server used for one change."""
    client: float
    """The same of who follows."""
    a_stream: float
    """KiB of resident memory for one stream, when nothing happens."""


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    streams, events = (QUICK, 5) if quick else (STREAMS, EVENTS)
    _raise_open_files()
    states: list[dict[str, Any]] = []
    with world.product() as product:
        product.ready()
        world.run(lambda api: _two_versions(api, states))
        product.settled()
    program = load_program()
    found: dict[str, Told] = {}
    pin(os.getpid(), client_cores())
    try:
        with world.product("serve", cores={SERVER_CORE}) as product:
            found["configregistry"] = _ours(world, product, program, states, streams, events)
        for mode, text in MODES.items():
            with etcd(world.directory) as peer:
                found[text] = _theirs(peer, mode, streams, events)
    finally:
        pin(os.getpid(), set(range(os.cpu_count() or 1)))
    rows = [
        [
            text,
            *(f"{harness.percentile(told.first, 0.5) * 1e3:.0f}",),
            *(f"{harness.percentile(told.last, share) * 1e3:.0f}" for share in (0.5, 0.95, 1)),
            f"{told.processor * 1e3:.0f}",
            f"{told.client * 1e3:.0f}",
            f"{told.a_stream:.1f}",
        ]
        for text, told in found.items()
    ]
    header = [
        f"{streams:,} streams, {events} changes",
        "write to first p50 ms",
        "write to last p50 ms",
        "p95",
        "max",
        "server's processor ms a change",
        "client's",
        "KiB a stream",
    ]
    return f"## One change for {streams:,} streams\n\n{harness.facts()}\n\n{harness.table(header, rows)}"


def _ours(
    world: World, product: Product, program: Path, states: list[dict[str, Any]], streams: int, events: int
) -> Told:
    product.ready()
    path = f"/v1/namespaces/{NAMESPACE}/registries/{NAME}/watch"
    command: list[str | Path] = [program, "sse", "-address", f"{LOOPBACK}:{product.port}", "-path", path]
    told: list[Told] = []

    async def measure(api: Api) -> None:
        at = REGISTRIES.path(NAMESPACE, NAME)

        async def write() -> int:
            item = json.loads(await api.get(at))
            revision = item["status"]["revision"] + 1
            item["status"] = {**states[revision % 2], "revision": revision}
            body = msgspec.json.encode(item)
            await api.replace(at + "/status", body)
            return time.time_ns()

        told.append(await _measure(product.pid, [*command, "-streams", str(streams)], write, streams, events))

    world.run(measure)
    return told[0]


def _theirs(peer: Peer, mode: str, streams: int, events: int) -> Told:
    peer.put(SIZE)
    command: list[str | Path] = [peer.program, "watch", "-endpoint", peer.endpoint, "-key", KEY, "-mode", mode]

    async def write() -> int:
        return int(peer.put(SIZE)["put"])

    return asyncio.run(_measure(peer.pid, [*command, "-watchers", str(streams)], write, streams, events))


async def _measure(
    pid: int, command: list[str | Path], write: Callable[[], Awaitable[int]], streams: int, events: int
) -> Told:
    before = resident_mib(pid)
    with following(command) as followers:
        await asyncio.sleep(2.0)
        a_stream = (resident_mib(pid) - before) * 1024 / streams
        lines = []
        processor, client = [], []
        for _ in range(events):
            spent, spent_there = cpu_seconds(pid), cpu_seconds(followers.pid)
            accepted = await write()
            line = followers.line()
            lines.append([(line[name] - accepted) / 1e9 for name in ("first", "last")])
            processor.append(cpu_seconds(pid) - spent)
            client.append(cpu_seconds(followers.pid) - spent_there)
            await asyncio.sleep(PAUSE)
        first, last = (list(each) for each in zip(*lines, strict=True))
        return Told(first, last, statistics.median(processor), statistics.median(client), a_stream)


async def _two_versions(api: Api, states: list[dict[str, Any]]) -> None:
    """Make a registry with two versions, and learn the status of each."""
    at = REGISTRIES.path(NAMESPACE, NAME)
    for version in (1, 2):
        made = manifest(0, version)
        made["metadata"] = {"name": NAME, "namespace": NAMESPACE}
        await api.patch(at + "?fieldManager=bench&force=true", msgspec.json.encode(made), kind=APPLY)
        for _ in range(600):
            status = json.loads(await api.get(at)).get("status", {})
            if status.get("stable", {}).get("version") == version and status.get("phase") != "Progressing":
                break
            await asyncio.sleep(0.05)
        states.append(status)


def _raise_open_files() -> None:
    """What is started by this process may open as many files as it may."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
