"""Watches over real sockets: many at once, curl, clients that stop reading or vanish, a server that ends."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.serve_clients import HOST, PATIENCE, Client, serving, until
from tests.serve_fakes import World
from tests.watch_clients import Event, parse

from configregistry.serve.wire import HttpServer

PATH = "/v1/namespaces/shop/registries/checkout/watch"
CURL = shutil.which("curl")


class Watch:
    """A raw client that keeps all that it is sent."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.raw = b""

    async def events(self, count: int) -> list[Event]:
        """Wait for so many events, since the first one."""
        while self.raw.count(b"\n\n") < count:
            data = await self.client.chunk()
            if not data:
                break
            self.raw += data
        return parse(self.raw)


@asynccontextmanager
async def watching(server: HttpServer, query: str = "", *headers: str, path: str = PATH) -> AsyncIterator[Watch]:
    async with Client(server.port) as client:
        client.send(f"{path}?{query}", *headers)
        status, told = await client.head()
        assert (status, told["content-type"]) == (200, "text/event-stream")
        yield Watch(client)


def publish(world: World, number: int, *, filling: str = "") -> None:
    world.serve(data={"n": number, "filling": filling * number}, version=number, revision_number=number)


async def test_five_hundred_streams_see_each_of_fifty_publications_in_order() -> None:
    world = World()
    publish(world, 1)
    clients = [Client(0) for _ in range(500)]

    async def follow(client: Client, port: int, query: str) -> list[Event]:
        client.port = port
        async with client:
            client.send(f"{PATH}?{query}")
            await client.head()
            return await Watch(client).events(50)

    async with serving(world.app) as server, asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(client, server.port, f"target=t{n}")) for n, client in enumerate(clients)]
        await until(lambda: world.service.watches.streams == len(clients))
        for number in range(2, 51):
            publish(world, number)
            if number % 7 == 0:
                await asyncio.sleep(0)
    expected = [1, *range(2, 51)]
    for task in tasks:
        first, *rest = task.result()
        assert [first.data["version"], *(event.data["to"] for event in rest)] == expected
        assert [event.data["changes"][0]["new"] for event in rest] == expected[1:]
    await until(lambda: world.service.watches.streams == 0)


async def test_a_client_that_goes_on_elsewhere_misses_nothing() -> None:
    """Cut the connection after each event, and come back to another server with the last id."""
    worlds = [World(), World()]
    for world in worlds:
        publish(world, 1)
    seen: list[int] = []
    cursor = ""
    async with serving(worlds[0].app) as first, serving(worlds[1].app) as second:
        for turn in range(2, 12):
            for world in worlds:
                publish(world, turn)
            async with watching((first, second)[turn % 2], "", f"Last-Event-ID: {cursor}") as watch:
                (event,) = await watch.events(1)
                seen.append(event.data.get("to") or event.data["version"])
                assert event.id is not None
                cursor = event.id
    assert seen == list(range(2, 12))


async def test_a_client_that_does_not_read_is_cut_off_and_comes_back() -> None:
    world = World()
    publish(world, 1)
    async with serving(world.app) as server:
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, (HOST, server.port))
            await loop.sock_sendall(lazy, f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            await until(lambda: world.service.watches.streams == 1)
            async with watching(server) as watch:
                await watch.events(1)
                number = 1
                while world.service.watches.streams == 2:
                    number += 1
                    publish(world, number, filling="x" * 2000)
                    events = await watch.events(number)
                    assert events[-1].data["to"] == number
                    assert number < 1000, "never cut off"
            raw = b""
            async with asyncio.timeout(PATIENCE):
                while data := await loop.sock_recv(lazy, 1 << 16):
                    raw += data
        body = b"".join(raw.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2])  # the chunks without their lengths
        *told, last = parse(body)
        assert (last.name, last.id, last.data) == ("cut-off", None, {"reason": "slow-reader"})
        assert [event.data["to"] for event in told[1:]] == list(range(2, len(told) + 1))
        async with watching(server, "", f"Last-Event-ID: {told[-1].id}") as watch:
            rest = await watch.events(number - len(told))
            assert [event.data["to"] for event in rest] == list(range(len(told) + 1, number + 1))


async def test_the_server_says_how_far_it_is_before_it_ends() -> None:
    world = World()
    publish(world, 1)
    async with serving(world.app) as server, watching(server) as watch:
        await watch.events(1)
        await server.stop()
        events = await watch.events(3)
        assert [event.name for event in events] == ["snapshot", "progress"]
        assert events[0].id == events[1].id
        assert await watch.client.ended() == b""


async def test_clients_that_vanish_leave_nothing() -> None:
    world = World()
    publish(world, 1)
    async with serving(world.app) as server:
        for _ in range(20):
            async with watching(server) as watch:
                await watch.events(1)
        await until(lambda: world.service.watches.streams == 0)
        assert not world.service.watches._groups


async def test_many_registries_over_one_stream() -> None:
    world = World()
    world.serve("a", {"x": 1})
    query = "registry=shop/b&registry=shop/a"
    async with serving(world.app) as server, watching(server, query, path="/v1/watch") as watch:
        await watch.events(1)
        world.serve("b", {"x": 2})
        events = await watch.events(2)
        assert [(event.name, event.data["registry"]) for event in events] == [("snapshot", "a"), ("snapshot", "b")]


@pytest.mark.skipif(CURL is None, reason="no curl here")
async def test_curl_follows() -> None:
    world = World()
    async with serving(world.app) as server:
        curl = await asyncio.create_subprocess_exec(
            *(str(CURL), "--noproxy", "*", "-sN", f"http://{HOST}:{server.port}{PATH}"), stdout=asyncio.subprocess.PIPE
        )
        assert curl.stdout is not None
        raw = b""
        for number in range(1, 4):
            async with asyncio.timeout(PATIENCE):
                raw += await curl.stdout.readuntil(b"\n\n")
            publish(world, number)
        async with asyncio.timeout(PATIENCE):
            raw += await curl.stdout.readuntil(b"\n\n")
        assert [event.name for event in parse(raw)] == ["progress", "snapshot", "delta", "delta"]
        await server.stop()
        async with asyncio.timeout(PATIENCE):
            assert parse(await curl.stdout.read())[-1].name == "progress"
            assert await curl.wait() == 0
