"""A consumer that never stops reading, and remembers whatever it should not have been given.

It reads a registry whose data is `{"n": …, "m": the same}`: an answer in which they differ is torn.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.cluster.ports import LOOPBACK

PAUSE = 0.01


@dataclass
class Reader:
    """`wrong`: what no reader may ever meet. `revisions` in the order in which they were read."""

    url: str
    answers: int = 0
    stale: int = 0
    versions: set[int] = field(default_factory=set)
    revisions: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    _data: dict[int, Any] = field(default_factory=dict)

    async def read(self) -> None:
        """Read until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(self.url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                        self._take(answer.status, dict(answer.headers), await answer.text())
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.wrong.append(repr(error))
                await asyncio.sleep(PAUSE)

    def _take(self, status: int, headers: dict[str, str], body: str) -> None:
        self.answers += 1
        self.stale += "X-ConfigRegistry-Stale" in headers or "x-configregistry-stale" in headers
        if status != 200:
            self.wrong.append(f"{status}: {body}")
            return
        found = self.last = json.loads(body)
        version, data, revision = found["version"], found["data"], found["revision"]
        self.versions.add(version)
        if data["n"] != data["m"]:
            self.wrong.append(f"torn: {body}")
        if self._data.setdefault(version, data) != data:
            self.wrong.append(f"version {version} is {data}, and was {self._data[version]}")
        if not self.revisions or self.revisions[-1] != revision:
            if self.revisions and revision < self.revisions[-1]:
                self.wrong.append(f"revision {revision} after {self.revisions[-1]}")
            self.revisions.append(revision)


@asynccontextmanager
async def reading(port: int, namespace: str, name: str, target: str = "anybody") -> AsyncIterator[Reader]:
    """Read a registry all the time."""
    reader = Reader(f"http://{LOOPBACK}:{port}/v1/namespaces/{namespace}/registries/{name}?target={target}")
    task = asyncio.create_task(reader.read())
    try:
        yield reader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def content(n: int) -> dict[str, int]:
    """The data of a version that such a reader can judge."""
    return {"n": n, "m": n}
