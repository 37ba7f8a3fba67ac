"""Key ranges: order, bounds, pages, and the token that names their snapshot."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_fakes import World, body, digest, header, request, revision, status_of

from configregistry.serve.ranges import (
    DEFAULT_LIMIT,
    FORMAT,
    MAX_BOUND,
    MAX_LIMIT,
    Filter,
    Link,
    Token,
    read_token,
    write_token,
)
from configregistry.serve.responses import Problem

BASE = "/v1/namespaces/shop/registries"
KEYS = f"{BASE}/checkout/keys"
CHECKOUT = ("shop", "checkout")
DATA = {f"k{number}": number for number in range(9)}


@pytest.fixture
def world() -> World:
    made = World()
    made.serve("checkout", DATA, version=7, revision_number=31)
    return made


def keys(response: Any) -> list[str]:
    assert response.status == 200, response
    return [each["key"] for each in body(response)["keys"]]


def token(response: Any) -> str:
    found = body(response)["continue"]
    assert isinstance(found, str)
    return found


def refused(response: Any) -> tuple[int, str, str | None]:
    problem = body(response)
    return response.status, problem["type"].rpartition("/")[2], problem.get("field")


def test_one_page(world: World) -> None:
    response = world.get(KEYS, "limit=2&start=k3")
    assert body(response) == {
        "namespace": "shop",
        "registry": "checkout",
        "version": 7,
        "hash": digest(DATA),
        "variant": "stable",
        "revision": 31,
        "keys": [
            {"key": "k3", "value": 3, "source": "checkout"},
            {"key": "k4", "value": 4, "source": "checkout"},
        ],
        "continue": token(response),
    }
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"
    assert world.get(KEYS, "limit=2&start=k3", if_none_match=header(response, "etag")).status == 304


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "012345678"),
        ("start=k5", "5678"),
        ("end=k5", "01234"),
        ("start=k3&end=k5", "34"),
        ("start=k5&end=k3", ""),
        ("prefix=k4", "4"),
        ("prefix=x", ""),
        ("prefix=&start=&end=k1", "0"),
        ("prefix=k&start=k7", "78"),
        ("end=", ""),
        ("limit=9", "012345678"),
    ],
)
def test_bounds(world: World, query: str, expected: str) -> None:
    response = world.get(KEYS, query)
    assert keys(response) == ["k" + number for number in expected]
    assert "continue" not in body(response)


@pytest.mark.parametrize("limit", [1, 2, 4, 8])
def test_pages(world: World, limit: int) -> None:
    """The filter may be repeated or left out, the limit may change; a full last page says that it is the last."""
    found, query = [], f"limit={limit}&prefix=k"
    for _ in range(20):
        response = world.get(KEYS, query)
        found += keys(response)
        if "continue" not in body(response):
            break
        assert len(keys(response)) == limit
        query = f"limit={limit}&continue={token(response)}" + ("&prefix=k" if len(found) % 2 else "")
    assert found == list(DATA)


def test_limits() -> None:
    world = World()
    world.serve("checkout", {f"k{number:04}": 1 for number in range(1200)})
    assert len(keys(world.get(KEYS))) == DEFAULT_LIMIT
    assert len(keys(world.get(KEYS, f"limit={MAX_LIMIT}"))) == MAX_LIMIT


def test_pages_are_of_the_chain() -> None:
    world = World()
    world.serve("checkout", {"a": 1, "c": 1}, fallback="base", revision_number=3)
    world.serve("base", {"b": 2, "c": 2, "d": 2}, fallback="none", revision_number=9)
    first = world.get(KEYS, "limit=2")
    assert [(each["key"], each["source"]) for each in body(first)["keys"]] == [("a", "checkout"), ("b", "base")]
    world.serve("base", {"b": 3}, version=2, revision_number=10)
    world.serve("checkout", {}, version=2, revision_number=4)  # without the fallback
    second = world.get(KEYS, f"continue={token(first)}")
    assert [(each["key"], each["value"], each["source"]) for each in body(second)["keys"]] == [
        ("c", 1, "checkout"),
        ("d", 2, "base"),
    ]
    assert (body(second)["version"], body(second)["revision"]) == (1, 3)
    assert header(second, "x-configregistry-revision") == "3"


def test_a_token_survives_steps_and_rollback(world: World) -> None:
    new = {f"k{number}": "new" for number in range(9)}
    world.serve("checkout", DATA, version=7, revision_number=32, canary={"version": 8, "weight": 100}, canary_data=new)
    first = world.get(KEYS, "limit=4&target=t", x_configregistry_attr_region="eu")
    assert body(first)["variant"] == "canary"
    world.put(CHECKOUT, "uid-checkout", status_of(33, 7, DATA))
    world.flush()
    second = world.get(KEYS, f"limit=4&continue={token(first)}")
    assert {each["value"] for each in body(second)["keys"]} == {"new"}
    assert body(second)["version"] == 8
    assert body(second)["variant"] == "canary"
    assert body(second)["revision"] == 32
    assert {each["value"] for each in body(world.get(KEYS))["keys"]} == set(range(9))


def test_an_explicit_version_is_listed_alone() -> None:
    world = World()
    world.serve("checkout", {"a": 1, "b": 1}, fallback="base")
    world.serve("base", {"z": 1})
    first = world.get(KEYS, "version=stable&limit=1")
    world.serve("checkout", {"a": 2}, version=2, revision_number=2, fallback="base")
    for again in ("", "&version=stable"):
        assert keys(world.get(KEYS, f"continue={token(first)}{again}")) == ["b"]
    old = world.get(KEYS, "version=1&limit=1")
    assert (body(old)["variant"], body(old)["version"]) == ("history", 1)
    assert refused(world.get(KEYS, f"continue={token(old)}&version=2")) == (400, "InvalidParameter", "version")


def test_a_registry_that_is_gone_or_another(world: World) -> None:
    after = token(world.get(KEYS, "limit=2"))
    world.drop(CHECKOUT)
    world.flush()
    assert refused(world.get(KEYS, f"continue={after}")) == (410, "SnapshotGone", None)
    world.serve("checkout", DATA, version=7, revision_number=1, uid="another")
    response = world.get(KEYS, f"continue={after}")
    assert refused(response) == (410, "SnapshotGone", None)
    assert "begin again" in body(response)["detail"]


def test_a_version_that_was_pruned(world: World) -> None:
    after = token(world.get(KEYS, "limit=2"))
    world.serve("checkout", {"x": 1}, version=8, revision_number=32)
    assert world.get(KEYS, f"continue={after}").status == 200
    world.forget(CHECKOUT, 7)
    world.flush()
    assert refused(world.get(KEYS, f"continue={after}")) == (410, "SnapshotGone", None)
    # Its number came again with other content: a hand was in it.
    world.record(CHECKOUT, 7, revision("uid-checkout", {"k5": "other"}))
    world.flush()
    assert refused(world.get(KEYS, f"continue={after}")) == (410, "SnapshotGone", None)


async def test_a_replica_that_is_behind_waits_and_then_says_so(world: World) -> None:
    behind = World()
    behind.serve("checkout", {"x": 1}, version=6, revision_number=30)
    after = token(world.get(KEYS, "limit=2"))
    later: list[Any] = []
    behind.service.waits._later = lambda _seconds, call: later.append(call) or _Timer()  # type: ignore[func-returns-value]
    waiting = behind.app(request(KEYS, f"continue={after}"))
    other = behind.app(request(KEYS, f"continue={after}"))
    first, second = asyncio.ensure_future(waiting), asyncio.ensure_future(other)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    later[0]()
    assert refused(await first) == (503, "BehindRevision", None)
    behind.serve("checkout", DATA, version=7, revision_number=31)
    assert keys(await second) == list(DATA)[2:]


class _Timer:
    def cancel(self) -> None:
        pass


def test_a_replica_that_has_just_started() -> None:
    ahead = World()
    ahead.serve("checkout", DATA)
    after = token(ahead.get(KEYS, "limit=2"))
    world = World(begun=False)
    assert refused(world.get(KEYS, f"continue={after}")) == (503, "NotSynced", None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%C2%B2", "limit"),
        (f"prefix={'x' * (MAX_BOUND + 1)}", "prefix"),
        (f"start={'x' * (MAX_BOUND + 1)}", "start"),
        (f"end={'x' * (MAX_BOUND + 1)}", "end"),
        ("version=x", "version"),
        ("page=2", "page"),
        ("raw", "raw"),
        ("prefix=a&prefix=b", "prefix"),
        ("continue=", "continue"),
        ("continue=x", "continue"),
        ("continue=%00", "continue"),
        ("continue=gr%C3%BCn", "continue"),
    ],
)
def test_bad_parameters(world: World, query: str, field: str) -> None:
    assert refused(world.get(KEYS, query)) == (400, "InvalidParameter", field)


@pytest.mark.parametrize(
    ("query", "field"), [("prefix=k", "prefix"), ("start=k0", "start"), ("end=k9", "end"), ("version=7", "version")]
)
def test_another_filter_is_refused(world: World, query: str, field: str) -> None:
    after = token(world.get(KEYS, "limit=1"))
    assert refused(world.get(KEYS, f"continue={after}&{query}")) == (400, "InvalidParameter", field)
    within = token(world.get(KEYS, f"limit=1&{query}")) if query != "version=7" else after
    assert world.get(KEYS, f"continue={within}").status == 200


def test_another_registry_and_a_token_that_was_made_up(world: World) -> None:
    """Nobody reads by a token what nobody showed: hash and uid have to be known."""
    world.serve("secret", {"password": 1})
    after = token(world.get(KEYS, "limit=1"))
    assert refused(world.get(f"{BASE}/secret/keys", f"continue={after}")) == (400, "InvalidParameter", "continue")
    real = read_token(after)
    for link in (
        Link("secret", "uid-secret", 0, 1, "0" * 16, "stable"),
        Link("secret", "guessed", 0, 1, digest({"password": 1}), "stable"),
    ):
        forged = write_token(real._replace(links=(*real.links, link)))
        assert refused(world.get(KEYS, f"continue={forged}")) == (410, "SnapshotGone", None)


LINKS = st.builds(
    Link, st.text(max_size=5), st.text(max_size=5), st.integers(0, 2**40), st.integers(1, 2**31), st.text(), st.text()
)
BOUNDS = st.none() | st.text(max_size=5)
TOKENS = st.builds(
    Token,
    st.just(FORMAT),
    st.lists(LINKS, min_size=1, max_size=8).map(tuple),
    st.builds(Filter, st.text(max_size=5), BOUNDS, BOUNDS, st.sampled_from([None, "stable", "canary", 7])),
    st.text(max_size=9),
)


@given(TOKENS)
def test_tokens_come_back(made: Token) -> None:
    text = write_token(made)
    assert read_token(text) == made
    assert quote(text, safe="") == text


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: urlsafe_b64encode(raw).decode().rstrip("=")))
def test_anything_else_is_no_token(text: str) -> None:
    with pytest.raises(Problem) as told:
        read_token(text)
    assert (told.value.status, told.value.field) == (400, "continue")


def test_damaged_tokens(world: World) -> None:
    after = token(world.get(KEYS, "limit=1"))
    made = read_token(after)
    others = [
        after + "=",
        after + "A",
        "!" + after,
        after[:-2],
        write_token(made._replace(format=FORMAT + 1)),
        write_token(made._replace(links=())),
        write_token(made._replace(links=made.links * 9)),
        urlsafe_b64encode(msgspec.msgpack.encode([FORMAT])).decode().rstrip("="),
        urlsafe_b64encode(msgspec.msgpack.encode([*made, "more"])).decode().rstrip("="),
        urlsafe_b64encode(b"\x91" * 5000).decode().rstrip("="),
        "A" * 9000,
    ]
    for text in others:
        assert refused(world.get(KEYS, f"continue={text}")) == (400, "InvalidParameter", "continue"), text


def test_what_everybody_asks_for_is_encoded_once(world: World) -> None:
    entries = world.service.cache.of(world.published("shop", "checkout"))
    assert world.get(KEYS) is world.get(KEYS)
    assert world.get(KEYS, "prefix=k") is world.get(KEYS, "prefix=k") is not world.get(KEYS)
    kept = len(entries.answers)
    for query in ("prefix=x", "start=k1", "end=k1", "limit=3", f"continue={token(world.get(KEYS, 'limit=1'))}"):
        assert world.get(KEYS, query).status == 200
    assert len(entries.answers) == kept  # whatever is asked for, this does not grow
    assert header(world.get(KEYS), "vary") == "x-configregistry-target"


def test_null_is_no_end_of_a_token(world: World) -> None:
    """A token always has a last key."""
    made = read_token(token(world.get(KEYS, "limit=1")))
    text = write_token(made._replace(after=None))
    assert keys(world.get(KEYS, f"continue={text}")) == list(DATA)  # harmless: the listing begins again
