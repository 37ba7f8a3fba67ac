"""Held requests: answered on change or at the end of their time, and nothing of them stays."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from tests.serve_fakes import World, body, header, request

from configregistry.serve.app import App
from configregistry.serve.params import Params
from configregistry.serve.responses import Answer, Request, Response
from configregistry.serve.routes import Place, Route, Routes, get_data
from configregistry.serve.service import Service
from configregistry.serve.waits import AT_ONCE, CATCH_UP, MAX_GONE, Behind

BASE = "/v1/namespaces/shop/registries"
ONE = f"{BASE}/checkout"
KEY = f"{ONE}/keys/a"


class FakeTimer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeLoop:
    """`call_later`, of which a test moves the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = itertools.count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(call)
        heapq.heappush(self._timers, (self.now + seconds, next(self._number), timer))
        return timer

    @property
    def pending(self) -> int:
        return sum(timer.call is not None for _, _, timer in self._timers)

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.call is not None:
                timer.call()
            await settle()
        self.now = end


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Held:
    """A replica whose requests may be held."""

    def __init__(self) -> None:
        self.world = World()
        self.loop = FakeLoop()
        self.service = self.world.service
        self.waits = self.service.waits
        self.waits._later = self.loop.call_later
        self.world.serve("checkout", {"a": 1, "b": 1}, revision_number=5)

    def ask(self, path: str = KEY, query: str = "", **headers: Any) -> Response | asyncio.Task[Response]:
        lower = {name.lower().replace("_", "-"): str(value) for name, value in headers.items()}
        reply = self.world.app(request(path, query, headers=lower))
        if isinstance(reply, Response):
            return reply

        async def answered() -> Response:
            found = await reply  # type: ignore[misc]
            assert isinstance(found, Response)
            return found

        return asyncio.ensure_future(answered())

    async def hold(self, path: str = KEY, query: str = "", **headers: Any) -> asyncio.Task[Response]:
        reply = self.ask(path, query, **headers)
        assert isinstance(reply, asyncio.Task)
        await settle()
        assert not reply.done()
        return reply

    def now(self, path: str = KEY, query: str = "", **headers: Any) -> Response:
        reply = self.ask(path, query, **headers)
        assert isinstance(reply, Response)
        return reply

    def etag(self, path: str = KEY) -> str:
        tag = header(self.now(path), "etag")
        assert isinstance(tag, str)
        return tag

    @property
    def clean(self) -> bool:
        return (
            not self.service.interests._by_key
            and not self.waits._held
            and not self.waits._to_wake
            and not self.loop.pending
        )


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.mark.parametrize("path", [KEY, ONE, f"{ONE}/keys"])
async def test_held_until_it_changes(held: Held, path: str) -> None:
    etag = held.etag(path)
    waiting = await held.hold(path, "wait=30s", if_none_match=etag)
    held.world.serve("other", {"a": 2})
    await settle()
    assert not waiting.done()
    held.world.serve("checkout", {"a": 2}, version=2, revision_number=6)
    response = await waiting
    assert response.status == 200
    assert header(response, "x-configregistry-revision") == "6"
    assert held.clean


async def test_held_until_time_is_over(held: Held) -> None:
    etag = held.etag()
    waiting = await held.hold(query="wait=1m30s", if_none_match=etag)
    await held.loop.advance(89.9)
    assert not waiting.done()
    await held.loop.advance(0.1)
    assert (await waiting).status == 304
    assert held.clean


async def test_a_publication_that_changes_nothing_for_this_client_is_no_answer(held: Held) -> None:
    held.world.serve("checkout", {"a": 1}, revision_number=6, canary={"version": 2, "weight": 0}, canary_data={"a": 9})
    etag = held.etag(f"{ONE}/keys/a")
    raw = header(held.now(query="raw"), "etag")
    waiting = await held.hold(query="wait=30s&raw", if_none_match=raw)
    held.world.put(("shop", "checkout"), "uid-checkout", None)  # refused: a revision never goes back
    held.world.flush()
    held.world.serve("checkout", {"a": 1, "b": 2}, version=3, revision_number=7)
    await settle()
    assert not waiting.done()
    assert etag != held.etag()
    held.world.serve("checkout", {"a": 2}, version=4, revision_number=8)
    assert (await waiting).body == b"2"


@pytest.mark.parametrize("etag", [None, '"another"'])
async def test_answered_at_once_where_nothing_is_known_or_something_else(held: Held, etag: str | None) -> None:
    headers = {} if etag is None else {"if_none_match": etag}
    assert held.now(query="wait=30s", **headers).status == 200
    assert held.now(query="wait=0s", if_none_match=held.etag()).status == 304
    assert held.clean


async def test_changes_of_fallbacks_and_of_names_that_are_not_there_yet(held: Held) -> None:
    held.world.serve("checkout", {"b": 1}, version=2, revision_number=6, fallback="base")
    whole = held.etag(ONE)
    waiting = await held.hold(ONE, "wait=30s", if_none_match=whole)
    held.world.serve("base", {"z": 1})
    assert body(await waiting)["data"] == {"b": 1, "z": 1}

    waiting = await held.hold(f"{ONE}/keys/z", "wait=30s", if_none_match=held.etag(f"{ONE}/keys/z"))
    held.world.serve("base", {"z": 2}, version=2, revision_number=2, fallback="deep")  # the chain grows
    assert body(await waiting)["value"] == 2

    key = f"{ONE}/keys/z"
    waiting = await held.hold(key, "wait=30s", if_none_match=held.etag(key))
    held.world.drop(("shop", "checkout"))
    held.world.flush()
    assert (await waiting).status == 404
    assert held.clean


async def test_the_chain_is_looked_at_anew_each_time(held: Held) -> None:
    held.world.serve("checkout", {"b": 1}, version=2, revision_number=6, fallback="base")
    held.world.serve("base", {"z": 1}, fallback="deep")
    raw = header(held.now(f"{ONE}/keys/z", "raw"), "etag")
    waiting = await held.hold(f"{ONE}/keys/z", "raw&wait=30s", if_none_match=raw)
    held.world.serve("base", {"z": 1}, revision_number=2, fallback="deeper")
    await settle()
    assert not waiting.done()
    held.world.serve("base", {"y": 1}, version=2, revision_number=3, fallback="deeper")
    assert (await waiting).status == 404
    missing = await held.hold(ONE, "wait=30s", if_none_match=held.etag(ONE))
    held.world.serve("deeper", {"z": 3})
    assert body(await missing)["data"]["z"] == 3
    assert held.clean


async def test_a_publication_between_comparing_and_waiting_is_not_missed(held: Held) -> None:
    """The state may change after it was compared and before the request sleeps: here, in the very handler."""
    state = ["old"]

    def handle(req: Request, _place: Place) -> Response:
        Params(req).allow(())
        answer = Answer(state[0].encode(), [])
        if state == ["old"] and held.waits._held:  # compared with the old state; it changes right behind that
            state[0] = "new"
            held.world.serve("checkout", {"a": 3}, version=3, revision_number=9)
        return answer.to(req)

    routes = Routes([Route("GET", "/{namespace}/{name}", held.waits.on(handle), get_data)])
    held.world.app = App(routes, held.world.metrics, lambda: 0.0)
    known = Answer(b"old", []).etag
    reply = held.ask("/shop/checkout", "wait=30s", if_none_match=known)
    assert isinstance(reply, asyncio.Task)
    await settle()
    assert reply.done()
    assert (await reply).body == b"new"
    assert held.clean


@pytest.mark.parametrize("way", ["query", "header"])
async def test_a_revision_that_is_not_here_yet_is_waited_for(held: Held, way: str) -> None:
    shown: dict[str, Any] = {"query": "minRevision=7"} if way == "query" else {"x_configregistry_revision": 7}
    waiting = await held.hold(**shown)
    held.world.serve("checkout", {"a": 6}, version=2, revision_number=6)
    await settle()
    assert not waiting.done()
    held.world.serve("checkout", {"a": 7}, version=3, revision_number=7)
    assert body(await waiting)["value"] == 7
    assert held.now(**shown).status == 200
    assert held.clean


async def test_a_revision_that_does_not_come(held: Held) -> None:
    waiting = await held.hold(query="minRevision=6", x_configregistry_revision=9)
    held.world.serve("checkout", {"a": 6}, version=2, revision_number=8)
    await held.loop.advance(CATCH_UP - 0.01)
    assert not waiting.done()
    await held.loop.advance(0.01)
    response = await waiting
    assert response.status == 503
    assert body(response)["type"].endswith("/BehindRevision")
    assert "revision 8" in body(response)["detail"]
    assert "revision 9" in body(response)["detail"]
    assert header(response, "retry-after") == "2"
    assert header(response, "x-configregistry-revision") == "8"
    assert held.clean


async def test_a_registry_that_only_others_know_is_waited_for(held: Held) -> None:
    new = f"{BASE}/new"
    waiting = await held.hold(new, x_configregistry_revision=2)
    held.world.serve("new", {"a": 1}, revision_number=2)
    assert (await waiting).status == 200
    waiting = await held.hold(f"{BASE}/never/keys/a", "minRevision=1")
    await held.loop.advance(CATCH_UP)
    assert body(await waiting)["type"].endswith("/BehindRevision")
    assert held.now(f"{BASE}/never", "minRevision=0").status == 404
    assert held.clean


async def test_what_is_known_to_be_gone_is_not_waited_for(held: Held) -> None:
    """What a client has seen of a registry that was deleted, or made again, cannot come any more."""
    held.world.drop(("shop", "checkout"))
    held.world.flush()
    assert held.now(x_configregistry_revision=5).status == 404
    (await held.hold(x_configregistry_revision=6)).cancel()
    held.world.serve("checkout", {"a": 1}, uid="again", revision_number=1)
    assert held.now(x_configregistry_revision=5).status == 200
    held.world.serve("swapped", {"a": 1}, revision_number=7)
    held.world.serve("swapped", {"a": 2}, uid="at-once", revision_number=1)
    assert held.now(f"{BASE}/swapped", x_configregistry_revision=7).status == 200


async def test_what_is_remembered_of_the_gone_is_bounded(held: Held) -> None:
    state = held.world.hydrator.snapshot()
    empty = World().hydrator.snapshot()
    held.waits._gone.update({("ns", str(number)): 1 for number in range(MAX_GONE)})
    held.waits.published(state, empty, [("shop", "checkout"), ("shop", "unknown")])
    assert len(held.waits._gone) == MAX_GONE
    assert held.waits._gone["shop", "checkout"] == 5


async def test_first_the_revision_then_the_change(held: Held) -> None:
    etag = held.etag()
    waiting = await held.hold(query="minRevision=5&wait=1m", if_none_match=etag)
    await held.loop.advance(CATCH_UP + 1)
    assert not waiting.done()
    held.world.serve("checkout", {"a": 2}, version=2, revision_number=6)
    assert (await waiting).status == 200
    assert held.clean


async def test_a_handler_may_be_behind_as_well(held: Held) -> None:
    def handle(_req: Request, _place: Place) -> Response:
        if held.world.published("shop", "checkout").revision < 6:
            raise Behind("not yet")
        return Response(200, [], b"now")

    routes = Routes([Route("GET", "/{namespace}/{name}", held.waits.on(handle), get_data)])
    held.world.app = App(routes, held.world.metrics, lambda: 0.0)
    waiting = await held.hold("/shop/checkout")
    held.world.serve("checkout", {"a": 2}, version=2, revision_number=6)
    assert (await waiting).body == b"now"
    assert held.clean


async def test_whoever_goes_away_leaves_nothing(held: Held) -> None:
    waiting = [
        await held.hold(query="wait=30s", if_none_match=held.etag()),
        await held.hold(x_configregistry_revision=99),
    ]
    assert not held.clean
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    assert held.clean


async def test_draining_answers_all_with_what_is_there(held: Held) -> None:
    etag = held.etag()
    change = await held.hold(query="wait=30s", if_none_match=etag)
    behind = await held.hold(x_configregistry_revision=99)
    held.waits.drain()
    assert (await change).status == 304
    assert (await behind).status == 503
    assert held.clean
    late = held.ask(query="wait=30s", if_none_match=etag)
    assert isinstance(late, asyncio.Task)
    assert (await late).status == 304


async def test_no_more_are_held_than_there_is_room_for(held: Held) -> None:
    held.waits._max_held = 2
    etag = held.etag()
    waiting = [await held.hold(query="wait=30s", if_none_match=etag) for _ in range(2)]
    refused = held.now(query="wait=30s", if_none_match=etag)
    assert (refused.status, body(refused)["type"].rpartition("/")[2]) == (503, "TooManyWaiting")
    assert held.now(query="wait=30s").status == 200  # nothing to wait for
    held.waits.drain()
    assert [(await each).status for each in waiting] == [304, 304]


async def test_many_who_wait_for_one_publication_leave_others_their_turn(held: Held) -> None:
    etag = held.etag()
    waiting = [held.ask(query="wait=30s", if_none_match=etag) for _ in range(3 * AT_ONCE)]
    await settle()
    held.world.serve("checkout", {"a": 2}, version=2, revision_number=6)
    answered = [0]
    for _ in range(12):
        await asyncio.sleep(0)
        answered.append(sum(isinstance(task, asyncio.Task) and task.done() for task in waiting))
    assert answered[-1] == len(waiting)
    assert max(after - before for before, after in itertools.pairwise(answered)) <= AT_ONCE
    assert held.clean


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("wait=30", {}, "wait"),
        ("wait=", {}, "wait"),
        ("wait", {}, "wait"),
        ("wait=forever", {}, "wait"),
        ("wait=5m1ms", {}, "wait"),
        ("wait=-1s", {}, "wait"),
        ("wait=1s&wait=1s", {}, "wait"),
        ("minRevision=x", {}, "minRevision"),
        ("minRevision=", {}, "minRevision"),
        ("minRevision=-1", {}, "minRevision"),
        ("minRevision=1&minRevision=1", {}, "minRevision"),
        (f"minRevision={'9' * 19}", {}, "minRevision"),
        ("", {"x_configregistry_revision": "seven"}, "X-ConfigRegistry-Revision"),
        ("", {"x_configregistry_revision": ""}, "X-ConfigRegistry-Revision"),
        ("", {"x_configregistry_revision": "1, 2"}, "X-ConfigRegistry-Revision"),
        ("await=30s", {}, "await"),
    ],
)
async def test_bad_parameters(held: Held, query: str, headers: dict[str, str], field: str) -> None:
    for path in (KEY, ONE, f"{ONE}/keys"):
        response = held.now(path, query, **headers)
        assert (response.status, body(response)["field"]) == (400, field)


@pytest.mark.parametrize("path", [BASE, f"{ONE}/versions", f"{ONE}/versions/1", f"{ONE}/versions/1/diff/1"])
async def test_what_may_change_without_a_publication_is_not_held(held: Held, path: str) -> None:
    response = held.now(path, "wait=30s")
    assert (response.status, body(response)["field"]) == (400, "wait")


@pytest.mark.parametrize("path", [f"{ONE}/versions", f"{ONE}/versions/1", f"{ONE}/versions/1/diff/1"])
async def test_history_waits_for_a_revision(held: Held, path: str) -> None:
    waiting = await held.hold(path, x_configregistry_revision=6)
    held.world.serve("checkout", {"a": 2}, version=2, revision_number=6)
    assert (await waiting).status == 200


async def test_parameters_beside_are_kept(held: Held) -> None:
    """A target may contain the word; the longest wait is five minutes, said in any unit."""
    assert body(held.now(query="target=waiter&wait=300000ms"))["value"] == 1
    assert held.now(query="target=wait=30s").status == 200
    assert body(held.now(query="wait=30s&version=9"))["type"].endswith("/VersionNotFound")


async def test_the_real_loops_time(held: Held) -> None:
    service = Service(held.world.hydrator)
    held.world.app = App(service.routes, held.world.metrics, lambda: 0.0)
    reply = held.ask(query="wait=1ms", if_none_match=held.etag())
    assert isinstance(reply, asyncio.Task)
    assert (await reply).status == 304
