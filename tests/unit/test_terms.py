"""Terms: when one begins, and what becomes of the Lease at its end, in virtual time. The Lease is a fake."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Self, cast

import pytest
from structlog.testing import capture_logs
from tests.unit.reconcile_world import LoopClock, played, until

from configregistry.app import leading
from configregistry.app.leading import BEGIN_WITHIN, Terms
from configregistry.kube.election import LASTS, Election
from configregistry.kube.failures import Conflict, Unavailable
from configregistry.kube.fence import UNANSWERED, Fence
from configregistry.kube.lease import Found, Leases, Place
from configregistry.telemetry.metrics import Metrics

Key = tuple[str, str]


class Lease:
    """One Lease, at once and always well; two may want it."""

    place = Place("shop", "lease")

    def __init__(self) -> None:
        self.versions = itertools.count(1)
        self.found: Found | None = None

    async def read(self) -> Found | None:
        return self.found

    async def take(self, found: Found | None, holder: str, epoch: int, seconds: int, _now: datetime) -> Found:
        return self._put(found, holder, seconds, epoch)

    async def renew(self, found: Found, seconds: int, _now: datetime) -> Found:
        return self._put(found, found.holder, seconds, found.epoch)

    async def release(self, found: Found, _now: datetime) -> None:
        self._put(found, "", 1, found.epoch)

    def _put(self, found: Found | None, holder: str, seconds: int, epoch: int) -> Found:
        if self.found != found:
            raise Conflict("changed")
        self.found = Found(str(next(self.versions)), holder, seconds, epoch, {})
        return self.found


class Term:
    """Writes once; the API server carries that out after `lasts` seconds, whatever becomes of who wrote."""

    def __init__(self, world: World, fence: Fence) -> None:
        self.world = world
        self.fence = fence

    def begin(self, _behind: Iterable[tuple[Key, str]]) -> None:
        self.world.begun.append(asyncio.get_running_loop().time())

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        async def work() -> None:
            with self.fence.passage():
                asyncio.get_running_loop().call_later(self.world.lasts, self.world.carried_out)
                await asyncio.sleep(self.world.lasts)
            await asyncio.Event().wait()

        return [work()]

    async def shut(self, seconds: float) -> bool:
        return await self.fence.shut(seconds)

    async def close(self) -> None:
        self.world.closed += 1


class World:
    """A process `a` with its terms, and another that wants the same Lease."""

    def __init__(self, behind: Callable[[], Awaitable[list[tuple[Key, str]]]], lasts: float = 0.1) -> None:
        self.lasts = lasts
        self.lease = Lease()
        self.a, self.b = (
            Election(cast("Leases", self.lease), name, LoopClock(), lambda: 0, jitter=lambda: 1.0) for name in "ab"
        )
        self.metrics = Metrics()
        self.terms = Terms(self.a, lambda: Term(self, Fence(self.a.permit)), behind, self.metrics)
        self.running = asyncio.ensure_future(self.terms.run())
        self.waiting: asyncio.Task[int] | None = None
        self.begun: list[float] = []
        self.carried: list[bool] = []
        """Whether the other one led already, for each write that was carried out."""
        self.closed = 0

    def carried_out(self) -> None:
        self.carried.append(self.b.holds)

    def rival(self) -> None:
        """From now on the other one waits for its turn."""
        self.waiting = asyncio.ensure_future(self.b.win())

    async def end(self) -> None:
        """As SIGTERM ends it."""
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
        if self.waiting is not None:
            self.waiting.cancel()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def nothing() -> list[tuple[Key, str]]:
    return []


async def refused() -> list[tuple[Key, str]]:
    raise Unavailable("lists are shed")


async def hangs() -> list[tuple[Key, str]]:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_term_that_ends_with_all_answered_hands_over_within_a_look() -> None:
    async def life() -> None:
        async with World(nothing) as world:
            world.terms.open()
            await until(lambda: world.carried)
            world.rival()
            await asyncio.sleep(0.5)
            await world.end()
            assert world.closed == 1
            assert await until(lambda: world.b.holds) < 2
            assert world.carried == [False]

    played(life())


def test_a_lease_is_not_given_up_while_a_write_is_on_its_way() -> None:
    """It runs out by itself, and whoever leads then meets what was written."""

    async def life() -> None:
        async with World(nothing, lasts=4.0) as world:
            world.terms.open()
            await until(lambda: world.begun)
            world.rival()
            await asyncio.sleep(0.5)
            with capture_logs() as lines:
                await world.end()
            assert [line["event"] for line in lines] == ["the lease runs out by itself: a write was not answered"]
            assert await until(lambda: world.b.holds) > LASTS - 4
            assert world.carried == [False]

    played(life())


def test_the_next_term_of_the_same_process_does_not_overtake_such_a_write() -> None:
    async def life() -> None:
        async with World(nothing, lasts=4.0) as world:
            world.terms.open()
            await until(lambda: world.begun)
            world.a.outbid(7)
            await until(lambda: len(world.begun) > 1)
            assert world.a.epoch == 8
            assert world.begun[1] - world.begun[0] > UNANSWERED
            assert world.carried == [False]

    played(life())


@pytest.mark.parametrize("behind", [refused, hangs])
def test_who_cannot_begin_lets_somebody_else_try(behind: Callable[[], Awaitable[list[tuple[Key, str]]]]) -> None:
    """And tries again itself, where nobody else does."""

    async def life(*, rival: bool) -> None:
        async with World(behind) as world:
            world.terms.open()
            await until(lambda: world.a.holds)
            if rival:
                world.rival()
                assert await until(lambda: world.b.holds) < BEGIN_WITHIN + 5
                assert not world.a.epoch
            else:
                await until(lambda: not world.a.holds)
                assert await until(lambda: world.a.holds) < LASTS + 5
                assert world.a.epoch == 2
            assert not world.begun
            assert not world.closed

    for rival in (True, False):
        played(life(rival=rival))


def test_a_list_that_fails_at_first_is_tried_until_it_succeeds() -> None:
    async def life() -> None:
        answers = iter((Unavailable("503", retry_after=2.0), Unavailable("503")))

        async def behind() -> list[tuple[Key, str]]:
            for error in answers:
                raise error
            return []

        async with World(behind) as world:
            world.terms.open()
            await until(lambda: world.a.holds)
            assert await until(lambda: world.begun) == pytest.approx(2.0 + leading.AGAIN, abs=0.1)
            assert world.a.epoch == 1

    played(life())


def test_the_start_waits_for_the_first_term_to_have_begun() -> None:
    """Not only for the Lease: else nothing is queued yet, and kopf's list comes first."""

    async def life() -> None:
        async def behind() -> list[tuple[Key, str]]:
            await asyncio.sleep(3.0)
            return []

        async with World(behind) as world:
            looked = asyncio.ensure_future(world.terms.looked())
            await asyncio.sleep(1.0)
            assert not looked.done()
            world.terms.open()
            await until(lambda: world.a.holds)
            assert not looked.done()
            await looked
            assert world.begun

    played(life())


def test_the_start_does_not_wait_for_a_term_that_is_somebody_elses() -> None:
    async def life() -> None:
        async with World(nothing) as world:
            world.rival()
            await until(lambda: world.b.holds)
            world.terms.open()
            async with asyncio.timeout(2):
                await world.terms.looked()
            assert not world.begun

    played(life())
