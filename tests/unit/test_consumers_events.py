"""Streams of consumers: who joins, changes and leaves, to clients that keep up and to others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.serve_fakes import World, request
from tests.unit.test_consumers_http import CONSUMERS, Served

from configregistry.model.reports import Exchange, Report
from configregistry.serve.consumers.events import HEARTBEAT, MAX_PENDING
from configregistry.serve.responses import Feed, Stream


class Sink:
    """A client's socket."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.pending = 0
        self.stuck = False
        self.over = ""
        self.feed: Feed | None = None

    def write(self, data: bytes) -> None:
        if self.over:
            return
        self.taken.append(data)
        if self.stuck:
            self.pending += len(data)

    def take(self) -> None:
        self.stuck, self.pending = False, 0
        assert self.feed is not None
        self.feed.resumed()

    def end(self) -> None:
        self.over = self.over or "ended"

    def abort(self) -> None:
        self.over = self.over or "aborted"
        self.close()

    def close(self) -> None:
        assert self.feed is not None
        self.feed.closed()

    def events(self) -> list[tuple[str, Any]]:
        """What an EventSource would have made of what came since the last call."""
        blocks = b"".join(self.taken).decode().split("\n\n")
        self.taken.clear()
        found = [dict(line.split(": ", 1) for line in each.splitlines()) for each in blocks if each not in {"", ":"}]
        return [(each["event"], json.loads(each["data"])) for each in found]


@pytest.fixture
def served() -> Served:
    return Served()


def connect(served: Served, sink: Sink | None = None) -> Sink:
    route, place = served.routes.find(request(CONSUMERS))
    reply = route.handle(request(CONSUMERS, headers={"accept": "text/event-stream"}), place)
    assert isinstance(reply, Stream)
    assert (reply.status, dict(reply.headers)["content-type"]) == (200, "text/event-stream")
    sink = sink or Sink()
    sink.feed = reply.open(sink)
    return sink


def ids(snapshot: Any) -> list[str]:
    return [each["id"] for each in snapshot["consumers"]]


def test_who_comes_changes_and_goes(served: Served) -> None:
    served.put("a", ttlSeconds=1000)
    sink = connect(served)
    ((event, snapshot),) = sink.events()
    assert (event, ids(snapshot)) == ("snapshot", ["a"])
    served.put("b", ttlSeconds=10)
    served.put("b", ttlSeconds=10)
    served.put("b", ttlSeconds=10, observed={"version": 7, "status": "ok"})
    served.put("c")
    served.ask("DELETE", "/c")
    served.time.advance(0.0)
    assert len(sink.taken) == 1, "what happens together is written together"
    events = sink.events()
    assert [(event, data["id"]) for event, data in events] == [
        ("joined", "b"),
        ("changed", "b"),
        ("joined", "c"),
        ("left", "c"),
    ]
    assert events[1][1]["observed"] == {"version": 7, "status": "ok", "message": ""}
    assert events[3][1] == {"id": "c", "reason": "Unregistered"}
    served.time.advance(10.2)
    assert sink.events() == [("left", {"id": "b", "reason": "Expired"})]


def test_what_other_replicas_heard_is_told_too(served: Served) -> None:
    sink = connect(served)
    sink.events()
    report = Report("shop", "checkout", "uid-checkout", "theirs", "there", 30.0, 1.0, 1.0)
    served.consumers.exchange(Exchange([report]))
    served.consumers.exchange(Exchange([report]))
    served.consumers.exchange(Exchange([]))
    served.time.advance(0.0)
    assert [event for event, _ in sink.events()] == ["joined", "left"]


def test_a_stream_that_begins_between_a_change_and_its_event_is_told_once(served: Served) -> None:
    first = connect(served)
    served.put("a")
    second = connect(served)
    served.time.advance(0.0)
    assert [event for event, _ in first.events()] == ["snapshot", "joined"]
    ((_, snapshot),) = second.events()
    assert ids(snapshot) == ["a"]


def test_a_registry_that_is_replaced_and_then_deleted(served: Served) -> None:
    served.put("a")
    sink = connect(served)
    served.world.serve(data={"a": 2}, uid="another", version=1, revision_number=1)
    assert [(event, ids(data)) for event, data in sink.events()] == [("snapshot", ["a"]), ("snapshot", [])]
    served.put("b")
    served.world.drop(("shop", "checkout"))
    served.world.flush()
    assert [event for event, _ in sink.events()] == ["joined", "deleted"]
    assert sink.over == "ended"
    sink.close()
    assert len(served.room.streams) == 0


def test_a_client_that_does_not_keep_up_is_told_nothing_and_then_everything(served: Served) -> None:
    sink = connect(served)
    sink.stuck = True
    for number in range(400):
        served.put(f"c{number:03}", labels={f"a{part}": "x" * 63 for part in range(31)})
        served.time.advance(0.0)
    assert sink.pending <= MAX_PENDING + 3000
    told = len(sink.events())
    assert 100 < told < 200
    served.put("c000", observed={"version": 7, "status": "ok"})
    served.time.advance(0.0)
    assert sink.events() == []
    sink.take()
    ((event, snapshot),) = sink.events()
    assert (event, len(snapshot["consumers"])) == ("snapshot", 400)
    served.put("c000", labels={"b": ""}, observed=None)
    served.time.advance(0.0)
    assert [event for event, _ in sink.events()] == ["changed"]


def test_a_client_that_takes_nothing_is_cut_off(served: Served) -> None:
    stuck, fine = connect(served), connect(served)
    stuck.stuck = True
    served.put("a", ttlSeconds=1000)
    served.time.advance(HEARTBEAT + 1)
    assert (stuck.over, fine.over) == ("", "")
    served.time.advance(HEARTBEAT)
    assert (stuck.over, fine.over) == ("aborted", "")
    assert fine.taken.count(b":\n\n") == 2
    assert len(served.room.streams) == 1


class Faulty(Sink):
    """A sink with a defect: from its nth write on it raises; with `stubborn` it cannot even be aborted."""

    def __init__(self, writes: int, *, stubborn: bool) -> None:
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
        self.over = "aborted"


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("writes", range(6))
def test_a_sink_that_raises_costs_its_own_stream_alone(served: Served, writes: int, stubborn: bool) -> None:
    """Whether it opens, is told of somebody or of a heartbeat, of another registry of this name or of its end."""
    fine, faulty = [], []
    for _ in range(3):
        faulty.append(connect(served, Faulty(writes, stubborn=stubborn)))
        fine.append(connect(served))
    for name in "ab":
        served.put(name, ttlSeconds=1000)
        served.time.advance(0.0)
    served.time.advance(HEARTBEAT + 1)
    served.world.serve(data={"a": 2}, uid="another", version=1, revision_number=1)
    last = connect(served)
    if writes < 5:
        assert len(served.room.streams) == 4
    served.world.drop(("shop", "checkout"))
    served.world.flush()
    for sink in fine:
        assert sink.taken.count(b":\n\n") == 1
        assert [event for event, _ in sink.events()] == ["snapshot", "joined", "joined", "snapshot", "deleted"]
        assert sink.over == "ended"
    assert [event for event, _ in last.events()] == ["snapshot", "deleted"]
    assert [sink.over for sink in faulty] == ["" if stubborn else "aborted"] * 3
    for sink in [*fine, *faulty, last]:
        assert sink.feed is not None
        sink.feed.resumed()
        sink.close()
    assert len(served.room.streams) == 0


def test_who_comes_back_to_a_snapshot_is_not_told_again_of_what_it_has(served: Served) -> None:
    sink, other = connect(served), connect(served)
    served.put("soon", ttlSeconds=10)
    sink.stuck = True
    number = 0
    while sink.pending <= MAX_PENDING:
        served.put(f"c{number:03}", labels={f"a{part}": "x" * 63 for part in range(31)}, ttlSeconds=1000)
        served.time.advance(0.0)
        number += 1
    served.put("unheard", ttlSeconds=1000)
    served.time.advance(0.0)
    sink.events()
    served.put("late", ttlSeconds=1000)
    served.ask("DELETE", "/c000")
    sink.take()
    served.time.advance(0.0)
    ((event, snapshot),) = sink.events()
    assert event == "snapshot"
    assert "late" in ids(snapshot)
    assert "c000" not in ids(snapshot)
    told = [data["id"] for event, data in other.events() if event == "left"]
    assert told == ["c000"]


def test_nothing_stays_of_streams_that_ended(served: Served) -> None:
    sinks = [connect(served) for _ in range(3)]
    assert len(served.room.streams) == 3
    for sink in sinks:
        assert sink.feed is not None
        sink.feed.drain()
        assert sink.over == "ended"
        sink.close()
    assert len(served.room.streams) == 0
    served.put("a")
    assert [len(roster.listeners) for roster in served.consumers._rosters.values()] == [0]
    served.time.advance(60.0)
    assert not served.time.timers


async def test_it_is_wired() -> None:
    """In a program: the service's own room, whose timers are the event loop's."""
    world = World()
    world.serve(data={"a": 1})
    made = request(f"{CONSUMERS}/a", method="PUT", content=b'{"ttlSeconds": 30}')
    reply: Any = world.app(made)
    assert reply.status == 201
    world.serve(data={"a": 1}, uid="another")
    assert json.loads(world.get(CONSUMERS).body)["consumers"] == []
