"""RolloutPolicies: what becomes of a spec.rollout, which policy applies, and that changing one starts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pytest
from msgspec.structs import replace
from tests.unit.rollout_world import World, check, conditions, hash_of, planned, steps

from configregistry.errors import FieldError
from configregistry.kube.failures import Unavailable
from configregistry.kube.objects import Meta, MetaObject
from configregistry.model.names import LABEL_POLICY
from configregistry.model.policy import Defaults, Limits, Policy, parse_policy
from configregistry.model.spec import Check, NameRef, RolloutSpec
from configregistry.reconcile import policies as policies_module
from configregistry.reconcile.policies import Policies, labelled
from configregistry.reconcile.sources import Unreadable
from configregistry.rollout.observation import Observation, Verb, Verdict
from configregistry.rollout.plan import Plan, plan_of
from configregistry.rollout.policy import beyond, effective, examine, limited
from configregistry.rollout.table import Phase

T = TypeVar("T")

NO_POLICY: Final = Policy("none", Defaults(), (), Limits())


def policy(
    name: str = "production",
    *,
    checks: tuple[Check, ...] = (),
    min_bake: str | None = None,
    max_step: int | None = None,
    **said: Any,
) -> Policy:
    """A policy; `said` are its defaults."""
    return Policy(name, Defaults(**said), checks, Limits(min_bake, max_step))


# What becomes of a spec.rollout.


def test_without_policies_nothing_becomes_of_it() -> None:
    written = RolloutSpec(steps=steps(10), checks=(check(),))
    assert effective(written, None, None) is written
    assert effective(written, NO_POLICY, NO_POLICY) == written


@pytest.mark.parametrize(
    ("written", "chosen", "wanted"),
    [
        ({}, {"preset": "AllAtOnce"}, {"preset": "AllAtOnce"}),
        ({}, {"steps": steps(10, None)}, {"steps": steps(10, None)}),
        ({"preset": "AllAtOnce"}, {"steps": steps(10)}, {"preset": "AllAtOnce"}),
        ({"steps": steps(50)}, {"preset": "AllAtOnce"}, {"steps": steps(50)}),
        ({}, {"steps": steps(10), "bake": "5m"}, {"steps": steps(10), "bake": "5m"}),
        ({"steps": steps(50)}, {"steps": steps(10), "bake": "5m"}, {"steps": steps(50), "bake": "5m"}),
        ({"bake": "1s"}, {"preset": "AllAtOnce", "bake": "5m"}, {"preset": "AllAtOnce", "bake": "1s"}),
        ({"preset": "AllAtOnce"}, {"bake": "1s"}, {"preset": "AllAtOnce"}),
        ({}, {"on_failure": "Pause", "progress_deadline": "1m"}, {"on_failure": "Pause", "progress_deadline": "1m"}),
        ({"on_failure": "Rollback"}, {"on_failure": "Pause"}, {"on_failure": "Rollback"}),
        ({"progress_deadline": "2m"}, {"progress_deadline": "1m"}, {"progress_deadline": "2m"}),
    ],
)
def test_a_default_stands_for_what_is_unsaid(
    written: dict[str, Any], chosen: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert effective(RolloutSpec(**written), policy(**chosen), None) == RolloutSpec(**wanted)


def test_defaults_come_from_the_chosen_policy_alone() -> None:
    imposed = policy("namespace", preset="AllAtOnce", on_failure="Pause", checks=(check("must"),))
    found = effective(RolloutSpec(), policy(steps=steps(20)), imposed)
    assert (found.preset, found.steps, found.on_failure) == (None, steps(20), None)
    assert [each.name for each in found.checks] == ["must"]


def test_checks_are_joined_by_name() -> None:
    own = (check("own", failure_limit=1), check("both", failure_limit=1), check("must", failure_limit=1))
    chosen = replace(
        policy(checks=(check("must", failure_limit=3), check("more", failure_limit=3))),
        defaults=Defaults(checks=(check("both", failure_limit=2), check("added", failure_limit=2))),
    )
    imposed = policy("namespace", checks=(check("more", failure_limit=4), check("added", failure_limit=4)))
    found = effective(RolloutSpec(checks=own), chosen, imposed)
    assert [(each.name, each.failure_limit) for each in found.checks] == [
        ("own", 1),
        ("both", 1),
        ("must", 3),
        ("added", 4),
        ("more", 4),
    ]


@pytest.mark.parametrize(
    ("written", "limits", "wanted"),
    [
        ({"bake": "1m"}, ("5m", None), "5m"),
        ({"bake": "5m"}, ("300s", None), "5m"),
        ({"bake": "10m"}, ("5m", None), "10m"),
        ({}, ("5m", None), "5m"),
        ({"preset": "AllAtOnce"}, ("9m", None), None),
        ({"preset": "Linear50PercentEvery30Seconds"}, ("9m", None), "9m"),
        ({"bake": "1m"}, ("5m", "7m"), "7m"),
        ({"bake": "1m"}, ("7m", "5m"), "7m"),
        ({"bake": "1m"}, (None, "5m"), "5m"),
        ({"bake": "0s"}, ("0s", None), "0s"),
    ],
)
def test_a_shorter_bake_is_raised_to_the_longer_limit(
    written: dict[str, Any], limits: tuple[str | None, str | None], wanted: str | None
) -> None:
    chosen, imposed = policy(min_bake=limits[0]), policy("namespace", min_bake=limits[1])
    assert effective(RolloutSpec(**written), chosen, imposed).bake == wanted


def test_what_is_the_registrys_alone_stays() -> None:
    written = RolloutSpec(seed="7", paused=True, policy_ref=NameRef("production"))
    found = effective(written, policy(preset="AllAtOnce", checks=(check(),), min_bake="1h"), None)
    assert (found.seed, found.paused, found.match, found.policy_ref) == ("7", True, (), NameRef("production"))


# The limit of steps.


@pytest.mark.parametrize(
    ("written", "chosen", "said"),
    [
        (
            {"steps": steps(10, None, 50)},
            policy(max_step=20),
            "spec.rollout.steps[2].setWeight: 50: expected at most 20 percent more of the consumers at a time (limits",
        ),
        ({"steps": steps(30, 50, 100)}, policy(max_step=20), "spec.rollout.steps[0].setWeight: 30: "),
        ({"steps": steps(20, 40, 60)}, policy(max_step=20), "spec.rollout.steps: 100 in the end: "),
        ({"preset": "AllAtOnce"}, policy(max_step=99), "spec.rollout.preset: 'AllAtOnce': "),
        ({}, policy(max_step=99), "spec.rollout.steps: none of its own: "),
    ],
)
def test_a_step_too_large_is_told_with_field_value_limit_and_policy(
    written: dict[str, Any], chosen: Policy, said: str
) -> None:
    rollout = RolloutSpec(**written)
    sentence = beyond(rollout, plan_of(rollout), chosen)
    assert sentence is not None
    assert sentence.startswith(said)
    assert f"at most {chosen.limits.max_step} percent" in sentence
    assert "'production'" in sentence


def test_the_sentence_is_whole() -> None:
    rollout = RolloutSpec(steps=steps(10, None, 50))
    assert beyond(rollout, plan_of(rollout), policy(max_step=20)) == (
        "spec.rollout.steps[2].setWeight: 50: expected at most 20 percent more of the consumers at a time "
        "(limits.maxStep of RolloutPolicy 'production'), not 40 (from 10 to 50)"
    )


def test_the_stricter_limit_counts_whichever_policy_has_it() -> None:
    rollout = RolloutSpec(steps=steps(30, 60, 90))
    loose, strict = policy("loose", max_step=50), policy("strict", max_step=20)
    for pair in ((loose, strict), (strict, loose)):
        assert "'strict'" in (beyond(rollout, plan_of(rollout), *pair) or "")
    assert beyond(rollout, plan_of(rollout), loose, None) is None
    assert beyond(rollout, plan_of(rollout)) is None
    assert beyond(rollout, plan_of(rollout), policy(), None) is None


def test_a_pause_before_any_weight_is_no_step() -> None:
    rollout = RolloutSpec(steps=steps("5s", 50, 50, 100))
    assert beyond(rollout, plan_of(rollout), policy(max_step=50)) is None


# In the machine.


@dataclass
class Governed(World):
    """A registry that follows policies, as gather would have the machine see it."""

    chosen: Policy | None = None
    imposed: Policy | None = None

    @property
    def plan(self) -> Plan | None:
        self.last_plan = planned(effective(self.rollout, self.chosen, self.imposed))
        return self.last_plan

    def observe(self) -> Observation:
        return limited(self.status, super().observe(), self.rollout, self.chosen, self.imposed)


def steady(**more: Any) -> Governed:
    world = Governed(**more)
    world.settle()
    assert world.at(Phase.STEADY)
    return world


ANY: Final = (
    None,
    policy(preset="AllAtOnce", checks=(check("must"),), min_bake="1h", max_step=1),
    policy("other", steps=steps(1, None), on_failure="Pause", progress_deadline="1s", max_step=99),
    NO_POLICY,
)


def test_a_steady_registry_gets_no_status_whatever_becomes_of_its_policies() -> None:
    world = steady(rollout=RolloutSpec(steps=steps(50), checks=(check(),)))
    for chosen in ANY:
        for imposed in ANY:
            world.chosen, world.imposed = chosen, imposed
            decision = world.decide()
            assert (decision.changed, decision.record, decision.wake_in) == (False, False, None)


def test_the_first_version_is_not_limited() -> None:
    world = steady(chosen=policy(max_step=1))
    assert world.status.stable is not None


def test_new_content_beyond_a_limit_is_refused_and_goes_on_when_the_policy_allows_it() -> None:
    world = steady(chosen=policy(max_step=20), rollout=RolloutSpec(steps=steps(50, None)))
    before = world.status
    world.edit(asked="two")
    world.settle()
    assert conditions(world)["Stalled"] == ("True", "InvalidSpec")
    assert "'production'" in world.status.conditions[3].message
    assert (world.status.stable, world.status.revision, len(world.versions)) == (before.stable, before.revision, 1)
    world.chosen = policy(max_step=50)
    world.settle()
    assert world.canary.weight == 50


def test_a_candidate_that_is_out_goes_on_under_a_stricter_limit() -> None:
    world = steady(rollout=RolloutSpec(steps=steps(50, "5s")))
    world.edit(asked="two")
    world.settle()
    revision = world.status.revision
    world.imposed = policy(max_step=1)
    assert not world.decide().changed
    assert world.status.revision == revision
    world.run(10)
    assert world.status.stable is not None
    assert world.status.stable.hash == hash_of("two")


def test_other_steps_beyond_a_limit_hold_a_candidate_which_can_still_be_rolled_back() -> None:
    """Two edits, first small steps and then large ones, must not pass the limit."""
    world = steady(
        chosen=policy(max_step=20, checks=(check("must"),)), rollout=RolloutSpec(steps=steps(20, None, 40, 60, 80))
    )
    world.edit(asked="two")
    world.settle()
    assert world.canary.weight == 20
    world.edit(steps=steps(100))
    world.settle()
    world.run(30)
    assert (world.canary.weight, conditions(world)["Stalled"]) == (20, ("True", "InvalidSpec"))
    world.probe(Verdict.FAIL, "must")
    world.settle()
    assert world.status.canary is None
    assert hash_of("two") in world.status.rejected_hashes


def test_other_steps_of_a_policy_start_the_same_candidate_again() -> None:
    world = steady(chosen=policy(steps=steps(10, "5s", 50, None)))
    world.edit(asked="two")
    world.run(7)
    assert (world.canary.version, world.canary.weight) == (2, 50)
    world.chosen = policy(steps=steps(20, None, 60))
    world.settle()
    assert (world.canary.version, world.canary.weight, world.canary.current_step_index) == (2, 20, 0)


def test_other_checks_of_a_policy_count_anew_and_the_rest_goes_on() -> None:
    world = steady(
        chosen=policy(checks=(check("must", failure_limit=3),)),
        rollout=RolloutSpec(steps=steps(10, None), checks=(check("own", failure_limit=3),)),
    )
    world.edit(asked="two")
    world.settle()
    world.probe(Verdict.FAIL, "own", "must")
    world.settle()
    world.chosen = policy(checks=(check("must", failure_limit=2),))
    world.probe(Verdict.FAIL, "own")
    world.settle()
    assert {state.name: state.failed for state in world.canary.checks} == {"own": 2, "must": 0}
    assert (world.canary.version, world.canary.weight) == (2, 10)


def test_a_stage_waits_for_a_mandatory_check() -> None:
    world = steady(imposed=policy(checks=(check("must"),)), rollout=RolloutSpec(steps=steps(10, "5s")))
    world.edit(asked="two")
    world.settle()
    world.tick(6)
    world.settle()
    assert world.canary.weight == 10
    world.probe(Verdict.PASS, "must")
    world.settle()
    assert world.canary.weight == 100


def test_a_persons_word_is_not_limited() -> None:
    world = steady(chosen=policy(max_step=50), rollout=RolloutSpec(steps=steps(50, None)))
    world.edit(asked="two")
    world.settle()
    world.command(Verb.PROMOTE_FULL)
    world.settle()
    assert world.status.stable is not None
    assert world.status.stable.hash == hash_of("two")
    world.chosen = policy(max_step=1)
    world.edit(pinned=1)
    world.settle()
    assert world.status.stable.hash == hash_of("one")


# A policy that nobody can follow.

UNFOLLOWED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "bake": ({"defaults": {"bake": "soon"}}, "spec.defaults.bake: 'soon': expected a duration"),
    "preset and steps": (
        {"defaults": {"preset": "AllAtOnce", "steps": [{"setWeight": 1}]}},
        "spec.defaults.steps: expected either preset or steps",
    ),
    "preset": ({"defaults": {"preset": "Fast"}}, "spec.defaults.preset: 'Fast': expected one of"),
    "weights": (
        {"defaults": {"steps": [{"setWeight": 50}, {"setWeight": 5}]}},
        "spec.defaults.steps[1].setWeight: 5: expected 50 to 100",
    ),
    "check of no kind": ({"checks": [{"name": "a"}]}, "spec.checks[0]: 'no kind': expected exactly one"),
    "two of a name": ({"checks": [{"name": "a", "consumers": {}}] * 2}, "spec.checks: 'a': expected each name once"),
    "default check": (
        {"defaults": {"checks": [{"name": "a", "interval": "0s", "consumers": {}}]}},
        "spec.defaults.checks[0].interval: '0s': expected more than 0s",
    ),
    "shortest bake": ({"limits": {"minBake": "1d"}}, "spec.limits.minBake: '1d': expected a duration"),
    "step": ({"limits": {"maxStep": 0}}, "spec.limits.maxStep: 0: expected 1 to 100"),
    "a word": ({"limits": {"maxStep": "5"}}, "spec.limits.maxStep: Expected `int | null`"),
    "defaults beyond the limits": (
        {"defaults": {"preset": "AllAtOnce"}, "limits": {"maxStep": 50}},
        "spec.defaults: preset: 'AllAtOnce': expected at most 50 percent",
    ),
    "a list": ([], "spec: Expected `object`"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(("spec", "said"), UNFOLLOWED.values(), ids=UNFOLLOWED)
def test_a_policy_that_nobody_can_follow_is_told_with_its_field(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as refused:
        examine(parse_policy("production", json.dumps(spec).encode()))
    assert str(refused.value).startswith(said)


# Which policy.


@dataclass(frozen=True)
class Stored:
    """A fake: as much of a RolloutPolicy as is kept of one."""

    meta: Meta
    spec: bytes


def stored(name: str, version: str = "1", **spec: Any) -> Stored:
    return Stored(Meta(name, resource_version=version), json.dumps(spec).encode())


def namespace(name: str, label: str | None = None) -> MetaObject:
    return MetaObject(Meta(name, labels={} if label is None else {LABEL_POLICY: label}))


@dataclass
class ApiServer:
    """A fake: what GETs find, and which were made. `away`: none is answered."""

    policies: dict[str, Stored] = field(default_factory=dict)
    namespaces: dict[str, MetaObject] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    away: bool = False

    async def policy(self, name: str) -> Stored | None:
        return self._get(name, self.policies)

    async def namespace(self, name: str) -> MetaObject | None:
        return self._get(name, self.namespaces)

    def _get(self, name: str, found: Mapping[str, T]) -> T | None:
        self.asked.append(name)
        if self.away:
            raise Unavailable("nobody answers")
        return found.get(name)


class Known:
    """What the watches hold, and what the API server has."""

    def __init__(self, *objects: Stored | MetaObject) -> None:
        self.watched: dict[tuple[str, str], Stored] = {}
        self.namespaces: dict[tuple[str, str], MetaObject] = {}
        self.api = ApiServer()
        for each in objects:
            self.watch(each)
        self.policies = Policies(self.watched, self.namespaces, self.api.policy, self.api.namespace)

    def watch(self, each: Stored | MetaObject) -> None:
        if isinstance(each, MetaObject):
            self.namespaces[each.meta.key] = each
        else:
            self.watched[each.meta.key] = each


def ref(name: str | None) -> RolloutSpec:
    return RolloutSpec(policy_ref=NameRef(name) if name else None)


BOTH: Final = (stored("a"), stored("b"))


@pytest.mark.parametrize(
    ("label", "named", "chosen", "imposed"),
    [
        (None, None, None, None),
        (None, "a", "a", None),
        ("a", None, "a", "a"),
        ("a", "a", "a", "a"),
        ("a", "b", "b", "a"),
        ("", None, None, None),
    ],
)
async def test_the_registrys_policy_or_else_its_namespaces(
    label: str | None, named: str | None, chosen: str | None, imposed: str | None
) -> None:
    known = Known(*BOTH, namespace("shop", label))
    found = await known.policies.of("shop", ref(named))
    assert (found.chosen and found.chosen.name, found.imposed and found.imposed.name) == (chosen, imposed)
    assert found.problem is None
    assert known.api.asked == [], "what the watches hold is not asked for"
    assert known.policies.followed("shop", ref(named)) == {
        ("namespace", "", "shop"),
        *(("policy", "", name) for name in (label, named) if name),
    }


@pytest.mark.parametrize(
    ("label", "named", "said"),
    [
        (None, "x", "spec.rollout.policyRef.name: 'x': expected a RolloutPolicy"),
        ("x", None, f"label {LABEL_POLICY} of namespace shop: 'x': expected a RolloutPolicy"),
        ("x", "a", f"label {LABEL_POLICY} of namespace shop: 'x': expected a RolloutPolicy"),
        ("a", "x", "spec.rollout.policyRef.name: 'x': expected a RolloutPolicy"),
    ],
)
async def test_a_policy_that_is_not_there_is_told(label: str | None, named: str | None, said: str) -> None:
    known = Known(*BOTH, namespace("shop", label))
    planned_ = await known.policies.plan("shop", ref(named))
    assert planned_.problem == ("InvalidSpec", said)
    assert known.api.asked == ["x"]
    # The candidate is watched by what is known all the same.
    assert planned_.plan is not None
    assert ("policy", "", "x") in known.policies.followed("shop", ref(named))
    known.watch(stored("x"))
    assert (await known.policies.plan("shop", ref(named))).problem is None


async def test_a_watch_that_is_behind_hides_nothing() -> None:
    """Applied in one go with the registry: absent means that a GET answered 404."""
    known = Known()
    known.api.policies["new"] = stored("new", limits={"maxStep": 5})
    known.api.namespaces["shop"] = namespace("shop", "new")
    found = await known.policies.of("shop", ref(None))
    assert found.imposed is not None
    assert found.imposed.limits.max_step == 5
    assert known.api.asked == ["shop", "new"]


@pytest.mark.parametrize("objects", [(), (namespace("shop", "x"),)], ids=["namespace", "policy"])
async def test_what_nobody_can_read_is_not_absent(objects: tuple[MetaObject, ...]) -> None:
    known = Known(*objects)
    known.api.away = True
    with pytest.raises(Unreadable, match="could not be read"):
        await known.policies.plan("shop", ref(None))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"limits": {"minBake": "1d"}},
            "(spec.limits.minBake: '1d': expected a duration such as 500ms, 30s, 5m or 1h30m)",
        ),
        (
            {"checks": [{"name": "a", "http": {"url": "http://h/{{pod}}"}}]},
            "(spec.checks[0].http.url: ",
        ),
    ],
)
async def test_a_policy_that_passed_by_the_crd_is_told(spec: dict[str, Any], said: str) -> None:
    known = Known(stored("a", **spec), namespace("shop"))
    problem = (await known.policies.plan("shop", ref("a"))).problem
    assert problem is not None
    start = "spec.rollout.policyRef.name: 'a': expected a RolloutPolicy that can be followed "
    assert problem.message.startswith(start + said)


async def test_a_policy_is_parsed_once_for_each_resource_version(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def counting(name: str, raw: bytes) -> Policy:
        parsed.append(name)
        return parse_policy(name, raw)

    monkeypatch.setattr(policies_module, "parse_policy", counting)
    known = Known(stored("a", limits={"maxStep": 5}), *(namespace(f"shop-{index}", "a") for index in range(50)))
    for index in range(50):
        for name in ("a", None):
            await known.policies.plan(f"shop-{index}", ref(name))
    assert parsed == ["a"]
    known.watch(stored("a", "2", limits={"maxStep": 6}))
    found = await known.policies.of("shop-0", ref(None))
    assert found.imposed is not None
    assert found.imposed.limits.max_step == 6
    assert parsed == ["a", "a"]


async def test_a_bad_rollout_is_told_as_without_policies() -> None:
    known = Known(stored("a", checks=[{"name": "must", "consumers": {}}]), namespace("shop", "a"))
    written = RolloutSpec(checks=(check("own"), Check("broken")))
    problem = (await known.policies.plan("shop", written)).problem
    assert problem is not None
    assert problem.message.startswith("spec.rollout.checks[1]: 'no kind': expected exactly one")


def test_what_a_namespace_names() -> None:
    assert [labelled(each) for each in (None, namespace("a"), namespace("a", ""), namespace("a", "b"))] == [
        "",
        "",
        "",
        "b",
    ]
