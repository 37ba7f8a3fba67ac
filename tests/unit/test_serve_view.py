"""A view is of the snapshot that was given, whatever is published; and holds nothing that is over."""

from __future__ import annotations

import gc
import weakref

from tests.serve_fakes import World, request

from configregistry.serve.params import Params
from configregistry.serve.view import MAX_CHAIN, concerned

NOBODY = Params(request("/"))


def test_a_former_snapshot_is_answered_from_itself() -> None:
    world = World()
    views = world.service.views
    world.serve(data={"a": 1})
    before = world.hydrator.snapshot()
    for _ in range(2):
        assert views.of(before, "shop", "checkout", NOBODY).data() == {"a": b"1"}
    world.serve(data={"a": 2}, version=2, revision_number=2)
    now = world.hydrator.snapshot()
    for _ in range(2):
        assert views.of(now, "shop", "checkout", NOBODY).data() == {"a": b"2"}
        assert views.of(before, "shop", "checkout", NOBODY).data() == {"a": b"1"}


def test_nothing_that_is_over_is_held() -> None:
    world = World()
    world.serve(data={"a": 1})
    world.service.views.of(world.hydrator.snapshot(), "shop", "checkout", NOBODY)
    before = weakref.ref(world.published("shop", "checkout"))
    world.serve(data={"a": 2}, version=2, revision_number=2)
    gc.collect()
    assert before() is None


def test_all_that_decides_is_concerned_and_no_more() -> None:
    world = World()
    for number in range(MAX_CHAIN + 2):
        world.serve(f"r{number}", {"a": 1}, fallback=f"r{number + 1}")
    world.serve("x", {"a": 1}, fallback="y")
    world.serve("y", {"a": 1}, fallback="x")
    world.serve("z", {"a": 1}, fallback="missing")
    at = world.hydrator.snapshot()
    assert concerned(at, "shop", "r0") == tuple(("shop", f"r{number}") for number in range(MAX_CHAIN))
    assert concerned(at, "shop", "x") == (("shop", "x"), ("shop", "y"))
    assert concerned(at, "shop", "z") == (("shop", "z"), ("shop", "missing"))
    assert concerned(at, "shop", "missing") == (("shop", "missing"),)
