"""What is recorded of one registry: the list of its versions, the content of one, what differs between two.

For people and their tools: nothing here depends on who asks, and fallbacks are not looked at, because a version is
of one registry alone.

It must never take part in choosing what consumers get.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import msgspec

from configregistry.serve.contents import Recorded
from configregistry.serve.encoded import Cache
from configregistry.serve.params import Params, read_selector
from configregistry.serve.reads import data_body
from configregistry.serve.responses import REVISION_HEADER, VERSION_HEADER, Answer, Headers, Request, Response
from configregistry.serve.routes import Place, Route, get_data
from configregistry.serve.view import Given, Views
from configregistry.serve.waits import Waits
from configregistry.state import Change, Registry

_NO_PARAMS: Final[frozenset[str]] = frozenset()


class Versions:
    """History of one registry."""

    def __init__(self, views: Views, cache: Cache, waits: Waits) -> None:
        self._views = views
        self._source = views.source
        self._cache = cache
        self._waits = waits

    def routes(self) -> list[Route]:
        """Give the routes."""
        path = "/v1/namespaces/{namespace}/registries/{name}/versions"
        waits = self._waits
        return [
            Route("GET", path, waits.on(self._list, hold=False), get_data),
            Route("GET", path + "/{version}", waits.on(self._one, hold=False), get_data),
            Route("GET", path + "/{from}/diff/{to}", waits.on(self._diff, hold=False), get_data),
        ]

    def _list(self, request: Request, place: Place) -> Response:
        Params(request).allow(_NO_PARAMS)
        registry = self._registry(place)
        # Not kept: a version is recorded, or pruned, without a publication of the registry.
        recorded = self._source.recorded(place.namespace, registry)
        return Answer(_list_body(place.namespace, registry, recorded), _headers(registry)).to(request)

    def _one(self, request: Request, place: Place) -> Response:
        Params(request).allow(_NO_PARAMS)
        registry = self._registry(place)
        given = self._version(place.namespace, registry, place.rest[0])
        entries = self._cache.of(registry)
        version = given.version
        kept: Hashable = (Versions, version.number, version.hash)
        answer = entries.answers.get(kept)
        if answer is None:
            head = _text({**_about(place.namespace, registry), "version": version.number, "hash": version.hash})
            body = b'%b,"data":%b}' % (head[:-1], data_body(version.content()))
            answer = entries.keep(kept, Answer(body, given.headers))
        return answer.to(request)

    def _diff(self, request: Request, place: Place) -> Response:
        Params(request).allow(_NO_PARAMS)
        registry = self._registry(place)
        before, after = (self._version(place.namespace, registry, text) for text in place.rest)
        ends = {
            "from": before.version.number,
            "to": after.version.number,
            "fromHash": before.version.hash,
            "toHash": after.version.hash,
        }
        entries = self._cache.of(registry)
        kept: Hashable = (Versions, *ends.values())
        answer = entries.answers.get(kept)
        if answer is None:
            head = _text({**_about(place.namespace, registry), **ends})
            changes = registry.diff(before.version, after.version)
            body = b'%b,"changes":[%b]}' % (head[:-1], b",".join(map(change_body, changes)))
            answer = entries.keep(kept, Answer(body, after.headers))
        return answer.to(request)

    def _registry(self, place: Place) -> Registry:
        return self._views.registry(self._source.snapshot(), place.namespace, place.name)

    def _version(self, namespace: str, registry: Registry, text: str) -> Given:
        return self._views.selected(namespace, registry, read_selector(text))


_text = msgspec.json.encode


def change_body(change: Change) -> bytes:
    """Give one key's change as RFC 6902 says it, with the value that was there before."""
    key, old, new = change
    path = _text("/" + key.replace("~", "~0").replace("/", "~1"))
    if old is None:
        return b'{"op":"add","path":%b,"new":%b}' % (path, new or b"null")
    if new is None:
        return b'{"op":"remove","path":%b,"old":%b}' % (path, old)
    return b'{"op":"replace","path":%b,"old":%b,"new":%b}' % (path, old, new)


def _about(namespace: str, registry: Registry) -> dict[str, Any]:
    return {"namespace": namespace, "registry": registry.name}


def _headers(registry: Registry) -> Headers:
    headers = [(REVISION_HEADER, str(registry.revision))]
    return headers if registry.stable is None else [(VERSION_HEADER, str(registry.stable.number)), *headers]


def _list_body(namespace: str, registry: Registry, recorded: list[Recorded]) -> bytes:
    states = {}
    if registry.stable is not None:
        states[registry.stable.number] = "stable"
    if registry.canary is not None:
        states[registry.canary.version.number] = "canary"
    return _text(
        {
            **_about(namespace, registry),
            "revision": registry.revision,
            "versions": [
                {
                    "version": each.number,
                    "hash": each.hash,
                    "state": states.get(each.number, "recorded"),
                    "keys": each.keys,
                    "parent": each.parent,
                    "createdAt": each.created or None,
                }
                for each in recorded
            ],
        }
    )
