"""Health and time as gates: what the checks' probes count to, and whether a stage may end.

Pure. The kinds of checks are not known here, only verdicts.
"""

from __future__ import annotations

from typing import Final

import msgspec

from configregistry.errors import FieldError
from configregistry.model.conditions import cut
from configregistry.model.durations import format_duration, parse_duration
from configregistry.model.status import Canary, CheckState, Status
from configregistry.rollout.observation import CheckReport, Observation, Probe, Verdict
from configregistry.rollout.plan import CheckPlan, Plan, Stage
from configregistry.rollout.table import RUNNING, phase_of

SAVE_EVERY: Final = 10.0
"""Seconds after which elapsed time and passes are stored at the latest (rollout.md, "Order of decisions")."""

_LONGEST_VALUE: Final = 256
_VERDICT_OF_NO_DATA: Final = {"Wait": Verdict.NO_DATA, "Fail": Verdict.FAIL, "Pass": Verdict.PASS}


def effective(check: CheckPlan, probe: Probe) -> Verdict:
    """The verdict after the check's noData policy."""
    return _VERDICT_OF_NO_DATA[check.spec.no_data] if probe.verdict is Verdict.NO_DATA else probe.verdict


def count(canary: Canary, plan: Plan, reports: tuple[CheckReport, ...], *, keep: bool = False) -> Canary:
    """The candidate with its checks' unsaved probes counted; counters of edited checks restart.

    `keep`: those of checks that the plan lacks stay, since it may be less than what was asked for.
    """
    known = {state.name: state for state in canary.checks}
    unsaved = {report.name: report.unsaved for report in reports}
    states = []
    for check in plan.checks:
        state = known.get(check.name)
        if state is None or state.hash != check.hash:
            state = CheckState(name=check.name, hash=check.hash)
        for probe in unsaved.get(check.name, ()):
            state = _counted(state, effective(check, probe), probe)
        states.append(state)
    if keep:
        planned = {check.name for check in plan.checks}
        states += [state for state in canary.checks if state.name not in planned]
    return msgspec.structs.replace(canary, checks=tuple(states))


def _counted(state: CheckState, verdict: Verdict, probe: Probe) -> CheckState:
    return msgspec.structs.replace(
        state,
        passed=state.passed + (verdict is Verdict.PASS),
        failed=state.failed + (verdict is Verdict.FAIL),
        errors=state.errors + (verdict is Verdict.ERROR),
        consecutive_errors=state.consecutive_errors + 1 if verdict is Verdict.ERROR else 0,
        last_value=cut(probe.value, _LONGEST_VALUE),
        last_at=probe.at,
        message=cut(probe.message),
    )


def must_save(plan: Plan, reports: tuple[CheckReport, ...]) -> bool:
    """Whether a probe is unsaved that may not wait: a Fail or an Error is stored before the next probe."""
    checks = {check.name: check for check in plan.checks}
    urgent = (Verdict.FAIL, Verdict.ERROR)
    return any(
        effective(checks[report.name], probe) in urgent
        for report in reports
        if report.name in checks
        for probe in report.unsaved
    )


def tripped(canary: Canary, plan: Plan) -> str | None:
    """The sentence that says which check is over its limit, with value and limit; None when none is."""
    states = {state.name: state for state in canary.checks}
    for check in plan.checks:
        state = states.get(check.name)
        if state is None:
            continue
        if state.failed > check.spec.failure_limit:
            told = f"failed {_times(state.failed)}, limit {check.spec.failure_limit}"
        elif state.consecutive_errors > check.spec.consecutive_error_limit:
            told = f"{state.consecutive_errors} errors in a row, limit {check.spec.consecutive_error_limit}"
        else:
            continue
        return cut(f"check {check.name} ({told}): {_said(state)}")
    return None


def trips(canary: Canary, plan: Plan, reports: tuple[CheckReport, ...]) -> bool:
    """Whether the candidate goes back now, with what its checks said last: that waits for nobody's answer."""
    return tripped(count(canary, plan, reports), plan) is not None


def _said(state: CheckState) -> str:
    """What the latest probe said, with its value."""
    if not state.last_value or state.last_value in state.message:
        return state.message or "no value"
    return f"{state.last_value}: {state.message}" if state.message else state.last_value


def lacking(plan: Plan, reports: tuple[CheckReport, ...]) -> tuple[str, ...]:
    """The checks that this process has not seen pass in the present stage."""
    passed = {report.name for report in reports if report.passed}
    return tuple(check.name for check in plan.checks if check.name not in passed)


def overdue(canary: Canary, plan: Plan, obs: Observation, elapsed: float) -> str | None:
    """The sentence that says which checks let the progress deadline pass; None while it has not."""
    over_for = elapsed - wait_of(canary, plan)
    missing = lacking(plan, obs.reports)
    if off_course(canary, plan) or not missing or not time_is_over(canary, plan, elapsed):
        return None
    if over_for < plan.progress_deadline:
        return None
    limit = format_duration(plan.progress_deadline)
    told = [f"{state.name}: {_said(state)}" for state in canary.checks if state.name in missing and state.last_at]
    last = f"; last: {'; '.join(told)}" if told else ""
    return cut(f"check {', '.join(missing)}: no Pass within progressDeadline {limit} after the step's pauses{last}")


def off_course(canary: Canary, plan: Plan) -> bool:
    """Whether the candidate is in no stage of the plan: the steps were edited (or the status was, by a hand)."""
    return canary.steps_hash != plan.steps_hash or stage_of(canary, plan) is None


def stage_of(canary: Canary, plan: Plan) -> Stage | None:
    """The stage that the candidate is in; None when its index fits none (edited steps, an edited status)."""
    if canary.baking:
        return plan.stages[-1]
    return next((stage for stage in plan.stages if stage.step == canary.current_step_index), None)


def wait_of(canary: Canary, plan: Plan) -> float:
    """Seconds that the present stage, or the bake, takes at least."""
    stage = stage_of(canary, plan)
    return plan.bake if canary.baking else stage.pause if stage else 0.0


def time_is_over(canary: Canary, plan: Plan, elapsed: float) -> bool:
    """Whether the pauses of the stage (or the bake) are over, as far as time goes."""
    stage = stage_of(canary, plan)
    if canary.promoted:
        return True
    if stage is not None and stage.waits and not canary.baking:
        return False
    return elapsed >= wait_of(canary, plan)


def stored_elapsed(canary: Canary) -> float:
    """Seconds of `elapsed`; 0 when a hand made it unreadable, which waits longer rather than shorter."""
    try:
        return parse_duration(canary.elapsed)
    except FieldError:
        return 0.0


def elapsed_now(status: Status, obs: Observation) -> float:
    """Seconds that the present stage has run: what is stored, and what this process measured since.

    With the pauses over it grows only while a check lacks a Pass, since progressDeadline is measured with
    it: a candidate that only content holds up must not be overdue to a new leader, who has seen no Pass yet.
    """
    canary = status.canary
    if canary is None:
        return 0.0
    elapsed = stored_elapsed(canary)
    if phase_of(status) not in RUNNING:
        return elapsed
    elapsed += max(0.0, obs.since_saved)
    if obs.plan is None or off_course(canary, obs.plan) or lacking(obs.plan, obs.reports):
        return elapsed
    return min(elapsed, wait_of(canary, obs.plan))


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
