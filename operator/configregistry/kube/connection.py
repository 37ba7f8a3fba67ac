"""Connections to the API server that notice when they are dead, and credentials that are renewed.

Why: a watch that is quiet and a watch whose server is gone look alike, so the kernel asks the other
side every few seconds (TCP keep-alive) and ends a connection that nobody answers for; what that
cannot see (a proxy that answers for a dead server) is left to the idle bound of a watch.

It must never repeat a request that an API server may have taken: only a 401, which is refused
before anything is done, is tried again, once, with credentials read anew.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import structlog

from configregistry import __version__
from configregistry.kube.access import Access
from configregistry.kube.failures import BROKEN, NO_CONNECTION, TIMEOUT, Unavailable

RELOAD_SECONDS: Final = 10.0
"""Credentials are read anew at most this often."""
KEEP_ALIVE: Final = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 2,
    "TCP_USER_TIMEOUT": 15_000,
}
"""A connection is ended when the other side is silent for 15 s (elsewhere than on Linux: later)."""

_log = structlog.get_logger(__name__)


class Timeouts(NamedTuple):
    """Seconds. A leader's requests must end well before its Lease does, so `total` is below 5.

    `idle` is how long a watch may be silent: the server is asked to end each after a minute.
    """

    connect: float = 3.0
    total: float = 4.5
    idle: float = 75.0


class Connection:
    """A pool of connections to one server with one identity."""

    def __init__(
        self,
        access: Access,
        timeouts: Timeouts,
        reload: Callable[[], Awaitable[Access]] | None,
    ) -> None:
        self.access = access
        self._timeouts = timeouts
        self._reload = reload
        self._renewal: asyncio.Task[None] | None = None
        self._renewed_at = float("-inf")
        self._session = _session(access)
        self._answers: weakref.WeakSet[aiohttp.ClientResponse] = weakref.WeakSet()
        """Of the present session."""
        self._old: set[asyncio.Task[None]] = set()
        self.asked: Callable[[str, int], None] = lambda _verb, _status: None
        """Is told of each request and the status of its answer; 0: none came."""

    async def close(self) -> None:
        """End every connection."""
        tasks = [*self._old, *([self._renewal] if self._renewal else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        idle: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and await the head of its answer, which the caller must close."""
        status = 0
        try:
            response = await self._send(method, path, headers, params, body, idle)
            if response.status == HTTPStatus.UNAUTHORIZED and self._reload is not None:
                response.close()
                await self._renew(self._reload)
                response = await self._send(method, path, headers, params, body, idle)
            status = response.status
        finally:
            self.asked(method if idle is None else "WATCH", status)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        body: bytes | None,
        idle: float | None,
    ) -> aiohttp.ClientResponse:
        access = self.access
        token = await access.token()
        session, answers = self._session, self._answers
        answer = await session.request(
            method,
            access.host + path,
            params=params,
            data=None if body is None else _once(body),
            headers={**headers, "Authorization": token} if token else headers,
            proxy=access.proxy,
            server_hostname=access.server_hostname,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect, sock_read=idle),
        )
        answers.add(answer)
        return answer

    async def _renew(self, reload: Callable[[], Awaitable[Access]]) -> None:
        """Read the credentials anew, once for all who ask; a plugin may outlast one request."""
        if self._renewal is None or self._renewal.done():
            now = asyncio.get_running_loop().time()
            if now - self._renewed_at < RELOAD_SECONDS:
                return
            self._renewed_at = now
            self._renewal = asyncio.create_task(self._replace_session(reload))
        await asyncio.shield(self._renewal)

    async def _replace_session(self, reload: Callable[[], Awaitable[Access]]) -> None:
        try:
            access = await reload()
            fresh = _session(access)
        except Exception as error:  # noqa: BLE001 - the old credentials may still do
            _log.warning("credentials not renewed", error=str(error))
            return
        old, answers = self._session, self._answers
        self._session, self._answers, self.access = fresh, weakref.WeakSet(), access
        # Requests under way end before this; watches are cut, and opened again where they stood.
        closing = asyncio.create_task(_close_later(old, answers, 2 * self._timeouts.total))
        self._old.add(closing)
        closing.add_done_callback(self._old.discard)
        _log.info("credentials renewed")


@contextmanager
def translated(what: str, *, write: bool = False) -> Iterator[None]:
    """Turn what the transport raises into `Unavailable`."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise _unavailable(what, NO_CONNECTION, error) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise _unavailable(what, NO_CONNECTION, "no connection in time") from error
    except TimeoutError as error:
        raise _unavailable(what, TIMEOUT, "no answer in time", unknown=write) from error
    except (aiohttp.ClientError, OSError, EOFError) as error:
        reason = TIMEOUT if _timed_out(error) else BROKEN
        raise _unavailable(what, reason, error, unknown=write) from error


def _unavailable(what: str, reason: str, error: object, *, unknown: bool = False) -> Unavailable:
    text = str(error) or type(error).__name__
    return Unavailable(f"{what}: {text}", reason=reason, outcome_unknown=unknown)


def _timed_out(error: BaseException | None) -> bool:
    """Whether the kernel gave up on the other side, as opposed to having been told by it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ETIMEDOUT, errno.EHOSTUNREACH}:
            return True
        error = error.__cause__
    return False


def _session(access: Access) -> aiohttp.ClientSession:
    tls: Any = access.tls if access.tls is not None else False
    # No limit here: a watch holds its connection for minutes and must not starve a write.
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=_socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=access.trust_env,
        headers={"User-Agent": f"configregistry/{__version__}"},
        raise_for_status=False,
    )


async def _once(body: bytes) -> AsyncIterator[bytes]:
    """A body that cannot be sent again: aiohttp would repeat a PUT whose connection broke."""
    yield body


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def _close_later(
    session: aiohttp.ClientSession, answers: weakref.WeakSet[aiohttp.ClientResponse], seconds: float
) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        # Each by itself: a session that is closed wakes nobody who reads, and a watch would wait for ever.
        for answer in list(answers):
            answer.close()
        await session.close()
