"""Consumers: who works with a registry's content, which version, and how that goes.

    consumers = Consumers(source, clock)            # source: what is published; told of publications:
    hydrator.subscribe(consumers.published)
    answer = consumers.exchange(Exchange.of(merged, age))   # the leader in the same process
    consumers.counts()                              # for the metrics, in any thread
    Room(consumers, views).routes()                 # HTTP: PUT, DELETE, GET, events, the leader's exchange

| module | tells |
| --- | --- |
| heartbeat | the body of a heartbeat -> checked values |
| roster | one registry's consumers, as this replica knows them |
| known | all rosters: TTLs, the exchange with the leader (`model.reports` has its shapes and the merge) |
| encoded | consumers as JSON, with an ETag that ages do not change |
| news | errors that are new, for which the leader does not wait until its next round |
| events | streams of who comes and goes |
| room | the routes |

A heartbeat stays in the replica that got it; every replica learns of all others' by the leader's
list, which is given to each every 2 s, or sooner where an error is new. So what another replica heard
is known some 4 s later.

It must never decide anything about a rollout: health checks ask the leader's list.
"""

from configregistry.serve.consumers.known import Consumers
from configregistry.serve.consumers.room import Room

__all__ = ["Consumers", "Room"]
