"""Watches: Server-Sent Events that tell a consumer what it gets, and each change of it, in order.

    watches = Watches(views, metrics)           # views: serve.view.Views; metrics: an Observer
    hydrator.subscribe(watches.published)
    routes = WatchRoutes(watches).routes()      # …/registries/{name}/watch and /v1/watch?registry=…
    watches.beat()                              # once a second: `progress`, and whoever is stalled

| module | tells |
| --- | --- |
| cursor | the `id:` of an event: what a client has |
| standing | where a consumer stands in a registry, and what differs between two standings; pure |
| past | the window of past publications from which a stream is resumed |
| events | events as bytes, encoded once |
| watcher, groups | one stream; streams that are alike |
| turn | what is worked out once for all whom it concerns |
| watches | the one writer: what a publication means for each stream |
| routes | the requests |

For each registry and consumer: a client that has folded an event's changes into what it had has what the registry
gave to it at that revision; revisions under one uid never go back; and the event's id goes on right behind it.
"""

from configregistry.serve.watch.routes import WatchRoutes
from configregistry.serve.watch.watches import Watches

__all__ = ["WatchRoutes", "Watches"]
