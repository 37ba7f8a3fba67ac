"""Clients of the HTTP server, written out over sockets so that nothing is smoothed over, and feeds that they watch."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

from configregistry.serve.responses import Reply, Request, Sink, Stream
from configregistry.serve.wire import HttpServer, serve_http

HOST = "127.0.0.1"
PATIENCE = 60.0
"""Seconds for one answer: the machines of CI are slow and shared, and this measures nothing."""
EVENTS = [("content-type", "text/event-stream")]


class Received(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One HTTP/1.1 connection."""

    def __init__(self, port: int, *, host: str = HOST, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.host = host
        self.tls = tls

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> None:
        head = [f"{method} {target} HTTP/1.1", "Host: x", *headers, "", ""]
        self.writer.write("\r\n".join(head).encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:-2]]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "a header twice"
        return int(lines[0].split()[1]), headers

    async def receive(self, method: str = "GET") -> Received:
        status, headers = await self.head()
        body = b""
        if method != "HEAD" and status != 304:
            async with asyncio.timeout(PATIENCE):
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Received(status, headers, body)

    async def get(self, target: str, *headers: str, method: str = "GET") -> Received:
        self.send(target, *headers, method=method)
        return await self.receive(method)

    async def chunk(self) -> bytes:
        """The next part of a stream; empty at its end."""
        async with asyncio.timeout(PATIENCE):
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def ended(self) -> bytes:
        """What still comes until the server ends the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Noted:
    """A feed that notes what it is told, and has its sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.told: list[str] = []
        self.left: list[int] = []
        """What was pending each time it was told that all had been taken."""
        self.changed = asyncio.Event()

    def note(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    def resumed(self) -> None:
        self.left.append(self.sink.pending)
        self.note("resumed")

    def drain(self) -> None:
        self.note("drain")
        self.sink.write(b"bye")
        self.sink.end()

    def closed(self) -> None:
        self.note("closed")

    async def until(self, what: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while what not in self.told:
                self.changed.clear()
                await self.changed.wait()


class Streams:
    """Answers every request with a stream, and keeps the feeds."""

    def __init__(self, first: bytes = b"") -> None:
        self.feeds: list[Noted] = []
        self.first = first

    def __call__(self, _request: Request) -> Stream:
        return Stream(200, EVENTS, self.open)

    def open(self, sink: Sink) -> Noted:
        self.feeds.append(Noted(sink))
        sink.write(self.first)
        return self.feeds[-1]


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(handle: Callable[[Request], Reply | Awaitable[Reply]], **more: Any) -> AsyncIterator[HttpServer]:
    server = await serve_http(handle, more.pop("host", HOST), 0, **more)
    try:
        yield server
    finally:
        await server.stop(0.0)


class Counted:
    """An observer."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0
        self.refused: list[str] = []

    def connected(self, change: int) -> None:
        self.open += change
        self.most = max(self.most, self.open)

    def connection_refused(self, reason: str) -> None:
        self.refused.append(reason)
