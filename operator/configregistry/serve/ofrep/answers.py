"""The JSON of OFREP 0.3: what an evaluation, a failure and a bulk answer look like.

`reason` is one of the protocol's (there is no DEFAULT in it). A flag whose value is null is told
without a value, which means "the code's default" (the protocol's ADR 0006): the protocol has no null, and SDKs take
one for a type mismatch or, worse, for an object.

Nothing here may know how a variant is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from configregistry.serve.responses import JSON, Problem, Response
from configregistry.serve.view import Given, View

STATIC: Final = "STATIC"
SPLIT: Final = "SPLIT"
TARGETING_MATCH: Final = "TARGETING_MATCH"
"""Values of `reason`."""

INACTIVITY: Final = 120
"""Seconds after which a page that nobody looks at lets go of its stream; the protocol's own default."""

_text = msgspec.json.encode
_NULL: Final = b"null"
_CODES: Final = {"ParseError": "PARSE_ERROR", "InvalidContext": "INVALID_CONTEXT"}


def registry_path(namespace: str, name: str) -> str:
    """Give the URL's path of a registry: a provider's base."""
    return f"/v1/namespaces/{quote(namespace, safe='')}/registries/{quote(name, safe='')}"


def single(flag_set: str, key: str, value: bytes, given: Given, reason: str) -> bytes:
    """Give one evaluation. All of it is about the registry that had the key, which is `source`."""
    metadata = {
        "flagSetId": flag_set,
        "version": given.version.number,
        "revision": given.registry.revision,
        "source": given.registry.name,
        "hash": given.version.hash,
    }
    return _evaluation(key, value, _tail(given, reason, metadata))


def bulk(namespace: str, view: View, reasons: dict[str, str]) -> bytes:
    """Give all evaluations of a view, by key; `reasons` are those of its registries by name.

    There is no revision in it: a rollout's next step that changes nothing for this consumer leaves
    the bytes, and so the ETag, as they were.
    """
    tails = {
        given.registry.name: _tail(
            given,
            reasons[given.registry.name],
            {"version": given.version.number, "source": given.registry.name},
        )
        for given in (view.given, *view.links)
    }
    given = view.given
    name = given.registry.name
    if view.links:
        each = [_evaluation(key, value, tails[had.registry.name]) for key, value, had in view.scan()]
    else:  # a merge of one costs three times as much, and 20,000 keys hold up the event loop
        each = [_evaluation(key, value, tails[name]) for key, value in given.version.content().items()]
    stream = {
        "type": "sse",
        # Without an origin: a provider takes that of its own base URL, whatever proxy is in between.
        "endpoint": {"requestUri": registry_path(namespace, name) + "/ofrep/v1/events"},
        "inactivityDelaySec": INACTIVITY,
    }
    metadata = {"flagSetId": f"{namespace}/{name}", "version": given.version.number, "hash": given.version.hash}
    return b'{"flags":[%b],"eventStreams":[%b],"metadata":%b}' % (b",".join(each), _text(stream), _text(metadata))


def failure(problem: Problem, key: str | None) -> Response:
    """Give a problem as OFREP has it; without a key it is about the whole bulk request."""
    code = _CODES.get(problem.name)
    if code is None:
        code = "FLAG_NOT_FOUND" if problem.status == 404 and key is not None else "GENERAL"  # noqa: PLR2004
    document = {"errorCode": code, "errorDetails": problem.detail}
    if key is not None:
        document = {"key": key, **document}
    headers = [("content-type", JSON), ("cache-control", "no-cache"), *problem.headers]
    return Response(problem.status, headers, _text(document))


def _tail(given: Given, reason: str, metadata: Mapping[str, object]) -> bytes:
    return b'"reason":%b,"variant":%b,"metadata":%b}' % (_text(reason), _text(given.variant), _text(metadata))


def _evaluation(key: str, value: bytes, tail: bytes) -> bytes:
    if value == _NULL:
        return b'{"key":%b,%b' % (_text(key), tail)
    return b'{"key":%b,"value":%b,%b' % (_text(key), value, tail)
