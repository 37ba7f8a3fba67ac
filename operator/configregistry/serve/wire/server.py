"""A listener on one address, in the event loop that it is started in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from configregistry.errors import ConfigRegistryError
from configregistry.serve.responses import Handle
from configregistry.serve.wire.certificates import Certificates, NoCertificate, TlsFiles
from configregistry.serve.wire.http1 import Http1
from configregistry.serve.wire.limits import Limits
from configregistry.serve.wire.parse import Admit
from configregistry.serve.wire.shared import Observer, Shared
from configregistry.serve.wire.tls import Tls

BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted."""
ACCEPTED: Final = 128
"""Connections accepted in one turn of the loop. They are counted two turns later, and `HEADROOM` has room for them,
because asyncio without files left logs an error for each place of the backlog, each second."""
STOP_WITHIN: Final = 2.0
"""Seconds that requests under way have to finish once the server is stopped."""
ABORTED_WITHIN: Final = 0.2
"""Seconds that connections which were cut off then have to say so to whoever fed them."""
CERTIFICATES_EVERY: Final = 1.0
"""Seconds between two looks at the files of certificate and key."""

_SOCKET: Final = (
    # Inherited by every connection, and so set once. What half-open connections keep is freed after two minutes:
    # by probes where nothing is sent, by the time without any acknowledgement where something is.
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 120_000),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
)


class HttpServerFailed(ConfigRegistryError):  # noqa: N818
    """The server did not start."""


class HttpServer:
    """HTTP/1.1 and HTTP/2 on one port, over TLS if there are files for it. Starts and stops once.

    The port 0 means any that is free; `port` tells which. `observer` counts connections. `admit` may let a request
    bring more than `limits.body_bytes`, over HTTP/1.1. With `state`, which gives another object whenever something
    else is published, answers that last are given again without asking for them.
    """

    def __init__(
        self,
        handle: Handle,
        host: str,
        port: int,
        *,
        limits: Limits | None = None,
        tls: TlsFiles | None = None,
        observer: Observer | None = None,
        admit: Admit | None = None,
        state: Callable[[], object] | None = None,
    ) -> None:
        self._handle = handle
        self._host = host
        self._port = port
        self._limits = limits or Limits()
        self._tls = tls
        self._observer = observer
        self._admit = admit
        self._state = state
        self._server: asyncio.Server | None = None
        self._shared: Shared | None = None
        self._certificates: Certificates | None = None
        self._look: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that is listened on: the one that was given, or found for 0."""
        return self._port

    async def start(self) -> None:
        """Listen. Returns once connections are accepted; raises `HttpServerFailed` otherwise."""
        try:
            self._certificates = Certificates(self._tls) if self._tls is not None else None
            held = await self._bind()
        except (OSError, OverflowError, NoCertificate) as error:
            raise HttpServerFailed(f"cannot listen on {self._host}:{self._port}: {error}") from error
        self._port = held.getsockname()[1]
        shared = self._shared = Shared(self._handle, self._limits, self._observer, self._admit, self._state)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _connection(shared, self._certificates), sock=held, backlog=ACCEPTED
        )
        held.listen(BACKLOG)
        self._look_again()

    async def wait(self) -> None:
        """Return when it is stopped: it does not end by itself. Raises `HttpServerFailed` if it was never started."""
        if self._shared is None:
            raise HttpServerFailed("not started")
        await self._stopped.wait()

    async def stop(self, within: float = STOP_WITHIN) -> None:
        """Accept nothing more, end what is idle, let requests under way finish; cut off what has not in time."""
        server, self._server = self._server, None
        shared = self._shared
        if server is None or shared is None:
            return
        server.close()
        if self._look is not None:
            self._look.cancel()
        shared.draining = True
        for connection in list(shared.connections):
            connection.drain()
        if not await _emptied(shared, within):
            for connection in list(shared.connections):
                connection.abort()
            await _emptied(shared, ABORTED_WITHIN)
        shared.stop()
        self._stopped.set()

    async def _bind(self) -> socket.socket:
        """Bind alone: a port that somebody else listens on is refused, never shared."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            self._host or "0.0.0.0",  # noqa: S104 - empty says: all
            self._port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        family, kind, protocol, _name, address = found[0]
        held = socket.socket(family, kind, protocol)
        try:
            held.setblocking(False)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and address[0] == "::":
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            for level, name, value in _SOCKET:
                option = getattr(socket, name, None)  # Linux has all of them, others some
                if option is not None:
                    held.setsockopt(level, option, value)
            held.bind(address)
            held.listen(BACKLOG)
        except OSError:
            held.close()
            raise
        return held

    def _look_again(self) -> None:
        if self._certificates is not None:
            self._certificates.look()
            self._look = asyncio.get_running_loop().call_later(CERTIFICATES_EVERY, self._look_again)


def _connection(shared: Shared, certificates: Certificates | None) -> asyncio.Protocol:
    connection = Http1(shared)
    return connection if certificates is None else Tls(connection, certificates.context)


async def _emptied(shared: Shared, within: float) -> bool:
    """Wait for the last connection to end."""
    if not shared.connections:
        return True
    try:
        async with asyncio.timeout(within):
            await shared.emptied.wait()
    except TimeoutError:
        return False
    return True


async def serve_http(
    handle: Handle,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    tls: TlsFiles | None = None,
    observer: Observer | None = None,
    admit: Admit | None = None,
    state: Callable[[], object] | None = None,
) -> HttpServer:
    """Start a server and give it; `await server.stop()` ends it."""
    server = HttpServer(handle, host, port, limits=limits, tls=tls, observer=observer, admit=admit, state=state)
    await server.start()
    return server
