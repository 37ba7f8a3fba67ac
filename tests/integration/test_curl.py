"""curl as people use it: follows a watch, resumes, long-polls, over HTTP/1.1 and HTTP/2, packed or not."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.serve_clients import PATIENCE, until
from tests.serve_fakes import World
from tests.servers.debian import NoPackageError, Program, find_program
from tests.watch_clients import Client, Event, parse

from configregistry.serve import App, HttpServer, serve_http

REGISTRY = "/v1/namespaces/shop/registries/checkout"
TARGET = "?target=pod-7"
DATA: dict[str, Any] = {"limit": 1, "text": "grün ☃", "long": "x" * 4096}
NEXT = {**DATA, "limit": 2}
CANDIDATE = {**DATA, "new": [1, None]}
PROTOCOLS = ["--http1.1", "--http2-prior-knowledge"]


class Curl:
    """A curl that is still at it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.client = Client()

    async def events(self, *names: str) -> list[Event]:
        """Give the next events, which are these, folded."""
        found = []
        for name in names:
            (event,) = parse(await self._block())
            assert event.name == name
            self.client.fold(event)
            found.append(event)
        return found

    async def end(self) -> bytes:
        """What is still told until curl ends by itself, without an error."""
        async with asyncio.timeout(PATIENCE):
            rest, error = await self._process.communicate()
        assert self._process.returncode == 0, error
        return rest

    async def _block(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return await self._process.stdout.readuntil(b"\n\n")


class Shop:
    """A server with one registry."""

    def __init__(self, world: World, http: HttpServer, curl: Program) -> None:
        self.world = world
        self.http = http
        self._curl = curl

    def publish(self, revision: int, data: dict[str, Any], version: int, weight: int | None = None) -> None:
        canary = None if weight is None else {"version": 9, "weight": weight, "seed": "s"}
        self.world.serve(
            data=data, version=version, revision_number=revision, canary=canary, canary_data=canary and CANDIDATE
        )

    @asynccontextmanager
    async def curl(self, path: str, *options: str) -> AsyncIterator[Curl]:
        url = f"http://127.0.0.1:{self.http.port}{path}"
        # -q: not as the user's .curlrc would have it.
        process = await asyncio.create_subprocess_exec(
            *(str(self._curl.path), "-qsSN", "--noproxy", "*", *options, url),
            env={**os.environ, **self._curl.environment},
            stdout=PIPE,
            stderr=PIPE,
            limit=1 << 24,
        )
        try:
            yield Curl(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def get(self, path: str, *options: str) -> tuple[int, dict[str, str], bytes]:
        """Give status, headers and body of an answer."""
        async with self.curl(path, "-i", *options) as curl:
            return answer(await curl.end())


def answer(told: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = told.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    try:
        curl = find_program("curl", "/usr/bin/curl", ["curl", "libcurl4"])
    except NoPackageError as why:
        pytest.skip(f"no curl: {why}")
    world = World()
    world.serve(data=DATA)
    http = await serve_http(App(world.service.routes, world.metrics, lambda: 0.0), "127.0.0.1", 0)
    yield Shop(world, http, curl)
    await http.stop()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_curl_follows_a_watch(shop: Shop, protocol: str) -> None:
    async with shop.curl(f"{REGISTRY}/watch{TARGET}", protocol, "--compressed") as curl:
        await curl.events("snapshot")
        shop.publish(2, NEXT, 2)
        await curl.events("delta")
        assert curl.client.has == {"shop/checkout": NEXT}
        shop.publish(3, NEXT, 2, weight=100)
        (event,) = await curl.events("delta")
        assert (event.data["variant"], event.data["to"]) == ("canary", 9)
        assert curl.client.has == {"shop/checkout": CANDIDATE}
        shop.publish(4, NEXT, 2)
        await curl.events("delta")
        assert curl.client.has == {"shop/checkout": NEXT}
        await shop.http.stop()
        (last,) = parse(await curl.end())
        assert (last.name, last.data) == ("progress", {"revision": 4})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("by_header", [False, True])
async def test_curl_resumes(shop: Shop, protocol: str, by_header: bool) -> None:
    async with shop.curl(f"{REGISTRY}/watch", protocol) as curl:
        (first,) = await curl.events("snapshot")
    shop.publish(2, NEXT, 2)
    shop.publish(3, DATA, 3)
    options = ("-H", f"Last-Event-ID: {first.id}") if by_header else ()
    query = "" if by_header else f"?since={first.id}"
    async with shop.curl(f"{REGISTRY}/watch{query}", protocol, *options) as again:
        again.client = curl.client
        (event,) = parse(await again._block())
        last = json.dumps(event.data)
        while event.data["revision"] < 3:
            again.client.fold(event)
            (event,) = parse(await again._block())
        again.client.fold(event)
        assert event.name != "snapshot", last
        assert again.client.has == {"shop/checkout": DATA}
        shop.publish(4, NEXT, 4)
        await again.events("delta")
        assert again.client.has == {"shop/checkout": NEXT}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_curl_long_polls(shop: Shop, protocol: str) -> None:
    status, headers, body = await shop.get(REGISTRY, protocol)
    assert (status, json.loads(body)["data"]) == (200, DATA)
    known = ("-H", f"If-None-Match: {headers['etag']}")
    status, _, body = await shop.get(f"{REGISTRY}?wait=50ms", protocol, *known)
    assert (status, body) == (304, b"")

    async with shop.curl(f"{REGISTRY}?wait=60s", protocol, "-i", *known) as curl:
        await until(lambda: shop.world.service.waits._held)
        shop.publish(2, NEXT, 2)
        status, headers, body = answer(await curl.end())
    assert (status, headers["x-configregistry-revision"], json.loads(body)["data"]) == (200, "2", NEXT)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_curl_unpacks(shop: Shop, protocol: str) -> None:
    status, headers, body = await shop.get(REGISTRY, protocol, "--compressed")
    assert status == 200
    assert headers["content-encoding"] in {"gzip", "br", "zstd"}
    assert json.loads(body)["data"] == DATA


async def test_curl_never_reads_what_is_older_than_it_has_seen(shop: Shop) -> None:
    shown = ("-H", "X-ConfigRegistry-Revision: 2")
    async with shop.curl(f"{REGISTRY}/keys/limit?raw", *shown) as curl:
        await until(lambda: shop.world.service.waits._held)
        shop.publish(2, NEXT, 2)
        assert await curl.end() == b"2"
