"""Which path is answered by what. Pure: a request and the published state in, a response out.

A route is a handler in a table, found by the place in the path; what comes later (history, watches,
consumers, OFREP) adds lines to the tables and changes nothing else.

Nothing here may wait, and nothing may look at a second snapshot within one request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from configregistry.serve.encoded import Cache
from configregistry.serve.params import Params
from configregistry.serve.reads import Reads, Source, not_synced
from configregistry.serve.responses import Answer, Problem, Request, Response, not_found
from configregistry.state import Namespace

ALLOWED: Final = ("GET", "HEAD")
MAX_KNOWN_PATHS: Final = 4096
MAX_KNOWN_PATH: Final = 512
_READ_PARAMS: Final = frozenset({"version"})
_KEY_PARAMS: Final = frozenset({"version", "raw"})
_NO_PARAMS: Final[frozenset[str]] = frozenset()


class Place(NamedTuple):
    """Where in the tree a path points: parts that it lacks are empty."""

    namespace: str
    name: str
    rest: str
    """What follows the registry's kind of route: a key, which may contain slashes."""


Handler = Callable[["Routes", Request, Place], Answer]


class Routes:
    """Answers requests from what `source` has published."""

    def __init__(self, source: Source, cache: Cache | None = None) -> None:
        self._source = source
        self._cache = cache or Cache()
        self._reads = Reads(source, self._cache)
        self._found: dict[str, tuple[Handler, Place]] = {}

    def handle(self, request: Request) -> Response:
        """Answer one request, errors included."""
        try:
            found = self._found.get(request.path)
            if found is None:
                found = self._find(request.path)
            handler, place = found
            if request.method not in ALLOWED:
                raise _not_allowed(request.method)
            return handler(self, request, place).to(request)
        except Problem as problem:
            return problem.to(request)

    def _find(self, path: str) -> tuple[Handler, Place]:
        """Take a path apart, once for each that is asked for often."""
        found = _match(path)
        if found is None:
            raise not_found("NotFound", f"nothing is served at {path}")
        if len(path) <= MAX_KNOWN_PATH:
            if len(self._found) >= MAX_KNOWN_PATHS:
                self._found.clear()
            self._found[path] = found
        return found

    def list(self, request: Request, place: Place) -> Answer:
        """Give the registries of a namespace and what each gives."""
        Params(request).allow(_NO_PARAMS)
        at = self._source.snapshot()
        registries = at.namespace(place.namespace)
        if not self._source.ready:
            raise not_synced()
        if not registries:
            detail = f"no registry in namespace {place.namespace!r}"
            raise not_found("NamespaceNotFound", detail)
        return self._cache.listing(place.namespace, registries) or self._cache.keep_listing(
            place.namespace, registries, Answer(_list_body(place.namespace, registries), [])
        )

    def whole(self, request: Request, place: Place) -> Answer:
        """Give a registry with all its data."""
        params = Params(request)
        if request.query:
            params.allow(_READ_PARAMS)
        return self._reads.whole(self._source.snapshot(), place.namespace, place.name, params)

    def key(self, request: Request, place: Place) -> Answer:
        """Give one key."""
        params = Params(request)
        if request.query:
            params.allow(_KEY_PARAMS)
        at = self._source.snapshot()
        return self._reads.key(at, place.namespace, place.name, place.rest, params)


_OF_KIND: Final[Mapping[str, Handler]] = MappingProxyType({"keys": Routes.key})
"""`…/registries/{name}/{kind}/{rest}`."""


def _match(path: str) -> tuple[Handler, Place] | None:
    # ["", v1, namespaces, NS, registries, NAME, KIND, everything behind]
    match path.split("/", 7):
        case ["", "v1", "namespaces", namespace, "registries", name, kind, rest]:
            if namespace and name and rest and kind in _OF_KIND:
                return _OF_KIND[kind], Place(namespace, name, rest)
        case ["", "v1", "namespaces", namespace, "registries", name]:
            if namespace and name:
                return Routes.whole, Place(namespace, name, "")
        case ["", "v1", "namespaces", namespace, "registries"]:
            if namespace:
                return Routes.list, Place(namespace, "", "")
    return None


def _not_allowed(method: str) -> Problem:
    allowed = ", ".join(ALLOWED)
    return Problem(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        f"{method} is not possible here, only {allowed}",
        headers=[("allow", allowed)],
    )


def _list_body(namespace: str, registries: Namespace) -> bytes:
    return msgspec.json.encode(
        {
            "namespace": namespace,
            "registries": [
                {
                    "name": registry.name,
                    "stable": registry.stable.number if registry.stable is not None else None,
                    "canary": registry.canary.version.number if registry.canary else None,
                    "weight": registry.canary.weight if registry.canary else None,
                    "revision": registry.revision,
                }
                for _name, registry in sorted(registries.items())
            ],
        }
    )
