"""Who gets the candidate. Pure, and the same answer in every replica and every language.

A target falls into one of 10,000 buckets by a hash of the rollout's seed and its own name, so who
gets the candidate is sticky while the candidate lives, grows and never shrinks as the weight grows,
and needs no memory anywhere. `docs/spec/bucket-vectors.json` lets other languages check themselves.

It must never use `hash()` (another value in each process), an address, or anything that a consumer
does not say of itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Final, Protocol

BUCKETS: Final = 10_000
PER_PERCENT: Final = BUCKETS // 100


class Rule(Protocol):
    """What `model.spec.MatchRule` and `state.Match` have in common."""

    @property
    def attribute(self) -> str:
        """Which attribute of the consumer."""
        ...

    @property
    def values(self) -> Collection[str]:
        """The values of which it must have one."""
        ...


class Candidate(Protocol):
    """What `model.status.Canary` and `state.Canary` have in common."""

    @property
    def weight(self) -> int:
        """The share of targets that get it, in percent."""
        ...

    @property
    def seed(self) -> str:
        """What makes each rollout pick others first."""
        ...

    @property
    def match(self) -> Iterable[Rule]:
        """Consumers that get it whatever the weight."""
        ...


class Attributes(Protocol):
    """What a consumer says of itself. A dict will do."""

    def get(self, name: str, /) -> str | None:
        """Give the value of an attribute, or None."""
        ...


def bucket(seed: str, target: str) -> int:
    """Give the target's bucket, 0 to 9,999."""
    digest = hashlib.sha256(f"{seed}\n{target}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def gets_candidate(candidate: Candidate, target: str | None, attributes: Attributes) -> bool:
    """Tell whether a consumer gets the candidate.

    Without a target (None or empty: an unset variable is nobody's identity) only a match rule or
    the weight 100 gives it.
    """
    weight = candidate.weight
    if weight >= 100:  # noqa: PLR2004 - percent
        return True
    if matches(candidate, attributes):
        return True
    if not target or weight <= 0:
        return False
    return bucket(candidate.seed, target) < weight * PER_PERCENT


def matches(candidate: Candidate, attributes: Attributes) -> bool:
    """Tell whether one of the candidate's rules names this consumer."""
    return any(attributes.get(rule.attribute) in rule.values for rule in candidate.match)
