"""Which objects kopf watches, and what their events mean: a name for the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from configregistry import failpoints
from configregistry.model.names import GROUP, PLURAL, VERSION


def register(registry: kopf.OperatorRegistry, enqueue: Callable[[str, str], None]) -> None:
    """Register the handlers. `enqueue(namespace, name)` is called in kopf's thread and must be safe there."""

    # on.event alone writes nothing to objects: create/update handlers would keep a copy of the spec
    # in an annotation, which a spec of more than 256 KiB cannot have.
    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="queue")
    def _event(namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace and name:
            failpoints.reach("queue.named")
            enqueue(namespace, name)
