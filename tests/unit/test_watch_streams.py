"""Watches, one promise after the other: what a stream says, when, and how it ends."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from typing import Any

import pytest
from tests.serve_fakes import World, ask, body, header, request, revision, status_of
from tests.watch_clients import Client, FakeSink, parse

from configregistry.serve.app import App
from configregistry.serve.responses import Problem, Request, Response, Stream
from configregistry.serve.routes import Need, Place, Routes
from configregistry.serve.service import Service
from configregistry.serve.watch import WatchRoutes, past, turn, watches
from configregistry.serve.watch.cursor import MAX_CURSOR, decode, encode
from configregistry.serve.watch.past import MAX_MOMENTS
from configregistry.telemetry.metrics import Metrics

KEY = ("shop", "checkout")
PATH = "/v1/namespaces/shop/registries/checkout/watch"
CANARY: dict[str, Any] = {"version": 2, "weight": 100}


def names(client: Client) -> list[str]:
    return [event.name for event in client.poll()]


def sample(world: World, name: str, **labels: str) -> float | None:
    return world.service.watches._observer.registry.get_sample_value(name, labels)  # type: ignore[attr-defined,no-any-return]


def beat(world: World) -> None:
    """All streams have their turn once."""
    for _ in range(15):
        world.service.watches.beat()


# What is said.


def test_a_snapshot_then_what_changes() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1, "b/~": None})
    reply = client.connect(world)
    assert isinstance(reply, Stream)
    assert dict(reply.headers) == {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
        "x-configregistry-revision": "1",
    }
    (first,) = client.poll()
    whole = body(world.get(PATH.removesuffix("/watch")))
    assert (first.name, first.data) == ("snapshot", whole)
    world.serve(data={"a": 2, "c": [1]}, version=2, revision_number=2)
    (second,) = client.poll()
    now = body(world.get(PATH.removesuffix("/watch")))
    assert second.name == "delta"
    assert second.data == {
        **{name: now[name] for name in ("namespace", "registry", "hash", "variant", "revision")},
        "from": 1,
        "to": 2,
        "changes": [
            {"op": "replace", "path": "/a", "old": 1, "new": 2},
            {"op": "remove", "path": "/b~1~0", "old": None},
            {"op": "add", "path": "/c", "new": [1]},
        ],
    }
    assert client.has == {"shop/checkout": now["data"]}


def test_only_a_revision_moves_only_the_cursor() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1})
    client.connect(world)
    client.poll()
    world.serve(data={"a": 1}, revision_number=2)
    (event,) = client.poll()
    assert (event.name, event.data) == ("progress", {"revision": 2})
    client.connect(world)
    assert [(event.name, event.data) for event in client.poll()] == [("progress", {"revision": 2})]


def test_gray_steps_and_rollback() -> None:
    world = World()
    stable, canary = Client("target=t1"), Client("target=t1&attr.region=eu")
    world.serve(data={"a": 1})
    for client in (stable, canary):
        client.connect(world)
        client.poll()
    match = {**CANARY, "weight": 0, "match": [{"attribute": "region", "values": ["eu"]}]}
    world.serve(data={"a": 1}, revision_number=2, canary=match, canary_data={"a": 2})
    assert names(stable) == ["progress"]
    assert names(canary) == ["delta"]
    assert canary.about["shop/checkout"]["variant"] == "canary"
    world.serve(data={"a": 1}, revision_number=3, canary=CANARY, canary_data={"a": 2})
    assert names(stable) == ["delta"]
    assert names(canary) == ["progress"]
    world.serve(data={"a": 1}, revision_number=4)
    assert names(stable) == names(canary) == ["delta"]
    assert stable.has == canary.has == {"shop/checkout": {"a": 1}}


def test_a_promotion_tells_the_variant_and_changes_nothing() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1}, canary=CANARY, canary_data={"a": 2})
    client.connect(world)
    client.poll()
    world.serve(data={"a": 2}, version=2, revision_number=2)
    (event,) = client.poll()
    assert (event.name, event.data["variant"], event.data["changes"]) == ("delta", "stable", [])


def test_a_registry_that_does_not_exist_yet() -> None:
    world, client = World(), Client()
    client.connect(world)
    assert [(event.name, event.data) for event in client.poll()] == [("progress", {"revision": 0})]
    world.put(KEY, "uid-checkout", None)
    world.flush()
    assert names(client) == ["progress"]  # it is there, and gives nothing yet
    world.serve(data={"a": 1})
    assert names(client) == ["snapshot"]
    world.drop(KEY)
    world.flush()
    (event,) = client.poll()
    assert (event.name, event.data) == ("deleted", {"namespace": "shop", "registry": "checkout", "revision": 1})
    world.serve(data={"a": 2}, uid="uid-2")
    assert names(client) == ["snapshot"]


def test_fallbacks_are_merged_and_their_changes_told() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1}, fallback="base")
    client.connect(world)
    assert client.poll()[0].data["data"] == {"a": 1}
    world.serve("base", {"a": 0, "b": 1})
    (event,) = client.poll()
    assert event.data["changes"] == [{"op": "add", "path": "/b", "new": 1}]
    assert (event.data["from"], event.data["to"], event.data["revision"]) == (1, 1, 1)
    world.serve("base", {"a": 5, "b": 1}, version=2, revision_number=2)
    assert names(client) == ["progress"]  # what changed is hidden
    world.serve("other", {"c": 1})
    assert names(client) == []
    world.serve(data={"a": 1}, fallback="other", revision_number=2)
    assert [change["path"] for change in client.poll()[0].data["changes"]] == ["/b", "/c"]
    world.drop(("shop", "other"))
    world.flush()
    assert client.poll()[0].data["changes"] == [{"op": "remove", "path": "/c", "old": 1}]


def test_a_chain_in_another_order() -> None:
    world, client = World(), Client()
    world.serve("b", {"x": "b", "y": "b"}, fallback="c")
    world.serve("c", {"x": "c", "z": "c"})
    world.serve(data={"a": 1}, fallback="b")
    client.connect(world)
    client.poll()
    for name, data, fallback in (("b", {"x": "b", "y": "b"}, None), ("c", {"x": "c", "z": "c"}, "b")):
        world.put(("shop", name), f"uid-{name}", status_of(2, 1, data, fallback=fallback))
    world.put(KEY, "uid-checkout", status_of(2, 1, {"a": 1}, fallback="c"))
    world.flush()
    (event,) = client.poll()
    assert event.data["changes"] == [{"op": "replace", "path": "/x", "old": "b", "new": "c"}]


def test_what_is_not_known_at_present_is_not_gone() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1})
    client.connect(world)
    client.poll()
    world.put(("shop", "base"), "uid-base", status_of(1, 1, {"b": 1}))  # its content is still on the way
    world.put(KEY, "uid-checkout", status_of(2, 1, {"a": 1}, fallback="base"))
    world.flush()
    assert ask(world.app, PATH.removesuffix("/watch")).status == 503
    assert names(client) == []
    world.record(("shop", "base"), 1, revision("uid-base", {"b": 1}))
    world.flush()
    assert client.poll()[0].data["changes"] == [{"op": "add", "path": "/b", "new": 1}]


def test_a_namesake_at_once_is_a_snapshot() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1}, revision_number=9)
    client.connect(world)
    client.poll()
    world.serve(data={"a": 2}, uid="uid-2")
    assert names(client) == ["snapshot"]


def test_many_registries_in_one_stream() -> None:
    world = World()
    client = Client("registry=shop/a&registry=shop/b&registry=other/c&registry=shop/a", path="/v1/watch")
    world.serve("a", {"x": 1})
    world.serve("c", {"x": 3}, namespace="other")
    client.connect(world)
    assert names(client) == ["snapshot", "snapshot"]
    world.serve("b", {"x": 2})
    world.serve("a", {"x": 4}, version=2, revision_number=2)
    assert names(client) == ["snapshot", "delta"]
    assert client.has == {"shop/a": {"x": 4}, "shop/b": {"x": 2}, "other/c": {"x": 3}}
    cursor = client.cursor
    world.serve("c", {"x": 5}, namespace="other", version=2, revision_number=2)
    beat(world)
    told = client.poll()
    assert told[-1].data == {"revisions": {"shop/a": 2, "shop/b": 1, "other/c": 2}}
    client.connect(world, cursor=cursor)
    assert [event.name for event in client.peek()] == ["delta"]


# Resuming.


def test_each_state_is_shown_again_behind_each_cursor() -> None:
    world, client = World(), Client()
    world.serve(data={"n": 1})
    client.connect(world)
    for number in range(2, 6):
        world.serve(data={"n": number}, version=number, revision_number=number)
    told = client.poll()
    for place, event in enumerate(told):
        again = Client()
        again.connect(world, cursor=event.id)
        rest = told[place + 1 :]
        if rest:
            assert again.events == []
            assert [(each.name, each.id, each.data) for each in again.peek()] == rest
        else:
            assert names(again) == ["progress"]


def test_beyond_the_window_there_is_one_step_or_a_snapshot() -> None:
    world, client = World(), Client()
    world.service.watches._past._max_decisions = 1
    world.serve(data={"n": 1})
    client.connect(world)
    client.poll()
    for number in range(2, 6):
        world.serve(data={"n": number}, version=number, revision_number=number)
    lost = Client()
    lost.connect(world, cursor=client.cursor)
    assert [(each.name, each.data["from"], each.data["to"]) for each in lost.peek()] == [("delta", 1, 5)]
    world.forget(KEY, 1)
    world.flush()
    lost.connect(world, cursor=client.cursor)
    assert names(lost) == ["snapshot"]


@pytest.mark.parametrize("cursor", ["x", "kgGRksQEHfwupZA", "A" * 8192, "\N{OHM SIGN}", "kgKQ", "W10", "////"])
def test_what_cannot_be_read_gives_a_snapshot(cursor: str) -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1})
    client.connect(world, cursor=cursor)
    assert names(client) == ["snapshot"]


def test_the_header_wins_over_since() -> None:
    """An EventSource comes back to the URL that it was made with."""
    world, first = World(), Client()
    world.serve(data={"n": 1})
    first.connect(world)
    old = first.poll()[0].id
    world.serve(data={"n": 2}, version=2, revision_number=2)
    new = first.poll()[0].id
    client = Client(f"since={old}")
    client.connect(world)
    assert [event.name for event in client.peek()] == ["delta"]
    client.connect(world, cursor=new)
    assert [event.name for event in client.peek()] == ["progress"]


def test_another_uid_gives_a_snapshot() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1}, revision_number=7)
    client.connect(world)
    client.poll()
    client.disconnect()
    world.serve(data={"a": 1}, uid="uid-2")
    client.connect(world)
    assert names(client) == ["snapshot"]


def test_a_replica_that_is_behind_says_progress_alone() -> None:
    ahead, behind, client = World(), World(), Client()
    for world in (ahead, behind):
        world.serve(data={"n": 1})
    ahead.serve(data={"n": 2}, version=2, revision_number=2)
    client.connect(ahead)
    client.poll()
    reply = client.connect(behind)
    assert header(reply, "x-configregistry-revision") == "2"  # type: ignore[arg-type]
    beat(behind)
    assert [(event.name, event.data) for event in client.poll()] == [("progress", {"revision": 2})] * 2
    behind.serve(data={"n": 2}, version=2, revision_number=2)
    assert names(client) == []
    behind.serve(data={"n": 3}, version=3, revision_number=3)
    assert names(client) == ["delta"]


def test_a_deletion_that_a_replica_has_not_seen_is_not_undone() -> None:
    ahead, behind, client = World(), World(), Client()
    for world in (ahead, behind):
        world.serve(data={"n": 1})
    client.connect(ahead)
    ahead.drop(KEY)
    ahead.flush()
    assert names(client) == ["snapshot", "deleted"]
    client.connect(behind)
    assert names(client) == ["progress"]
    behind.drop(KEY)
    behind.flush()
    behind.serve(data={"n": 2}, uid="uid-2")
    assert names(client)[-1] == "snapshot"


def test_a_registry_never_heard_of_is_waited_for_and_then_gone() -> None:
    elsewhere, world, client = World(), World(), Client()
    elsewhere.serve(data={"n": 1})
    client.connect(elsewhere)
    client.poll()
    client.connect(world)
    assert names(client) == ["progress"]
    beat(world)
    assert names(client) == ["progress"]
    beat(world)
    assert names(client) == ["progress", "deleted"]
    other = Client()
    other.connect(elsewhere)
    other.poll()
    other.connect(world)
    world.serve(data={"n": 1})
    assert names(other) == ["progress"]
    assert other.has == {"shop/checkout": {"n": 1}}


def test_a_replica_that_does_not_hear_waits_for_as_long_as_that_lasts() -> None:
    """A registry that was created meanwhile exists, although this replica has never heard of it."""
    elsewhere, world, client = World(), World(), Client()
    stale = [600.0]
    world.service.watches._staleness = lambda: stale[0]
    elsewhere.serve(data={"n": 1})
    client.connect(elsewhere)
    client.poll()
    client.connect(world)
    for _ in range(10):
        beat(world)
    assert set(names(client)) == {"progress"}
    stale[0] = 0.0
    beat(world)
    stale[0] = 1.0
    beat(world)
    stale[0] = 0.0
    beat(world)
    assert set(names(client)) == {"progress"}, "what lacked before is listed only now"
    beat(world)
    assert names(client)[-1] == "deleted"


def test_staleness_is_handed_over() -> None:
    service = Service(World().hydrator, staleness=lambda: 7.0)
    assert service.watches._staleness() == 7.0


def test_what_a_resume_costs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world, client = World(), Client()
    world.serve(data={"n": 0})
    client.connect(world)
    cursors = [client.poll()[0].id]
    for number in range(2, MAX_MOMENTS + 40):
        world.serve(data={"n": number}, version=number, revision_number=number)
        cursors.append(client.poll()[-1].id)
    looked: list[int] = []
    right = past._which

    def which(moment: Any) -> Any:
        looked.append(moment[0])
        return right(moment)

    def when(moment: Any) -> Any:
        looked.append(moment[0])
        return moment[0]

    monkeypatch.setattr(past, "_which", which)
    monkeypatch.setattr(past, "_when", when)
    for behind, shown in [(1, 1), (MAX_MOMENTS, MAX_MOMENTS), (MAX_MOMENTS + 1, MAX_MOMENTS + 1), (MAX_MOMENTS + 2, 1)]:
        again = Client()
        looked.clear()
        again.connect(world, cursor=cursors[-1 - behind])
        told = again.peek()
        assert [event.name for event in told] == ["delta"] * shown
        assert told[-1].data["to"] == MAX_MOMENTS + 39
        assert all(one.data["to"] == two.data["from"] for one, two in pairwise(told))
        assert len(looked) <= 20 + 12 * min(behind, MAX_MOMENTS)


def test_forged_cursors_fill_nothing() -> None:
    world, client = World(), Client()
    world.serve(data={"n": 1})
    for number in range(2, 52):
        world.serve(data={"n": 1}, revision_number=number)
    client.connect(world)
    (position,) = decode(client.poll()[0].id, [KEY])
    encoded = world.service.watches._encoded
    encoded._max_bytes = 20_000
    for number in range(300):
        forged = position[0]._replace(revision=number % 50, former=b"%06d" % number)
        client.connect(world, cursor=encode([KEY], [(forged,)]).decode())
        client.poll()
    assert len(encoded._known) <= 20
    assert encoded.size <= 20_000


def test_a_candidate_taken_back_stays_so() -> None:
    """Under the former revision, because the next one names content that is not here yet."""
    ahead, behind, client = World(), World(), Client()
    for world in (ahead, behind):
        world.serve(data={"n": 1}, canary=CANARY, canary_data={"n": 2})
    client.connect(ahead)
    status: dict[str, Any] = {
        "revision": 2,
        "stable": {"version": 1, "hash": ahead.published(*KEY).versions[1].hash},
        "canary": {"version": 3, "hash": "0" * 16, "weight": 0},
    }
    ahead.put(KEY, "uid-checkout", status)
    ahead.flush()
    assert names(client) == ["snapshot", "delta"]
    assert client.has == {"shop/checkout": {"n": 1}}
    client.connect(behind)
    assert names(client) == ["progress"]


def test_a_candidate_taken_back_is_shown_again_before_what_came_next() -> None:
    world, client = World(), Client()
    world.serve(data={"n": 1}, canary=CANARY, canary_data={"n": 2})
    client.connect(world)
    client.poll()
    content = {"n": 3}
    world.put(KEY, "uid-checkout", status_of(2, 3, content))
    world.flush()
    assert world.published(*KEY).revision == 1
    world.record(KEY, 3, revision("uid-checkout", content))
    world.flush()
    cursors = [client.cursor, *(event.id for event in client.poll())]
    for cursor, shown in zip(cursors, ([(2, 1), (1, 3)], [(1, 3)], []), strict=True):
        again = Client()
        again.connect(world, cursor=cursor)
        told = [each.data for each in again.peek() if each.name != "progress"]
        assert [(each["from"], each["to"]) for each in told] == shown


# Limits, and ends.


def test_a_slow_reader_is_cut_off_and_says_why() -> None:
    world, client, other = World(), Client(), Client()
    world.service.watches._limit = 1000
    world.serve(data={"n": 0})
    other.connect(world)
    client.connect(world, room=0)
    for number in range(1, 30):
        world.serve(data={"n": "x" * 100, "i": number}, version=number + 1, revision_number=number + 1)
        if client.sink.over:
            break
    assert client.sink.ended
    assert client.sink.longest <= 1000 + client.sink.largest
    client.sink.take(None)
    *before, last = client.poll()
    assert last.name == "cut-off"
    assert last.id is None
    assert last.data == {"reason": "slow-reader"}
    assert len(before) > 2
    assert sample(world, "configregistry_watch_cut_off_total", reason="slow-reader") == 1
    assert not other.sink.over
    client.connect(world)
    client.poll()
    other.poll()
    assert client.has == other.has


def test_a_backlog_is_sent_as_it_is_taken() -> None:
    world, client = World(), Client()
    world.service.watches._limit = 100
    world.serve(data={"n": 0})
    client.connect(world)
    client.poll()
    client.disconnect()
    for number in range(1, 20):
        world.serve(data={"n": number}, version=number + 1, revision_number=number + 1)
    client.connect(world, room=0)
    assert client.sink.longest <= 100 + client.sink.largest
    world.serve(data={"n": 99}, version=99, revision_number=99)
    while client.sink.held:
        client.sink.take(50)
    client.sink.take(None)
    assert [event.data["to"] for event in client.poll()] == [*range(2, 21), 99]
    world.serve(data={"n": 100}, version=100, revision_number=100)
    assert names(client) == ["delta"]


def test_a_backlog_that_nobody_takes_is_given_up() -> None:
    world, client = World(), Client("registry=shop/a&registry=shop/b", path="/v1/watch")
    world.service.watches._limit = 10
    world.serve("a", {"n": 1})
    world.serve("b", {"n": 1})
    client.connect(world, room=0)
    beat(world)
    assert not client.sink.over
    client.sink.take(10)
    beat(world)
    assert not client.sink.over
    beat(world)
    assert client.sink.ended


def test_progress_comes_to_each_stream_once_in_fifteen_beats() -> None:
    world = World()
    world.serve(data={"a": 1})
    clients = [Client() for _ in range(20)]
    for client in clients:
        client.connect(world)
        client.poll()
    most = 0
    for _ in range(15):
        world.service.watches.beat()
        most = max(most, sum(bool(client.poll()) for client in clients))
    assert most == 2
    assert [[event.name for event in client.events] for client in clients] == [["snapshot", "progress"]] * 20


def test_drain_says_goodbye() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1})
    client.connect(world)
    client.poll()
    assert client.sink.feed is not None
    client.sink.feed.drain()
    assert names(client) == ["progress"]
    assert client.sink.ended
    assert world.service.watches.streams == 0


def test_nothing_is_kept_of_who_has_gone() -> None:
    world, client = World(), Client("registry=shop/a&registry=shop/b&target=x", path="/v1/watch")
    world.serve("a", {"n": 1}, fallback="c")
    client.connect(world)
    watcher = weakref.ref(client.sink.feed)
    assert sample(world, "configregistry_watchers") == 1
    client.disconnect()
    client.sink = FakeSink()
    gc.collect()
    assert watcher() is None
    assert sample(world, "configregistry_watchers") == 0
    watches = world.service.watches
    assert not watches._groups
    assert not watches._groups._by_key


def test_history_is_freed_although_it_can_be_resumed_from() -> None:
    world, client = World(), Client()
    world.serve(data={"n": 1})
    client.connect(world)
    version = weakref.ref(world.published(*KEY).versions[1])
    for number in range(2, 4):
        world.serve(data={"n": number}, version=number, revision_number=number)
    world.service.watches._encoded._known.clear()
    assert version() is not None
    world.forget(KEY, 1)
    world.flush()
    gc.collect()
    assert version() is None


def test_all_streams_alike_get_the_very_same_bytes() -> None:
    class Keeps(FakeSink):
        got: bytes = b""

        def write(self, data: bytes) -> None:
            self.got = data

    world = World()
    world.serve(data={"n": 1})
    sinks = [Keeps() for _ in range(8)]
    for number, sink in enumerate(sinks):
        reply = world.app(request(PATH, f"target=t{number}"))
        assert isinstance(reply, Stream)
        reply.open(sink)
    assert len({id(sink.got) for sink in sinks}) == 1
    world.serve(data={"n": 1}, revision_number=2, canary={**CANARY, "weight": 50}, canary_data={"n": 2})
    assert len({id(sink.got) for sink in sinks}) == len({sink.got for sink in sinks}) == 2
    world.serve(data={"n": 2}, version=2, revision_number=3)
    assert len({id(sink.got) for sink in sinks}) == len({sink.got for sink in sinks}) == 2
    world.serve(data={"n": 3}, version=3, revision_number=4)
    assert len({id(sink.got) for sink in sinks}) == 1  # they are alike again
    assert sample(world, "configregistry_watch_delivery_seconds_count") == 24


def test_a_defect_ends_the_streams_that_it_hits_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world, hit, spared = World(), Client("target=x"), Client(path="/v1/namespaces/shop/registries/other/watch")
    world.serve(data={"n": 1})
    world.serve("other", {"n": 1})
    hit.connect(world)
    spared.connect(world)
    right = turn.event

    def wrong(encoded: Any, now: Any, keys: Any, *rest: Any) -> bytes:
        if keys == (KEY,):
            raise RuntimeError
        return right(encoded, now, keys, *rest)

    monkeypatch.setattr(watches, "event", wrong)
    world.record(KEY, 2, world.revisions["shop", "checkout-1"])
    world.serve(data={"n": 2}, version=2, revision_number=2)
    world.serve("other", {"n": 2}, version=2, revision_number=2)
    assert [event.name for event in hit.poll()] == ["snapshot", "cut-off"]
    assert names(spared) == ["snapshot", "delta"]
    monkeypatch.undo()
    hit.connect(world)
    hit.poll()
    assert hit.has == {"shop/checkout": {"n": 2}}


class Faulty(FakeSink):
    """A sink with a defect: from its nth write on it raises; with `stubborn` it cannot even be aborted."""

    def __init__(self, writes: int, *, stubborn: bool = False) -> None:
        super().__init__()
        self.writes = writes
        self.stubborn = stubborn

    def write(self, data: bytes) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise AttributeError
        super().write(data)

    def abort(self) -> None:
        if self.stubborn:
            raise AttributeError
        super().abort()


def attach(world: World, sink: FakeSink, query: str) -> FakeSink:
    reply = world.app(request("/v1/watch", query))
    assert isinstance(reply, Stream)
    sink.feed = reply.open(sink)
    return sink


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_sink_that_raises_costs_its_own_stream_alone(writes: int, stubborn: bool) -> None:
    """In one group with others, and with other groups behind it that are told by the same publication."""
    world = World()
    world.serve("a", {"n": 1})
    world.serve("b", {"n": 1})
    one, two, both = "registry=shop/a", "registry=shop/a&target=t", "registry=shop/a&registry=shop/b"
    clients = []
    faulty = []
    for query in (one, two, both, "registry=shop/b"):
        for place in range(3):
            if place == 1 and query != "registry=shop/b":
                faulty.append(attach(world, Faulty(writes + (query == both), stubborn=stubborn), query))
            clients.append(Client(query, path="/v1/watch"))
            clients[-1].connect(world)
    for number in range(2, 6):
        for name in "ab":
            world.record(("shop", name), number, revision(f"uid-{name}", {"n": number}))
            world.put(("shop", name), f"uid-{name}", status_of(number, number, {"n": number}))
        world.flush()
    for client in clients:
        told: dict[str, list[int]] = {}
        for event in client.poll():
            if event.name == "delta":
                assert event.data["from"] == event.data["to"] - 1
            told.setdefault(event.data["registry"], []).append(event.data.get("to", 1))
        assert all(versions == [1, 2, 3, 4, 5] for versions in told.values()), told
        assert len(told) == client.query.count("registry=")
    assert world.service.watches.streams == len(clients)
    assert [sink.over for sink in faulty] == ["" if stubborn else "aborted"] * 3
    assert sample(world, "configregistry_watch_cut_off_total", reason="defect") == 3
    for sink in faulty:
        assert sink.feed is not None
        sink.feed.resumed()
        sink.feed.drain()
        sink.feed.closed()
    assert world.service.watches.streams == len(clients)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_sink_that_raises_does_not_end_the_beat(stubborn: bool) -> None:
    world, client, slow = World(), Client(), Client()
    world.serve(data={"n": 1})
    for _ in range(20):
        attach(world, Faulty(1, stubborn=stubborn), "registry=shop/checkout")
        client.connect(world)
    slow.connect(world)
    beat(world)
    assert names(client) == ["snapshot", "progress"]
    assert names(slow) == ["snapshot", "progress"]
    assert world.service.watches.streams == 2


def test_a_sink_that_raises_when_it_is_cut_off_and_when_it_opens() -> None:
    world, client = World(), Client()
    world.service.watches._limit = 10
    world.serve(data={"n": 1})
    with pytest.raises(AttributeError):
        attach(world, Faulty(0), "registry=shop/none")
    assert world.service.watches.streams == 0
    faulty = Faulty(1)
    faulty.room = 0
    attach(world, faulty, "registry=shop/checkout")
    client.connect(world)
    assert faulty.pending > 10
    world.serve(data={"n": 2}, version=2, revision_number=2)
    assert faulty.over == "aborted"
    assert names(client) == ["snapshot", "delta"]
    assert world.service.watches.streams == 1


def test_a_connection_that_breaks_takes_its_other_streams_along_and_no_more() -> None:
    """As one of HTTP/2 does, where the streams of a connection share its end."""
    world, client = World(), Client()
    world.serve(data={"n": 1})
    others: list[FakeSink] = []

    class Shared(Faulty):
        def abort(self) -> None:
            super().abort()
            for other in others:
                other.abort()

    attach(world, Shared(1), "registry=shop/checkout")
    others.append(attach(world, FakeSink(), "registry=shop/checkout"))
    others.append(attach(world, FakeSink(), "registry=shop/checkout&attr.region=eu"))
    others.append(attach(world, FakeSink(), "registry=shop/checkout&registry=shop/other"))
    client.connect(world)
    match = {**CANARY, "weight": 0, "match": [{"attribute": "region", "values": ["eu"]}]}
    world.serve(data={"n": 1}, revision_number=2, canary=match, canary_data={"n": 2})
    world.serve(data={"n": 3}, version=3, revision_number=3)
    assert names(client) == ["snapshot", "progress", "delta"]
    assert [sink.over for sink in others] == ["aborted"] * 3
    assert world.service.watches.streams == 1
    client.disconnect()
    assert not world.service.watches._groups._by_key


# What is refused.


def test_a_replica_that_has_just_started_opens_no_stream() -> None:
    reply = Client().connect(World(begun=False))
    assert isinstance(reply, Response)
    assert (reply.status, body(reply)["type"].rpartition("/")[2]) == (503, "NotSynced")
    assert header(reply, "retry-after")


def test_no_more_streams_than_set() -> None:
    world = World()
    world.serve(data={})
    routes = WatchRoutes(world.service.watches, max_streams=1)
    world.app = App(Routes(routes.routes()), Metrics(), lambda: 0.0)
    first, second = Client(), Client()
    assert isinstance(first.connect(world), Stream)
    reply = second.connect(world)
    assert isinstance(reply, Response)
    assert (reply.status, body(reply)["type"].rpartition("/")[2]) == (503, "TooManyStreams")
    first.disconnect()
    assert isinstance(second.connect(world), Stream)


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        (PATH, "version=1", "version"),
        (PATH, "registry=shop/a", "registry"),
        (PATH, f"since={'A' * (MAX_CURSOR + 1)}", "since"),
        (PATH, "since=a&since=b", "since"),
        ("/v1/watch", "", "registry"),
        ("/v1/watch", "registry=a", "registry"),
        ("/v1/watch", "registry=a/", "registry"),
        ("/v1/watch", "registry=/a", "registry"),
        ("/v1/watch", "registry=a/b/c", "registry"),
        ("/v1/watch", "&".join(f"registry=a/{n}" for n in range(101)), "registry"),
    ],
)
def test_bad_parameters_are_named(path: str, query: str, field: str) -> None:
    response = ask(World().app, path, query)
    assert (response.status, body(response)["field"]) == (400, field)


def test_head_opens_no_stream() -> None:
    world = World()
    world.serve(data={})
    response = ask(world.app, PATH, method="HEAD")
    assert (response.status, response.body, header(response, "content-type")) == (200, b"", "text/event-stream")
    assert world.service.watches.streams == 0


def test_each_registry_of_a_stream_has_to_be_allowed() -> None:
    world = World()
    (route,) = [route for route in world.service.routes.all if route.pattern == "/v1/watch"]

    def needs(query: str) -> tuple[Need, ...]:
        return route.needs(Request("GET", "/v1/watch", query, lambda _: None), Place("", "", ()))

    assert needs("registry=a/x&registry=b/y") == (Need("get", "data", "a", "x"), Need("get", "data", "b", "y"))
    with pytest.raises(Problem):
        needs("")


def test_an_event_is_one_line_of_data() -> None:
    world, client = World(), Client()
    world.serve(data={"a": "line\nbreak\r\n\u2028", "b": "\n\n"})
    client.connect(world)
    assert client.sink.taken.count(b"\n") == 4
    assert len(parse(client.sink.taken)) == 1
