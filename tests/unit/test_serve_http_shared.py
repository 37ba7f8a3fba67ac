"""What all connections of a server share, while one of them has a defect."""

from __future__ import annotations

import asyncio

import pytest

from configregistry.serve.responses import Response
from configregistry.serve.wire import Limits, server, shared
from configregistry.serve.wire.server import ABORTED_WITHIN, HttpServer
from configregistry.serve.wire.shared import Shared


class Overdue:
    """A connection whose time is always over."""

    def __init__(self, *, broken: bool = False) -> None:
        self.deadline = 0.0
        self.broken = broken
        self.looks = self.aborts = 0

    def overdue(self, now: float) -> None:
        self.looks += 1
        if self.broken:
            raise RuntimeError

    def drain(self) -> None:
        pass

    def abort(self) -> None:
        self.aborts += 1
        if self.broken:
            raise RuntimeError


async def test_a_connection_with_a_defect_does_not_end_the_limits_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "TICK", 0.001)
    of = Shared(lambda _request: Response(200, [], b""), Limits(), None)
    broken, others = Overdue(broken=True), [Overdue() for _ in range(10)]
    for each in (broken, *others):
        of.enter(each, "")
        of.timed.add(each)
    try:
        async with asyncio.timeout(60):
            while min(each.looks for each in others) < 3:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
    finally:
        of.stop()
    assert (broken.looks, broken.aborts) == (1, 1)


async def test_a_tick_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "TICK", 0.001)
    looks: list[float] = []

    def wall() -> float:
        looks.append(0.0)
        if len(looks) == 3:
            raise RuntimeError
        return float(len(looks))

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    of = Shared(lambda _request: Response(200, [], b""), Limits(), None, wall=wall)
    try:
        async with asyncio.timeout(60):
            while len(looks) < 9:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
    finally:
        of.stop()


async def test_stopping_has_one_bound_whatever_connections_do(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    emptied = server._emptied

    async def noted(of: Shared, within: float) -> bool:
        waits.append(within)
        return await emptied(of, 0.0)

    monkeypatch.setattr(server, "_emptied", noted)
    listener = HttpServer(lambda _request: Response(200, [], b""), "127.0.0.1", 0)
    await listener.start()
    deaf = Overdue()
    assert listener._shared is not None
    listener._shared.enter(deaf, "")
    await listener.stop(60.0)
    assert waits == [60.0, ABORTED_WITHIN]
    assert deaf.aborts == 1
