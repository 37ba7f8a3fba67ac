"""What recorded versions say together: which may go, what was decided if status is lost. Pure.

Why: status is the decision, but a hand can delete it while nobody watches. So each decision
about a version is copied to it afterwards (a mark); `recover` makes a status of marks.

It must never choose for pruning what anybody may still name, nor let a mark overrule a status.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from configregistry.clock import parse_timestamp
from configregistry.kube.objects import RevisionObject
from configregistry.model.conditions import MAX_MESSAGE
from configregistry.model.names import ANNOTATION_CLAIMED, ANNOTATION_VERDICT
from configregistry.model.status import (
    MAX_REJECTED,
    MAX_REJECTED_HASHES,
    Previous,
    Rejected,
    Stable,
    Status,
)

CLAIM_HOLDS: Final = timedelta(minutes=10)
"""A version claimed since then is not pruned: its claimer's status write may still be under way."""
REVISION_LEAP: Final = 1000
"""Added to the highest marked revision by `recover`: more than is written between two marks."""
MARK_AGAIN: Final = 500
"""The stable version is marked anew when status.revision has gone on by so much."""


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """A copy of the decision about a version, in its annotation.

    `served`: status.revision when it was last known stable. `rejected`: the reason, if it is.
    """

    served: int = 0
    rejected: str = ""
    message: str = ""
    at: str = ""

    def encode(self) -> str:
        """Give the annotation's value."""
        return msgspec.json.encode(self).decode()


_MARK: Final = msgspec.json.Decoder(Mark)


def mark_of(revision: RevisionObject) -> Mark:
    """Give the mark of a version; an empty one where there is none, or none that can be read."""
    text = revision.meta.annotations.get(ANNOTATION_VERDICT)
    if text is None:
        return Mark()
    try:
        return _MARK.decode(text)
    except msgspec.MsgspecError:
        return Mark()


def versions_of(revisions: Iterable[RevisionObject], uid: str) -> list[RevisionObject]:
    """Give the versions that the registry of this UID owns, ascending."""
    own = (each for each in revisions if each.number and each.meta.owned_by(uid))
    return sorted(own, key=lambda each: each.number)


def due_marks(revisions: Iterable[RevisionObject], status: Status) -> list[tuple[RevisionObject, Mark]]:
    """Give the marks to be written so that `recover` would find what `status` says."""
    own = versions_of(revisions, status.uid)
    highest = max((mark_of(each).served for each in own), default=0)
    told = {entry.hash: entry for entry in status.rejected}
    due = []
    for each in own:
        mark = wanted = mark_of(each)
        if each.hash in told:
            entry = told[each.hash]
            message = entry.message[:MAX_MESSAGE]
            wanted = Mark(mark.served, entry.reason, message, entry.at)
        elif mark.rejected and each.hash not in status.rejected_hashes:
            wanted = Mark(mark.served)
        if status.stable is not None and status.stable.version == each.number:
            late = mark.served < highest or status.revision - mark.served >= MARK_AGAIN
            wanted = Mark(status.revision) if late or not mark.served else Mark(mark.served)
        if wanted != mark:
            due.append((each, wanted))
    return due


def recover(revisions: Iterable[RevisionObject], uid: str) -> Status:
    """Make the status that the marks of these versions tell; without any, nothing is stable."""
    own = versions_of(revisions, uid)
    marked = [(each, mark_of(each)) for each in own]
    served = sorted(
        ((mark.served, each) for each, mark in marked if mark.served and not mark.rejected),
        key=lambda pair: (pair[0], pair[1].number),
        reverse=True,
    )
    rejected = [
        Rejected(each.number, each.hash, mark.rejected, mark.message, mark.at) for each, mark in marked if mark.rejected
    ]
    highest = max((mark.served for _each, mark in marked), default=0)
    stable = served[0][1] if served else None
    previous = served[1][1] if len(served) > 1 else None
    return Status(
        uid=uid,
        stable=Stable(stable.number, stable.hash, keys=stable.keys) if stable else None,
        previous=Previous(previous.number, previous.hash) if previous else None,
        revision=highest + REVISION_LEAP if highest else 0,
        last_version=own[-1].number if own else 0,
        rejected=tuple(rejected[-MAX_REJECTED:]),
        rejected_hashes=tuple(entry.hash for entry in rejected)[-MAX_REJECTED_HASHES:],
    )


def prunable(
    versions: Sequence[RevisionObject],
    status: Status,
    limit: int,
    pinned: int | None,
    reported: Collection[int],
    now: datetime,
) -> list[RevisionObject]:
    """Give the versions that may go, oldest first; `limit` are left beside stable and candidate.

    What may not go (previous, pinned, the highest number, reported by a consumer, claimed lately)
    counts towards `limit` but is never chosen. Without a stable version nothing is.
    """
    if status.stable is None:
        return []
    own = versions_of(versions, status.uid)
    served = {part.version for part in (status.stable, status.canary) if part is not None}
    kept = {pinned, own[-1].number, *reported} if own else set()
    if status.previous is not None:
        kept.add(status.previous.version)
    old = [each for each in own if each.number not in served]
    free = [
        each for each in old if each.number not in kept and not each.meta.terminating and not _claimed_lately(each, now)
    ]
    surplus = max(0, len(old) - limit)
    return free[:surplus]


def _claimed_lately(revision: RevisionObject, now: datetime) -> bool:
    text = revision.meta.annotations.get(ANNOTATION_CLAIMED, "")
    claimed = parse_timestamp(text.partition(" ")[0])
    return claimed is not None and now - claimed < CLAIM_HOLDS
