"""What all histories share: the operator that is killed, the watch, the server that is checked, the readers.

`Power` kills the operator at random moments. A history that needs it alive for two instructions, or needs it dead for
one, says so, and is waited for; all others are met wherever they are.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
from tests.cluster.ports import LOOPBACK
from tests.integration.running import Client, Operator

from configregistry.kube.failures import ApiError
from configregistry.kube.paths import REGISTRIES

APART: Final = (4.0, 9.0)
"""Seconds between two lives' end and beginning, at least and at most."""


class Power:
    """Whether the operator runs."""

    def __init__(self, operator: Operator, chance: random.Random, met: Counter[str], moving: Mapping[str, str]) -> None:
        self._operator = operator
        self._random = chance
        self._met = met
        self._moving = moving
        self._state = "up"
        self._held = 0
        self._wanted = 0
        self._changed = asyncio.Condition()
        self._over = asyncio.Event()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """It runs, and is not killed meanwhile."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state == "up")
            self._held += 1
        try:
            yield
        finally:
            async with self._changed:
                self._held -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """It is dead, and not started meanwhile."""
        async with self._changed:
            self._wanted += 1
            await self._changed.wait_for(lambda: self._state == "down")
        try:
            yield
        finally:
            async with self._changed:
                self._wanted -= 1
                self._changed.notify_all()

    async def run(self) -> None:
        """Kill and start until `end`."""
        while not self._over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._random.uniform(*APART))
                return
            async with self._changed:
                self._state = "going"
                await self._changed.wait_for(lambda: not self._held)
                await asyncio.to_thread(self._operator.kill)
                self._met.update(["killed", *(f"killed in {phase}" for phase in self._moving.values())])
                self._state = "down"
                self._changed.notify_all()
                await self._changed.wait_for(lambda: not self._wanted)
                self._state = "starting"
            await asyncio.to_thread(self._operator.start)
            async with self._changed:
                self._state = "up"
                self._changed.notify_all()

    def end(self) -> None:
        """Have `run` return: not cancelled, or a process might be started after all is over."""
        self._over.set()


class Event(NamedTuple):
    """One state of an object, as the watch told of it."""

    uid: str
    version: str
    """Its resourceVersion."""
    status: bytes
    """Empty: none."""


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    resource_version: str


class _Object(msgspec.Struct):
    metadata: _Meta
    status: msgspec.Raw = msgspec.Raw(b"")


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass
class World:
    """A namespace with its operator."""

    client: Client
    power: Power
    met: Counter[str]
    """What happened, how often: a test that meets nothing proves nothing."""
    moving: dict[str, str]
    """By registry: the phase of those that are not where they stay."""
    checked: str = ""
    """Host and port of the server that checks ask."""
    answers: dict[str, Callable[[str], int]] = field(default_factory=dict)
    """By registry: what is answered for content of a hash; 0: hang up."""
    told: dict[str, asyncio.Queue[Event]] = field(default_factory=dict)
    """By registry: what the watch told, in order and without gaps."""

    async def watch(self) -> None:
        """Follow all registries until cancelled."""
        path = REGISTRIES.path(self.client.namespace)
        version = json.loads(await self.client.api.list(path))["metadata"]["resourceVersion"]
        while True:
            async with self.client.api.watch(path, {"resourceVersion": version, "timeoutSeconds": "300"}) as lines:
                async for raw in lines:
                    line = msgspec.json.decode(raw, type=_Line)
                    assert line.type in {"ADDED", "MODIFIED", "DELETED"}, raw
                    found = msgspec.json.decode(line.object, type=_Object)
                    version = found.metadata.resource_version
                    event = Event(found.metadata.uid, version, bytes(found.status))
                    if line.type != "DELETED" and found.metadata.name in self.told:
                        self.told[found.metadata.name].put_nowait(event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one check: GET /<registry>/<hash>."""
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            _, registry, content = request.split(b" ")[1].decode().split("/")
            status = self.answers[registry](content)
            self.met[f"probe {status}"] += 1
            if status:
                writer.write(b"HTTP/1.1 %d told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All of it, until the end."""
        server = await asyncio.start_server(self.answer, LOOPBACK, 0)
        host, port = server.sockets[0].getsockname()
        self.checked = f"{host}:{port}"
        watch, power = asyncio.create_task(self.watch()), asyncio.create_task(self.power.run())
        try:
            yield
            assert not watch.done(), watch.result()
        finally:
            self.power.end()
            watch.cancel()
            await asyncio.gather(watch, power, return_exceptions=True)
            server.close()


class Read(NamedTuple):
    """What a consumer was given."""

    target: str
    revision: int
    version: int
    hash: str
    variant: str
    data: dict[str, Any]


class Reader:
    """A consumer of all registries, with another name each time."""

    def __init__(self, operator: Operator, namespace: str, chance: random.Random) -> None:
        self._root = f"{namespace}/registries"
        self._operator = operator
        self._random = chance
        self.found: dict[str, list[Read]] = {}
        """By registry. Only those that are in here are read."""

    async def run(self) -> None:
        """Read until cancelled."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await asyncio.sleep(0.05)
                if not self.found:
                    continue
                name = self._random.choice(list(self.found))
                target = f"t{self._random.randrange(100)}"
                url = f"http://{LOOPBACK}:{self._operator.port}/v1/namespaces/{self._root}/{name}"
                with suppress(aiohttp.ClientError, TimeoutError):  # it is killed again and again
                    async with session.get(url, params={"target": target}) as answer:
                        if answer.status == HTTPStatus.OK:
                            self._take(name, target, await answer.json())
                        else:
                            assert answer.status in {404, 503}, await answer.text()

    def _take(self, name: str, target: str, told: dict[str, Any]) -> None:
        if name in self.found:
            read = Read(target, told["revision"], told["version"], told["hash"], told["variant"], told["data"])
            self.found[name].append(read)


async def patiently(call: Callable[[], Any], within: float = 60.0) -> Any:
    """Ask the API server again where it was busy."""
    deadline = time.monotonic() + within
    while True:
        try:
            return await call()
        except ApiError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
