"""The whole document, and the route that gives it."""

from __future__ import annotations

from functools import cache

import msgspec

from configregistry import __version__
from configregistry.serve.openapi.operations import PATHS
from configregistry.serve.openapi.parts import HEADERS, PARAMETERS, RESPONSES
from configregistry.serve.openapi.schemas import SCHEMAS, Json
from configregistry.serve.params import Params
from configregistry.serve.responses import Answer, Reply, Request
from configregistry.serve.routes import Place, Route, nothing

_TEXT = """Reads, watches and reports of consumers, answered from this replica's memory.

Every answer of a registry carries `X-ConfigRegistry-Version` and `X-ConfigRegistry-Revision`. An answer of a
replica that is cut off from the API server says so: `X-ConfigRegistry-Stale: <seconds>`. Errors are problem
documents (RFC 9457); the last part of their `type` is contract. An unknown query parameter is an error.
"""


def document() -> Json:
    """Give the document as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Config Registry",
            "version": __version__,
            "description": _TEXT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {}],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": RESPONSES,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of a ServiceAccount, with `--auth kubernetes`.",
                }
            },
        },
    }


@cache
def _answer() -> Answer:
    return Answer(msgspec.json.encode(document()), [])


def _give(request: Request, _: Place) -> Reply:
    Params(request).allow(())
    return _answer().to(request)


def routes() -> list[Route]:
    """Give the route of the document itself."""
    return [Route("GET", "/openapi.json", _give, nothing)]
