"""Every request goes through here: its route, who may use it, what holds for each answer.

So that it is written once: a client is known and allowed before anything is looked at, an answer is
counted, says how stale it is, and an unforeseen error is a problem document too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, Protocol

from configregistry.serve.responses import STALE_HEADER, Problem, Reply, Request, Response, Stream, defect
from configregistry.serve.routes import Need, Place, Route, Routes
from configregistry.telemetry.metrics import Metrics

STALE_AFTER: Final = 5.0
"""Seconds after which each answer says how stale it may be. A reflector is not stale at all while
its watch is open, so less than this is a watch that is being opened again; more is an outage."""

Staleness = Callable[[], float]
"""Gives the seconds since what is in memory was last known to be true; 0 while watches are open."""


class Guard(Protocol):
    """Knows who a client is and what it may do."""

    def check(self, request: Request, needs: tuple[Need, ...]) -> str | Awaitable[str]:
        """Give the user, at once where that is known. Raises `Problem` (401, 403, 503)."""
        ...


class Streams(Protocol):
    """Looks again at who was let in for a stream."""

    def over(self, stream: Stream, request: Request, needs: tuple[Need, ...]) -> Stream:
        """Give the same stream, looked at."""
        ...


class App:
    """Answers a request: the handler that a server is given."""

    def __init__(
        self,
        routes: Routes,
        metrics: Metrics,
        staleness: Staleness,
        *,
        guard: Guard | None = None,
        streams: Streams | None = None,
        stale_after: float = STALE_AFTER,
    ) -> None:
        self._find = routes.find
        self._metrics = metrics
        self._staleness = staleness
        self._guard = guard
        self._streams = streams
        self._stale_after = stale_after
        self._asking: set[asyncio.Future[str]] = set()

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer, at once where nothing has to be waited for; never raises."""
        started = perf_counter()
        try:
            route, place = self._find(request)
            if self._guard is None:
                reply = route.handle(request, place)
            else:
                needs = route.needs(request, place)
                user = self._guard.check(request, needs)
                if not isinstance(user, str):
                    return self._when_allowed(request, route, place, needs, user)
                reply = self._handled(request, route, place, needs, user)
        except Exception as error:  # noqa: BLE001 - the client gets an answer whatever happened
            reply = _failed(request, error)
        if isinstance(reply, Response | Stream):
            return self._told(reply, started)
        return self._later(request, reply)

    def admit(self, request: Request) -> int:
        """Say how many bytes a request may bring: more than others' only for whoever is known to be let in."""
        try:
            route, place = self._find(request)
            if route.body_bytes and self._guard is not None:
                known = self._guard.check(request, route.needs(request, place))
                if not isinstance(known, str):
                    self._get_to_know(known)
                    return 0
        except Problem:
            return 0
        return route.body_bytes

    def _get_to_know(self, user: Awaitable[str]) -> None:
        """Find out who it is all the same: whoever is refused more for this reason alone may try again."""
        task = asyncio.ensure_future(user)
        self._asking.add(task)
        task.add_done_callback(self._known)

    def _known(self, task: asyncio.Future[str]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()

    def _handled(
        self, request: Request, route: Route, place: Place, needs: tuple[Need, ...], user: str
    ) -> Reply | Awaitable[Reply]:
        """Answer somebody who was let in."""
        # What _replace does, at a tenth of its cost; this is on the way of every read.
        reply = route.handle(tuple.__new__(Request, (*request[:-1], user)), place)
        if isinstance(reply, Stream) and self._streams is not None:
            return self._streams.over(reply, request, needs)
        return reply

    async def _when_allowed(
        self, request: Request, route: Route, place: Place, needs: tuple[Need, ...], user: Awaitable[str]
    ) -> Reply:
        try:
            reply = self._handled(request, route, place, needs, await user)
            found = reply if isinstance(reply, Response | Stream) else await reply
        except Exception as error:  # noqa: BLE001 - see above
            found = _failed(request, error)
        return self._told(found, None)

    async def _later(self, request: Request, reply: Awaitable[Reply]) -> Reply:
        try:
            found = await reply
        except Exception as error:  # noqa: BLE001 - see above
            found = _failed(request, error)
        # What was held was held on purpose: it says nothing about how quick this process is.
        return self._told(found, None)

    def _told(self, reply: Reply, started: float | None) -> Reply:
        stale = self._staleness()
        if stale > self._stale_after:
            told = (STALE_HEADER, str(int(stale)))
            reply = reply._replace(headers=[*reply.headers, told])
            self._metrics.stale_reads.inc()
        self._metrics.read(reply.status, None if started is None else perf_counter() - started)
        return reply


def _failed(request: Request, error: Exception) -> Response:
    return error.to(request) if isinstance(error, Problem) else defect(request, error)
