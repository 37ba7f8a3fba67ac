"""OFREP 0.3: what an OpenFeature provider asks, answered from the same views as every other read.

The base URL of a provider is the URL of a registry; each key of it is a flag, its value the flag's.

| module | tells |
| --- | --- |
| context | who asks: the body of a request |
| answers | the protocol's JSON: evaluations, failures, the bulk answer |
| evaluate | the routes, and which answer is given |
| events | the streams that say when to ask again |

It must never choose a variant by itself (`view` does), nor give what a read would not give.
The protocol: github.com/open-feature/protocol, service/openapi.yaml and ADR 0006 and 0008.
"""

from configregistry.serve.ofrep.evaluate import Ofrep
from configregistry.serve.ofrep.events import Events

__all__ = ["Events", "Ofrep"]
