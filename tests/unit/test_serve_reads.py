"""What each route answers: bodies, variants, fallbacks, statuses. No sockets."""

from __future__ import annotations

from typing import Any

import pytest
from tests.serve_fakes import World, body, digest, header, revision, status_of

from configregistry.rollout.buckets import bucket

DATA = {"timeout.ms": 2500, "retry": {"max": 3}, "a/b/c": None, "text": "grün", "flag": True}
BASE = "/v1/namespaces/shop/registries"
ONE = f"{BASE}/checkout"


@pytest.fixture
def world() -> World:
    made = World()
    made.serve("checkout", DATA, version=7, revision_number=31)
    return made


def test_one_key(world: World) -> None:
    response = world.get(f"{ONE}/keys/timeout.ms")
    assert response.status == 200
    assert body(response) == {
        "key": "timeout.ms",
        "value": 2500,
        "version": 7,
        "revision": 31,
        "variant": "stable",
        "source": "checkout",
    }
    assert header(response, "content-type") == "application/json"
    assert header(response, "cache-control") == "no-cache"
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"
    assert header(response, "vary") == "x-configregistry-target"


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("timeout.ms", b"2500"),
        ("retry", b'{"max":3}'),
        ("a/b/c", b"null"),
        ("text", '"grün"'.encode()),
        ("flag", b"true"),
    ],
)
def test_raw_is_the_value_alone(world: World, key: Any, raw: Any) -> None:
    response = world.get(f"{ONE}/keys/{key}", "raw")
    assert (response.status, response.body) == (200, raw)
    assert header(response, "content-type") == "application/json"
    assert header(response, "x-configregistry-version") == "7"
    assert body(world.get(f"{ONE}/keys/{key}", "raw=false"))["key"] == key


def test_whole(world: World) -> None:
    response = world.get(ONE)
    assert body(response) == {
        "namespace": "shop",
        "registry": "checkout",
        "version": 7,
        "hash": digest(DATA),
        "variant": "stable",
        "revision": 31,
        "data": DATA,
    }
    assert list(body(response)["data"]) == sorted(DATA)
    assert header(response, "x-configregistry-revision") == "31"


def test_whole_of_an_empty_registry() -> None:
    world = World()
    world.serve("empty", {})
    assert body(world.get(f"{BASE}/empty"))["data"] == {}
    assert world.get(f"{BASE}/empty/keys/x").status == 404


def test_list(world: World) -> None:
    world.serve("b", {"x": 1}, canary={"version": 2, "weight": 25}, canary_data={"x": 2})
    world.put(("shop", "new"), "uid-new", None)
    world.flush()
    response = world.get(BASE)
    assert body(response) == {
        "namespace": "shop",
        "registries": [
            {"name": "b", "stable": 1, "canary": 2, "weight": 25, "revision": 1},
            {"name": "checkout", "stable": 7, "canary": None, "weight": None, "revision": 31},
            {"name": "new", "stable": None, "canary": None, "weight": None, "revision": 0},
        ],
    }
    etag = header(response, "etag")
    assert world.get(BASE, if_none_match=etag).status == 304
    world.serve("c", {})
    assert world.get(BASE, if_none_match=etag).status == 200


@pytest.mark.parametrize(
    ("path", "query", "status", "name", "field"),
    [
        (f"{ONE}/keys/none", "", 404, "KeyNotFound", None),
        (f"{ONE}/keys/{'x' * 500}", "", 404, "KeyNotFound", None),
        (f"{BASE}/none", "", 404, "RegistryNotFound", None),
        (f"{BASE}/none/keys/a", "", 404, "RegistryNotFound", None),
        ("/v1/namespaces/none/registries", "", 404, "NamespaceNotFound", None),
        ("/v1/namespaces/none/registries/a", "", 404, "NamespaceNotFound", None),
        ("/v1/namespaces/none/registries/a/keys/b", "", 404, "NamespaceNotFound", None),
        (ONE, "version=3", 404, "VersionNotFound", None),
        (ONE, "version=canary", 404, "VersionNotFound", None),
        (f"{ONE}/keys/flag", "version=99", 404, "VersionNotFound", None),
        (ONE, "version=", 400, "InvalidParameter", "version"),
        (ONE, "version=0", 400, "InvalidParameter", "version"),
        (ONE, "version=-1", 400, "InvalidParameter", "version"),
        (ONE, "version=1.0", 400, "InvalidParameter", "version"),
        (ONE, "version=%C2%B2", 400, "InvalidParameter", "version"),
        (ONE, "version=99999999999999999999", 400, "InvalidParameter", "version"),
        (ONE, "version=7&version=7", 400, "InvalidParameter", "version"),
        (ONE, "raw", 400, "InvalidParameter", "raw"),
        (f"{ONE}/keys/flag", "raw=maybe", 400, "InvalidParameter", "raw"),
        (ONE, "verison=7", 400, "InvalidParameter", "verison"),
        (ONE, "attr.=7", 400, "InvalidParameter", "attr."),
        (ONE, "target=%ff", 400, "InvalidParameter", "target"),
        (ONE, f"target={'x' * 1025}", 400, "InvalidParameter", "target"),
        (BASE, "version=7", 400, "InvalidParameter", "version"),
        ("/", "", 404, "NotFound", None),
        ("", "", 404, "NotFound", None),
        ("/v1", "", 404, "NotFound", None),
        (f"{BASE}/", "", 404, "NotFound", None),
        (f"{ONE}/", "", 404, "NotFound", None),
        (f"{ONE}/diff", "", 404, "NotFound", None),
        (f"{ONE}/keys/", "", 404, "NotFound", None),
        (f"{ONE}/other/x", "", 404, "NotFound", None),
        ("/v1/namespaces//registries/checkout", "", 404, "NotFound", None),
        ("/v2/namespaces/shop/registries", "", 404, "NotFound", None),
    ],
)
def test_problems(world: World, path: Any, query: Any, status: Any, name: Any, field: Any) -> None:
    response = world.get(path, query)
    problem = body(response)
    assert response.status == problem["status"] == status
    assert problem["type"] == f"https://configregistry.dev/problems/{name}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == path
    assert problem.get("field") == field
    assert header(response, "content-type") == "application/problem+json"
    assert header(response, "etag") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])
@pytest.mark.parametrize("path", [BASE, ONE, f"{ONE}/keys/flag", f"{BASE}/none"])
def test_other_methods_are_refused(world: World, method: Any, path: Any) -> None:
    response = world.get(path, method=method)
    assert response.status == 405
    assert header(response, "allow") == "GET, HEAD"
    assert body(response)["type"].endswith("/MethodNotAllowed")


def test_unknown_paths_are_404_whatever_the_method(world: World) -> None:
    assert world.get("/v1/nothing", method="POST").status == 404


@pytest.mark.parametrize("path", [BASE, ONE, f"{ONE}/keys/flag", f"{BASE}/none"])
def test_head_is_get(world: World, path: Any) -> None:
    assert world.get(path, method="HEAD") == world.get(path)


def test_a_missing_key_still_tells_the_version(world: World) -> None:
    response = world.get(f"{ONE}/keys/none")
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"


def test_instance_is_percent_encoded(world: World) -> None:
    assert body(world.get("/ä b"))["instance"] == "/%C3%A4%20b"


# Variants.


@pytest.fixture
def rolling() -> World:
    world = World()
    rules = [
        {"attribute": "Region", "values": ["eu", "us"]},
        {"attribute": "a\nb", "values": ["x"]},
    ]
    world.serve(
        "checkout",
        {"a": "old", "gone": 1},
        version=7,
        revision_number=32,
        canary={"version": 8, "weight": 50, "seed": "s", "match": rules},
        canary_data={"a": "new", "more": 1},
    )
    return world


def variant(response: Any) -> Any:
    return body(response)["variant"], body(response)["version"]


NEW, OLD = "pod-1", "pod-0"  # buckets of the seed "s": test_targets_are_as_assumed


def test_targets_are_as_assumed() -> None:
    assert bucket("s", NEW) < 5000 <= bucket("s", OLD)


@pytest.mark.parametrize("path", [ONE, f"{ONE}/keys/a"])
@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        ("", {}, ("stable", 7)),
        (f"target={NEW}", {}, ("canary", 8)),
        (f"target={OLD}", {}, ("stable", 7)),
        ("target=", {}, ("stable", 7)),
        ("", {"x_configregistry_target": NEW}, ("canary", 8)),
        (f"target={OLD}", {"x_configregistry_target": NEW}, ("stable", 7)),
        ("attr.Region=eu", {}, ("canary", 8)),
        ("attr.region=eu", {}, ("stable", 7)),
        ("attr.Region=asia", {}, ("stable", 7)),
        (f"attr.Region=us&target={OLD}", {}, ("canary", 8)),
        ("", {"x_configregistry_attr_region": "us"}, ("canary", 8)),
        ("attr.Region=asia", {"x_configregistry_attr_region": "us"}, ("stable", 7)),
        ("attr.a%0Ab=x", {}, ("canary", 8)),
        ("version=stable", {"x_configregistry_attr_region": "us"}, ("stable", 7)),
        (f"version=canary&target={OLD}", {}, ("canary", 8)),
        (f"version=7&target={NEW}", {}, ("history", 7)),
        ("version=8", {}, ("history", 8)),
    ],
)
def test_who_gets_what(rolling: World, path: Any, query: Any, headers: Any, expected: Any) -> None:
    response = rolling.get(path, query, **headers)
    assert variant(response) == expected
    assert header(response, "x-configregistry-version") == str(expected[1])
    assert header(response, "x-configregistry-revision") == "32"


def test_a_key_that_only_one_variant_has(rolling: World) -> None:
    assert rolling.get(f"{ONE}/keys/gone", f"target={OLD}").status == 200
    assert rolling.get(f"{ONE}/keys/gone", f"target={NEW}").status == 404
    assert rolling.get(f"{ONE}/keys/more", f"target={NEW}").status == 200
    assert rolling.get(f"{ONE}/keys/more").status == 404


def test_vary_names_the_headers_of_match_rules(rolling: World) -> None:
    expected = "x-configregistry-target, x-configregistry-attr-region"
    for path in (ONE, f"{ONE}/keys/a", f"{ONE}/keys/none"):
        assert header(rolling.get(path), "vary") == expected


def test_history_is_decoded_when_asked_for() -> None:
    world = World()
    for number, data in ((1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3})):
        world.record(("shop", "checkout"), number, revision("uid-checkout", data, number - 1))
    world.put(("shop", "checkout"), "uid-checkout", status_of(3, 3, {"a": 3}))
    world.flush()
    assert list(world.published("shop", "checkout").versions) == [3]
    assert body(world.get(ONE, "version=1"))["data"] == {"a": 1}
    assert body(world.get(f"{ONE}/keys/a", "version=2"))["value"] == 2
    assert header(world.get(ONE, "version=1"), "x-configregistry-version") == "1"
    world.forget(("shop", "checkout"), 1)
    world.flush()
    assert world.get(ONE, "version=1").status == 404
    world.record(("shop", "checkout"), 4, revision("uid-of-another", {"a": "secret"}))
    assert world.get(ONE, "version=4").status == 404


# Conditional requests.


@pytest.mark.parametrize("path", [BASE, ONE, f"{ONE}/keys/flag", f"{ONE}/keys/a/b/c"])
@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ('"x", {}', 304),
        ('W/"x",W/{} , "y"', 304),
        ("*", 304),
        (" * ", 304),
        ('"x"', 200),
        ('"x", "y"', 200),
        ("", 200),
        ("nonsense", 200),
        ('"', 200),
    ],
)
def test_if_none_match(world: World, path: Any, form: Any, status: Any) -> None:
    full = world.get(path)
    etag = header(full, "etag")
    assert etag.startswith('"')
    response = world.get(path, if_none_match=form.format(etag))
    assert response.status == status
    assert header(response, "etag") == etag
    if status == 304:
        assert response.body == b""
        told = {name: value for name, value in full.headers if name != "content-type"}
        assert dict(response.headers) == told


def test_etags_differ_where_bytes_do(rolling: World) -> None:
    seen: dict[str, bytes] = {}
    for path in (ONE, f"{ONE}/keys/a"):
        for query in ("", f"target={NEW}", "version=7", "version=8"):
            response = rolling.get(path, query)
            etag = header(response, "etag")
            assert seen.setdefault(etag, response.body) == response.body
    assert len(seen) == 8


def test_an_etag_of_one_variant_is_not_that_of_the_other(rolling: World) -> None:
    etag = header(rolling.get(ONE), "etag")
    assert rolling.get(ONE, f"target={NEW}", if_none_match=etag).status == 200


def test_an_answer_is_encoded_once(world: World) -> None:
    for path, query in (
        (BASE, ""),
        (ONE, ""),
        (f"{ONE}/keys/flag", ""),
        (f"{ONE}/keys/flag", "raw"),
    ):
        assert world.get(path, query).body is world.get(path, query).body
