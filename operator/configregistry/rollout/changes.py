"""What each event does to the status: one function an event, pure, each giving the whole next status.

None of them touches `revision`: the machine raises it, once a write, when what the registry gives changed.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from configregistry.clock import timestamp
from configregistry.model.durations import format_duration
from configregistry.model.status import (
    MAX_REJECTED,
    MAX_REJECTED_HASHES,
    Canary,
    Outcome,
    Paused,
    Previous,
    Rejected,
    Stable,
    Status,
)
from configregistry.rollout.gates import stage_of, wait_of
from configregistry.rollout.observation import Command, HookState, Note, Observation, VersionInfo
from configregistry.rollout.plan import Plan, Stage
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


def _without_canary(status: Status, result: str, trigger: str, message: str, at: str) -> Status:
    """The candidate ends, whatever it was; one that had failed is rejected however it ends."""
    canary = _canary(status)
    if canary.failed:
        status = reject(status, canary.version, canary.hash, "CheckFailed", canary.failure, at)
    outcome = Outcome(version=canary.version, hash=canary.hash, result=result, trigger=trigger, message=message, at=at)
    return replace(status, canary=None, last_outcome=outcome)


def _canary(status: Status) -> Canary:
    assert status.canary is not None
    return status.canary


def _roll_back(status: Status, change: Change) -> Result:
    canary = _canary(status)
    message = change.message or canary.failure
    status = reject(status, canary.version, canary.hash, "CheckFailed", message, change.at)
    status = _without_canary(status, "RolledBack", "Check", message, change.at)
    back = f"back on {status.stable.version}" if status.stable else "nothing was stable before"
    return Result(
        status,
        (
            Note("Warning", "CheckFailed", message),
            Note("Warning", "RolledBack", f"version {canary.version} rolled back, {back}: {message}"),
        ),
    )


def _hold(status: Status, change: Change) -> Result:
    canary = replace(_canary(status), failed=True, failure=change.message, paused=None)
    note = Note("Warning", "CheckFailed", f"version {canary.version} stays at {canary.weight} %: {change.message}")
    return Result(replace(status, canary=canary), (note,))


def _abort(status: Status, change: Change) -> Result:
    canary = _canary(status)
    message = f"version {canary.version} aborted by command"
    status = reject(status, canary.version, canary.hash, "Aborted", message, change.at)
    status = _without_canary(status, "Aborted", "User", message, change.at)
    return Result(status, (Note("Normal", "RolledBack", message),))


def _pin(status: Status, change: Change) -> Result:
    assert change.version is not None
    target, left = change.version, status.stable
    message = f"version {target.number} pinned by spec.pinnedVersion"
    if status.canary is not None:
        status = _without_canary(status, "Cancelled", "User", message, change.at)
    if left is not None and left.version == target.number:
        return Result(status, (Note("Normal", "Cancelled", message),))
    if left is not None:
        told = f"version {left.version} was left by a pin to {target.number}"
        status = reject(status, left.version, left.hash, "Unpinned", told, change.at)
    return Result(_serve(status, target, change.at), (Note("Normal", "RolloutCompleted", message),))


def _serve(status: Status, version: VersionInfo, at: str) -> Status:
    """Make a version what everybody gets."""
    left = status.stable
    return replace(
        status,
        stable=Stable(version=version.number, hash=version.hash, since=at, keys=version.keys),
        previous=Previous(version=left.version, hash=left.hash) if left else status.previous,
        last_version=max(status.last_version, version.number),
    )


def _first(status: Status, change: Change) -> Result:
    assert change.version is not None
    number = change.version.number
    status = replace(_serve(status, change.version, change.at), fallback=change.obs.fallback)
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


def _start(status: Status, change: Change) -> Result:
    """Name the candidate; it begins in the same write where nothing holds it, else waits at weight 0."""
    assert change.version is not None
    version = change.version
    canary = Canary(
        version=version.number,
        hash=version.hash,
        steps=change.plan.steps,
        steps_hash=change.plan.steps_hash,
        started_at=change.at,
        seed=change.plan.seed or version.hash,
        paused=Paused(by="Spec") if change.plan.paused else None,
    )
    status = replace(status, canary=canary, last_version=max(status.last_version, version.number))
    note = Note("Normal", "RolloutStarted", f"version {version.number} is the candidate")
    if not may_begin(change.obs):
        return Result(status, (note,))
    begun = _begin(status, change)
    return Result(begun.status, (note, *begun.notes))


def may_begin(obs: Observation) -> bool:
    """Whether nothing holds a named candidate at weight 0."""
    return obs.plan is not None and not obs.plan.paused and obs.hook is HookState.ALLOWED


def _supersede(status: Status, change: Change) -> Result:
    assert change.version is not None
    old = _canary(status)
    message = f"version {old.version} superseded by {change.version.number}"
    status = _without_canary(status, "Superseded", "User", message, change.at)
    started = _start(status, change)
    return Result(started.status, (Note("Normal", "Superseded", message), *started.notes))


def _begin(status: Status, change: Change) -> Result:
    canary = replace(_canary(status), paused=None, pre_rollout_done=True)
    return _enter(replace(status, canary=canary), change, change.plan.stages[0])


def _enter(status: Status, change: Change, stage: Stage) -> Result:
    """Go to a stage: its weight, its clock at zero, its checks' passes forgotten."""
    plan, old = change.plan, _canary(status)
    last = stage is plan.stages[-1]
    canary = replace(
        old,
        weight=stage.weight,
        current_step_index=stage.step,
        steps=plan.steps,
        steps_hash=plan.steps_hash,
        step_started_at=change.at,
        elapsed="0s",
        baking=last and not stage.pause and not stage.waits and plan.bake > 0,
        promoted=False,
        seed=_seed(plan, old),
        match=plan.match,
        checks=tuple(replace(check, passed=0) for check in old.checks),
    )
    note = Note("Normal", "StepAdvanced", f"version {canary.version} goes to {stage.weight} % of consumers")
    return Result(replace(status, canary=canary), (note,))


def _seed(plan: Plan, canary: Canary) -> str:
    return plan.seed or canary.hash


def _restep(status: Status, change: Change) -> Result:
    """The steps were edited: the same candidate starts at the first of them."""
    return _enter(_unpause(status), change, change.plan.stages[0])


def _advance(status: Status, change: Change) -> Result:
    following = next(stage for stage in change.plan.stages if stage.step > _canary(status).current_step_index)
    return _enter(status, change, following)


def _bake(status: Status, change: Change) -> Result:
    canary = _canary(status)
    canary = replace(
        canary,
        baking=True,
        promoted=False,
        paused=None,
        elapsed="0s",
        step_started_at=change.at,
        checks=tuple(replace(check, passed=0) for check in canary.checks),
    )
    bake = format_duration(change.plan.bake)
    return Result(
        replace(status, canary=canary), (Note("Normal", "StepAdvanced", f"version {canary.version} bakes for {bake}"),)
    )


def _complete(status: Status, change: Change) -> Result:
    return _completed(status, change, "System", "")


def _promote_full(status: Status, change: Change) -> Result:
    canary = _canary(status)
    # A person took the responsibility, so the failure must not come back as a rejection.
    status = replace(status, canary=replace(canary, failed=False))
    return _completed(status, change, "User", "promote-full: checks skipped")


def _completed(status: Status, change: Change, trigger: str, message: str) -> Result:
    canary = _canary(status)
    keys = change.obs.versions[canary.version].keys if canary.version in change.obs.versions else 0
    status = _serve(status, VersionInfo(canary.version, canary.hash, keys), change.at)
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


def _pause(status: Status, change: Change) -> Result:
    token = change.command.token if change.command else ""
    canary = replace(_canary(status), paused=Paused(by="Command", token=token))
    note = Note("Normal", "RolloutPaused", f"version {canary.version} paused by command at {canary.weight} %")
    return Result(replace(status, canary=canary), (note,))


def _freeze(status: Status, change: Change) -> Result:  # noqa: ARG001
    canary = replace(_canary(status), paused=Paused(by="Spec"))
    note = Note("Normal", "RolloutPaused", f"version {canary.version} paused by spec.rollout.paused")
    return Result(replace(status, canary=canary), (note,))


def _wait(status: Status, change: Change) -> Result:  # noqa: ARG001
    canary = replace(_canary(status), paused=Paused(by="Step"))
    note = Note("Normal", "RolloutPaused", f"version {canary.version} waits at {canary.weight} % for promote")
    return Result(replace(status, canary=canary), (note,))


def _unpause(status: Status) -> Status:
    canary = _canary(status)
    by_step = canary.paused is not None and canary.paused.by == "Step"
    return replace(status, canary=replace(canary, paused=None)) if by_step else status


def _resume(status: Status, change: Change) -> Result:  # noqa: ARG001
    canary = _canary(status)
    checks = () if canary.failed else canary.checks
    canary = replace(canary, paused=None, failed=False, failure="", checks=checks)
    return Result(
        replace(status, canary=canary), (Note("Normal", "RolloutResumed", f"version {canary.version} goes on"),)
    )


def _promote(status: Status, change: Change) -> Result:
    """The next step now; in the last stage and the bake its time is over, its checks are still asked."""
    canary, plan = _canary(status), change.plan
    stage = stage_of(canary, plan)
    if canary.baking or stage is None or stage is plan.stages[-1]:
        elapsed = max(change.elapsed, wait_of(canary, plan))
        canary = replace(canary, promoted=True, elapsed=format_duration(elapsed))
        note = Note("Normal", "StepAdvanced", f"version {canary.version}: the wait at 100 % was ended by promote")
        return Result(_unpause(replace(status, canary=canary)), (note,))
    return _advance(_unpause(status), change)


def _retry(status: Status, change: Change) -> Result:
    assert change.command is not None
    number = change.command.version
    gone = {entry.hash for entry in status.rejected if entry.version == number}
    gone |= {version.hash for version in change.obs.versions.values() if version.number == number}
    status = replace(
        status,
        rejected=tuple(entry for entry in status.rejected if entry.hash not in gone),
        rejected_hashes=tuple(entry for entry in status.rejected_hashes if entry not in gone),
    )
    return Result(status, (Note("Normal", "RolloutResumed", f"version {number} may be tried again"),))


def _cancel(status: Status, change: Change) -> Result:
    canary = _canary(status)
    message = f"version {canary.version} cancelled: the content is that of the stable version again"
    return Result(
        _without_canary(status, "Cancelled", "User", message, change.at), (Note("Normal", "Cancelled", message),)
    )


def _veto(status: Status, change: Change) -> Result:
    message = f"version {_canary(status).version} vetoed by a PreRollout hook: {change.obs.hook_message}"
    return Result(
        _without_canary(status, "Cancelled", "System", message, change.at), (Note("Warning", "Cancelled", message),)
    )


def _retarget(status: Status, change: Change) -> Result:
    canary = _canary(status)
    canary = replace(canary, match=change.plan.match, seed=_seed(change.plan, canary))
    return Result(replace(status, canary=canary), ())


def _fallback(status: Status, change: Change) -> Result:
    return Result(replace(status, fallback=change.obs.fallback), ())


APPLY: Final[dict[Event, Apply]] = {
    Event.TRIP: _roll_back,
    Event.HOLD: _hold,
    Event.ABORT: _abort,
    Event.PIN: _pin,
    Event.PAUSE: _pause,
    Event.PROMOTE_FULL: _promote_full,
    Event.PROMOTE: _promote,
    Event.RESUME: _resume,
    Event.RETRY: _retry,
    Event.FREEZE: _freeze,
    Event.THAW: _resume,
    Event.CANCEL: _cancel,
    Event.SUPERSEDE: _supersede,
    Event.FIRST: _first,
    Event.START: _start,
    Event.VETO: _veto,
    Event.BEGIN: _begin,
    Event.RESTEP: _restep,
    Event.RETARGET: _retarget,
    Event.WAIT: _wait,
    Event.ADVANCE: _advance,
    Event.BAKE: _bake,
    Event.COMPLETE: _complete,
    Event.FALLBACK: _fallback,
}
