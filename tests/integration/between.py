"""A proxy between the operator and the API server, that a test may have do things just before or after a request.

That is how a test ends a process between two instructions of it without a word about that in the product:
what it has not yet been told, or what the API server has not yet been told, is the difference.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from tests.cluster.ports import LOOPBACK

from configregistry.kube.access import load_access

_HEADERS = ("Accept", "Content-Type")


class Call(NamedTuple):
    """A request of the operator."""

    method: str
    path: str
    body: bytes

    def writes(self, plural: str) -> bool:
        """Whether it changes objects of this kind."""
        return self.method != "GET" and f"/{plural}" in self.path

    @property
    def json(self) -> Any:
        """What it sends."""
        return json.loads(self.body)


Hook = Callable[[Call], Awaitable[bool]]
"""True: the operator gets no answer, its connection ends."""


async def _nothing(_call: Call) -> bool:
    return False


class Between:
    """`before` is called before a request is passed on, `after` before its answer is."""

    def __init__(self) -> None:
        self.before: Hook = _nothing
        self.after: Hook = _nothing
        self.port = 0
        self._session: aiohttp.ClientSession | None = None
        self._host = ""
        self._token: str | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on."""
        call = Call(request.method, request.path, await request.read())
        if await self.before(call):
            return _cut(request)
        assert self._session is not None
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        headers |= {"Authorization": self._token} if self._token else {}
        url = self._host + request.raw_path
        async with self._session.request(call.method, url, data=call.body or None, headers=headers) as answer:
            kind = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            if request.query.get("watch") != "true":
                body = await answer.read()
                if await self.after(call):
                    return _cut(request)
                return web.Response(status=answer.status, body=body, headers=kind)
            stream = web.StreamResponse(status=answer.status, headers=kind)
            with suppress(ConnectionError, aiohttp.ClientError):
                await stream.prepare(request)
                async for chunk in answer.content.iter_any():
                    await stream.write(chunk)
            return stream

    @asynccontextmanager
    async def listening(self, kubeconfig: Path, directory: Path) -> AsyncIterator[Path]:
        """Listen, in front of the API server of a kubeconfig; gives the kubeconfig for the operator."""
        access = await load_access(str(kubeconfig))
        self._host, self._token = access.host, await access.token()
        connector = aiohttp.TCPConnector(limit=0, ssl=access.tls or False)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self._kubeconfig(directory)
        finally:
            await runner.cleanup()
            await self._session.close()

    def _kubeconfig(self, directory: Path) -> Path:
        path = directory / "between.kubeconfig"
        cluster = {"server": f"http://{LOOPBACK}:{self.port}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "between", "cluster": cluster}],
            "users": [{"name": "between", "user": {}}],
            "contexts": [{"name": "between", "context": {"cluster": "between", "user": "between"}}],
            "current-context": "between",
        }
        path.write_text(json.dumps(config))
        return path


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
