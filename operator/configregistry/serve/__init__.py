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
    service = Service(hydrator)     # the rooms: reads, watch, consumers, OFREP, …
    app = App(service.routes, metrics, staleness)                   # staleness() -> seconds
    server = await serve_http(app, host, 8080)                      # await server.stop() drains
    probes = Probes(metrics, {"hydrate": hydrator.waits}, host=…, port=8081)
    await probes.start(); probes.drain(); await probes.stop()
    await loop.close()

| module | tells |
| --- | --- |
| responses | Request, Response, Answer (encoded once, ETag), Problem (RFC 9457): plain values |
| params | target, attributes, `?version=`, flags; everything unknown is refused |
| view | what one consumer gets: variant, fallback chain; `Source` is what it reads from |
| reads | one key, a registry, the list of a namespace |
| ranges, versions | keys in order by pages of one snapshot; history, one version, what differs between two |
| waits | requests that are held: until an answer changes, until a revision is here |
| compress | content codings: which a client takes, bytes packed |
| encoded | the cache of answers, held weakly by the registries they are of |
| routes | the table: method and path -> handler, and what a client must be allowed to do |
| feeds | what the streams of a channel have in common |
| service | the rooms, put together |
| app | what holds for each request: allowed, counted, stale, 500 |
| wire | HTTP over sockets: the server |
| wanted, gather, contents | a status read; content found and checked; pure |
| hydrate, follow | which registry has work, publication; the event loop and GETs by name |
| probes | /livez /readyz /metrics on a port of their own |

It must never import what decides or writes (reconcile, handlers), and never leave the process for
a read.
"""

from configregistry.serve.app import STALE_AFTER, App
from configregistry.serve.follow import Loop
from configregistry.serve.hydrate import Hydrator
from configregistry.serve.probes import Probes
from configregistry.serve.service import Service
from configregistry.serve.wire import HttpServer, HttpServerFailed, serve_http

__all__ = [
    "STALE_AFTER",
    "App",
    "HttpServer",
    "HttpServerFailed",
    "Hydrator",
    "Loop",
    "Probes",
    "Service",
    "serve_http",
]
