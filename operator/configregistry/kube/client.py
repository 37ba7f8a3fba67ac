"""A thin client of the API server: paths and JSON bytes in, JSON bytes out, failures as types.

Why not the generated one: its model classes cost more than the work, and its retries, default
timeouts (5 minutes) and error texts are not those of a program that must tell "absent" from "not
known" and give up a request in time to keep a Lease. Only its configuration loading is used.

It must never repeat a write, follow a redirect, or read a failure as an absence. It belongs to the
event loop that made it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from configregistry import failpoints
from configregistry.kube.access import Access, load_access
from configregistry.kube.connection import Connection, Timeouts, translated
from configregistry.kube.failures import (
    BROKEN,
    ApiError,
    Conflict,
    NotFound,
    Unavailable,
    from_answer,
)
from configregistry.kube.fence import Fence
from configregistry.telemetry import tracing

__all__ = ["Api", "ApiError", "Conflict", "NotFound", "Timeouts", "Unavailable", "connect"]

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
MAX_CONCURRENT: Final = 64
"""Requests under way at once; watches do not count."""
APART: Final = 4
"""The same for what is kept apart from all others."""
MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of one watch event; etcd keeps objects below 1.5 MiB."""


class Api:
    """Requests to one API server with one identity."""

    def __init__(
        self,
        access: Access,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        reload: Callable[[], Awaitable[Access]] | None = None,
    ) -> None:
        self.timeouts = timeouts
        self._connection = Connection(access, timeouts, reload)
        self._places = asyncio.Semaphore(MAX_CONCURRENT)
        self._passage: Callable[[], AbstractContextManager[None]] = nullcontext

    def fenced(self, fence: Fence) -> Api:
        """The same client, each write of which has to pass the fence; raises `NotLeading` where it may not."""
        view = copy.copy(self)
        view._passage = fence.passage  # noqa: SLF001 - its own
        return view

    def apart(self) -> Api:
        """The same client with places of its own: its requests wait for nobody else's."""
        view = copy.copy(self)
        view._places = asyncio.Semaphore(APART)  # noqa: SLF001 - its own
        return view

    def count(self, asked: Callable[[str, int], None]) -> None:
        """Tell of each request from now on: its method or `WATCH`, and the status of the answer; 0: none came."""
        self._connection.asked = asked

    @property
    def host(self) -> str:
        """URL of the server, for messages."""
        return self._connection.access.host

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection."""
        await self._connection.close()

    async def get(self, path: str, *, accept: str = JSON) -> bytes:
        """Read one object, by quorum (no resourceVersion is named)."""
        return await self._request("GET", path, accept=accept)

    async def list(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        accept: str = JSON,
        seconds: float | None = None,
    ) -> bytes:
        """Read one page of a list; by quorum unless `params` has a resourceVersion."""
        return await self._request("GET", path, params=params, accept=accept, seconds=seconds)

    async def create(self, path: str, body: bytes) -> bytes:
        """POST an object. Raises `AlreadyExists`."""
        return await self._request("POST", path, body=body)

    async def replace(self, path: str, body: bytes) -> bytes:
        """PUT an object; with a resourceVersion, raises `Conflict` if it has changed since."""
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: bytes, *, kind: str = MERGE_PATCH, accept: str = JSON) -> bytes:
        """PATCH an object; uid and resourceVersion within a merge patch are its preconditions."""
        return await self._request("PATCH", path, body=body, kind=kind, accept=accept)

    async def delete(self, path: str, *, uid: str | None = None, resource_version: str | None = None) -> bytes:
        """DELETE an object; raises `Conflict` if it is not the one that was seen."""
        conditions = {"uid": uid, "resourceVersion": resource_version}
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {name: value for name, value in conditions.items() if value},
        }
        return await self._request("DELETE", path, body=msgspec.json.encode(options))

    @asynccontextmanager
    async def watch(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = JSON
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch; inside, the server has accepted it. Gives its lines, each one event.

        A line that is cut off, and silence for longer than `timeouts.idle`, are `Unavailable`.
        """
        what = f"WATCH {path}"
        with translated(what):
            async with asyncio.timeout(self.timeouts.total):
                response = await self._connection.send(
                    "GET",
                    path,
                    params={**(params or {}), "watch": "true"},
                    headers={"Accept": accept},
                    idle=self.timeouts.idle,
                )
        try:
            if response.status != HTTPStatus.OK:
                with translated(what):
                    async with asyncio.timeout(self.timeouts.total):
                        raise await _failure(response, what)
            async with aclosing(_lines(response, what)) as lines:
                yield lines
        finally:
            # Closed, not released: the rest of an endless answer is not waited for.
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = JSON,
        body: bytes | None = None,
        kind: str = JSON,
        seconds: float | None = None,
    ) -> bytes:
        what = f"{method} {path}"
        write = method != "GET"
        headers = {"Accept": accept, **tracing.headers(), **({} if body is None else {"Content-Type": kind})}
        sent = False
        try:
            with translated(what, write=write):
                async with asyncio.timeout(seconds or self.timeouts.total), self._places:
                    # Asked here and not earlier: who waited for a place may have waited for too long.
                    with self._passage() if write else nullcontext():
                        failpoints.request(method, path, "before")
                        sent = True
                        response = await self._connection.send(method, path, params=params, headers=headers, body=body)
                        async with response:
                            failpoints.request(method, path, "sent")
                            if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                                answer = await response.read()
                                failpoints.request(method, path, "answered")
                                return answer
                            raise await _failure(response, what, write=write)
        except Unavailable as error:
            if not sent:
                error.outcome_unknown = False
            raise


async def connect(kubeconfig: str | None = None, context: str | None = None) -> Api:
    """Read the configuration and give a client; nothing is asked of the server yet.

    Raises `NoClusterError`, which says what to do.
    """

    async def load() -> Access:
        return await load_access(kubeconfig, context)

    return Api(await load(), reload=load)


async def _failure(response: aiohttp.ClientResponse, what: str, *, write: bool = False) -> ApiError:
    return from_answer(
        response.status,
        await response.read(),
        what=what,
        retry_after=response.headers.get("Retry-After"),
        write=write,
    )


async def _lines(response: aiohttp.ClientResponse, what: str) -> AsyncGenerator[bytes, None]:
    """Split a stream at line ends; only what is new is searched, so a long line costs no more."""
    start: list[bytes] = []
    size = 0
    with translated(what):
        async for chunk in response.content.iter_any():
            first, *rest = chunk.split(b"\n")
            start.append(first)
            size += len(first)
            if size > MAX_LINE:
                raise Unavailable(f"{what}: a line beyond {MAX_LINE} bytes", reason=BROKEN)
            for part in rest:
                line = b"".join(start)
                start, size = [part], len(part)
                if line:
                    yield line
    if size:
        raise Unavailable(f"{what}: the last line was cut off", reason=BROKEN)
