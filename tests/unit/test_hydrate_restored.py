"""What a replica gives after etcd was restored from a backup: what it had, until there is nobody to put that back."""

from __future__ import annotations

from tests.serve_fakes import World, body, revision, status_of

KEY = ("shop", "checkout")
UID = "uid-checkout"
PATH = "/v1/namespaces/shop/registries/checkout"
A, B, C = {"v": "a"}, {"v": "b"}, {"v": "c"}


def served(world: World) -> tuple[object, object]:
    found = body(world.get(PATH))
    return found["data"], found["revision"]


def restored() -> World:
    """Version 2 is served at revision 5; then the API server says version 1 at revision 1."""
    world = World()
    world.record(KEY, 1, revision(UID, A))
    world.record(KEY, 2, revision(UID, B))
    world.put(KEY, UID, status_of(5, 2, B))
    world.flush()
    world.forget(KEY, 2)
    world.put(KEY, UID, status_of(1, 1, A))
    world.flush()
    assert served(world) == (B, 5)
    return world


def test_what_a_controller_puts_back_is_followed_and_nothing_ever_went_back() -> None:
    world = restored()
    world.put(KEY, UID, status_of(5, 2, B))
    world.flush()
    world.hydrator.relent()
    world.flush()
    assert served(world) == (B, 5)
    world.put(KEY, UID, status_of(4, 1, A))  # a hand, long after that
    world.flush()
    assert served(world) == (B, 5)


def test_where_nobody_puts_it_back_what_there_is_is_followed() -> None:
    world = restored()
    world.hydrator.relent()
    world.flush()
    assert served(world) == (A, 1)
    world.record(KEY, 2, revision(UID, C))  # its number was given before, to other content
    world.put(KEY, UID, status_of(2, 2, C))
    world.flush()
    assert served(world) == (C, 2)
    world.put(KEY, UID, status_of(1, 1, A))
    world.flush()
    assert served(world) == (C, 2), "only what was restored may go back"


def test_a_deleted_one_is_gone_and_begins_anew() -> None:
    world = restored()
    world.drop(KEY)
    world.flush()
    world.hydrator.relent()
    assert world.get(PATH).status == 404
