"""HTTP: what each status names, hydrated into memory, and read from there.

    metrics = Metrics(env=…, cluster=…, per_registry=True)          # telemetry.metrics
    loop = Loop(fetch)              # fetch(namespace, name): RevisionObject | None (404 only)
    hydrator = Hydrator(registries.store, revisions.store, metrics=metrics, clock=SystemClock(),
                        ask=loop.ask, wake=loop.wake)               # + store=Store()
    loop.drive(hydrator)
    registries.subscribe(hydrator.registry_changed)
    revisions.subscribe(hydrator.revision_changed)
    …both synced…
    hydrator.begin()                # not earlier: only then does absence mean anything
    hydrator.ready                  # latched; hydrator.waits() says what for, else None
    app = ReadApp(Routes(hydrator), metrics, staleness)             # staleness() -> seconds
    server = await serve_http(app, host, 8080)                      # await server.stop() drains
    probes = Probes(metrics, {"hydrate": hydrator.waits}, host=…, port=8081)
    await probes.start(); probes.drain(); await probes.stop()
    await loop.close()

| module | tells |
| --- | --- |
| responses | Request, Response, Answer (encoded once, ETag), Problem (RFC 9457): plain values |
| params | target, attributes, `?version=`, flags; everything unknown is refused |
| reads | variant, fallback chain, bodies; `Source` is what it reads from |
| encoded | the cache of answers, held weakly by the registries they are of |
| routes | the tables: path -> handler |
| app | what holds for each answer: counted, stale, 500 |
| rsgi | the only place that knows Granian |
| wanted, gather, contents | a status read; content found and checked; pure |
| hydrate, follow | which registry has work, publication; the event loop and GETs by name |
| probes | /livez /readyz /metrics on a port of their own |

It must never import what decides or writes (reconcile, handlers), and never leave the process for
a read.
"""

from configregistry.serve.app import STALE_AFTER, ReadApp
from configregistry.serve.follow import Loop
from configregistry.serve.hydrate import Hydrator
from configregistry.serve.probes import Probes
from configregistry.serve.routes import Routes
from configregistry.serve.rsgi import HttpServer, HttpServerFailed, serve_http

__all__ = [
    "STALE_AFTER",
    "HttpServer",
    "HttpServerFailed",
    "Hydrator",
    "Loop",
    "Probes",
    "ReadApp",
    "Routes",
    "serve_http",
]
