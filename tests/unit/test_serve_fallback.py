"""Fallback chains: which registry answers, what is merged, and where a chain ends."""

from __future__ import annotations

from typing import Any

import pytest
from tests.serve_fakes import World, body, digest, header, revision, status_of

BASE = "/v1/namespaces/shop/registries"


@pytest.fixture
def world() -> World:
    made = World()
    made.serve("a", {"x": "a"}, fallback="b", revision_number=3, version=2)
    made.serve("b", {"x": "b", "y": "b"}, fallback="c")
    made.serve("c", {"x": "c", "y": "c", "z": "c", "a": "c"})
    return made


@pytest.mark.parametrize(("key", "source"), [("x", "a"), ("y", "b"), ("z", "c")])
def test_a_key_comes_from_the_nearest(world: World, key: Any, source: Any) -> None:
    for _ in range(2):  # encoded, then from the cache
        answer = body(world.get(f"{BASE}/a/keys/{key}"))
        assert (answer["value"], answer["source"]) == (source, source)
        assert (answer["version"], answer["revision"]) == (2, 3)  # of the one that was asked
        assert body(world.get(f"{BASE}/a/keys/{key}", "raw")) == source


def test_a_key_that_none_has(world: World) -> None:
    response = world.get(f"{BASE}/a/keys/none")
    assert body(response)["type"].endswith("/KeyNotFound")
    assert header(response, "x-configregistry-version") == "2"


def test_a_whole_read_is_the_chain_merged(world: World) -> None:
    answer = body(world.get(f"{BASE}/a"))
    assert answer["data"] == {"a": "c", "x": "a", "y": "b", "z": "c"}
    assert answer["hash"] == digest({"x": "a"})
    assert list(answer["data"]) == ["a", "x", "y", "z"]


def test_an_explicit_version_is_that_version_alone(world: World) -> None:
    assert body(world.get(f"{BASE}/a", "version=stable"))["data"] == {"x": "a"}
    assert world.get(f"{BASE}/a/keys/y", "version=stable").status == 404
    assert world.get(f"{BASE}/a/keys/y", "version=2").status == 404


@pytest.mark.parametrize("path", ["", "/keys/y", "/keys/z"])
def test_etags_cover_the_fallbacks(world: World, path: Any) -> None:
    etag = header(world.get(f"{BASE}/a{path}"), "etag")
    assert world.get(f"{BASE}/a{path}", if_none_match=etag).status == 304
    world.serve("b", {"x": "b", "y": "B", "z": "B"}, revision_number=2, version=2, fallback="c")
    changed = world.get(f"{BASE}/a{path}", if_none_match=etag)
    assert changed.status == 200
    assert b'"B"' in changed.body


def test_a_change_elsewhere_keeps_the_etag(world: World) -> None:
    etag = header(world.get(f"{BASE}/a/keys/x"), "etag")
    world.serve("c", {"other": 1}, revision_number=2, version=2)
    assert world.get(f"{BASE}/a/keys/x", if_none_match=etag).status == 304


def test_a_cycle_ends_at_the_repeat(world: World) -> None:
    world.serve("c", {"z": "c"}, revision_number=2, version=2, fallback="a")
    assert body(world.get(f"{BASE}/a"))["data"] == {"x": "a", "y": "b", "z": "c"}
    assert world.get(f"{BASE}/a/keys/none").status == 404
    assert body(world.get(f"{BASE}/c/keys/x"))["source"] == "a"
    world.serve("self", {"s": 1}, fallback="self")
    assert world.get(f"{BASE}/self/keys/none").status == 404


def test_a_chain_ends_at_eight() -> None:
    world = World()
    for n in range(10):
        world.serve(f"r{n}", {f"k{n}": n}, fallback=f"r{n + 1}")
    assert sorted(body(world.get(f"{BASE}/r0"))["data"]) == [f"k{n}" for n in range(8)]
    assert world.get(f"{BASE}/r0/keys/k7").status == 200
    assert world.get(f"{BASE}/r0/keys/k8").status == 404


def test_a_fallback_that_does_not_exist_ends_the_chain(world: World) -> None:
    world.drop(("shop", "b"))
    world.flush()
    assert body(world.get(f"{BASE}/a"))["data"] == {"x": "a"}
    assert world.get(f"{BASE}/a/keys/y").status == 404


def test_a_fallback_that_never_gave_anything_is_passed_over(world: World) -> None:
    world.drop(("shop", "b"))
    world.flush()
    world.put(("shop", "b"), "uid-new", status_of(0, None, None))
    world.flush()
    assert world.get(f"{BASE}/b").status == 503
    assert body(world.get(f"{BASE}/a"))["data"] == {"x": "a"}


def test_a_fallback_whose_content_is_not_here_is_not_taken_for_empty(world: World) -> None:
    world.drop(("shop", "b"))
    world.forget(("shop", "b"), 1)
    world.put(("shop", "b"), "uid-new", status_of(1, 1, {"y": "new"}))
    world.flush()
    for path in ("", "/keys/y"):
        response = world.get(f"{BASE}/a{path}")
        assert (response.status, body(response)["type"].rsplit("/")[-1]) == (503, "VersionMissing")
    assert world.get(f"{BASE}/a/keys/x").status == 200
    world.record(("shop", "b"), 1, revision("uid-new", {"y": "new"}))
    world.flush()
    assert body(world.get(f"{BASE}/a"))["data"] == {"x": "a", "y": "new"}


def test_each_registry_chooses_its_own_variant() -> None:
    world = World()
    world.serve("a", {"x": 1}, fallback="b", canary={"version": 2, "weight": 0}, canary_data={"x": 2})
    world.serve(
        "b",
        {"y": 1},
        canary={"version": 2, "weight": 0, "match": [{"attribute": "t", "values": ["1"]}]},
        canary_data={"y": 2},
    )
    plain, matched = world.get(f"{BASE}/a"), world.get(f"{BASE}/a", "attr.t=1")
    assert body(plain)["data"] == {"x": 1, "y": 1}
    assert body(matched)["data"] == {"x": 1, "y": 2}
    assert body(matched)["variant"] == "stable"
    assert header(plain, "etag") != header(matched, "etag")
    assert header(plain, "vary") == "x-configregistry-target, x-configregistry-attr-t"
    assert body(world.get(f"{BASE}/a/keys/y", "attr.t=1"))["value"] == 2
    assert body(world.get(f"{BASE}/a/keys/y"))["value"] == 1
