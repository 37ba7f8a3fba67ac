"""When one change reaches which place, seen from outside: by watches, by reads, by the product's log.

All times are of one machine's wall clock. Nothing is added to the product: a watch is one more
client of the API server, a read is what consumers do, and log lines are written anyway.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self

import msgspec
from tests.bench.product import Product
from tests.bench.world import manifest, place
from tests.cluster.ports import LOOPBACK

from configregistry.kube.client import Api
from configregistry.kube.paths import REGISTRIES, REVISIONS, Resource

APPLY = "application/apply-patch+yaml"
WITHIN = 30.0
POLL = 0.0005
QUIET = 0.3
"""Seconds between two changes: what the product still does after one is no part of the next."""


class Reader:
    """One kept connection that asks for one registry's version again and again."""

    def __init__(self, product: Product) -> None:
        self._port = product.port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(LOOPBACK, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def version(self, number: int) -> int:
        """The version that is given at present."""
        namespace, name = place(number)
        path = f"/v1/namespaces/{namespace}/registries/{name}/keys/key.0"
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        await self._reader.readexactly(int(fields["content-length"]))
        return int(fields["x-configregistry-version"])


class Seen:
    """Events of the registries and versions of a namespace: when this process saw which."""

    def __init__(self) -> None:
        self.spec: dict[tuple[str, int], float] = {}
        """By name and generation."""
        self.recorded: dict[str, float] = {}
        """By name of the version."""
        self.status: dict[tuple[str, int], float] = {}
        """By name and stable version."""

    def registry(self, event: dict[str, Any]) -> None:
        """Note an event of a ConfigRegistry."""
        now, meta = time.time(), event["object"]["metadata"]
        if event["type"] != "BOOKMARK":
            self.spec.setdefault((meta["name"], meta["generation"]), now)
            stable = event["object"].get("status", {}).get("stable", {}).get("version", 0)
            self.status.setdefault((meta["name"], stable), now)

    def version(self, event: dict[str, Any]) -> None:
        """Note an event of a ControllerRevision."""
        self.recorded.setdefault(event["object"]["metadata"].get("name", ""), time.time())


@asynccontextmanager
async def watching(api: Api, namespace: str) -> AsyncIterator[Seen]:
    """Watch both kinds of objects of a namespace meanwhile."""
    seen = Seen()
    tasks = [
        asyncio.create_task(_watch(api, REGISTRIES, namespace, seen.registry)),
        asyncio.create_task(_watch(api, REVISIONS, namespace, seen.version)),
    ]
    await asyncio.sleep(0.5)
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(api: Api, resource: Resource, namespace: str, note: Callable[[dict[str, Any]], None]) -> None:
    path = resource.path(namespace)
    listed = json.loads(await api.list(path, {"limit": "1"}))
    params = {"resourceVersion": listed["metadata"]["resourceVersion"], "allowWatchBookmarks": "true"}
    async with api.watch(path, params) as lines:
        async for line in lines:
            note(json.loads(line))


async def apply(api: Api, number: int, edit: int) -> bytes:
    """Server-side apply, as `kubectl apply --server-side` does it."""
    namespace, name = place(number)
    body = msgspec.json.encode(manifest(number, edit))
    path = REGISTRIES.path(namespace, name) + "?fieldManager=bench&force=true"
    return await api.patch(path, body, kind=APPLY)


class Change(NamedTuple):
    """One change: wall clock times."""

    name: str
    sent: float
    accepted: float
    """When the answer to the apply was here, or its event, whichever came first."""
    event: float
    readable: float
    version: int

    def recorded(self, seen: Seen) -> float | None:
        """When the version's event came."""
        return seen.recorded.get(f"{self.name}-{self.version}")

    def decided(self, seen: Seen) -> float | None:
        """When the event of the status that serves it came."""
        return seen.status.get((self.name, self.version))


async def change(api: Api, reader: Reader, seen: Seen, number: int, edit: int) -> Change:
    """Apply one edit and wait until it is read."""
    await asyncio.sleep(QUIET)
    before = await reader.version(number)
    sent = time.time()
    applying = asyncio.create_task(_timed(apply(api, number, edit)))
    deadline = sent + WITHIN
    while (version := await reader.version(number)) == before:
        if time.time() > deadline:
            raise TimeoutError(f"{place(number)} is not readable after {WITHIN:g} s")
        await asyncio.sleep(POLL)
    readable = time.time()
    answered, raw = await applying
    name = place(number)[1]
    generation = json.loads(raw)["metadata"]["generation"]
    event = seen.spec.get((name, generation), answered)
    return Change(name, sent, min(answered, event), event, readable, version)


async def _timed(work: Awaitable[bytes]) -> tuple[float, bytes]:
    result = await work
    return time.time(), result
