"""HTTP/1.1 over real sockets with clients that are slow, wrong, greedy, or gone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve_clients import EVENTS, HOST, Client, Counted, Noted, Streams, serving, until

from configregistry.serve.responses import Reply, Request, Response, Sink, Stream
from configregistry.serve.wire import Limits

LARGE = b"x" * 16_000_000
"""More than the kernel takes of one answer, on both sides together."""


def echo(request: Request) -> Response:
    told = [request.method, request.path, request.query, len(request.body), request.header("a")]
    return Response(200, [("content-type", "application/json")], json.dumps(told).encode())


async def test_a_request_in_pieces() -> None:
    async with serving(echo) as server, Client(server.port) as client:
        data = b"PUT /a%20b?c HTTP/1.1\r\nHost: x\r\nA: b\r\nContent-Length: 3\r\n\r\nabc"
        for at in range(len(data)):
            client.writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        assert json.loads((await client.receive()).body) == ["PUT", "/a b", "c", 3, "b"]


REQUESTS = st.sampled_from(
    [
        b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /2?a HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n",
        b"HEAD /3 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /4 HTTP/1.1\r\nHost: x\r\nContent-Length: 37\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n__",
        b"PUT /5 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=40), st.data())
def test_any_split_of_any_requests_gives_the_same_answers(requests: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(requests) + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    async def later(request: Request) -> Response:
        await asyncio.sleep(0)
        return echo(request)

    async def ask(*parts: bytes) -> bytes:
        async with (
            serving(lambda each: later(each) if each.path == "/later" else echo(each)) as server,
            Client(server.port) as client,
        ):
            for part in parts:
                client.writer.write(part)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            told = await client.ended()
        return b"\r\n".join(line for line in told.split(b"\r\n") if not line.startswith(b"date:"))

    async def both() -> None:
        answers = await ask(stream)
        assert answers.count(b"HTTP/1.1 200 OK") == len(requests) + 1
        assert b"smuggled" not in answers
        assert await ask(*parts) == answers

    asyncio.run(both())


async def test_one_connection_with_many_requests_leaves_room_for_others() -> None:
    seen: list[str] = []

    def handle(request: Request) -> Response:
        seen.append(request.path)
        return Response(200, [], b"")

    async with serving(handle) as server, Client(server.port) as greedy, Client(server.port) as other:
        await other.get("/warm")
        greedy.writer.write(b"GET /greedy HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
        await until(lambda: "/greedy" in seen)
        await other.get("/other")
        assert seen.count("/greedy") < 1500
        for _ in range(3000):
            await greedy.receive()


async def test_the_same_bytes_from_another_client_are_another_request() -> None:
    seen: list[str] = []

    def handle(request: Request) -> Response:
        seen.append(request.peer)
        return Response(200, [], b"")

    async with serving(handle) as server:
        addresses = ["127.0.0.1", "127.0.0.2"]
        opened = [await asyncio.open_connection(HOST, server.port, local_addr=(each, 0)) for each in addresses]
        for _ in range(3):
            for reader, writer in opened:
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
        for _reader, writer in opened:
            writer.close()
    assert seen == addresses * 3


# Forms of answers.


async def test_the_client_that_waits_for_100_gets_it() -> None:
    async with serving(echo) as server, Client(server.port) as client:
        client.send("/first")
        client.send("/", "Expect: 100-continue", "Content-Length: 3", method="PUT")
        assert (await client.receive()).status == 200
        assert (await client.head())[0] == 100
        client.writer.write(b"abc")
        assert json.loads((await client.receive()).body)[3] == 3
        client.send("/", "Expect: 100-continue", "Content-Length: 3", method="PUT", body=b"abc")
        assert (await client.receive()).status == 200
        client.send("/", "Expect: 100-continue", "Content-Length: 99999999", method="PUT")
        assert (await client.receive()).status == 413


@pytest.mark.parametrize(
    ("line", "connection"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "close"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", None),
    ],
)
async def test_how_long_a_connection_is_kept(line: bytes, connection: str | None) -> None:
    async with serving(echo) as server, Client(server.port) as client:
        for _ in range(2 if connection != "close" else 1):
            client.writer.write(line)
            reply = await client.receive()
            assert (reply.status, reply.headers.get("connection")) == (200, connection)
        if connection == "close":
            assert await client.ended() == b""


async def test_statuses_without_content() -> None:
    async with (
        serving(lambda request: Response(int(request.path[1:]), [], b"")) as server,
        Client(server.port) as client,
    ):
        for status, length in (("200", "0"), ("204", None), ("304", None), ("200", "0")):
            client.send(f"/{status}")
            found, headers = await client.head()
            assert (str(found), headers.get("content-length")) == (status, length)
            assert "date" in headers


@pytest.mark.parametrize("what", ["raises", "header", "awaited", "stream header", "stream opens"])
async def test_a_defect_of_the_application_is_a_500(what: str) -> None:
    bad = [("a", "b\r\nc: d")]

    async def later() -> Reply:
        raise RuntimeError("secret")

    def fail(_sink: Sink) -> Noted:
        raise RuntimeError("secret")

    def handle(request: Request) -> Any:
        match request.path[1:].replace("%20", " "):
            case "raises":
                raise RuntimeError("secret")
            case "header":
                return Response(200, bad, b"secret")
            case "awaited":
                return later()
            case "stream header":
                return Stream(200, bad, fail)
            case "stream opens":
                return Stream(200, [], fail)
            case _:
                return Response(200, [], b"")

    async with serving(handle) as server, Client(server.port) as client:
        client.send("/" + what.replace(" ", "%20"))
        if what == "stream opens":
            assert b"secret" not in await client.ended()
            return
        reply = await client.receive()
        assert (reply.status, json.loads(reply.body)["title"]) == (500, "Internal")
        assert b"secret" not in reply.body
        assert "c" not in reply.headers
        assert (await client.get("/fine")).status == 200


async def test_a_defect_of_a_request_that_was_answered_before_is_a_500() -> None:
    answers = [Response(200, [], b"")] * 3

    async with serving(lambda _request: answers.pop()) as server, Client(server.port) as client:
        assert [(await client.get("/")).status for _ in range(5)] == [200, 200, 200, 500, 500]


# What is refused.


@pytest.mark.parametrize("behind", [b"", b"x" * 3_000_000])
async def test_what_is_malformed_is_told_and_never_reaches_the_application(behind: bytes) -> None:
    """Even to a client that goes on sending: closing at once would have the kernel throw the answer away."""
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        seen.append(request)
        return Response(200, [], b"")

    async with serving(handle) as server, Client(server.port) as client:
        client.send("/good")
        client.send("/bad", "Content-Length: 1", "Transfer-Encoding: chunked", method="POST", body=behind)
        assert (await client.receive()).status == 200
        reply = await client.receive()
        assert reply.status == 400
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["connection"] == "close"
        problem = json.loads(reply.body)
        assert problem["type"].endswith("/MalformedRequest")
        assert problem["status"] == 400
        client.writer.write_eof()
        assert await client.ended() == b""
    assert [request.path for request in seen] == ["/good"]


@pytest.mark.parametrize(
    ("sent", "limits", "status"),
    [
        (b"", {"head_seconds": 0.01}, None),
        (b"GET / HTTP/1.1\r\nHost", {"head_seconds": 0.01}, 408),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab", {"body_seconds": 0.01}, 408),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", {"body_seconds": 0.01}, 408),
        (b"PRI * HTTP/2.0\r\n", {"head_seconds": 0.01}, None),
    ],
)
async def test_what_is_not_there_in_time(sent: bytes, limits: dict[str, float], status: int | None) -> None:
    async with serving(echo, limits=Limits(**limits)) as server, Client(server.port) as client:  # type: ignore[arg-type]
        client.writer.write(sent)
        if status is not None:
            reply = await client.receive()
            assert (reply.status, json.loads(reply.body)["status"]) == (status, status)
        assert await client.ended() == b""


async def test_a_head_by_the_byte_is_given_up() -> None:
    """Each byte is progress; only the whole head counts."""
    async with serving(echo, limits=Limits(head_seconds=0.3)) as server, Client(server.port) as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        receiving = asyncio.create_task(client.receive())
        while not receiving.done():
            client.writer.write(b"b")
            await asyncio.wait({receiving}, timeout=0.01)
        assert (await receiving).status == 408


async def test_a_body_without_end_is_given_up() -> None:
    async with serving(echo) as server, Client(server.port) as client:
        client.send("/", "Transfer-Encoding: chunked", method="PUT")
        receiving = asyncio.create_task(client.receive())
        while not receiving.done():
            client.writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await asyncio.sleep(0)
        assert (await receiving).status == 413


async def test_an_idle_connection_is_closed_and_one_that_asks_is_not() -> None:
    async with (
        serving(echo, limits=Limits(idle_seconds=1.5)) as server,
        Client(server.port) as idle,
        Client(server.port) as busy,
    ):
        await idle.get("/")
        ending = asyncio.create_task(idle.ended())
        while not ending.done():
            await busy.get("/")
            await asyncio.wait({ending}, timeout=0.05)
        assert await ending == b""
        assert (await busy.get("/")).status == 200


async def test_connections_over_the_limit_are_told() -> None:
    counted = Counted()
    async with serving(echo, limits=Limits(connections=2), observer=counted) as server:
        async with Client(server.port) as first, Client(server.port) as second:
            assert (await first.get("/")).status == 200
            assert (await second.get("/")).status == 200
            async with Client(server.port) as third:
                third.send("/")
                reply = await third.receive()
                assert (reply.status, reply.headers["retry-after"]) == (503, "2")
                assert json.loads(reply.body)["type"].endswith("/TooManyConnections")
                third.writer.write_eof()
                assert await third.ended() == b""
            assert (await first.get("/")).status == 200
        await until(lambda: counted.open == 0)
        async with Client(server.port) as again:
            assert (await again.get("/")).status == 200
    assert counted.refused == ["connections"]
    assert counted.most == 3
    await until(lambda: counted.open == 0)


async def test_connections_of_one_address_over_the_limit_are_told() -> None:
    counted = Counted()
    async with (
        serving(echo, limits=Limits(peer_connections=1), observer=counted) as server,
        Client(server.port) as first,
        Client(server.port) as second,
    ):
        assert (await first.get("/")).status == 200
        assert (await second.receive()).status == 503
        reader, writer = await asyncio.open_connection(HOST, server.port, local_addr=("127.0.0.2", 0))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()
    assert counted.refused == ["peer"]


async def test_connections_without_a_client_are_found_by_the_kernel() -> None:
    """What nobody acknowledges is ended, idle or not; set once, on what listens."""
    async with serving(echo) as server, Client(server.port) as client:
        assert (await client.get("/")).status == 200
        connection: Any = next(iter(server._shared.connections))  # type: ignore[union-attr]
        held = connection.transport.get_extra_info("socket")
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


_FEW_FILES = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
from configregistry.serve.responses import Response
from configregistry.serve.wire import serve_http

async def main():
    server = await serve_http(lambda request: Response(200, [], b"here"), "127.0.0.1", 0)
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


async def test_more_connections_than_files_end_nothing() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _FEW_FILES),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    async with Client(port) as first:
        assert (await first.get("/")).body == b"here"
        many = [socket.create_connection((HOST, port)) for _ in range(2500)]
        assert (await first.get("/")).body == b"here"
        for each in many:
            each.close()
        assert (await first.get("/")).body == b"here"
    _out, told = await process.communicate(b"")
    assert (process.returncode, told) == (0, b"")


# Clients that do not read.


async def test_a_client_that_does_not_read_a_whole_response_is_cut_off() -> None:
    counted = Counted()
    limits = Limits(stall_seconds=0.5)
    async with (
        serving(lambda _request: Response(200, [], LARGE), limits=limits, observer=counted) as server,
        Client(server.port) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send("/")
        await until(lambda: counted.most == 1 and counted.open == 0)


async def test_a_client_that_reads_slowly_gets_all_of_it() -> None:
    limits = Limits(stall_seconds=1.0)
    async with serving(lambda _request: Response(200, [], LARGE), limits=limits) as server:
        with socket.create_connection((HOST, server.port)) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            left, turns = len(LARGE), 0
            while data := await loop.sock_recv(client, 65_536):
                left -= len(data)
                turns += 1
                if turns < 40:
                    await asyncio.sleep(0.05)
            assert left < 0  # the head is there too


async def test_nothing_more_is_answered_before_what_was_answered_is_taken() -> None:
    """Requests of a client that does not read its answers wait, and more of them are not even read."""
    answered: list[str] = []

    def handle(request: Request) -> Response:
        answered.append(request.path)
        return Response(200, [], LARGE if request.path == "/large" else b"")

    async with serving(handle) as server, Client(server.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send("/large")
        client.writer.write(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        await until(lambda: answered)
        for _ in range(20):
            await asyncio.sleep(0)
        assert answered == ["/large"]
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.receive()).body) == len(LARGE)
        for _ in range(20):
            assert (await client.receive()).status == 200


async def test_a_stream_tells_what_its_client_has_not_taken() -> None:
    streams = Streams()
    async with serving(streams) as server, Client(server.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send("/")
        await until(lambda: streams.feeds)
        feed = streams.feeds[0]
        written = 0
        while feed.sink.pending < 3_000_000:
            feed.sink.write(b"%09d;" % written * 1000)
            written += 1
            await asyncio.sleep(0)
        assert feed.told == []
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.head())[1]["transfer-encoding"] == "chunked"
        for number in range(written):
            assert await client.chunk() == b"%09d;" % number * 1000
        await feed.until("resumed")
        assert feed.left == [0]
        assert feed.told == ["resumed"]


async def test_a_stream_is_told_of_little_too() -> None:
    streams = Streams()
    async with serving(streams) as server, Client(server.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send("/")
        await until(lambda: streams.feeds)
        feed = streams.feeds[0]
        while feed.sink.pending == 0:
            feed.sink.write(b"x" * 1000)
        assert feed.sink.pending < 2000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        ending = asyncio.create_task(client.ended())
        await feed.until("resumed")
        assert feed.left == [0]
        feed.sink.abort()
        await ending


async def test_one_event_for_many_clients_that_do_not_read_is_there_once() -> None:
    streams, number, size = Streams(), 200, 512 * 1024
    async with serving(streams) as server:
        clients = [socket.socket() for _ in range(number)]
        try:
            for client in clients:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
                client.connect((HOST, server.port))
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: len(streams.feeds) == number)
            tracemalloc.start()
            try:
                event = os.urandom(size)
                for feed in streams.feeds:
                    feed.sink.write(event)
                grown, _most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            pending = sum(feed.sink.pending for feed in streams.feeds)
            assert pending > number * size / 10, "most of it cannot be taken"
            assert grown < number * size / 4
            assert grown < pending / 2
            loop = asyncio.get_running_loop()
            clients[0].setblocking(False)
            told = b""
            while not told.endswith(event + b"\r\n"):
                told += await loop.sock_recv(clients[0], 100_000)
            await streams.feeds[0].until("resumed")
            assert streams.feeds[0].left == [0]
        finally:
            for client in clients:
                client.close()


@pytest.mark.parametrize("pieces", [[10_000_000], [1000] * 5000, [70_000, 1, 65_536, 10] * 60])
async def test_a_stream_that_is_ended_before_its_client_reads_is_complete(pieces: list[int]) -> None:
    streams = Streams()

    def handle(request: Request) -> Reply:
        return streams(request) if request.path == "/stream" else echo(request)

    async with serving(handle) as server, Client(server.port) as client:
        client.send("/stream")
        client.send("/after")
        await client.head()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        feed = streams.feeds[0]
        for number, size in enumerate(pieces):
            feed.sink.write(b"%d" % (number % 10) * size)
        assert 0 < feed.sink.pending < sum(pieces) + 20 * len(pieces)
        feed.sink.end()
        await feed.until("closed")
        client.writer.write_eof()  # it has asked all it wants
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number, size in enumerate(pieces):
            assert await client.chunk() == b"%d" % (number % 10) * size
        assert await client.chunk() == b""
        assert feed.told == ["closed"]
        assert json.loads((await client.receive()).body)[1] == "/after"
        assert await client.ended() == b""


async def test_a_client_that_does_not_read_a_stream_that_was_ended_is_cut_off() -> None:
    streams, counted = Streams(LARGE), Counted()
    limits = Limits(stall_seconds=0.3)
    async with serving(streams, limits=limits, observer=counted) as server, Client(server.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send("/")
        await until(lambda: streams.feeds)
        streams.feeds[0].sink.end()
        await until(lambda: counted.most == 1 and counted.open == 0)
        assert streams.feeds[0].told == ["closed"]


async def test_a_client_that_ends_its_side_gets_what_was_written_to_its_stream() -> None:
    streams = Streams(LARGE)
    async with serving(streams) as server, Client(server.port) as client:
        client.send("/stream")
        client.send("/after")
        client.writer.write_eof()
        await client.head()
        assert await client.chunk() == LARGE
        assert await client.ended() == b"", "an answer would be taken for the next chunk"
        await streams.feeds[0].until("closed")
        assert streams.feeds[0].told == ["closed"]


async def test_a_client_that_asks_on_and_on_while_it_waits_is_not_read_on_and_on() -> None:
    leave = asyncio.Event()

    async def wait(request: Request) -> Response:
        await leave.wait()
        return echo(request)

    def handle(request: Request) -> Any:
        return wait(request) if request.path == "/wait" else echo(request)

    async with serving(handle) as server, Client(server.port) as client:
        client.send("/wait")
        client.writer.write(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n" * 500_000)
        for _ in range(100):
            await asyncio.sleep(0)
        connection: Any = next(iter(server._shared.connections))  # type: ignore[union-attr]
        assert 0 < len(connection._raw) < 1_000_000
        leave.set()
        for number in range(1000):
            assert json.loads((await client.receive()).body)[1] == ("/small" if number else "/wait")


async def test_a_stream_is_ended_by_its_feed_only() -> None:
    """Neither because nothing is said for long, nor because nothing is read for long."""
    streams = Streams()
    limits = Limits(idle_seconds=0.1, stall_seconds=0.1, head_seconds=0.1)
    async with serving(streams, limits=limits) as server, Client(server.port) as idle, Client(server.port) as slow:
        for client in (idle, slow):
            client.send("/")
            await client.head()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        feed = streams.feeds[1]
        while feed.sink.pending < 1_000_000:
            feed.sink.write(b"x" * 100_000)
        async with Client(server.port) as other:
            assert await other.ended() == b"", "meanwhile others are looked after"
        await asyncio.sleep(1.2)
        assert [each.told for each in streams.feeds] == [[], []]
        streams.feeds[0].sink.write(b"still")
        assert await idle.chunk() == b"still"


# Streams.


async def test_a_stream_and_what_comes_after_it() -> None:
    streams = Streams(b"first")

    def handle(request: Request) -> Reply:
        return streams(request) if request.path == "/stream" else echo(request)

    async with serving(handle) as server, Client(server.port) as client:
        for _ in range(2):
            client.send("/stream")
            client.send("/after")
            assert (await client.head())[1] | {"date": ""} == {
                "content-type": "text/event-stream",
                "transfer-encoding": "chunked",
                "date": "",
            }
            feed = streams.feeds[-1]
            assert await client.chunk() == b"first"
            feed.sink.write(b"")
            feed.sink.write(b"second")
            assert await client.chunk() == b"second"
            feed.sink.end()
            assert feed.told == [], "not while it is in the middle of something"
            feed.sink.write(b"more")
            feed.sink.end()
            feed.sink.abort()
            assert await client.chunk() == b""
            assert json.loads((await client.receive()).body)[1] == "/after"
            assert feed.told == ["closed"]
        reply = await client.get("/stream", method="HEAD")
        assert (reply.status, reply.headers["transfer-encoding"]) == (200, "chunked")
        assert len(streams.feeds) == 2
        assert (await client.get("/")).status == 200


async def test_a_stream_that_ends_where_it_begins() -> None:
    feeds: list[Noted] = []

    def begin(sink: Sink) -> Noted:
        sink.write(b"all")
        sink.end()
        feeds.append(Noted(sink))
        return feeds[-1]

    async with serving(lambda _request: Stream(200, EVENTS, begin)) as server, Client(server.port) as client:
        for _ in range(3):
            client.send("/")
            await client.head()
            assert [await client.chunk(), await client.chunk()] == [b"all", b""]
            await feeds[-1].until("closed")


async def test_a_stream_for_a_client_without_chunks() -> None:
    streams = Streams(b"first")
    async with serving(streams) as server, Client(server.port) as client:
        client.writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        headers = (await client.head())[1]
        assert (headers["connection"], headers.get("transfer-encoding")) == ("close", None)
        streams.feeds[0].sink.write(b"second")
        streams.feeds[0].sink.end()
        assert await client.ended() == b"firstsecond"


async def test_a_stream_that_is_cut_off_is_not_complete() -> None:
    streams = Streams()
    async with serving(streams) as server, Client(server.port) as client:
        client.send("/")
        await client.head()
        feed = streams.feeds[0]
        feed.sink.write(b"x" * 10_000_000)
        feed.sink.abort()
        told = await client.ended()
        assert len(told) < 10_000_000
        assert not told.endswith(b"0\r\n\r\n")
        await feed.until("closed")
        assert feed.told == ["closed"]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_stream_whose_client_is_gone(how: str) -> None:
    streams = Streams()
    async with serving(streams) as server:
        with socket.create_connection((HOST, server.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: streams.feeds)
            if how == "half":
                client.shutdown(socket.SHUT_WR)
            else:
                if how == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            feed = streams.feeds[0]
            await feed.until("closed")
            feed.sink.write(b"more")
            feed.sink.end()
            await asyncio.sleep(0)
            assert feed.told == ["closed"]


async def test_a_feed_with_a_defect_ends_its_own_stream() -> None:
    class Broken(Noted):
        def resumed(self) -> None:
            raise RuntimeError

    feeds: list[Noted] = []

    def begin(sink: Sink) -> Noted:
        feeds.append(Broken(sink))
        sink.write(LARGE)
        return feeds[-1]

    def handle(request: Request) -> Reply:
        return Stream(200, [], begin) if request.path == "/broken" else echo(request)

    async with serving(handle) as server, Client(server.port) as client, Client(server.port) as other:
        client.send("/broken")
        await client.ended()
        await feeds[0].until("closed")
        assert (await other.get("/")).status == 200


async def test_two_thousand_idle_streams_get_one_event() -> None:
    streams, counted = Streams(), Counted()
    async with serving(streams, observer=counted) as server:
        clients: list[socket.socket] = []
        try:
            for _ in range(2000):
                client = socket.create_connection((HOST, server.port))
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                clients.append(client)
                await asyncio.sleep(0)
            await until(lambda: len(streams.feeds) == 2000)
            event = b"data: something\n\n"
            for feed in streams.feeds:
                feed.sink.write(event)
            for client in clients:
                client.settimeout(10)
                told = b""
                while not told.endswith(b"11\r\n" + event + b"\r\n"):
                    told += client.recv(1000)
        finally:
            for client in clients:
                client.close()
        await until(lambda: counted.open == 0)
        await until(lambda: all(feed.told == ["closed"] for feed in streams.feeds))


# Answers that are waited for.


async def test_what_is_waited_for_ends_with_its_client_and_keeps_its_place() -> None:
    ended = asyncio.Event()
    leave = asyncio.Event()

    async def wait(request: Request) -> Response:
        try:
            await leave.wait()
        finally:
            ended.set()
        return echo(request)

    def handle(request: Request) -> Any:
        return wait(request) if request.path == "/wait" else echo(request)

    async with serving(handle) as server:
        async with Client(server.port) as client:
            client.send("/wait")
            client.send("/next")
            async with Client(server.port) as other:
                assert (await other.get("/")).status == 200
            assert not ended.is_set()
            leave.set()
            assert json.loads((await client.receive()).body)[1] == "/wait"
            assert json.loads((await client.receive()).body)[1] == "/next"
        leave.clear()
        ended.clear()
        async with Client(server.port) as client:
            client.send("/wait")
            async with Client(server.port) as other:
                await other.get("/")
        await asyncio.wait_for(ended.wait(), 10)


async def test_a_client_that_ends_its_side_gets_its_answers() -> None:
    async with serving(echo) as server, Client(server.port) as client:
        for number in range(100):
            client.send(f"/{number}")
        client.writer.write_eof()
        for number in range(100):
            assert json.loads((await client.receive()).body)[1] == f"/{number}"
        assert await client.ended() == b""


@pytest.mark.parametrize("what", ["answer", "stream"])
async def test_a_client_that_ends_its_side_gets_what_is_waited_for(what: str) -> None:
    streams, leave = Streams(b"first"), asyncio.Event()

    async def wait(request: Request) -> Reply:
        await leave.wait()
        return streams(request) if request.path == "/stream" else echo(request)

    async with serving(wait) as server, Client(server.port) as client:
        client.send(f"/{what}")
        await until(lambda: server._shared.connections)  # type: ignore[union-attr]
        connection: Any = next(iter(server._shared.connections))  # type: ignore[union-attr]
        await until(lambda: connection._current)
        client.writer.write_eof()
        await until(lambda: connection._ended)
        leave.set()
        if what == "answer":
            assert json.loads((await client.receive()).body)[1] == "/answer"
        else:
            await client.head()
            assert await client.chunk() == b"first"
            await streams.feeds[0].until("closed")
        assert await client.ended() == b""


@pytest.mark.parametrize("first", [0, 1])
async def test_a_client_that_ends_its_side_is_not_answered_after_long(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may as well be gone."""
    monkeypatch.setattr("configregistry.serve.wire.http1.LINGER", 1.0)
    leave, ended = asyncio.Event(), list[str]()

    async def wait(request: Request) -> Reply:
        try:
            await (leave if request.path == "/short" else asyncio.Event()).wait()
        finally:
            ended.append(request.path)
        return echo(request)

    counted = Counted()
    paths = [*["/short"] * first, "/long", "/never"]
    async with serving(wait, observer=counted) as server, Client(server.port) as client:
        for path in paths:
            client.send(path)
        client.writer.write_eof()
        await until(lambda: server._shared.connections)  # type: ignore[union-attr]
        connection: Any = next(iter(server._shared.connections))  # type: ignore[union-attr]
        await until(lambda: connection._ended)
        leave.set()
        for _ in range(first):
            assert json.loads((await client.receive()).body)[1] == "/short"
        assert await client.ended() == b""
        await until(lambda: counted.open == 0 and ended == paths[:-1])


# The end.


async def test_draining() -> None:
    streams = Streams()
    leave = asyncio.Event()

    async def wait(request: Request) -> Response:
        await leave.wait()
        return echo(request)

    def handle(request: Request) -> Any:
        if request.path == "/stream":
            return streams(request)
        return wait(request) if request.path == "/wait" else echo(request)

    async with serving(handle) as server:
        clients = [Client(server.port) for _ in range(5)]
        idle, fresh, stream, wait_for, half = [await client.__aenter__() for client in clients]
        await idle.get("/")
        stream.send("/stream")
        await stream.head()
        wait_for.send("/wait")
        half.send("/half", "Content-Length: 2", method="PUT", body=b"a")
        await until(lambda: len(server._shared.connections) == 5)  # type: ignore[union-attr]
        await idle.get("/")
        stopping = asyncio.create_task(server.stop(60.0))
        assert await idle.ended() == b""
        assert await fresh.ended() == b""
        assert [await stream.chunk(), await stream.chunk()] == [b"bye", b""]
        assert await stream.ended() == b""
        assert streams.feeds[0].told == ["drain", "closed"]
        half.writer.write(b"b")
        assert (await half.receive()).headers["connection"] == "close"
        with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
            await asyncio.open_connection(HOST, server.port)
        assert not stopping.done()
        leave.set()
        assert (await wait_for.receive()).headers["connection"] == "close"
        await asyncio.wait_for(stopping, 10)
        await asyncio.wait_for(server.wait(), 10)
        for client in clients:
            await client.__aexit__()


async def test_what_has_not_finished_in_time_is_cut_off() -> None:
    class Deaf(Noted):
        def drain(self) -> None:
            self.note("drain")

    feeds: list[Noted] = []

    def begin(sink: Sink) -> Noted:
        feeds.append(Deaf(sink))
        return feeds[-1]

    def handle(request: Request) -> Any:
        return Stream(200, [], begin) if request.path == "/stream" else asyncio.Event().wait()

    async with serving(handle) as server, Client(server.port) as stream, Client(server.port) as waits:
        stream.send("/stream")
        await stream.head()
        waits.send("/")
        await until(lambda: len(server._shared.connections) == 2)  # type: ignore[union-attr]
        await server.stop(0.05)
        assert feeds[0].told == ["drain", "closed"]
        assert await stream.ended() == b""
        assert await waits.ended() == b""


async def test_ipv6() -> None:
    async with serving(echo, host="::1") as server, Client(server.port, host="::1") as client:
        assert (await client.get("/")).status == 200
