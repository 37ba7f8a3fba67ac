"""Asking replicas over real sockets: who hangs, refuses, talks nonsense, moves; tokens that are renewed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest
import zstandard
from aiohttp import web
from tests.serve_fakes import World

from configregistry.kube.client import Api
from configregistry.kube.credentials import token_file
from configregistry.kube.failures import Unavailable
from configregistry.model.reports import (
    EXCHANGE_EVERY,
    EXCHANGE_PATH,
    NEWS_PATH,
    Counted,
    Exchange,
    Observed,
    ReplicaReports,
    Report,
)
from configregistry.reconcile import replicas
from configregistry.reconcile.replicas import (
    Answer,
    Find,
    Found,
    OverHttp,
    Replica,
    at_addresses,
    of_service,
)
from configregistry.serve import App, serve_http
from configregistry.serve.responses import Request
from configregistry.serve.routes import Need

REPORT = Report("shop", "checkout", "uid", "a", "one", 30.0, 1.0, 9.0, observed=Observed(8, "ok"), observed_age=1.0)
LIST = ReplicaReports("one", [REPORT])
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A replica as far as the leader sees it."""

    def __init__(self) -> None:
        self.handle: Handle = self.well
        self.tokens: list[str | None] = []
        self.given: list[Exchange] = []
        self.url = ""
        self.stated = LIST
        self.waited: list[dict[str, str]] = []
        self.news: Handle = self.no_news
        self.happened = asyncio.Event()

    async def well(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        assert request.headers["Content-Encoding"] == "zstd"
        body = zstandard.ZstdDecompressor().decompress(await request.read())
        self.given.append(msgspec.json.decode(body, type=Exchange))
        return web.Response(body=msgspec.json.encode(self.stated), content_type="application/json")

    async def no_news(self, request: web.Request) -> web.StreamResponse:
        """Hold it until something has happened."""
        self.tokens.append(request.headers.get("Authorization"))
        self.waited.append(dict(request.query))
        with suppress(TimeoutError):
            async with asyncio.timeout(float(request.query["seconds"])):
                await self.happened.wait()
        counted = Counted("one", int(request.query["known"]) + self.happened.is_set())
        return web.Response(body=msgspec.json.encode(counted), content_type="application/json")

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Server]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self.handle(request)

        application = web.Application()

        async def news(request: web.Request) -> web.StreamResponse:
            return await self.news(request)

        application.router.add_post(EXCHANGE_PATH, handle)
        application.router.add_get(NEWS_PATH, news)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as made:
        yield made


@asynccontextmanager
async def asking(find: Find, **options: Any) -> AsyncIterator[OverHttp]:
    made = OverHttp(find, "service ops/serve", **options)
    try:
        yield made
    finally:
        await made.close()


async def ask(*urls: str, given: Exchange = Exchange(), **options: Any) -> list[Answer]:  # noqa: B008
    async with asking(at_addresses(urls), **options) as over:
        return list(await over.exchange(given))


async def test_gives_the_list_and_gets_one(server: Server) -> None:
    given = Exchange([REPORT], [], 1.5)
    assert await ask(server.url, given=given) == [Answer(server.url, LIST)]
    assert server.given == [given]
    assert server.tokens == [None]


@pytest.mark.parametrize("known", [True, False])
async def test_ten_thousand_consumers_fit_for_who_is_let_in(known: bool) -> None:
    """The real replica: a list of so many is more than anybody else may send."""
    world = World()
    world.serve("checkout", {"a": 1})
    reports = [
        # As ids are in life: no two alike, so that there is nothing to pack away.
        msgspec.structs.replace(REPORT, uid="uid-checkout", id=f"{number}-{hash_(number)}", replica="other")
        for number in range(10_000)
    ]
    server = await serve_http(world.app, "127.0.0.1", 0, admit=world.app.admit if known else None)
    try:
        (answer,) = await ask(f"http://127.0.0.1:{server.port}", given=Exchange(reports, [], 0.5), timeout=30)
        listed = world.service.consumers.exchange(Exchange())
    finally:
        await server.stop()
    assert (answer.reports is not None) is known, answer.error
    assert len(listed.heard) == (10_000 if known else 0)
    assert known or "takes no list" in answer.error


async def test_a_new_token_costs_one_refusal_not_a_round() -> None:
    """Much is taken from who is known alone; a token that was renewed is known once it was asked about."""
    world = World()
    world.serve("checkout", {"a": 1})
    asked: list[asyncio.Event] = []

    class Guard:
        def check(self, _request: Request, _needs: tuple[Need, ...]) -> str | Awaitable[str]:
            if asked and asked[0].is_set():
                return "leader"
            asked.append(asyncio.Event())
            return self._ask(asked[0])

        async def _ask(self, known: asyncio.Event) -> str:
            known.set()
            return "leader"

    app = App(world.service.routes, world.metrics, lambda: 0.0, guard=Guard())
    reports = [
        msgspec.structs.replace(REPORT, uid="uid-checkout", id=f"{number}-{hash_(number)}", replica="other")
        for number in range(10_000)
    ]
    server = await serve_http(app, "127.0.0.1", 0, admit=app.admit)
    try:
        (answer,) = await ask(f"http://127.0.0.1:{server.port}", given=Exchange(reports, [], 0.5), timeout=30)
    finally:
        await server.stop()
    assert answer.reports is not None, answer.error
    assert len(asked) == 1


def hash_(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


async def test_each_address_once_however_it_is_written(server: Server) -> None:
    assert len(await ask(server.url, server.url)) == 1
    assert (await ask(server.url + "/"))[0].reports == LIST


async def test_one_that_hangs_delays_nobody_and_is_an_error(server: Server) -> None:
    hanging = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        await hanging.wait()
        return web.Response()

    other = Server()
    other.handle = hang
    async with other.running():
        answers = await ask(other.url, server.url, timeout=0.2)
        hanging.set()
    assert answers == [Answer(other.url, None, "no answer in 0.2 s"), Answer(server.url, LIST)]


async def test_one_that_dribbles_is_given_up(server: Server) -> None:
    async def dribble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.01)
        return response

    server.handle = dribble
    (answer,) = await ask(server.url, timeout=0.2)
    assert answer.error == "no answer in 0.2 s"


async def test_one_that_is_not_there() -> None:
    async with Server().running() as gone:
        pass
    (answer,) = await ask(gone.url)
    assert answer.reports is None
    assert answer.error.startswith("no connection: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b"[]",
        b"{}",
        b'{"replica":1,"consumers":[]}',
        b'{"replica":"a","consumers":[{}]}',
        b"[" * 5000,
        b"\xff",
    ],
)
async def test_nonsense_is_an_error_and_not_nobody(server: Server, body: bytes) -> None:
    async def nonsense(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    server.handle = nonsense
    assert (await ask(server.url))[0] == Answer(server.url, None, "its answer is no list of consumers")


@pytest.mark.parametrize("status", [201, 204, 400, 401, 403, 404, 500, 503])
async def test_another_status_is_an_error(server: Server, status: int) -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=b"sesame")

    server.handle = refuse
    (answer,) = await ask(server.url, token=lambda: "sesame")
    assert answer.error.startswith(f"it answered {status}")
    assert "sesame" not in answer.error


async def test_an_answer_that_breaks_off_is_an_error(server: Server) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(msgspec.json.encode(LIST))
        assert request.transport is not None
        request.transport.close()
        return response

    server.handle = break_off
    (answer,) = await ask(server.url)
    assert answer.reports is None
    assert answer.error


async def test_an_answer_without_end_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        return response

    monkeypatch.setattr(replicas, "LONGEST", 4 * 1024 * 1024)
    server.handle = flood
    (answer,) = await ask(server.url, timeout=30.0)
    assert answer.error == "its answer is longer than 4 MiB"


async def test_a_redirect_is_not_followed_so_that_the_token_stays(server: Server) -> None:
    async def redirect(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(server.url + EXCHANGE_PATH)

    other = Server()
    other.handle = redirect
    async with other.running():
        (answer,) = await ask(other.url, token=lambda: "sesame")
    assert answer.error == "it answered 307 Temporary Redirect"
    assert server.tokens == []


# News

HOLDS = msgspec.structs.replace(LIST, news=4)


async def test_news_of_one_end_the_waiting_for_all(server: Server) -> None:
    other = Server()
    server.stated = other.stated = HOLDS
    async with other.running(), asking(at_addresses([server.url, other.url]), token=lambda: "sesame") as over:
        await over.exchange(Exchange())
        waiting = asyncio.create_task(over.news(60.0))
        async with asyncio.timeout(60):
            while not (server.waited and other.waited):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert not waiting.done()
            other.happened.set()
            assert await waiting
    assert server.waited == other.waited == [{"replica": "one", "known": "4", "seconds": "60.000"}]
    assert set(server.tokens) == {"Bearer sesame"}


async def test_without_news_the_waiting_ends_in_time(server: Server) -> None:
    server.stated = HOLDS
    async with asking(at_addresses([server.url])) as over:
        await over.exchange(Exchange())
        assert not await over.news(0.05)


async def test_an_older_replica_is_not_waited_for(server: Server) -> None:
    async with asking(at_addresses([server.url])) as over:
        assert not await over.news(60.0), "nobody has stated anything yet"
        await over.exchange(Exchange())
        assert not await over.news(60.0)
    assert server.waited == []


@pytest.mark.parametrize("how", ["404", "403", "nonsense", "redirect", "break", "hang"])
async def test_whoever_cannot_be_waited_for_has_no_news_and_hides_nobodys(server: Server, how: str) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        if how == "redirect":
            raise web.HTTPTemporaryRedirect(server.url + NEWS_PATH)
        if how == "nonsense":
            return web.Response(body=b"[" * 5000)
        if how == "break":
            assert request.transport is not None
            request.transport.close()
        if how == "hang":
            await asyncio.Event().wait()
        return web.Response(status=int(how) if how.isdigit() else 500)

    other = Server()
    server.stated = other.stated = HOLDS
    other.news = fail
    async with other.running(), asking(at_addresses([server.url, other.url]), timeout=0.5) as over:
        await over.exchange(Exchange())
        assert not await over.news(0.1)
        waiting = asyncio.create_task(over.news(60.0))
        server.happened.set()
        async with asyncio.timeout(60):
            assert await waiting
    assert len(server.waited) == 2, "no redirect was followed"


async def test_one_that_is_gone_is_not_waited_for_any_more(server: Server) -> None:
    server.stated = HOLDS
    async with asking(at_addresses([server.url])) as over:
        await over.exchange(Exchange())
        server.handle = _unavailable
        await over.exchange(Exchange())
        assert not await over.news(60.0)
    assert server.waited == []


async def _unavailable(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def test_the_real_replica_tells_at_once() -> None:
    """Over the server that serve has, from the answer to the heartbeat on."""
    world = World()
    world.serve("checkout", {"a": 1})
    server = await serve_http(world.app, "127.0.0.1", 0, admit=world.app.admit)
    url = f"http://127.0.0.1:{server.port}"
    try:
        async with asking(at_addresses([url])) as over, aiohttp.ClientSession() as client:
            await over.exchange(Exchange())
            waiting = asyncio.create_task(over.news(EXCHANGE_EVERY))
            for status in ("ok", "error"):
                assert not waiting.done()
                body = {"ttlSeconds": 30, "observed": {"version": 1, "status": status}}
                path = "/v1/namespaces/shop/registries/checkout/consumers/a"
                async with client.put(url + path, json=body) as answer:
                    assert answer.status in (200, 201)
            async with asyncio.timeout(60):
                assert await waiting
            (answered,) = await over.exchange(Exchange([]))
            assert answered.reports is not None
            assert answered.reports.news == 1
            assert not await over.news(0.05), "it has been heard"
    finally:
        await server.stop()


# Tokens


def renew(path: Path, text: str) -> None:
    """Replace a file as the kubelet does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


async def test_a_token_is_read_again_when_it_was_replaced(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    async with asking(at_addresses([server.url]), token=token_file(str(path)).get) as over:
        for text in ("other", "third", "third"):
            await over.exchange(Exchange())
            renew(path, text)
        await over.exchange(Exchange())
    assert server.tokens == ["Bearer first", "Bearer other", "Bearer third", "Bearer third"]


async def test_without_its_token_nobody_is_asked(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "token"
    async with asking(at_addresses([server.url]), token=token_file(str(path)).get) as over:
        (answer,) = await over.exchange(Exchange())
        assert answer == Answer(server.url, None, f"{path}: No such file or directory")
        assert server.given == []
        path.write_text("late")
        (answer,) = await over.exchange(Exchange())
        assert answer.reports == LIST


# Who is asked


async def test_one_that_need_not_answer_is_heard_if_it_does(server: Server) -> None:
    starting = Replica("starting", server.url + EXCHANGE_PATH, must_answer=False)
    silent = Replica("silent", "http://127.0.0.1:1" + EXCHANGE_PATH, must_answer=False)

    async def find() -> Found:
        return Found([starting, silent])

    async with asking(find) as over:
        assert await over.exchange(Exchange()) == [Answer("starting", LIST)]


async def test_that_not_all_are_known_is_an_error_beside_the_answers(server: Server) -> None:
    async def find() -> Found:
        return Found([Replica("a", server.url + EXCHANGE_PATH)], "they could not be listed")

    async with asking(find) as over:
        assert await over.exchange(Exchange()) == [
            Answer("a", LIST),
            Answer("service ops/serve", None, "they could not be listed"),
        ]


class Slices:
    """Gives the EndpointSlices of one Service."""

    def __init__(self) -> None:
        self.hosts: list[tuple[str, bool]] = [("10.0.0.1", True)]
        self.error: Exception | None = None
        self.hang = False

    async def list(self, _path: str, _params: object) -> bytes:
        if self.hang:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        endpoints = [{"addresses": [host], "conditions": {"ready": ready}} for host, ready in self.hosts]
        items = [{"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}]
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()


async def test_the_pods_of_a_service_are_looked_up_each_time() -> None:
    slices = Slices()
    find = of_service(cast("Api", slices), "ops", "serve")
    one = Replica("10.0.0.1", f"http://10.0.0.1:8080{EXCHANGE_PATH}")
    assert await find() == Found((one,))
    slices.hosts = [("10.0.0.1", True), ("10.0.0.2", False)]
    assert await find() == Found((one, Replica("10.0.0.2", f"http://10.0.0.2:8080{EXCHANGE_PATH}", must_answer=False)))


@pytest.mark.parametrize("how", ["error", "hang"])
async def test_while_the_api_server_is_away_the_known_ones_are_asked_and_it_is_an_error(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = Slices()
    find = of_service(cast("Api", slices), "ops", "serve", tls=True)
    before = await find()
    assert before.replicas[0].url.startswith("https://")
    monkeypatch.setattr(replicas, "TIMEOUT", 0.05)
    slices.error, slices.hang = (Unavailable("away"), False) if how == "error" else (None, True)
    found = await find()
    assert found.replicas == before.replicas
    assert found.error == f"its EndpointSlices could not be read: {'away' if how == 'error' else 'no answer in time'}"


@pytest.mark.parametrize("hosts", [[], [("10.0.0.1", False)]])
async def test_a_service_without_a_serving_pod_is_an_error(hosts: list[tuple[str, bool]]) -> None:
    slices = Slices()
    slices.hosts = hosts
    found = await of_service(cast("Api", slices), "ops", "serve")()
    assert len(found.replicas) == len(hosts)
    assert found.error == "there is no pod behind its port http"
