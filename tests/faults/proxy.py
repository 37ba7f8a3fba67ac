"""The proxy: HTTP/1.1 in clear text to the program, TLS with the administrator's certificate to the API server.

It runs in a thread and loop of its own, so that one proxy serves all tests of a module, synchronous and asynchronous
alike. All that a test calls may be called from any thread. It must never change what no rule is about, and never
answer for the API server without a rule.

What it cannot do: lose packets. A black hole here still acknowledges at the level of TCP, as a load balancer does
whose server is gone: that is the case which a kernel does not see either.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
from aiohttp import web

from configregistry.kube.access import load_access
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.faults.picture import Picture
from tests.faults.rules import Armed, Ask, Fault, Flow, Rule, Seen, status

T = TypeVar("T")

_HOP: Final = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade", "accept-encoding"}
_RESET: Final = struct.pack("ii", 1, 0)
_ERROR_EVENT: Final = b'{"type":"ERROR","object":' + status(410) + b"}\n"
_HALF: Final = b'{"type":"MODIFIED","object":{"metadata":{"name":"half'


class _BrokenError(Exception):
    """The connection is to be broken."""


class FaultProxy:
    """`kubeconfig` leads through it. `requests` counts all that came, by method and path."""

    def __init__(self, upstream: Path, directory: Path, *, name: str = "proxy") -> None:
        self.kubeconfig = directory / f"{name}.kubeconfig"
        self.requests: Counter[tuple[str, str]] = Counter()
        self._upstream = upstream
        self._armed: list[Armed] = []
        self._streams: set[_Stream] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._lifted: asyncio.Event | None = None

    # What a test does.

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._call(self._open())
        write_kubeconfig(self.kubeconfig, cluster={"server": f"http://{LOOPBACK}:{self._port}"}, user={})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def during(self, *rules: Rule) -> Iterator[list[Armed]]:
        """Have these faults; gives what each of them meets. The first rule that takes a request has it."""
        armed = [Armed(rule) for rule in rules]
        self._call(self._arm(armed))
        try:
            yield armed
        finally:
            self._call(self._disarm(armed))

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Nobody listens, and what is open is broken."""
        self._call(self._leave())
        try:
            yield
        finally:
            self._call(self._listen())

    def picture(self, *paths: str) -> Picture:
        """What the API server says of these lists now."""
        return Picture.of(self._call(self._read(paths)))

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._streams)

    @property
    def total(self) -> int:
        """How many requests came so far."""
        return sum(self.requests.values())

    @contextmanager
    def counted(self) -> Iterator[Rate]:
        """Count what is asked meanwhile."""
        rate = Rate(self)
        yield rate
        rate.stop()

    # In its loop.

    def _call(self, wanted: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(wanted, self._loop).result(60)

    async def _open(self) -> None:
        access = await load_access(str(self._upstream))
        self._host = access.host
        connector = aiohttp.TCPConnector(limit=0, ssl=access.tls if access.tls is not None else False)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        self._lifted = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True), shutdown_timeout=0.01)
        await self._runner.setup()
        [self._port] = pick_ports(1)
        await self._listen()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, LOOPBACK, self._port, reuse_address=True)
        await self._site.start()

    async def _leave(self) -> None:
        await self._site.stop()
        server = self._runner.server
        assert server is not None
        for connection in server.connections:
            if connection.transport is not None:
                _break(connection.transport)

    async def _close(self) -> None:
        for stream in list(self._streams):
            stream.abort()
        for task in list(self._late):
            task.cancel()
        await self._runner.cleanup()
        await self._session.close()
        # aiohttp tells nobody when its connections are closed, which takes TLS some turns of the loop.
        await asyncio.sleep(0.1)

    async def _arm(self, armed: list[Armed]) -> None:
        self._armed.extend(armed)
        for each in armed:
            for stream in list(self._streams):
                if each.rule.fault.flow is not Flow.PASS and each.rule.matches(stream.seen):
                    each.hits += 1
                    stream.happens(each.rule.fault.flow)

    async def _disarm(self, armed: list[Armed]) -> None:
        self._armed = [each for each in self._armed if each not in armed]
        assert self._lifted is not None
        self._lifted.set()
        self._lifted = asyncio.Event()

    async def _read(self, paths: tuple[str, ...]) -> dict[str, bytes]:
        found = {}
        for path in paths:
            async with self._session.get(self._host + path, headers={"Accept-Encoding": "identity"}) as answer:
                found[path] = await answer.read()
        return found

    def holds(self, seen: Seen) -> bool:
        """Whether events of this watch wait."""
        return any(each.rule.fault.flow is Flow.HOLD and each.rule.matches(seen) for each in self._armed)

    async def lifted(self) -> None:
        """Wait until some fault is over."""
        assert self._lifted is not None
        await self._lifted.wait()

    # One request.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.path, request.query.get("watch") in {"true", "1"})
        self.requests[seen.method, seen.path] += 1
        armed = next((each for each in self._armed if each.takes(seen)), None)
        try:
            return await self._answered(request, seen, armed)
        except (_BrokenError, aiohttp.ClientError):
            # A fault, or the API server itself is away: so is what stands before it.
            if request.transport is not None:
                _break(request.transport)
            return web.Response()  # nobody gets it

    async def _answered(self, request: web.BaseRequest, seen: Seen, armed: Armed | None) -> web.StreamResponse:
        fault = armed.rule.fault if armed is not None else Fault("none")
        ask = fault.ask
        if ask is Ask.ANSWER:
            await request.read()
            return web.Response(status=fault.code, body=fault.body, headers=dict(fault.headers))
        if ask is Ask.RESET_BEFORE:
            raise _BrokenError
        if ask is Ask.LATE and armed is not None:
            # Whoever asked gives up long before: what was sent arrives all the same.
            task = asyncio.create_task(self._later(request, await request.read(), armed))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            await self._over(armed)
            raise _BrokenError
        if ask is Ask.STALL_BEFORE:
            await self._over(armed)
            raise _BrokenError
        if ask is Ask.PAST and fault.picture is not None and seen.method == "GET" and not seen.watch:
            body = fault.picture.answer(seen.path)
            if body is not None:
                return web.Response(body=body, content_type="application/json")
        return await self._passed(request, seen, ask, armed)

    async def _passed(self, request: web.BaseRequest, seen: Seen, ask: Ask, armed: Armed | None) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers["Accept-Encoding"] = "identity"
        async with self._session.request(
            request.method,
            self._host + request.path_qs,
            headers=headers,
            data=await request.read() or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            if seen.watch and answer.status == web.HTTPOk.status_code:
                return await self._watched(request, seen, answer, kept)
            body = await answer.read()
        if ask is Ask.RESET_AFTER:
            raise _BrokenError
        if ask is Ask.STALL_AFTER:
            await self._over(armed)
            raise _BrokenError
        return web.Response(status=answer.status, body=body, headers=kept)

    async def _later(self, request: web.BaseRequest, body: bytes, armed: Armed) -> None:
        await self._over(armed)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with self._session.request(
            request.method, self._host + request.path_qs, headers=headers, data=body or None
        ) as answer:
            armed.arrived.append(answer.status)

    async def _over(self, armed: Armed | None) -> None:
        """Wait until a fault is over."""
        while armed in self._armed:
            await self.lifted()

    async def _watched(
        self, request: web.BaseRequest, seen: Seen, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        stream = _Stream(self, seen, request, response, answer)
        self._streams.add(stream)
        try:
            for each in self._armed:
                if each.rule.fault.flow is not Flow.PASS and each.rule.matches(seen) and _left(each):
                    each.hits += 1
                    stream.happens(each.rule.fault.flow)
            await stream.run()
        finally:
            self._streams.discard(stream)
        return response


class Rate:
    """Requests of a while."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._before = proxy.total
        self._paths = proxy.requests.copy()
        self._began = time.monotonic()
        self.seconds = 0.0
        self.requests = 0
        self.of: Counter[tuple[str, str]] = Counter()
        """By method and path."""

    def stop(self) -> None:
        """The while is over."""
        self.seconds = time.monotonic() - self._began
        self.requests = self._proxy.total - self._before
        self.of = self._proxy.requests - self._paths

    @property
    def per_second(self) -> float:
        """The mean."""
        return self.requests / self.seconds


class _Stream:
    """One open watch, line by line."""

    def __init__(
        self,
        proxy: FaultProxy,
        seen: Seen,
        request: web.BaseRequest,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
    ) -> None:
        self.seen = seen
        self._proxy = proxy
        self._request = request
        self._response = response
        self._answer = answer
        self._last: bytes | None = None
        self._broken = False
        self._fate = asyncio.Event()

    def happens(self, flow: Flow) -> None:
        """A fault has come."""
        if flow is Flow.HOLD:
            return  # asked for at each line
        self._last = {Flow.CUT: _HALF, Flow.END: b"", Flow.EXPIRE: _ERROR_EVENT, Flow.GARBAGE: b"<html>\n"}[flow]
        self._broken = flow is Flow.CUT
        self._fate.set()

    def abort(self) -> None:
        """The proxy ends."""
        self._last, self._broken = b"", True
        self._fate.set()

    async def run(self) -> None:
        """Pass events on until either side or a fault ends it."""
        passing = asyncio.ensure_future(self._pass())
        fate = asyncio.ensure_future(self._fate.wait())
        try:
            await asyncio.wait((passing, fate), return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            fate.cancel()
            with suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
                await passing
        if self._last:
            with suppress(OSError):
                await self._response.write(self._last)
        if self._broken and self._request.transport is not None:
            # What was written shall arrive: no reset, only an end without the last chunk.
            self._request.transport.close()

    async def _pass(self) -> None:
        async for line in _lines(self._answer):
            while self._proxy.holds(self.seen):
                await self._proxy.lifted()
            await self._response.write(line)
        while self._proxy.holds(self.seen):  # its end is not told either
            await self._proxy.lifted()


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"


def _left(armed: Armed) -> bool:
    """Whether a rule happens to one more watch; a fault of open watches alone happens to each new one too."""
    return armed.rule.hits is None or armed.hits < armed.rule.hits


def _break(transport: asyncio.BaseTransport) -> None:
    """Send RST, whatever is under way."""
    found = transport.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    if isinstance(transport, asyncio.Transport):
        transport.abort()
