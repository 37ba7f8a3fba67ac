"""Who reads what: noted by a replica, stored by the day, and never taken back. Time is the test's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.serve_fakes import World, request
from tests.watch_clients import FakeSink

from configregistry.clock import parse_timestamp, timestamp
from configregistry.kube.objects import Meta
from configregistry.model.reads import Read
from configregistry.model.status import Status
from configregistry.reconcile.usage import UNUSED_AFTER, Readers, look_in, usage
from configregistry.rollout.observation import Usage
from configregistry.serve.app import App
from configregistry.serve.interest import Interests
from configregistry.serve.responses import Response, Stream
from configregistry.serve.routes import Routes
from configregistry.serve.usage import LATE, READS, REMARK
from configregistry.serve.usage import Usage as Served
from configregistry.telemetry.metrics import Metrics

DAY = 86_400.0
CREATED = datetime(2026, 1, 5, 9, tzinfo=UTC)
UID = "0d1e5b3c"
ONE = "/v1/namespaces/shop/registries/checkout"


# What a replica notes


class Replica:
    """Registries, their routes observed, and the time."""

    def __init__(self, **fallbacks: str) -> None:
        self.world = World()
        for name in ("checkout", "defaults", "basket"):
            self.world.serve(name, {"a": 1}, fallback=fallbacks.get(name))
        self.clock = self.world.clock
        self.clock.now = 1000.0
        self.interests = Interests()
        self.usage = Served(self.world.hydrator.snapshot, self.clock.monotonic, [lambda: self.interests.keys])
        self.world.hydrator.subscribe(self.usage.published)
        self.routes = Routes(self.usage.over(self.world.service.routes.all))
        self.app = App(self.routes, Metrics(), lambda: 0.0)

    def ask(self, method: str, path: str, content: bytes = b"", query: str = "") -> int:
        reply = self.app(request(path, query, method=method, content=content))
        if isinstance(reply, Awaitable):
            return 0
        if isinstance(reply, Stream):
            sink = FakeSink()
            sink.feed = reply.open(sink)
        return reply.status

    def read(self, *, every: bool = True) -> dict[str, float]:
        return {each.registry: each.age for each in self.usage.reads(every)}


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", ONE, b""),
        ("HEAD", ONE, b""),
        ("GET", ONE + "/keys", b""),
        ("GET", ONE + "/keys/a", b""),
        ("GET", ONE + "/watch", b""),
        ("GET", ONE + "/ofrep/v1/events", b""),
        ("POST", ONE + "/ofrep/v1/evaluate/flags", b"{}"),
        ("POST", ONE + "/ofrep/v1/evaluate/flags/a", b"{}"),
        ("POST", "/ofrep/v1/evaluate/flags/shop/checkout/a", b"{}"),
        ("PUT", ONE + "/consumers/pod-1", b'{"ttlSeconds":30}'),
    ],
)
async def test_who_works_with_a_registry_reads_it(method: str, path: str, content: bytes) -> None:
    replica = Replica()
    assert replica.ask(method, path, content) in (200, 201)
    replica.clock.now += 7.0
    assert replica.usage.reads(every=True) == [Read("shop", "checkout", "uid-checkout", 7.0)]


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/v1/namespaces/shop/registries", ""),
        ("GET", ONE + "/versions", ""),
        ("GET", ONE + "/versions/1", ""),
        ("GET", ONE + "/consumers", ""),
        ("DELETE", ONE + "/consumers/pod-1", ""),
        ("GET", "/openapi.json", ""),
        ("GET", ONE, "nonsense=1"),
        ("GET", "/v1/namespaces/shop/registries/nobody", ""),
        ("GET", "/v1/namespaces/shop/registries/nobody/keys/a", "wait=1s"),
        ("POST", "/ofrep/v1/evaluate/flags/shop/nobody/a", ""),
        ("POST", "/ofrep/v1/evaluate/flags/nonsense", ""),
    ],
)
def test_who_looks_at_it_or_is_refused_does_not(method: str, path: str, query: str) -> None:
    replica = Replica()
    replica.ask(method, path, b"{}" if method == "POST" else b"", query)
    assert replica.read() == {}


def test_each_route_is_one_or_the_other() -> None:
    """Whoever adds a route has to say which."""
    others = {
        ("GET", "/v1/namespaces/{namespace}/registries"),
        ("GET", "/v1/namespaces/{namespace}/registries/{name}/versions"),
        ("GET", "/v1/namespaces/{namespace}/registries/{name}/versions/{version}"),
        ("GET", "/v1/namespaces/{namespace}/registries/{name}/versions/{from}/diff/{to}"),
        ("GET", "/v1/namespaces/{namespace}/registries/{name}/consumers"),
        ("GET", "/v1/namespaces/{namespace}/registries/{name}/consumers/{consumer*}"),
        ("DELETE", "/v1/namespaces/{namespace}/registries/{name}/consumers/{consumer*}"),
        ("GET", "/v1/watch"),
        ("POST", "/ofrep/v1/evaluate/flags"),
        ("POST", "/internal/v1/consumers"),
        ("GET", "/internal/v1/consumers/news"),
        ("GET", "/openapi.json"),
    }
    routes = {(route.method, route.pattern) for route in World().service.routes.all}
    assert routes - READS == others
    assert routes >= READS


def test_those_that_it_falls_back_to_are_read_with_it() -> None:
    replica = Replica(checkout="defaults", defaults="checkout")
    replica.ask("GET", ONE + "/keys/a")
    assert replica.read() == {"checkout": 0.0, "defaults": 0.0}
    replica = Replica(checkout="absent")
    replica.ask("GET", ONE)
    assert replica.read() == {"checkout": 0.0}


def test_a_registry_is_marked_once_in_a_while() -> None:
    replica = Replica()
    replica.ask("GET", ONE)
    replica.clock.now += REMARK - 1
    replica.ask("GET", ONE)
    assert replica.read() == {"checkout": REMARK - 1}
    replica.clock.now += 2
    replica.read()
    replica.ask("GET", ONE)
    assert replica.read() == {"checkout": 0.0}


def test_of_late_is_told_for_some_rounds_and_all_is_told_to_who_asks() -> None:
    replica = Replica()
    replica.ask("GET", ONE)
    replica.clock.now += LATE
    replica.ask("GET", "/v1/namespaces/shop/registries/basket")
    assert replica.read(every=False) == {"checkout": LATE, "basket": 0.0}
    replica.clock.now += 1
    assert replica.read(every=False) == {"basket": 1.0}
    assert replica.read() == {"checkout": LATE + 1, "basket": 1.0}


def test_a_watch_counts_for_as_long_as_it_is_open() -> None:
    replica = Replica()
    interest = replica.interests.listen([("shop", "checkout"), ("shop", "absent")], lambda: None)
    for _ in range(5):
        replica.clock.now += REMARK
        assert replica.read() == {"checkout": 0.0}
    interest.cancel()
    replica.clock.now += REMARK
    assert replica.read() == {"checkout": REMARK}


def test_a_namesake_starts_anew() -> None:
    replica = Replica()
    replica.ask("GET", ONE)
    replica.world.drop(("shop", "checkout"))
    replica.world.flush()
    assert len(replica.usage) == 0
    replica.world.serve("checkout", {"a": 2}, uid="uid-other")
    assert replica.read() == {}
    replica.ask("GET", ONE)
    assert [each.uid for each in replica.usage.reads(every=True)] == ["uid-other"]
    replica.world.serve("checkout", {"a": 3}, uid="uid-third")
    assert replica.read() == {}, "in one publication"
    replica.ask("GET", ONE)
    assert [each.uid for each in replica.usage.reads(every=False)] == ["uid-third"]


def test_names_that_do_not_exist_leave_nothing_behind() -> None:
    replica = Replica()

    async def ask() -> None:
        for number in range(200):
            path = f"/v1/namespaces/shop/registries/no-{number}"
            replica.ask("GET", path)
            reply = replica.app(request(path, "minRevision=7"))
            if isinstance(reply, Awaitable):
                task = asyncio.ensure_future(reply)
                await asyncio.sleep(0)
                task.cancel()
            replica.usage.mark(("shop", f"no-{number}"))

    asyncio.run(ask())
    assert len(replica.usage) == 0
    assert not replica.usage._fresh


def test_what_is_answered_is_what_was_answered() -> None:
    replica, world = Replica(), World()
    world.serve("checkout", {"a": 1})
    seen = replica.app(request(ONE))
    assert isinstance(seen, Response)
    assert seen == world.get(ONE)


# What is stored


def status(last: str = "", *, unused: bool = False) -> Status:
    return Status(last_read_at=last, unused=unused)


def at(days: float, hours: float = 0.0) -> datetime:
    """So many days behind the midnight before it was made."""
    return CREATED.replace(hour=0) + timedelta(days=days, hours=hours)


def day(days: int) -> str:
    return at(days).strftime("%Y-%m-%dT00:00:00Z")


MOMENT = next(hour for hour in range(24) if look_in(status(), UID, CREATED, at(3, hour), UNUSED_AFTER) <= 3600.0)
"""The hour of the day in which this registry is looked at."""
BEFORE, BEHIND = float(MOMENT), MOMENT + 1.0


@pytest.mark.parametrize(
    ("stored", "age", "now", "expected"),
    [
        (status(), None, at(200), Usage()),
        (status(day(3), unused=True), None, at(200), Usage()),
        (status(), inf, at(90, 9), Usage("", False)),
        (status(), inf, at(90, 10), Usage("", True)),
        (status(day(10)), inf, at(101), Usage("", False)),
        (status(day(10)), inf, at(101, 1), Usage("", True)),
        (status(day(10)), 91 * DAY, at(120), Usage("", True)),
        (status(day(10)), 89 * DAY, at(120), Usage("", False)),
        (status(day(10)), 3600.0, at(120, BEHIND), Usage(day(120 if BEHIND >= 1 else 119), False)),
        (status(day(10)), 0.0, at(120, BEFORE), Usage("", False)),
        (status(day(10)), 86_400.0, at(120, BEHIND), Usage(day(119), False)),
        (status(day(119)), 86_400.0, at(120, BEHIND), Usage("", False)),
        (status(day(121)), 0.0, at(120, BEHIND), Usage("", False)),
        (status("", unused=True), 0.0, at(120, BEFORE), Usage(day(120), False)),
        (status(day(10), unused=True), 0.0, at(120, BEFORE), Usage(day(120), False)),
        (status(), 0.0, at(0, 23.9), Usage("", False)),
        (status(), 5.0, at(0, 23.9), Usage("", False)),
        (status(day(0), unused=True), inf, at(120), Usage("", True)),
        (status("nonsense"), inf, at(120), Usage("", True)),
    ],
)
def test_what_is_known(stored: Status, age: float | None, now: datetime, expected: Usage) -> None:
    assert usage(stored, UID, CREATED, age, now, UNUSED_AFTER) == expected


def test_a_short_limit_is_measured_by_the_second() -> None:
    assert not usage(status(), UID, CREATED, inf, CREATED + timedelta(seconds=5), 5.0).unused
    assert usage(status(), UID, CREATED, inf, CREATED + timedelta(seconds=6), 5.0).unused
    assert 0 < look_in(status(), UID, CREATED, CREATED, 5.0) <= 5.1


def kept(before: Status, known: Usage) -> Status:
    """As the machine keeps it."""
    unused = before.unused if known.unused is None else known.unused
    return replace(before, last_read_at=max(before.last_read_at, known.last_read_at), unused=unused)


_MOVES = st.lists(
    st.tuples(st.sampled_from(["read", "look", "restart", "silence", "back"]), st.floats(0, 40 * DAY)), max_size=40
)


@given(_MOVES)
def test_any_history_says_unused_only_of_what_was_not_read(moves: list[tuple[str, float]]) -> None:
    """Restarts forget ages, replicas are silent, clocks jump back: days only grow, and what was read is not unused."""
    stored, last, elapsed, skew = status(), -inf, 0.0, 0.0
    for verb, seconds in moves:
        elapsed += seconds
        if verb == "back":
            skew -= min(seconds, 2 * DAY)
        elif verb == "read":
            last = elapsed
        elif verb == "restart":
            last = -inf
        age = None if verb == "silence" else elapsed - last
        now = CREATED + timedelta(seconds=elapsed + skew)
        after = kept(stored, usage(stored, UID, CREATED, age, now, UNUSED_AFTER))
        assert after.last_read_at >= stored.last_read_at
        if age is None:
            assert after == stored
        elif after.unused:
            assert age > UNUSED_AFTER
            day = parse_timestamp(stored.last_read_at) or CREATED
            assert (now - day).total_seconds() > UNUSED_AFTER
        stored = after


@given(st.text(max_size=12), st.floats(0, 400 * DAY), st.booleans())
def test_a_registry_is_looked_at_once_a_day_at_its_own_time(uid: str, passed: float, unused: bool) -> None:
    now = CREATED + timedelta(seconds=passed)
    moments = []
    for _ in range(4):
        wait = look_in(status(unused=unused), uid, CREATED, now, UNUSED_AFTER)
        assert 0 < wait <= DAY
        now += timedelta(seconds=wait + 0.001)
        moments.append(now)
    apart = [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]
    assert sum(abs(each - DAY) > 1 for each in apart) <= 2, "but for the moment at which it may be unused"


def test_ten_thousand_are_spread_over_the_day_and_over_becoming_unused() -> None:
    now = at(3, 12)
    waits = [look_in(status(), f"uid-{number}", CREATED, now, UNUSED_AFTER) for number in range(10_000)]
    assert max(Counter(int(each / 60) for each in waits).values()) < 40
    soon = at(90, 9)
    over = [look_in(status(), f"uid-{number}", CREATED, soon, UNUSED_AFTER) for number in range(1000)]
    assert sum(each < 3600 for each in over) < 200


def test_a_restart_of_the_controller_stores_nothing_new() -> None:
    """What has been stored at its moment is not stored again by whoever looks at the registry that day."""
    stored = status()
    writes = 0
    for hour in range(24 * 10):
        after = kept(stored, usage(stored, UID, CREATED, 60.0, at(2, hour), UNUSED_AFTER))
        writes += after != stored
        stored = after
    assert writes == 10


class Wall:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = CREATED

    def wall(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        raise AssertionError("days are of the wall clock")


def test_unused_ones_that_are_read_are_looked_at_and_no_others() -> None:
    clock, ages = Wall(), dict[str, float | None]()
    readers = Readers(lambda _namespace, name, _uid: ages[name], clock)
    meta = {
        name: Meta(name, "shop", f"uid-{name}", creation_timestamp=timestamp(CREATED))
        for name in ("one", "other", "new")
    }
    ages |= {"one": inf, "other": 60.0, "new": None}
    clock.now = at(120)
    stored = {name: kept(status(), readers.usage(each, status())) for name, each in meta.items()}
    assert {name: each.unused for name, each in stored.items()} == {"one": True, "other": False, "new": False}
    for name, each in meta.items():
        assert 0 < readers.look_in(each, stored[name]) <= DAY
    keys = [("shop", name) for name in meta]
    assert (len(readers), readers.among(keys)) == (1, [("shop", "one")])
    ages["one"] = 0.0
    stored["one"] = kept(stored["one"], readers.usage(meta["one"], stored["one"]))
    assert stored["one"] == status(day(120))
    readers.look_in(meta["one"], stored["one"])
    assert (len(readers), readers.among(keys)) == (0, [])
    readers.look_in(meta["one"], status(unused=True))
    readers.forget(("shop", "one"))
    assert len(readers) == 0


def test_days_are_times_that_the_status_may_hold() -> None:
    known = usage(status(unused=True), UID, CREATED, 0.0, at(120, 5), UNUSED_AFTER)
    assert parse_timestamp(known.last_read_at) == at(120)
