"""Interests: exactly those are told whom a publication concerns."""

from __future__ import annotations

from collections import Counter
from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from tests.serve_fakes import World

from configregistry.serve.interest import Interests
from configregistry.state import Store

NAMES = ["a", "b", "c"]
KEYS = st.frozensets(st.sampled_from([("shop", name) for name in NAMES]))


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), KEYS), KEYS)))
def test_whoever_is_interested_is_told_once(steps: list[tuple[int, frozenset[tuple[str, str]] | None, object]]) -> None:
    interests, told = Interests(), Counter[int]()
    parties = [interests.listen((), partial(told.update, [number])) for number in range(4)]
    wanted: dict[int, frozenset[tuple[str, str]]] = {}
    snapshot = Store().snapshot()
    for number, keys, changed in steps:
        assert isinstance(changed, frozenset)
        if keys is None:
            parties[number].cancel()
            wanted.pop(number, None)
        else:
            parties[number].on(keys)
            wanted[number] = keys
        told.clear()
        interests.published(snapshot, snapshot, changed)
        assert told == Counter(number for number, keys in wanted.items() if keys & changed)
    for party in parties:
        party.cancel()
    assert not interests._by_key


def test_who_cancels_meanwhile_is_not_told_and_a_defect_is_its_own() -> None:
    interests, told = Interests(), list[str]()

    def first() -> None:
        told.append("first")
        second.cancel()
        raise RuntimeError

    interests.listen([("shop", "a")], first)
    second = interests.listen([("shop", "a")], lambda: told.append("second"))
    interests.listen([("shop", "a")], lambda: told.append("third"))
    interests.published(Store().snapshot(), Store().snapshot(), {("shop", "a"): None})
    assert told == ["first", "third"]


def test_a_publication_tells_of_a_registry_that_was_not_there() -> None:
    world, told = World(), list[str]()
    world.service.interests.listen([("shop", "new")], lambda: told.append("new"))
    world.serve("other", {"a": 1})
    assert told == []
    world.serve("new", {"a": 1})
    assert told
