"""What the guarded client refuses, bounds and keeps to itself, against sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from configregistry.errors import FieldError
from configregistry.health import Answer, Outbound, UnansweredError, outbound, resolver
from configregistry.health.outbound import MAX_BODY, MAX_REDIRECTS

Respond = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


class Request:
    """What a client sent."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *headers = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = {
            name.lower(): value.strip() for name, _, value in (header.partition(":") for header in headers if header)
        }
        self.body = body


class Server:
    """A raw server: it sends what `respond` writes, and knows what it was asked."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self.requests: list[Request] = []
        self.connections = 0
        self.asked = asyncio.Semaphore(0)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
                request = Request(head, b"")
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                self.requests.append(request)
                self.asked.release()
                await self._respond(request, writer)
                await writer.drain()
        writer.close()


def told(status: int, body: bytes = b"", *headers: str) -> Respond:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers])
        writer.write(head.encode() + b"\r\n\r\n" + body)

    return respond


async def never(_: Request, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def client() -> AsyncIterator[Outbound]:
    made = Outbound(allow_local=True)
    yield made
    await made.close()


@pytest.fixture
async def guarded() -> AsyncIterator[Outbound]:
    made = Outbound(allow_local=False)
    yield made
    await made.close()


async def get(client: Outbound, url: str, within: float = 5.0, **options: Any) -> Answer:
    return await client.request("GET", url, within=within, **options)


async def refused(client: Outbound, url: str, within: float = 5.0, method: str = "GET") -> str:
    with pytest.raises(UnansweredError) as error:
        await client.request(method, url, within=within)
    return str(error.value)


class Names(AbstractResolver):
    """A name server that a test answers for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if not self.addresses:
            raise OSError(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


# What it sends


async def test_a_plain_answer(client: Outbound) -> None:
    async with Server(told(201, b"yes")) as server:
        answer = await client.request("POST", f"{server.url}/a?b=c", within=5, body=b"{}", headers={"X-A": "1"})
    assert answer == Answer(201, b"yes")
    [request] = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/a?b=c", b"{}")
    assert request.headers["x-a"] == "1"
    assert request.headers["user-agent"].startswith("configregistry/")
    assert request.headers["accept-encoding"] == "identity"


async def test_the_trace_goes_out() -> None:
    client = Outbound(allow_local=True, trace=lambda: {"traceparent": "00-a-b-01"})
    async with Server(told(200)) as server:
        await get(client, server.url)
    await client.close()
    assert server.requests[0].headers["traceparent"] == "00-a-b-01"


async def test_user_and_password_of_the_url_are_sent(client: Outbound) -> None:
    async with Server(told(200)) as server:
        await get(client, f"http://user:word@127.0.0.1:{server.port}/")
    assert server.requests[0].headers["authorization"].startswith("Basic ")


async def test_each_request_has_a_connection_of_its_own(client: Outbound) -> None:
    async with Server(told(200)) as server:
        await get(client, server.url)
        await get(client, server.url)
    assert server.connections == 2


async def test_cookies_are_not_kept(client: Outbound) -> None:
    async with Server(told(200, b"", "Set-Cookie: a=b")) as server:
        await get(client, f"http://localhost:{server.port}/")
        await get(client, f"http://localhost:{server.port}/")
    assert "cookie" not in server.requests[1].headers


async def test_the_proxies_of_the_environment_are_not_used(client: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server(told(200, b"proxy")) as proxy, Server(told(200, b"server")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert (await get(client, server.url)).body == b"server"
    assert proxy.requests == []


# Redirects


async def test_a_redirect_of_the_same_host_is_followed(client: Outbound) -> None:
    async with Server(told(200, b"there")) as other:

        async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
            location = "/next" if request.path == "/" else f"{other.url}/end"
            await told(302, b"", f"Location: {location}")(request, writer)

        async with Server(respond) as server:
            assert await get(client, server.url) == Answer(200, b"there")
    assert [request.path for request in server.requests] == ["/", "/next"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "127.0.0.1.nip.io", "[::1]"])
async def test_a_redirect_to_another_host_is_not_followed(client: Outbound, host: str) -> None:
    async with (
        Server(told(200)) as other,
        Server(told(302, b"", f"Location: http://{host}:{other.port}/")) as server,
    ):
        answer = await get(client, server.url)
    assert answer == Answer(302, b"", "a redirect to another host is not followed")
    assert other.connections == 0


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://["])
async def test_a_redirect_to_what_is_no_url_is_not_followed(client: Outbound, location: str) -> None:
    async with Server(told(302, b"", f"Location: {location}")) as server:
        answer = await get(client, server.url)
    assert answer == Answer(302, b"", "redirected to what is no URL of http or https")


async def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    assert outbound._redirect("GET", URL("https://h/"), 302, "http://h/") == (
        None,
        "a redirect from https to http is not followed",
    )
    assert outbound._redirect("GET", URL("http://h/"), 302, "https://h/") == (URL("https://h/"), "")


async def test_redirects_are_bounded(client: Outbound) -> None:
    async with Server(told(302, b"", "Location: /")) as server:
        answer = await get(client, server.url)
    assert answer == Answer(302, b"", "more than 5 redirects")
    assert len(server.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(("status", "followed"), [(301, False), (302, False), (303, False), (307, True), (308, True)])
async def test_a_post_is_sent_again_only_where_that_is_what_the_redirect_says(
    client: Outbound, status: int, followed: bool
) -> None:
    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        await (told(200) if request.path == "/end" else told(status, b"", "Location: /end"))(request, writer)

    async with Server(respond) as server:
        answer = await client.request("POST", server.url, within=5, body=b"x")
    assert answer.status == (200 if followed else status)
    assert [(request.method, request.body) for request in server.requests] == [("POST", b"x")] * (1 + followed)


async def test_a_redirect_may_be_the_answer(client: Outbound) -> None:
    async with Server(told(302, b"", "Location: /next")) as server:
        assert await get(client, server.url, stop={302}) == Answer(302, b"")
    assert len(server.requests) == 1


# Whom it asks


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_this_host_is_refused_inside_a_cluster(guarded: Outbound, host: str) -> None:
    async with Server(told(200)) as server:
        message = await refused(guarded, f"http://{host}:{server.port}/")
        assert server.connections == 0
    assert "refused" in message or "not a URL that can be asked" in message


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("169.254.169.254", "link-local"),
        ("[fe80::1]", "link-local"),
        ("[::]", "unspecified"),
        ("[::1]", "loopback"),
    ],
)
async def test_link_local_and_the_like_are_refused_inside_a_cluster(guarded: Outbound, host: str, reason: str) -> None:
    message = await refused(guarded, f"http://{host}/latest/meta-data")
    told_why = f"address {host.strip('[]')} refused ({reason})"
    assert message == f"http://{host}/latest/meta-data: no connection: {told_why}"


async def test_a_name_for_a_refused_address_is_refused() -> None:
    client = Outbound(allow_local=False, resolver=Names("169.254.169.254"))
    assert "address 169.254.169.254 refused (link-local)" in await refused(client, "http://metadata.example/")
    await client.close()


async def test_what_counts_is_the_address_that_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On loopback, so the judgement is another one here: 127.0.0.2 is bad and 127.0.0.1 is not.
    monkeypatch.setattr(outbound, "refusal", lambda address: "bad" if address == "127.0.0.2" else None)
    names = Names("127.0.0.2", "127.0.0.1")
    client = Outbound(allow_local=False, resolver=names)
    client._session.connector._use_dns_cache = False  # type: ignore[union-attr]
    async with Server(told(200)) as server:
        assert (await get(client, f"http://rebound.example:{server.port}/")).status == 200
        names.addresses = ("127.0.0.2",)
        assert "address 127.0.0.2 refused (bad)" in await refused(client, f"http://rebound.example:{server.port}/")
    assert server.connections == 1
    await client.close()


async def test_a_redirect_is_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names("127.0.0.1")
    client = Outbound(allow_local=False, resolver=names)
    client._session.connector._use_dns_cache = False  # type: ignore[union-attr]
    monkeypatch.setattr(outbound, "refusal", lambda address: "bad" if address == "127.0.0.2" else None)

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        names.addresses = ("127.0.0.2",)
        await told(302, b"", "Location: /next")(request, writer)

    async with Server(respond) as server:
        assert "refused (bad)" in await refused(client, f"http://rebound.example:{server.port}/")
    assert len(server.requests) == 1
    await client.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/", "gopher://h/", "/healthz", "http://", ""])
async def test_only_http_and_https(client: Outbound, url: str) -> None:
    with pytest.raises(FieldError, match="expected a URL"):
        await get(client, url)


# How much, how long


async def test_a_body_as_long_as_allowed(client: Outbound) -> None:
    async with Server(told(200, b"x" * MAX_BODY)) as server:
        assert len((await get(client, server.url)).body) == MAX_BODY


async def test_a_huge_body(client: Outbound) -> None:
    async with Server(told(200, b"x" * (MAX_BODY + 1))) as server:
        assert await refused(client, server.url) == f"{server.url}: the answer is longer than 1024 KiB"


async def test_a_body_without_end(client: Outbound) -> None:
    sent = 0

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            sent += 0x10000
            await writer.drain()

    async with Server(respond) as server:
        assert "longer than 1024 KiB" in await refused(client, server.url)
    assert sent < 64 * MAX_BODY


async def test_a_body_that_drips(client: Outbound) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.01)

    async with Server(respond) as server:
        assert await refused(client, server.url, within=0.3) == f"{server.url}: no whole answer in 0.3 s"


async def test_headers_that_drip(client: Outbound) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.01)

    async with Server(respond) as server:
        assert "no whole answer in 0.3 s" in await refused(client, server.url, within=0.3)


@pytest.mark.parametrize("head", [b"X: " + b"x" * 100_000, b"X: y\r\n" * 10_000], ids=["long", "many"])
async def test_headers_without_measure(client: Outbound, head: bytes) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")

    async with Server(respond) as server:
        assert await refused(client, server.url) == f"{server.url}: the answer is not HTTP"


async def test_what_is_packed_stays_packed(client: Outbound) -> None:
    packed = gzip.compress(b"\0" * 100 * MAX_BODY)
    async with Server(told(200, packed, "Content-Encoding: gzip")) as server:
        assert (await get(client, server.url)).body == packed


async def test_a_body_that_is_not_wanted_is_not_waited_for(client: Outbound) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 X\r\nContent-Length: 10\r\n\r\n")
        await never(_, writer)

    async with Server(respond) as server:
        assert await get(client, server.url, wanted=lambda status: status == 200) == Answer(500, b"")


# What it says


async def raw(content: bytes) -> str:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        writer.close()

    client = Outbound(allow_local=True)
    async with Server(respond) as server:
        message = await refused(client, f"http://user:secret@127.0.0.1:{server.port}/path?token=secret#secret")
        told_of = f"{server.url}/path: "
    await client.close()
    assert message.startswith(told_of)
    assert "secret" not in message
    return message.removeprefix(told_of)


async def test_messages_name_what_went_wrong_and_no_secrets(client: Outbound) -> None:
    assert await raw(b"") == "the connection was closed before the answer"
    assert await raw(b"SSH-2.0-OpenSSH\r\n") == "the answer is not HTTP"
    assert await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx") == "the answer broke off"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        message = await refused(client, f"http://u:secret@127.0.0.1:{port}/?a=secret")
    assert message.startswith(f"http://127.0.0.1:{port}/: no connection: ")
    assert "secret" not in message


async def test_a_server_that_speaks_no_tls(client: Outbound) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        message = await refused(client, f"https://127.0.0.1:{port}/?a=secret")
    assert message.startswith(f"https://127.0.0.1:{port}/: no connection: ")
    assert "secret" not in message


async def test_a_name_that_is_not_found() -> None:
    client = Outbound(allow_local=True, resolver=Names())
    assert await refused(client, "http://nobody.example/?a=secret") == (
        "http://nobody.example/: the name was not found: Name or service not known"
    )
    await client.close()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "-.example"])
async def test_a_name_that_cannot_be_one(client: Outbound, host: str) -> None:
    with pytest.raises((UnansweredError, FieldError)):
        await get(client, f"http://{host}/")


# Whom it delays


async def test_hundreds_that_hang_delay_nobody(client: Outbound) -> None:
    async with Server(never) as hanging, Server(told(200)) as server:
        stuck = [asyncio.create_task(get(client, f"{hanging.url}/{n % 7}", within=60)) for n in range(300)]
        for _ in stuck:
            await hanging.asked.acquire()
        began = time.monotonic()
        await get(client, server.url)
        assert time.monotonic() - began < 1.0
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_names_that_hang_delay_no_other_name(client: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, real = threading.Event(), socket.getaddrinfo
    loop, waiting = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host.startswith("dead"):
            loop.call_soon_threadsafe(waiting.release)
            answered.wait()
            raise OSError(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    stuck = [asyncio.create_task(get(client, f"http://dead{n}.example/", within=60)) for n in range(100)]
    try:
        for _ in stuck:
            await waiting.acquire()
        async with Server(told(200)) as server:
            assert (await get(client, f"http://localhost:{server.port}/", within=5)).status == 200
        message = await refused(client, "http://dead1.example/", within=0.2)
        assert message == "http://dead1.example/: no whole answer in 0.2 s"
    finally:
        answered.set()
    results = await asyncio.gather(*stuck, return_exceptions=True)
    assert {str(result) for result in results} == {
        f"http://dead{n}.example/: the name was not found: Temporary failure in name resolution" for n in range(100)
    }


async def test_look_ups_are_bounded_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = most = 0
    lock, answered = threading.Lock(), threading.Event()
    loop, waiting = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        loop.call_soon_threadsafe(waiting.release)
        answered.wait()
        with lock:
            at_once -= 1
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 80, 0, 3))]

    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 3)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    looking = resolver.Resolver()
    tasks = [asyncio.create_task(looking.resolve(f"n{n}", 80)) for n in range(20)]
    for _ in range(3):
        await waiting.acquire()
    answered.set()
    found = await asyncio.gather(*tasks)
    assert {result[0]["host"] for result in found} == {"fe80::1%3"}
    assert most <= 3


async def test_a_look_up_that_nobody_waits_for_any_more_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    loop, waiting = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        loop.call_soon_threadsafe(waiting.release)
        answered.wait()
        return []

    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 1)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    looking = resolver.Resolver()
    given_up = asyncio.create_task(looking.resolve("a", 80))
    await waiting.acquire()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert looking._free.locked()
    answered.set()
    assert await looking.resolve("b", 80) == []
    assert not looking._free.locked()


async def test_no_thread_to_be_had_is_an_error_and_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 1)
    looking = resolver.Resolver()
    for _ in range(2):
        with pytest.raises(OSError, match="can't start new thread"):
            await looking.resolve("a", 80)


class DeadZone:
    """Takes the place of getaddrinfo: names that begin with "dead" hang until `answer` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop, self._answered = asyncio.get_running_loop(), threading.Event()
        self.hanging = asyncio.Semaphore(0)
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, *_: Any, **__: Any) -> Any:
        self.asked.append(host)
        answered = self._answered
        if host.startswith("dead"):
            self._loop.call_soon_threadsafe(self.hanging.release)
            answered.wait()
        return []

    def answer(self) -> None:
        """Whoever hangs now goes on; who comes later hangs."""
        self._answered.set()
        self._answered = threading.Event()


async def _slow(looking: resolver.Resolver, *names: str) -> None:
    async with asyncio.timeout(10):
        while not set(names) <= set(looking._slow):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def test_names_of_dead_zones_use_up_no_places_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 4)
    monkeypatch.setattr(resolver, "MAX_SLOW", 2)
    monkeypatch.setattr(resolver, "SLOW", 0.02)
    looking, zone = resolver.Resolver(), DeadZone(monkeypatch)
    names = [f"dead{n}" for n in range(6)]
    # Two have moved to places for slow ones, four hold the others: nobody else has one, this once.
    first = [asyncio.create_task(looking.resolve(name)) for name in names]
    await _slow(looking, *names)
    assert looking._free.locked()
    zone.answer()
    await asyncio.gather(*first)
    # From now on they are known.
    second = [asyncio.create_task(looking.resolve(name)) for name in names for _ in range(3)]
    for _ in range(6 + 2):
        await zone.hanging.acquire()
    async with asyncio.timeout(10):
        assert [await looking.resolve(f"alive{n}") for n in range(10)] == [[]] * 10
    assert len(zone.asked) == 6 + 2 + 10
    while not all(task.done() for task in second):
        zone.answer()
        await asyncio.sleep(0.001)
    assert not looking._free.locked()
    assert not looking._free_for_slow.locked()
    await looking.close()


async def test_a_name_that_is_quick_again_is_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "SLOW", 0.02)
    looking, zone = resolver.Resolver(), DeadZone(monkeypatch)
    task = asyncio.create_task(looking.resolve("dead"))
    await _slow(looking, "dead")
    zone.answer()
    await task
    monkeypatch.setattr(resolver, "SLOW", 60.0)
    zone = DeadZone(monkeypatch)
    task = asyncio.create_task(looking.resolve("dead"))
    await zone.hanging.acquire()
    zone.answer()
    await task
    assert not looking._slow


async def test_names_that_were_slow_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "SLOW", 0.02)
    monkeypatch.setattr(resolver, "_REMEMBERED", 2)
    looking, zone = resolver.Resolver(), DeadZone(monkeypatch)
    for number in range(3):
        task = asyncio.create_task(looking.resolve(f"dead{number}"))
        await _slow(looking, f"dead{number}")
        zone.answer()
        await task
    assert list(looking._slow) == ["dead1", "dead2"]


async def test_the_end_does_not_wait_for_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_SLOW", 1)
    monkeypatch.setattr(resolver, "SLOW", 0.02)
    looking, zone = resolver.Resolver(), DeadZone(monkeypatch)
    names = [f"dead{n}" for n in range(3)]
    tasks = [asyncio.create_task(looking.resolve(name)) for name in names]
    await _slow(looking, *names)
    assert looking._moving
    async with asyncio.timeout(10):
        await looking.close()
    assert not looking._moving
    zone.answer()
    await asyncio.gather(*tasks)
    assert not looking._free.locked()
    assert not looking._free_for_slow.locked()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            aiohttp.ClientConnectorCertificateError(None, ssl.CertificateError("expired")),  # type: ignore[arg-type]
            "certificate not accepted: ('expired',)",
        ),
        (aiohttp.InvalidURL("http://u:secret@h"), "not a URL that can be asked"),
        (aiohttp.ClientError("secret"), "ClientError"),
        (OSError("secret"), "OSError"),
        (OSError(24, "Too many open files"), "Too many open files"),
    ],
)
def test_a_reason_for_every_error(error: Exception, told: str) -> None:
    assert outbound._reason(error) == told
