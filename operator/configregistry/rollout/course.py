"""How a candidate starts and goes on: each effect leaves a candidate, or touches none.

Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from configregistry.model.durations import format_duration
from configregistry.model.status import Canary, Paused, Status
from configregistry.rollout.changes import Change, Result, canary_of, without_canary
from configregistry.rollout.commands import rejected_as
from configregistry.rollout.gates import stage_of, wait_of
from configregistry.rollout.observation import HookState, Note, Observation
from configregistry.rollout.plan import Plan, Stage


def start(status: Status, change: Change) -> Result:
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
    begun = begin(status, change)
    return Result(begun.status, (note, *begun.notes))


def may_begin(obs: Observation) -> bool:
    """Whether nothing holds a named candidate at weight 0."""
    return obs.plan is not None and not obs.plan.paused and obs.hook is HookState.ALLOWED


def supersede(status: Status, change: Change) -> Result:
    """Other content takes the candidate's place."""
    assert change.version is not None
    old = canary_of(status)
    message = f"version {old.version} superseded by {change.version.number}"
    status = without_canary(status, "Superseded", "User", message, change.at)
    started = start(status, change)
    return Result(started.status, (Note("Normal", "Superseded", message), *started.notes))


def begin(status: Status, change: Change) -> Result:
    """Nothing holds the named candidate any more: the first stage."""
    canary = replace(canary_of(status), paused=None, pre_rollout_done=True)
    return _enter(replace(status, canary=canary), change, change.plan.stages[0])


def _enter(status: Status, change: Change, stage: Stage) -> Result:
    """Go to a stage: its weight, its clock at zero, its checks' passes forgotten."""
    plan, old = change.plan, canary_of(status)
    last = stage is plan.stages[-1]
    canary = replace(
        old,
        weight=stage.weight,
        current_step_index=stage.step,
        steps=plan.steps,
        steps_hash=plan.steps_hash,
        step_started_at=_stage_time(old, change),
        elapsed="0s",
        baking=last and not stage.pause and not stage.waits and plan.bake > 0,
        promoted=False,
        seed=_seed(plan, old),
        match=plan.match,
        checks=tuple(replace(check, passed=0) for check in old.checks),
    )
    note = Note("Normal", "StepAdvanced", f"version {canary.version} goes to {stage.weight} % of consumers")
    return Result(replace(status, canary=canary), (note,))


def _stage_time(canary: Canary, change: Change) -> str:
    """When a stage begins, unlike the present one's whatever the wall clock does: passes are told apart by it."""
    moment = change.obs.now.astimezone(UTC)
    text = _milliseconds(moment)
    return text if text != canary.step_started_at else _milliseconds(moment + timedelta(milliseconds=1))


def _milliseconds(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seed(plan: Plan, canary: Canary) -> str:
    return plan.seed or canary.hash


def restep(status: Status, change: Change) -> Result:
    """The steps were edited: the same candidate starts at the first of them."""
    return _enter(_unpause(status), change, change.plan.stages[0])


def advance(status: Status, change: Change) -> Result:
    """The next stage."""
    following = next(stage for stage in change.plan.stages if stage.step > canary_of(status).current_step_index)
    return _enter(status, change, following)


def bake(status: Status, change: Change) -> Result:
    """The last stage's pauses are over: the bake."""
    canary = canary_of(status)
    canary = replace(
        canary,
        # Past the last step, so that a second click on promote is seen to speak of the stage before.
        current_step_index=change.plan.steps,
        baking=True,
        promoted=False,
        paused=None,
        elapsed="0s",
        step_started_at=_stage_time(canary, change),
        checks=tuple(replace(check, passed=0) for check in canary.checks),
    )
    told = f"version {canary.version} bakes for {format_duration(change.plan.bake)}"
    return Result(replace(status, canary=canary), (Note("Normal", "StepAdvanced", told),))


def hold(status: Status, change: Change) -> Result:
    """A check over its limit with onFailure Pause: the weight stays, and a person decides."""
    canary = replace(canary_of(status), failed=True, failure=change.message, paused=None)
    note = Note("Warning", "CheckFailed", f"version {canary.version} stays at {canary.weight} %: {change.message}")
    return Result(replace(status, canary=canary), (note,))


def pause(status: Status, change: Change) -> Result:
    """By command."""
    token = change.command.token if change.command else ""
    canary = replace(canary_of(status), paused=Paused(by="Command", token=token))
    note = Note("Normal", "RolloutPaused", f"version {canary.version} paused by command at {canary.weight} %")
    return Result(replace(status, canary=canary), (note,))


def freeze(status: Status, change: Change) -> Result:  # noqa: ARG001
    """By spec.rollout.paused."""
    canary = replace(canary_of(status), paused=Paused(by="Spec"))
    note = Note("Normal", "RolloutPaused", f"version {canary.version} paused by spec.rollout.paused")
    return Result(replace(status, canary=canary), (note,))


def wait(status: Status, change: Change) -> Result:  # noqa: ARG001
    """A pause without duration."""
    canary = replace(canary_of(status), paused=Paused(by="Step"))
    note = Note("Normal", "RolloutPaused", f"version {canary.version} waits at {canary.weight} % for promote")
    return Result(replace(status, canary=canary), (note,))


def _unpause(status: Status) -> Status:
    canary = canary_of(status)
    by_step = canary.paused is not None and canary.paused.by == "Step"
    return replace(status, canary=replace(canary, paused=None)) if by_step else status


def resume(status: Status, change: Change) -> Result:
    """The stage goes on; after a failed check with counters and progressDeadline at zero, or it would fail again."""
    canary = canary_of(status)
    if canary.failed:
        elapsed = format_duration(min(change.elapsed, wait_of(canary, change.plan)))
        canary = replace(canary, failed=False, failure="", checks=(), elapsed=elapsed)
    canary = replace(canary, paused=None)
    return Result(
        replace(status, canary=canary), (Note("Normal", "RolloutResumed", f"version {canary.version} goes on"),)
    )


def promote(status: Status, change: Change) -> Result:
    """The next step now; in the last stage and the bake its time is over, its checks are still asked."""
    canary, plan = canary_of(status), change.plan
    stage = stage_of(canary, plan)
    if canary.baking or stage is None or stage is plan.stages[-1]:
        elapsed = max(change.elapsed, wait_of(canary, plan))
        canary = replace(canary, promoted=True, elapsed=format_duration(elapsed))
        note = Note("Normal", "StepAdvanced", f"version {canary.version}: the wait at 100 % was ended by promote")
        return Result(_unpause(replace(status, canary=canary)), (note,))
    return advance(_unpause(status), change)


def retry(status: Status, change: Change) -> Result:
    """Forget that content was rejected."""
    assert change.command is not None
    number = change.command.version
    gone = rejected_as(status, change.obs, number)
    status = replace(
        status,
        rejected=tuple(entry for entry in status.rejected if entry.hash not in gone),
        rejected_hashes=tuple(entry for entry in status.rejected_hashes if entry not in gone),
    )
    return Result(status, (Note("Normal", "RolloutResumed", f"version {number} may be tried again"),))


def retarget(status: Status, change: Change) -> Result:
    """The rules or the seed were edited: others get the candidate, its stage goes on."""
    canary = canary_of(status)
    canary = replace(canary, match=change.plan.match, seed=_seed(change.plan, canary))
    return Result(replace(status, canary=canary), ())


def fallback(status: Status, change: Change) -> Result:
    """spec.fallback is accepted."""
    return Result(replace(status, fallback=change.obs.fallback), ())
