"""Parameters, headers and errors that many operations share."""

from __future__ import annotations

from typing import Any, Final

from configregistry.serve.openapi.schemas import Json, ref

NAME: Final = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"
KEY: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?$"
DURATION: Final = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"

PROBLEMS: Final = {
    400: "Bad input; `field` names it.",
    401: "No credentials, or ones that the API server does not know.",
    403: "Not allowed to this client.",
    404: "Known not to exist.",
    409: "Another live owner holds this id.",
    410: "This snapshot is not to be had any more: begin again without `continue`.",
    413: "The body is too large.",
    414: "The path and query are too long.",
    431: "The headers are too long.",
    429: "Too many; see Retry-After.",
    503: "Not known at present, which is never the same as 404; see Retry-After.",
}


ALWAYS: Final = (401, 403, 414, 431)
"""Said of every request, whatever it asks for."""


def parameter(name: str, text: str, schema: Json, *, place: str = "query", **rest: Any) -> Json:
    """Give one parameter."""
    return {"name": name, "in": place, "description": text, "schema": schema, **rest}


def _path(name: str, text: str, pattern: str, example: str) -> Json:
    return parameter(name, text, {"type": "string", "pattern": pattern}, place="path", required=True, example=example)


_TEXT: Final[Json] = {"type": "string"}
_SEEN: Final[Json] = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_WAITED: Final[Json] = {"type": "string", "pattern": DURATION, "examples": ["30s"]}

PARAMETERS: Final[Json] = {
    "namespace": _path("namespace", "Namespace of the registry.", NAME, "shop"),
    "name": _path("name", "Name of the registry.", NAME, "checkout"),
    "key": _path("key", "The key; may contain slashes.", KEY, "timeout.ms"),
    "flag": _path("flag", "namespace/registry/key.", r"^[^/]+/[^/]+/.+$", "shop/checkout/timeout.ms"),
    "version": _path("version", "A version's number, `stable` or `canary`.", "^([1-9][0-9]{0,8}|stable|canary)$", "7"),
    "from": _path("from", "A version's number, `stable` or `canary`.", "^([1-9][0-9]{0,8}|stable|canary)$", "7"),
    "to": _path("to", "A version's number, `stable` or `canary`.", "^([1-9][0-9]{0,8}|stable|canary)$", "8"),
    "consumer": _path("consumer", "The consumer's id.", KEY, "checkout-7d9c-x2x4l"),
    "target": parameter(
        "target", "Who asks: a workload's identity, no address.", {"type": "string", "maxLength": 1024}
    ),
    "targetHeader": parameter(
        "X-ConfigRegistry-Target", "The same as `target`, which wins.", _TEXT, place="header", example="pod-7"
    ),
    "attribute": parameter(
        "attr.region",
        "An attribute of who asks, for match rules: `attr.NAME`, any name. Also as X-ConfigRegistry-Attr-NAME.",
        {"type": "string", "maxLength": 1024},
        example="eu-test",
    ),
    "selector": parameter(
        "version",
        "Read exactly this version, for inspection, without fallbacks.",
        {"type": "string", "pattern": "^(stable|canary|[1-9][0-9]{0,8})$"},
    ),
    "raw": parameter("raw", "Answer the bare value.", {"type": "string", "enum": ["", "true", "false", "1", "0"]}),
    "ifNoneMatch": parameter(
        "If-None-Match", "ETags that the client has; 304 when one is current.", _TEXT, place="header"
    ),
    "wait": parameter("wait", "With If-None-Match: hold the request until the answer changes, at most 5m.", _WAITED),
    "minRevision": parameter("minRevision", "Wait up to 5 s for this revision, then 503.", _SEEN),
    "revisionHeader": parameter(
        "X-ConfigRegistry-Revision",
        "A revision that the client has seen: as `minRevision`.",
        _SEEN,
        place="header",
    ),
}
"""Name in this document -> parameter."""

HEADERS: Final[Json] = {
    "version": {"description": "Version that was read.", "schema": {"type": "integer"}},
    "revision": {"description": "Revision of the registry.", "schema": {"type": "integer"}},
    "etag": {"description": "Strong: over what this consumer gets.", "schema": _TEXT},
    "retryAfter": {"description": "Seconds after which to ask again.", "schema": {"type": "integer"}},
}
"""Name in this document -> header."""


def parameters(*names: str) -> list[Json]:
    """Refer to parameters."""
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _headers(**names: str) -> Json:
    return {name.replace("_", "-"): {"$ref": f"#/components/headers/{header}"} for name, header in names.items()}


def found(schema: str, example: Any, text: str = "Found.") -> Json:
    """Give the answers of a conditional read."""
    headers = _headers(X_ConfigRegistry_Version="version", X_ConfigRegistry_Revision="revision", ETag="etag")
    return {
        "200": {
            "description": text,
            "headers": headers,
            "content": {"application/json": {"schema": ref(schema), "example": example}},
        },
        "304": {"description": "The client has it already.", "headers": headers},
    }


def json(status: int, schema: str, example: Any, text: str) -> Json:
    """Give one answer with a JSON body."""
    content = {"application/json": {"schema": ref(schema), "example": example}}
    return {str(status): {"description": text, "content": content}}


def problems(*codes: int) -> Json:
    """Refer to errors."""
    return {str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted({*codes, *ALWAYS})}


def _problem(code: int, text: str) -> Json:
    made: Json = {"description": text, "content": {"application/problem+json": {"schema": ref("Problem")}}}
    if code in {429, 503}:
        made["headers"] = _headers(Retry_After="retryAfter")
    return made


RESPONSES: Final[Json] = {str(code): _problem(code, text) for code, text in PROBLEMS.items()}
"""Status -> the error."""
