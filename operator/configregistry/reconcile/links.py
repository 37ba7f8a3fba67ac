"""Registries that a registry names: its dependencies and its fallback. Who follows whom, who is named, and cycles.

Reads what the watches hold. It must never decide whether a dependency is ready; a GET does (see gather).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from configregistry.kube.objects import RegistryObject
from configregistry.model import conditions
from configregistry.model.conditions import Condition
from configregistry.model.spec import NameRef, Spec
from configregistry.reconcile.memory import Key
from configregistry.reconcile.sources import sources_of
from configregistry.rollout.observation import Problem

Followed = tuple[str, str, str]
"""What a registry depends on: "registry" or "configmap", namespace, name."""
RegistryOf = Callable[[Key], RegistryObject | None]

FARTHEST: Final = 1000
"""Registries that are looked at for a cycle; one that is longer than that is not found."""


class Standing(NamedTuple):
    """What others may wait for: a registry's generation, whether it is Ready for which one, its fallback."""

    generation: int
    ready: bool
    ready_for: int
    fallback: str


class Named:
    """Who names a registry as its fallback or dependency: kept from the changes of a reflector."""

    def __init__(self) -> None:
        self._by: defaultdict[Key, set[Key]] = defaultdict(set)

    def changed(self, key: Key, old: RegistryObject | None, new: RegistryObject | None) -> None:
        """Take a change of the reflector."""
        if old is not None and new is not None and old.spec == new.spec:
            return
        for name in _names(old):
            self._by[key[0], name].discard(key)
            if not self._by[key[0], name]:
                del self._by[key[0], name]
        for name in _names(new):
            self._by[key[0], name].add(key)

    def by(self, key: Key) -> frozenset[Key]:
        """The registries that name this one."""
        return frozenset(self._by.get(key, ()))


def standing_of(found: RegistryObject | None) -> Standing | None:
    """How a registry stands; None without one, or where its status cannot be read."""
    if found is None:
        return None
    status = _decoded(found.status)
    if status is None:
        return None
    ready = next((each for each in status.conditions if each.type == conditions.READY), None)
    return Standing(
        found.meta.generation,
        ready is not None and ready.status == "True",
        ready.observed_generation if ready else 0,
        status.fallback.name if status.fallback else "",
    )


def is_ready(found: RegistryObject | None) -> bool:
    """Whether a registry is Ready for its present generation."""
    standing = standing_of(found)
    return standing is not None and standing.ready and standing.ready_for == standing.generation


def followed(namespace: str, spec: Spec, registry_of: RegistryOf) -> frozenset[Followed]:
    """Everything a change of which may change what becomes of a spec, or of its projection.

    The dependencies of dependencies too: each member of a ring says so, whoever closes or breaks it.
    """
    names = _behind(namespace, spec, registry_of) | set(_chain(namespace, spec, registry_of))
    configmaps = sources_of(spec) | ({spec.project.config_map} if spec.project else frozenset())
    return frozenset(
        {("configmap", namespace, name) for name in configmaps} | {("registry", namespace, name) for name in names}
    )


def cycle(key: Key, spec: Spec, registry_of: RegistryOf) -> Problem | None:
    """Say where a registry would wait for itself, or be its own fallback."""
    return fallback_ring(key, spec, registry_of) or dependency_ring(key, spec, registry_of)


def fallback_ring(key: Key, spec: Spec, registry_of: RegistryOf) -> Problem | None:
    """Say where a registry would be its own fallback.

    A fallback counts as it was accepted, so that only the registry that would close the ring is refused.
    """
    namespace, name = key
    chain = _chain(namespace, spec, registry_of)
    if name not in chain:
        return None
    return _refused("spec.fallback.name", (name, *chain[: chain.index(name) + 1]))


def dependency_ring(key: Key, spec: Spec, registry_of: RegistryOf) -> Problem | None:
    """Say where a registry would wait for itself. Dependencies count as written, since nobody accepts them."""
    name = key[1]
    path = _path_back(key, [each.name for each in spec.depends_on], registry_of)
    return _refused("spec.dependsOn", (name, *path)) if path else None


def _refused(field: str, ring: Iterable[str]) -> Problem:
    return Problem(conditions.INVALID_SPEC, f"{field}: expected no cycle: {' -> '.join(ring)}")


def _chain(namespace: str, spec: Spec, registry_of: RegistryOf) -> list[str]:
    """The registries that are asked one after the other behind a spec, up to a repeat."""
    met: list[str] = []
    name = spec.fallback.name if spec.fallback else ""
    while name and name not in met and len(met) < FARTHEST:
        met.append(name)
        standing = standing_of(registry_of((namespace, name)))
        name = standing.fallback if standing else ""
    return met


def _behind(namespace: str, spec: Spec, registry_of: RegistryOf) -> set[str]:
    """The dependencies of a spec, theirs, and so on."""
    waiting = [each.name for each in spec.depends_on]
    met: set[str] = set()
    while waiting and len(met) < FARTHEST:
        name = waiting.pop()
        if name not in met:
            met.add(name)
            waiting += [each.name for each in _dependencies(registry_of((namespace, name)))]
    return met


def _path_back(key: Key, first: list[str], registry_of: RegistryOf) -> tuple[str, ...]:
    """The names from a registry's dependencies back to itself; empty when there is no way."""
    namespace, wanted = key
    ways: list[tuple[str, ...]] = [(name,) for name in first]
    met: set[str] = set()
    while ways and len(met) < FARTHEST:
        way = ways.pop()
        if way[-1] == wanted:
            return way
        if way[-1] not in met:
            met.add(way[-1])
            found = registry_of((namespace, way[-1]))
            ways += [(*way, each.name) for each in _dependencies(found)]
    return ()


def _dependencies(found: RegistryObject | None) -> tuple[NameRef, ...]:
    try:
        return _SPEC.decode(found.spec).depends_on if found else ()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()


def _names(found: RegistryObject | None) -> set[str]:
    if found is None or not (b'"dependsOn"' in found.spec or b'"fallback"' in found.spec):
        return set()  # nearly all of them: what is in the way of a change must not cost a decoding
    try:
        spec = _SPEC.decode(found.spec)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return set()
    return {each.name for each in spec.depends_on} | ({spec.fallback.name} if spec.fallback else set())


def _decoded(raw: bytes) -> _Status | None:
    try:
        return _STATUS.decode(raw or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    depends_on: tuple[NameRef, ...] = ()
    fallback: NameRef | None = None


class _Status(msgspec.Struct, frozen=True):
    fallback: NameRef | None = None
    conditions: tuple[Condition, ...] = ()


_SPEC: Final = msgspec.json.Decoder(_Spec)
_STATUS: Final = msgspec.json.Decoder(_Status)
