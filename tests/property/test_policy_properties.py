"""What holds for every policy and every spec.rollout, and for every history of one registry under them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.rollout_world import check, hash_of, steps
from tests.unit.test_rollout_policy import Governed

from configregistry.errors import FieldError
from configregistry.model.durations import parse_duration
from configregistry.model.policy import Defaults, Limits, Policy
from configregistry.model.spec import Check, MatchRule, RolloutSpec, Step
from configregistry.model.status import Status
from configregistry.rollout.observation import Verb, Verdict
from configregistry.rollout.plan import PRESETS, plan_of
from configregistry.rollout.policy import beyond, effective, examine
from configregistry.rollout.table import Phase

NAMES = ("a", "b", "c", "d")

durations = st.sampled_from(["0s", "500ms", "30s", "1m", "10m", "1h", "1h30m"])
presets = st.sampled_from(sorted(PRESETS))
weights = st.lists(st.integers(0, 100), min_size=1, max_size=6).map(sorted)
pauses = st.sampled_from(["4s", "8s", None])


@st.composite
def some_steps(draw: st.DrawFn) -> tuple[Step, ...]:
    return steps(*(part for weight in draw(weights) for part in (weight, draw(pauses))))


@st.composite
def some_checks(draw: st.DrawFn) -> tuple[Check, ...]:
    """Checks of different names; who wrote one is told by its failure_limit."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    limit = draw(st.integers(0, 5))
    return tuple(check(name, failure_limit=limit) for name in names)


@st.composite
def ways(draw: st.DrawFn) -> dict[str, Any]:
    """Neither, a preset, or steps."""
    return draw(
        st.one_of(
            st.just({"preset": None, "steps": ()}),
            presets.map(lambda name: {"preset": name, "steps": ()}),
            some_steps().map(lambda each: {"preset": None, "steps": each}),
        )
    )


rest: dict[str, st.SearchStrategy[Any]] = {
    "bake": st.none() | durations,
    "checks": some_checks(),
    "on_failure": st.sampled_from([None, "Rollback", "Pause"]),
    "progress_deadline": st.sampled_from([None, "5s", "10m"]),
}


@st.composite
def rollouts(draw: st.DrawFn) -> RolloutSpec:
    own = {"seed": st.sampled_from(["", "7"]), "match": st.sampled_from([(), (MatchRule("region", ("eu",)),)])}
    said: dict[str, Any] = draw(st.fixed_dictionaries({**rest, **own}))
    return RolloutSpec(**draw(ways()), **said)


@st.composite
def policies(draw: st.DrawFn, name: str = "production") -> Policy:
    said: dict[str, Any] = draw(st.fixed_dictionaries(rest))
    defaults = Defaults(**draw(ways()), **said)
    limits = Limits(draw(st.none() | durations), draw(st.none() | st.integers(1, 100)))
    return Policy(name, defaults, draw(some_checks()), limits)


maybe = st.none() | policies()


@given(rollouts(), maybe, st.none() | policies("namespace"))
def test_twice_is_once(written: RolloutSpec, chosen: Policy | None, imposed: Policy | None) -> None:
    once = effective(written, chosen, imposed)
    assert effective(once, chosen, imposed) == once


@given(rollouts(), maybe, st.none() | policies("namespace"))
def test_nobody_is_below_what_is_mandatory(written: RolloutSpec, chosen: Policy | None, imposed: Policy | None) -> None:
    plan = plan_of(effective(written, chosen, imposed))
    there = {each.name: each.spec for each in plan.checks}
    wanted = {each.name: each for policy in (chosen, imposed) if policy is not None for each in policy.checks}
    assert {name: there[name] for name in wanted} == wanted
    for policy in (chosen, imposed):
        if policy is not None and policy.limits.min_bake is not None:
            assert plan.bake >= parse_duration(policy.limits.min_bake)


@given(rollouts(), maybe, st.none() | policies("namespace"))
def test_what_a_registry_says_stays_said(written: RolloutSpec, chosen: Policy | None, imposed: Policy | None) -> None:
    found = effective(written, chosen, imposed)
    if written.preset is not None or written.steps:
        assert (found.preset, found.steps) == (written.preset, written.steps)
    for name in ("on_failure", "progress_deadline"):
        assert getattr(written, name) in {None, getattr(found, name)}
    assert (found.match, found.seed, found.paused) == (written.match, written.seed, written.paused)
    # An index in a message names the check that the person sees under it.
    assert [each.name for each in found.checks][: len(written.checks)] == [each.name for each in written.checks]
    mandatory = {each.name for policy in (chosen, imposed) if policy for each in policy.checks}
    assert all(each in found.checks for each in written.checks if each.name not in mandatory)
    # Nothing is shorter than it was, and nobody loses a check.
    assert plan_of(found).bake >= (plan_of(written).bake if written.bake or written.preset else 0)


@given(rollouts(), policies())
def test_a_sentence_is_said_exactly_when_a_weight_grows_by_more_than_the_limit(
    written: RolloutSpec, policy: Policy
) -> None:
    plan = plan_of(effective(written, policy, None))
    largest = max(after - before for before, after in pairwise([0, *(stage.weight for stage in plan.stages)]))
    limit = policy.limits.max_step
    assert (beyond(written, plan, policy) is not None) == (limit is not None and largest > limit)


@given(policies())
def test_a_policy_is_refused_exactly_when_its_defaults_are_beyond_its_limits(policy: Policy) -> None:
    said = RolloutSpec(preset=policy.defaults.preset, steps=policy.defaults.steps)
    speaks = bool(said.preset or said.steps)
    assert is_refused(policy) == (speaks and beyond(said, plan_of(said), policy) is not None)


def is_refused(policy: Policy) -> bool:
    try:
        examine(policy)
    except FieldError:
        return True
    return False


@given(rollouts(), st.lists(st.tuples(maybe, st.none() | policies("namespace")), max_size=6))
def test_a_steady_registry_is_not_written_whatever_policies_come(
    written: RolloutSpec, changes: list[tuple[Policy | None, Policy | None]]
) -> None:
    world = Governed(rollout=written)
    world.settle()
    before = msgspec.json.encode(world.status)
    for world.chosen, world.imposed in changes:
        decision = world.decide()
        assert not decision.changed
        assert not decision.record
    assert msgspec.json.encode(world.status) == before


class UnderPolicies(RuleBasedStateMachine):
    """One registry whose rollout is edited, whose policies change, whose checks say anything.

    `most`: the highest limits.maxStep that any of its policies has had; each of them has one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = Governed()
        self.asked = ["one"]
        self.most = 0
        self.writes: list[tuple[Status, Status]] = []
        self.world.on_accept = lambda _obs, before, after: self.writes.append((before, after))

    @initialize(rollout=rollouts(), chosen=policies(), limit=st.integers(10, 60))
    def begin(self, rollout: RolloutSpec, chosen: Policy, limit: int) -> None:
        self.world.rollout = rollout
        self._govern(chosen, limit)
        self.world.settle()
        assert self.world.at(Phase.STEADY), "a first version is not limited"

    def _govern(self, chosen: Policy, limit: int) -> None:
        self.most = max(self.most, limit)
        limits = Limits(chosen.limits.min_bake, limit)
        self.world.chosen = msgspec.structs.replace(chosen, limits=limits)

    @rule(chosen=policies(), limit=st.integers(10, 60))
    def change_policy(self, chosen: Policy, limit: int) -> None:
        """Content decides what is a candidate; a policy neither begins nor ends one."""
        before = self.world.status
        self._govern(chosen, limit)
        self.world.settle()
        after = self.world.status
        if self.world.at(Phase.STEADY) and before.canary is None and not _stalled(before):
            assert after == before or _asked_anew(before, self.asked[-1])
        if before.canary is not None and after.canary is not None:
            # Content that a limit held may go out now, in place of what was asked for before it.
            held = before.canary.hash != hash_of(self.asked[-1])
            assert after.canary.version == before.canary.version or held

    @rule(rollout=rollouts())
    def edit(self, rollout: RolloutSpec) -> None:
        self.world.edit(rollout=rollout)
        self.world.settle()

    @rule(label=st.sampled_from(["one", "two", "three"]))
    def ask(self, label: str) -> None:
        self.asked.append(label)
        self.world.edit(asked=label)
        self.world.settle()

    @rule(verdict=st.sampled_from([Verdict.PASS, Verdict.PASS, Verdict.FAIL]))
    def probe(self, verdict: Verdict) -> None:
        plan = self.world.plan
        self.world.probe(verdict, *(each.name for each in plan.checks) if plan else ())
        self.world.settle()

    @rule(seconds=st.sampled_from([1.0, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.tick(seconds)
        self.world.settle()

    @rule()
    def restart(self) -> None:
        self.world.restart()
        self.world.settle()

    @precondition(lambda self: self.world.status.canary is None)
    @rule()
    def forgive(self) -> None:
        for entry in self.world.status.rejected:
            self.world.command(Verb.RETRY, entry.version, "-")
            self.world.settle()

    @invariant()
    def only_what_was_asked_for_is_a_candidate(self) -> None:
        canary = self.world.status.canary
        assert canary is None or canary.hash in {hash_of(label) for label in self.asked}

    @invariant()
    def no_write_raises_the_weight_by_more_than_any_limit_allowed(self) -> None:
        """Nobody promotes here: so no edits, in whatever order, give more consumers at a time."""
        for before, after in self.writes:
            if before.canary is None or after.canary is None:
                new = after.canary.weight if after.canary else 0
                assert new <= self.most
            elif before.canary.version == after.canary.version:
                assert after.canary.weight - before.canary.weight <= self.most
            assert after.revision >= before.revision
        self.writes.clear()


def _stalled(status: Status) -> bool:
    return any(each.type == "Stalled" and each.status == "True" for each in status.conditions)


def _asked_anew(status: Status, label: str) -> bool:
    """Whether what is asked for is not what is stable."""
    return status.stable is None or status.stable.hash != hash_of(label)


TestUnderPolicies = UnderPolicies.TestCase
TestUnderPolicies.settings = settings(max_examples=100, stateful_step_count=30)
