"""How the serve replicas are asked for their consumers: all of them, wherever they are.

Three ways: within this process, by addresses that somebody names, and by the EndpointSlices of a Service. Between
two exchanges they can be waited for: each holds a request until it hears of an error that is new. It
must never take a replica that does not answer for one without consumers, and never follow a redirect: the
token is for the replicas alone. Their addresses are the operator's own, so the rules for URLs that users
write do not hold here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

import aiohttp
import msgspec
import structlog
import zstandard

from configregistry import __version__
from configregistry.kube.client import Api
from configregistry.kube.endpoints import list_endpoints
from configregistry.kube.failures import ApiError
from configregistry.model.reports import EXCHANGE_PATH, NEWS_PATH, Counted, Exchange, ReplicaReports

TIMEOUT: Final = 1.5
"""Seconds for a replica to answer whole; well below EXCHANGE_EVERY, or a hanging one would slow the rounds."""
AGAIN: Final = 0.3
"""Seconds after which a list that was too large is given once more."""
LONGEST: Final = 64 * 1024 * 1024
"""Bytes of an answer that are read: 100,000 consumers with long labels."""
PORT: Final = "http"
"""Name of the Service's port."""
_CHUNK: Final = 256 * 1024
_SHORT: Final = 4096
"""Bytes of an answer that says how many errors there are."""
_PLAIN: Final[Mapping[str, str]] = {}
_PACKED: Final[Mapping[str, str]] = {"Content-Type": "application/json", "Content-Encoding": "zstd"}

_log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """Of one replica: what it stated, or why nothing is known of it."""

    name: str
    reports: ReplicaReports | None
    error: str = ""


class Replicas(Protocol):
    """All serve replicas."""

    async def exchange(self, given: Exchange) -> Sequence[Answer]:
        """Give each the merged list and get what it states, all at once; raises nothing."""
        ...

    async def news(self, seconds: float) -> bool:
        """Wait until one has heard of an error that is new since the last exchange; raises nothing.

        False: nobody has, in so many seconds at most, or in less where nobody can be waited for.
        """
        ...

    async def close(self) -> None:
        """End all connections."""
        ...


Newer = Callable[[int, float], Awaitable[bool]]
"""Waits for errors beyond so many, for so many seconds; gives whether there are any."""


class InProcess:
    """The one replica that is this process.

    `exchange`: take the merged list, state what was heard. `newer` waits for an error that is new; None: nobody
    tells of one before the next round.
    """

    def __init__(self, exchange: Callable[[Exchange], ReplicaReports], newer: Newer | None = None) -> None:
        self._exchange = exchange
        self._newer = newer
        self._known: int | None = None

    async def exchange(self, given: Exchange) -> Sequence[Answer]:
        """Ask."""
        reports = self._exchange(given)
        self._known = reports.news
        return [Answer("this process", reports)]

    async def news(self, seconds: float) -> bool:
        """Wait."""
        if self._newer is None or self._known is None:
            return False
        return await self._newer(self._known, seconds)

    async def close(self) -> None:
        """Nothing is held."""


class Replica(NamedTuple):
    """Where one is. One that need not answer is given the list, and heard if it does."""

    name: str
    url: str
    must_answer: bool = True


class Found(NamedTuple):
    """The replicas. `error`: why there may be others; empty: these are all."""

    replicas: Sequence[Replica]
    error: str = ""


Find = Callable[[], Awaitable[Found]]


def at_addresses(urls: Sequence[str]) -> Find:
    """Replicas that somebody named, by the URLs that they listen on."""
    replicas = tuple(Replica(url.rstrip("/"), url.rstrip("/") + EXCHANGE_PATH) for url in dict.fromkeys(urls))

    async def find() -> Found:
        return Found(replicas)

    return find


def of_service(api: Api, namespace: str, service: str, *, tls: bool = False) -> Find:
    """The pods behind a Service, looked up anew each time.

    While the API server does not answer those that were known are asked, so that they go on hearing of each
    other; nobody can then say that these are all.
    """
    known: tuple[Replica, ...] = ()
    scheme = "https" if tls else "http"

    async def find() -> Found:
        nonlocal known
        try:
            async with asyncio.timeout(TIMEOUT):
                found = await list_endpoints(api, namespace, service, PORT)
        except (ApiError, TimeoutError) as error:
            return Found(known, f"its EndpointSlices could not be read: {str(error) or 'no answer in time'}")
        known = tuple(
            Replica(each.name, f"{scheme}://{each.host}:{each.port}{EXCHANGE_PATH}", each.serving) for each in found
        )
        if any(each.must_answer for each in known):
            return Found(known)
        return Found(known, f"there is no pod behind its port {PORT}")

    return find


class _UnansweredError(Exception):
    """There is no answer that says anything."""


_ADVICE: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: ": name a token with --replica-token-file",
    HTTPStatus.FORBIDDEN: ": its token needs the right to update configregistries/consumers-exchange",
}


class _TooLargeError(_UnansweredError):
    """So much is not taken, or not yet."""


class OverHttp:
    """Replicas elsewhere. Made inside the running loop; `close` ends it.

    `source` names where they come from, for messages. `token` and `tls` are asked at each call, since both are
    renewed; `server_hostname` is the name that certificates are for where addresses are those of pods.
    """

    def __init__(
        self,
        find: Find,
        source: str,
        *,
        token: Callable[[], str] | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_hostname: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._find = find
        self._source = source
        self._token = token
        self._tls = tls
        self._server_hostname = server_hostname
        self._timeout = timeout
        self._waited_for: tuple[tuple[Replica, ReplicaReports], ...] = ()
        """Who can be waited for, and what each stated last."""
        # Reports are much alike: a tenth remains, made once for all replicas.
        self._packer = zstandard.ZstdCompressor()
        self._session = aiohttp.ClientSession(
            # A connection for each call: one that was kept may be closed by the time that it is wanted, and that
            # would be an Error of every check.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            headers={
                "User-Agent": f"configregistry/{__version__}",
                "Accept-Encoding": "identity",
            },
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )

    async def exchange(self, given: Exchange) -> Sequence[Answer]:
        """Ask all at once."""
        found = await self._find()
        body = self._packer.compress(msgspec.json.encode(given))
        answers = await asyncio.gather(*(self._ask(each, body) for each in found.replicas))
        self._waited_for = tuple(
            (replica, answer.reports)
            for replica, answer in zip(found.replicas, answers, strict=True)
            if answer.reports is not None and answer.reports.news is not None
        )
        told = [
            answer
            for replica, answer in zip(found.replicas, answers, strict=True)
            if answer.reports is not None or replica.must_answer
        ]
        if found.error:
            told.append(Answer(self._source, None, found.error))
        return told

    async def news(self, seconds: float) -> bool:
        """Wait for all at once; whoever fails has none, and is asked again behind the next exchange only."""
        waiting = {asyncio.create_task(self._newer(*each, seconds)) for each in self._waited_for}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return True
            return False
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def _newer(self, replica: Replica, stated: ReplicaReports, seconds: float) -> bool:
        url = replica.url.removesuffix(EXCHANGE_PATH) + NEWS_PATH
        query = {"replica": stated.replica, "known": str(stated.news), "seconds": f"{seconds:.3f}"}
        try:
            async with asyncio.timeout(seconds + self._timeout), self._asking("GET", url, params=query) as response:
                if response.status != HTTPStatus.OK:
                    return False
                counted = msgspec.json.decode(await response.content.read(_SHORT), type=Counted)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):  # the next exchange says what is wrong
            return False
        return (counted.replica, counted.news) != (stated.replica, stated.news)

    def _asking(
        self, method: str, url: str, headers: Mapping[str, str] = _PLAIN, **content: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Ask as whom the replicas know; raises `OSError` where there is no token."""
        return self._session.request(
            method,
            url,
            headers={**headers, "Authorization": f"Bearer {self._token()}"} if self._token is not None else headers,
            allow_redirects=False,
            ssl=self._tls() if self._tls is not None else True,
            server_hostname=self._server_hostname,
            **content,
        )

    async def _ask(self, replica: Replica, body: bytes) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    reports = await self._post(replica.url, body)
                except _TooLargeError:
                    # So much is taken from who is known alone, and with a new token nobody is at first.
                    await asyncio.sleep(AGAIN)
                    reports = await self._post(replica.url, body)
        except TimeoutError:
            return Answer(replica.name, None, f"no answer in {self._timeout:g} s")
        except _UnansweredError as error:
            return Answer(replica.name, None, str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(replica.name, None, _reason(error))
        return Answer(replica.name, reports)

    async def _post(self, url: str, body: bytes) -> ReplicaReports:
        async with self._asking("POST", url, data=body, headers=_PACKED) as response:
            if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise _TooLargeError(f"it takes no list of {len(body)} bytes")
            if response.status != HTTPStatus.OK:
                told = f"it answered {response.status} {response.reason or ''}".rstrip()
                raise _UnansweredError(told + _ADVICE.get(response.status, ""))
            read = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                read += chunk
                if len(read) > LONGEST:
                    raise _UnansweredError(f"its answer is longer than {LONGEST // 1024 // 1024} MiB")
        try:
            return msgspec.json.decode(read, type=ReplicaReports)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise _UnansweredError("its answer is no list of consumers") from None


def _reason(error: Exception) -> str:
    """A sentence; never the text of an error that may hold a header."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate was not accepted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return type(error).__name__
