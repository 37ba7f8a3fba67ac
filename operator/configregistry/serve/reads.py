"""One key, a whole registry, the list of a namespace: what they answer, encoded once.

Everything is answered from one snapshot, so no answer is ever a mixture of two states.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import msgspec

from configregistry.serve.encoded import Cache
from configregistry.serve.params import Params
from configregistry.serve.responses import Answer, Request, Response, not_found
from configregistry.serve.routes import Place, Route, get_data, list_data
from configregistry.serve.view import Given, View, Views, identity, not_synced, vary
from configregistry.serve.waits import Waits
from configregistry.state import Namespace, Snapshot

_NO_PARAMS: Final[frozenset[str]] = frozenset()
_READ_PARAMS: Final = frozenset({"version"})
_KEY_PARAMS: Final = frozenset({"version", "raw"})


class Reads:
    """Reads of one registry and its fallbacks."""

    def __init__(self, views: Views, cache: Cache, waits: Waits) -> None:
        self._views = views
        self._source = views.source
        self._cache = cache
        self._waits = waits

    def routes(self) -> list[Route]:
        """Give the routes."""
        registries = "/v1/namespaces/{namespace}/registries"
        return [
            Route("GET", registries, self._list, list_data),
            Route("GET", registries + "/{name}", self._waits.on(self._whole), get_data),
            Route("GET", registries + "/{name}/keys/{key*}", self._waits.on(self._key), get_data),
        ]

    def _list(self, request: Request, place: Place) -> Response:
        Params(request).allow(_NO_PARAMS)
        at = self._source.snapshot()
        registries = at.namespace(place.namespace)
        if not self._source.ready:
            raise not_synced()
        if not registries:
            detail = f"no registry in namespace {place.namespace!r}"
            raise not_found("NamespaceNotFound", detail)
        answer = self._cache.listing(place.namespace, registries) or self._cache.keep_listing(
            place.namespace, registries, Answer(_list_body(place.namespace, registries), [])
        )
        return answer.to(request)

    def _whole(self, request: Request, place: Place) -> Response:
        params = Params(request)
        if request.query:
            params.allow(_READ_PARAMS)
        return self.whole(self._source.snapshot(), place.namespace, place.name, params).to(request)

    def _key(self, request: Request, place: Place) -> Response:
        params = Params(request)
        if request.query:
            params.allow(_KEY_PARAMS)
        return self.key(self._source.snapshot(), place.namespace, place.name, place.rest[0], params).to(request)

    def key(self, at: Snapshot, namespace: str, name: str, key: str, params: Params) -> Answer:
        """Give one key: of the nearest registry of the chain that has it."""
        registry = self._views.registry(at, namespace, name)
        selector = params.version
        raw = params.flag("raw")
        given = self._views.given(namespace, registry, params, selector)
        entries = self._cache.of(registry)
        place: Hashable = (key, given.variant, raw, given.version.number)
        answer = entries.answers.get(place)
        if answer is not None:
            return answer
        value = given.version.get(key)
        if value is not None:
            headers = [*given.headers, ("vary", vary((registry,)))]
            body = value if raw else _key_body(given, key, value, registry.name)
            return entries.keep(place, Answer(body, headers))
        links: list[Given] = []
        met = [registry]
        if selector is None:
            for other in self._views.fallbacks(at, namespace, registry):
                met.append(other)
                link = self._views.link(namespace, other, params)
                if link is None:
                    continue
                links.append(link)
                value = link.version.get(key)
                if value is not None:
                    place = (key, given.variant, raw, identity(links))
                    answer = entries.answers.get(place)
                    if answer is not None:
                        return answer
                    headers = [*given.headers, ("vary", vary(met))]
                    body = value if raw else _key_body(given, key, value, other.name)
                    return entries.keep(place, Answer(body, headers))
        detail = f"{namespace}/{name} has no key {key!r}"
        raise not_found("KeyNotFound", detail, [*given.headers, ("vary", vary(met))])

    def whole(self, at: Snapshot, namespace: str, name: str, params: Params) -> Answer:
        """Give the whole of a registry: the chain merged, the nearest wins."""
        view = self._views.of(at, namespace, name, params, params.version)
        entries = self._cache.of(view.given.registry)
        place: Hashable = (None, view.identity)
        answer = entries.answers.get(place)
        if answer is not None:
            return answer
        return entries.keep(place, Answer(_whole_body(namespace, view), view.headers))


_text = msgspec.json.encode


def _key_body(given: Given, key: str, value: bytes, source: str) -> bytes:
    return b'{"key":%b,"value":%b,"version":%d,"revision":%d,"variant":%b,"source":%b}' % (
        _text(key),
        value,
        given.version.number,
        given.registry.revision,
        _text(given.variant),
        _text(source),
    )


def data_body(data: dict[str, bytes]) -> bytes:
    """Give content as one JSON object."""
    return b"{%b}" % b",".join(b"%b:%b" % (_text(key), value) for key, value in data.items())


def _whole_body(namespace: str, view: View) -> bytes:
    given = view.given
    head = _text(
        {
            "namespace": namespace,
            "registry": given.registry.name,
            "version": given.version.number,
            "hash": given.version.hash,
            "variant": given.variant,
            "revision": given.registry.revision,
        }
    )
    return b'%b,"data":%b}' % (head[:-1], data_body(view.data()))


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
