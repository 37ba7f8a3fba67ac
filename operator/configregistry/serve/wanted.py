"""What a status asks of a replica: which versions are given to whom, under which revision.

Only these fields are read, so a status that is odd elsewhere is followed all the same. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from configregistry.model.spec import MatchRule, NameRef
from configregistry.state import Canary, Match, Registry, Version


class Unreadable(ValueError):  # noqa: N818
    """The status is not one that this program could have written."""


class Named(NamedTuple):
    """A version that a status names."""

    number: int
    hash: str


class Candidate(NamedTuple):
    """The candidate that a status names, and who gets it."""

    named: Named
    weight: int
    seed: str
    match: tuple[Match, ...]
    step: int


class Wanted(NamedTuple):
    """A decision to follow, once the content that it names is here."""

    revision: int
    stable: Named | None
    canary: Candidate | None
    fallback: str | None

    def named(self) -> tuple[Named, ...]:
        """Give the versions that must be here before this may be published."""
        stable = (self.stable,) if self.stable else ()
        return (*stable, self.canary.named) if self.canary else stable

    def met_by(self, registry: Registry) -> bool:
        """Tell whether a registry already gives exactly this."""
        return (
            registry.revision == self.revision
            and registry.fallback == self.fallback
            and _named(registry.stable) == self.stable
            and _same_canary(self.canary, registry.canary)
        )

    def decide(self, registry: Registry) -> Registry:
        """Follow it. The registry must hold the content of all that is named."""
        canary = None
        if self.canary is not None:
            version = registry.versions[self.canary.named.number]
            canary = Canary(version, self.canary.weight, self.canary.seed, self.canary.match)
        return registry.decide(
            revision=self.revision,
            stable=self.stable.number if self.stable else None,
            canary=canary,
            fallback=self.fallback,
        )


def read_status(raw: bytes, uid: str) -> Wanted:
    """Read a status of the registry `uid`. Raises `Unreadable`.

    One that was written for another uid (restored from a backup, say) has decided nothing here.
    """
    if not raw:
        return NOTHING
    try:
        status = _DECODER.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unreadable(f"status: {error}") from error
    if status.uid not in ("", uid):
        return NOTHING
    stable = Named(status.stable.version, status.stable.hash) if status.stable else None
    canary = None
    if status.canary is not None:
        candidate = status.canary
        canary = Candidate(
            Named(candidate.version, candidate.hash),
            candidate.weight,
            candidate.seed,
            tuple(Match(rule.attribute, rule.values) for rule in candidate.match),
            candidate.current_step_index,
        )
    fallback = status.fallback.name if status.fallback else None
    return Wanted(status.revision, stable, canary, fallback)


NOTHING: Final = Wanted(0, None, None, None)
"""What a registry without a status wants."""


def _named(version: Version | None) -> Named | None:
    return None if version is None else Named(version.number, version.hash)


def _same_canary(wanted: Candidate | None, canary: Canary | None) -> bool:
    if wanted is None or canary is None:
        return wanted is None and canary is None
    return (
        _named(canary.version) == wanted.named
        and canary.weight == wanted.weight
        and canary.seed == wanted.seed
        and canary.match == wanted.match
    )


class _Stable(msgspec.Struct, frozen=True, gc=False):
    version: int
    hash: str


class _Canary(msgspec.Struct, frozen=True, rename="camel", gc=False):
    version: int
    hash: str
    weight: int = 0
    current_step_index: int = 0
    seed: str = ""
    match: tuple[MatchRule, ...] = ()


class _Status(msgspec.Struct, frozen=True, gc=False):
    uid: str = ""
    revision: int = 0
    stable: _Stable | None = None
    canary: _Canary | None = None
    fallback: NameRef | None = None


_DECODER: Final = msgspec.json.Decoder(_Status)
