"""What a registry may do: the pure machine, with everything that the real one may or may not have seen yet.

The real operator decides at moments that nobody can foretell: before or after it has heard of an edit, of a probe, of
the end of a pause, and again after a kill. So the model is a set of states, and each status that the API server has
accepted must be one decision (`rollout.machine.decide`) away from one of them, for some choice of what was seen.
Nothing is compared more loosely for that: whatever no choice leads to is an error, at the very write in which it comes.

It must never ask the API server, and never know what the operator does but by `decide`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tests.integration.histories_compare import LONG, MIDDLE, Edit, Key, State, Versions, key_of, visible

from configregistry.errors import FieldError
from configregistry.model import conditions, schema
from configregistry.model.content import Content, Source, build, merge
from configregistry.model.spec import Spec
from configregistry.model.status import Status
from configregistry.rollout.gates import stored_elapsed
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import CheckReport, Observation, Probe, Problem, Verdict, VersionInfo
from configregistry.rollout.plan import Plan, plan_of
from configregistry.rollout.table import CHECKED, RUNNING, phase_of

NOW: Final = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
MOST: Final = 3000
"""States after which the model itself must be wrong."""

ConfigMaps = Mapping[str, Mapping[str, str]]


class UnexpectedError(AssertionError):
    """The operator did what the machine would not."""


class Model:
    """All that may be so of one registry."""

    def __init__(self, asked: Edit, configmaps: ConfigMaps, verdicts: Mapping[str, Verdict]) -> None:
        self.edits = [asked]
        self.sources = [configmaps]
        self.verdicts = verdicts
        """What the checks say of content, by its hash. May be changed by whoever plays; see `said`."""
        self.said: dict[str, frozenset[Verdict]] = {}
        """What probes that are still under way may say besides."""
        self.deleted: dict[int, VersionInfo] = {}
        """Versions that a hand deleted: one that status names is made again."""
        self.states: dict[Key, State] = {}
        self.believe([State(Status())])
        self._following: dict[Key, list[State]] = {}
        self._known: dict[tuple[int, int], Observation] = {}

    def believe(self, states: Iterable[State]) -> None:
        """These, and no others, may be so."""
        self.states = {key_of(each): each for each in states}

    @property
    def status(self) -> Status:
        """The present status, as far as it is compared: it is the same in all states."""
        return next(iter(self.states.values())).status

    def edit(self, asked: Edit) -> None:
        """The object was edited."""
        self.edits.append(asked)
        self.changed()

    def configmaps(self, present: ConfigMaps) -> None:
        """A ConfigMap was."""
        self.sources.append(present)
        self.changed()

    def changed(self) -> None:
        """What was worked out is so no longer."""
        self._following = {}

    def accept(self, seen: Status) -> None:
        """The API server has accepted this status."""
        wanted = visible(seen)
        here = self._unseen()
        found = [each for each in here if visible(each.status) == wanted]
        found += [each for one in here for each in self.following(one) if visible(each.status) == wanted]
        if not found:
            raise UnexpectedError(self._told(dict(wanted), here))
        self.believe(found)

    def recorded(self, there: Versions) -> None:
        """These are the versions that exist."""
        fitting = [each for each in self._unseen() if tuple(sorted(each.versions)) == there]
        if not fitting:
            supposed = {tuple(sorted(each.versions)) for each in self.states.values()}
            raise UnexpectedError(f"versions {there} are recorded, expected one of {supposed}")
        self.believe(fitting)

    def at_rest(self, seen: Status) -> bool:
        """Whether the registry is where it stays until somebody does something."""
        wanted = visible(seen)
        return all(visible(each.status) == wanted and self._rests(each) for each in self.states.values())

    def following(self, state: State) -> list[State]:
        """What one more look of the operator at the registry may lead to."""
        key = key_of(state)
        if key not in self._following:
            found = {
                key_of(each): each
                for edit in range(state.edit, len(self.edits))
                for source in range(state.source, len(self.sources))
                for each in self._decided(state._replace(edit=edit, source=source))
            }
            for number in self._named(state) & self.deleted.keys() - {each.number for each in state.versions}:
                restored = state._replace(versions=tuple(sorted((*state.versions, self.deleted[number]))))
                found[key_of(restored)] = restored
            self._following[key] = list(found.values())
        return self._following[key]

    def named(self) -> set[int]:
        """The versions that status names."""
        return {number for state in self.states.values() for number in self._named(state)}

    @staticmethod
    def _named(state: State) -> set[int]:
        status = state.status
        return {part.version for part in (status.stable, status.canary, status.previous) if part}

    def _unseen(self) -> list[State]:
        """The states, and all that may have come of them without a change of what is compared."""
        found = dict(self.states)
        todo = list(found.values())
        while todo:
            one = todo.pop()
            shown = visible(one.status)
            for each in self.following(one):
                key = key_of(each)
                if key not in found and visible(each.status) == shown:
                    found[key] = each
                    todo.append(each)
            assert len(found) < MOST, "the model does not end"
        return list(found.values())

    def ends(self) -> list[State]:
        """Where it all comes to, when all is seen, all probes are made and all time passes: for messages."""
        found = [last for state in self.states.values() for last in self._coming(state)]
        return [each for each in {key_of(each): each for each in found}.values() if self._rests(each)]

    def _rests(self, state: State) -> bool:
        """Whether nothing that is compared comes of it any more."""
        shown = visible(state.status, healthy=False)
        if self._named(state) & self.deleted.keys() - {each.number for each in state.versions}:
            return False
        return all(visible(each.status, healthy=False) == shown for each in self._coming(state))

    def _coming(self, state: State) -> Iterator[State]:
        """All that comes of it when all is seen, all probes are made and all time passes."""
        last = state._replace(edit=len(self.edits) - 1, source=len(self.sources) - 1)
        known, todo = {key_of(last)}, [last]
        while todo:
            one = todo.pop()
            yield one
            for each in self._decided(one, final=True):
                if key_of(each) not in known:
                    known.add(key_of(each))
                    todo.append(each)
            assert len(known) < MOST, "the model does not end"

    def _decided(self, state: State, *, final: bool = False) -> Iterator[State]:
        """What the machine decides, for all that it may know of checks and time (`final`: all of it)."""
        asked = self._asked(state.edit, state.source)
        known = asked._replace(versions={each.number: each for each in state.versions})
        for since, reports in itertools.product(_times(state.status), self._reports(state, asked.plan, final=final)):
            decision = decide(state.status, known._replace(since_saved=since, reports=reports))
            yield self._recorded(state, asked.content) if decision.record else state._replace(status=decision.status)

    @staticmethod
    def _recorded(state: State, content: Content | None) -> State:
        """The rule of numbers: one more than any that is or was; content that is recorded keeps its number."""
        assert content is not None
        assert all(each.hash != content.hash for each in state.versions), "recorded twice"
        number = 1 + max([state.status.last_version, *(each.number for each in state.versions)])
        return state._replace(versions=(*state.versions, VersionInfo(number, content.hash, content.keys)))

    def _reports(self, state: State, plan: Plan | None, *, final: bool) -> Iterable[tuple[CheckReport, ...]]:
        canary = state.status.canary
        if canary is None or plan is None or phase_of(state.status) not in CHECKED:
            return [()]
        verdict = self.verdicts.get(canary.hash, Verdict.PASS)
        may_say = {verdict} if final else {verdict, *self.said.get(canary.hash, ())}
        passed = {each.name for each in canary.checks if each.passed}
        silent = {each.name for each in plan.checks if each.initial_delay}
        return itertools.product(
            *(
                _of_check(
                    each.name, frozenset() if each.name in silent else frozenset(may_say), each.name in passed, final
                )
                for each in plan.checks
            )
        )

    def _asked(self, edit: int, source: int) -> Observation:
        """What the operator knows without versions, checks and time."""
        if (edit, source) not in self._known:
            asked = self.edits[edit]
            content = content_of(asked.spec, self.sources[source])
            self._known[edit, source] = Observation(
                uid="",
                generation=asked.generation,
                plan=plan_of(asked.spec.rollout),
                content=content if isinstance(content, Content) else None,
                problem=content if isinstance(content, Problem) else None,
                versions={},
                now=NOW,
                pinned=asked.spec.pinned_version,
                commands=asked.commands,
                fallback=asked.spec.fallback,
            )
        return self._known[edit, source]

    def _told(self, seen: dict[str, object], here: list[State]) -> str:
        """What differs from the likeliest of what was allowed."""
        allowed = [dict(visible(each.status)) for one in here for each in (one, *self.following(one))]
        near = min(allowed, key=lambda each: sum(each.get(name) != seen[name] for name in seen))
        different = {name: (value, near.get(name)) for name, value in seen.items() if near.get(name) != value}
        before = dict(visible(self.status))
        lines = [
            f"  {name}: {found!r}, the nearest that was allowed: {wanted!r}"
            for name, (found, wanted) in different.items()
        ]
        return "\n".join(["the machine would not have done this:", *lines, f"  before: {before}"])


def _times(status: Status) -> tuple[float, ...]:
    """How long the operator may have measured since it last stored that."""
    if status.canary is None or phase_of(status) not in CHECKED | RUNNING:
        return (0.0,)
    return (0.0, LONG) if stored_elapsed(status.canary) else (0.0, MIDDLE, LONG)


def _of_check(name: str, may_say: frozenset[Verdict], passed: bool, final: bool) -> list[CheckReport]:
    """What the operator may know of one check."""
    probes = {verdict: (Probe(verdict, "", verdict.value, ""),) for verdict in may_say}
    if final:
        return [CheckReport(name, probes[each], each is Verdict.PASS) for each in may_say] or [CheckReport(name)]
    found = [CheckReport(name)]
    if passed or Verdict.PASS in may_say:
        found.append(CheckReport(name, passed=True))
    if Verdict.PASS in may_say:
        found += [CheckReport(name, unsaved, passed=True) for unsaved in probes.values()]
    return found + [CheckReport(name, unsaved) for verdict, unsaved in probes.items() if verdict is not Verdict.PASS]


def content_of(spec: Spec, configmaps: ConfigMaps) -> Content | Problem:
    """What a spec asks for, by its own words; not by the operator's."""
    found = []
    for ref in spec.data_from:
        name = ref.config_map_ref.name
        if name not in configmaps and not ref.config_map_ref.optional:
            return Problem(conditions.SOURCE_NOT_FOUND, name)
        found.append(Source(ref, configmaps.get(name, {})))
    merged: dict[str, Any] = merge(found, spec.data)
    try:
        content = build(merged)
        if spec.schema is not None:
            schema.check(spec.schema, merged)
    except FieldError as error:
        return Problem(conditions.INVALID_SPEC, str(error))
    return content
