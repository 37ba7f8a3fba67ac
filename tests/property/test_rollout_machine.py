"""The rollout machine, played against the promises of the product (invariants 2 to 8), driven by Hypothesis.

A registry is edited, pinned, commanded, probed, restarted, and its clocks jump, in any order. What the
machine decides is not predicted; each accepted write and each decision is judged by rules that are written
here anew, from the documents and not from the code.
"""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.rollout_world import World, assert_whole, bring, check, hash_of, kstatus, stage_key, steps

from configregistry.errors import FieldError
from configregistry.model.conditions import INVALID_SPEC, SOURCE_NOT_FOUND, VALIDATOR_UNAVAILABLE
from configregistry.model.spec import MatchRule, NameRef, RolloutSpec
from configregistry.model.status import Canary, Status, encode_status
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import HookState, Observation, Problem, Verb, Verdict
from configregistry.rollout.plan import Plan, Stage, plan_of
from configregistry.rollout.table import Phase, phase_of

CRD = yaml.safe_load((Path(__file__).parents[2] / "crds" / "configregistries.yaml").read_text())
STATUS = jsonschema_rs.Draft202012Validator(
    CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
)

CONTENTS = ["one", "two", "three", "four"]
TIMED = (Phase.STEPPING, Phase.BAKING)
WATCHED = (*TIMED, Phase.WAITING, Phase.PAUSED, Phase.FROZEN)
WAYS: list[dict[str, Any]] = [
    {},
    {"steps": steps(100)},
    {"steps": steps(10, "4s", 50, "6s")},
    {"steps": steps(5, None, 50, "8s", 100, "3s"), "bake": "5s"},
    {"steps": steps("2s", 0, "3s", 30, None)},
    {"steps": steps(20, "4s", 20, "4s"), "bake": "2s"},
    {"preset": "AllAtOnce", "bake": "12s"},
    {"preset": "Linear50PercentEvery30Seconds", "bake": "0s"},
]
CHECKS = [
    (),
    (check("a"),),
    (check("a", failure_limit=1), check("b", consecutive_error_limit=0)),
    (check("a", no_data="Fail"),),
    (check("b", no_data="Pass", consecutive_error_limit=1),),
]
MATCHES = [(), (MatchRule("region", ("eu-test",)),)]

contents = st.sampled_from(CONTENTS)
some_seconds = st.sampled_from([0.1, 1.0, 2.5, 5.0, 11.0, 40.0])
likely = st.sampled_from([True, True, True, False])
policies = st.sampled_from(["Rollback", "Pause"])
mistakes = st.sampled_from(["", "", "", "version", "step"])
NO_OBSTACLES = {"problem": None, "waiting_for": (), "hook": HookState.ALLOWED, "hook_message": "", "projection": ""}
obstacles = st.sampled_from(
    [
        {"problem": Problem(INVALID_SPEC, "spec.data: something is wrong with it")},
        {"problem": Problem(SOURCE_NOT_FOUND, "spec.dataFrom[0].configMapRef.name: 'base'")},
        {"problem": Problem(VALIDATOR_UNAVAILABLE, "spec.validators[0]: no answer")},
        {"waiting_for": ("database",)},
        {"hook": HookState.PENDING},
        {"hook": HookState.VETOED, "hook_message": "not on Fridays"},
        {"projection": "ConfigMap checkout-config is not ours"},
        *[NO_OBSTACLES] * 6,
    ]
)
ANY_WAY = [{"steps": (), "preset": None, "bake": None} | way for way in WAYS]
edits: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from(ANY_WAY),
    st.fixed_dictionaries({"checks": st.sampled_from(CHECKS)}),
    st.fixed_dictionaries({"match": st.sampled_from(MATCHES), "seed": st.sampled_from(["", "2026"])}),
    st.fixed_dictionaries({"on_failure": policies, "progress_deadline": st.sampled_from(["3s", "10m"])}),
    st.fixed_dictionaries({"bake": st.sampled_from([None, "0s", "3s", "20s"])}),
    st.fixed_dictionaries({"paused": st.booleans()}),
    st.fixed_dictionaries({"fallback": st.sampled_from([None, NameRef("defaults"), NameRef("others")])}),
)
verdicts = st.sampled_from([Verdict.PASS] * 4 + [Verdict.NO_DATA] * 2 + [Verdict.FAIL, Verdict.ERROR])


def given(status: Status) -> object:
    """What this registry itself gives, in the words of invariant 2."""
    canary = status.canary
    return (
        status.stable and status.stable.hash,
        status.fallback and status.fallback.name,
        canary and (canary.hash, canary.weight, canary.seed, canary.match),
    )


def stage_at(canary: Canary, plan: Plan) -> Stage:
    if canary.baking:
        return plan.stages[-1]
    return next(stage for stage in plan.stages if stage.step == canary.current_step_index)


def same_candidate(before: Status, after: Status) -> bool:
    old, new = before.canary, after.canary
    return old is not None and new is not None and (old.version, old.started_at) == (new.version, new.started_at)


class Registry(RuleBasedStateMachine):
    """Rules change the world; `reconcile` lets the machine act; each write is judged where it is accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(on_accept=self.judge)
        self.ran = 0.0
        """Seconds that the present stage has really run while somebody watched."""
        self.failing: dict[str, int] = {}
        """Probes of each check that were counted as failures for the present candidate."""
        self.condemned: set[str] = set()
        """Hashes whose checks failed, until somebody says retry or promote-full."""
        self.acted: set[tuple[str, str]] = set()

    # --- what people do -------------------------------------------------------------------------------------

    @initialize(phase=st.sampled_from(Phase), checks=st.sampled_from(CHECKS), on_failure=policies)
    def begin(self, phase: Phase, checks: Any, on_failure: str) -> None:
        """Each phase is as likely: by chance alone most histories would end before the rare ones."""
        self.world.edit(checks=checks)
        bring(self.world, phase)
        if phase is not Phase.FAILED:
            self.world.edit(on_failure=on_failure)

    @rule(label=contents, well=likely, act=likely)
    def edit_content(self, label: str, well: bool, act: bool) -> None:
        self.world.edit(asked=label, problem=None)
        if well:
            self.remove_obstacles()
        self.perhaps(act)

    @rule(edit=edits, act=likely)
    def edit_rollout(self, edit: dict[str, Any], act: bool) -> None:
        old = {each.name: each for each in self.world.rollout.checks}
        self.world.edit(**edit)
        kept = {each.name for each in self.world.rollout.checks if old.get(each.name) == each}
        # The runner makes an edited check anew: what the former one said, and that it passed, is gone.
        self.world.unsaved = {name: probes for name, probes in self.world.unsaved.items() if name in kept}
        self.world.passed &= kept
        self.perhaps(act)

    @precondition(lambda self: self.world.versions)
    @rule(data=st.data(), act=likely)
    def pin(self, data: st.DataObject, act: bool) -> None:
        """To a version that is known, or to 99, which is not."""
        self.world.edit(pinned=data.draw(st.sampled_from([*self.world.versions, 99])))
        self.perhaps(act)

    @precondition(lambda self: self.world.status.canary is not None)
    @rule(verb=st.sampled_from([verb for verb in Verb if verb is not Verb.RETRY]), wrong=mistakes, act=likely)
    def command(self, verb: Verb, wrong: str, act: bool) -> None:
        self.world.command(
            verb,
            version=77 if wrong == "version" else None,
            step="9" if wrong == "step" else None,
        )
        self.perhaps(act)

    @precondition(lambda self: self.world.status.rejected)
    @rule(data=st.data(), wrong=mistakes, act=st.booleans())
    def retry(self, data: st.DataObject, wrong: str, act: bool) -> None:
        version = data.draw(st.sampled_from([each.version for each in self.world.status.rejected]))
        self.world.command(Verb.RETRY, version=77 if wrong == "version" else version)
        self.perhaps(act)

    # --- what the surroundings do ---------------------------------------------------------------------------

    @rule(verdict=verdicts, message=st.sampled_from(["", "0.08 is above max 0.03", "x" * 5000]), act=st.booleans())
    def probe(self, verdict: Verdict, message: str, act: bool) -> None:
        """Each check is made once; one with a Fail or Error that is not stored yet is not made."""
        if phase_of(self.world.status) not in WATCHED:
            return
        for each in self.world.rollout.checks:
            waits = [probe.verdict in (Verdict.FAIL, Verdict.ERROR) for probe in self.world.unsaved.get(each.name, ())]
            if not any(waits):
                self.world.probe(verdict, each.name, message=message, value="0.08")
        self.perhaps(act)

    @rule(seconds=some_seconds, act=st.booleans())
    def time_passes(self, seconds: float, act: bool) -> None:
        if phase_of(self.world.status) in TIMED:
            self.ran += seconds
        self.world.tick(seconds)
        self.perhaps(act)

    @rule(obstacle=obstacles, jump=st.sampled_from([0, 0, -86400, -7, 7, 86400]), restarted=st.booleans(), act=likely)
    def surroundings_change(self, obstacle: dict[str, Any], jump: int, restarted: bool, act: bool) -> None:
        self.world.edit(**obstacle)
        self.world.wall += timedelta(seconds=jump)
        if restarted:
            self.world.restart()
        self.perhaps(act)

    # --- what the machine does ------------------------------------------------------------------------------

    @rule()
    def reconcile_once(self) -> None:
        self.world.once()

    @rule(seconds=some_seconds, times=st.integers(1, 4))
    def go_on(self, seconds: float, times: int) -> None:
        """All checks pass, time goes by, the machine acts: how rollouts get anywhere at all."""
        for _ in range(times):
            self.probe(Verdict.PASS, "", act=False)
            self.time_passes(seconds, act=True)

    def perhaps(self, act: bool) -> None:
        if act:
            self.world.settle()

    def remove_obstacles(self) -> None:
        self.world.edit(**NO_OBSTACLES, pinned=None, paused=False)

    # --- judgement ------------------------------------------------------------------------------------------

    @invariant()
    def decisions_hold(self) -> None:
        """Rules that any decision keeps, accepted or not; with what is known now it comes to rest."""
        observed = self.world.observe()
        decision = decide(self.world.status, observed)
        assert decide(self.world.status, observed) == decision, "decided otherwise after a write that was refused"
        if not decision.record and decision.changed:
            self.over_limit_is_one_write(observed, decision.status)
        future = copy.copy(self.world)
        future.on_accept = None
        future.versions, future.labels = dict(future.versions), dict(future.labels)
        future.unsaved = {name: list(probes) for name, probes in future.unsaved.items()}
        future.passed, future.notes = set(future.passed), []
        future.settle()
        at_rest = future.decide()
        assert not at_rest.changed
        assert at_rest.wake_in is None or at_rest.wake_in > 0, "calm, and asked again at once: a hot loop"
        if future.phase in TIMED and future.plan is not None:
            held = future.problem or future.pinned or future.canary.hash != hash_of(future.asked)
            assert at_rest.wake_in is not None
            assert held or at_rest.wake_in <= 10, "what was measured is to be stored every 10 s"
        if kstatus(future) == "Current":
            assert future.status.canary is None
            assert future.status.stable is not None
            right = future.pinned == future.status.stable.version or (
                future.pinned is None and future.status.stable.hash == hash_of(future.asked)
            )
            assert right, "Ready, and not what the spec asks for"
            assert future.status.fallback == future.fallback

    def over_limit_is_one_write(self, observed: Observation, after: Status) -> None:
        before, plan = self.world.status, observed.plan
        if before.canary is None or plan is None or phase_of(before) not in WATCHED:
            return
        for each in plan.checks:
            report = next(report for report in observed.reports if report.name == each.name)
            state = next((s for s in before.canary.checks if s.name == each.name and s.hash == each.hash), None)
            failed = state.failed if state else 0
            in_a_row = state.consecutive_errors if state else 0
            for probe in report.unsaved:
                no_data = probe.verdict is Verdict.NO_DATA
                failed += probe.verdict is Verdict.FAIL or (no_data and each.spec.no_data == "Fail")
                in_a_row = in_a_row + 1 if probe.verdict is Verdict.ERROR else 0
            if failed > each.spec.failure_limit or in_a_row > each.spec.consecutive_error_limit:
                if plan.roll_back:
                    assert after.canary is None, "over its limit, and still out"
                    assert before.canary.hash in after.rejected_hashes
                    assert after.revision == before.revision + 1
                    assert after.last_outcome is not None
                    assert after.last_outcome.result == "RolledBack"
                else:
                    assert after.canary is not None
                    assert after.canary.failed
                return

    def judge(self, observed: Observation, before: Status, after: Status) -> None:
        """One accepted write."""
        STATUS.validate(json.loads(encode_status(after)))
        assert_whole(after, observed.generation)
        assert after.revision == before.revision + (given(before) != given(after))
        assert after.last_version >= max((part.version for part in (after.stable, after.canary) if part), default=0)
        by_command = self.commands_act_once(before, after)
        self.who_is_condemned(before, after, by_command)
        if after.canary is not None:
            assert after.stable is not None
            assert after.canary.hash != after.stable.hash
            if not same_candidate(before, after):
                self.may_start(observed)
            elif before.canary is not None:
                self.goes_on(observed, before, after, by_command)
        elif before.canary is not None and after.stable and after.stable.hash == before.canary.hash:
            self.may_complete(observed, before, by_command)
        if stage_key(before) != stage_key(after):
            self.ran = 0.0
        if after.canary is None:
            self.ran = 0.0

    def commands_act_once(self, before: Status, after: Status) -> set[str]:
        """The verbs that acted in this write."""
        acted = set()
        for verb, record in after.commands.items():
            if before.commands.get(verb) != record:
                assert (verb, record.token) not in self.acted, "a token acted twice"
                self.acted.add((verb, record.token))
                if record.result == "Done":
                    acted.add(verb)
                    named = before.canary.version if before.canary and verb != "retry" else record.version
                    assert record.version == named, "a command acted on another version"
        assert len(acted) <= 1
        return acted

    def who_is_condemned(self, before: Status, after: Status, by_command: set[str]) -> None:
        if "retry" in by_command:
            self.condemned &= set(after.rejected_hashes)
        if "promote-full" in by_command and before.canary:
            self.condemned.discard(before.canary.hash)
        if "resume" in by_command and before.canary:
            self.condemned.discard(before.canary.hash)
        for entry in after.rejected:
            if entry.reason == "CheckFailed" and entry not in before.rejected:
                self.condemned.add(entry.hash)
        if after.canary is not None and after.canary.failed:
            self.condemned.add(after.canary.hash)
        elif after.canary is not None:
            assert after.canary.hash not in self.condemned, "content that failed is the candidate again"
        if after.stable is not None:
            assert after.stable.hash not in self.condemned, "content that failed is stable"
        ended = before.canary is not None and not same_candidate(before, after)
        if ended and before.canary is not None and before.canary.failed and "promote-full" not in by_command:
            assert before.canary.hash in after.rejected_hashes

    def may_start(self, observed: Observation) -> None:
        after = self.world.canary
        assert observed.problem is None, "started while invalid"
        assert observed.pinned is None
        assert not observed.waiting_for
        assert observed.hook is not HookState.VETOED
        assert observed.content is not None
        assert after.hash == observed.content.hash
        assert observed.versions[after.version].hash == after.hash
        if self.world.rollout.paused or observed.hook is HookState.PENDING:
            assert (after.weight, after.match, after.step_started_at) == (0, (), "")
        else:
            assert after.current_step_index == 0

    def goes_on(self, observed: Observation, before: Status, after: Status, by_command: set[str]) -> None:
        """The same candidate: what of it may differ."""
        old, new, plan = before.canary, after.canary, observed.plan
        assert old is not None
        assert new is not None
        moved = stage_key(before) != stage_key(after)
        if not moved or not old.step_started_at:
            assert moved or new.weight == old.weight
            return
        assert plan is not None
        if old.steps_hash != new.steps_hash:
            assert new.current_step_index == plan.stages[0].step
            assert new.weight == plan.stages[0].weight
            return
        assert new.weight >= old.weight, "the weight went down though nobody edited the steps"
        steps_of = [stage.step for stage in plan.stages]
        if new.baking and new.weight == old.weight == 100 and old.current_step_index == steps_of[-1]:
            assert new.current_step_index == plan.steps
        else:
            place = steps_of.index(old.current_step_index)
            assert new.current_step_index == steps_of[place + 1], "a step was skipped or done again"
        if "promote" not in by_command:
            assert not by_command
            self.stage_is_over(observed, old, plan)

    def may_complete(self, observed: Observation, before: Status, by_command: set[str]) -> None:
        canary, plan = before.canary, observed.plan
        assert canary is not None
        if "promote-full" in by_command or observed.pinned is not None:
            return
        assert not by_command
        assert plan is not None
        assert observed.problem is None
        assert stage_at(canary, plan) == plan.stages[-1]
        assert canary.weight == 100
        assert canary.baking or plan.bake == 0
        self.stage_is_over(observed, canary, plan)

    def stage_is_over(self, observed: Observation, canary: Canary, plan: Plan) -> None:
        """Its time was really waited for, and each check passed in it, before this process' eyes."""
        assert phase_of(Status(canary=canary)) in TIMED
        assert observed.problem is None
        assert observed.content is not None
        assert observed.content.hash == canary.hash
        assert {report.name for report in observed.reports if report.passed} == {each.name for each in plan.checks}
        if canary.promoted:
            return
        stage = stage_at(canary, plan)
        assert canary.baking or not stage.waits
        wait = plan.bake if canary.baking else stage.pause
        assert self.ran >= wait - 0.05, "a pause was shortened"


def test_the_ways_are_valid() -> None:
    for way in WAYS:
        try:
            plan_of(RolloutSpec(**way))
        except FieldError as error:
            raise AssertionError(way) from error


Registry.TestCase.settings = settings(max_examples=500, stateful_step_count=50, report_multiple_bugs=False)
TestRegistry = Registry.TestCase
