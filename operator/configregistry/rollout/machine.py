"""The rollout machine: `decide(status, observation) -> Decision`, one event a call.

Pure: the state is the status, the time is in the observation. An event that the table lacks in the
present phase raises `IllegalTransition`, and nothing has changed. How to follow it: `order.choose` picks
the event, `effects.APPLY` gives its effect, `summary.summarise` writes the conditions.
"""

from __future__ import annotations

from msgspec.structs import replace

from configregistry.clock import timestamp
from configregistry.model.durations import format_duration
from configregistry.model.status import CommandRecord, Status
from configregistry.rollout import gates
from configregistry.rollout.changes import Change, Result
from configregistry.rollout.commands import Ordered
from configregistry.rollout.effects import APPLY
from configregistry.rollout.observation import Command, Decision, Note, Observation
from configregistry.rollout.order import Record, choose
from configregistry.rollout.summary import summarise
from configregistry.rollout.table import RUNNING, TABLE, phase_of


class IllegalTransition(Exception):  # noqa: N818
    """An event that the table lacks in the present phase. A defect of this program, never of its input."""


def decide(status: Status, obs: Observation) -> Decision:
    """What to do next about one registry. `status` is what was read; nothing of it is changed in place."""
    current, elapsed = status, 0.0
    if status.canary is not None:
        elapsed = gates.elapsed_now(status, obs)
        canary = (
            gates.count(status.canary, obs.plan, obs.reports, keep=obs.problem is not None)
            if obs.plan
            else status.canary
        )
        current = replace(status, canary=replace(canary, elapsed=format_duration(elapsed)))
    kept = _kept(status, obs)
    current = _kept(current, obs)
    choice = choose(current, obs, elapsed)
    if isinstance(choice, Ordered):
        told = Note(
            "Warning", "CommandIgnored", f"{choice.command.verb.value} {choice.command.token}: {choice.ignored}"
        )
        return _finished(status, Result(_noted(current, choice.command, "Ignored", obs), (told,)), obs)
    if isinstance(choice, Change):
        return _finished(status, _applied(current, choice), obs)
    recording = isinstance(choice, Record)
    if kept != status or _must_save(status, obs) or (not recording and summarise(status, obs) != status):
        # Before a version is recorded too: that may fail for long, and checks wait for their Fail to be stored.
        saved = _finished(status, Result(current, ()), obs)
        if saved.changed:
            return saved
    if recording:
        return Decision(status, record=True)
    return Decision(status, wake_in=_wake_in(status, obs, elapsed))


def apply(status: Status, change: Change) -> Result:
    """The effect of one event. Raises `IllegalTransition` where the table does not know it."""
    phase = phase_of(status)
    allowed = TABLE[phase].get(change.event)
    if allowed is None:
        raise IllegalTransition(f"{change.event.name} in phase {phase.value}")
    result = APPLY[change.event](status, change)
    reached = phase_of(result.status)
    if reached not in allowed:
        raise IllegalTransition(f"{change.event.name} led from {phase.value} to {reached.value}")
    return result


def _applied(status: Status, change: Change) -> Result:
    result = apply(status, change)
    if change.command is None:
        return result
    return Result(_noted(result.status, change.command, "Done", change.obs), result.notes)


def _noted(status: Status, command: Command, result: str, obs: Observation) -> Status:
    record = CommandRecord(
        token=command.token,
        result=result,
        version=command.version or 0,
        step=command.step,
        at=timestamp(obs.now),
    )
    return replace(status, commands={**status.commands, command.verb.value: record})


def _finished(before: Status, result: Result, obs: Observation) -> Decision:
    """Conditions, generation and revision of the status that is to be written."""
    status = _to_be_told(before, result.status, obs)
    given = gives(status) != gives(before)
    # What this process measured is in the new status now, and its passes were those of the stage before.
    same_stage = status.canary and before.canary and status.canary.step_started_at == before.canary.step_started_at
    obs = obs._replace(since_saved=0.0, reports=obs.reports if same_stage else ())
    status = summarise(replace(status, revision=before.revision + given), obs)
    return Decision(status, changed=status != before, notes=result.notes, wake_in=0.0)


def _to_be_told(before: Status, status: Status, obs: Observation) -> Status:
    """A new outcome is marked, so that its hooks are told of it also by whoever comes after this process."""
    outcome = status.last_outcome
    if outcome is None or outcome == before.last_outcome or outcome.hooks or outcome.result not in obs.tells:
        return status
    return replace(status, last_outcome=replace(outcome, hooks="Pending"))


def gives(status: Status) -> object:
    """Everything on which it depends what this registry itself gives to some consumer."""
    canary = status.canary
    return (
        status.stable and status.stable.version,
        status.fallback,
        canary and (canary.version, canary.weight, canary.match, canary.seed),
    )


def _kept(status: Status, obs: Observation) -> Status:
    """What is kept beside the rollout: that hooks were told how it ended, and who reads the registry."""
    outcome, usage = status.last_outcome, obs.usage
    if obs.told and outcome is not None and outcome.hooks == "Pending":
        outcome = replace(outcome, hooks="Told")
    return replace(
        status,
        last_outcome=outcome,
        last_read_at=max(status.last_read_at, usage.last_read_at),
        unused=status.unused if usage.unused is None else usage.unused,
    )


def _must_save(status: Status, obs: Observation) -> bool:
    """Whether probes or elapsed time must be stored though nothing happened."""
    if status.canary is None or obs.plan is None:
        return False
    if gates.must_save(obs.plan, obs.reports):
        return True
    worth_saving = phase_of(status) in RUNNING or any(report.unsaved for report in obs.reports)
    return worth_saving and obs.since_saved >= gates.SAVE_EVERY


def _wake_in(status: Status, obs: Observation, elapsed: float) -> float | None:
    """Seconds until time alone could change the decision."""
    canary, plan = status.canary, obs.plan
    if canary is None or plan is None:
        return None
    until = [gates.SAVE_EVERY - obs.since_saved]
    if phase_of(status) in RUNNING:
        wait = gates.wait_of(canary, plan)
        until += [wait - elapsed, wait + plan.progress_deadline - elapsed]
    elif not any(report.unsaved for report in obs.reports):
        return None
    return min((seconds for seconds in until if seconds > 0), default=gates.SAVE_EVERY)
