"""Puts the rooms of serving together: each gets what it needs, and gives its routes.

The one place that names all of them. It must never hold a rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from configregistry.clock import Clock, SystemClock
from configregistry.serve import openapi
from configregistry.serve.consumers import Consumers
from configregistry.serve.consumers import Room as ConsumerRoom
from configregistry.serve.encoded import Cache
from configregistry.serve.hotkeys import HotKeys
from configregistry.serve.hydrate import Hydrator
from configregistry.serve.interest import Interests
from configregistry.serve.ofrep import Events, Ofrep
from configregistry.serve.ranges import Ranges
from configregistry.serve.reads import Reads
from configregistry.serve.routes import Routes
from configregistry.serve.usage import Usage
from configregistry.serve.versions import Versions
from configregistry.serve.view import Views
from configregistry.serve.waits import Waits
from configregistry.serve.watch import Watches, WatchRoutes
from configregistry.telemetry.metrics import Metrics


class Service:
    """All rooms over one replica's memory."""

    def __init__(
        self,
        hydrator: Hydrator,
        *,
        cache: Cache | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        hot_keys: HotKeys | None = None,
        staleness: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.cache = cache or Cache(lasting=hot_keys is None)  # hot keys have to see each read
        self.views = Views(hydrator)
        hydrator.subscribe(self.views.published)
        self.interests = Interests()
        hydrator.subscribe(self.interests.published)
        self.waits = Waits(hydrator, self.interests)
        hydrator.subscribe(self.waits.published)
        self.reads = Reads(self.views, self.cache, self.waits)
        self.ranges = Ranges(self.views, self.cache, self.waits)
        self.versions = Versions(self.views, self.cache, self.waits)
        observer = metrics or Metrics()
        self.watches = Watches(self.views, observer, staleness=staleness, traces=hydrator.traces)
        hydrator.subscribe(self.watches.published)
        self.ofrep_events = Events(hydrator, self.interests, observer)
        self.ofrep = Ofrep(self.views, self.cache, self.waits, self.ofrep_events)
        clock = clock or SystemClock()
        watched = (lambda: self.interests.keys, lambda: self.watches.watched)
        self.usage = Usage(hydrator.snapshot, clock.monotonic, watched)
        hydrator.subscribe(self.usage.published)
        self.consumers = Consumers(hydrator.snapshot, clock, reads=self.usage.reads)
        hydrator.subscribe(self.consumers.published)
        self.consumer_room = ConsumerRoom(self.consumers, self.views)
        routes = [
            *self.reads.routes(),
            *self.ranges.routes(),
            *self.versions.routes(),
            *WatchRoutes(self.watches).routes(),
            *self.ofrep.routes(),
            *self.consumer_room.routes(),
            *openapi.routes(),
        ]
        self.routes = Routes(self.usage.over(routes if hot_keys is None else hot_keys.over(routes)))
