"""What holds for each request: who is let in, how much they may bring, what is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Generator

import pytest
from tests.serve_fakes import World, request

from configregistry.model.reports import EXCHANGE_PATH
from configregistry.serve.app import App
from configregistry.serve.responses import Feed, Problem, Request, Response, Sink, Stream
from configregistry.serve.routes import Need, Place, Route, Routes

EXCHANGE = request(EXCHANGE_PATH, method="POST")


class FakeGuard:
    """Lets in at once, later, or not at all."""

    def __init__(self, verdict: str) -> None:
        self.verdict = verdict
        self.asked: list[tuple[Need, ...]] = []

    def check(self, _request: Request, needs: tuple[Need, ...]) -> str | Awaitable[str]:
        self.asked.append(needs)
        if self.verdict == "refused":
            raise Problem(403, "Forbidden", "no")
        return self._later() if self.verdict == "later" else "somebody"

    def _later(self) -> Awaitable[str]:
        class Later:
            def __await__(self) -> Generator[None, None, str]:
                yield
                return "somebody"

        return Later()


@pytest.mark.parametrize(("verdict", "more"), [(None, True), ("known", True), ("later", False), ("refused", False)])
async def test_only_who_is_known_may_bring_much(verdict: str | None, more: bool) -> None:
    world = World()
    guard = FakeGuard(verdict) if verdict else None
    app = App(world.service.routes, world.metrics, lambda: 0.0, guard=guard)
    assert (app.admit(EXCHANGE) > 1024 * 1024) is more
    assert app.admit(request("/v1/namespaces/a/registries/b/consumers/c", method="PUT")) == 0
    assert app.admit(request("/nothing", method="POST")) == 0


async def test_a_user_is_told_to_the_route_and_streams_are_looked_at() -> None:
    world = World()
    seen: list[str] = []

    def stream(_sink: Sink) -> Feed:
        raise AssertionError

    def handle(asked: Request, place: Place) -> Response | Stream:
        seen.append(asked.user)
        return Stream(200, [], stream) if place.rest == ("stream",) else Response(200, [], b"")

    class Streams:
        def over(self, opened: Stream, asked: Request, needs: tuple[Need, ...]) -> Stream:
            seen.append(f"over {asked.path} {needs[0].verb}")
            return opened

    needs = (Need("get", "data", "a", "b"),)
    routes = Routes([Route("GET", "/x/{what}", handle, lambda _request, _place: needs)])
    for verdict in ("known", "later"):
        guard = FakeGuard(verdict)
        app = App(routes, world.metrics, lambda: 0.0, guard=guard, streams=Streams())
        for what in ("whole", "stream"):
            reply = app(request(f"/x/{what}"))
            if not isinstance(reply, Response | Stream):
                reply = await reply
            assert reply.status == 200
        assert guard.asked == [needs, needs]
    assert seen == ["somebody", "somebody", "over /x/stream get"] * 2


@pytest.mark.parametrize("name", ["x\ndata: evil\n\n", "X", "a b", "-a", "ä", "a" * 300])
def test_what_nothing_can_be_called_is_not_looked_for(name: str) -> None:
    def handle(_request: Request, _place: Place) -> Response:
        raise AssertionError

    routes = Routes([Route("GET", "/n/{namespace}/r/{name}/x", handle, lambda _request, _place: ())])
    app = App(routes, World().metrics, lambda: 0.0)
    for path in (f"/n/{name}/r/a/x", f"/n/a/r/{name}/x"):
        reply = app(request(path))
        assert isinstance(reply, Response)
        assert reply.status == 404


async def test_who_is_refused_reaches_nothing() -> None:
    def handle(_request: Request, _place: Place) -> Response:
        raise AssertionError

    routes = Routes([Route("GET", "/x", handle, lambda _request, _place: ())])
    app = App(routes, World().metrics, lambda: 0.0, guard=FakeGuard("refused"))
    reply = app(request("/x"))
    assert isinstance(reply, Response)
    assert reply.status == 403
