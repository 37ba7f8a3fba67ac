"""`spec.rollout` made ready to follow: stages instead of steps and presets, seconds instead of texts.

Pure; raises `FieldError` for what the CRD could not refuse or a switched-off admission let through.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from configregistry.errors import FieldError
from configregistry.model.durations import parse_duration
from configregistry.model.spec import Check, MatchRule, Pause, RolloutSpec, Step, encode

EVERYBODY: Final = 100
"""Percent."""
ON_FAILURE: Final = "Rollback"
PROGRESS_DEADLINE: Final = "10m"
"""What holds where neither the spec nor a policy says anything. Not the CRD's defaults: with them filled in,
nobody could tell what was left to the policy."""


class Stage(NamedTuple):
    """A weight and the time that it is kept.

    `step` is the place of its setWeight in the steps as written. `pause` is in seconds;
    `waits` says that after it only `promote` goes on.
    """

    step: int
    weight: int
    pause: float
    waits: bool


class CheckPlan(NamedTuple):
    """One check, its times in seconds, and the hash that tells whether it was edited."""

    spec: Check
    hash: str
    interval: float
    initial_delay: float

    @property
    def name(self) -> str:
        """Its name, unique in the registry."""
        return self.spec.name


class Plan(NamedTuple):
    """How a candidate goes out. `bake` is in seconds (0: none), `steps` the number of steps as written."""

    stages: tuple[Stage, ...]
    steps: int
    steps_hash: str
    bake: float
    checks: tuple[CheckPlan, ...]
    match: tuple[MatchRule, ...]
    seed: str
    roll_back: bool
    progress_deadline: float
    paused: bool


def _linear(share: int, pause: str) -> tuple[Step, ...]:
    weights = range(share, 100, share)
    return tuple(step for weight in weights for step in (Step(weight), Step(pause=Pause(pause))))


def _canary(*weights: int, pause: str) -> tuple[Step, ...]:
    return tuple(step for weight in weights for step in (Step(weight), Step(pause=Pause(pause))))


PRESETS: Final[dict[str, tuple[tuple[Step, ...], str]]] = {
    "AllAtOnce": ((), "10m"),
    "Linear50PercentEvery30Seconds": (_linear(50, "30s"), "1m"),
    "Linear20PercentEvery6Minutes": (_linear(20, "6m"), "30m"),
    "Canary10Percent20Minutes": (_canary(10, 20, 40, 80, pause="5m"), "10m"),
}
"""Name -> (steps, bake): AWS AppConfig's predefined strategies, with steps where it has growth curves."""


def plan_of(rollout: RolloutSpec) -> Plan:
    """The plan that a `spec.rollout` asks for."""
    steps, bake = rollout.steps, rollout.bake
    if rollout.preset is not None:
        if steps:
            raise FieldError("spec.rollout.steps", None, "expected either preset or steps, not both")
        if rollout.preset not in PRESETS:
            raise FieldError("spec.rollout.preset", rollout.preset, f"expected one of {', '.join(PRESETS)}")
        steps, preset_bake = PRESETS[rollout.preset]
        bake = bake if bake is not None else preset_bake
    names = [check.name for check in rollout.checks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FieldError("spec.rollout.checks", twice, "expected each name once")
    return Plan(
        stages=_stages(steps),
        steps=len(steps),
        steps_hash=_hash(steps),
        bake=parse_duration(bake or "0s", "spec.rollout.bake"),
        checks=tuple(_check(index, check) for index, check in enumerate(rollout.checks)),
        match=rollout.match,
        seed=rollout.seed,
        roll_back=(rollout.on_failure or ON_FAILURE) == "Rollback",
        progress_deadline=parse_duration(
            rollout.progress_deadline or PROGRESS_DEADLINE, "spec.rollout.progressDeadline"
        ),
        paused=rollout.paused,
    )


def _stages(steps: tuple[Step, ...]) -> tuple[Stage, ...]:
    """Group pauses with the weight before them; a pause before any weight is a stage of weight 0."""
    stages: list[Stage] = []
    for index, step in enumerate(steps):
        field = f"spec.rollout.steps[{index}]"
        if (step.set_weight is None) == (step.pause is None):
            raise FieldError(field, None, "expected either setWeight or pause")
        if step.set_weight is not None:
            least = stages[-1].weight if stages else 0
            if not least <= step.set_weight <= EVERYBODY:
                raise FieldError(
                    f"{field}.setWeight", step.set_weight, f"expected {least} to 100: weights never decrease"
                )
            stages.append(Stage(index, step.set_weight, 0.0, waits=False))
            continue
        stage = stages.pop() if stages else Stage(index, 0, 0.0, waits=False)
        duration = step.pause.duration if step.pause else None
        if duration is None:
            stage = stage._replace(waits=True)
        elif not stage.waits:
            # What stands after a pause without end is never waited for: promote goes to the next weight.
            stage = stage._replace(pause=stage.pause + parse_duration(duration, f"{field}.pause.duration"))
        stages.append(stage)
    if not stages or stages[-1].weight < EVERYBODY:
        stages.append(Stage(len(steps), EVERYBODY, 0.0, waits=False))
    return tuple(stages)


def _check(index: int, check: Check) -> CheckPlan:
    field = f"spec.rollout.checks[{index}]"
    kinds = [kind for kind in ("prometheus", "http", "consumers", "workload") if getattr(check, kind) is not None]
    if len(kinds) != 1:
        raise FieldError(
            field, " and ".join(kinds) or "no kind", "expected exactly one of prometheus, http, consumers, workload"
        )
    if check.prometheus and check.min is None and check.max is None:
        raise FieldError(field, None, "expected min or max beside prometheus")
    interval = parse_duration(check.interval, f"{field}.interval")
    if interval <= 0:
        raise FieldError(f"{field}.interval", check.interval, "expected more than 0s")
    return CheckPlan(check, _hash(check), interval, parse_duration(check.initial_delay, f"{field}.initialDelay"))


def _hash(part: object) -> str:
    return hashlib.sha256(encode(part)).hexdigest()[:16]
