"""The one way out by HTTP, for whatever a spec may name a URL of: checks, validators, hooks.

Whoever may write a ConfigRegistry decides what this process asks, so what may be asked, how long
and how much of the answer is read are decided here and nowhere else. It must never use the
environment's proxies (they would connect in its place, unguarded), keep cookies, follow a
redirect to another host, or put a URL's password or query into a message. Errors are
`UnansweredError`, whatever went wrong.

Connections. One session for all, and no limit of connections to one host: the checks of all
registries may ask one Prometheus, and one registry's hanging queries would then use up the places
of the others. The number of connections is bounded by the number of checks, since each asks one
thing at a time; the limit in total exists only so that open files remain for the API server and
for clients. A connection is used once: through a kept one a probe would go on asking the pod that
it once reached.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable, Container, Mapping
from typing import Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from configregistry import __version__
from configregistry.errors import ConfigRegistryError, FieldError
from configregistry.health.addresses import refusal
from configregistry.health.resolver import Resolver
from configregistry.telemetry import tracing

MAX_BODY: Final = 1024 * 1024
"""Bytes of an answer that are read; a longer one is not an answer."""
MAX_REDIRECTS: Final = 5
"""Redirects of one host that are followed."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAME_METHOD: Final = frozenset({307, 308})
_CHUNK: Final = 64 * 1024
_LEAST_LIMIT: Final = 256


class UnansweredError(ConfigRegistryError):
    """There is no answer; the text says whose and why, without the URL's secrets."""


class Answer(NamedTuple):
    """A whole answer. `body`: empty where not wanted; `note`: why a redirect was not followed."""

    status: int
    body: bytes
    note: str = ""


class _Asked(NamedTuple):
    """What stays the same over redirects."""

    method: str
    body: bytes | None
    headers: Mapping[str, str]
    stop: Container[int]
    wanted: Callable[[int], bool]


class Outbound:
    """The guarded client. Made inside the running loop; `close` ends it.

    `allow_local` lets link-local, loopback and unspecified addresses be asked: right outside a
    cluster. `trace` gives the headers that carry the present trace on.
    """

    def __init__(
        self,
        *,
        allow_local: bool,
        trace: Callable[[], Mapping[str, str]] = tracing.headers,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._allow_local = allow_local
        self._trace = trace
        self._resolver = resolver or Resolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver,
                socket_factory=self._socket,
                force_close=True,
                limit=_limit(),
                limit_per_host=0,
            ),
            # Identity, and nothing unpacked: a small answer must not become a large one here.
            headers={"User-Agent": f"configregistry/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trust_env=False,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        within: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        stop: Container[int] = frozenset(),
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> Answer:
        """The whole answer `within` so many seconds, look-up of the name and redirects included.

        `stop`: statuses that are the answer even if they are redirects. `wanted` says of a status
        whether its body is worth reading.
        """
        target = parse_url(url, "url")
        asked = _Asked(method, body, {**self._trace(), **(headers or {})}, stop, wanted)
        try:
            async with asyncio.timeout(within):
                return await self._follow(asked, target)
        except TimeoutError as error:
            raise UnansweredError(f"{shown(target)}: no whole answer in {within:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UnansweredError(f"{shown(target)}: {_reason(error)}") from error

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()
        await self._resolver.close()

    async def _follow(self, asked: _Asked, url: URL) -> Answer:
        """The answer where the redirects that may be followed end."""
        for left in range(MAX_REDIRECTS, -1, -1):
            async with self._session.request(
                asked.method, url, data=asked.body, headers=asked.headers, allow_redirects=False
            ) as response:
                status, location = response.status, response.headers.get("Location")
                note = ""
                if status in _REDIRECTS and status not in asked.stop and location is not None:
                    following, note = _redirect(asked.method, url, status, location)
                    if following is not None and left:
                        url = following
                        continue
                    note = note or f"more than {MAX_REDIRECTS} redirects"
                return Answer(status, await _read(response) if asked.wanted(status) else b"", note)
        raise AssertionError("the last round returns")

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for exactly the address that is connected to next, however it was found."""
        family, kind, proto, _, address = info
        if not self._allow_local and (reason := refusal(str(address[0]))):
            raise OSError(errno.EACCES, f"address {address[0]} refused ({reason})")
        return socket.socket(family, kind, proto)


def parse_url(text: str, field: str) -> URL:
    """The URL that a text is; `FieldError` when it is none that may be asked."""
    try:
        url = URL(text)
        port = url.port
    except ValueError:
        raise FieldError(field, None, "expected a URL") from None
    if url.scheme not in ("http", "https"):
        raise FieldError(field, url.scheme, "expected a URL of http or https")
    if not url.host or not port:
        raise FieldError(field, None, "expected a URL with a host")
    return url


def shown(url: URL) -> str:
    """A URL as a message may show it: without user, password, query and fragment."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def _redirect(method: str, url: URL, status: int, location: str) -> tuple[URL | None, str]:
    """Where to go on, or why not."""
    try:
        target = parse_url(str(url.join(URL(location))), "Location")
    except (ValueError, FieldError):
        return None, "redirected to what is no URL of http or https"
    if target.host != url.host:
        return None, "a redirect to another host is not followed"
    if url.scheme == "https" and target.scheme == "http":
        return None, "a redirect from https to http is not followed"
    if method != "GET" and status not in _SAME_METHOD:
        return None, f"a redirect of a {method} is followed only with 307 or 308"
    return target, ""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, given up once it is too long: an endless one costs no more than that."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > MAX_BODY:
            raise OSError(errno.EFBIG, f"the answer is longer than {MAX_BODY // 1024} KiB")
    return bytes(body)


def _reason(error: Exception) -> str:
    """A sentence for an error. Never the text of one that may hold the URL."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", None)
        return f"certificate not accepted: {why or error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name was not found: {error.os_error.strerror or 'no reason given'}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before the answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return "not a URL that can be asked"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _limit() -> int:
    """Half of the files that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _LEAST_LIMIT if soft == resource.RLIM_INFINITY else max(_LEAST_LIMIT, soft // 2)
