"""HTTP/2 over real sockets: ordinary clients, and one written out that gives no window, or breaks its word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import h2.connection
import h2.events
import httpx
import pytest
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from tests.serve_clients import EVENTS, HOST, PATIENCE, Counted, Noted, Streams, serving, until

from configregistry.serve.responses import Reply, Request, Response, Sink, Stream
from configregistry.serve.wire import Limits

E = TypeVar("E", bound=h2.events.Event)

LARGE = b"0123456789abcdef" * 65_536


def echo(request: Request) -> Response:
    told = [request.method, request.path, request.query, len(request.body), request.header("host")]
    return Response(200, [("content-type", "application/json")], json.dumps(told).encode())


class Client:
    """One connection. Gives windows only when it is told to."""

    def __init__(self, port: int, window: int = 65_535) -> None:
        self.port = port
        self.window = window
        self.frames = h2.connection.H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.over = False

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        settings = {SettingCodes.INITIAL_WINDOW_SIZE: self.window, SettingCodes.ENABLE_PUSH: 0}
        self.frames.local_settings = Settings(client=True, initial_values=settings)
        self.frames.initiate_connection()
        self.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def flush(self) -> None:
        self.writer.write(self.frames.data_to_send())

    def ask(
        self, path: str, *headers: tuple[str, str], method: str = "GET", end: bool = True, flush: bool = True
    ) -> int:
        number = self.frames.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path), *headers]
        self.frames.send_headers(number, fields, end_stream=end)
        if flush:
            self.flush()
        return number

    async def more(self) -> bool:
        """Receive once; False at the end."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.read(65_536)
        if not data:
            self.over = True
            return False
        self.events += self.frames.receive_data(data)
        self.flush()
        return True

    async def event(self, kind: type[E], number: int | None = None) -> E:
        """The next event of a kind; those before it are kept."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and number in (None, getattr(event, "stream_id", None)):
                    self.events.remove(event)
                    return event
            assert await self.more(), f"no {kind.__name__}"

    async def answer(self, number: int) -> tuple[int, dict[str, str], bytes]:
        """A whole answer; windows are given for it."""
        headers = {
            str(name): str(value) for name, value in (await self.event(h2.events.ResponseReceived, number)).headers
        }
        body = b""
        while True:
            for event in list(self.events):
                if getattr(event, "stream_id", None) == number:
                    self.events.remove(event)
                    if isinstance(event, h2.events.DataReceived):
                        body += event.data
                        self.frames.acknowledge_received_data(event.flow_controlled_length, number)
                        self.flush()
                    if isinstance(event, h2.events.StreamEnded):
                        return int(headers[":status"]), headers, body
            assert await self.more()


async def test_an_ordinary_client() -> None:
    def handle(request: Request) -> Response:
        return Response(200, [], LARGE) if request.path == "/large" else echo(request)

    async with serving(handle) as server, httpx.AsyncClient(http1=False, http2=True, trust_env=False) as client:
        url = f"http://{HOST}:{server.port}"
        reply = await client.get(f"{url}/a%20b?c=d")
        assert reply.http_version == "HTTP/2"
        assert reply.json() == ["GET", "/a b", "c=d", 0, f"{HOST}:{server.port}"]
        assert reply.headers["content-length"] == str(len(reply.content))
        assert "date" in reply.headers
        assert (await client.put(url, content=b"x" * 60_000)).json()[3] == 60_000
        replies = await asyncio.gather(*(client.get(f"{url}/large") for _ in range(20)))
        assert all(reply.content == LARGE for reply in replies)
        reply = await client.head(f"{url}/large")
        assert (reply.headers["content-length"], reply.content) == (str(len(LARGE)), b"")
        assert (await client.get(f"{url}/{'x' * 9000}")).status_code == 414
        assert (await client.get(url, headers={"a": "x" * 20_000})).status_code == 431
        assert (await client.get(url)).status_code == 200


@pytest.mark.parametrize("option", ["--http2", "--http2-prior-knowledge", "--http1.0", "--http1.1"])
async def test_curl(option: str) -> None:
    async with serving(echo) as server:
        for more in ([], ["-d", "abc"]):
            curl = await asyncio.create_subprocess_exec(
                *("curl", "--noproxy", "*", "-sS", "--fail", option, *more, f"http://{HOST}:{server.port}/a?b"),
                stdout=asyncio.subprocess.PIPE,
            )
            told, _ = await curl.communicate()
            assert json.loads(told)[:4] == ["POST" if more else "GET", "/a", "b", len("".join(more[1:]))]


async def test_a_preface_and_frames_by_the_byte() -> None:
    async with serving(echo) as server:
        frames = h2.connection.H2Connection(H2Configuration(client_side=True))
        frames.initiate_connection()
        fields = [(":method", "PUT"), (":scheme", "http"), (":authority", "x"), (":path", "/a")]
        frames.send_headers(1, fields)
        frames.send_data(1, b"abc", end_stream=True)
        client = Client(server.port)
        client.frames = frames
        client.reader, client.writer = await asyncio.open_connection(HOST, server.port)
        data = frames.data_to_send()
        for at in range(len(data)):
            client.writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        body = (await client.event(h2.events.DataReceived, 1)).data
        assert json.loads(body)[:4] == ["PUT", "/a", "", 3]
        await client.__aexit__()


@pytest.mark.parametrize(
    "header",
    [("authorization", "Bearer "), ("x", " a"), ("x", "a\r\ny: z"), ("X", "a"), ("connection", "close"), ("te", "x")],
)
async def test_a_bad_header_is_an_error_of_its_request_alone(header: tuple[str, str]) -> None:
    """Behind a proxy a connection has many clients: one of them must not end what the others follow."""
    streams = Streams()
    async with (
        serving(lambda request: streams(request) if request.path == "/stream" else echo(request)) as server,
        Client(server.port) as client,
    ):
        client.frames.config.validate_outbound_headers = False
        client.frames.config.normalize_outbound_headers = False
        stream = client.ask("/stream")
        await client.event(h2.events.ResponseReceived, stream)
        status, headers, _ = await client.answer(client.ask("/a", header))
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        streams.feeds[0].sink.write(b"still here")
        assert (await client.event(h2.events.DataReceived, stream)).data == b"still here"
        assert (await client.answer(client.ask("/a")))[0] == 200


# Windows.


async def test_a_whole_answer_without_a_window_waits_and_is_given_up_and_others_go_on() -> None:
    limits = Limits(stall_seconds=1.0)

    def handle(request: Request) -> Response:
        return Response(200, [], LARGE if request.path == "/large" else b"")

    async with serving(handle, limits=limits) as server, Client(server.port, window=0) as client:
        large = client.ask("/large")
        await client.event(h2.events.ResponseReceived, large)
        small = client.ask("/small")
        assert (await client.answer(small))[0] == 200
        reset = await client.event(h2.events.StreamReset, large)
        assert reset.error_code == ErrorCodes.CANCEL
        assert (await client.answer(client.ask("/small")))[0] == 200


async def test_a_stream_sees_the_window_of_its_client() -> None:
    streams = Streams()
    async with serving(streams) as server, Client(server.port, window=10) as client:
        number = client.ask("/")
        await client.event(h2.events.ResponseReceived, number)
        feed = streams.feeds[0]
        assert feed.sink.pending == 0
        feed.sink.write(b"0123456789abcdef")
        assert feed.sink.pending == 6
        feed.sink.write(b"ghij")
        assert feed.sink.pending == 10
        assert (await client.event(h2.events.DataReceived, number)).data == b"0123456789"
        assert feed.told == []
        client.frames.increment_flow_control_window(6, number)
        client.flush()
        assert (await client.event(h2.events.DataReceived, number)).data == b"abcdef"
        assert (feed.sink.pending, feed.told) == (4, [])
        client.frames.increment_flow_control_window(100, number)
        client.flush()
        assert (await client.event(h2.events.DataReceived, number)).data == b"ghij"
        assert (feed.sink.pending, feed.told, feed.left) == (0, ["resumed"], [0])
        feed.sink.write(b"last")
        feed.sink.end()
        assert (await client.event(h2.events.DataReceived, number)).data == b"last"
        await client.event(h2.events.StreamEnded, number)
        await feed.until("closed")
        assert feed.told == ["resumed", "closed"]


async def test_a_stream_that_ends_with_data_waiting_is_sent_or_given_up() -> None:
    streams = Streams()
    limits = Limits(stall_seconds=0.8)
    async with serving(streams, limits=limits) as server, Client(server.port, window=10) as client:
        first, second = client.ask("/1"), client.ask("/2")
        await client.event(h2.events.ResponseReceived, second)
        for feed in streams.feeds:
            feed.sink.write(b"0123456789abcdef")
            feed.sink.end()
            await feed.until("closed")
        client.frames.increment_flow_control_window(6, first)
        client.flush()
        await client.event(h2.events.StreamEnded, first)
        await client.event(h2.events.StreamReset, second)
        assert [feed.told for feed in streams.feeds] == [["closed"], ["closed"]]


async def test_large_answers_take_turns() -> None:
    async with serving(lambda _request: Response(200, [], LARGE)) as server, Client(server.port, 10**6) as client:
        client.frames.increment_flow_control_window(10**6)
        numbers = [client.ask("/", flush=False) for _ in range(2)]
        client.flush()
        order: list[int] = []
        while len(order) < 40:
            event = await client.event(h2.events.DataReceived)
            order.append(event.stream_id)
            client.frames.increment_flow_control_window(event.flow_controlled_length)
            client.flush()
        assert order[:40].count(numbers[1]) > 10


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    counted = Counted()
    streams = Streams()
    async with serving(streams, limits=Limits(stall_seconds=0.5), observer=counted) as server:
        async with Client(server.port, 2**31 - 1) as client:
            client.frames.increment_flow_control_window(2**31 - 1 - 65_535)
            client.flush()
            client.ask("/")
            await until(lambda: streams.feeds)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            feed = streams.feeds[0]
            while feed.sink.pending < 1_000_000:
                feed.sink.write(LARGE)
                await asyncio.sleep(0)
            await feed.until("closed")
        await until(lambda: counted.open == 0)


# Streams and answers that are waited for.


async def test_a_client_that_takes_its_request_back() -> None:
    ended = asyncio.Event()
    streams = Streams()

    async def wait() -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    def handle(request: Request) -> Any:
        if request.path == "/stream":
            return streams(request)
        return wait() if request.path == "/wait" else echo(request)

    async with serving(handle) as server, Client(server.port) as client:
        stream, waiting = client.ask("/stream"), client.ask("/wait")
        await client.event(h2.events.ResponseReceived, stream)
        assert (await client.answer(client.ask("/")))[0] == 200
        for number in (stream, waiting):
            client.frames.reset_stream(number, ErrorCodes.CANCEL)
        client.flush()
        await asyncio.wait_for(ended.wait(), 10)
        await streams.feeds[0].until("closed")
        streams.feeds[0].sink.write(b"more")
        streams.feeds[0].sink.end()
        assert streams.feeds[0].told == ["closed"]
        # Asked and taken back at once, so that both are read together; and with a body that is on its way.
        number = client.frames.get_next_available_stream_id()
        fields = [(":method", "PUT"), (":scheme", "http"), (":authority", "x"), (":path", "/x")]
        client.frames.send_headers(number, fields)
        client.frames.send_data(number, b"abc")
        client.frames.reset_stream(number)
        client.flush()
        client.frames.reset_stream(client.ask("/" + "x" * 8200, flush=False))
        client.flush()
        assert (await client.answer(client.ask("/")))[0] == 200


async def test_a_feed_that_cuts_its_client_off() -> None:
    streams = Streams(b"first")
    async with serving(streams) as server, Client(server.port) as client:
        number = client.ask("/")
        await client.event(h2.events.DataReceived, number)
        streams.feeds[0].sink.abort()
        await client.event(h2.events.StreamReset, number)
        await streams.feeds[0].until("closed")
        other = client.ask("/")
        await client.event(h2.events.DataReceived, other)


@pytest.mark.parametrize("what", ["raises", "header", "stream opens"])
async def test_a_defect_of_the_application_is_one_of_one_request(what: str) -> None:
    def fail(_sink: Sink) -> Noted:
        raise RuntimeError("secret")

    def handle(request: Request) -> Reply:
        match request.path[1:]:
            case "raises":
                raise RuntimeError("secret")
            case "header":
                return Response(200, [("a", "b\r\nc: d")], b"secret")
            case "stream%20opens" | "stream opens":
                return Stream(200, EVENTS, fail)
            case _:
                return echo(request)

    async with serving(handle) as server, Client(server.port) as client:
        number = client.ask("/" + what.replace(" ", "%20"))
        if what == "stream opens":
            await client.event(h2.events.StreamReset, number)
        else:
            status, _headers, body = await client.answer(number)
            assert (status, json.loads(body)["title"]) == (500, "Internal")
            assert b"secret" not in body
        assert (await client.answer(client.ask("/fine")))[0] == 200


# Bounds.


async def test_a_body_without_end_and_one_that_does_not_come() -> None:
    async with serving(echo, limits=Limits(body_seconds=0.5)) as server, Client(server.port) as client:
        endless, slow = client.ask("/", method="PUT", end=False), client.ask("/", method="PUT", end=False)
        client.frames.send_data(slow, b"a")
        for _ in range(4):
            client.frames.send_data(endless, b"x" * 16_000)
        client.flush()
        await client.event(h2.events.WindowUpdated)
        client.frames.send_data(endless, b"x" * 2_000)
        client.flush()
        for number, status in ((endless, "413"), (slow, "408")):
            event = await client.event(h2.events.ResponseReceived, number)
            assert (":status", status) in [(str(name), str(value)) for name, value in event.headers]
        assert (await client.answer(client.ask("/")))[0] == 200


async def test_contents_of_many_requests_are_bounded_together() -> None:
    async with serving(echo, limits=Limits(body_bytes=10_000)) as server, Client(server.port) as client:
        numbers = [client.ask("/", method="PUT", end=False) for _ in range(6)]
        for number in numbers[:5]:
            client.frames.send_data(number, b"x" * 9_000)
        client.flush()
        refused = await client.event(h2.events.StreamReset, numbers[4])
        assert refused.error_code == ErrorCodes.REFUSED_STREAM
        for number in numbers[:4]:
            client.frames.send_data(number, b"", end_stream=True)
            client.flush()
            assert json.loads((await client.answer(number))[2])[3] == 9_000
        client.frames.send_data(numbers[5], b"x" * 9_000, end_stream=True)
        client.flush()
        assert json.loads((await client.answer(numbers[5]))[2])[3] == 9_000


async def test_the_client_that_waits_for_100_gets_it() -> None:
    async with serving(echo) as server, Client(server.port) as client:
        number = client.ask("/", ("expect", "100-continue"), method="PUT", end=False)
        await client.event(h2.events.InformationalResponseReceived, number)
        client.frames.send_data(number, b"abc", end_stream=True)
        client.flush()
        assert json.loads((await client.answer(number))[2])[3] == 3


async def test_requests_that_are_taken_back_without_end_end_the_connection() -> None:
    """CVE-2023-44487."""
    async with serving(echo, limits=Limits(resets=50)) as server, Client(server.port) as client:
        ending = asyncio.create_task(client.reader.read())
        for _ in range(200):
            client.frames.reset_stream(client.ask("/", method="PUT", end=False))
            client.flush()
            await asyncio.sleep(0)
        told = await asyncio.wait_for(ending, PATIENCE)
        assert told.endswith(bytes([0, 0, 0, ErrorCodes.ENHANCE_YOUR_CALM]))


BREAKS: dict[str, Callable[[Client], bytes]] = {
    "garbage": lambda _client: b"\0\0\4\6\0\0\0\0\0" + b"\xff" * 100,
    "data before any request": lambda _client: b"\0\0\1\0\1\0\0\0\x99x",
    "an even stream": lambda _client: b"\0\0\1\1\5\0\0\0\2\x82",
    "a huge frame": lambda _client: b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 300_000,
    "a window of zero": lambda _client: b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("how", BREAKS)
async def test_a_client_that_breaks_the_protocol_is_sent_away(how: str) -> None:
    counted = Counted()
    async with serving(echo, observer=counted) as server, Client(server.port) as client:
        assert (await client.answer(client.ask("/")))[0] == 200
        client.writer.write(BREAKS[how](client))
        assert (await client.event(h2.events.ConnectionTerminated)).error_code != 0
        assert await client.reader.read() == b""
        client.writer.write_eof()
        await until(lambda: counted.open == 0)


async def test_an_idle_connection_is_told_to_go() -> None:
    async with serving(echo, limits=Limits(idle_seconds=0.5)) as server, Client(server.port) as client:
        assert (await client.answer(client.ask("/")))[0] == 200
        assert (await client.event(h2.events.ConnectionTerminated)).error_code == 0
        assert await client.reader.read() == b""


def taken_apart(told: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, stream and payload of frames."""
    while told:
        end = 9 + int.from_bytes(told[:3])
        yield told[3], int.from_bytes(told[5:9]), told[9:end]
        told = told[end:]


async def test_draining() -> None:
    streams = Streams()
    leave = asyncio.Event()

    async def wait(request: Request) -> Response:
        await leave.wait()
        return echo(request)

    def handle(request: Request) -> Any:
        return streams(request) if request.path == "/stream" else wait(request)

    async with serving(handle) as server, Client(server.port) as client:
        stream, waiting = client.ask("/stream"), client.ask("/wait")
        await client.event(h2.events.ResponseReceived, stream)
        await until(lambda: len(next(iter(server._shared.connections))._replies.here) == 2)  # type: ignore[union-attr]
        stopping = asyncio.create_task(server.stop(60.0))
        await streams.feeds[0].until("closed")
        assert not stopping.done()
        leave.set()
        await asyncio.wait_for(stopping, 10)
        frames = list(taken_apart(await client.reader.read()))
        # h2 as a client takes nothing after GOAWAY; others do.
        goaway = next(payload for kind, _number, payload in frames if kind == 7)
        assert goaway == waiting.to_bytes(4) + bytes(4)
        data = [(number, payload) for kind, number, payload in frames if kind == 0 and payload]
        assert data[0] == (stream, b"bye")
        assert data[1][0] == waiting
        assert streams.feeds[0].told == ["drain", "closed"]
