"""The store beside plain dicts, driven by Hypothesis: any order of writes, readers at any moment.

The model keeps a full copy of everything ever published that a reader still holds; after each step
every held snapshot must still say exactly what the model said when it was taken.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from configregistry.state import (
    Canary,
    Match,
    Registry,
    RevisionConflict,
    RevisionWentBack,
    Snapshot,
    Store,
    UnknownVersion,
    Version,
    VersionDiffers,
    apply,
    compare,
    compose,
    invert,
    ordered,
)

LIMIT = 3
KEYS = [f"{letter}{digit}" for letter in "abc" for digit in range(4)] + ["", "a", "é", "\ud800"]

places = st.sampled_from([("shop", "one"), ("shop", "one"), ("shop", "two"), ("bank", "one")])
values = st.sampled_from([b"null", b"1", b'"x"', b"{}"])
some = st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), values), max_size=12)
nothing: st.SearchStrategy[dict[str, bytes | None]] = st.just({})
edits = st.one_of(nothing, some)  # empty content is content: the truth of a mapping is a trap
prefixes = st.one_of(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(KEYS))
keys = st.one_of(st.none(), st.sampled_from(KEYS), st.text(max_size=2))


@dataclass
class Model:
    """What a registry should be, in plain terms."""

    uid: str
    revision: int = 0
    stable: int | None = None
    canary: tuple[int, int] | None = None
    fallback: str | None = None
    versions: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def bound(self, spared: int | None = None) -> None:
        named = {self.stable, self.canary[0] if self.canary else None} - {None}
        history = sorted(set(self.versions) - named)
        for number in history[:-LIMIT] if named else ():
            if number != spared:
                del self.versions[number]


Models = dict[tuple[str, str], Model]


def agrees(registry: Registry, model: Model) -> None:
    assert (registry.uid, registry.revision) == (model.uid, model.revision)
    assert registry.fallback == model.fallback
    assert (registry.stable and registry.stable.number) == model.stable
    canary = registry.canary
    assert (canary and (canary.version.number, canary.weight)) == model.canary
    assert list(registry.versions) == sorted(model.versions)
    for number, content in model.versions.items():
        version = registry.versions[number]
        assert list(version.content().items()) == sorted(content.items())
        assert len(version) == len(content)
    if registry.stable:
        assert registry.stable is registry.versions[registry.stable.number]
    if canary:
        assert canary.version is registry.versions[canary.version.number]


def connected(registry: Registry) -> None:
    """One family: each version but one has a parent that is held, and knows what it changed."""
    roots = [version for version in registry.versions.values() if version.parent is None]
    assert len(roots) == bool(registry.versions)
    for version in registry.versions.values():
        before = registry.versions[version.parent] if version.parent is not None else version
        assert version.changes == compare(before.content(), version.content())
        assert version.size == Version.derive(None, 1, "h", version.content()).size


class StateMachine(RuleBasedStateMachine):
    """One store, a writer that is sometimes stale, and readers that hold what they once saw."""

    held: Bundle[tuple[Snapshot, Models]] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.chunk = ordered.CHUNK
        ordered.CHUNK = 4  # type: ignore[misc]
        self.store = Store()
        self.models: Models = {}
        self.holders: list[tuple[Snapshot, Models]] = []
        self.generation = 0
        self.uids = 0

    def teardown(self) -> None:
        ordered.CHUNK = self.chunk  # type: ignore[misc]

    def current(self, place: tuple[str, str]) -> tuple[Registry, Model]:
        """Give the published registry, or a new one under a new uid."""
        registry = self.store.snapshot().registry(*place)
        if registry is None:
            self.uids += 1
            uid = f"uid-{self.uids}"
            return Registry(place[1], uid, history_limit=LIMIT), Model(uid)
        return registry, deepcopy(self.models[place])

    def publish(self, changes: dict[tuple[str, str], tuple[Registry, Model] | None]) -> None:
        self.store.publish(self.store.snapshot(), {place: new and new[0] for place, new in changes.items()})
        self.generation += 1
        for place, new in changes.items():
            if new:
                self.models[place] = new[1]
            else:
                self.models.pop(place, None)

    def recorded(
        self, place: tuple[str, str], edit: dict[str, bytes | None], step: int, data: Any
    ) -> tuple[Registry, Model]:
        registry, model = self.current(place)
        numbers = sorted(model.versions)
        base = data.draw(st.sampled_from([*reversed(numbers), None]))
        content = dict(model.versions.get(base, {}))
        for key, new in edit.items():
            content.pop(key, None) if new is None else content.update({key: new})
        if content and data.draw(st.booleans()):
            del content[data.draw(st.sampled_from(sorted(content)))]
        number = max([*numbers, 0]) + step
        parent = data.draw(st.sampled_from([None, 0, *numbers]))
        model.versions[number] = content
        model.bound(spared=number)
        return registry.record(number, f"h{number}", content, parent), model

    @rule(place=places, edit=edits, step=st.integers(1, 3), data=st.data())
    def record(self, place: Any, edit: Any, step: int, data: Any) -> None:
        self.publish({place: self.recorded(place, edit, step, data)})

    @rule(place=places, edit=some, more=edits, data=st.data())
    def record_twice(self, place: Any, edit: Any, more: Any, data: Any) -> None:
        """So that histories grow faster than they are pruned."""
        self.publish({place: self.recorded(place, edit, 1, data)})
        self.publish({place: self.recorded(place, dict(list(more.items())[:2]), 2, data)})

    @rule(place=places, data=st.data(), rise=st.integers(0, 2))
    def decide(self, place: Any, data: Any, rise: int) -> None:
        registry, model = self.current(place)
        numbers = st.sampled_from([None, *model.versions])
        stable, canary = data.draw(numbers), data.draw(numbers)
        fallback = data.draw(st.sampled_from([None, "two"]))
        model.revision += rise
        model.stable, model.fallback = stable, fallback
        model.canary = None if canary is None else (canary, 50)
        new = registry.decide(
            revision=model.revision,
            stable=stable,
            canary=canary and Canary(registry.versions[canary], 50, "s", (Match("a", ("b",)),)),
            fallback=fallback,
        )
        model.bound()
        self.publish({place: (new, model)})

    @rule(place=places, data=st.data())
    def forget(self, place: Any, data: Any) -> None:
        registry, model = self.current(place)
        number = data.draw(st.sampled_from([0, *model.versions]))
        named = {model.stable, model.canary[0] if model.canary else None}
        if number not in named:
            model.versions.pop(number, None)
        self.publish({place: (registry.forget(number), model)})

    @rule(gone=places, other=places, edit=edits, data=st.data())
    def delete_one_and_change_another(self, gone: Any, other: Any, edit: Any, data: Any) -> None:
        self.publish({gone: None} | {other: self.recorded(other, edit, 1, data)})

    @rule(place=places)
    def recreate(self, place: Any) -> None:
        self.uids += 1
        uid = f"uid-{self.uids}"
        self.publish({place: (Registry(place[1], uid, history_limit=LIMIT), Model(uid))})

    @rule(place=places)
    def refused_recording(self, place: Any) -> None:
        registry, model = self.current(place)
        for number in model.versions:
            with pytest.raises(VersionDiffers):
                registry.record(number, "another", {})
            assert registry.record(number, f"h{number}", {"ignored": b"1"}) is registry
        with pytest.raises(UnknownVersion):
            registry.decide(revision=9, stable=0)

    @precondition(lambda self: any(model.revision for model in self.models.values()))
    @rule(place=places)
    def revision_goes_back(self, place: Any) -> None:
        victim = max(self.models, key=lambda place: self.models[place].revision)
        registry = Registry(victim[1], self.models[victim].uid, self.models[victim].revision - 1)
        changes: dict[tuple[str, str], Registry | None] = {place: None} if place != victim else {}
        before = self.store.snapshot()
        with pytest.raises(RevisionWentBack):
            self.store.publish(before, {**changes, victim: registry})
        assert self.store.snapshot() is before

    @rule(target=held)
    def hold(self) -> tuple[Snapshot, Models]:
        holder = (self.store.snapshot(), deepcopy(self.models))
        self.holders.append(holder)
        return holder

    @rule(holder=consumes(held))
    def let_go(self, holder: tuple[Snapshot, Models]) -> None:
        self.holders = [other for other in self.holders if other is not holder]

    @rule(holder=held, place=places)
    def stale_publish(self, holder: tuple[Snapshot, Models], place: Any) -> None:
        snapshot, current = holder[0], self.store.snapshot()
        if snapshot is current:
            return
        with pytest.raises(RevisionConflict):
            self.store.publish(snapshot, {place: None})
        assert self.store.snapshot() is current

    @rule(place=places, data=st.data(), reader=st.one_of(st.none(), held))
    def diff(self, place: Any, data: Any, reader: Any) -> None:
        """Between any two versions, one of which may be known to a reader of former times only."""
        registry, _model = self.current(place)
        old = (reader[0] if reader else self.store.snapshot()).registry(*place)
        if not registry.versions or not old or not old.versions:
            return
        before = old.versions[data.draw(st.sampled_from(list(old.versions)))]
        after = registry.versions[data.draw(st.sampled_from(list(registry.versions)))]
        changes = registry.diff(before, after)
        content = before.content()
        apply(changes, content)
        assert content == after.content()
        assert [change.key for change in changes] == sorted({change.key for change in changes})
        assert all(change.old != change.new for change in changes)
        assert all(change.old == before.get(change.key) for change in changes)
        assert registry.diff(after, before) == invert(changes)
        assert compose(changes, invert(changes)) == ()

    @rule(place=places, prefix=prefixes, start=keys, end=keys, after=keys)
    def scan(self, place: Any, prefix: str, start: Any, end: Any, after: Any) -> None:
        registry, model = self.current(place)
        for number, content in model.versions.items():
            found = registry.versions[number].scan(prefix=prefix, start=start, end=end, after=after)
            assert list(found) == [
                (key, content[key])
                for key in sorted(content)
                if key.startswith(prefix)
                and (start is None or key >= start)
                and (end is None or key < end)
                and (after is None or key > after)
            ]

    @invariant()
    def what_is_published_agrees(self) -> None:
        snapshot = self.store.snapshot()
        assert snapshot.generation == self.generation
        self.snapshot_agrees(snapshot, self.models)
        for _namespace, registry in snapshot:
            connected(registry)

    @invariant()
    def what_readers_hold_never_changes(self) -> None:
        for snapshot, models in self.holders:
            self.snapshot_agrees(snapshot, models)

    @staticmethod
    def snapshot_agrees(snapshot: Snapshot, models: Models) -> None:
        assert {(namespace, one.name) for namespace, one in snapshot} == set(models)
        assert set(snapshot.namespaces) == {namespace for namespace, _name in models}
        for place, model in models.items():
            registry = snapshot.registry(*place)
            assert registry is not None
            assert snapshot.namespace(place[0])[place[1]] is registry
            agrees(registry, model)


StateMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestStateMachine = StateMachine.TestCase
