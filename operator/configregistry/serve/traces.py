"""Which trace a published revision belongs to, so that its events carry it on and its readers can go on with it.

Of the registries whose object names a trace, the latest revision alone. What was published before this process had
loaded is of traces that ended long ago: it has none. It must never keep anything from being published.
"""

from __future__ import annotations

from typing import Final

from configregistry.kube.objects import Key, RegistryObject
from configregistry.state import Registry
from configregistry.telemetry import tracing

_NANOSECONDS: Final = 1e9


class Traces:
    """Told by the hydrator of each publication, before anybody else."""

    def __init__(self) -> None:
        self._of: dict[Key, tuple[str, int, str]] = {}

    def published(self, key: Key, item: RegistryObject | None, registry: Registry | None, seconds: float) -> None:
        """A registry was published, so many seconds after its object had come."""
        parent = tracing.of(item.meta.annotations) if item is not None and registry is not None else ""
        if not parent or registry is None or not tracing.on():
            self._of.pop(key, None)
            return
        known = self._of.get(key)
        if known is not None and known[:2] == (registry.uid, registry.revision):
            return  # nothing new is given: a version was pruned, a candidate dropped until the next revision is here
        about: dict[str, tracing.Value] = {"namespace": key[0], "registry": key[1], "revision": registry.revision}
        given = registry.canary.version if registry.canary is not None else registry.stable
        if given is not None:
            about["version"] = given.number
        if registry.canary is not None:
            about["weight"] = registry.canary.weight
        now = tracing.now()
        place = tracing.past("publish", now - round(seconds * _NANOSECONDS), now, parent, **about)
        self._of[key] = (registry.uid, registry.revision, place)

    def of(self, key: Key, revision: int) -> str:
        """The traceparent of the publication of a revision; empty: of no trace, or not the latest."""
        known = self._of.get(key)
        return known[2] if known is not None and known[1] == revision else ""

    def __len__(self) -> int:
        return len(self._of)
