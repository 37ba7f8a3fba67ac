"""What was known before the API server went back in time: what is counted never goes back with it.

After a restore of etcd the status says what was decided when the backup was made, and that is what holds. But its
`revision` may be one that consumers have met already, with other content, and its `lastVersion` may give a number
away that other content has had. So the first decision on it counts on from what was known:

    known     revision 7, version 3 is stable, 3 versions
    restored  revision 4, version 2 is stable, 2 versions
    written   revision 8, version 2 is stable, 3 versions      the next one is 4

Kept by each process that follows registries, leader or not, for as long as it lives. It must never change a decision.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from configregistry.kube.objects import RegistryObject
from configregistry.model.status import Status
from configregistry.reconcile import belief
from configregistry.rollout.machine import gives


class Floors:
    """By namespace, name and UID; empty as long as nothing went back."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, str], Status] = {}

    def keep(self, registries: Iterable[RegistryObject]) -> None:
        """Keep what is known of these, before they are what they were."""
        for each in registries:
            status = belief.readable(each.status, each.meta.uid)
            if status is not None:
                place = (*each.meta.key, each.meta.uid)
                before = self._of.get(place, status)
                latest = max(before, status, key=lambda one: one.revision)
                last = max(before.last_version, status.last_version)
                self._of[place] = replace(latest, last_version=last)

    def raised(self, key: tuple[str, str], uid: str, status: Status) -> Status:
        """The status that a process begins with, counted on from what was known."""
        known = self._of.get((*key, uid))
        if known is None or status.revision > known.revision:
            return status
        if status.revision == known.revision and _decided(status) == _decided(known):
            return status
        return replace(status, revision=known.revision + 1, last_version=max(status.last_version, known.last_version))


def _decided(status: Status) -> object:
    """What is given, and the content that its numbers stand for."""
    return gives(status), [part and part.hash for part in (status.stable, status.canary)]
