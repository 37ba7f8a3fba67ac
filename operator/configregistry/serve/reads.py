"""What one consumer gets of a registry: its variant, what falls back to where, and the bytes.

Everything is answered from one snapshot, so no answer is ever a mixture of two states. Each
registry of a fallback chain chooses its own variant for the same consumer.

Whether something is *known* to be absent or only not here (yet) is never confused: the first is 404
or falls through to the next registry, the second is 503.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple, Protocol

import msgspec

from configregistry.rollout.buckets import gets_candidate
from configregistry.serve.encoded import Cache
from configregistry.serve.params import Params, Selector
from configregistry.serve.responses import (
    ATTRIBUTE_HEADER,
    REVISION_HEADER,
    TARGET_HEADER,
    VERSION_HEADER,
    Answer,
    Headers,
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


class Reads:
    """Reads of one registry and its fallbacks."""

    def __init__(self, source: Source, cache: Cache) -> None:
        self._source = source
        self._cache = cache

    def key(self, at: Snapshot, namespace: str, name: str, key: str, params: Params) -> Answer:
        """Give one key: of the nearest registry of the chain that has it."""
        registry = self.registry(at, namespace, name)
        selector = params.version
        raw = params.flag("raw")
        given = self._given(namespace, registry, params, selector)
        entries = self._cache.of(registry)
        place: Hashable = (key, given.variant, raw, given.version.number)
        answer = entries.answers.get(place)
        if answer is not None:
            return answer
        value = given.version.get(key)
        if value is not None:
            headers = [*given.headers, ("vary", _vary((registry,)))]
            body = value if raw else _key_body(given, key, value, registry.name)
            return entries.keep(place, Answer(body, headers))
        links: list[Given] = []
        met = [registry]
        if selector is None:
            for other in self._fallbacks(at, namespace, registry):
                met.append(other)
                link = self._link(namespace, other, params)
                if link is None:
                    continue
                links.append(link)
                value = link.version.get(key)
                if value is not None:
                    place = (key, given.variant, raw, _identity(links))
                    answer = entries.answers.get(place)
                    if answer is not None:
                        return answer
                    headers = [*given.headers, ("vary", _vary(met))]
                    body = value if raw else _key_body(given, key, value, other.name)
                    return entries.keep(place, Answer(body, headers))
        detail = f"{namespace}/{name} has no key {key!r}"
        raise not_found("KeyNotFound", detail, [*given.headers, ("vary", _vary(met))])

    def whole(self, at: Snapshot, namespace: str, name: str, params: Params) -> Answer:
        """Give the whole of a registry: the chain merged, the nearest wins."""
        registry = self.registry(at, namespace, name)
        selector = params.version
        given = self._given(namespace, registry, params, selector)
        links: list[Given] = []
        met = [registry]
        if selector is None and registry.fallback is not None:
            met += self._fallbacks(at, namespace, registry)
            found = (self._link(namespace, other, params) for other in met[1:])
            links = [link for link in found if link is not None]
        entries = self._cache.of(registry)
        place: Hashable = (None, given.variant, given.version.number, _identity(links))
        answer = entries.answers.get(place)
        if answer is not None:
            return answer
        headers = [*given.headers, ("vary", _vary(met))]
        return entries.keep(place, Answer(_whole_body(namespace, given, links), headers))

    def registry(self, at: Snapshot, namespace: str, name: str) -> Registry:
        """Give the registry that is asked for, or say which part of its name is unknown."""
        registry = at.registry(namespace, name)
        if registry is not None:
            return registry
        if not self._source.ready:
            raise not_synced()
        if not at.namespace(namespace):
            raise not_found("NamespaceNotFound", f"no registry in namespace {namespace!r}")
        raise not_found("RegistryNotFound", f"no registry {name!r} in namespace {namespace!r}")

    def _given(self, namespace: str, registry: Registry, params: Params, selector: Selector | None) -> Given:
        """Choose what the consumer gets of the registry that it asked for."""
        if selector is not None:
            return self._selected(namespace, registry, selector)
        version, variant = _choose(registry, params)
        if version is None:
            raise self._absent(namespace, registry)
        return Given(registry, version, variant)

    def _selected(self, namespace: str, registry: Registry, selector: Selector) -> Given:
        if selector == "stable":
            if registry.stable is None:
                raise self._absent(namespace, registry)
            return Given(registry, registry.stable, "stable")
        if selector == "canary":
            if registry.canary is not None:
                return Given(registry, registry.canary.version, "canary")
            detail = f"{namespace}/{registry.name} has no candidate at present"
        else:
            version = self._source.history(namespace, registry, selector)
            if version is not None:
                return Given(registry, version, "history")
            detail = f"{namespace}/{registry.name} has no version {selector}"
        raise not_found("VersionNotFound", detail, [(REVISION_HEADER, str(registry.revision))])

    def _link(self, namespace: str, registry: Registry, params: Params) -> Given | None:
        """Choose what the consumer gets of a fallback; None if that never gave anything."""
        version, variant = _choose(registry, params)
        if version is not None:
            return Given(registry, version, variant)
        if self._source.lacking(namespace, registry.name) is not None:
            raise self._absent(namespace, registry)
        return None

    def _absent(self, namespace: str, registry: Registry) -> Exception:
        """Say why a registry that exists gives nothing."""
        headers = [(REVISION_HEADER, str(registry.revision))]
        number = self._source.lacking(namespace, registry.name)
        if number is None:
            detail = f"{namespace}/{registry.name} has no accepted version yet"
            return unavailable("NoVersion", detail, headers)
        detail = f"the content of version {number} of {namespace}/{registry.name} is not here"
        return unavailable("VersionMissing", detail, headers)

    def _fallbacks(self, at: Snapshot, namespace: str, first: Registry) -> Iterator[Registry]:
        """Walk the chain behind a registry, to a name that does not exist, a repeat, or 8."""
        met = {first.name}
        name = first.fallback
        while name is not None and name not in met and len(met) < MAX_CHAIN:
            registry = at.registry(namespace, name)
            if registry is None:
                if not self._source.ready:
                    raise not_synced()
                return
            yield registry
            met.add(name)
            name = registry.fallback


def not_synced() -> Exception:
    """Say that this replica has just started and does not know yet what exists."""
    return unavailable("NotSynced", "this replica is still reading what exists")


def _choose(registry: Registry, params: Params) -> tuple[Version | None, str]:
    canary = registry.canary
    if canary is not None and gets_candidate(canary, params.target, params):
        return canary.version, "canary"
    return registry.stable, "stable"


def _identity(links: list[Given]) -> Hashable:
    """Name what was read of the fallbacks: an answer is kept under this."""
    return tuple((link.registry.uid, link.registry.revision, link.version.number, link.version.hash) for link in links)


def _vary(met: list[Registry] | tuple[Registry]) -> str:
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
_text = msgspec.json.encode


def _key_body(given: Given, key: str, value: bytes, source: str) -> bytes:
    return b'{"key":%b,"value":%b,"version":%d,"revision":%d,"variant":%b,"source":%b}' % (
        _text(key),
        value,
        given.version.number,
        given.registry.revision,
        _text(given.variant),
        _text(source),
    )


def _whole_body(namespace: str, given: Given, links: list[Given]) -> bytes:
    data = given.version.content()
    if links:
        for link in links:
            for key, value in link.version.data.items():
                data.setdefault(key, value)
        data = dict(sorted(data.items()))
    members = b",".join(b"%b:%b" % (_text(key), value) for key, value in data.items())
    head = _text(
        {
            "namespace": namespace,
            "registry": given.registry.name,
            "version": given.version.number,
            "hash": given.version.hash,
            "variant": given.variant,
            "revision": given.registry.revision,
        }
    )
    return b'%b,"data":{%b}}' % (head[:-1], members)
