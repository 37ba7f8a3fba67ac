"""The routes of OFREP 0.3, below each registry and at the root."""

from __future__ import annotations

from typing import Any, Final

from configregistry.serve.openapi.parts import found, json, parameter, parameters, problems
from configregistry.serve.openapi.schemas import HASH, Json, ref

_REGISTRY: Final = "/v1/namespaces/{namespace}/registries/{name}"
_FLAGS: Final = "/ofrep/v1/evaluate/flags"
_HERE: Final = parameters("namespace", "name")
_SHOWN: Final = parameters("minRevision", "revisionHeader")

_FLAG: Final = {
    "key": "feature.new-basket",
    "value": True,
    "reason": "STATIC",
    "variant": "stable",
    "metadata": {"flagSetId": "shop/checkout", "version": 7, "revision": 31, "source": "checkout", "hash": HASH},
}
_ALL: Final = {
    "flags": [{**_FLAG, "metadata": {"version": 7, "source": "checkout"}}],
    "eventStreams": [
        {
            "type": "sse",
            "endpoint": {"requestUri": "/v1/namespaces/shop/registries/checkout/ofrep/v1/events"},
            "inactivityDelaySec": 120,
        }
    ],
    "metadata": {"flagSetId": "shop/checkout", "version": 7, "hash": HASH},
}
_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": ref("OfrepRequest"),
            "example": {"context": {"targetingKey": "pod-7", "region": "eu"}},
        }
    },
}
_REFETCH: Final = [
    parameter("flagConfigEtag", "The `etag` of the event that this request is made for.", {"type": "string"}),
    parameter("flagConfigLastModified", "Of the protocol; says nothing here.", {"type": "string"}),
]
_STREAM: Final = """Server-Sent Events: `refetchEvaluation` whenever what anybody gets of the registry or its fallbacks
may have changed, and at once on connecting unless `Last-Event-ID` names the state of now. The id is opaque. A
registry that does not exist (yet) has a stream as well."""


def _error(text: str) -> Json:
    return {"description": text, "content": {"application/json": {"schema": ref("OfrepError")}}}


def _refused(text: str) -> Json:
    told = _error(text)
    told["content"]["application/problem+json"] = {"schema": ref("Problem")}
    return told


def _post(name: str, summary: str, answers: Json, lead: list[Json]) -> Json:
    errors = {
        "400": _refused("PARSE_ERROR, INVALID_CONTEXT, or GENERAL: a parameter; a problem for a header."),
        "404": _refused("FLAG_NOT_FOUND; for all flags GENERAL: no such registry."),
    }
    return {
        "post": {
            "operationId": name,
            "tags": ["ofrep"],
            "summary": summary,
            "parameters": lead,
            "requestBody": _BODY,
            "responses": {**answers, **problems(413, 429, 503), **errors},
        }
    }


PATHS: Final[dict[str, Any]] = {
    _REGISTRY + _FLAGS: _post(
        "evaluateFlags",
        "Evaluate all flags",
        found("OfrepBulk", _ALL),
        [*_HERE, *parameters("ifNoneMatch"), *_SHOWN, *_REFETCH],
    ),
    _REGISTRY + _FLAGS + "/{key}": _post(
        "evaluateFlag",
        "Evaluate one flag",
        json(200, "OfrepFlag", _FLAG, "Evaluated."),
        [*_HERE, *parameters("key"), *_SHOWN],
    ),
    _REGISTRY + "/ofrep/v1/events": {
        "get": {
            "operationId": "followFlags",
            "tags": ["ofrep"],
            "summary": "Be told when to evaluate again",
            "description": _STREAM,
            "parameters": [
                *_HERE,
                parameter("Last-Event-ID", "The last id that the client has.", {"type": "string"}, place="header"),
            ],
            "responses": {
                "200": {
                    "description": "The stream.",
                    "content": {"text/event-stream": {"schema": {"type": "string"}}},
                },
                **problems(400, 503),
            },
        }
    },
    _FLAGS: {
        "post": {
            "operationId": "evaluateFlagsOfAll",
            "tags": ["ofrep"],
            "summary": "Refused: all flags are told of one registry only",
            "responses": {"400": _error("GENERAL."), **problems(413)},
        }
    },
    _FLAGS + "/{flag}": _post(
        "evaluateFlagOf",
        "Evaluate one flag of any registry",
        json(200, "OfrepFlag", {**_FLAG, "key": "shop/checkout/feature.new-basket"}, "Evaluated."),
        [*parameters("flag"), *_SHOWN],
    ),
}
"""Path -> method -> operation."""
