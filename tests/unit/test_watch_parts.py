"""The pure parts of watches beside what they have to agree with."""

from __future__ import annotations

import base64

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from configregistry.rollout.buckets import gets_candidate
from configregistry.serve.view import Given, View
from configregistry.serve.watch.cursor import MAX_CURSOR, UNKNOWN, Link, decode, encode
from configregistry.serve.watch.events import Encoded
from configregistry.serve.watch.standing import differ
from configregistry.serve.watch.watcher import Who
from configregistry.state import Canary, Match, Registry, Snapshot, Store, Version, compare

VERSION = Version.derive(None, 1, "", {})
CANARIES = st.builds(
    Canary,
    st.just(VERSION),
    st.integers(0, 100),
    st.sampled_from([f"seed-{n}" for n in range(12)]),
    st.lists(st.builds(Match, st.sampled_from("ab"), st.tuples(st.sampled_from("xy"))), max_size=2).map(tuple),
)


class Somebody:
    def __init__(self, target: str | None, attributes: dict[str, str]) -> None:
        self.target = target
        self.get = attributes.get


@given(
    st.sampled_from([None, "", *(f"t{n}" for n in range(20))]),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from("xyz")),
    st.lists(CANARIES, min_size=1, max_size=20),
)
def test_who_remembers_what_rollout_decides(
    target: str | None, attributes: dict[str, str], canaries: list[Canary]
) -> None:
    somebody = Somebody(target, attributes)
    who = Who(somebody)
    for canary in canaries:
        assert who.gets(canary) == gets_candidate(canary, target, somebody)


MARKS = st.binary(min_size=6, max_size=6)
LINKS = st.builds(
    Link,
    st.text(max_size=10),
    MARKS | st.just(b""),
    MARKS | st.just(b""),
    st.integers(0, 2**40),
    st.integers(0, 2**31),
    MARKS,
    st.booleans(),
    st.booleans(),
)
NAMES = st.text("abc-", min_size=1, max_size=20)


@given(st.dictionaries(st.tuples(NAMES, NAMES), st.lists(LINKS, max_size=8), min_size=1, max_size=5))
def test_a_cursor_comes_back_as_it_went(known: dict[tuple[str, str], list[Link]]) -> None:
    keys = tuple(known)
    positions = [
        tuple(link._replace(name=key[1]) if not place else link for place, link in enumerate(links))
        for key, links in known.items()
    ]
    text = encode(keys, positions).decode()
    assert decode(text, keys) == tuple(positions)
    assert decode(text, [*keys[::-1], ("other", "one")]) == (*positions[::-1], UNKNOWN)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_nothing_is_too_odd_for_a_cursor(text: str) -> None:
    assert decode(text, [("a", "b")]) == (UNKNOWN,)


@given(st.recursive(st.none() | st.integers() | st.binary() | st.text(), lambda each: st.lists(each, max_size=4)))
def test_nothing_well_formed_is_too_odd_either(value: object) -> None:
    try:
        raw = msgspec.msgpack.encode([1, [[b"mark", value]]])
    except OverflowError:
        return
    decode(base64.urlsafe_b64encode(raw).decode().rstrip("="), [("a", "b")])


def test_an_id_that_could_not_come_back_resets() -> None:
    keys = [("n" * 63, f"{number:063}") for number in range(100)]
    links = [Link("x" * 63, b"u" * 6, b"f" * 6, 10**6, 10**6, b"h" * 6, canary=False, dropped=False)]
    assert 0 < len(encode(keys, [tuple(links)] * 100)) <= MAX_CURSOR
    assert encode(keys, [tuple(links * 8)] * 100) == b""


CONTENT = st.dictionaries(st.sampled_from("pqrstu"), st.sampled_from([b"1", b"2", b"null"]))
CHAINS = st.lists(st.tuples(st.sampled_from("abc"), CONTENT), min_size=1, max_size=3, unique_by=lambda each: each[0])


@given(CHAINS, CHAINS)
def test_a_difference_is_that_of_the_whole(
    old: list[tuple[str, dict[str, bytes]]], new: list[tuple[str, dict[str, bytes]]]
) -> None:
    def view(chain: list[tuple[str, dict[str, bytes]]], number: int) -> View:
        links = [
            Given(Registry(name, f"uid-{name}"), Version.derive(None, number, str(content), content), "stable")
            for name, content in chain
        ]
        return View(links[0], tuple(links[1:]), ())

    now: Snapshot = Store().snapshot()
    before, after = view(old, 1), view(new, 2)
    assert differ(now, "shop", before, after) == compare(before.data(), after.data())


def test_what_is_encoded_is_bounded() -> None:
    encoded = Encoded(5000)
    for number in range(50):
        assert encoded.get(number, lambda: b"x" * 600) == b"x" * 600
    assert encoded.size == 3 * (600 + 1024 + 32)
    assert encoded.get("large", lambda: b"y" * 5000) == b"y" * 5000
    assert len(encoded._known) == 3
    assert encoded.get(49, lambda: b"again") == b"x" * 600


@given(st.lists(st.tuples(st.text("ab", max_size=2000), st.sampled_from([0, 0, 1, 900])), max_size=60))
def test_what_is_encoded_counts_with_its_name_and_nothing_is_not_kept(asked: list[tuple[str, int]]) -> None:
    """Clients choose the names in part, and much that could be asked for says nothing."""
    encoded = Encoded(8000)
    for name, size in asked:
        encoded.get(("delta", (name,)), lambda size=size: b"z" * size)  # type: ignore[misc]
        known = encoded._known
        held = 0
        for place, (data, _) in known.items():
            assert isinstance(place, tuple)
            held += 1024 + len(data) + len(place[1][0])
        assert held <= encoded.size <= 8000
        assert all(data for data, _ in known.values())


def test_a_cursor_holds_nothing_longer_than_ours() -> None:
    key = ("shop", "checkout")
    link = Link("checkout", b"u" * 6, b"f" * 6, 1, 1, b"h" * 6, canary=False, dropped=False)
    base = link._replace(name="b" * 253)
    assert decode(encode([key], [(link, base)]).decode(), [key]) == ((link, base),)
    for wrong in (
        base._replace(name="b" * 254),
        base._replace(uid=b"u" * 7),
        base._replace(former=b"f" * 4000),
        base._replace(hash=b"h" * 7),
    ):
        assert decode(encode([key], [(link, wrong)]).decode(), [key]) == (UNKNOWN,)
    assert decode(encode([key], [(link, base) * 5]).decode(), [key]) == (UNKNOWN,), "longer than any chain"
