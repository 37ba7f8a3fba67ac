"""Publication: compared with what the writer saw, all or nothing, seen whole, freed when let go."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from configregistry.state import (
    Canary,
    Registry,
    RevisionConflict,
    RevisionWentBack,
    Snapshot,
    Store,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = [f"key-{number:03}" for number in range(40)]


def registry(name: str, revision: int, uid: str = "uid-1") -> Registry:
    """A registry whose stable version, all its values and its revision say the same number."""
    content = dict.fromkeys(KEYS, b"%d" % revision)
    made = Registry(name, uid).record(revision, f"h{revision}", content)
    return made.decide(revision=revision, stable=revision)


def following(old: Registry, limit: int = 3) -> Registry:
    """The next version of the same, decided."""
    number = old.revision + 1
    content = dict.fromkeys(KEYS, b"%d" % number)
    bounded = Registry(old.name, old.uid, old.revision, old.stable, old.canary, old.fallback, old.versions, limit)
    new = bounded.record(number, f"h{number}", content, parent=old.revision)
    return new.decide(revision=number, stable=number)


def publish(store: Store, *registries: Registry, namespace: str = "shop") -> Snapshot:
    return store.publish(store.snapshot(), {(namespace, one.name): one for one in registries})


class TestPublish:
    def test_starts_empty(self) -> None:
        snapshot = Store().snapshot()
        assert snapshot.generation == 0
        assert list(snapshot) == []
        assert snapshot.registry("shop", "checkout") is None
        assert len(snapshot.namespace("shop")) == 0

    def test_many_registries_at_once(self) -> None:
        store, one, two = Store(), registry("one", 1), registry("two", 1)
        before = store.snapshot()
        new = store.publish(before, {("shop", "one"): one, ("bank", "two"): two})
        assert store.snapshot() is new
        assert new.generation == 1
        assert new.registry("shop", "one") is one
        assert new.registry("bank", "two") is two
        assert new.registry("bank", "one") is None
        assert dict(new.namespace("shop")) == {"one": one}
        assert sorted((namespace, one.name) for namespace, one in new) == [
            ("bank", "two"),
            ("shop", "one"),
        ]
        assert list(before) == []

    def test_taking_away(self) -> None:
        store = Store()
        publish(store, registry("one", 1), registry("two", 1))
        held = store.snapshot()
        store.publish(held, {("shop", "one"): None, ("shop", "never"): None, ("no", "one"): None})
        assert list(store.snapshot().namespace("shop")) == ["two"]
        store.publish(store.snapshot(), {("shop", "two"): None})
        assert list(store.snapshot().namespaces) == []
        assert sorted(held.namespace("shop")) == ["one", "two"]

    def test_refuses_a_writer_that_has_not_seen_the_current_state(self) -> None:
        store = Store()
        stale = store.snapshot()
        current = publish(store, registry("one", 1))
        with pytest.raises(RevisionConflict, match="started from generation 0, now it is 1"):
            store.publish(stale, {("shop", "one"): registry("one", 2)})
        assert store.snapshot() is current

    def test_compares_and_assigns_in_one_step(self) -> None:
        """Another writer gets in at the last instant before the comparison is protected."""
        store = Store()
        lock = store._publishing

        class Ambush:
            def __enter__(self) -> None:
                store._publishing = lock
                publish(store, registry("one", 7))
                lock.acquire()

            def __exit__(self, *_: object) -> None:
                lock.release()

        before = store.snapshot()
        store._publishing = Ambush()  # type: ignore[assignment]
        with pytest.raises(RevisionConflict):
            store.publish(before, {("shop", "one"): registry("one", 1)})
        assert not lock.locked()
        served = store.snapshot().registry("shop", "one")
        assert served is not None
        assert served.revision == 7

    def test_refuses_a_revision_that_goes_back_and_everything_with_it(self) -> None:
        store = Store()
        current = publish(store, registry("one", 5), registry("two", 5))
        with pytest.raises(RevisionWentBack, match="shop/two: revision 5 is served, got 4"):
            publish(store, registry("one", 6), registry("two", 4))
        assert store.snapshot() is current

    def test_the_same_revision_may_hold_other_history(self) -> None:
        store = Store()
        one = registry("one", 5)
        publish(store, one)
        more = one.record(6, "h6", {"a": b"1"})
        assert publish(store, more).registry("shop", "one") is more

    def test_a_namesake_of_another_uid_begins_anew(self) -> None:
        store = Store()
        publish(store, registry("one", 5))
        publish(store, registry("one", 1, uid="uid-2"))
        served = store.snapshot().registry("shop", "one")
        assert served is not None
        assert (served.uid, served.revision) == ("uid-2", 1)

    def test_refuses_a_registry_under_another_name(self) -> None:
        store = Store()
        before = store.snapshot()
        with pytest.raises(ValueError, match="shop/one: got the registry two"):
            store.publish(before, {("shop", "one"): registry("two", 1)})
        assert store.snapshot() is before


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without passes of the collector: what is freed is freed because nobody refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
class TestFreed:
    """With `gc.freeze()` nothing in a cycle would ever be freed, so there must be no cycles."""

    def test_the_former_state_when_it_is_replaced(self) -> None:
        store = Store()
        refs = [weakref.ref(publish(store, registry("one", 1)))]
        for _ in range(5):
            served = store.snapshot().registry("shop", "one")
            assert served is not None
            refs.append(weakref.ref(publish(store, following(served))))
        del served
        assert [ref() is not None for ref in refs] == [False] * 5 + [True]

    def test_versions_of_pruned_history_when_the_last_reader_lets_go(self) -> None:
        store = Store()
        publish(store, registry("one", 1))
        reader: Any = store.snapshot()
        first = weakref.ref(reader.registry("shop", "one").versions[1])
        data = weakref.ref(first().data)  # type: ignore[union-attr]
        for _ in range(10):
            served = store.snapshot().registry("shop", "one")
            assert served is not None
            publish(store, following(served))
        del served
        now = store.snapshot().registry("shop", "one")
        assert now is not None
        assert list(now.versions) == [8, 9, 10, 11]
        assert first() is not None
        assert reader.registry("shop", "one").stable.get("key-000") == b"1"
        other_reader = reader
        del reader
        assert first() is not None
        del other_reader
        assert first() is None
        assert data() is None

    def test_a_reader_of_one_version_keeps_no_other(self) -> None:
        whole: Any = registry("one", 1)
        for _ in range(6):
            whole = following(whole, limit=10)
        refs = [weakref.ref(version) for version in whole.versions.values()]
        kept = whole.versions[4]
        del whole
        assert [ref() is not None for ref in refs] == [number == 4 for number in range(1, 8)]
        assert kept.get("key-000") == b"4"

    def test_the_content_of_versions_that_nobody_has(self) -> None:
        """Values and keys themselves: bytes take no weak references, so their count is asked."""
        value, key = b"x" * 1000, "k" * 1000
        before = sys.getrefcount(value), sys.getrefcount(key)
        held = Registry("one", "uid").record(1, "h1", {key: value}).record(2, "h2", {"a": b"1"})
        held = held.decide(revision=1, stable=2)
        assert sys.getrefcount(value) > before[0]
        held = held.forget(1)
        assert (sys.getrefcount(value), sys.getrefcount(key)) == before
        assert held.stable is not None
        assert held.stable.content() == {"a": b"1"}

    def test_also_after_a_collection(self) -> None:
        store = Store()
        ref = weakref.ref(publish(store, registry("one", 1)))
        served = store.snapshot().registry("shop", "one")
        gc.collect()
        assert ref() is not None
        publish(store, registry("one", 2))
        gc.collect()
        assert ref() is None
        assert served is not None


def one_version(registry: Registry) -> bool:
    """Whether all that the registry says belongs to a single version."""
    stable, canary = registry.stable, registry.canary
    if stable is None or stable.number != registry.revision:
        return False
    if canary is not None and canary.version is not stable:
        return False
    expected = b"%d" % registry.revision
    return all(stable.get(key) == expected for key in KEYS) and set(stable.content().values()) == {expected}


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Let threads interrupt one another a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy_switching")
class TestThreads:
    def test_readers_never_see_a_mixture(self) -> None:
        store = Store()
        publish(store, registry("one", 1), registry("two", 1))
        done = threading.Event()
        torn: list[str] = []
        reads = [0] * 6

        def read(reader: int) -> None:
            last = 0
            while not done.is_set():
                snapshot = store.snapshot()
                one, two = snapshot.registry("shop", "one"), snapshot.registry("shop", "two")
                if one is None or two is None or not (one_version(one) and one_version(two)):
                    torn.append("a registry of two versions")
                elif one.revision != two.revision or one.revision < last:
                    torn.append(f"{one.revision} beside {two.revision} after {last}")
                else:
                    last = one.revision
                reads[reader] += 1

        readers = [threading.Thread(target=read, args=(number,)) for number in range(len(reads))]
        for reader in readers:
            reader.start()
        try:
            for _ in range(2_000):
                snapshot = store.snapshot()
                new = [following(one) for _namespace, one in snapshot]
                new = [
                    one.decide(
                        revision=one.revision,
                        stable=one.revision,
                        canary=Canary(one.versions[one.revision], 5, "seed"),
                    )
                    for one in new
                ]
                store.publish(snapshot, {("shop", one.name): one for one in new})
        finally:
            done.set()
            for reader in readers:
                reader.join()
        assert torn == []
        assert all(reads), reads
        assert store.snapshot().generation == 2_001

    def test_no_publication_of_competing_writers_is_lost(self) -> None:
        store = Store()
        publish(store, registry("one", 1))
        conflicts = [0] * 4

        def write(writer: int) -> None:
            for _ in range(150):
                while True:
                    snapshot = store.snapshot()
                    served = snapshot.registry("shop", "one")
                    assert served is not None
                    try:
                        store.publish(snapshot, {("shop", "one"): following(served)})
                    except RevisionConflict:
                        conflicts[writer] += 1
                    else:
                        break

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        served = store.snapshot().registry("shop", "one")
        assert served is not None
        assert served.revision == 601
        assert store.snapshot().generation == 601
        assert sum(conflicts) > 0
