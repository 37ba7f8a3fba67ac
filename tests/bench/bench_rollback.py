"""A rollback as its readers see it: from the failing answer of a check to the last of 1,000 watchers on stable again.

    PYTHONPATH=operator python -m tests.bench --only rollback

For each of 200 rollbacks new content is out at 50 %, every watcher that gets the candidate has it, and then the app
that the candidate's check asks begins to fail. Counted is from the moment at which it gave its first failing answer.
`controller` and `serve` are processes of their own; then the same with `run`. The peer, in the same run, has no
decision to make: from a value that etcd has accepted to the last of 1,000 watches of it, a stream each.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tests.bench import harness
from tests.bench.etcd import KEY, etcd, following, load_program
from tests.bench.product import Product
from tests.bench.timeline import APPLY
from tests.bench.world import World, say
from tests.integration.watchers import Watchers, watching
from tests.servers import AppServer

from configregistry.kube.client import Api
from configregistry.kube.paths import REGISTRIES
from configregistry.rollout.buckets import bucket

WATCHERS = 1_000
ROLLBACKS = 200
QUICK = (50, 5)
WEIGHT = 50
NAMESPACE, NAME = "bench-0", "rolled-back"
WITHIN = 60.0
SIZE = 300
"""Bytes that are written to etcd: about what an event has here."""


class Rollback(NamedTuple):
    """One of them; monotonic times."""

    failed: float
    """The failing answer was given."""
    decided: float
    """A watch of the API server told of the status without the candidate."""
    first: float
    last: float
    """The first and the last of those that had the candidate had stable again."""
    read: float
    """A read of one of those gave stable."""
    watchers: int


class FailingApp(AppServer):
    """Notes when it gave its first failing answer since it was well."""

    failed_at = 0.0

    def answer(self, path: str) -> tuple[int, bytes]:
        """Answer, and note."""
        answer = super().answer(path)
        if answer[0] >= 500 and not self.failed_at:
            self.failed_at = time.monotonic()
        return answer

    def well(self) -> None:
        """Answer well from now on."""
        self.health, self.failed_at = 200, 0.0


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    watchers, count = QUICK if quick else (WATCHERS, ROLLBACKS)
    load_program()
    found: dict[str, list[Rollback]] = {}
    with world.product("serve") as serve:
        serve.ready()
        with world.product("controller", [f"--replica={serve.url}"]) as controller:
            controller.ready()
            found["`controller` and `serve`"] = _rollbacks(world, serve, watchers, count)
    with world.product() as product:
        product.ready()
        found["`run`"] = _rollbacks(world, product, watchers, count)
    peer = _peer(world.directory, watchers, count)
    rows = []
    for name, all_ in found.items():
        rows += [
            _row(f"**{name}: failing answer to last watcher on stable**", [each.last - each.failed for each in all_]),
            _row("failing answer to status accepted, as a watch tells", [each.decided - each.failed for each in all_]),
            _row("failing answer to first watcher on stable", [each.first - each.failed for each in all_]),
            _row("failing answer to a read that gives stable", [each.read - each.failed for each in all_]),
        ]
    rows.append(_row(f"peer: etcd, a put that was accepted to the last of {watchers:,} watches", peer))
    header = ["from, to", "p50 ms", "p95", "p99", "max"]
    had = harness.percentile([each.watchers for all_ in found.values() for each in all_], 0.5)
    return (
        f"## Rollback: {count} of them each, {watchers:,} watchers, some {had:,.0f} on the candidate\n\n"
        f"{harness.facts()}\n\n{harness.table(header, rows)}"
    )


def _row(name: str, seconds: list[float]) -> list[Any]:
    return [name, *(f"{harness.percentile(seconds, share) * 1e3:.0f}" for share in (0.5, 0.95, 0.99, 1))]


def _rollbacks(world: World, product: Product, watchers: int, count: int) -> list[Rollback]:
    found: list[Rollback] = []

    async def measure(api: Api) -> None:
        path = REGISTRIES.path(NAMESPACE, NAME)
        with ExitStack() as stack:
            app = stack.enter_context(FailingApp())
            await _apply(api, app, world.edit())
            await _until(api, lambda status: "stable" in status and "canary" not in status)
            watched = stack.enter_context(watching(product.port, NAMESPACE, NAME, watchers))
            await watched.until(lambda: 0 not in watched.versions, "the first event of each")
            for number in range(count):
                found.append(await _one(api, product, app, watched, world.edit()))
                if number % 20 == 19:
                    say(f"{number + 1} rollbacks")
        await api.delete(path)

    world.run(measure)
    return found


async def _one(api: Api, product: Product, app: FailingApp, watched: Watchers, edit: int) -> Rollback:
    stable = watched.versions[0]
    app.well()
    await _apply(api, app, edit)
    status = await _until(api, lambda status: status.get("canary", {}).get("weight") == WEIGHT)
    canary = status["canary"]
    seed = canary["seed"]
    mine = [n for n, target in enumerate(watched.targets) if bucket(seed, target) < WEIGHT * 100]
    await watched.until(lambda: watched.at(canary["version"]) == mine, "the candidate")
    seen = len(watched.events)
    decided = asyncio.create_task(_decided(api))
    asked = len(app.asked)
    # The watch is open by then, and the candidate is one that was well.
    await watched.until(lambda: len(app.asked) >= asked + 2, "the check")
    app.health = 500
    read = asyncio.create_task(_read(product, watched.targets[mine[0]], canary["version"]))
    await watched.until(lambda: not watched.at(canary["version"]), "stable")
    back = [event for event in watched.events[seen:] if event.version == stable]
    assert {event.watcher for event in back} == set(mine)
    at = [event.at for event in back]
    return Rollback(app.failed_at, await decided, min(at), max(at), await read, len(mine))


async def _apply(api: Api, app: FailingApp, edit: int) -> None:
    check = {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz"}}
    rollout = {"steps": [{"setWeight": WEIGHT}, {"pause": {}}], "checks": [check]}
    made = {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"data": {"edit": edit, "text": "x" * 200}, "rollout": rollout, "revisionHistoryLimit": 2},
    }
    path = REGISTRIES.path(NAMESPACE, NAME) + "?fieldManager=bench&force=true"
    await api.patch(path, msgspec.json.encode(made), kind=APPLY)


async def _until(api: Api, condition: Any) -> dict[str, Any]:
    deadline = time.monotonic() + WITHIN
    while True:
        status: dict[str, Any] = json.loads(await api.get(REGISTRIES.path(NAMESPACE, NAME))).get("status", {})
        if status and condition(status):
            return status
        if time.monotonic() > deadline:
            raise TimeoutError(json.dumps(status))
        await asyncio.sleep(0.02)


async def _decided(api: Api) -> float:
    """When the API server tells of a status without a candidate."""
    path = REGISTRIES.path(NAMESPACE)
    listed = json.loads(await api.list(path, {"limit": "1"}))
    params = {"fieldSelector": f"metadata.name={NAME}", "resourceVersion": listed["metadata"]["resourceVersion"]}
    async with api.watch(path, params) as lines:
        async for line in lines:
            if "canary" not in json.loads(line)["object"]["status"]:
                return time.monotonic()
    raise RuntimeError("the watch ended")


async def _read(product: Product, target: str, candidate: int) -> float:
    """When a read by one that had the candidate gives another version."""
    reader, writer = await asyncio.open_connection("127.0.0.1", product.port)
    path = f"/v1/namespaces/{NAMESPACE}/registries/{NAME}/keys/edit?target={target}"
    try:
        while True:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
            await reader.readexactly(int(fields["content-length"]))
            if int(fields["x-configregistry-version"]) != candidate:
                return time.monotonic()
            await asyncio.sleep(0.002)
    finally:
        writer.close()


def _peer(directory: Path, watchers: int, count: int) -> list[float]:
    found = []
    with etcd(directory) as peer:
        peer.put(SIZE)
        command: list[str | Path] = [peer.program, "watch", "-endpoint", peer.endpoint, "-key", KEY]
        with following([*command, "-mode", "streams", "-watchers", str(watchers)]) as followers:
            for _ in range(count):
                put = int(peer.put(SIZE)["put"])
                found.append((followers.line()["last"] - put) / 1e9)
                time.sleep(0.05)
    return found
