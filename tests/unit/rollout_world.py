"""A registry in a bottle: everything that decides about it, with clocks, checks and an API server that are values.

Both the case tables and the Hypothesis machine play with it. It knows what the reconciler does around
`decide` (record, write, count what was saved, forget passes of a stage that is over) and nothing of the rules.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from configregistry.clock import timestamp
from configregistry.errors import FieldError
from configregistry.model.content import Content
from configregistry.model.spec import Check, HttpCheck, NameRef, Pause, RolloutSpec, Step
from configregistry.model.status import Canary, Status, encode_status, parse_status
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import (
    CheckReport,
    Command,
    Decision,
    HookState,
    Note,
    Observation,
    Probe,
    Problem,
    Usage,
    Verb,
    Verdict,
    VersionInfo,
)
from configregistry.rollout.plan import Plan, plan_of
from configregistry.rollout.table import Phase, phase_of

UID = "5f3c2f1e-7c0e-4a57-9d55-0c1b8d0f4a11"
START = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
MOST = 30
"""Decisions in a row after which something goes round in circles."""


def hash_of(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:16]


planned = functools.cache(plan_of)


def content(label: str) -> Content:
    return Content(hash_of(label), label.encode(), 1)


def steps(*parts: int | str | None) -> tuple[Step, ...]:
    """A number is a weight, a text a pause, None a pause without end."""
    return tuple(Step(part) if isinstance(part, int) else Step(pause=Pause(part)) for part in parts)


def check(name: str = "errors", **more: Any) -> Check:
    return Check(name, http=HttpCheck("http://checkout.shop.svc/healthz"), **more)


@dataclass
class World:
    """One registry, one process that decides about it."""

    rollout: RolloutSpec = field(default_factory=RolloutSpec)
    asked: str = "one"
    problem: Problem | None = None
    pinned: int | None = None
    waiting_for: tuple[str, ...] = ()
    hook: HookState = HookState.ALLOWED
    hook_message: str = ""
    fallback: NameRef | None = None
    projection: str = ""
    tells: frozenset[str] = frozenset()
    hooks_told: bool = False
    usage: Usage = field(default_factory=Usage)
    generation: int = 1
    status: Status = field(default_factory=Status)
    versions: dict[int, VersionInfo] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)
    commands: dict[Verb, Command] = field(default_factory=dict)
    unsaved: dict[str, list[Probe]] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    last_plan: Plan | None = None
    wall: datetime = START
    now: float = 100.0
    saved_at: float = 100.0
    notes: list[Note] = field(default_factory=list)
    tokens: int = 0
    on_accept: Callable[[Observation, Status, Status], None] | None = None

    @property
    def plan(self) -> Plan | None:
        """The last valid plan, as the reconciler keeps it."""
        with contextlib.suppress(FieldError):
            self.last_plan = planned(self.rollout)
        return self.last_plan

    @property
    def phase(self) -> Phase:
        return phase_of(self.status)

    def at(self, phase: Phase) -> bool:
        """Whether it is in a phase (mypy would take what `phase` was for what it is)."""
        return self.phase is phase

    @property
    def canary(self) -> Canary:
        assert self.status.canary is not None
        return self.status.canary

    def observe(self) -> Observation:
        names = [check.name for check in self.plan.checks] if self.plan else []
        watched = self.status.canary is not None
        return Observation(
            uid=UID,
            generation=self.generation,
            plan=self.plan,
            content=None if self.problem else content(self.asked),
            problem=self.problem,
            versions=dict(self.versions),
            now=self.wall,
            since_saved=self.now - self.saved_at,
            pinned=self.pinned,
            reports=tuple(
                CheckReport(name, tuple(self.unsaved.get(name, ())), name in self.passed) for name in names if watched
            ),
            commands=tuple(self.commands[verb] for verb in Verb if verb in self.commands),
            waiting_for=self.waiting_for,
            hook=self.hook,
            hook_message=self.hook_message,
            fallback=self.fallback,
            projection=self.projection,
            tells=self.tells,
            told=self.hooks_told,
            usage=self.usage,
        )

    def decide(self) -> Decision:
        return decide(self.status, self.observe())

    def once(self) -> Decision:
        """Decide once, and do it."""
        observed = self.observe()
        decision = decide(self.status, observed)
        if decision.record:
            self.record(self.asked)
        elif decision.changed:
            self.accept(observed, decision)
        return decision

    def settle(self) -> list[Decision]:
        """Decide until there is nothing to do now."""
        done: list[Decision] = []
        for _ in range(MOST):
            decision = self.once()
            if not decision.record and not decision.changed:
                return done
            done.append(decision)
        raise AssertionError(f"still deciding after {MOST} times: {[d.notes for d in done[-4:]]}")

    def record(self, label: str) -> int:
        number = max((*self.versions, self.status.last_version), default=0) + 1
        assert hash_of(label) not in {version.hash for version in self.versions.values()}, "recorded twice"
        self.versions[number] = VersionInfo(number, hash_of(label), 1)
        self.labels[number] = label
        return number

    def accept(self, observed: Observation, decision: Decision) -> None:
        before, after = self.status, parse_status(encode_status(decision.status))
        assert after == decision.status, "a status must survive the wire"
        self.status, self.saved_at = after, self.now
        self.notes += decision.notes
        for report in observed.reports:
            del self.unsaved.get(report.name, [])[: len(report.unsaved)]
        if stage_key(before) != stage_key(after):
            self.passed.clear()
            self.unsaved = {name: [p for p in probes if urgent(p)] for name, probes in self.unsaved.items()}
        if (before.canary and before.canary.version) != (after.canary and after.canary.version):
            self.unsaved.clear()
        if self.on_accept is not None:
            self.on_accept(observed, before, after)

    def probe(self, verdict: Verdict, *names: str, value: str = "1", message: str = "") -> None:
        """Each named check (all of them when none is named) was made once."""
        for name in names or tuple(check.name for check in self.rollout.checks):
            spec = next((check for check in self.rollout.checks if check.name == name), None)
            probe = Probe(verdict, value, message, timestamp(self.wall))
            self.unsaved.setdefault(name, []).append(probe)
            passes = verdict is Verdict.PASS or (
                verdict is Verdict.NO_DATA and spec is not None and spec.no_data == "Pass"
            )
            if passes:
                self.passed.add(name)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.wall += timedelta(seconds=seconds)

    def run(self, seconds: float, *, each: float = 1.0, passing: bool = True) -> None:
        """Time goes by, with all checks passing, and a decision every so many seconds."""
        for _ in range(round(seconds / each)):
            if passing:
                self.probe(Verdict.PASS)
            self.tick(each)
            self.settle()

    def restart(self) -> None:
        """Another process leads: what was measured and not stored is gone."""
        self.unsaved.clear()
        self.passed.clear()
        self.saved_at = self.now
        self.last_plan = None

    def edit(self, **more: Any) -> None:
        """A new generation; `rollout` fields by their names, all else the world's own."""
        mine = {name: value for name, value in more.items() if name in self.__dataclass_fields__}
        for name, value in mine.items():
            setattr(self, name, value)
        rest = {name: value for name, value in more.items() if name not in mine}
        fields = {name: getattr(self.rollout, name) for name in self.rollout.__struct_fields__}
        self.rollout = RolloutSpec(**(fields | rest))
        self.generation += 1

    def command(self, verb: Verb, version: int | None = None, step: str | None = None, token: str = "") -> str:
        """An annotation; by default for the present candidate at its present step."""
        self.tokens += 1
        canary = self.status.canary
        number = version if version is not None else canary.version if canary else 0
        index = step if step is not None else str(canary.current_step_index) if canary else "-"
        self.commands[verb] = Command(verb, number, index, token or f"token-{self.tokens}")
        return self.commands[verb].token

    def told(self) -> list[str]:
        """The reasons of all events since they were asked for."""
        reasons = [note.reason for note in self.notes]
        self.notes.clear()
        return reasons


def stage_key(status: Status) -> object:
    canary = status.canary
    return canary and (canary.version, canary.current_step_index, canary.baking, canary.step_started_at)


def urgent(probe: Probe) -> bool:
    return probe.verdict in (Verdict.FAIL, Verdict.ERROR)


def served(label: str = "one", **more: Any) -> World:
    """A registry with a first version; then what is given is set."""
    world = World(asked=label)
    world.settle()
    assert world.phase is Phase.STEADY
    world.notes.clear()
    world.edit(**more)
    return world


def rolling(*parts: int | str | None, label: str = "two", checks: Iterable[Check] = (), **more: Any) -> World:
    """A registry whose second content is being rolled out by these steps."""
    world = served(steps=steps(*parts), checks=tuple(checks), **more)
    world.asked = label
    world.settle()
    return world


def bring(world: World, phase: Phase) -> World:
    """Bring an empty world into a phase, with "one" stable and "two" the candidate where there is one."""
    if phase is Phase.EMPTY:
        return world
    world.settle()
    if phase is Phase.STEADY:
        return world
    ways: dict[Phase, dict[str, Any]] = {
        Phase.QUEUED: {"paused": True},
        Phase.WAITING: {"steps": steps(5, None, 50, "8s")},
        Phase.BAKING: {"bake": "12s"},
        Phase.FAILED: {"on_failure": "Pause", "checks": world.rollout.checks or (check("a"),)},
    }
    world.edit(asked="two", **({"steps": steps(10, "4s", 50, "6s"), "on_failure": "Rollback"} | ways.get(phase, {})))
    if phase is Phase.BAKING:
        world.edit(steps=())
    world.settle()
    if phase is Phase.PAUSED:
        world.command(Verb.PAUSE)
    if phase is Phase.FROZEN:
        world.edit(paused=True)
    for _ in range(MOST if phase is Phase.FAILED else 0):
        if world.phase is not phase:
            world.probe(Verdict.FAIL)
            world.settle()
    world.settle()
    assert world.phase is phase
    return world


def conditions(world: World) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in world.status.conditions}


def kstatus(world: World) -> str:
    """kstatus's generic computation (status.go `checkGenericProperties`, then core.go `checkReadyCondition`)."""
    if world.status.observed_generation != world.generation:
        return "InProgress"
    found = {each.type: each.status for each in world.status.conditions}
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "Current" if found.get("Ready", "True") == "True" else "InProgress"


def assert_whole(status: Status, generation: int) -> None:
    """What holds for the conditions of every status that is written."""
    assert [each.type for each in status.conditions] == ["Available", "Ready", "Reconciling", "Stalled", "Healthy"]
    by_type = {each.type: each for each in status.conditions}
    assert isinstance(status.observed_generation, int)
    for each in status.conditions:
        assert each.observed_generation == status.observed_generation == generation
        assert each.reason
        assert each.last_transition_time
        assert len(each.message) <= 1024
    abnormal = (by_type["Reconciling"].status, by_type["Stalled"].status)
    assert abnormal != ("True", "True")
    assert (by_type["Ready"].status == "True") == (abnormal == ("False", "False"))
    assert (by_type["Available"].status == "True") == (status.stable is not None)
