"""A fake of the API server's list and watch, scripted to go wrong; and tests that it is fair.

It is a fake: one resource, no storage, no rights. It says so in each answer (`Server: fake-api`).
What the real one does is tested in tests/integration/test_kube.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web

from configregistry.kube.access import Access, no_token
from configregistry.kube.client import Api, Timeouts

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
PATH = "/apis/configregistry.dev/v1alpha1/namespaces/shop/configregistries"


class FakeTime:
    """A clock that goes on only when somebody sleeps on it or `pass_` is called."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)

    def monotonic(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class FakeApi:
    """Objects, their history, the watches that are open, and the faults to come."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, bytes]] = []
        self.compacted = 0
        self.lists: list[dict[str, str]] = []
        self.looks: list[dict[str, str]] = []
        """Questions how far it is: lists of one object that somebody wants the metadata of."""
        self.watches: list[dict[str, str]] = []
        self.list_faults: deque[Fault] = deque()
        self.watch_faults: deque[Fault] = deque()
        self.forever: Fault | None = None
        self.open: list[tuple[asyncio.Queue[bytes | None], web.Request]] = []
        self.url = ""

    # What happens in the cluster.

    def put(self, name: str, spec: Any = None, uid: str = "") -> int:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        uid = uid or self.objects.get(name, {}).get("metadata", {}).get("uid") or f"uid-{name}"
        metadata = {"name": name, "namespace": "shop", "uid": uid}
        metadata["resourceVersion"] = str(self.version)
        self.objects[name] = {"metadata": metadata, "spec": spec or {"v": self.version}}
        self._event(kind, self.objects[name])
        return self.version

    def delete(self, name: str) -> None:
        self.version += 1
        gone = self.objects.pop(name)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._event("DELETED", gone)

    def compact(self) -> None:
        """Forget the history: who is behind gets a 410."""
        self.log.clear()
        self.compacted = self.version

    def bookmark(self, version: int | None = None) -> None:
        at = str(self.version if version is None else version)
        self.send(_line("BOOKMARK", {"metadata": {"resourceVersion": at}}))

    # What happens to the open watches.

    def send(self, line: bytes) -> None:
        for queue, _request in self.open:
            queue.put_nowait(line)

    def end(self) -> None:
        """The server ends all watches properly."""
        for queue, _request in self.open:
            queue.put_nowait(None)

    def cut(self) -> None:
        """All connections break."""
        for _queue, request in list(self.open):
            if request.transport is not None:
                request.transport.abort()

    # The server.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        watch = query.get("watch") == "true"
        look = query.get("limit") == "1" and "PartialObjectMetadataList" in request.headers.get("Accept", "")
        (self.watches if watch else self.looks if look else self.lists).append(query)
        faults = self.watch_faults if watch else deque[Fault]() if look else self.list_faults
        fault = faults.popleft() if faults else self.forever
        if fault is not None:
            response = await fault(request)
            if response is not None:
                return response
        return await (self._watch(request, query) if watch else self._list(query))

    async def _list(self, query: dict[str, str]) -> web.Response:
        names = sorted(self.objects)
        limit = int(query.get("limit", "0")) or len(names) or 1
        start = int(query.get("continue", "0"))
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(names):
            metadata["continue"] = str(start + limit)
        items = [self.objects[name] for name in names[start : start + limit]]
        return web.json_response({"metadata": metadata, "items": items}, headers=SERVER)

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        since = int(query["resourceVersion"])
        if since < self.compacted:
            return answer(410, "Expired", "too old resource version")
        response = web.StreamResponse(headers=SERVER)
        await response.prepare(request)
        place = (asyncio.Queue[bytes | None](), request)
        for version, line in self.log:
            if version > since:
                place[0].put_nowait(line)
        self.open.append(place)
        try:
            while (sent := await place[0].get()) is not None:
                await response.write(sent)
        finally:
            if place in self.open:
                self.open.remove(place)
        return response

    def _event(self, kind: str, found: dict[str, Any]) -> None:
        line = _line(kind, found)
        self.log.append((self.version, line))
        self.send(line)


SERVER = {"Server": "fake-api"}


def _line(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def status_of(code: int, reason: str, message: str = "") -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


def answer(code: int, reason: str, message: str = "", **headers: str) -> web.Response:
    body = status_of(code, reason, message)
    return web.json_response(body, status=code, headers={**SERVER, **headers})


def refuse(code: int, reason: str = "", **headers: str) -> Fault:
    """Answer with a Status."""

    async def fault(_request: web.Request) -> web.StreamResponse:
        return answer(code, reason, "by the script", **headers)

    return fault


def stream(*parts: bytes, then: str = "end") -> Fault:
    """Accept a watch, send these bytes, and end, abort or hang."""

    async def fault(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SERVER)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then == "abort":
            assert request.transport is not None
            request.transport.abort()
        elif then == "hang":
            await asyncio.sleep(3600)
        return response

    return fault


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def pass_on(_request: web.Request) -> None:
    """No fault this time."""


@asynccontextmanager
async def serving(
    handler: Callable[[Any], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """Serve on loopback; gives the URL."""
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fake_api(*, idle: float = 30.0) -> AsyncIterator[tuple[FakeApi, Api]]:
    """A fake, and a client of it."""
    fake = FakeApi()
    async with serving(fake.handle) as url:
        fake.url = url
        async with Api(Access(url, no_token), timeouts=Timeouts(10.0, 10.0, idle)) as api:
            try:
                yield fake, api
            finally:
                fake.cut()


async def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Let the others work until it is true."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


async def test_it_says_that_it_is_a_fake() -> None:
    async with (
        fake_api() as (fake, _api),
        aiohttp.ClientSession() as session,
        session.get(fake.url + PATH) as response,
    ):
        assert response.headers["Server"] == "fake-api"


async def test_it_pages_and_remembers_as_the_real_one_does() -> None:
    async with fake_api() as (fake, api):
        for name in ("a", "b", "c"):
            fake.put(name)
        first = json.loads(await api.list(PATH, {"limit": "2"}))
        assert [item["metadata"]["name"] for item in first["items"]] == ["a", "b"]
        token = first["metadata"]["continue"]
        rest = json.loads(await api.list(PATH, {"limit": "2", "continue": token}))
        assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
        assert "continue" not in rest["metadata"]
        async with api.watch(PATH, {"resourceVersion": "101"}) as lines:
            seen = [json.loads(await anext(lines)) for _ in range(2)]
        assert [(each["type"], each["object"]["metadata"]["name"]) for each in seen] == [
            ("ADDED", "b"),
            ("ADDED", "c"),
        ]
