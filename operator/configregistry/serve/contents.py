"""The content of recorded versions: opened with all that is distrusted about it checked.

What a ControllerRevision holds is taken only if its owner is this very registry (by uid: a namesake
that was deleted leaves revisions of the same names behind for a while) and if the hash of its
content, computed anew, is the one that the status names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from configregistry.kube import payload
from configregistry.kube.objects import Key, RevisionObject
from configregistry.model.content import members
from configregistry.model.names import version_name
from configregistry.serve.wanted import Named
from configregistry.state import Registry, Version

HISTORY_CACHE: Final = 16


def open_content(revision: RevisionObject, uid: str, named: Named) -> dict[str, bytes] | None:
    """Give the content if it is what is named, else None."""
    if revision.number != named.number or not revision.meta.owned_by(uid):
        return None
    try:
        return members(payload.decode(revision.payload, named.hash))
    except ValueError:
        return None


class Recorded(NamedTuple):
    """What is known of a version without a look at its content."""

    number: int
    hash: str
    keys: int
    parent: int | None
    """The version that it followed when it was recorded; None for a first one, or where nobody knows any more."""
    created: str
    """RFC 3339; empty where its ControllerRevision is gone."""


def named_by(revision: str) -> tuple[str, int]:
    """Give the registry and the number that a ControllerRevision's name means; number 0: none."""
    registry, _, number = revision.rpartition("-")
    return (registry, int(number)) if registry and number.isascii() and number.isdigit() else ("", 0)


class History:
    """Recorded versions that nobody is given at present, decoded when somebody asks for one.

    The latest few are kept; they share with the stable version whatever is equal to it.
    """

    def __init__(self, revisions: Mapping[Key, RevisionObject]) -> None:
        self._revisions = revisions
        self._decoded: OrderedDict[tuple[str, int, str], Version] = OrderedDict()
        self._numbers: dict[Key, tuple[int, ...]] = {}
        for namespace, name in revisions:
            self.noted(namespace, *named_by(name))

    def noted(self, namespace: str, registry: str, number: int) -> None:
        """Note that the ControllerRevision of a version came or went."""
        if not number:
            return
        key = (namespace, registry)
        numbers = {*self._numbers.get(key, ()), number}
        if (namespace, version_name(registry, number)) not in self._revisions:
            numbers.discard(number)
        if numbers:
            self._numbers[key] = tuple(sorted(numbers))
        else:
            self._numbers.pop(key, None)

    def recorded(self, namespace: str, registry: Registry) -> list[Recorded]:
        """Give all versions that there are of a registry, the newest number first."""
        found = {number: Recorded(number, held.hash, len(held), None, "") for number, held in registry.versions.items()}
        for number in self._numbers.get((namespace, registry.name), ()):
            revision = self._revisions[(namespace, version_name(registry.name, number))]
            if revision.number == number and revision.meta.owned_by(registry.uid):
                held = registry.versions.get(number)
                digest, keys = (held.hash, len(held)) if held is not None else (revision.hash, revision.keys)
                found[number] = Recorded(
                    number, digest, keys, revision.parent or None, revision.meta.creation_timestamp
                )
        return [found[number] for number in sorted(found, reverse=True)]

    def get(self, namespace: str, registry: Registry, number: int) -> Version | None:
        """Give a version that is in memory or that a ControllerRevision exists for."""
        held = registry.versions.get(number)
        if held is not None:
            return held
        revision = self._revisions.get((namespace, version_name(registry.name, number)))
        if revision is None:
            return None
        place = (registry.uid, number, revision.hash)
        version = self._decoded.get(place)
        if version is None:
            content = open_content(revision, registry.uid, Named(number, revision.hash))
            if content is None:
                return None
            version = Version.derive(registry.stable, number, revision.hash, content)
            self._decoded[place] = version
            if len(self._decoded) > HISTORY_CACHE:
                self._decoded.popitem(last=False)
        return version
