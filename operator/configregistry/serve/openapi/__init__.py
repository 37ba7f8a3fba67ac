"""The OpenAPI 3.1 document of the HTTP API, at /openapi.json: what clients and tests are generated from.

Written by hand, in the order of the routes, because what a route means is not in its code; a test
compares it with the table of routes, and schemathesis with what is answered.

| module | tells |
| --- | --- |
| schemas | the bodies |
| parts | parameters, headers and errors that many operations share |
| operations, ofrep | each route |
| document | all of it as one value, and the route that gives it |
"""

from configregistry.serve.openapi.document import document, routes

__all__ = ["document", "routes"]
