"""What one consumer gets of a registry and of the registries that it falls back to, in one snapshot.

Each registry of a chain chooses its own variant for the same consumer. Whole reads, ranges, watches,
long polls and OFREP all ask here, so that they cannot disagree.

Whether something is *known* to be absent or only not here (yet) is never confused: the first is 404
or falls through to the next registry, the second is 503.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from heapq import merge
from typing import Final, NamedTuple, Protocol

from configregistry.kube.objects import Key
from configregistry.rollout.buckets import gets_candidate
from configregistry.serve.contents import Recorded
from configregistry.serve.params import Selector
from configregistry.serve.responses import (
    ATTRIBUTE_HEADER,
    REVISION_HEADER,
    TARGET_HEADER,
    VERSION_HEADER,
    Headers,
    Problem,
    not_found,
    unavailable,
)
from configregistry.state import Registry, Snapshot, Version

MAX_CHAIN: Final = 8
"""How many registries one read meets."""


class Source(Protocol):
    """What reads are answered from; hydration fills it."""

    @property
    def ready(self) -> bool:
        """Whether all that existed at the start is here, so that absence means something."""
        ...

    def snapshot(self) -> Snapshot:
        """Give the published state."""
        ...

    def lacking(self, namespace: str, name: str) -> int | None:
        """Give the version that a status names and whose content is not in memory."""
        ...

    def history(self, namespace: str, registry: Registry, number: int) -> Version | None:
        """Give a recorded version, decoded for the occasion if need be."""
        ...

    def recorded(self, namespace: str, registry: Registry) -> list[Recorded]:
        """Give all versions that there are of a registry, the newest number first."""
        ...


class Consumer(Protocol):
    """Who asks, as far as it decides what is given."""

    @property
    def target(self) -> str | None:
        """A workload identity."""
        ...

    def get(self, name: str, /) -> str | None:
        """Give an attribute, or None."""
        ...


class Given(NamedTuple):
    """What a consumer gets of one registry of the chain."""

    registry: Registry
    version: Version
    variant: str

    @property
    def headers(self) -> Headers:
        """Say which version and revision this is."""
        return [
            (VERSION_HEADER, str(self.version.number)),
            (REVISION_HEADER, str(self.registry.revision)),
        ]


class View(NamedTuple):
    """What a consumer gets of a whole chain."""

    given: Given
    links: tuple[Given, ...]
    """Of the fallbacks that give anything, the nearest first."""
    met: tuple[Registry, ...]
    """Every registry that was looked at."""

    @property
    def identity(self) -> Hashable:
        """Name the content: equal identities give equal answers, but for what only a revision changes."""
        return (self.given.version.number, self.given.variant, identity(self.links))

    @property
    def headers(self) -> Headers:
        """Say version, revision, and what the answer depends on."""
        return [*self.given.headers, ("vary", vary(self.met))]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the same namespace whose registries decide on this view, one that lacks included."""
        last = self.met[-1].fallback
        names = tuple(registry.name for registry in self.met)
        return names if last is None or last in names or len(names) >= MAX_CHAIN else (*names, last)

    def find(self, key: str) -> tuple[bytes, Given] | None:
        """Give a key's value and which registry had it."""
        for given in (self.given, *self.links):
            value = given.version.get(key)
            if value is not None:
                return value, given
        return None

    def scan(
        self, *, prefix: str = "", start: str | None = None, end: str | None = None, after: str | None = None
    ) -> Iterator[tuple[str, bytes, Given]]:
        """Give keys in the order of code points, each once, lazily; bounds as in `Version.scan`."""
        if not self.links:
            for key, value in self.given.version.scan(prefix=prefix, start=start, end=end, after=after):
                yield key, value, self.given
            return
        last = None
        for key, _place, value, given in merge(
            *(_placed(place, given, prefix, start, end, after) for place, given in enumerate((self.given, *self.links)))
        ):
            if key != last:
                last = key
                yield key, value, given

    def data(self) -> dict[str, bytes]:
        """Give all of it, the nearest registry wins, in the order of keys."""
        data = self.given.version.content()
        if self.links:
            for link in self.links:
                for key, value in link.version.data.items():
                    data.setdefault(key, value)
            data = dict(sorted(data.items()))
        return data


def _placed(
    place: int, given: Given, prefix: str, start: str | None, end: str | None, after: str | None
) -> Iterator[tuple[str, int, bytes, Given]]:
    """(key, place) is unique, so that a merge never compares what comes behind them."""
    for key, value in given.version.scan(prefix=prefix, start=start, end=end, after=after):
        yield key, place, value, given


class Views:
    """Finds what consumers get, of one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._at: Snapshot | None = None
        self._found: dict[Key, Registry] = {}
        """Registries of `_at`, which is what is published, and of nothing else."""

    def published(self, *_: object) -> None:
        """Hold nothing of a state that is over; subscribe this to the hydrator."""
        self._at = None
        self._found.clear()

    def of(self, at: Snapshot, namespace: str, name: str, consumer: Consumer, selector: Selector | None = None) -> View:
        """Give the view of a consumer; with a selector of that one version alone. Raises `Problem`."""
        registry = self.registry(at, namespace, name)
        given = self.given(namespace, registry, consumer, selector)
        if selector is not None or registry.fallback is None:
            return View(given, (), (registry,))
        met = (registry, *self.fallbacks(at, namespace, registry))
        found = (self.link(namespace, other, consumer) for other in met[1:])
        return View(given, tuple(link for link in found if link is not None), met)

    def registry(self, at: Snapshot, namespace: str, name: str) -> Registry:
        """Give the registry that is asked for, or say which part of its name is unknown."""
        if at is self._at:  # two steps in persistent maps cost ten times as much
            registry = self._found.get((namespace, name))
            if registry is not None:
                return registry
        registry = at.registry(namespace, name)
        if registry is not None:
            if at is not self._at and at is self.source.snapshot():
                self._at = at
                self._found.clear()
            if at is self._at:
                self._found[namespace, name] = registry
            return registry
        if not self.source.ready:
            raise not_synced()
        if not at.namespace(namespace):
            raise not_found("NamespaceNotFound", f"no registry in namespace {namespace!r}")
        raise not_found("RegistryNotFound", f"no registry {name!r} in namespace {namespace!r}")

    def given(self, namespace: str, registry: Registry, consumer: Consumer, selector: Selector | None) -> Given:
        """Choose what the consumer gets of the registry that it asked for."""
        if selector is not None:
            return self.selected(namespace, registry, selector)
        version, variant = choose(registry, consumer)
        if version is None:
            raise self._absent(namespace, registry)
        return Given(registry, version, variant)

    def link(self, namespace: str, registry: Registry, consumer: Consumer) -> Given | None:
        """Choose what the consumer gets of a fallback; None if that never gave anything."""
        version, variant = choose(registry, consumer)
        if version is not None:
            return Given(registry, version, variant)
        if self.source.lacking(namespace, registry.name) is not None:
            raise self._absent(namespace, registry)
        return None

    def fallbacks(self, at: Snapshot, namespace: str, first: Registry) -> Iterator[Registry]:
        """Walk the chain behind a registry, to a name that does not exist, a repeat, or 8."""
        met = {first.name}
        name = first.fallback
        while name is not None and name not in met and len(met) < MAX_CHAIN:
            registry = at.registry(namespace, name)
            if registry is None:
                if not self.source.ready:
                    raise not_synced()
                return
            yield registry
            met.add(name)
            name = registry.fallback

    def selected(self, namespace: str, registry: Registry, selector: Selector) -> Given:
        """Give exactly the version that was asked for, whoever asks. Raises `Problem`."""
        if selector == "stable":
            if registry.stable is None:
                raise self._absent(namespace, registry)
            return Given(registry, registry.stable, "stable")
        if selector == "canary":
            if registry.canary is not None:
                return Given(registry, registry.canary.version, "canary")
            detail = f"{namespace}/{registry.name} has no candidate at present"
        else:
            version = self.source.history(namespace, registry, selector)
            if version is not None:
                return Given(registry, version, "history")
            detail = f"{namespace}/{registry.name} has no version {selector}"
        raise not_found("VersionNotFound", detail, [(REVISION_HEADER, str(registry.revision))])

    def _absent(self, namespace: str, registry: Registry) -> Problem:
        """Say why a registry that exists gives nothing."""
        headers = [(REVISION_HEADER, str(registry.revision))]
        number = self.source.lacking(namespace, registry.name)
        if number is None:
            detail = f"{namespace}/{registry.name} has no accepted version yet"
            return unavailable("NoVersion", detail, headers)
        detail = f"the content of version {number} of {namespace}/{registry.name} is not here"
        return unavailable("VersionMissing", detail, headers)


def concerned(at: Snapshot, namespace: str, name: str) -> tuple[Key, ...]:
    """Give the registries that decide on what consumers of one get, the first one that lacks included."""
    keys: list[Key] = []
    following: str | None = name
    while following is not None and (namespace, following) not in keys and len(keys) < MAX_CHAIN:
        keys.append((namespace, following))
        registry = at.registry(namespace, following)
        following = registry.fallback if registry is not None else None
    return tuple(keys)


def not_synced() -> Problem:
    """Say that this replica has just started and does not know yet what exists."""
    return unavailable("NotSynced", "this replica is still reading what exists")


def choose(registry: Registry, consumer: Consumer) -> tuple[Version | None, str]:
    """Give the version that a consumer gets, and its variant."""
    canary = registry.canary
    if canary is not None and gets_candidate(canary, consumer.target, consumer):
        return canary.version, "canary"
    return registry.stable, "stable"


def identity(links: tuple[Given, ...] | list[Given]) -> Hashable:
    """Name what was read of the fallbacks: an answer is kept under this."""
    return tuple((link.registry.uid, link.registry.revision, link.version.number, link.version.hash) for link in links)


def vary(met: tuple[Registry, ...] | list[Registry]) -> str:
    """Name the request headers that this answer depends on, or may once a rollout starts."""
    names = {
        rule.attribute.lower()
        for registry in met
        if registry.canary is not None
        for rule in registry.canary.match
        if _TOKEN.fullmatch(rule.attribute)  # any other attribute can only come by the query
    }
    return ", ".join([TARGET_HEADER, *(ATTRIBUTE_HEADER + name for name in sorted(names))])


_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
