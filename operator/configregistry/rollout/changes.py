"""The words of an event's effect: `Change` goes in, `Result` comes out; and what several effects share.

Pure. None of the effects touches `revision`: the machine raises it, once a write, when what the registry
gives changed.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from msgspec.structs import replace

from configregistry.clock import timestamp
from configregistry.model.status import (
    MAX_REJECTED,
    MAX_REJECTED_HASHES,
    Canary,
    Outcome,
    Previous,
    Rejected,
    Stable,
    Status,
)
from configregistry.rollout.observation import Command, Note, Observation, VersionInfo
from configregistry.rollout.plan import Plan
from configregistry.rollout.table import Event


class Change(NamedTuple):
    """An event with what it needs: the observation, and what the event is about."""

    event: Event
    obs: Observation
    elapsed: float = 0.0
    """Seconds of the present stage."""
    message: str = ""
    version: VersionInfo | None = None
    """The version that starts, is pinned or is served first."""
    command: Command | None = None

    @property
    def plan(self) -> Plan:
        """The plan; events that need one are never chosen without."""
        assert self.obs.plan is not None
        return self.obs.plan

    @property
    def at(self) -> str:
        """The time to write into the status."""
        return timestamp(self.obs.now)


class Result(NamedTuple):
    """The next status, with the events to tell."""

    status: Status
    notes: tuple[Note, ...]


class Apply(Protocol):
    """One event's effect."""

    def __call__(self, status: Status, change: Change) -> Result:
        """The status after the event."""
        ...


def canary_of(status: Status) -> Canary:
    """The candidate, where the table says that there is one."""
    assert status.canary is not None
    return status.canary


def reject(status: Status, version: int, content_hash: str, reason: str, message: str, at: str) -> Status:
    """Remember that content is not to be served again; the first reason is the one that stays."""
    if content_hash in status.rejected_hashes:
        return status
    entry = Rejected(version=version, hash=content_hash, reason=reason, message=message, at=at)
    return replace(
        status,
        rejected=(*status.rejected, entry)[-MAX_REJECTED:],
        rejected_hashes=(*status.rejected_hashes, content_hash)[-MAX_REJECTED_HASHES:],
    )


def without_canary(status: Status, result: str, trigger: str, message: str, at: str) -> Status:
    """The candidate ends, whatever it was; one that had failed is rejected however it ends."""
    canary = canary_of(status)
    if canary.failed:
        status = reject(status, canary.version, canary.hash, "CheckFailed", canary.failure, at)
    outcome = Outcome(version=canary.version, hash=canary.hash, result=result, trigger=trigger, message=message, at=at)
    return replace(status, canary=None, last_outcome=outcome)


def serve(status: Status, version: VersionInfo, at: str) -> Status:
    """Make a version what everybody gets."""
    left = status.stable
    return replace(
        status,
        stable=Stable(version=version.number, hash=version.hash, since=at, keys=version.keys),
        previous=Previous(version=left.version, hash=left.hash) if left else status.previous,
        last_version=max(status.last_version, version.number),
    )
