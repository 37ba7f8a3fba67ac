"""OFREP's event streams without sockets: who is told, how often, and what a replica behind does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from tests.serve_fakes import World, body, header, request, revision, status_of
from tests.servers.virtual import VirtualTime

from configregistry.serve.app import App
from configregistry.serve.ofrep import Events, Ofrep
from configregistry.serve.ofrep.events import AT_ONCE, HEARTBEAT
from configregistry.serve.responses import Feed, Response, Stream
from configregistry.serve.routes import Routes
from configregistry.serve.waits import Waits

KEY = ("shop", "checkout")
ONE = "/v1/namespaces/shop/registries/checkout"
COMMENT = b":\n\n"


class FakeSink:
    """A client that takes everything, or nothing while `stuck`."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.buffered: list[bytes] = []
        self.stuck = False
        self.over = ""
        self.feed: Feed | None = None

    @property
    def pending(self) -> int:
        return sum(map(len, self.buffered))

    def write(self, data: bytes) -> None:
        if not self.over:
            (self.buffered if self.stuck else self.taken).append(data)

    def take(self) -> None:
        """Take all that waits, and go on."""
        self.stuck = False
        waited, self.buffered = self.buffered, []
        self.taken += waited
        if waited and self.feed is not None:
            self.feed.resumed()

    def end(self) -> None:
        self._close("ended")

    def abort(self) -> None:
        self.buffered.clear()
        self._close("aborted")

    def _close(self, how: str) -> None:
        if not self.over:
            self.over = how
            asyncio.get_running_loop().call_soon(self.feed.closed if self.feed else lambda: None)

    def events(self) -> list[dict[str, str]]:
        """What an EventSource would have made of it so far."""
        found = []
        for block in b"".join(self.taken).decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                found.append(fields)
        return found

    def comments(self) -> int:
        return self.taken.count(COMMENT)


class Room:
    """A world whose event streams run in time that the test moves."""

    def __init__(self, *, impatient: bool = False) -> None:
        self.time = VirtualTime()
        self.world = World()
        service = self.world.service
        self.events = Events(self.world.hydrator, service.interests, self.world.metrics, sleep=self.time.sleep)
        waits = Waits(
            self.world.hydrator,
            service.interests,
            later=(lambda _, call: asyncio.get_running_loop().call_later(0, call)) if impatient else None,
        )
        ofrep = Ofrep(service.views, service.cache, waits, self.events)
        self.app = App(Routes(ofrep.routes()), self.world.metrics, lambda: 0.0)
        self.revision = 0

    def connect(self, path: str = ONE, last: str | None = None, sink: FakeSink | None = None) -> FakeSink:
        headers = {} if last is None else {"last-event-id": last}
        reply = self.app(request(f"{path}/ofrep/v1/events", headers=headers))
        assert isinstance(reply, Stream), reply
        assert reply.status == 200
        assert ("content-type", "text/event-stream") in reply.headers
        sink = sink or FakeSink()
        sink.feed = reply.open(sink)
        return sink

    def change(self, name: str = "checkout", fallback: str | None = None) -> None:
        self.revision += 1
        self.world.serve(
            name, {"a": self.revision}, version=self.revision, revision_number=self.revision, fallback=fallback
        )

    async def bulk(self, told: str = "", path: str = ONE) -> Response:
        query = f"flagConfigEtag={told}" if told else ""
        reply = self.app(request(f"{path}/ofrep/v1/evaluate/flags", query, method="POST", content=b"{}"))
        found = await reply if isinstance(reply, Awaitable) else reply
        assert isinstance(found, Response)
        return found


def counted(room: Room, name: str, **labels: str) -> float | None:
    return room.world.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def room() -> Room:
    made = Room()
    made.change()
    return made


async def test_a_new_stream_is_told_at_once_and_then_of_each_change(room: Room) -> None:
    sink = room.connect()
    assert len(sink.events()) == 1, "what changed between evaluating and connecting would be missed"
    room.change()
    room.change()
    events = sink.events()
    assert len({event["id"] for event in events}) == len(events) == 3
    for event in events:
        assert set(event) == {"id", "data"}
        assert json.loads(event["data"]) == {"type": "refetchEvaluation", "etag": event["id"]}


async def test_a_stream_that_comes_back_is_told_only_of_what_it_missed(room: Room) -> None:
    last = room.connect().events()[-1]["id"]
    back = room.connect(last=last)
    assert back.events() == []
    assert back.taken == [COMMENT], "a proxy would keep the head to itself"
    room.change()
    assert len(back.events()) == 1
    assert len(room.connect(last=last).events()) == 1
    assert len(room.connect(last="nonsense").events()) == 1


async def test_changes_of_fallbacks_count_and_others_do_not() -> None:
    room = Room()
    room.change("base")
    room.change("other")
    room.change(fallback="base")
    sink = room.connect()
    room.change("other")
    assert len(sink.events()) == 1
    room.change("base")
    assert len(sink.events()) == 2
    room.change(fallback="other")
    assert len(sink.events()) == 3
    room.change("base")
    assert len(sink.events()) == 3
    room.change("other")
    assert len(sink.events()) == 4


async def test_a_fallback_and_a_registry_that_do_not_exist_yet() -> None:
    room = Room()
    sink = room.connect()
    assert len(sink.events()) == 1
    room.change(fallback="base")
    assert len(sink.events()) == 2
    room.change("base")
    assert len(sink.events()) == 3
    room.world.drop(KEY)
    room.world.flush()
    assert len(sink.events()) == 4
    assert sink.over == ""


async def test_a_publication_that_changes_nothing_for_consumers_is_not_told(room: Room) -> None:
    sink = room.connect()
    room.world.record(KEY, 9, revision("uid-checkout", {"z": 1}))
    room.world.flush()
    room.world.put(KEY, "uid-checkout", status_of(room.revision, room.revision, {"a": room.revision}))
    room.world.flush()
    assert len(sink.events()) == 1


async def test_a_candidate_that_is_dropped_before_its_successor_is_here_is_told(room: Room) -> None:
    """The revision is the former one then, but what consumers get is another thing."""
    data = {"a": 1}
    room.world.serve(data=data, version=1, revision_number=5, canary={"version": 2, "weight": 50}, canary_data={"a": 2})
    sink = room.connect()
    room.world.put(KEY, "uid-checkout", status_of(6, 3, {"a": 3}))
    room.world.flush()
    assert room.world.published(*KEY).canary is None
    assert room.world.published(*KEY).revision == 5
    assert len(sink.events()) == 2


async def test_a_slow_client_gets_one_notice_however_much_happened(room: Room) -> None:
    sink = room.connect()
    sink.stuck = True
    for _ in range(10):
        room.change()
    assert len(sink.buffered) == 1
    sink.take()
    assert len(sink.events()) == 3, "the one that was under way, and one of the last state"
    assert sink.events()[-1] == room.connect().events()[-1]
    sink.stuck = True
    await room.time.advance(HEARTBEAT)
    sink.take()
    assert sink.comments() == 2
    assert len(sink.events()) == 3, "a heartbeat that was slow is no news"


async def test_heartbeats(room: Room) -> None:
    sink = room.connect()
    before = sink.comments()
    await room.time.advance(3 * HEARTBEAT)
    assert sink.comments() == before + 3
    assert len(sink.events()) == 1


async def test_a_client_that_takes_nothing_is_cut_off(room: Room) -> None:
    stuck, slow, fine = room.connect(), room.connect(), room.connect()
    stuck.stuck = slow.stuck = True
    room.change()
    await room.time.advance(HEARTBEAT)
    assert (stuck.over, slow.over, fine.over) == ("", "", "")
    slow.take()
    slow.stuck = True
    room.change()
    await room.time.advance(HEARTBEAT)
    assert (stuck.over, slow.over, fine.over) == ("aborted", "", "")
    assert len(room.events) == counted(room, "configregistry_watchers") == 2
    assert counted(room, "configregistry_watch_cut_off_total", reason="slow-reader") == 1


async def test_draining_ends_every_stream_and_nothing_stays(room: Room) -> None:
    sinks = [room.connect() for _ in range(3)]
    assert len(room.events) == 3
    for sink in sinks:
        assert sink.feed is not None
        sink.feed.drain()
    await asyncio.sleep(0)
    assert [sink.over for sink in sinks] == ["ended"] * 3
    assert len(room.events) == counted(room, "configregistry_watchers") == 0
    assert not room.world.service.interests._by_key
    room.change()
    assert len(sinks[0].events()) == 1
    await room.time.advance(HEARTBEAT)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ofrep")]
    sink = room.connect()
    assert len(sink.events()) == 1
    room.change()
    assert len(sink.events()) == 2


async def test_reads_go_on_while_many_streams_are_told(room: Room) -> None:
    sinks = [room.connect() for _ in range(3 * AT_ONCE)]
    room.change()
    told = sum(len(sink.events()) == 2 for sink in sinks)
    assert told == AT_ONCE
    sinks[-1].abort()
    room.change()
    await room.time.advance()
    newest = sinks[0].events()[-1]
    assert all(sink.events()[-1] == newest for sink in sinks[:-1])
    assert len(sinks[-1].events()) == 1


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


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("writes", range(6))
async def test_a_sink_that_raises_costs_its_own_stream_alone(room: Room, writes: int, stubborn: bool) -> None:
    """Whether it is told first, in the middle or in a later turn, by a notice or by a heartbeat."""
    fine, faulty = [], []
    for place in range(AT_ONCE + 40):
        if place % 50 == 0:
            faulty.append(room.connect(sink=Faulty(writes, stubborn=stubborn)))
        fine.append(room.connect())
    for _ in range(2):
        room.change()
        await room.time.advance(HEARTBEAT)
    room.change()
    await room.time.advance()
    assert {len(sink.events()) for sink in fine} == {4}
    assert {sink.comments() for sink in fine} == {3}
    assert {sink.over for sink in faulty} == {"" if stubborn else "aborted"}
    assert len(room.events) == counted(room, "configregistry_watchers") == len(fine)
    assert counted(room, "configregistry_watch_cut_off_total", reason="defect") == len(faulty)
    for sink in [*fine, *faulty]:
        assert sink.feed is not None
        sink.feed.resumed()
        sink.feed.closed()
    assert len(room.events) == counted(room, "configregistry_watchers") == 0


async def test_a_name_cannot_write_into_the_stream() -> None:
    """Rooms do not count on what the table of routes lets through."""
    events = Room().events
    for name in ("x\ndata: evil\n\n", "x\r\revent: evil", "x\0", "x\u2028\udc80", "x,y:z"):
        sink = FakeSink()
        sink.feed = events.stream("shop", name, None).open(sink)
        (event,) = sink.events()
        assert set(event) == {"id", "data"}
        assert json.loads(event["data"])["etag"] == event["id"]
        assert not set("\r\n\0,:").intersection(event["id"])
        again = FakeSink()
        again.feed = events.stream("shop", name, event["id"]).open(again)
        assert again.events() == []
        for each in (sink, again):
            each.abort()
    await asyncio.sleep(0)


# A replica that is behind.


async def test_a_replica_behind_waits_until_it_has_what_another_told() -> None:
    ahead, here = Room(), Room()
    for room in (ahead, here):
        room.change("base")
        room.change(fallback="base")
    told = [ahead.connect().events()[-1]["id"]]
    ahead.change("base")
    told.append(ahead.connect().events()[-1]["id"])
    assert (await here.bulk(told[0])).status == 200
    waiting = asyncio.create_task(here.bulk(told[1]))
    await asyncio.sleep(0)
    here.change(fallback="base")
    await asyncio.sleep(0)
    assert not waiting.done()
    here.revision = ahead.revision - 1
    here.change("base")
    response = await waiting
    assert response.status == 200
    assert not here.world.service.interests._by_key


async def test_a_replica_that_stays_behind_says_so() -> None:
    ahead, here = Room(), Room(impatient=True)
    for room in (ahead, here):
        room.change()
    ahead.change()
    response = await here.bulk(ahead.connect().events()[-1]["id"])
    assert response.status == 503
    assert body(response)["type"].endswith("/BehindRevision")
    assert header(response, "retry-after")
    assert not here.world.service.interests._by_key


@pytest.mark.parametrize(
    "told",
    [
        "nonsense",
        "checkout",
        "checkout:another-uid:99:1:0",
        "unrelated:uid-unrelated:99:1:0",
        "checkout:uid-checkout:-1:1:0",
        "checkout:uid-checkout:%C2%B2:1:0",
        "checkout:uid-checkout:99999999999999999999:1:0",
        "checkout:uid-checkout:1:1:0",
        ",:,::::",
        "x" * 5000,
    ],
)
async def test_what_is_no_later_state_of_this_registry_is_not_waited_for(told: Any) -> None:
    room = Room(impatient=True)
    room.change()
    room.change("unrelated")
    assert (await room.bulk(told)).status == 200


async def test_a_client_that_shows_a_revision_is_never_given_an_older_one() -> None:
    room = Room(impatient=True)
    room.change()
    for path in (
        "/v1/namespaces/shop/registries/checkout/ofrep/v1/evaluate/flags",
        "/ofrep/v1/evaluate/flags/shop/checkout",
    ):
        for flag in ("", "/a"):
            for revision_shown, status in (("1", 200), ("2", 503)):
                headers = {"x-configregistry-revision": revision_shown}
                if path.startswith("/ofrep") and not flag:
                    continue
                reply = room.app(request(path + flag, method="POST", headers=headers, content=b"{}"))
                found = await reply if isinstance(reply, Awaitable) else reply
                assert found.status == status


async def test_the_stream_takes_no_parameters(room: Room) -> None:
    reply = room.app(request(f"{ONE}/ofrep/v1/events", "version=1"))
    assert isinstance(reply, Response)
    assert reply.status == 400
    assert body(reply)["field"] == "version"
