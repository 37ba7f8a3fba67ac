"""The routes: heartbeats, who is there, the leader's exchange and what it waits for between two of them.

Writes need `update configregistries/consumers` of that registry, reads and streams `get` of it. The
exchange changes what every registry's readers see, so it needs `update
configregistries/consumers-exchange` of all namespaces, which only the controller's role has.

It must never answer from a roster whose registry is not published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import msgspec
import zstandard

from configregistry.model.reports import (
    EXCHANGE_EVERY,
    EXCHANGE_PATH,
    NEWS_PATH,
    Counted,
    Gone,
    ReplicaReports,
    Report,
)
from configregistry.serve.consumers import encoded
from configregistry.serve.consumers.events import Streams
from configregistry.serve.consumers.heartbeat import MAX_INSTANCE, checked_id, owner, read_heartbeat
from configregistry.serve.consumers.known import Consumers
from configregistry.serve.consumers.roster import Roster
from configregistry.serve.params import Params
from configregistry.serve.responses import (
    JSON,
    REVISION_HEADER,
    VERSION_HEADER,
    Headers,
    Reply,
    Request,
    Response,
    bad_parameter,
    not_found,
)
from configregistry.serve.routes import Need, Place, Route
from configregistry.serve.view import Views
from configregistry.state import Registry

MAX_PACKED: Final = 8 * 1024 * 1024
"""Bytes that a leader may send: some 22 a consumer."""
MAX_EXCHANGE: Final = 128 * 1024 * 1024
"""Bytes of an exchange's body once it is unpacked: some 350,000 consumers."""
SLICE: Final = 250
"""Consumers of a list that are taken in one turn of the event loop, about 0.6 ms: reads go on in between."""

MAX_HELD: Final = 5 * EXCHANGE_EVERY
"""Seconds that a leader may wait for news."""

_NONE: Final[frozenset[str]] = frozenset()
_INSTANCE: Final = frozenset({"instance"})
_NEWS: Final = frozenset({"replica", "known", "seconds"})
_ASKS_EVENTS: Final = "text/event-stream"


class _Lists(msgspec.Struct):
    """An `Exchange` whose consumers are still bytes: its shape is told by `model.reports`."""

    merged: list[msgspec.Raw] | None = None
    gone: list[msgspec.Raw] = []
    age: float = 0.0
    reads: bool = False


_lists = msgspec.json.Decoder(_Lists)
_reports = msgspec.json.Decoder(list[Report])
_gone = msgspec.json.Decoder(list[Gone])


def update_consumers(_: Request, place: Place) -> tuple[Need, ...]:
    """Register, heartbeat, unregister."""
    return (Need("update", "consumers", place.namespace, place.name),)


def get_consumers(_: Request, place: Place) -> tuple[Need, ...]:
    """See who is there."""
    return (Need("get", "consumers", place.namespace, place.name),)


def exchange_consumers(_: Request, __: Place) -> tuple[Need, ...]:
    """Tell a replica what others heard."""
    return (Need("update", "consumers-exchange", "", ""),)


class Room:
    """Consumers over HTTP."""

    def __init__(self, consumers: Consumers, views: Views) -> None:
        self._consumers = consumers
        self._views = views
        self._lists = encoded.Lists()
        self.streams = Streams(consumers, self._lists)

    def routes(self) -> list[Route]:
        """Give the routes."""
        consumers = "/v1/namespaces/{namespace}/registries/{name}/consumers"
        one = consumers + "/{consumer*}"
        return [
            Route("GET", consumers, self._list, get_consumers),
            Route("GET", one, self._one, get_consumers),
            Route("PUT", one, self._beat, update_consumers),
            Route("DELETE", one, self._end, update_consumers),
            Route("POST", EXCHANGE_PATH, self._exchange, exchange_consumers, MAX_PACKED),
            Route("GET", NEWS_PATH, self._news, exchange_consumers),
        ]

    def _list(self, request: Request, place: Place) -> Reply:
        Params(request).allow(_NONE)
        registry, roster = self._roster(place)
        if _asks_events(request):
            return self.streams.stream(roster, _headers(registry))
        consumers = self._consumers
        etag = self._lists.etag(roster)
        headers = [("etag", etag), ("cache-control", "no-cache"), ("vary", "accept"), *_headers(registry)]
        if _has(request, etag):
            return Response(HTTPStatus.NOT_MODIFIED, headers, b"")
        body = self._lists.body(roster, consumers.now(), consumers.list_age)
        return Response(HTTPStatus.OK, [("content-type", JSON), *headers], body)

    def _one(self, request: Request, place: Place) -> Response:
        Params(request).allow(_NONE)
        registry, roster = self._roster(place)
        name = checked_id(place.rest[0])
        entry = roster.entries.get(name)
        if entry is None:
            detail = f"{place.namespace}/{place.name} has no consumer {name!r}"
            raise not_found("ConsumerNotFound", detail, _headers(registry))
        etag = encoded.etag(encoded.said(entry))
        headers = [("etag", etag), ("cache-control", "no-cache"), *_headers(registry)]
        if _has(request, etag):
            return Response(HTTPStatus.NOT_MODIFIED, headers, b"")
        body = encoded.one(entry, self._consumers.now())
        return Response(HTTPStatus.OK, [("content-type", JSON), *headers], body)

    def _beat(self, request: Request, place: Place) -> Response:
        Params(request).allow(_NONE)
        registry, roster = self._roster(place)
        name = checked_id(place.rest[0])
        said = read_heartbeat(request.body)
        entry, new = self._consumers.beat(roster, name, said, owner(request.user, said.instance))
        headers = [("content-type", JSON), ("cache-control", "no-cache"), *_headers(registry)]
        status = HTTPStatus.CREATED if new else HTTPStatus.OK
        return Response(status, headers, encoded.one(entry, self._consumers.now()))

    def _end(self, request: Request, place: Place) -> Response:
        """204 whether or not it was known: it may be known to another replica, and is gone there too."""
        params = Params(request)
        params.allow(_INSTANCE)
        registry, roster = self._roster(place)
        name = checked_id(place.rest[0])
        instance = params.text("instance", MAX_INSTANCE) or ""
        roster.end(name, owner(request.user, instance), self._consumers.now())
        return Response(HTTPStatus.NO_CONTENT, _headers(registry), b"")

    async def _exchange(self, request: Request, _: Place) -> Response:
        Params(request).allow(_NONE)
        try:
            lists = _lists.decode(_unpacked(request))
            if lists.merged is not None:
                taking = self._consumers.taking(lists.age)
                for slice_ in _sliced(lists.merged):
                    taking.take(_reports.decode(slice_))
                    await asyncio.sleep(0)
                for slice_ in _sliced(lists.gone):
                    taking.take_gone(_gone.decode(slice_))
                    await asyncio.sleep(0)
                taking.end()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_parameter("body", f"expected a leader's list ({error})") from None
        answer: ReplicaReports = self._consumers.stated(heard=lists.merged is None, reads=lists.reads)
        return Response(HTTPStatus.OK, _PRIVATE, _encode(answer))

    async def _news(self, request: Request, _: Place) -> Response:
        """Wait for an error that is new. A leader that speaks of another process's count is answered at once."""
        params = Params(request)
        params.allow(_NEWS)
        known = _number(params, "known", 0.0, _MAX_COUNT)
        seconds = _number(params, "seconds", 0.0, MAX_HELD)
        consumers = self._consumers
        if params.text("replica", MAX_INSTANCE) == consumers.replica:
            await consumers.newer(int(known), seconds)
        return Response(HTTPStatus.OK, _PRIVATE, _encode(Counted(consumers.replica, consumers.news.count)))

    def _roster(self, place: Place) -> tuple[Registry, Roster]:
        registry = self._views.registry(self._views.source.snapshot(), place.namespace, place.name)
        return registry, self._consumers.roster(place.namespace, registry)


_encode = msgspec.json.encode
_PRIVATE: Final = [("content-type", JSON), ("cache-control", "no-store")]
_MAX_COUNT: Final = 2.0**53


def _number(params: Params, name: str, least: float, most: float) -> float:
    """Give a parameter that must be there. Raises `Problem`."""
    text = params.text(name, MAX_INSTANCE) or ""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:  # nor a NaN
        raise bad_parameter(name, f"expected a number from {least:g} to {most:g}, got {text!r}")
    return number


def _sliced(items: list[msgspec.Raw]) -> Iterator[bytes]:
    """Give a list in parts, each a JSON array."""
    for start in range(0, len(items), SLICE):
        yield b"[%b]" % b",".join(items[start : start + SLICE])


def _unpacked(request: Request) -> bytes:
    """Give the body of an exchange, which leaders pack: reports are much alike."""
    coding = request.header("content-encoding")
    if coding is None:
        return request.body
    if coding != "zstd":
        raise bad_parameter("content-encoding", f"expected zstd or none, got {coding!r}")
    try:
        with zstandard.ZstdDecompressor().stream_reader(request.body) as reader:
            body = reader.read(MAX_EXCHANGE + 1)
    except zstandard.ZstdError as error:
        raise bad_parameter("body", f"expected zstd ({error})") from None
    if len(body) > MAX_EXCHANGE:
        raise bad_parameter("body", f"expected at most {MAX_EXCHANGE} bytes once it is unpacked")
    return body


def _asks_events(request: Request) -> bool:
    """Whether this is an EventSource: it accepts nothing else. Quality values are not weighed."""
    accept = request.header("accept")
    return accept is not None and _ASKS_EVENTS in accept.lower()


def _has(request: Request, etag: str) -> bool:
    known = request.header("if-none-match")
    return known is not None and (known.strip() == "*" or etag.removeprefix("W/") in known)


def _headers(registry: Registry) -> Headers:
    headers = [(REVISION_HEADER, str(registry.revision))]
    return headers if registry.stable is None else [(VERSION_HEADER, str(registry.stable.number)), *headers]
