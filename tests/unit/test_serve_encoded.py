"""The cache of answers: bounded, and gone with the registry that an answer is of."""

from __future__ import annotations

import gc
import weakref

from tests.serve_fakes import World, ask

from configregistry.serve.app import App
from configregistry.serve.encoded import MAX_LISTS, Cache
from configregistry.serve.responses import Answer
from configregistry.serve.routes import MAX_KNOWN_PATH, MAX_KNOWN_PATHS
from configregistry.serve.service import Service

PATH = "/v1/namespaces/shop/registries/checkout"


def world(max_bytes: int = 10**6) -> tuple[World, Cache]:
    made = World()
    cache = Cache(max_bytes)
    made.service = Service(made.hydrator, cache=cache)
    made.app = App(made.service.routes, made.metrics, lambda: 0.0)
    return made, cache


def test_answers_are_freed_with_their_registry() -> None:
    made, cache = world()
    made.serve("checkout", {"a": 1}, fallback="other")
    made.serve("other", {"b": 1})
    for path in (PATH, f"{PATH}/keys/a", f"{PATH}/keys/b"):
        made.get(path)
    registry = weakref.ref(made.hydrator.snapshot().registry("shop", "checkout"))
    assert cache.size > 0
    gc.collect()
    gc.disable()  # it must not need the collector
    try:
        made.serve("checkout", {"a": 2}, version=2, revision_number=2)
        assert registry() is None
        assert cache.size == 0
    finally:
        gc.enable()


def test_a_listing_does_not_keep_the_former_state() -> None:
    made, _cache = world()
    made.serve("checkout", {"a": 1})
    made.get("/v1/namespaces/shop/registries")
    namespace = weakref.ref(made.hydrator.snapshot().namespace("shop"))
    made.serve("other", {})
    assert namespace() is None


def test_listings_are_bounded() -> None:
    made, cache = world()
    for number in range(MAX_LISTS + 10):
        made.serve("a", {}, namespace=f"ns{number}")
        assert made.get(f"/v1/namespaces/ns{number}/registries").status == 200
    assert len(cache._lists) <= MAX_LISTS


def test_all_of_it_is_bounded_by_bytes() -> None:
    made, cache = world(20_000)
    made.serve("checkout", {f"k{n}": "x" * 500 for n in range(200)})
    for n in range(200):
        assert made.get(f"{PATH}/keys/k{n}").status == 200
        assert cache.size <= 20_000
    assert cache.size > 0


def test_what_is_larger_than_all_of_it_is_not_kept() -> None:
    made, cache = world(5_000)
    made.serve("checkout", {"a": "x" * 6_000, "b": 1})
    made.get(f"{PATH}/keys/b")
    kept = cache.size
    assert made.get(PATH).status == 200
    assert cache.size == kept > 0


def test_paths_that_are_remembered_are_bounded() -> None:
    made, _cache = world()
    made.serve("checkout", {"a": 1})
    for n in range(MAX_KNOWN_PATHS + 10):
        ask(made.app, f"{PATH}/keys/{n}")
    ask(made.app, f"{PATH}/keys/{'x' * MAX_KNOWN_PATH}")
    ask(made.app, "/nothing")
    assert 0 < len(made.service.routes._found) <= MAX_KNOWN_PATHS
    assert all(len(path) <= MAX_KNOWN_PATH for path in made.service.routes._found)


def test_equal_etags_mean_equal_bytes() -> None:
    one, same, other = Answer(b"{}", []), Answer(b"{}", [("vary", "x")]), Answer(b"[]", [])
    assert one.etag == same.etag != other.etag
