"""What a spec.rollout comes to: stages, seconds, and what is refused with the field's name."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.rollout_world import check, steps

from configregistry.errors import FieldError
from configregistry.model.spec import (
    Check,
    ConsumersCheck,
    HttpCheck,
    Pause,
    PrometheusCheck,
    RolloutSpec,
    Step,
    parse_spec,
)
from configregistry.rollout.plan import PRESETS, Stage, plan_of


def stage(step: int, weight: int, pause: float = 0.0, *, waits: bool = False) -> Stage:
    return Stage(step, weight, pause, waits)


PRESET_STAGES = {
    "AllAtOnce": ([stage(0, 100)], 0, 600),
    "Linear50PercentEvery30Seconds": ([stage(0, 50, 30), stage(2, 100)], 2, 60),
    "Linear20PercentEvery6Minutes": (
        [stage(0, 20, 360), stage(2, 40, 360), stage(4, 60, 360), stage(6, 80, 360), stage(8, 100)],
        8,
        1800,
    ),
    "Canary10Percent20Minutes": (
        [stage(0, 10, 300), stage(2, 20, 300), stage(4, 40, 300), stage(6, 80, 300), stage(8, 100)],
        8,
        600,
    ),
}


def test_every_preset_has_a_case() -> None:
    assert set(PRESET_STAGES) == set(PRESETS)


@pytest.mark.parametrize("name", PRESET_STAGES)
def test_preset(name: str) -> None:
    stages, number, bake = PRESET_STAGES[name]
    plan = plan_of(RolloutSpec(preset=name))
    assert list(plan.stages) == stages
    assert (plan.steps, plan.bake) == (number, bake)


@pytest.mark.parametrize("name", PRESETS)
def test_an_explicit_bake_overrides_a_preset(name: str) -> None:
    assert plan_of(RolloutSpec(preset=name, bake="1s")).bake == 1
    assert plan_of(RolloutSpec(preset=name, bake="0s")).bake == 0


@pytest.mark.parametrize(
    ("parts", "stages"),
    [
        ((), [stage(0, 100)]),
        ((100,), [stage(0, 100)]),
        ((5, "30s", 50, "2m"), [stage(0, 5, 30), stage(2, 50, 120), stage(4, 100)]),
        ((5, "30s", 100), [stage(0, 5, 30), stage(2, 100)]),
        ((5, "30s", 100, "1m"), [stage(0, 5, 30), stage(2, 100, 60)]),
        ((5, None), [stage(0, 5, waits=True), stage(2, 100)]),
        ((5, "1s", "2s"), [stage(0, 5, 3), stage(3, 100)]),
        ((5, "1s", None, "9s"), [stage(0, 5, 1, waits=True), stage(4, 100)]),
        (("3s", 5), [stage(0, 0, 3), stage(1, 5), stage(2, 100)]),
        ((None,), [stage(0, 0, waits=True), stage(1, 100)]),
        ((0, 0, 7, 7), [stage(0, 0), stage(1, 0), stage(2, 7), stage(3, 7), stage(4, 100)]),
        ((100, "1s", 100), [stage(0, 100, 1), stage(2, 100)]),
    ],
)
def test_steps(parts: tuple[int | str | None, ...], stages: list[Stage]) -> None:
    plan = plan_of(RolloutSpec(steps=steps(*parts)))
    assert list(plan.stages) == stages
    assert plan.steps == len(parts)
    assert plan.bake == 0


PROMETHEUS = PrometheusCheck("http://prometheus:9090", "up")


@pytest.mark.parametrize(
    ("rollout", "field"),
    [
        (RolloutSpec(preset="AllAtOnce", steps=steps(5)), "spec.rollout.steps"),
        (RolloutSpec(preset="Blue"), "spec.rollout.preset"),
        (RolloutSpec(bake="soon"), "spec.rollout.bake"),
        (RolloutSpec(progress_deadline="-1s"), "spec.rollout.progressDeadline"),
        (RolloutSpec(steps=(Step(),)), "spec.rollout.steps[0]"),
        (RolloutSpec(steps=(Step(5), Step(6, Pause()))), "spec.rollout.steps[1]"),
        (RolloutSpec(steps=steps(50, 49)), "spec.rollout.steps[1].setWeight"),
        (RolloutSpec(steps=steps(101)), "spec.rollout.steps[0].setWeight"),
        (RolloutSpec(steps=steps(-1)), "spec.rollout.steps[0].setWeight"),
        (RolloutSpec(steps=steps(5, "1 s")), "spec.rollout.steps[1].pause.duration"),
        (RolloutSpec(checks=(Check("a"),)), "spec.rollout.checks[0]"),
        (RolloutSpec(checks=(Check("a", http=HttpCheck("u"), consumers=ConsumersCheck()),)), "spec.rollout.checks[0]"),
        (RolloutSpec(checks=(check(), Check("a", prometheus=PROMETHEUS))), "spec.rollout.checks[1]"),
        (RolloutSpec(checks=(check(interval="0s"),)), "spec.rollout.checks[0].interval"),
        (RolloutSpec(checks=(check(interval="1"),)), "spec.rollout.checks[0].interval"),
        (RolloutSpec(checks=(check(initial_delay="x"),)), "spec.rollout.checks[0].initialDelay"),
        (RolloutSpec(checks=(check("a"), check("b"), check("a"))), "spec.rollout.checks"),
    ],
)
def test_what_is_refused_names_the_field(rollout: RolloutSpec, field: str) -> None:
    with pytest.raises(FieldError) as refused:
        plan_of(rollout)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


@pytest.mark.parametrize("limits", [{"min": 0.0}, {"max": 0.0}, {"min": 0.0, "max": 1.0}])
def test_a_prometheus_check_needs_one_limit(limits: dict[str, Any]) -> None:
    assert plan_of(RolloutSpec(checks=(Check("a", prometheus=PROMETHEUS, **limits),))).checks[0].name == "a"


def test_the_steps_hash_is_of_the_steps_alone() -> None:
    preset = plan_of(RolloutSpec(preset="Linear50PercentEvery30Seconds"))
    written = plan_of(RolloutSpec(steps=steps(50, "30s"), bake="9m", seed="x", checks=(check(),)))
    assert preset.steps_hash == written.steps_hash
    assert preset.steps_hash != plan_of(RolloutSpec(steps=steps(50, "31s"))).steps_hash
    assert preset.steps_hash != plan_of(RolloutSpec(steps=steps(50, None))).steps_hash


def test_hashes_survive_an_upgrade() -> None:
    """They are stored in status: another value after an upgrade would start each rollout again."""
    plan = plan_of(RolloutSpec(steps=steps(5, None, 50, "2m"), checks=(check(max=0.5),)))
    assert (plan.steps_hash, plan.checks[0].hash) == ("15ecd755596657fd", "06be027ba3fb5c90")


def test_a_check_reads_the_same_with_and_without_the_defaults_that_the_api_server_fills_in() -> None:
    bare = b'{"rollout": {"checks": [{"name": "c", "consumers": {}}]}}'
    filled = (
        b'{"rollout": {"checks": [{"name": "c", "interval": "10s", "initialDelay": "0s", "failureLimit": 0,'
        b' "consecutiveErrorLimit": 4, "noData": "Wait", "consumers": {"maxErrorPercent": 3, "minReporting": 2}}],'
        b' "onFailure": "Rollback", "progressDeadline": "10m", "paused": false}}'
    )
    assert plan_of(parse_spec(bare).rollout) == plan_of(parse_spec(filled).rollout)
