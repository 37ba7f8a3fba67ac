"""Each route: what it does, takes and answers, with examples."""

from __future__ import annotations

from typing import Any, Final

from configregistry.serve.openapi.ofrep import PATHS as OFREP
from configregistry.serve.openapi.parts import found, json, parameter, parameters, problems
from configregistry.serve.openapi.schemas import HASH, Json, ref

_REGISTRIES: Final = "/v1/namespaces/{namespace}/registries"
_REGISTRY: Final = _REGISTRIES + "/{name}"
_CONSUMER: Final = ("target", "targetHeader", "attribute")
_HERE: Final = parameters("namespace", "name")
_CONDITIONAL: Final = ("ifNoneMatch",)
_REVISION: Final = ("minRevision", "revisionHeader")
_WAITING: Final = ("wait", *_REVISION)

_KEY: Final = {"type": "string", "maxLength": 253}
_PLACE: Final = {"namespace": "shop", "registry": "checkout"}
_VERSION: Final = {**_PLACE, "version": 7, "hash": HASH, "variant": "stable", "revision": 31}
_DATA: Final = {"timeout.ms": 2500, "feature.new-basket": True}
_CHANGE: Final = {"op": "replace", "path": "/timeout.ms", "old": 2000, "new": 2500}
_CONSUMER_EXAMPLE: Final = {
    "id": "pod-7",
    "ttlSeconds": 30,
    "ageSeconds": 4.2,
    "registeredAgeSeconds": 64.2,
    "observed": {"version": 7, "status": "ok"},
}


def _operation(name: str, tag: str, summary: str, answers: Json, text: str = "", **rest: Any) -> Json:
    made: Json = {"operationId": name, "tags": [tag], "summary": summary}
    if text:
        made["description"] = text
    return {**made, **rest, "responses": answers}


def _body(schema: str, example: Any) -> Json:
    return {"required": True, "content": {"application/json": {"schema": ref(schema), "example": example}}}


def _events(text: str) -> Json:
    return {"200": {"description": text, "content": {"text/event-stream": {"schema": {"type": "string"}}}}}


_SINCE: Final = [
    parameter("since", "A cursor (an event's `id`): go on right behind it.", {"type": "string", "maxLength": 8192}),
    parameter("Last-Event-ID", "The same, as browsers send it; it wins.", {"type": "string"}, place="header"),
]
_WATCH_TEXT: Final = """Server-Sent Events: `snapshot` (the whole data), `delta` (changes between two versions),
`progress` (every 15 s and when only the revision moved), `deleted`. Each `id` is an opaque cursor: with it, in any
replica, a client goes on without a loss or a repeat; one that is too old or of another registry's life gets a
`snapshot`. A registry that does not exist yet may be watched. A slow reader is cut off."""


PATHS: Final[Json] = {
    _REGISTRIES: {
        "get": _operation(
            "listRegistries",
            "reads",
            "The registries of a namespace, and what each gives",
            {
                **found(
                    "RegistryList",
                    {
                        "namespace": "shop",
                        "registries": [{"name": "checkout", "stable": 7, "canary": 8, "weight": 50, "revision": 31}],
                    },
                ),
                **problems(400, 404, 503),
            },
            parameters=parameters("namespace", *_CONDITIONAL),
        )
    },
    _REGISTRY: {
        "get": _operation(
            "readRegistry",
            "reads",
            "All that a consumer gets: the fallback chain merged, the nearest wins",
            {**found("Registry", {**_VERSION, "data": _DATA}), **problems(400, 404, 503)},
            parameters=[*_HERE, *parameters(*_CONSUMER, "selector", *_CONDITIONAL, *_WAITING)],
        )
    },
    _REGISTRY + "/keys/{key}": {
        "get": _operation(
            "readKey",
            "reads",
            "One key, of the nearest registry of the chain that has it",
            {
                **found(
                    "KeyOrValue",
                    {
                        "key": "timeout.ms",
                        "value": 2500,
                        "version": 7,
                        "revision": 31,
                        "variant": "stable",
                        "source": "checkout",
                    },
                    "Found; with `raw` the bare value.",
                ),
                **problems(400, 404, 429, 503),
            },
            parameters=[*_HERE, *parameters("key", *_CONSUMER, "selector", "raw", *_CONDITIONAL, *_WAITING)],
        )
    },
    _REGISTRY + "/keys": {
        "get": _operation(
            "listKeys",
            "reads",
            "Keys in the order of code points, one snapshot across all pages",
            {
                **found("KeyRange", {**_VERSION, "keys": [{"key": "timeout.ms", "value": 2500, "source": "checkout"}]}),
                **problems(400, 404, 410, 503),
            },
            parameters=[
                *_HERE,
                *parameters(*_CONSUMER, "selector", *_CONDITIONAL, *_WAITING),
                parameter("prefix", "Keys that begin with this.", _KEY),
                parameter("start", "The first key, itself included.", _KEY),
                parameter("end", "The key to end before.", _KEY),
                parameter(
                    "limit", "Keys of a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 500}
                ),
                parameter("continue", "The token of the page before.", {"type": "string"}),
            ],
        )
    },
    _REGISTRY + "/versions": {
        "get": _operation(
            "listVersions",
            "history",
            "The recorded versions",
            {
                **found(
                    "VersionList",
                    {**_PLACE, "revision": 31, "versions": [{"version": 7, "hash": HASH, "state": "stable"}]},
                ),
                **problems(400, 404, 503),
            },
            parameters=[*_HERE, *parameters(*_CONDITIONAL, *_REVISION)],
        )
    },
    _REGISTRY + "/versions/{version}": {
        "get": _operation(
            "readVersion",
            "history",
            "The content of one version, of this registry alone",
            {
                **found("Version", {**_PLACE, "version": 7, "hash": HASH, "data": _DATA}),
                **problems(400, 404, 503),
            },
            parameters=[*_HERE, *parameters("version", *_CONDITIONAL, *_REVISION)],
        )
    },
    _REGISTRY + "/versions/{from}/diff/{to}": {
        "get": _operation(
            "diffVersions",
            "history",
            "What turns one version into another",
            {
                **found(
                    "Diff",
                    {
                        **_PLACE,
                        "from": 6,
                        "to": 7,
                        "fromHash": "0123456789abcdef",
                        "toHash": HASH,
                        "changes": [_CHANGE],
                    },
                ),
                **problems(400, 404, 503),
            },
            parameters=[*_HERE, *parameters("from", "to", *_CONDITIONAL, *_REVISION)],
        )
    },
    _REGISTRY + "/watch": {
        "get": _operation(
            "watchRegistry",
            "watches",
            "Follow what a consumer gets",
            {**_events("The stream."), **problems(400, 503)},
            _WATCH_TEXT,
            parameters=[*_HERE, *parameters(*_CONSUMER), *_SINCE],
        )
    },
    "/v1/watch": {
        "get": _operation(
            "watchRegistries",
            "watches",
            "Follow many registries in one stream",
            {**_events("The stream."), **problems(400, 503)},
            _WATCH_TEXT,
            parameters=[
                parameter(
                    "registry",
                    "namespace/name; repeated.",
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 100},
                    required=True,
                    explode=True,
                    example=["shop/checkout", "shop/search"],
                ),
                *parameters(*_CONSUMER),
                *_SINCE,
            ],
        )
    },
    _REGISTRY + "/consumers": {
        "get": _operation(
            "listConsumers",
            "consumers",
            "The live consumers, of all replicas",
            {
                "200": {
                    "description": "Found; or, with `Accept: text/event-stream`, a stream of who comes and goes.",
                    "content": {
                        "application/json": {
                            "schema": ref("ConsumerList"),
                            "example": {**_PLACE, "consumers": [_CONSUMER_EXAMPLE]},
                        },
                        "text/event-stream": {"schema": {"type": "string"}},
                    },
                },
                "304": {"description": "The client has it already."},
                **problems(400, 404, 503),
            },
            parameters=[*_HERE, *parameters(*_CONDITIONAL)],
        )
    },
    _REGISTRY + "/consumers/{consumer}": {
        "get": _operation(
            "readConsumer",
            "consumers",
            "One live consumer",
            {**json(200, "Consumer", _CONSUMER_EXAMPLE, "It lives."), **problems(400, 404, 503)},
            parameters=[*_HERE, *parameters("consumer")],
        ),
        "put": _operation(
            "heartbeat",
            "consumers",
            "Register, or say that one still lives and how it does",
            {
                **json(200, "Consumer", _CONSUMER_EXAMPLE, "Still there."),
                **json(201, "Consumer", _CONSUMER_EXAMPLE, "New."),
                **problems(400, 404, 409, 413, 429, 503),
            },
            parameters=[*_HERE, *parameters("consumer")],
            requestBody=_body("Heartbeat", {"ttlSeconds": 30, "observed": {"version": 7, "status": "ok"}}),
        ),
        "delete": _operation(
            "unregister",
            "consumers",
            "Be gone at once",
            {"204": {"description": "Gone, whether or not it was known here."}, **problems(400, 404, 409, 503)},
            parameters=[
                *_HERE,
                *parameters("consumer"),
                parameter("instance", "As in the heartbeat.", {"type": "string", "maxLength": 253}),
            ],
        ),
    },
    **OFREP,
    "/openapi.json": {
        "get": _operation(
            "readOpenApi",
            "reads",
            "This document",
            {
                "200": {"description": "Found.", "content": {"application/json": {"schema": {"type": "object"}}}},
                "304": {"description": "The client has it already."},
                **problems(400),
            },
        )
    },
}
"""Path -> method -> operation."""
