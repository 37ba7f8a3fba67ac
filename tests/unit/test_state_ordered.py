"""The ordered index keeps its shape: chunks neither grow without bound nor crumble to dust."""

from __future__ import annotations

import random
from itertools import pairwise

from configregistry.state import OrderedKeys
from configregistry.state.ordered import CHUNK


def shape(index: OrderedKeys) -> list[int]:
    return [len(chunk) for chunk in index._chunks]


def well_shaped(index: OrderedKeys) -> bool:
    sizes = shape(index)
    no_dust = all(left + right > CHUNK for left, right in pairwise(sizes))
    return no_dust and all(0 < size <= 2 * CHUNK for size in sizes)


def test_shape_holds_while_growing_and_shrinking() -> None:
    choose = random.Random(5)
    keys = [f"key-{number:05}" for number in range(12_000)]
    choose.shuffle(keys)
    index = OrderedKeys()
    for start in range(0, len(keys), 300):
        index = index.update(keys[start : start + 300], [])
        assert well_shaped(index)
    assert list(index) == sorted(keys)
    assert len(index) == len(keys)
    choose.shuffle(keys)
    for start in range(0, len(keys), 300):
        index = index.update([], keys[start : start + 300])
        assert well_shaped(index)
    assert list(index) == []
    assert len(index) == 0


def test_one_big_addition_is_cut() -> None:
    index = OrderedKeys.of(["m"]).update([f"a{number:05}" for number in range(5_000)], [])
    assert well_shaped(index)
    assert max(shape(index)) < 1.5 * CHUNK


def test_an_update_copies_only_the_chunks_it_touches() -> None:
    before = OrderedKeys.of(f"key-{number:05}" for number in range(20_000))
    after = before.update(["key-00000x"], ["key-10000"])
    copied = {id(chunk) for chunk in after._chunks} - {id(chunk) for chunk in before._chunks}
    assert len(copied) == 2


def test_nothing_to_update_is_the_same_index() -> None:
    index = OrderedKeys.of(["a"])
    assert index.update([], []) is index
