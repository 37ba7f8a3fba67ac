"""Consumers over HTTP: what is answered to good and to bad requests, and to the leader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_fakes import World, body, header, request
from tests.unit.test_consumers_known import Time

from configregistry.model.reads import Read
from configregistry.model.reports import (
    EXCHANGE_PATH,
    NEWS_PATH,
    Exchange,
    Gone,
    Observed,
    ReplicaReports,
    Report,
)
from configregistry.serve.app import App
from configregistry.serve.consumers import Consumers, Room
from configregistry.serve.consumers import news as news_module
from configregistry.serve.consumers import room as room_module
from configregistry.serve.consumers.heartbeat import owner, read_heartbeat
from configregistry.serve.responses import Problem, Response
from configregistry.serve.routes import Need, Place, Routes

CONSUMERS = "/v1/namespaces/shop/registries/checkout/consumers"
Json = dict[str, Any]


class Served:
    """A registry, its consumers, in time that the test moves."""

    def __init__(self) -> None:
        self.time = Time()
        self.world = World()
        self.world.serve(data={"a": 1}, version=7, revision_number=31)
        self.consumers = Consumers(self.world.hydrator.snapshot, self.time, replica="here", later=self.time.later)
        self.world.hydrator.subscribe(self.consumers.published)
        self.room = Room(self.consumers, self.world.service.views)
        self.routes = Routes(self.room.routes())
        self.app = App(self.routes, self.world.metrics, lambda: 0.0)

    def ask(
        self, method: str, path: str = "", said: Any = None, query: str = "", user: str = "", **headers: str
    ) -> Response:
        content = said if isinstance(said, bytes) else b"" if said is None else msgspec.json.encode(said)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        made = request(CONSUMERS + path, query, method=method, headers=names, content=content, user=user)
        route, place = self.routes.find(made)
        try:
            reply = route.handle(made, place)
        except Problem as problem:
            reply = problem.to(made)
        assert isinstance(reply, Response)
        return reply

    def put(self, name: str, user: str = "", **said: Any) -> Response:
        return self.ask("PUT", f"/{name}", {"ttlSeconds": 30, **said}, user=user)

    async def exchange(self, content: bytes, **headers: str) -> Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = self.app(request(EXCHANGE_PATH, method="POST", headers=names, content=content))
        assert isinstance(reply, Awaitable)
        found = await reply
        assert isinstance(found, Response)
        return found


@pytest.fixture
def served() -> Served:
    return Served()


def test_register_heartbeat_read_unregister(served: Served) -> None:
    observed = {"version": 7, "status": "error", "message": "boom"}
    first = served.put("pod-1", labels={"zone": "eu", "app": "x"}, observed=observed)
    assert first.status == 201
    said = {"id": "pod-1", "ttlSeconds": 30, "labels": {"app": "x", "zone": "eu"}, "observed": observed}
    assert body(first) == {**said, "ageSeconds": 0, "registeredAgeSeconds": 0, "observedAgeSeconds": 0}
    assert (header(first, "x-configregistry-version"), header(first, "x-configregistry-revision")) == ("7", "31")
    served.time.advance(1.5)
    again = served.put("pod-1", labels={"zone": "eu", "app": "x"})
    assert again.status == 200
    served.time.advance(0.25)
    found = served.ask("GET", "/pod-1")
    assert body(found) == {**said, "ageSeconds": 0.25, "registeredAgeSeconds": 1.75, "observedAgeSeconds": 1.75}
    assert body(served.ask("GET")) == {
        "namespace": "shop",
        "registry": "checkout",
        "listAgeSeconds": None,
        "consumers": [body(found)],
    }
    assert served.ask("DELETE", "/pod-1").status == 204
    assert served.ask("DELETE", "/pod-1").status == 204, "another replica may know it"
    gone = served.ask("GET", "/pod-1")
    assert (gone.status, body(gone)["type"].rsplit("/", 1)[1]) == (404, "ConsumerNotFound")
    assert served.put("pod-1").status == 201


def test_the_list_is_ordered_and_its_etag_does_not_cover_ages(served: Served) -> None:
    for name in ("b", "a/x", "c", "B"):
        served.put(name, observed=None)
    first = served.ask("GET")
    assert [each["id"] for each in body(first)["consumers"]] == ["B", "a/x", "b", "c"]
    etag = header(first, "etag")
    assert etag.startswith('W/"')
    served.time.advance(2.0)
    served.put("b")
    second = served.ask("GET")
    assert header(second, "etag") == etag
    assert [each["ageSeconds"] for each in body(second)["consumers"]] == [2, 2, 0, 2]
    unchanged = served.ask("GET", if_none_match=f'"other", {etag}')
    assert (unchanged.status, unchanged.body, header(unchanged, "etag")) == (304, b"", etag)
    assert served.ask("GET", if_none_match="*").status == 304
    served.put("b", observed={"version": 7, "status": "ok"})
    changed = served.ask("GET", if_none_match=etag)
    assert changed.status == 200
    assert header(changed, "etag") != etag
    one = served.ask("GET", "/b")
    assert served.ask("GET", "/b", if_none_match=header(one, "etag")).status == 304
    served.put("b", observed=None)
    assert header(served.ask("GET"), "etag") == etag, "the same in every replica, whatever happened before"


def test_the_owner_is_the_user_or_else_the_instance(served: Served) -> None:
    assert served.put("a", user="system:serviceaccount:shop:x", instance="i").status == 201
    assert served.put("a", user="system:serviceaccount:shop:x", instance="j").status == 200
    refused = served.put("a", instance="i")
    assert (refused.status, body(refused)["type"].rsplit("/", 1)[1]) == (409, "DuplicateID")
    assert served.put("b", instance="i").status == 201
    assert [served.put("b", instance="j").status, served.put("b").status] == [409, 409]
    assert served.ask("DELETE", "/b").status == 409
    assert served.ask("DELETE", "/b", query="instance=j").status == 409
    assert served.ask("DELETE", "/b", query="instance=i").status == 204
    assert b"serviceaccount" not in served.ask("GET").body
    assert "secret" not in owner("", "secret")
    assert owner("u", "") != owner("", "u") != owner("", "")


@pytest.mark.parametrize("ttl", [0, -1, 86401, "30", None, True, [], 1e300])
def test_a_ttl_that_is_none(served: Served, ttl: Any) -> None:
    refused = served.put("a", ttlSeconds=ttl)
    assert refused.status == 400
    assert body(refused)["type"].endswith("/InvalidTTL")
    assert body(refused)["field"] == "ttlSeconds"


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"labels": []}, "labels"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {f"a{number}": "" for number in range(33)}}, "labels"),
        ({"labels": {"a": "x" * 64}}, "labels.a"),
        ({"labels": {f"{number:063d}": "x" * 63 for number in range(17)}}, "labels"),
        ({"observed": 7}, "observed"),
        ({"observed": {"version": 7}}, "observed.status"),
        ({"observed": {"version": 7, "status": "OK"}}, "observed.status"),
        ({"observed": {"version": 7, "status": []}}, "observed.status"),
        ({"observed": {"status": "ok"}}, "observed.version"),
        ({"observed": {"version": 0, "status": "ok"}}, "observed.version"),
        ({"observed": {"version": True, "status": "ok"}}, "observed.version"),
        ({"observed": {"version": 7.5, "status": "ok"}}, "observed.version"),
        ({"observed": {"version": 7, "status": "ok", "message": "x" * 1025}}, "observed.message"),
        ({"observed": {"version": 7, "status": "ok", "extra": 1}}, "observed.extra"),
        ({"instance": 7}, "instance"),
        ({"ttl": 30}, "ttl"),
    ],
)
def test_bad_fields_are_named(served: Served, said: Json, field: str) -> None:
    refused = served.put("a", **said)
    assert refused.status == 400
    assert body(refused)["type"].endswith("/InvalidParameter")
    assert body(refused)["field"] == field
    assert served.ask("GET", "/a").status == 404


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b"7", b"\xff", b'{"ttlSeconds":30', b"[" * 60_000])
def test_bad_bodies(served: Served, said: bytes) -> None:
    refused = served.ask("PUT", "/a", said)
    assert (refused.status, body(refused)["field"]) == (400, "body")


@pytest.mark.parametrize("name", ["a b", "a" * 254, "-", "a/", "ä", "a%2Fb"])
def test_bad_ids(served: Served, name: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        refused = served.ask(method, f"/{name}", {"ttlSeconds": 30})
        assert (refused.status, body(refused)["field"]) == (400, "id")


def test_parameters_that_are_unknown(served: Served) -> None:
    for method, path in (("GET", ""), ("GET", "/a"), ("PUT", "/a"), ("DELETE", "/a")):
        refused = served.ask(method, path, {"ttlSeconds": 30}, "wait=1s")
        assert (refused.status, body(refused)["field"]) == (400, "wait")


FIELDS = ["ttlSeconds", "labels", "observed", "instance", "version", "status", "message", "x"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.sampled_from([7, "ok"]),
        lambda each: st.lists(each) | st.dictionaries(st.sampled_from(FIELDS), each),
    )
)
def test_whatever_is_said_is_read_or_refused(said: Any) -> None:
    try:
        read_heartbeat(msgspec.json.encode(said))
    except Problem as problem:
        refused = (problem.status, bool(problem.field))
        assert refused == (400, True)


def test_a_registry_that_is_not_there(served: Served) -> None:
    served.put("a")
    served.world.drop(("shop", "checkout"))
    served.world.flush()
    for method in ("GET", "PUT", "DELETE"):
        path = "" if method == "GET" else "/a"
        assert served.ask(method, path, {"ttlSeconds": 30}).status == 404
    served.world.serve(data={"a": 1}, uid="another")
    assert body(served.ask("GET"))["consumers"] == []
    starting = World(begun=False)
    room = Room(Consumers(starting.hydrator.snapshot, Time()), starting.service.views)
    with pytest.raises(Problem) as caught:
        Routes(room.routes()).find(request(CONSUMERS))[0].handle(request(CONSUMERS), Place("shop", "checkout", ()))
    assert (caught.value.status, caught.value.name) == (503, "NotSynced")


def test_what_a_client_needs(served: Served) -> None:
    def needs(method: str, path: str) -> tuple[Need, ...]:
        made = request(path, method=method)
        route, place = served.routes.find(made)
        return route.needs(made, place)

    assert (
        needs("GET", CONSUMERS) == needs("GET", CONSUMERS + "/a/b") == (Need("get", "consumers", "shop", "checkout"),)
    )
    for method in ("PUT", "DELETE"):
        assert needs(method, CONSUMERS + "/a") == (Need("update", "consumers", "shop", "checkout"),)
    exchange = (Need("update", "consumers-exchange", "", ""),)
    assert needs("POST", EXCHANGE_PATH) == needs("GET", NEWS_PATH) == exchange


# The leader's exchange.


def report(name: str, age: float = 1.0, **rest: Any) -> Report:
    uid = rest.pop("uid", "uid-checkout")
    return Report("shop", "checkout", uid, name, rest.pop("replica", "there"), 30.0, age, 5.0, **rest)


async def test_the_leader_gives_its_list_and_gets_what_was_heard_here(served: Served) -> None:
    served.put("mine", labels={"a": "b"}, observed={"version": 7, "status": "ok"}, instance="i")
    served.put("left")
    served.ask("DELETE", "/left")
    served.time.advance(1.0)
    given = Exchange([report("theirs"), report("mine", 3.0), report("old", uid="former")], [], 0.5)
    answer = await served.exchange(msgspec.json.encode(given))
    assert answer.status == 200
    told = msgspec.json.decode(answer.body, type=ReplicaReports)
    assert told == ReplicaReports(
        "here",
        [
            Report(
                "shop", "checkout", "uid-checkout", "mine", "here", 30.0, 1.0, 1.0,
                owner("", "i"), {"a": "b"}, Observed(7, "ok"), 1.0,
            )
        ],
        [Gone("shop", "checkout", "uid-checkout", "left", "here", 1.0, 30.0)],
        news=0,
    )  # fmt: skip
    listed = body(served.ask("GET"))
    assert [(each["id"], each["ageSeconds"]) for each in listed["consumers"]] == [("mine", 1.0), ("theirs", 1.5)]
    assert listed["listAgeSeconds"] == 0.5
    # A new leader, which has no list, is told of the former one's as well.
    told = msgspec.json.decode((await served.exchange(b"{}")).body, type=ReplicaReports)
    assert [(each.id, each.replica, each.age) for each in told.heard] == [("theirs", "there", 1.5)]
    assert len(body(served.ask("GET"))["consumers"]) == 2
    gone = Exchange([], [Gone("shop", "checkout", "uid-checkout", "mine", "there", 0.1, 30.0)], 0.0)
    told = served.consumers.exchange(gone)
    assert told.consumers == told.heard == []
    assert body(served.ask("GET"))["consumers"] == []


async def test_a_long_list_comes_packed_and_is_taken_in_slices(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "SLICE", 3)
    given = Exchange([report(f"c{number:03}") for number in range(100)], [], 0.0)
    packed = zstandard.compress(msgspec.json.encode(given))
    answer = await served.exchange(packed, content_encoding="zstd")
    assert answer.status == 200
    assert len(body(served.ask("GET"))["consumers"]) == 100
    streamed = zstandard.ZstdCompressor().compressobj()
    packed = streamed.compress(msgspec.json.encode(Exchange([report("c")]))) + streamed.flush()
    assert (await served.exchange(packed, content_encoding="zstd")).status == 200, "its size is not in its head"
    assert len(body(served.ask("GET"))["consumers"]) == 1


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b'{"merged":[{}]}', {}),
        (b'{"merged":[],"gone":[7]}', {}),
        (b'{"merged":7}', {}),
        (b"[" * 60_000, {}),
        (b"{}", {"content_encoding": "zstd"}),
        (b"{}", {"content_encoding": "gzip"}),
        (zstandard.compress(b'{"x":"' + b"x" * 2000 + b'"}'), {"content_encoding": "zstd"}),
    ],
)
async def test_what_is_no_list_is_refused(
    served: Served, content: bytes, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_module, "MAX_EXCHANGE", 1000)
    served.consumers.exchange(Exchange([report("theirs")]))
    assert (await served.exchange(content, **headers)).status == 400
    assert len(body(served.ask("GET"))["consumers"]) == 1


async def test_a_leader_that_wants_all_reads_is_given_all(served: Served) -> None:
    asked: list[bool] = []

    def reads(every: bool) -> list[Read]:
        asked.append(every)
        return [Read("shop", "checkout", "uid-checkout", 1.5)]

    served.consumers._reads = reads
    for exchange in (Exchange(), Exchange([]), Exchange([], reads=True)):
        answer = await served.exchange(msgspec.json.encode(exchange))
    told = msgspec.json.decode(answer.body, type=ReplicaReports)
    assert told.reads == [Read("shop", "checkout", "uid-checkout", 1.5)]
    assert asked == [True, False, True], "one without a list is new"


# News for the leader.


class Waiting:
    """A leader that waits for news."""

    def __init__(self, served: Served, known: int | str = 0, *, replica: str = "here", seconds: str = "2") -> None:
        query = f"replica={replica}&known={known}&seconds={seconds}"
        reply = served.app(request(NEWS_PATH, query))
        assert isinstance(reply, Awaitable)
        self.task = asyncio.ensure_future(reply)

    async def held(self) -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        return not self.task.done()

    async def told(self) -> Any:
        async with asyncio.timeout(60):
            reply = await self.task
        assert isinstance(reply, Response)
        assert reply.status == 200, reply.body
        return body(reply)


BROKEN = {"version": 7, "status": "error"}


async def test_a_new_error_is_told_at_once_and_nothing_else_is(served: Served) -> None:
    waiting = Waiting(served)
    served.put("a", observed={"version": 7, "status": "ok"})
    served.put("b")
    assert await waiting.held()
    served.put("a", observed=BROKEN)
    assert await waiting.told() == {"replica": "here", "news": 1}
    waiting = Waiting(served, 1)
    served.put("a", observed=BROKEN)
    served.put("a")
    served.put("a", observed={"version": 7, "status": "ok"})
    assert await waiting.held(), "it said so before"
    served.put("a", observed=BROKEN)
    assert (await waiting.told())["news"] == 2
    waiting = Waiting(served, 2)
    served.put("a", observed={"version": 8, "status": "error"})
    assert (await waiting.told())["news"] == 3, "of another version"
    told = served.consumers.exchange(Exchange())
    assert told.news == 3


async def test_what_came_before_the_waiting_is_not_missed(served: Served) -> None:
    served.put("a", observed=BROKEN)
    assert (await Waiting(served, 0).told())["news"] == 1
    assert (await Waiting(served, 1, replica="former").told()) == {"replica": "here", "news": 1}


async def test_an_error_that_another_replica_told_of_is_no_news_here(served: Served) -> None:
    waiting = Waiting(served)
    broken = report("theirs", observed=Observed(7, "error"), observed_age=1.0)
    await served.exchange(msgspec.json.encode(Exchange([broken])))
    served.put("theirs", observed=BROKEN)
    assert await waiting.held()
    waiting.task.cancel()


async def test_nobody_is_held_for_longer_than_was_asked_for(served: Served) -> None:
    waiting = Waiting(served, seconds="1.5")
    assert await waiting.held()
    served.time.advance(1.4)
    assert await waiting.held()
    served.time.advance(0.2)
    assert (await waiting.told())["news"] == 0


async def test_who_gives_up_is_forgotten_and_the_end_holds_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "MAX_WAITING", 2)
    first, second = Waiting(served), Waiting(served)
    assert await first.held()
    assert await second.held()
    assert (await Waiting(served).told())["news"] == 0, "so many are not held"
    first.task.cancel()
    third = Waiting(served)
    assert await third.held()
    served.consumers.news.drain()
    assert [(await each.told())["news"] for each in (second, third, Waiting(served))] == [0, 0, 0]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "known=1",
        "seconds=1",
        "known=-1&seconds=1",
        "known=x&seconds=1",
        "known=nan&seconds=1",
        "known=1&seconds=11",
        "known=1&seconds=1&more=1",
    ],
)
async def test_who_waits_says_for_what_and_how_long(served: Served, query: str) -> None:
    reply = served.app(request(NEWS_PATH, query))
    assert isinstance(reply, Awaitable)
    found = await reply
    assert isinstance(found, Response)
    assert found.status == 400
