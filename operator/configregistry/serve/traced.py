"""Requests of clients that trace: a span for each, under the context that it brought.

Wrapped around the application only where there is a collector, and looks at one header; a request without a sampled
`traceparent` is handed on as it is, so that ordinary reads make no spans. It must never change a request or a reply.
"""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final

import msgspec

from configregistry.serve.responses import REVISION_HEADER, VERSION_HEADER, Handle, Reply, Request, Response, Stream
from configregistry.telemetry import tracing

_CONSUMERS: Final = "/consumers/"
_WATCH: Final = "/watch"
_PREFIX: Final = "/v1/namespaces/"


class TracedApp:
    """An application, and spans of some of what it is asked."""

    def __init__(self, app: Handle) -> None:
        self._app = app

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer, as soon as the application does."""
        said = request.header(tracing.HEADER)
        if said is None:
            return self._app(request)
        parent = tracing.parse(said)
        if parent is None or not parent.sampled:
            return self._app(request)
        began = tracing.now()
        with tracing.joined(said):
            reply = self._app(request)
        if isinstance(reply, Response | Stream):
            _tell(request, said, began, reply)
            return reply
        return self._later(request, said, began, reply)

    async def _later(self, request: Request, said: str, began: int, reply: Awaitable[Reply]) -> Reply:
        found: Reply | None = None
        try:
            found = await reply
            return found
        finally:
            _tell(request, said, began, found)


class _Observed(msgspec.Struct):
    version: int | float = 0
    status: str = ""


class _Heartbeat(msgspec.Struct):
    observed: _Observed | None = None


_HEARTBEAT: Final = msgspec.json.Decoder(_Heartbeat)


def _tell(request: Request, parent: str, began: int, reply: Reply | None) -> None:
    """A request is over; without a reply its client went away."""
    name, about = _about(request)
    failure = "the client went away"
    if reply is not None:
        failure = f"status {reply.status}" if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR else ""
        about["status"] = reply.status
        for header, value in reply.headers:
            if header in (VERSION_HEADER, REVISION_HEADER):
                about.setdefault(header.rpartition("-")[2], value)
    tracing.past(name, began, tracing.now(), parent, failure, **about)


def _about(request: Request) -> tuple[str, dict[str, tracing.Value]]:
    """What a request is called, and whom it is about."""
    about: dict[str, tracing.Value] = {"method": request.method}
    if request.path.startswith(_PREFIX):
        namespace, _, rest = request.path.removeprefix(_PREFIX).partition("/")
        registry = rest.removeprefix("registries/").partition("/")[0] if rest.startswith("registries/") else ""
        about |= {"namespace": namespace, **({"registry": registry} if registry else {})}
    if request.method == "PUT" and _CONSUMERS in request.path:
        about["consumer"] = request.path.partition(_CONSUMERS)[2]
        observed = _observed(request.body)
        if observed is not None:
            about |= {"version": int(observed.version), "verdict": observed.status}
        return "acknowledge", about
    return ("watch" if request.path.endswith(_WATCH) else "read"), about


def _observed(body: bytes) -> _Observed | None:
    """What a consumer says that it runs with; a body that says nothing readable has been answered as such."""
    try:
        return _HEARTBEAT.decode(body).observed
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
