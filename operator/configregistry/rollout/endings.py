"""How a candidate, or the time without one, ends: each effect leaves one version for everybody.

Pure. Each is one status: there is never a half of a swap or of a rollback.
"""

from __future__ import annotations

from msgspec.structs import replace

from configregistry.model.conditions import cut
from configregistry.model.status import Outcome, Status
from configregistry.rollout.changes import Change, Result, canary_of, reject, serve, without_canary
from configregistry.rollout.observation import Note, VersionInfo


def roll_back(status: Status, change: Change) -> Result:
    """A check over its limit: back to stable, the content rejected."""
    canary = canary_of(status)
    message = change.message or canary.failure
    status = reject(status, canary.version, canary.hash, "CheckFailed", message, change.at)
    status = without_canary(status, "RolledBack", "Check", message, change.at)
    back = f"back on {status.stable.version}" if status.stable else "nothing was stable before"
    return Result(
        status,
        (
            Note("Warning", "CheckFailed", message),
            Note("Warning", "RolledBack", f"version {canary.version} rolled back, {back}: {message}"),
        ),
    )


def abort(status: Status, change: Change) -> Result:
    """Back to stable by command, the content rejected."""
    canary = canary_of(status)
    message = f"version {canary.version} aborted by command"
    status = reject(status, canary.version, canary.hash, "Aborted", message, change.at)
    status = without_canary(status, "Aborted", "User", message, change.at)
    return Result(status, (Note("Normal", "RolledBack", message),))


def pin(status: Status, change: Change) -> Result:
    """A recorded version for everybody at once; a candidate ends, the stable that is left is rejected."""
    assert change.version is not None
    target, left = change.version, status.stable
    message = f"version {target.number} pinned by spec.pinnedVersion"
    if status.canary is not None:
        result = "Completed" if status.canary.version == target.number else "Cancelled"
        status = without_canary(status, result, "User", message, change.at)
    if left is not None and left.version == target.number:
        return Result(status, (Note("Normal", "Cancelled", message),))
    if left is not None:
        told = f"version {left.version} was left by a pin to {target.number}"
        status = reject(status, left.version, left.hash, "Unpinned", told, change.at)
    return Result(serve(status, target, change.at), (Note("Normal", "RolloutCompleted", message),))


def first(status: Status, change: Change) -> Result:
    """The first version: nobody has another one, so there is nothing to go about carefully."""
    assert change.version is not None
    number = change.version.number
    status = replace(serve(status, change.version, change.at), fallback=change.obs.fallback)
    outcome = Outcome(
        version=number,
        hash=change.version.hash,
        result="Completed",
        trigger="System",
        message="first version",
        at=change.at,
    )
    note = Note("Normal", "RolloutCompleted", f"version {number} is the first version: served to everybody at once")
    return Result(replace(status, last_outcome=outcome), (note,))


def complete(status: Status, change: Change) -> Result:
    """All stages, the bake and the checks are over: the candidate is the stable version."""
    return _completed(status, change, "System", "")


def promote_full(status: Status, change: Change) -> Result:
    """The same by command, whatever is not over."""
    # A person took the responsibility: what had failed is not rejected.
    return _completed(status, change, "User", "promote-full: checks skipped")


def _completed(status: Status, change: Change, trigger: str, message: str) -> Result:
    canary = canary_of(status)
    keys = change.obs.versions[canary.version].keys if canary.version in change.obs.versions else 0
    status = serve(status, VersionInfo(canary.version, canary.hash, keys), change.at)
    outcome = Outcome(
        version=canary.version,
        hash=canary.hash,
        result="Completed",
        trigger=trigger,
        message=message,
        at=change.at,
    )
    told = f"version {canary.version} is stable" + (f" ({message})" if message else "")
    return Result(replace(status, canary=None, last_outcome=outcome), (Note("Normal", "RolloutCompleted", told),))


def cancel(status: Status, change: Change) -> Result:
    """The content was edited back to that of the stable version."""
    canary = canary_of(status)
    message = f"version {canary.version} cancelled: the content is that of the stable version again"
    return Result(
        without_canary(status, "Cancelled", "User", message, change.at), (Note("Normal", "Cancelled", message),)
    )


def veto(status: Status, change: Change) -> Result:
    """A PreRollout hook said no; the content is not rejected."""
    message = cut(f"version {canary_of(status).version} vetoed by a PreRollout hook: {change.obs.hook_message}")
    return Result(
        without_canary(status, "Cancelled", "System", message, change.at), (Note("Warning", "Cancelled", message),)
    )
