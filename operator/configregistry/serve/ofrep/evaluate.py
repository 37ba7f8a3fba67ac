"""The routes of OFREP, below each registry and at the root, and which answer is given.

Each answer is encoded once for all consumers that get the same: it depends on what a consumer gets
and on why, never on its context itself.

What is wrong with a request, and a flag that does not exist, is told as the protocol has it; whatever
is no business of the protocol (503, 401, 500) is a problem document as everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Hashable
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from configregistry.rollout.buckets import matches
from configregistry.serve.encoded import Cache
from configregistry.serve.ofrep import answers
from configregistry.serve.ofrep.context import Context, read_context
from configregistry.serve.ofrep.events import Events, behind
from configregistry.serve.responses import (
    Answer,
    Problem,
    Reply,
    Request,
    Response,
    Stream,
    bad_parameter,
    not_found,
)
from configregistry.serve.routes import Need, Place, Route, get_data, nothing
from configregistry.serve.view import Given, Views, identity
from configregistry.serve.waits import Behind, Waits

REGISTRY: Final = "/v1/namespaces/{namespace}/registries/{name}"
FLAGS: Final = "/ofrep/v1/evaluate/flags"

_REFETCH: Final = frozenset({"flagConfigEtag", "flagConfigLastModified"})
_NONE: Final[frozenset[str]] = frozenset()


class Ofrep:
    """Evaluations of flags."""

    def __init__(self, views: Views, cache: Cache, waits: Waits, events: Events) -> None:
        self._views = views
        self._source = views.source
        self._cache = cache
        self._events = events
        self._single = waits.on(self._evaluated, hold=False)
        self._bulk = waits.on(self._all_evaluated, hold=False)

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("POST", REGISTRY + FLAGS, self._bulk, get_data),
            Route("POST", REGISTRY + FLAGS + "/{key*}", self._single, get_data),
            Route("GET", REGISTRY + "/ofrep/v1/events", self._stream, get_data),
            Route("POST", FLAGS, self._bulk_of_all, nothing),
            Route("POST", FLAGS + "/{key*}", self._single_of_all, _get_named),
        ]

    # One flag.

    def _single_of_all(self, request: Request, place: Place) -> Reply | Awaitable[Reply]:
        flag = place.rest[0]
        named = _named(flag)
        if named is None:
            detail = f"expected namespace/registry/key, not {flag!r}"
            return answers.failure(not_found("KeyNotFound", detail), flag)
        namespace, name, key = named
        return self._single(request, Place(namespace, name, (key, flag)))

    def _evaluated(self, request: Request, place: Place) -> Response:
        key, flag = place.rest[0], place.rest[-1]
        try:
            _allow(request, _NONE)
            return self.single(place.namespace, place.name, key, flag, read_context(request.body)).to(request)
        except Problem as problem:
            return _failure(problem, flag)

    def single(self, namespace: str, name: str, key: str, flag: str, context: Context) -> Answer:
        """Give one flag: of the nearest registry of the chain that has the key. Raises `Problem`."""
        at = self._source.snapshot()
        registry = self._views.registry(at, namespace, name)
        first = given = self._views.given(namespace, registry, context, None)
        value = first.version.get(key)
        links: list[Given] = []
        if value is None:
            for other in self._views.fallbacks(at, namespace, registry):
                link = self._views.link(namespace, other, context)
                if link is not None:
                    links.append(link)
                    value = link.version.get(key)
                    if value is not None:
                        given = link
                        break
        if value is None:
            raise not_found("KeyNotFound", f"{namespace}/{name} has no key {key!r}", first.headers)
        why = reason(given, context)
        entries = self._cache.of(registry)
        place: Hashable = ("ofrep", flag, first.variant, why, given.variant, identity(links))
        answer = entries.answers.get(place)
        if answer is None:
            body = answers.single(f"{namespace}/{name}", flag, value, given, why)
            answer = entries.keep(place, Answer(body, first.headers))
        return answer

    # All flags of a registry.

    def _all_evaluated(self, request: Request, place: Place) -> Response:
        try:
            told = _allow(request, _REFETCH).get("flagConfigEtag", "")
            context = read_context(request.body)
            if told and behind(self._source.snapshot(), place.namespace, place.name, told):
                # Another replica's event: an older answer would last until the next change.
                raise Behind("this replica has not seen yet what an event told of")
            return self.bulk(place.namespace, place.name, context).to(request)
        except Problem as problem:
            return _failure(problem, None)

    def bulk(self, namespace: str, name: str, context: Context) -> Answer:
        """Give all flags of a registry and its fallbacks. Raises `Problem`."""
        view = self._views.of(self._source.snapshot(), namespace, name, context)
        reasons = {given.registry.name: reason(given, context) for given in (view.given, *view.links)}
        entries = self._cache.of(view.given.registry)
        place: Hashable = ("ofrep", view.identity, tuple(reasons.values()))
        answer = entries.answers.get(place)
        if answer is None:
            answer = entries.keep(place, Answer(answers.bulk(namespace, view, reasons), view.given.headers))
        return answer

    def _bulk_of_all(self, _request: Request, _place: Place) -> Response:
        detail = f"all flags are told of one registry only: POST {REGISTRY}{FLAGS}"
        return answers.failure(Problem(HTTPStatus.BAD_REQUEST, "NoRegistry", detail), None)

    # When to ask again.

    def _stream(self, request: Request, place: Place) -> Stream:
        for name in _allow(request, _NONE):
            raise bad_parameter(name, "unknown parameter")
        return self._events.stream(place.namespace, place.name, request.header("last-event-id"))


def reason(given: Given, context: Context) -> str:
    """Say what decided that this consumer gets this: nothing, a share of all targets, or a rule."""
    canary = given.registry.canary
    if canary is None:
        return answers.STATIC
    if given.variant == "canary":
        return answers.TARGETING_MATCH if matches(canary, context) else answers.SPLIT
    return answers.SPLIT if context.target and canary.weight else answers.STATIC


def _get_named(_: Request, place: Place) -> tuple[Need, ...]:
    """Read the registry that the flag's key names."""
    named = _named(place.rest[0])
    return () if named is None else (Need("get", "data", named[0], named[1]),)


def _named(flag: str) -> tuple[str, str, str] | None:
    namespace, _, rest = flag.partition("/")
    name, _, key = rest.partition("/")
    return (namespace, name, key) if namespace and name and key else None


def _allow(request: Request, names: frozenset[str]) -> dict[str, str]:
    """Give the query's parameters. Who asks is said by the context, so `?target=` is refused too."""
    if not request.query:
        return {}
    values = dict(parse_qsl(request.query, keep_blank_values=True))
    for name in values:
        if name not in names:
            raise bad_parameter(name, "unknown parameter; who asks is told in the body's context")
    return values


def _failure(problem: Problem, flag: str | None) -> Response:
    if problem.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
        return answers.failure(problem, flag)
    raise problem
