"""What becomes of a registry's spec.rollout under RolloutPolicies: filled in, made stricter, or refused.

Pure. `chosen` is the policy that a registry follows, `imposed` the one of its namespace; they may be the same.
A policy must never start or end anything: content alone does, so what is here only shapes the plan, and says
no to something that is about to begin. What consumers have already is left alone.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from configregistry.errors import FieldError
from configregistry.model import conditions
from configregistry.model.durations import parse_duration
from configregistry.model.policy import Defaults, Policy
from configregistry.model.spec import Check, RolloutSpec
from configregistry.model.status import Status
from configregistry.rollout.intent import Wish, intent_of
from configregistry.rollout.observation import Observation, Problem
from configregistry.rollout.plan import EVERYBODY, PRESETS, Plan, plan_of

_ROLLOUT: Final = "spec.rollout"


def effective(rollout: RolloutSpec, chosen: Policy | None, imposed: Policy | None) -> RolloutSpec:
    """The spec.rollout that is to be followed. Raises `FieldError` where `plan_of` would.

    Idempotent. A registry's own checks keep their places, so that an index names the same check in both.
    """
    if chosen is not None:
        rollout = _filled(rollout, chosen.defaults)
        rollout = _stricter(rollout, chosen)
    if imposed is not None and imposed is not chosen:
        rollout = _stricter(rollout, imposed)
    return rollout


def _filled(rollout: RolloutSpec, defaults: Defaults) -> RolloutSpec:
    """What is unsaid, from the defaults. A preset says its bake as well."""
    preset, steps, bake = rollout.preset, rollout.steps, rollout.bake
    if bake is None and preset is None:
        bake = defaults.bake
    if preset is None and not steps:
        preset, steps = defaults.preset, defaults.steps
    own = {check.name for check in rollout.checks}
    return replace(
        rollout,
        preset=preset,
        steps=steps,
        bake=bake,
        checks=(*rollout.checks, *(check for check in defaults.checks if check.name not in own)),
        on_failure=rollout.on_failure or defaults.on_failure,
        progress_deadline=rollout.progress_deadline or defaults.progress_deadline,
    )


def _stricter(rollout: RolloutSpec, policy: Policy) -> RolloutSpec:
    """What nobody can go below: the mandatory checks, the shortest bake."""
    return replace(
        rollout,
        checks=_with(rollout.checks, policy.checks),
        bake=_at_least(rollout, policy.limits.min_bake),
    )


def _with(checks: tuple[Check, ...], mandatory: tuple[Check, ...]) -> tuple[Check, ...]:
    left = {check.name: check for check in mandatory}
    return (*[left.pop(check.name, check) for check in checks], *left.values())


def _at_least(rollout: RolloutSpec, shortest: str | None) -> str | None:
    """The bake, unless that is too short."""
    if shortest is None:
        return rollout.bake
    bake = rollout.bake
    if bake is None:
        bake = PRESETS[rollout.preset][1] if rollout.preset in PRESETS else "0s"
    enough = parse_duration(bake, f"{_ROLLOUT}.bake") >= parse_duration(shortest, "spec.limits.minBake")
    return rollout.bake if enough else shortest


def beyond(written: RolloutSpec, plan: Plan, *policies: Policy | None) -> str | None:
    """The sentence for steps that raise the weight by more than limits.maxStep; None: they do not.

    `written` is what the registry itself says, so that the sentence names a field which is there.
    """
    limited = [(policy.limits.max_step, policy) for policy in policies if policy is not None]
    limit, name = min(((most, policy.name) for most, policy in limited if most is not None), default=(EVERYBODY, ""))
    before = 0
    for stage in plan.stages:
        if stage.weight - before > limit:
            return (
                f"{_told(written, stage.step, stage.weight)}: expected at most {limit} percent more of the consumers "
                f"at a time (limits.maxStep of RolloutPolicy {name!r}), not {stage.weight - before} "
                f"(from {before} to {stage.weight})"
            )
        before = stage.weight
    return None


def _told(written: RolloutSpec, step: int, weight: int) -> str:
    """Field and value of a step."""
    if written.preset is not None:
        return f"{_ROLLOUT}.preset: {written.preset!r}"
    if not written.steps:
        return f"{_ROLLOUT}.steps: none of its own"
    if step < len(written.steps):
        return f"{_ROLLOUT}.steps[{step}].setWeight: {weight}"
    return f"{_ROLLOUT}.steps: {weight} in the end"


def limited(status: Status, obs: Observation, written: RolloutSpec, *policies: Policy | None) -> Observation:
    """The observation, with a problem where something is about to begin whose steps a policy does not allow.

    That is new content, and other steps for a candidate that is out: else two edits would pass every limit. A
    first version has no steps, so it is let through; a candidate keeps the steps that it began with.
    """
    if obs.plan is None or not policies:
        return obs
    wish, canary = intent_of(status, obs).wish, status.canary
    begins = wish is Wish.NEW and status.stable is not None
    edited = wish is Wish.CANDIDATE and canary is not None and canary.steps_hash != obs.plan.steps_hash
    sentence = beyond(written, obs.plan, *policies) if begins or edited else None
    if sentence is None:
        return obs
    return obs._replace(content=None, problem=Problem(conditions.INVALID_SPEC, sentence))


def examine(policy: Policy) -> None:
    """Raise `FieldError` for a policy that nobody can follow; the CRD has refused it, unless it was bypassed."""
    defaults, limits = policy.defaults, policy.limits
    if limits.min_bake is not None:
        parse_duration(limits.min_bake, "spec.limits.minBake")
    if limits.max_step is not None and not 1 <= limits.max_step <= EVERYBODY:
        raise FieldError("spec.limits.maxStep", limits.max_step, "expected 1 to 100")
    _planned(RolloutSpec(checks=policy.checks), "spec")
    said = _filled(RolloutSpec(), defaults)
    plan = _planned(said, "spec.defaults")
    sentence = beyond(said, plan, policy) if defaults.preset or defaults.steps else None
    if sentence is not None:
        raise FieldError("spec.defaults", None, sentence.removeprefix(f"{_ROLLOUT}."))


def _planned(rollout: RolloutSpec, field: str) -> Plan:
    try:
        return plan_of(rollout)
    except FieldError as error:
        raise FieldError(f"{field}{error.field.removeprefix(_ROLLOUT)}", error.value, error.expected) from error
