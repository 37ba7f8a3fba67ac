"""Puts serving together: what is published, the routes over it, the listener, what is counted.

The one function that every read goes through is here, so that what holds for each answer (it is
counted, it says how stale it is, an unforeseen error is a problem document too) is written once.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from time import perf_counter
from typing import Final

import structlog

from configregistry.serve.responses import STALE_HEADER, Problem, Request, Response
from configregistry.serve.routes import Routes
from configregistry.telemetry.metrics import Metrics

STALE_AFTER: Final = 5.0
"""Seconds after which each answer says how stale it may be. A reflector is not stale at all while
its watch is open, so less than this is a watch that is being opened again; more is an outage."""

Staleness = Callable[[], float]
"""Gives the seconds since what is in memory was last known to be true; 0 while watches are open."""

_log = structlog.get_logger(__name__)


class ReadApp:
    """Answers a request whole: the handler that a server is given."""

    def __init__(
        self,
        routes: Routes,
        metrics: Metrics,
        staleness: Staleness,
        *,
        stale_after: float = STALE_AFTER,
    ) -> None:
        self._handle = routes.handle
        self._metrics = metrics
        self._staleness = staleness
        self._stale_after = stale_after

    def __call__(self, request: Request) -> Response:
        """Answer; never raises."""
        started = perf_counter()
        try:
            response = self._handle(request)
        except Exception:  # noqa: BLE001 - the client gets an answer whatever happened
            _log.exception("a request could not be answered", path=request.path)
            detail = "this request met a defect; it has been logged"
            response = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal", detail).to(request)
        stale = self._staleness()
        if stale > self._stale_after:
            told = (STALE_HEADER, str(int(stale)))
            response = response._replace(headers=[*response.headers, told])
            self._metrics.stale_reads.inc()
        self._metrics.read(response.status, perf_counter() - started)
        return response
