"""History: the list of versions, one of them, what differs between two."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_fakes import World, body, digest, header, named, revision, status_of

from configregistry.serve.contents import History, named_by
from configregistry.serve.versions import change_body
from configregistry.state import Change

ONE = "/v1/namespaces/shop/registries/checkout"
CHECKOUT = ("shop", "checkout")
OLD = {"a": 1, "b": {"x": [1]}, "a/b~c": None}
NEW = {"b": {"x": [2]}, "c": "grün", "a/b~c": False}


@pytest.fixture
def world() -> World:
    made = World()
    made.record(CHECKOUT, 3, revision("uid-checkout", {"ancient": True}))
    made.record(CHECKOUT, 9, revision("uid-other", {"not": "ours"}))
    made.serve("checkout", OLD, version=7, revision_number=31, canary={"version": 8}, canary_data=NEW, fallback="x")
    return made


def dated(world: World, number: int, when: str) -> None:
    name = ("shop", f"checkout-{number}")
    made = world.revisions[name]
    meta = msgspec.structs.replace(made.meta, creation_timestamp=when)
    world.revisions[name] = msgspec.structs.replace(made, meta=meta)


def test_the_list(world: World) -> None:
    dated(world, 3, "2030-01-01T00:00:00Z")
    response = world.get(f"{ONE}/versions")
    assert body(response) == {
        "namespace": "shop",
        "registry": "checkout",
        "revision": 31,
        "versions": [
            {"version": 8, "hash": digest(NEW), "state": "canary", "keys": 3, "parent": 7, "createdAt": None},
            {"version": 7, "hash": digest(OLD), "state": "stable", "keys": 3, "parent": None, "createdAt": None},
            {
                "version": 3,
                "hash": digest({"ancient": True}),
                "state": "recorded",
                "keys": 1,
                "parent": None,
                "createdAt": "2030-01-01T00:00:00Z",
            },
        ],
    }
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"
    assert header(response, "vary") is None
    assert world.get(f"{ONE}/versions", if_none_match=header(response, "etag")).status == 304


def test_the_list_follows_what_is_recorded_and_pruned(world: World) -> None:
    etag = header(world.get(f"{ONE}/versions"), "etag")
    world.forget(CHECKOUT, 3)
    world.record(CHECKOUT, 10, revision("uid-checkout", {"new": 1}, 8))
    response = world.get(f"{ONE}/versions", if_none_match=etag)  # not even a flush is needed
    assert [each["version"] for each in body(response)["versions"]] == [10, 8, 7]


def test_what_is_served_is_listed_although_its_object_is_gone(world: World) -> None:
    world.forget(CHECKOUT, 7)
    world.flush()
    listed = {each["version"]: each for each in body(world.get(f"{ONE}/versions"))["versions"]}
    assert listed[7] == {
        "version": 7,
        "hash": digest(OLD),
        "state": "stable",
        "keys": 3,
        "parent": None,
        "createdAt": None,
    }


def test_a_registry_without_a_version(world: World) -> None:
    world.put(("shop", "new"), "uid-new", None)
    world.flush()
    response = world.get("/v1/namespaces/shop/registries/new/versions")
    assert body(response)["versions"] == []
    assert header(response, "x-configregistry-version") is None
    assert world.get("/v1/namespaces/shop/registries/new/versions/stable").status == 503


@pytest.mark.parametrize(
    ("which", "number", "data"), [("3", 3, {"ancient": True}), ("7", 7, OLD), ("stable", 7, OLD), ("canary", 8, NEW)]
)
def test_one_version(world: World, which: str, number: int, data: Any) -> None:
    for _ in range(2):
        response = world.get(f"{ONE}/versions/{which}")
        assert body(response) == {
            "namespace": "shop",
            "registry": "checkout",
            "version": number,
            "hash": digest(data),
            "data": data,
        }
        assert header(response, "x-configregistry-version") == str(number)
        assert header(response, "x-configregistry-revision") == "31"


def test_a_version_is_the_same_whatever_is_decided(world: World) -> None:
    etag = header(world.get(f"{ONE}/versions/8"), "etag")
    world.put(CHECKOUT, "uid-checkout", status_of(32, 8, NEW))
    world.flush()
    assert world.get(f"{ONE}/versions/8", if_none_match=etag).status == 304


@pytest.mark.parametrize(
    ("path", "status", "name"),
    [
        ("versions/4", 404, "VersionNotFound"),
        ("versions/9", 404, "VersionNotFound"),  # another uid's
        ("versions/0", 400, "InvalidParameter"),
        ("versions/first", 400, "InvalidParameter"),
        ("versions/7/diff/99", 404, "VersionNotFound"),
        ("versions/99/diff/7", 404, "VersionNotFound"),
        ("versions/7/diff/-1", 400, "InvalidParameter"),
        ("versions/7/diff", 404, "NotFound"),
        ("versions/", 404, "NotFound"),
    ],
)
def test_problems(world: World, path: str, status: int, name: str) -> None:
    response = world.get(f"{ONE}/{path}")
    assert (response.status, body(response)["type"].rpartition("/")[2]) == (status, name)
    assert body(world.get(f"{ONE}/{path}", "limit=3"))["status"] in (400, 404)


def test_no_canary(world: World) -> None:
    world.put(CHECKOUT, "uid-checkout", status_of(32, 8, NEW))
    world.flush()
    assert body(world.get(f"{ONE}/versions/7/diff/canary"))["type"].endswith("/VersionNotFound")
    assert world.get("/v1/namespaces/shop/registries/none/versions").status == 404


def test_diff(world: World) -> None:
    for path in ("7/diff/8", "stable/diff/canary"):
        response = world.get(f"{ONE}/versions/{path}")
        assert body(response) == {
            "namespace": "shop",
            "registry": "checkout",
            "from": 7,
            "to": 8,
            "fromHash": digest(OLD),
            "toHash": digest(NEW),
            "changes": [
                {"op": "remove", "path": "/a", "old": 1},
                {"op": "replace", "path": "/a~1b~0c", "old": None, "new": False},
                {"op": "replace", "path": "/b", "old": {"x": [1]}, "new": {"x": [2]}},
                {"op": "add", "path": "/c", "new": "grün"},
            ],
        }
        assert header(response, "x-configregistry-version") == "8"
    assert body(world.get(f"{ONE}/versions/7/diff/7"))["changes"] == []
    back = body(world.get(f"{ONE}/versions/8/diff/7"))["changes"]
    assert [each["op"] for each in back] == ["add", "replace", "replace", "remove"]


CONTENTS = st.dictionaries(
    st.from_regex(r"[a-c~/][a-c~/._-]{0,3}", fullmatch=True),
    st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), st.lists, max_leaves=3),
    max_size=6,
)


@given(CONTENTS, CONTENTS)
def test_a_diff_applied_to_one_version_gives_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    world = World()
    world.record(CHECKOUT, 1, revision("uid-checkout", before))
    world.serve("checkout", after, version=2)
    data = dict(body(world.get(f"{ONE}/versions/1"))["data"])
    keys = []
    for change in body(world.get(f"{ONE}/versions/1/diff/2"))["changes"]:
        key = change["path"].removeprefix("/").replace("~1", "/").replace("~0", "~")
        keys.append(key)
        assert (key in data) == ("old" in change) == (change["op"] != "add")
        assert ("new" in change) == (change["op"] != "remove")
        if "old" in change:
            assert data.pop(key) == change["old"]
        if "new" in change:
            data[key] = change["new"]
    assert data == after
    assert keys == sorted(keys)


def test_a_null_is_a_value() -> None:
    assert json.loads(change_body(Change("k", b"null", None))) == {"op": "remove", "path": "/k", "old": None}
    assert json.loads(change_body(Change("k", None, b"null"))) == {"op": "add", "path": "/k", "new": None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("checkout-7", ("checkout", 7)),
        ("a-1-2", ("a-1", 2)),
        ("checkout", ("", 0)),
        ("-7", ("", 0)),
        ("checkout-x", ("", 0)),
        ("checkout-²", ("", 0)),
    ],
)
def test_names_of_revisions(name: str, expected: tuple[str, int]) -> None:
    assert named_by(name) == expected


def test_what_was_listed_before_is_known_and_nothing_stays_of_what_went() -> None:
    revisions = {("shop", "checkout-7"): named(revision("u", OLD), "shop", "checkout", 7)}
    history = History(revisions)
    assert history._numbers == {CHECKOUT: (7,)}
    history.noted("shop", "checkout", 8)  # told late: it is gone again
    history.noted("shop", "checkout", 0)
    assert history._numbers == {CHECKOUT: (7,)}
    revisions.clear()
    history.noted("shop", "checkout", 7)
    assert history._numbers == {}
