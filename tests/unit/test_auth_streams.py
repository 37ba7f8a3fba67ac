"""A stream ends with the right to it, and with nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus

import pytest
from tests.serve_fakes import request

from configregistry.serve.auth.streams import EVERY, Streams
from configregistry.serve.responses import Feed, Problem, Request, Sink, Stream, unavailable
from configregistry.serve.routes import Need

NEEDS = (Need("get", "data", "shop", "checkout"),)


class FakeSink:
    """Somebody's connection."""

    pending = 0

    def __init__(self) -> None:
        self.ended = 0

    def write(self, data: bytes) -> None:
        raise AssertionError(data)

    def end(self) -> None:
        self.ended += 1

    def abort(self) -> None:
        raise AssertionError


class FakeFeed:
    """What a room feeds a stream with."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def resumed(self) -> None:
        self.told.append("resumed")

    def drain(self) -> None:
        self.told.append("drain")

    def closed(self) -> None:
        self.told.append("closed")


class FakeGuard:
    """Lets in, refuses, or does not know, as it is told."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.asked: list[tuple[Request, tuple[Need, ...]]] = []

    def check(self, asked: Request, needs: tuple[Need, ...]) -> str | Awaitable[str]:
        self.asked.append((asked, needs))
        if self.problem is not None:
            raise self.problem
        return self._later()

    async def _later(self) -> str:
        return "somebody"


class Case:
    """One stream, and seconds that pass at once."""

    def __init__(self) -> None:
        self.guard, self.feed, self.sink = FakeGuard(), FakeFeed(), FakeSink()
        self.seconds, self.until = 0, 0
        self.streams = Streams(self.guard, sleep=self._sleep)
        self.request = request("/v1/watch", headers={"authorization": "Bearer t"})
        feed: Feed = self.feed
        opened = Stream(200, [("a", "b")], lambda _sink: feed)
        self.stream = self.streams.over(opened, self.request, NEEDS)
        sink: Sink = self.sink
        self.checked = self.stream.open(sink)

    async def _sleep(self, seconds: float) -> None:
        if self.seconds >= self.until:
            raise asyncio.CancelledError
        self.seconds += round(seconds)

    async def pass_(self, seconds: int) -> None:
        self.until = self.seconds + seconds
        with pytest.raises(asyncio.CancelledError):
            await self.streams.run()


async def test_each_stream_is_looked_at_once_a_minute_with_its_own_request() -> None:
    case = Case()
    await case.pass_(3 * EVERY)
    assert case.guard.asked == [(case.request, NEEDS)] * 3
    assert case.sink.ended == 0
    assert case.stream.headers == [("a", "b")]


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN])
async def test_it_ends_when_the_right_is_gone(status: HTTPStatus) -> None:
    case = Case()
    case.guard.problem = Problem(status, "Gone", "the right is gone")
    await case.pass_(EVERY)
    assert case.sink.ended == 1


@pytest.mark.parametrize("problem", [unavailable("AuthenticationUnavailable", "away"), RuntimeError("a defect")])
async def test_it_goes_on_when_nobody_can_be_asked(problem: Exception) -> None:
    case = Case()
    case.guard.problem = problem
    await case.pass_(EVERY)
    assert case.sink.ended == 0
    assert len(case.guard.asked) == 1


async def test_who_is_gone_is_not_looked_at_and_everything_is_handed_on() -> None:
    case = Case()
    case.checked.resumed()
    case.checked.drain()
    case.checked.closed()
    assert case.feed.told == ["resumed", "drain", "closed"]
    await case.pass_(EVERY)
    assert case.guard.asked == []
