"""The two ways to watch, as routes; and what one client may ask for.

Nothing here may know what is sent.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from configregistry.kube.objects import Key
from configregistry.serve.params import Params
from configregistry.serve.responses import (
    REVISION_HEADER,
    Headers,
    Reply,
    Request,
    Response,
    Sink,
    Stream,
    bad_parameter,
    unavailable,
)
from configregistry.serve.routes import Need, Place, Route, get_data
from configregistry.serve.view import not_synced
from configregistry.serve.watch.cursor import MAX_CURSOR, Position, decode, mark
from configregistry.serve.watch.watcher import Watcher
from configregistry.serve.watch.watches import Watches

MAX_REGISTRIES: Final = 100
MAX_STREAMS: Final = 20_000
_SINCE: Final = "since"
_REGISTRY: Final = "registry"
_HEADERS: Final = [
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),
]


class WatchRoutes:
    """Streams of one registry and of many."""

    def __init__(self, watches: Watches, *, max_streams: int = MAX_STREAMS) -> None:
        self._watches = watches
        self._max_streams = max_streams

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("GET", "/v1/namespaces/{namespace}/registries/{name}/watch", self._one, get_data),
            Route("GET", "/v1/watch", self._many, _get_each),
        ]

    def _one(self, request: Request, place: Place) -> Reply:
        params = Params(request)
        params.allow((_SINCE,))
        return self._stream(request, params, ((place.namespace, place.name),))

    def _many(self, request: Request, _: Place) -> Reply:
        params = Params(request, repeated=(_REGISTRY,))
        params.allow((_SINCE,))
        return self._stream(request, params, _keys(params))

    def _stream(self, request: Request, params: Params, keys: tuple[Key, ...]) -> Reply:
        watches = self._watches
        if not watches.ready:
            raise not_synced()
        if watches.streams >= self._max_streams:
            raise unavailable("TooManyStreams", f"this replica has {self._max_streams} streams, which is all it takes")
        # An EventSource comes back with the same URL, so what it has seen since is in the header.
        cursor = request.header("last-event-id") or params.text(_SINCE, MAX_CURSOR)
        positions = decode(cursor, keys)
        headers: Headers = [*_HEADERS, *_revision(watches, keys, positions)]
        if request.method == "HEAD":
            return Response(HTTPStatus.OK, headers, b"")

        def begin(sink: Sink) -> Watcher:
            return watches.open(sink, params, keys, positions)

        return Stream(HTTPStatus.OK, headers, begin)


def _keys(params: Params) -> tuple[Key, ...]:
    """Read which registries are to be watched. Raises `Problem`."""
    named = dict.fromkeys(params.every(_REGISTRY))  # twice the same is once
    if not 0 < len(named) <= MAX_REGISTRIES:
        raise bad_parameter(_REGISTRY, f"expected 1 to {MAX_REGISTRIES} of them, got {len(named)}")
    keys = []
    for text in named:
        namespace, _, name = text.partition("/")
        if not namespace or not name or "/" in name:
            raise bad_parameter(_REGISTRY, f"expected namespace/name, got {text[:128]!r}")
        keys.append((namespace, name))
    return tuple(keys)


def _get_each(request: Request, _: Place) -> tuple[Need, ...]:
    """Read each of them: a stream is allowed as a whole or not at all."""
    keys = _keys(Params(request, repeated=(_REGISTRY,)))
    return tuple(Need("get", "data", *key) for key in keys)


def _revision(watches: Watches, keys: tuple[Key, ...], positions: tuple[Position, ...]) -> Headers:
    """Say where a stream of one registry begins, which may be where only its client has been yet."""
    registry = watches.snapshot().registry(*keys[0]) if len(keys) == 1 else None
    if registry is None:
        return []
    link = positions[0][0] if positions[0] else None
    seen = link.revision if link is not None and link.uid == mark(registry.uid) else 0
    return [(REVISION_HEADER, str(max(registry.revision, seen)))]
