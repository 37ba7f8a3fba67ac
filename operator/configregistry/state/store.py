"""All namespaces, and the one place where a new state becomes visible.

A reader takes `store.snapshot()` once (one attribute read, no lock) and answers the whole request
from it: whatever is published meanwhile, it sees one consistent state, and what it holds is freed
when it lets go. A writer works out new registries beside the published state and hands them over by
`store.publish`, which is one reference assignment for any number of registries of any namespaces:
there is one root, so a fallback and the registry that needs it appear together.

It must never change a published object, never wait for a reader, never keep a former snapshot, and
never publish over a state that the writer has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from pyrsistent import PMap, pmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from configregistry.state.registry import Registry

Namespace = PMap[str, "Registry"]
"""One namespace: registry name -> registry."""

_NO_REGISTRIES: Namespace = pmap()
_NO_NAMESPACES: PMap[str, Namespace] = pmap()


class RevisionConflict(Exception):  # noqa: N818
    """Another writer has published since: take a new snapshot and decide again."""


class RevisionWentBack(Exception):  # noqa: N818
    """A registry of the same uid came with a lower revision than the one that is served."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Snapshot:
    """Everything at one moment. Two reads of one snapshot never disagree."""

    generation: int
    """Raised by one with each publication in this process; means nothing outside of it."""
    namespaces: PMap[str, Namespace]

    def registry(self, namespace: str, name: str) -> Registry | None:
        """Give one registry, or None."""
        registries = self.namespaces.get(namespace)
        return None if registries is None else registries.get(name)

    def namespace(self, namespace: str) -> Namespace:
        """Give a namespace's registries, in no order; an unknown namespace has none."""
        return self.namespaces.get(namespace, _NO_REGISTRIES)

    def __iter__(self) -> Iterator[tuple[str, Registry]]:
        """Give all registries with their namespace, in no order."""
        for namespace, registries in self.namespaces.items():
            for registry in registries.values():
                yield namespace, registry


class Store:
    """Holds the current snapshot and nothing else."""

    __slots__ = ("__weakref__", "_current", "_publishing")

    def __init__(self) -> None:
        """Start empty, at generation 0."""
        self._current = Snapshot(0, _NO_NAMESPACES)
        # Makes compare-and-assign one step between writers of several threads. Readers never
        # touch it, so a publication is never held up by a read, nor a read by a publication.
        self._publishing = Lock()

    def snapshot(self) -> Snapshot:
        """Give the current state, to be held as long as one likes."""
        return self._current

    def publish(self, expected: Snapshot, changes: Mapping[tuple[str, str], Registry | None]) -> Snapshot:
        """Replace registries by (namespace, name), None to take one away; all of them at once.

        Raises `RevisionConflict` unless `expected` is still the current state, and
        `RevisionWentBack` if a registry would go back under its uid; then nothing has changed.
        Costs some microseconds for each registry named, whatever else is in memory.
        """
        namespaces = expected.namespaces
        for (namespace, name), registry in changes.items():
            registries = namespaces.get(namespace, _NO_REGISTRIES)
            if registry is None:
                registries = registries.discard(name)
            else:
                _check(namespace, name, registries.get(name), registry)
                registries = registries.set(name, registry)
            namespaces = namespaces.set(namespace, registries) if registries else namespaces.discard(namespace)
        new = Snapshot(expected.generation + 1, namespaces)
        with self._publishing:
            if self._current is not expected:
                raise RevisionConflict(
                    f"started from generation {expected.generation}, now it is {self._current.generation}"
                )
            self._current = new
        return new


def _check(namespace: str, name: str, served: Registry | None, new: Registry) -> None:
    if new.name != name:
        raise ValueError(f"{namespace}/{name}: got the registry {new.name}")
    if served is not None and served.uid == new.uid and new.revision < served.revision:
        raise RevisionWentBack(f"{namespace}/{name}: revision {served.revision} is served, got {new.revision}")
