"""The order of decisions (rollout.md): which event, of all that the observation would allow, is the next.

Pure and total: the same status and observation always give the same event, or none.
"""

from __future__ import annotations

from configregistry.model.status import Canary, Status
from configregistry.rollout import gates
from configregistry.rollout.changes import Change
from configregistry.rollout.commands import Ordered, next_command
from configregistry.rollout.course import may_begin
from configregistry.rollout.intent import Wish, fallback_is_due, intent_of, pin_is_due
from configregistry.rollout.observation import HookState, Observation, Verb
from configregistry.rollout.plan import Plan
from configregistry.rollout.table import CHECKED, RUNNING, TABLE, Event, Phase, phase_of


class Record:
    """The content must become a version before anything can be decided about it."""


Choice = Change | Ordered | Record | None


def choose(status: Status, obs: Observation, elapsed: float) -> Choice:
    """What happens next; `Ordered` is a command that is ignored. `status` has its probes counted."""
    phase = phase_of(status)
    return (
        _health(status, obs, phase, elapsed)
        or _command(status, obs, elapsed, Verb.ABORT)
        or _pin(status, obs)
        or _command(status, obs, elapsed, *(verb for verb in Verb if verb is not Verb.ABORT))
        or _content(status, obs, phase)
        or _course(status, obs, phase, elapsed)
    )


def _health(status: Status, obs: Observation, phase: Phase, elapsed: float) -> Change | None:
    canary, plan = status.canary, obs.plan
    if canary is None or plan is None:
        return None
    if phase is Phase.FAILED:
        return Change(Event.TRIP, obs, elapsed, canary.failure) if plan.roll_back else None
    if phase not in CHECKED:
        return None
    message = gates.tripped(canary, plan)
    if message is None and phase in RUNNING:
        message = gates.overdue(canary, plan, obs, elapsed)
    if message is None:
        return None
    return Change(Event.TRIP if plan.roll_back else Event.HOLD, obs, elapsed, message)


def _command(status: Status, obs: Observation, elapsed: float, *verbs: Verb) -> Change | Ordered | None:
    found = next_command(status, obs, *verbs)
    if found is None or found.ignored:
        return found
    return Change(found.event, obs, elapsed, command=found.command)


def _pin(status: Status, obs: Observation) -> Change | None:
    intent = intent_of(status, obs)
    return Change(Event.PIN, obs, version=intent.version) if pin_is_due(status, intent) else None


def _content(status: Status, obs: Observation, phase: Phase) -> Change | Record | None:
    """A candidate begins or ends because of what the spec asks for."""
    intent = intent_of(status, obs)
    if intent.wish is Wish.STABLE and status.canary is not None:
        return Change(Event.CANCEL, obs)
    if intent.wish is Wish.NEW and obs.plan is not None:
        if intent.version is None:
            return Record()
        event = Event.SUPERSEDE if status.canary else Event.FIRST if phase is Phase.EMPTY else Event.START
        return Change(event, obs, version=intent.version)
    return Change(Event.FALLBACK, obs) if fallback_is_due(status, obs, intent) else None


def _course(status: Status, obs: Observation, phase: Phase, elapsed: float) -> Change | None:
    """The candidate goes on by itself; held (None) while the spec asks for something that cannot be had."""
    canary, plan = status.canary, obs.plan
    if canary is None or plan is None or intent_of(status, obs).wish is not Wish.CANDIDATE:
        return None
    if phase is Phase.QUEUED:
        if obs.hook is HookState.VETOED:
            return Change(Event.VETO, obs)
        if may_begin(obs):
            return Change(Event.BEGIN, obs)
    event = _edited(canary, plan, phase) or _timely(canary, obs, plan, phase, elapsed)
    return Change(event, obs, elapsed) if event else None


def _edited(canary: Canary, plan: Plan, phase: Phase) -> Event | None:
    """spec.rollout was edited under the candidate."""
    allowed = TABLE[phase]
    if plan.paused and Event.FREEZE in allowed and not _frozen(canary):
        return Event.FREEZE
    if not plan.paused and Event.THAW in allowed and _frozen(canary):
        return Event.THAW
    if gates.off_course(canary, plan) and Event.RESTEP in allowed:
        return Event.RESTEP
    seed = plan.seed or canary.hash
    if (canary.match, canary.seed) != (plan.match, seed) and Event.RETARGET in allowed:
        return Event.RETARGET
    return None


def _frozen(canary: Canary) -> bool:
    return canary.paused is not None and canary.paused.by == "Spec"


def _timely(canary: Canary, obs: Observation, plan: Plan, phase: Phase, elapsed: float) -> Event | None:
    """Time and checks let the candidate go on."""
    stage = gates.stage_of(canary, plan)
    if phase not in RUNNING or stage is None:
        return None
    if phase is Phase.STEPPING and stage.waits and not canary.promoted:
        return Event.WAIT if elapsed >= stage.pause else None
    if not gates.time_is_over(canary, plan, elapsed) or gates.lacking(plan, obs.reports):
        return None
    if phase is Phase.BAKING:
        return Event.COMPLETE
    if stage is not plan.stages[-1]:
        return Event.ADVANCE
    return Event.BAKE if plan.bake > 0 else Event.COMPLETE
