"""What a version's map promises, asked of the persistent one and of a plain reference alike.

The reference passing the same suite is what shows that the suite asks for the right thing. Keys are
of four kinds, among them keys made to collide: in the hash, and in the buckets of pyrsistent.
"""

from __future__ import annotations

import random
from functools import total_ordering
from itertools import islice, product
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from tests.contract.plain_version import PlainVersion

from configregistry.state import Version, ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT = 120
"""Keys of each kind: with chunks of 8 it makes the index split and join many times."""


@total_ordering
class FewHashes:
    """A key with one of three hashes. Not a str: a str subclass could not lie to a dict alone."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __hash__(self) -> int:
        return len(self.text) % 3

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FewHashes) and self.text == other.text

    def __lt__(self, other: FewHashes) -> bool:
        return self.text < other.text

    def __repr__(self) -> str:
        return f"FewHashes({self.text!r})"

    def encode(self, *args: str) -> bytes:
        return self.text.encode(*args)


def config_keys() -> list[Any]:
    return [f"svc-{number % 7}.group/{number % 11}.key-{number}" for number in range(COUNT)]


def odd_keys() -> list[Any]:
    odd = ["", "\0", "\0\0", "a", "a\0", "aa", "é", "e\u0301", "\ud800", "\ud800a", "\udfff"]
    odd += ["\U0010ffff", "\U0010ffff\U0010ffff", "\U0010ffffa", "\uffff", "\U00010000", "x" * 5000]
    return odd + [chr(0x1F600 + number) * (1 + number % 3) for number in range(COUNT - len(odd))]


def keys_of_one_bucket() -> list[Any]:
    """Real strings that pyrsistent puts into a single bucket, whatever this process's hash seed."""
    candidates = (f"key-{number}" for number in range(10_000_000))
    return list(islice((key for key in candidates if hash(key) % (2 * COUNT) == 0), COUNT))


def keys_with_few_hashes() -> list[Any]:
    return [FewHashes(key) for key in config_keys()]


KINDS: dict[str, Callable[[], list[Any]]] = {
    "config": config_keys,
    "odd": odd_keys,
    "one bucket": keys_of_one_bucket,
    "few hashes": keys_with_few_hashes,
}


@pytest.fixture(params=KINDS)
def keys(request: pytest.FixtureRequest) -> list[Any]:
    made = KINDS[request.param]()
    assert len(set(made)) == COUNT
    random.Random(7).shuffle(made)
    return made


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "CHUNK", 8)


def value(number: int) -> bytes:
    return b'"%d"' % number


class MapContract:
    """The suite. A subclass names the implementation."""

    implementation: ClassVar[Any]

    def first(self, content: dict[Any, bytes]) -> Any:
        return self.implementation.derive(None, 1, "h1", content)

    def next(self, parent: Any, content: dict[Any, bytes], number: int = 2) -> Any:
        return self.implementation.derive(parent, number, f"h{number}", content)

    def check(self, version: Any, content: dict[Any, bytes], absent: list[Any]) -> None:
        assert len(version) == len(content)
        assert list(version.scan()) == sorted(content.items())
        assert list(version.content().items()) == sorted(content.items())
        assert all(version.get(key) == content[key] and key in version for key in content)
        assert all(version.get(key) is None and key not in version for key in absent)
        assert version.size == self.first(content).size

    def test_empty(self, keys: list[Any]) -> None:
        version = self.first({})
        self.check(version, {}, keys)
        assert version.size == 0
        assert version, "an empty version is a version"
        assert version.changes == ()
        assert list(version.scan(start=keys[0], end=keys[1], after=keys[2])) == []

    def test_holds_what_it_was_given_and_nothing_else(self, keys: list[Any]) -> None:
        content = {key: value(number) for number, key in enumerate(keys[:-20])}
        self.check(self.first(content), content, keys[-20:])

    def test_size_counts_keys_and_values_in_bytes(self) -> None:
        assert self.first({"é": b"12345", "\ud800": b"1"}).size == 2 + 5 + 3 + 1

    def test_later_changes_of_the_given_dict_are_not_seen(self, keys: list[Any]) -> None:
        content = {key: value(1) for key in keys}
        version = self.first(content)
        content.clear()
        assert len(version) == COUNT

    def test_null_is_a_value(self, keys: list[Any]) -> None:
        key = keys[0]
        nothing = self.first({})
        null = self.next(nothing, {key: b"null"})
        assert null.get(key) == b"null"
        assert null.changes == ((key, None, b"null"),)
        assert self.next(null, {}).changes == ((key, b"null", None),)

    def test_changes_are_net_and_ordered_by_key(self, keys: list[Any]) -> None:
        content = {key: value(1) for key in keys[:100]}
        parent = self.first(content)
        edited = {key: value(1) for key in keys[5:110]} | {keys[50]: value(2), keys[7]: value(3)}
        child = self.next(parent, edited)
        expected: list[Any] = [(key, value(1), None) for key in keys[:5]]
        expected += [(key, None, value(1)) for key in keys[100:110]]
        expected += [(keys[50], value(1), value(2)), (keys[7], value(1), value(3))]
        assert child.changes == tuple(sorted(expected))
        self.check(child, edited, keys[:5] + keys[110:])
        self.check(parent, content, keys[100:])

    def test_equal_content_has_no_changes(self, keys: list[Any]) -> None:
        parent = self.first({key: value(1) for key in keys})
        assert self.next(parent, {key: value(1) for key in reversed(keys)}).changes == ()

    def test_one_added_and_one_removed(self, keys: list[Any]) -> None:
        parent = self.first({key: value(1) for key in keys[:-1]})
        child = self.next(parent, {key: value(1) for key in keys[1:]})
        ends = [(keys[0], value(1), None), (keys[-1], None, value(1))]
        assert child.changes == tuple(sorted(ends))

    def test_emptied_and_filled_again(self, keys: list[Any]) -> None:
        content = {key: value(1) for key in keys}
        full = self.first(content)
        empty = self.next(full, {}, 2)
        again = self.next(empty, content, 3)
        self.check(empty, {}, keys)
        self.check(again, content, [])
        assert len(again.changes) == COUNT

    def test_a_long_line_of_versions_none_of_which_changes_any_other(self, keys: list[Any]) -> None:
        choose = random.Random(3)
        content: dict[Any, bytes] = {}
        version = self.first(content)
        line = [(version, content)]
        for number in range(2, 80):
            content = dict(content)
            for key in choose.sample(keys, choose.choice([1, 2, 5, 60])):
                if key in content and choose.random() < 0.5:
                    del content[key]
                else:
                    content[key] = value(number)
            version = self.next(version, content, number)
            line.append((version, content))
        for version, content in line:
            self.check(version, content, [key for key in keys if key not in content])

    def test_scan_within_any_bounds(self, keys: list[Any]) -> None:
        content = {key: value(number) for number, key in enumerate(keys[:100])}
        version = self.next(self.first({}), content)
        bounds = [None, *sorted(keys)[::17], keys[0], keys[-1]]
        for start, end, after in product(bounds, repeat=3):
            expected = [
                (key, content[key])
                for key in sorted(content)
                if (start is None or key >= start) and (end is None or key < end) and (after is None or key > after)
            ]
            assert list(version.scan(start=start, end=end, after=after)) == expected

    @pytest.mark.parametrize("kind", ["config", "odd", "one bucket"])
    def test_scan_by_prefix(self, kind: str) -> None:
        content = {key: value(number) for number, key in enumerate(KINDS[kind]())}
        version = self.first(content)
        prefixes = {key[:length] for key in content for length in (0, 1, 2, 5, len(key))}
        for prefix in [*prefixes, "absent", "\U0010ffff\U0010ffff\U0010ffff"]:
            expected = [(key, content[key]) for key in sorted(content) if key.startswith(prefix)]
            assert list(version.scan(prefix=prefix)) == expected
            middle = expected[len(expected) // 2][0] if expected else "m"
            below = [(key, held) for key, held in expected if key < middle]
            above = [(key, held) for key, held in expected if key > middle]
            assert list(version.scan(prefix=prefix, end=middle)) == below
            assert list(version.scan(prefix=prefix, after=middle)) == above
            assert list(version.scan(prefix=prefix, start=middle, after=middle)) == above
            assert list(version.scan(prefix=prefix, start="", end="\U0010ffff" * 9, after="")) == [
                (key, held) for key, held in expected if key
            ]

    def test_pages_give_each_key_once(self, keys: list[Any]) -> None:
        version = self.first({key: value(1) for key in keys})
        seen: list[Any] = []
        for _ in range(COUNT // 7 + 2):
            seen += self.page(version, seen[-1] if seen else None)
        assert seen == sorted(keys)

    @staticmethod
    def page(version: Any, after: Any) -> list[Any]:
        scan: Iterator[tuple[Any, bytes]] = version.scan(after=after)
        return [key for key, _value in islice(scan, 7)]


class TestPersistentVersion(MapContract):
    implementation = Version

    def test_equal_values_stay_the_same_objects(self, keys: list[Any]) -> None:
        parent = self.first({key: value(1000 + number) for number, key in enumerate(keys)})
        copy = {key: value(1000 + number) for number, key in enumerate(keys)}
        few = self.next(parent, copy | {keys[0]: value(1)})
        many = self.next(parent, copy | {key: value(1) for key in keys[:80]})
        assert all(few.get(key) is parent.get(key) for key in keys[1:])
        assert all(many.get(key) is parent.get(key) for key in keys[80:])

    def test_values_alone_leave_the_index_shared(self, keys: list[Any]) -> None:
        parent = self.first({key: value(1) for key in keys})
        child = self.next(parent, {key: value(1) for key in keys} | {keys[0]: value(2)})
        assert child.index is parent.index

    def test_knows_its_number_hash_and_parent(self) -> None:
        child = self.next(self.first({}), {"a": b"1"}, 9)
        assert (child.number, child.hash, child.parent) == (9, "h9", 1)
        assert repr(child) == "<Version 9 h9 of 1 keys>"


class TestPlainReference(MapContract):
    implementation = PlainVersion
