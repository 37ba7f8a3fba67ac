"""Streams of a registry that was followed back to an older revision: etcd was restored from a backup."""

from __future__ import annotations

import pytest
from tests.serve_fakes import World, revision, status_of
from tests.watch_clients import Client

KEY = ("shop", "checkout")
NAME = "/".join(KEY)
UID = "uid-checkout"


def names(client: Client) -> list[str]:
    return [event.name for event in client.poll()]


def give(world: World, number: int, version: int, data: dict[str, int]) -> None:
    """Another decision, with its content."""
    world.record(KEY, version, revision(UID, data, 1))
    world.put(KEY, UID, status_of(number, version, data))
    world.flush()


def back(world: World, data: dict[str, int] | None = None) -> None:
    """The API server says revision 3 after 5, and nobody puts back what was."""
    world.put(KEY, UID, status_of(3, 1, data or {"a": 1}))
    world.flush()
    world.hydrator.relent()
    world.flush()
    assert world.published(*KEY).revision == 3


def beats(world: World) -> None:
    for _ in range(400):
        world.service.watches.beat()


def at_five() -> World:
    world = World()
    world.serve(data={"a": 1}, revision_number=5)
    return world


def test_an_open_stream_is_told_of_an_end_and_a_new_beginning_and_goes_on() -> None:
    world, client = at_five(), Client()
    client.connect(world)
    assert names(client) == ["snapshot"]
    back(world)
    assert names(client) == ["deleted", "snapshot"]
    beats(world)
    assert set(names(client)) == {"progress"}, "it waits for nothing that it has seen before"
    give(world, 4, 2, {"a": 2})
    assert names(client) == ["delta"]
    assert client.has == {NAME: {"a": 2}}
    assert not client.sink.over


@pytest.mark.parametrize("number", [4, 5, 9])
def test_a_stream_from_before_is_resumed_and_hears_of_what_is_decided_next(number: int) -> None:
    """Also of the very revision that it has seen, and of those below."""
    world, client = at_five(), Client()
    client.connect(world)
    client.poll()
    client.disconnect()
    back(world)
    client.connect(world)
    assert set(names(client)) <= {"progress"}
    give(world, number, 2, {"a": 2})
    assert names(client) == ["delta"]
    assert client.has == {NAME: {"a": 2}}


def test_a_stream_from_behind_it_is_like_any_other() -> None:
    world, client = at_five(), Client()
    back(world)
    client.connect(world)
    assert names(client) == ["snapshot"]
    give(world, 4, 2, {"a": 2})
    give(world, 9, 3, {"a": 3})
    assert names(client) == ["delta", "delta"]
    beats(world)
    assert set(names(client)) == {"progress"}
    client.disconnect()
    client.connect(world)
    give(world, 10, 4, {"a": 4})
    assert client.poll()[-1].name == "delta"
    assert client.has == {NAME: {"a": 4}}


def test_a_stream_from_behind_it_goes_on_at_a_replica_that_never_knew_of_it() -> None:
    world, client = at_five(), Client()
    back(world)
    client.connect(world)
    client.poll()
    other = World()
    other.serve(data={"a": 1}, revision_number=3)
    client.connect(other)
    give(other, 4, 2, {"a": 2})
    assert client.poll()[-1].name == "delta"
    assert client.has == {NAME: {"a": 2}}


def test_one_that_was_deleted_and_came_back_with_the_backup_is_followed() -> None:
    """The same uid and the same revision as before."""
    world, client = at_five(), Client()
    client.connect(world)
    client.poll()
    world.drop(KEY)
    world.flush()
    assert names(client) == ["deleted"]
    world.put(KEY, UID, status_of(5, 1, {"a": 1}))
    world.flush()
    assert names(client) == ["snapshot"]
    client.disconnect()
    client.connect(world)
    give(world, 6, 2, {"a": 2})
    assert client.poll()[-1].name == "delta", "nor is one that comes again sent away as ahead"
    assert client.has == {NAME: {"a": 2}}


def test_what_waits_for_its_content_while_it_is_followed_back_holds_up_nothing_newer() -> None:
    world = at_five()
    world.put(KEY, UID, status_of(3, 7, {"z": 1}))
    world.flush()
    world.hydrator.relent()
    world.flush()
    assert world.published(*KEY).revision == 5
    assert world.hydrator.lacking(*KEY) == 7
    world.put(KEY, UID, status_of(4, 1, {"a": 1}))
    world.flush()
    assert world.published(*KEY).revision == 4, "newer than what is followed, though older than what was served"
    assert world.hydrator.settled(KEY)
    assert world.hydrator.astray(KEY) is None
    world.record(KEY, 7, revision(UID, {"z": 1}))
    world.flush()
    assert world.published(*KEY).revision == 4
