"""One registry as readers see it: which versions there are, and which of them is given to whom.

A `Registry` is a frozen value. `record`, `decide` and `forget` give another one; nothing that a
reader holds ever changes, and nothing is visible to readers before `Store.publish`.

It holds a bounded family of versions, a tree by parent number. Forgetting a version ties its
children to its parent (or, if it had none, to one of them), so that any two versions stay connected
and their difference is the sum of the change lists between them, whatever was pruned.

It must never choose between stable and canary for a reader (rollout does), never raise or lower a
revision by itself (status does), and never forget stable or canary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from configregistry.state.changes import Changes, compare, compose, invert
from configregistry.state.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HISTORY_LIMIT: Final = 100
"""Versions kept beside stable and canary. A backstop: what is normally forgotten is what the
controller prunes by `revisionHistoryLimit`, told by `forget`."""


class UnknownVersion(LookupError):  # noqa: N818
    """A decision names a version whose content is not held."""


class VersionDiffers(ValueError):  # noqa: N818
    """A number that is held came again with another hash: numbers name content for ever."""


class Match(NamedTuple):
    """Consumers whose attribute has one of the values get the canary, whatever its weight."""

    attribute: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Canary:
    """The candidate, and what decides who gets it (`rollout.buckets` reads this)."""

    version: Version
    weight: int
    seed: str
    match: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Registry:
    """A registry's decision (revision, stable, canary, fallback) and the versions that it holds."""

    name: str
    uid: str
    revision: int = 0
    stable: Version | None = None
    canary: Canary | None = None
    fallback: str | None = None
    versions: Mapping[int, Version] = field(default_factory=lambda: MappingProxyType({}))
    """By number, ascending."""
    history_limit: int = HISTORY_LIMIT

    def record(self, number: int, digest: str, content: Mapping[str, bytes], parent: int | None = None) -> Registry:
        """Hold one more version. It shares with `parent` if that is held, else with the nearest.

        Recording what is held already changes nothing. Versions may come in any order.
        """
        held = self.versions.get(number)
        if held is not None:
            if held.hash != digest:
                raise VersionDiffers(f"{self.name}: version {number} is {held.hash}, not {digest}")
            return self
        base = self.versions.get(parent) if parent is not None else None
        if base is None and self.versions:
            base = self.versions[min(self.versions, key=lambda held: abs(held - number))]
        version = Version.derive(base, number, digest, content)
        return replace(self, versions={**self.versions, number: version}).bounded(spared=number)

    def decide(
        self,
        *,
        revision: int,
        stable: int | None,
        canary: Canary | None = None,
        fallback: str | None = None,
    ) -> Registry:
        """Follow a status. Raises `UnknownVersion`, and changes nothing, if content is lacking."""
        for number in (stable, None if canary is None else canary.version.number):
            if number is not None and number not in self.versions:
                raise UnknownVersion(f"{self.name}: version {number} is not held")
        decided = replace(
            self,
            revision=revision,
            stable=None if stable is None else self.versions[stable],
            canary=canary,
            fallback=fallback,
        )
        return decided.bounded()

    def forget(self, number: int) -> Registry:
        """Drop a version from history; stable and canary stay, and an unknown one is no error."""
        if number not in self.versions or number in self._named():
            return self
        versions = dict(self.versions)
        _detach(versions, number)
        return self._with(versions)

    def bounded(self, spared: int | None = None) -> Registry:
        """Keep the newest of history, and what is spared or named; `record` and `decide` call it.

        Before the first decision all are kept: nobody knows yet which of them it will name.
        """
        versions, named = dict(self.versions), self._named()
        if named:
            history = sorted(number for number in versions if number not in named)
            for number in history[: max(0, len(history) - self.history_limit)]:
                if number != spared:
                    _detach(versions, number)
        return self._with(versions)

    def diff(self, before: Version, after: Version) -> Changes:
        """Find the net changes that turn one version into the other.

        Costs the changes on the way between them in the family; looks at every key only when one
        of them is a stranger here (forgotten since, or another registry's).
        """
        if before.data is after.data:
            return ()
        if not (self._holds(before) and self._holds(after)):
            return compare(dict(before.data.items()), dict(after.data.items()))
        up = list(self._line(before.number))
        level = {version.number: steps for steps, version in enumerate(up)}
        down: list[Version] = []
        for version in self._line(after.number):
            if version.number in level:
                up = up[: level[version.number]]
                break
            down.append(version)
        else:  # two families: only if somebody put them together by hand
            return compare(dict(before.data.items()), dict(after.data.items()))
        back = (invert(version.changes) for version in up)
        forth = (version.changes for version in reversed(down))
        return compose(*back, *forth)

    def _holds(self, version: Version) -> bool:
        held = self.versions.get(version.number)
        return held is not None and held.data is version.data

    def _line(self, number: int | None) -> Iterator[Version]:
        """Walk from a version to the first of its family."""
        while number is not None and (version := self.versions.get(number)) is not None:
            yield version
            number = version.parent

    def _named(self) -> set[int]:
        """Numbers that the decision names."""
        named = set() if self.stable is None else {self.stable.number}
        return named if self.canary is None else named | {self.canary.version.number}

    def _with(self, versions: dict[int, Version]) -> Registry:
        """Hold these versions; stable and canary become the objects of the same number in them."""
        stable, canary = self.stable, self.canary
        return replace(
            self,
            versions=MappingProxyType(dict(sorted(versions.items()))),
            stable=stable and versions[stable.number],
            canary=canary and replace(canary, version=versions[canary.version.number]),
        )


def _detach(versions: dict[int, Version], number: int) -> None:
    """Take a version out of the family, and keep the rest of it connected."""
    gone = versions.pop(number)
    children = [version for version in versions.values() if version.parent == number]
    if gone.parent is None and children:
        heir = min(children, key=lambda child: (len(child.changes), child.number))
        children.remove(heir)
        versions[heir.number] = replace(heir, parent=None, changes=())
        parent: int | None = heir.number
        way = invert(heir.changes)
    else:
        parent = gone.parent
        way = gone.changes
    for child in children:
        changes = compose(way, child.changes)
        versions[child.number] = replace(child, parent=parent, changes=changes)
