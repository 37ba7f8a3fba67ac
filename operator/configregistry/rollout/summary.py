"""The one place that writes conditions: the table of resource.md as a table.

No other module makes a `Condition`. Messages hold nothing that changes by itself (no elapsed time),
or each look at a registry would be a write.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec.structs import replace

from configregistry.clock import timestamp
from configregistry.model import conditions as c
from configregistry.model.conditions import Condition, Truth
from configregistry.model.durations import format_duration
from configregistry.model.status import Canary, Rejected, Status
from configregistry.rollout import gates
from configregistry.rollout.intent import Intent, Wish, fallback_is_due, intent_of, pin_is_due
from configregistry.rollout.observation import HookState, Observation, Problem
from configregistry.rollout.plan import Plan
from configregistry.rollout.table import Phase, phase_of

Mark = tuple[Truth, str]


class Row(NamedTuple):
    """A row of the conditions table: Ready, Reconciling and Stalled."""

    ready: Mark
    reconciling: Mark = ("False", c.IDLE)
    stalled: Mark = ("False", c.IDLE)


def _waiting(reason: str, reconciling: str | None = None) -> Row:
    return Row(("False", reason), reconciling=("True", reconciling or reason))


def _stalled(reason: str) -> Row:
    return Row(("False", reason), stalled=("True", reason))


STEADY: Final = Row(("True", c.ROLLOUT_COMPLETE))
PINNED: Final = Row(("True", c.PINNED))
STEP_RUNNING: Final = _waiting(c.ROLLOUT_IN_PROGRESS, c.STEP_RUNNING)
CHECKS_PENDING: Final = _waiting(c.ROLLOUT_IN_PROGRESS, c.CHECKS_PENDING)
PAUSED: Final = _waiting(c.PAUSED)
BAKING: Final = _waiting(c.BAKING)
DEPENDENCY: Final = _waiting(c.DEPENDENCY_NOT_READY, c.WAITING_FOR_DEPENDENCY)
STALLED: Final = {
    reason: _stalled(reason)
    for reason in (c.ROLLED_BACK, c.ABORTED, c.CHECK_FAILED, c.HOOK_VETOED, c.PROJECTION_CONFLICT, c.INVALID_SPEC)
}
WAITING: Final = {reason: _waiting(reason) for reason in (c.SOURCE_NOT_FOUND, c.VALIDATOR_UNAVAILABLE)}
_REJECTED_AS: Final = {"CheckFailed": c.ROLLED_BACK, "Aborted": c.ABORTED, "Unpinned": c.ABORTED}

_UNKNOWN_HEALTH: Final = (Wish.PROBLEM, Wish.DEPENDENCY, Wish.VETOED, Wish.NEW)
_PASSED: Final[tuple[Truth, str, str]] = ("True", c.CHECKS_PASSING, "all checks pass")


class Said(NamedTuple):
    """A row with the sentence that explains it."""

    row: Row
    message: str


def summarise(status: Status, obs: Observation) -> Status:
    """The status with all five conditions and the generation that they speak of."""
    intent = intent_of(status, obs)
    row, message = _row(status, obs, intent)
    stable = status.stable
    available: tuple[Truth, str, str] = (
        ("True", c.VERSION_SERVED, f"version {stable.version} is served")
        if stable
        else ("False", c.NO_VERSION, "no version has been served yet")
    )
    told = (
        (c.AVAILABLE, *available),
        (c.READY, *row.ready, message),
        (c.RECONCILING, *row.reconciling, message if row.reconciling[0] == "True" else ""),
        (c.STALLED, *row.stalled, message if row.stalled[0] == "True" else ""),
        (c.HEALTHY, *_healthy(status, obs, intent)),
    )
    before = {condition.type: condition for condition in status.conditions}
    now = timestamp(obs.now)
    conditions = tuple(_condition(before.get(each[0]), *each, obs.generation, now) for each in told)
    return replace(status, uid=obs.uid, observed_generation=obs.generation, conditions=conditions)


def _condition(
    before: Condition | None, kind: str, truth: Truth, reason: str, message: str, generation: int, now: str
) -> Condition:
    since = before.last_transition_time if before and before.status == truth else now
    return Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=c.cut(message),
        observed_generation=generation,
        last_transition_time=since or now,
    )


def _row(status: Status, obs: Observation, intent: Intent) -> Said:
    """The row that applies: first what is stalled, then what waits, what rolls out, and a pin that is served.

    What is about to happen is rolling out already: Ready must not say that the new generation is done
    in the write between.
    """
    canary, plan = status.canary, obs.plan
    stable = status.stable.version if status.stable else 0
    stalled = _stalled_row(status, obs, intent)
    if stalled is not None:
        return stalled
    if intent.problem is not None:
        return _problem(intent.problem)
    if intent.wish is Wish.DEPENDENCY:
        return Said(DEPENDENCY, f"waits for {', '.join(obs.waiting_for)} to be Ready")
    if pin_is_due(status, intent):
        return Said(STEP_RUNNING, f"version {obs.pinned} is to be served: spec.pinnedVersion")
    if canary is not None and plan is not None:
        return _rolling(status, canary, plan, obs)
    if intent.wish is Wish.NEW:
        return Said(STEP_RUNNING, "new content is to be rolled out")
    if fallback_is_due(status, obs, intent):
        return Said(STEP_RUNNING, "spec.fallback is to be accepted")
    if obs.problem is not None and status.fallback != obs.fallback:
        return _problem(obs.problem)  # a pin needs no content, but its fallback is not accepted either
    if intent.wish is Wish.PINNED:
        return Said(PINNED, f"version {stable} is served to everybody, pinned by spec.pinnedVersion")
    return Said(STEADY, f"version {stable} is served to everybody")


def _stalled_row(status: Status, obs: Observation, intent: Intent) -> Said | None:
    if phase_of(status) is Phase.FAILED and status.canary is not None:
        return Said(STALLED[c.CHECK_FAILED], f"version {status.canary.version} stays: {status.canary.failure}")
    if intent.problem is not None and intent.problem.reason in STALLED:
        return _problem(intent.problem)
    if obs.plan is None and intent.wish not in (Wish.PROBLEM, Wish.PINNED):
        return Said(STALLED[c.INVALID_SPEC], "spec.rollout could not be read")
    if intent.wish is Wish.VETOED:
        why = obs.hook_message or "a PreRollout hook said no"
        return Said(STALLED[c.HOOK_VETOED], f"{why}; change the content or a PreRollout hook")
    if obs.projection:
        return Said(STALLED[c.PROJECTION_CONFLICT], obs.projection)
    if intent.rejected is not None:
        return Said(STALLED[_REJECTED_AS.get(intent.rejected.reason, c.ROLLED_BACK)], _told(intent.rejected, status))
    return None


def _problem(problem: Problem) -> Said:
    return Said(STALLED.get(problem.reason) or WAITING[problem.reason], problem.message)


def _told(rejected: Rejected, status: Status) -> str:
    name = f"version {rejected.version}" if rejected.version else f"content {rejected.hash}"
    stays = f"version {status.stable.version} stays; " if status.stable else ""
    return f"{name}: {rejected.message}; {stays}change the content, or command retry"


def _rolling(status: Status, canary: Canary, plan: Plan, obs: Observation) -> Said:
    phase = phase_of(status)
    place = f"version {canary.version} at {canary.weight} % (step {canary.current_step_index} of {canary.steps})"
    if canary.paused is not None:
        why = {"Command": "by command", "Spec": "by spec.rollout.paused", "Step": "waits for promote"}
        return Said(PAUSED, f"{place}: paused, {why[canary.paused.by]}")
    if phase is Phase.QUEUED:
        what = "its first step" if obs.hook is HookState.ALLOWED else "its PreRollout hooks"
        return Said(STEP_RUNNING, f"version {canary.version} waits for {what}")
    missing = gates.lacking(plan, obs.reports)
    elapsed = gates.elapsed_now(status, obs)
    lacks = bool(missing) and gates.time_is_over(canary, plan, elapsed)
    pending = f"{place}: waits for a Pass of {', '.join(missing)}"
    if phase is Phase.BAKING:
        return Said(BAKING, pending if lacks else f"{place}: bakes for {format_duration(plan.bake)}")
    return Said(CHECKS_PENDING, pending) if lacks else Said(STEP_RUNNING, place)


def _healthy(status: Status, obs: Observation, intent: Intent) -> tuple[Truth, str, str]:
    """The verdict on the candidate; without one, the last that was."""
    canary = status.canary
    if canary is None:
        if intent.wish in _UNKNOWN_HEALTH or obs.projection:
            return "Unknown", c.NO_CANDIDATE, ""
        if intent.rejected is not None and intent.rejected.reason == "CheckFailed":
            return "False", c.CHECK_FAILED, intent.rejected.message
        if status.last_outcome is not None and status.last_outcome.result == "RolledBack":
            return "False", c.CHECK_FAILED, status.last_outcome.message
        last = next((each for each in status.conditions if each.type == c.HEALTHY), None)
        if last is None:
            return "Unknown", c.NO_CANDIDATE, ""
        if last.reason == c.NO_DATA:
            # The write that completes counts the last Pass too, so no earlier condition could tell of it.
            return _PASSED if _completed_by_checks(status, obs) else ("Unknown", c.NO_CANDIDATE, "")
        return last.status, last.reason, last.message
    if canary.failed:
        return "False", c.CHECK_FAILED, canary.failure
    checks = obs.plan.checks if obs.plan else ()
    passed = {check.name for check in canary.checks if check.passed}
    if checks and all(check.name in passed for check in checks):
        return _PASSED
    missing = ", ".join(check.name for check in checks if check.name not in passed)
    return "Unknown", c.NO_DATA, f"no Pass yet of {missing}" if missing else "no checks"


def _completed_by_checks(status: Status, obs: Observation) -> bool:
    outcome = status.last_outcome
    checked = obs.plan is not None and bool(obs.plan.checks)
    return checked and outcome is not None and (outcome.result, outcome.trigger) == ("Completed", "System")
