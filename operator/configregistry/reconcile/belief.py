"""Which status to decide on, of what is there and what this process knows. No I/O.

Between the two stand a watch that is behind our own write, a write whose answer was lost, and a hand that
edited or deleted the status. It must never let `revision` stand still where what is given changes: serve
refuses to go back, and tells consumers of nothing that has no new revision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from configregistry.kube.history import recover
from configregistry.kube.objects import RegistryObject, RevisionObject
from configregistry.model.status import Status, encode_status, parse_status
from configregistry.reconcile.memory import Attempt, Memory
from configregistry.rollout.machine import gives


class Belief(NamedTuple):
    """`status` is what to decide on; `drifted`: the object holds another one, which is to be put right.

    `epoch`: of the leader that wrote what the object holds.
    """

    status: Status
    drifted: bool
    epoch: int = 0


def newest(memory: Memory, seen: RegistryObject) -> RegistryObject:
    """The later of what the reflector has and what a write or a GET gave back since."""
    # resourceVersions of one resource are comparable as numbers (KEP-5504).
    latest = memory.latest
    if latest is not None and int(latest.meta.resource_version) > int(seen.meta.resource_version):
        return latest
    memory.latest = None
    return seen


def readable(raw: bytes, uid: str) -> Status | None:
    """A status that was written for this very object; None for none, for an unreadable one, a namesake's."""
    if not raw:
        return None
    try:
        status = parse_status(raw)
    except ValueError:
        return None
    return status if status.uid in ("", uid) else None


def settled(memory: Memory, fresh: RegistryObject, observed: Status | None, now: float) -> Attempt | None:
    """What became of the writes without an answer: the one that was accepted, if any is known to be.

    While the resourceVersion that they were made on still stands, each of them may yet come, and all are
    remembered; what is written meanwhile is written on the same one, so that only one can be accepted.
    """
    attempts = memory.attempts
    if not attempts or attempts[0].base == fresh.meta.resource_version:
        return None
    memory.attempts = ()
    for attempt in attempts:
        if observed == parse_status(encode_status(attempt.status)):
            memory.written, memory.saved_at = observed, now
            return attempt
    return None


def believed(
    memory: Memory,
    observed: Status | None,
    revisions: Mapping[int, RevisionObject],
    now: float,
    raised: Callable[[Status], Status] = lambda status: status,
) -> Belief:
    """The status to decide on: what is there, or what this process knows where a hand changed that.

    `raised` gives the one to begin with where the API server went back in time (see `floors`).
    """
    if memory.written is None:
        memory.written, memory.saved_at = raised(_first(memory.uid, observed, revisions)), now
    known, there = memory.written, observed or Status()
    if there == known:
        return Belief(known, drifted=False, epoch=there.leader_epoch)
    if there.revision >= known.revision:
        # What the hand wrote may have been served by now under that revision.
        known = replace(known, revision=there.revision + (gives(there) != gives(known)))
    return Belief(known, drifted=True, epoch=there.leader_epoch)


def _first(uid: str, observed: Status | None, revisions: Mapping[int, RevisionObject]) -> Status:
    """The status that a process begins with; one that was lost is made of what was marked at the versions."""
    status = observed or Status()
    if status.stable is not None or not revisions:
        return status
    kept = recover(list(revisions.values()), uid)
    if kept.stable is None:
        return status
    return replace(kept, revision=max(kept.revision, status.revision), commands=status.commands)
