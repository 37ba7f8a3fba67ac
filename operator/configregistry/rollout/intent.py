"""What the spec asks for, seen from the present status; both the order of decisions and the conditions ask it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from configregistry.model import conditions as c
from configregistry.model.status import Rejected, Status
from configregistry.rollout.observation import HookState, Observation, Problem, VersionInfo


class Wish(enum.Enum):
    """The kinds of intent, in the order in which they are looked for."""

    PINNED = "pinned"
    PROBLEM = "problem"
    """The spec cannot be followed: invalid, a source missing, a validator silent."""
    STABLE = "stable"
    """What is stable already."""
    CANDIDATE = "candidate"
    """What is the candidate already."""
    REJECTED = "rejected"
    DEPENDENCY = "dependency"
    """New, and a dependency is not ready."""
    VETOED = "vetoed"
    """New, and a PreRollout hook said no."""
    NEW = "new"


class Intent(NamedTuple):
    """A wish with what it is about."""

    wish: Wish
    problem: Problem | None = None
    rejected: Rejected | None = None
    version: VersionInfo | None = None
    """The recorded version that the wish is for, where there is one."""


def intent_of(status: Status, obs: Observation) -> Intent:
    """What the spec asks for now."""
    if obs.pinned is not None:
        return _pin(status, obs, obs.pinned)
    if obs.problem is not None or obs.content is None:
        problem = obs.problem or Problem(c.INVALID_SPEC, "spec: nothing could be read from it")
        return Intent(Wish.PROBLEM, problem=problem)
    asked = obs.content.hash
    if status.stable is not None and asked == status.stable.hash:
        return Intent(Wish.STABLE)
    if status.canary is not None and asked == status.canary.hash:
        return Intent(Wish.CANDIDATE)
    rejected = status.rejection(asked)
    if rejected is not None:
        return Intent(Wish.REJECTED, rejected=rejected)
    if obs.waiting_for:
        return Intent(Wish.DEPENDENCY)
    if obs.hook is HookState.VETOED:
        return Intent(Wish.VETOED)
    return Intent(Wish.NEW, version=next((v for v in obs.versions.values() if v.hash == asked), None))


def _pin(status: Status, obs: Observation, number: int) -> Intent:
    version = obs.versions.get(number)
    field = f"spec.pinnedVersion: {number}"
    if version is None:
        known = ", ".join(str(each) for each in sorted(obs.versions)[-10:]) or "none"
        return Intent(Wish.PROBLEM, Problem(c.INVALID_SPEC, f"{field}: expected a recorded version (latest: {known})"))
    rejected = status.rejection(version.hash)
    if rejected is not None:
        message = f"{field}: expected a version that is not rejected ({rejected.reason}: {rejected.message}); see retry"
        return Intent(Wish.PROBLEM, Problem(c.INVALID_SPEC, message))
    canary = status.canary
    if canary is not None and canary.failed and canary.hash == version.hash:
        message = f"{field}: expected a version that has not failed ({canary.failure}); see promote-full"
        return Intent(Wish.PROBLEM, Problem(c.INVALID_SPEC, message))
    return Intent(Wish.PINNED, version=version)


def pin_is_due(status: Status, intent: Intent) -> bool:
    """Whether a pin that may be served is not yet what everybody gets."""
    if intent.wish is not Wish.PINNED or intent.version is None:
        return False
    return status.canary is not None or status.stable is None or status.stable.version != intent.version.number


def fallback_is_due(status: Status, obs: Observation, intent: Intent) -> bool:
    """Whether spec.fallback is yet to be accepted. A pin is a pin of content, so it does not hold that up."""
    return obs.problem is None and intent.wish is not Wish.PROBLEM and status.fallback != obs.fallback
