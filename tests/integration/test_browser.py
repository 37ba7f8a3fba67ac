"""A real browser's EventSource follows a watch: changes, a rollout, a rollback, and a server that comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from tests.clients.browser import Browser, NoBrowserError, find_browser
from tests.cluster.certs import Certificate, make_certificates
from tests.serve_fakes import World
from tests.watch_clients import Client, Event

from configregistry.rollout.buckets import bucket
from configregistry.serve import App, HttpServer, serve_http
from configregistry.serve.responses import Reply, Request, Response, Stream
from configregistry.serve.wire import TlsFiles

HOST = "127.0.0.1"
KEY = ("shop", "checkout")
REGISTRY = "/v1/namespaces/shop/registries/checkout"
SEED = "9d3c1a2b4e5f6071"
TARGET = "pod-7"
REACHED = bucket(SEED, TARGET) // 100 + 1
"""The weight from which the target gets the candidate."""
DATA: dict[str, Any] = {"limit": 1, "text": "grün ☃", "list": [1, None, {"a": 0.5}], "a/b~c": True}
NEXT = {**DATA, "limit": 2}
CANDIDATE = {**DATA, "limit": 3, "new": "line\nbreak"}
LAST = {"limit": 4}

FOLLOW = """
    source = new EventSource(%s);
    source.onopen = () => tell({event: "open"});
    source.onerror = () => tell({event: "error", state: source.readyState});
    for (const name of ["snapshot", "delta", "deleted", "progress", "cut-off", "message"])
        source.addEventListener(name, e => tell({event: name, id: e.lastEventId, data: e.data}));
"""
CLOSED = 2
"""`EventSource.CLOSED`: it does not come back."""


class Shop:
    """A server that can be stopped and started on its port, and its one registry."""

    def __init__(self, world: World) -> None:
        self.revision = 1
        self.port = 0
        self.http: HttpServer | None = None
        self.answers: list[int] = []
        self.become(world)

    def become(self, world: World) -> None:
        """Have this world served from the next start on."""
        self.world = world
        self.app = App(world.service.routes, world.metrics, lambda: 0.0)

    def answer(self, request: Request) -> Reply | Awaitable[Reply]:
        reply = self.app(request)
        if isinstance(reply, Response | Stream):
            self.answers.append(reply.status)
        return reply

    async def start(self) -> None:
        self.http = await serve_http(self.answer, HOST, self.port)
        self.port = self.http.port

    async def stop(self) -> None:
        if self.http is not None:
            await self.http.stop()
        self.http = None

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self.port}{path}"

    def stable(self, version: int, data: dict[str, Any]) -> None:
        """Publish a version for all; a rollout ends."""
        self.revision += 1
        self.world.serve(data=data, version=version, revision_number=self.revision)

    def weight(self, weight: int) -> None:
        """Roll `CANDIDATE` out, beside `NEXT`."""
        self.revision += 1
        canary = {"version": 3, "weight": weight, "seed": SEED}
        self.world.serve(data=NEXT, version=2, revision_number=self.revision, canary=canary, canary_data=CANDIDATE)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    world = World()
    world.serve(data=DATA)
    made = Shop(world)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def browser_here() -> None:
    try:
        find_browser()
    except NoBrowserError as why:
        pytest.skip(str(why))


@pytest.fixture
async def page(browser_here: None, shop: Shop) -> AsyncIterator[Browser]:
    """A page of the server's own origin: nobody else's scripts may read it, for it knows no CORS."""
    async with Browser() as browser:
        await browser.go(shop.url("/openapi.json"))
        yield browser


class Followed:
    """What the events of a page amount to; each is what a client that had all before it can apply."""

    def __init__(self, page: Browser) -> None:
        self.page = page
        self.client = Client()
        self.folded = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        return [told for told in self.page.told if "data" in told]

    async def next(self, *names: str) -> Any:
        """Wait for as many events more, which must be these, and give the data of the last."""
        await self.page.until(lambda: len(self.events) >= self.folded + len(names))
        for name in names:
            told = self.events[self.folded]
            self.folded += 1
            assert told["event"] == name, self.page.told
            self.client.fold(Event(name, told["id"], json.loads(told["data"])))
        return json.loads(self.events[self.folded - 1]["data"])

    @property
    def has(self) -> dict[str, Any] | None:
        return self.client.has["shop/checkout"]


def states(page: Browser) -> list[int]:
    return [told["state"] for told in page.told if told["event"] == "error"]


async def follow(page: Browser, path: str = f"{REGISTRY}/watch?target={TARGET}") -> Followed:
    await page.run(FOLLOW % json.dumps(path))
    return Followed(page)


async def test_an_event_source_follows_a_rollout(shop: Shop, page: Browser) -> None:
    followed = await follow(page)
    await followed.next("snapshot")
    assert followed.has == DATA

    shop.stable(2, NEXT)
    told = await followed.next("delta")
    assert (told["from"], told["to"], told["variant"]) == (1, 2, "stable")
    assert followed.has == NEXT

    shop.weight(REACHED - 1)
    assert await followed.next("progress") == {"revision": 3}, "for this target nothing has changed"
    shop.weight(REACHED)
    told = await followed.next("delta")
    assert (told["to"], told["variant"], told["revision"]) == (3, "canary", shop.revision)
    assert followed.has == CANDIDATE

    shop.stable(2, NEXT)
    told = await followed.next("delta")
    assert (told["from"], told["to"], told["variant"]) == (3, 2, "stable")
    assert followed.has == NEXT, "rolled back"

    for _ in range(15):
        shop.world.service.watches.beat()
    assert await followed.next("progress") == {"revision": shop.revision}

    shop.world.drop(KEY)
    shop.world.flush()
    await followed.next("deleted")
    assert followed.has is None
    assert [told["event"] for told in page.told if "data" not in told] == ["open"]


@pytest.mark.parametrize("fresh", [False, True])
async def test_an_event_source_comes_back(shop: Shop, page: Browser, fresh: bool) -> None:
    """By itself, with what it has: to the same memory, or to a replica that has just started."""
    followed = await follow(page)
    await followed.next("snapshot")
    shop.stable(2, NEXT)
    await followed.next("delta")

    await shop.stop()
    assert await followed.next("progress") == {"revision": 2}, "as the last before the end"
    if fresh:
        shop.become(World())
    shop.stable(2, NEXT)
    shop.weight(REACHED)
    await page.until(lambda: len(states(page)) >= 2)  # it has tried, and nobody was there
    await shop.start()

    told = await followed.next("delta")
    assert (told["variant"], told["revision"]) == ("canary", shop.revision)
    assert followed.has == CANDIDATE
    shop.stable(4, LAST)
    await followed.next("delta")
    assert followed.has == LAST
    assert len(followed.events) == followed.folded
    assert CLOSED not in states(page)


async def test_an_event_source_that_missed_nothing_is_sent_nothing(shop: Shop, page: Browser) -> None:
    followed = await follow(page)
    await followed.next("snapshot")
    await shop.stop()
    await followed.next("progress")
    await shop.start()
    assert await followed.next("progress") == {"revision": 1}
    shop.stable(2, NEXT)
    await followed.next("delta")
    assert followed.has == NEXT


async def test_a_page_opens_again_where_its_event_source_does_not(shop: Shop, page: Browser) -> None:
    """After any answer but 200 an EventSource is closed for good; `since` takes a new one on from there."""
    followed = await follow(page)
    await followed.next("snapshot")
    await shop.stop()
    await followed.next("progress")
    shop.become(World(begun=False))
    shop.world.serve(data=DATA)
    await shop.start()
    await page.until(lambda: CLOSED in states(page))

    shop.world.hydrator.begin()
    shop.world.flush()
    await follow(page, f"{REGISTRY}/watch?target={TARGET}&since={followed.client.cursor}")
    assert await followed.next("progress") == {"revision": 1}, "no snapshot"
    shop.stable(2, NEXT)
    await followed.next("delta")
    assert followed.has == NEXT


async def test_more_streams_than_connections(browser_here: None, tmp_path: Path) -> None:
    """HTTP/2 carries them on one; of HTTP/1.1's, a browser has six for each server."""
    make_certificates(tmp_path, [Certificate("server", "server", hosts=[HOST])])
    world = World()
    world.serve(data=DATA)
    app = App(world.service.routes, world.metrics, lambda: 0.0)
    http = await serve_http(app, HOST, 0, tls=TlsFiles(tmp_path / "server.crt", tmp_path / "server.key"))
    try:
        async with Browser("--ignore-certificate-errors") as page:
            await page.go(f"https://{HOST}:{http.port}/openapi.json")
            assert await page.run("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
            for _ in range(12):
                await follow(page)
            await page.until(lambda: [told["event"] for told in page.told].count("snapshot") == 12)
            assert not states(page)
    finally:
        await http.stop()


async def test_an_event_source_of_two_registries(shop: Shop, page: Browser) -> None:
    followed = await follow(page, "/v1/watch?registry=shop/checkout&registry=shop/later")
    assert await followed.next("snapshot", "progress") == {"revisions": {"shop/checkout": 1, "shop/later": 0}}
    shop.world.serve("later", {"here": True})
    await followed.next("snapshot")
    shop.stable(2, NEXT)
    await followed.next("delta")
    assert followed.client.has == {"shop/checkout": NEXT, "shop/later": {"here": True}}


async def test_a_page_reads_through_the_browsers_cache(shop: Shop, page: Browser) -> None:
    """It asks again each time, and has nothing sent that it has."""
    read = f"""fetch("{REGISTRY}").then(async r => [
        r.status, r.headers.get("x-configregistry-revision"), (await r.json()).data])"""
    shop.answers.clear()
    assert await page.run(read) == [200, "1", DATA]
    assert await page.run(read) == [200, "1", DATA]
    shop.stable(2, NEXT)
    assert await page.run(read) == [200, "2", NEXT]
    assert shop.answers == [200, 304, 200]


async def test_an_event_source_of_another_origin_gets_nothing(shop: Shop, page: Browser) -> None:
    """Another port is another origin. Not a `data:` page: those may not reach this machine at all."""
    other = await serve_http(shop.app, HOST, 0)
    try:
        await page.go(f"http://{HOST}:{other.port}/openapi.json")
        await page.run(FOLLOW % json.dumps(shop.url(f"{REGISTRY}/watch")))
        await page.until(lambda: page.told)
        assert page.told == [{"event": "error", "state": CLOSED}]
        assert shop.answers[-1] == 200, "it is the browser that keeps it from the page"
    finally:
        await other.stop()
