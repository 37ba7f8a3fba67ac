"""An API server that goes away while 1,000 clients read: nobody is refused, everybody is told how old it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import Cluster
from tests.cluster.ports import LOOPBACK
from tests.integration.running import Client, Operator, install_crd, running

CLIENTS = 1_000
PAUSE = 0.5
"""Seconds between two reads of a client: 2,000 reads a second of all of them."""


@dataclass
class Readers:
    """Clients that read the same key again and again, each over a connection of its own."""

    operator: Operator
    path: str
    answers: int = 0
    stale: int = 0
    values: set[int] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    async def read(self, number: int) -> None:
        """One client, for ever; whatever is not a good answer is kept."""
        request = f"GET {self.path}?target=pod-{number} HTTP/1.1\r\nhost: test\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection(LOOPBACK, self.operator.port)
        try:
            while True:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                content = await reader.readexactly(length)
                if not head.startswith("http/1.1 200"):
                    self.refused.append(head)
                    return
                self.answers += 1
                self.stale += "x-configregistry-stale:" in head
                self.values.add(json.loads(content)["value"])
                await asyncio.sleep(PAUSE)
        except OSError as error:
            self.refused.append(repr(error))
        except asyncio.IncompleteReadError as error:
            self.refused.append(repr(error))
        finally:
            writer.close()


@asynccontextmanager
async def reading(operator: Operator, path: str) -> AsyncIterator[Readers]:
    """All clients at once."""
    readers = Readers(operator, path)
    tasks = [asyncio.create_task(readers.read(number)) for number in range(CLIENTS)]
    try:
        yield readers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_api_server_that_is_away_is_no_reason_to_refuse_a_read(
    own_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    install_crd(own_cluster)
    with (
        running(own_cluster, namespace, tmp_path / "controller", command="controller"),
        running(own_cluster, namespace, tmp_path / "serve", command="serve") as replica,
    ):
        async with Client.of(own_cluster, namespace) as client:
            await client.apply("checkout", data={"a": 1})
            await client.ready("checkout")
        async with reading(replica, f"/v1/namespaces/{namespace}/registries/checkout/keys/a") as readers:

            async def until(what: str, count: int) -> None:
                async with asyncio.timeout(60):
                    while getattr(readers, what) < count and not readers.refused:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)

            await until("answers", 2 * CLIENTS)
            assert readers.stale == 0
            await asyncio.to_thread(own_cluster.kill_component, "kube-apiserver")
            try:
                await until("stale", 2 * CLIENTS)
                assert replica.get("/readyz") == replica.get("/livez") == 200
            finally:
                await asyncio.to_thread(own_cluster.start_component, "kube-apiserver")
            assert readers.values == {1}
            async with Client.of(own_cluster, namespace) as client:
                await client.apply("checkout", data={"a": 2})
                await client.ready("checkout")
            async with asyncio.timeout(60):
                while 2 not in readers.values and not readers.refused:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert readers.refused == []
