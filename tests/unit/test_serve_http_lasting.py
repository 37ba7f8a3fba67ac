"""Answers that are given again: only of the state that is published, and only what lasts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable

import pytest
from tests.serve_fakes import World

from configregistry.serve import serve_http
from configregistry.serve.app import App
from configregistry.serve.responses import Problem, Reply, Request
from configregistry.serve.routes import Need
from configregistry.serve.wire.lasting import MAX_ANSWERS, MAX_BYTES, MAX_REQUEST, Lasting

KEY = "/v1/namespaces/shop/registries/checkout/keys/a"


class Told:
    """Counts what is told of."""

    def __init__(self) -> None:
        self.codes: Counter[int] = Counter()

    def repeated(self, code: int, number: int) -> None:
        self.codes[code] += number


def test_an_answer_is_of_one_state() -> None:
    state: list[object] = [object()]
    told = Told()
    lasting = Lasting(lambda: state[0], told)
    assert lasting.find(b"a") is None
    lasting.keep(b"a", b"1", 200)
    assert [lasting.find(b"a"), lasting.find(b"a"), lasting.find(b"b")] == [b"1", b"1", None]
    state[0] = object()
    assert lasting.find(b"a") is None
    lasting.keep(b"b", b"2", 304)
    assert [lasting.find(b"a"), lasting.find(b"b")] == [None, b"2"]
    lasting.forget()
    assert lasting.find(b"b") is None
    assert told.codes == {200: 2, 304: 1}


def test_what_is_kept_is_bounded() -> None:
    state = object()
    lasting = Lasting(lambda: state, None)
    lasting.keep(b"x" * (MAX_REQUEST + 1), b"1", 200)
    lasting.keep(b"large", bytes(MAX_BYTES + 1), 200)
    assert not lasting._answers
    for number in range(MAX_ANSWERS + 5):
        lasting.keep(b"%d" % number, b"1", 200)
    assert len(lasting._answers) == MAX_ANSWERS
    lasting.forget()
    lasting.keep(b"a", bytes(MAX_BYTES), 200)
    lasting.keep(b"b", b"1", 200)
    assert [lasting.find(b"a") is None, lasting.find(b"b")] == [False, None]


class Client:
    """One connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, path: str, *headers: str) -> tuple[int, bytes]:
        lines = "".join(f"{header}\r\n" for header in headers)
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
        return int(head.split()[1]), await self._reader.readexactly(length)


class Asked:
    """The application, and how often it was asked."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.count = 0

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        self.count += 1
        return self.app(request)


@pytest.fixture
async def served() -> AsyncIterator[tuple[World, Asked, Client]]:
    world = World()
    world.serve(data={"a": 1})
    asked = Asked(world.app)
    server = await serve_http(asked, "127.0.0.1", 0, state=world.hydrator.snapshot, observer=world.metrics)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield world, asked, Client(reader, writer)
    finally:
        writer.close()
        await server.stop()


async def test_the_application_is_not_asked_again_until_something_is_published(
    served: tuple[World, Asked, Client],
) -> None:
    world, asked, client = served
    answers = [await client.get(KEY) for _ in range(50)]
    assert len(set(answers)) == 1
    assert asked.count < 50
    for number in range(2, 40):
        world.serve(data={"a": number}, version=number, revision_number=number)
        for _ in range(3):
            status, found = await client.get(KEY)
            assert (status, f'"value":{number},' in found.decode()) == (200, True)


async def test_every_answer_is_counted(served: tuple[World, Asked, Client]) -> None:
    world, asked, client = served
    for _ in range(30):
        await client.get(KEY)
    assert asked.count < 30
    world.serve(data={"a": 2}, version=2, revision_number=2)
    await client.get(KEY)  # with it the answers of before are told of
    sample = world.metrics.registry.get_sample_value

    async def counted() -> None:
        while sample("configregistry_reads_total", {"code": "200"}) != 31:  # noqa: ASYNC110 - told by a timer
            await asyncio.sleep(0.01)

    await asyncio.wait_for(counted(), 10)
    assert sample("configregistry_read_duration_seconds_count") == 31


async def test_what_does_not_last_is_asked_for_each_time(served: tuple[World, Asked, Client]) -> None:
    world, asked, client = served
    before = asked.count
    for _ in range(5):
        assert (await client.get("/v1/namespaces/shop/registries/checkout/consumers"))[0] == 200
        assert (await client.get("/v1/namespaces/shop/registries/none"))[0] == 404
        world.stale = 10.0
        assert (await client.get(KEY))[0] == 200
    assert asked.count == before + 15


async def test_a_right_that_is_taken_is_gone_with_the_next_tick() -> None:
    world = World()
    world.serve(data={"a": 1})

    class Guard:
        allowed = True

        def check(self, _request: Request, _needs: tuple[Need, ...]) -> str:
            if not self.allowed:
                raise Problem(403, "Forbidden", "no")
            return "somebody"

    app = App(world.service.routes, world.metrics, lambda: 0.0, guard=Guard())
    server = await serve_http(app, "127.0.0.1", 0, state=world.hydrator.snapshot)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    client = Client(reader, writer)
    try:
        for _ in range(5):
            assert (await client.get(KEY, "Authorization: Bearer a"))[0] == 200
        Guard.allowed = False
        assert (await client.get(KEY, "Authorization: Bearer b"))[0] == 403

        async def refused() -> None:
            while (await client.get(KEY, "Authorization: Bearer a"))[0] != 403:
                pass

        await asyncio.wait_for(refused(), 10)
    finally:
        writer.close()
        await server.stop()
