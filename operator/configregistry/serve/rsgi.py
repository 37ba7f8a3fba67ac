"""The one place that knows Granian: its RSGI protocol, and its server inside this process.

Granian's ordinary server runs the application in worker processes, which would each need the whole
state; `granian.server.embed` runs it in this event loop. It is called experimental, so everything
else sees `Request`, `Response` and `HttpServer` only, and another server could take its place.

Facts that this rests on (2.8, tried; tests hold them): `scope.path` is percent-decoded once, bytes
that are no UTF-8 become U+FFFD; the query is raw; header names are in lower case; a handler that
raises is answered with 500; `stop` ends idle connections and lets requests in flight finish, but
returns before its threads have ended, and one that wants the GIL while the interpreter goes away
aborts the process ("panic in a function that cannot unwind"; 2 of 8 stops under load).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from configregistry.errors import ConfigRegistryError
from configregistry.serve.responses import Request, Response

BACKLOG: Final = 1024
BACKPRESSURE: Final = 4096
"""Requests under way at once. Without it Granian takes the backlog, and without that 128."""
START_TIMEOUT: Final = 10.0
THREADS_TIMEOUT: Final = 2.0

Handle = Callable[[Request], Response]


class HttpServerFailed(ConfigRegistryError):  # noqa: N818
    """The server did not start, or ended by itself."""


class RsgiHeaders(Protocol):
    """Of a request; names in lower case."""

    def get(self, key: str, default: Any = None) -> Any:
        """Give the first header of that name."""
        ...


class RsgiScope(Protocol):
    """What is known when a request's head has been read."""

    proto: str
    method: str
    path: str
    query_string: str
    headers: RsgiHeaders


class RsgiProtocol(Protocol):
    """What answers a request."""

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Answer without a body."""
        ...

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer with a body; its length is told by the server."""
        ...


class RsgiApplication:
    """A handler as Granian calls it."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def __rsgi__(self, scope: RsgiScope, protocol: RsgiProtocol) -> None:
        method = scope.method
        request = Request(method, scope.path, scope.query_string, scope.headers.get)
        status, headers, body = self._handle(request)
        if method == "HEAD":
            # Said by us: what the server derives from an empty body would be 0.
            protocol.response_empty(status, [*headers, ("content-length", str(len(body)))])
        elif body:
            protocol.response_bytes(status, headers, body)
        else:
            protocol.response_empty(status, headers)


class HttpServer:
    """A listener on one address, in this event loop. Starts and stops once."""

    def __init__(self, handle: Handle, host: str, port: int) -> None:
        self._application = RsgiApplication(handle)
        self._host = host
        self._port = port
        self._held: socket.socket | None = None
        self._server: Server | None = None
        self._running: asyncio.Task[None] | None = None
        self._threads: set[str] = set()

    @property
    def port(self) -> int:
        """The port that is listened on: the one that was given, or found for 0."""
        return self._port

    async def start(self) -> None:
        """Listen. Returns once connections are accepted; raises `HttpServerFailed` otherwise."""
        self._reserve()
        self._server = Server(
            self._application,
            address=self._host,
            port=self._port,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            backlog=BACKLOG,
            backpressure=BACKPRESSURE,
            # Granian configures logging when it is made. Incremental keeps it from closing
            # everybody's handlers, and leaves its loggers to the root's.
            log_dictconfig={
                "incremental": True,
                "handlers": {},
                "loggers": {"_granian": {}, "granian.access": {}},
            },
            log_level=LogLevels.error,
        )
        before = _threads()
        self._running = asyncio.create_task(self._server.serve(), name="http-server")
        async with asyncio.timeout(START_TIMEOUT):
            while not self._running.done():
                with suppress(OSError):
                    _reader, writer = await asyncio.open_connection(self._host, self._port)
                    writer.close()
                    self._threads = _threads() - before
                    return
                await asyncio.wait({self._running}, timeout=0.01)
        self._release()
        error = self._running.exception()
        raise HttpServerFailed(f"cannot listen on {self._host}:{self._port}: {error}") from error

    async def wait(self) -> None:
        """Return when it is stopped; raise `HttpServerFailed` when it ended by itself."""
        if self._running is None:
            raise HttpServerFailed("not started")
        await asyncio.wait({self._running})
        error = None if self._running.cancelled() else self._running.exception()
        if self._server is not None:
            raise HttpServerFailed(f"the HTTP server ended: {error}") from error

    async def stop(self) -> None:
        """Accept nothing more and let requests in flight finish."""
        server, self._server = self._server, None
        if server is not None and self._running is not None:
            server.stop()  # type: ignore[no-untyped-call]
            await asyncio.wait({self._running})
            with suppress(TimeoutError):
                async with asyncio.timeout(THREADS_TIMEOUT):
                    while self._threads & _threads():  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.005)
        self._release()

    def _reserve(self) -> None:
        """Find a free port for 0, and keep others from it until Granian listens there too.

        Refuses a port that somebody else listens on: Granian would share it (SO_REUSEPORT), and
        each of the two would answer some of the requests.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        held = socket.socket(family, socket.SOCK_STREAM)
        option = socket.SO_REUSEADDR if self._port else socket.SO_REUSEPORT
        held.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            held.bind((self._host, self._port))
        except OSError as error:
            held.close()
            raise HttpServerFailed(f"{self._host}:{self._port}: {error}") from error
        if self._port:
            held.close()
            return
        self._port = held.getsockname()[1]
        self._held = held

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _threads() -> set[str]:
    """Give the ids of this process's threads, Rust's included (Linux; elsewhere there are none)."""
    try:
        return {task.name for task in Path("/proc/self/task").iterdir()}
    except OSError:
        return set()


async def serve_http(handle: Handle, host: str, port: int) -> HttpServer:
    """Start a server and give it; `await server.stop()` ends it."""
    server = HttpServer(handle, host, port)
    await server.start()
    return server
