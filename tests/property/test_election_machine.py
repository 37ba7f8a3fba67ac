"""The election against any history of pauses, partitions, kills, hands and slow answers, in virtual time.

What holds: writes arrive in the order of their epochs, no two terms have the same epoch, and once all is well again
somebody leads. The API server here is a fake: one that stands still, loses answers and is slow on demand.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from tests.servers.virtual import VirtualTime

from configregistry.kube import election as rules
from configregistry.kube.election import Election
from configregistry.kube.failures import Conflict, Invalid, NotFound, NotLeading, Unavailable
from configregistry.kube.lease import Found, Leases, Place

TOTAL = 4.5
"""Seconds after which a client gives up a request (`Timeouts.total`)."""


@dataclass
class Server:
    """A fake of the API server: one Lease, and the writes of leaders in the order in which they arrived."""

    time: VirtualTime
    lease: Found | None = None
    arrived: list[tuple[int, str]] = field(default_factory=list)
    """The epoch of each write, and whose it was."""
    versions: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, holder: str, seconds: int, epoch: int) -> Found:
        if epoch >= 2**31:
            raise Invalid("no int32")  # as the API server says it
        self.lease = Found(str(next(self.versions)), holder, seconds, epoch, {})
        return self.lease


@dataclass
class Candidate:
    """A process: an election, and a worker that writes whenever it may."""

    name: str
    server: Server
    delays: list[float]
    newest: int = 0
    cut: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    terms: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.woken.set()
        self.place = Place("shop", "lease")
        self.turns = itertools.cycle(self.delays)
        time = self.server.time
        self.election = Election(
            cast("Leases", self), self.name, time, self.greatest, jitter=lambda: 1.0, sleep=self.sleep
        )
        self.tasks = [asyncio.ensure_future(self.lead()), asyncio.ensure_future(self.work())]

    def greatest(self) -> int:
        """What statuses tell."""
        return max((epoch for epoch, _ in self.server.arrived), default=self.newest)

    async def sleep(self, seconds: float) -> None:
        await self.server.time.sleep(seconds)
        await self.woken.wait()

    async def request(self, apply: Any) -> Any:
        """One request: on its way, at the server, on its way back; cut off or too slow: no answer."""
        there, back = next(self.turns), next(self.turns)
        if self.cut or there > TOTAL:
            await self.sleep(TOTAL)
            raise Unavailable("no answer", outcome_unknown=True)
        await self.server.time.sleep(there)
        try:
            answer: Any = apply()
        except (Conflict, NotFound, Invalid) as error:
            answer = error
        if self.cut or there + back > TOTAL:
            await self.sleep(TOTAL - there)
            raise Unavailable("no answer", outcome_unknown=True)
        await self.sleep(back)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(self) -> Found | None:
        return cast("Found | None", await self.request(lambda: self.server.lease))

    async def take(self, found: Found | None, holder: str, epoch: int, seconds: int, now: datetime) -> Found:
        return await self._write(found, lambda: self.server.put(holder, seconds, epoch))

    async def renew(self, found: Found, seconds: int, now: datetime) -> Found:
        return await self._write(found, lambda: self.server.put(found.holder, seconds, found.epoch))

    async def release(self, found: Found, now: datetime) -> None:
        await self._write(found, lambda: self.server.put("", 1, found.epoch))

    async def _write(self, found: Found | None, put: Any) -> Found:
        def apply() -> Found:
            there = self.server.lease
            if found is not None and there is None:
                raise NotFound("gone")
            if (there.version if there else None) != (found.version if found else None):
                raise Conflict("changed")
            return cast("Found", put())

        return cast("Found", await self.request(apply))

    async def lead(self) -> None:
        while True:
            self.terms.append(await self.election.win())
            await self.election.keep()
            if not await self.shut():
                await self.sleep(TOTAL)

    async def work(self) -> None:
        """Write again and again: each write is on its way for as long as a request may last."""
        while True:
            await self.sleep(0.7)
            epoch = self.election.epoch
            try:
                self.election.permit()
            except NotLeading:
                continue
            arriving = asyncio.ensure_future(self._arrive(epoch))
            self.under_way.add(arriving)
            arriving.add_done_callback(self.under_way.discard)

    async def shut(self) -> bool:
        """A term that ends in peace lets its writes be answered first, for a while (`kube.fence`)."""
        for _ in range(10):
            if not self.under_way:
                return True
            await self.server.time.sleep(0.1)
        return not self.under_way

    async def _arrive(self, epoch: int) -> None:
        await self.server.time.sleep(min(next(self.turns), TOTAL))
        self.server.arrived.append((epoch, self.name))

    async def end(self, *, released: bool) -> None:
        self.woken.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if released:
            ending = asyncio.ensure_future(self._release())
            await self.server.time.advance(3 * TOTAL)
            await ending

    async def _release(self) -> None:
        if await self.shut():
            await self.election.release()
            well = not self.cut and max(self.delays) <= 0.3
            lease = self.server.lease
            assert not well or lease is None or lease.holder != self.name, "it ended, and still holds the Lease"


delay = st.sampled_from([0.0, 0.01, 0.3, 1.9, 3.0, 6.0])
verb = st.sampled_from(
    ["nothing", "pause", "wake", "cut", "join", "kill", "end", "label", "seconds", "delete", "outbid"]
)
step = st.tuples(verb, st.integers(0, 2), st.sampled_from([0.1, 0.9, 2.5, 9.0, 16.0, 20.0]))
"""What happens, to which of the three (0: to whoever leads), and for how many seconds."""


async def happen(what: str, server: Server, living: list[Candidate], about: int, delays: list[float]) -> None:
    """One thing, to one process, or to the Lease."""
    one = living[about]
    match what:
        case "pause":
            one.woken.clear()
        case "wake":
            one.woken.set()
        case "cut" | "join":
            one.cut = what == "cut"
        case "kill" | "end":
            await one.end(released=what == "end")
            living[about] = Candidate(f"process-{next(server.versions)}", server, delays)
        case "label" if server.lease is not None:
            server.lease = server.lease._replace(version=str(next(server.versions)))
        case "seconds" if server.lease is not None:
            server.lease = server.lease._replace(version=str(next(server.versions)), seconds=1)
        case "delete" if server.arrived and max(max(each.delays) for each in living) <= 0.3:
            # What nobody is protected from: a hand that deletes it while somebody's take is on its way for seconds.
            server.lease = None
        case "outbid" if one.election.epoch:
            one.election.outbid(one.election.epoch + 5)


async def play(delays: list[list[float]], steps: list[tuple[str, int, float]]) -> tuple[Server, list[Candidate]]:
    time = VirtualTime()
    server = Server(time)
    living = [Candidate(f"process-{next(server.versions)}", server, each) for each in delays]
    everybody = list(living)
    await time.advance(3)
    for what, number, seconds in steps:
        leading = next((each for each in living if each.election.holds), living[0])
        about = number or living.index(leading)
        await happen(what, server, living, about, delays[about])
        everybody += [each for each in living if each not in everybody]
        await time.advance(seconds)
    for each in living:
        each.cut, each.turns = False, itertools.cycle([0.01])
        each.woken.set()
    await time.advance(4 * rules.LASTS)
    assert sum(each.election.holds for each in living) == 1, "nobody leads, or two do"
    for each in living:
        await each.end(released=False)
    return server, everybody


@settings(deadline=None, max_examples=150)
@example([[0.01, 0.01, 3.0], [0.01], [0.01]], [("cut", 0, 20.0)])
@example([[0.01, 0.01, 0.01, 3.0], [0.01], [0.01]], [("cut", 0, 20.0)])
@given(st.lists(st.lists(delay, min_size=1, max_size=6), min_size=3, max_size=3), st.lists(step, max_size=25))
def test_writes_arrive_in_the_order_of_their_epochs(
    delays: list[list[float]], steps: list[tuple[str, int, float]]
) -> None:
    note(f"{delays} {steps}")
    server, everybody = asyncio.run(play(delays, steps))
    epochs = [epoch for epoch, _ in server.arrived]
    assert epochs == sorted(epochs)
    assert len(set(server.arrived)) == len(set(epochs)), "two have written in terms of the same number"
    assert all(each.terms == sorted(set(each.terms)) for each in everybody)


async def test_a_crashed_leader_is_followed_within_17_s_and_one_that_ends_within_3() -> None:
    time = VirtualTime()
    server = Server(time)
    first = Candidate("first", server, [0.01])
    await time.advance(5)
    assert first.election.holds
    second = Candidate("second", server, [0.01])
    await time.advance(7.3)
    await first.end(released=False)
    before = time.now
    while not second.election.holds:
        await time.advance(0.05)
        assert time.now - before < 17
    assert time.now - before > 10
    third = Candidate("third", server, [0.01])
    await time.advance(3)
    ending = asyncio.ensure_future(second.election.release())
    before = time.now
    while not third.election.holds:
        await time.advance(0.05)
        assert time.now - before < 3
    await ending
    for each in (second, third):
        await each.end(released=False)


async def test_a_lease_that_was_deleted_begins_above_every_epoch_that_is_known() -> None:
    time = VirtualTime()
    server = Server(time)
    one = Candidate("one", server, [0.01], newest=41)
    await time.advance(rules.LASTS - 1)
    assert not one.terms, "who led before may not know yet that the Lease is gone"
    await time.advance(3)
    assert one.election.epoch == 42
    server.lease = None
    await time.advance(5)
    assert one.election.epoch == 43
    await one.end(released=False)


async def test_who_waited_does_not_take_a_deleted_lease_before_its_holder_must_know() -> None:
    time = VirtualTime()
    server = Server(time)
    one, two = Candidate("one", server, [0.01]), Candidate("two", server, [0.01])
    await time.advance(9)
    leader, other = (one, two) if one.election.holds else (two, one)
    leader.cut = True
    server.lease = None
    await time.advance(8)
    assert not other.election.epoch
    await time.advance(20)
    assert other.election.holds
    assert other.terms[0] > leader.terms[0]
    for each in (one, two):
        await each.end(released=False)


async def test_an_epoch_that_no_lease_can_name_ends_nobody() -> None:
    time = VirtualTime()
    one = Candidate("one", Server(time), [0.01], newest=rules.CREDIBLE)
    await time.advance(rules.LASTS + 3)
    assert one.election.epoch == rules.CREDIBLE + 1
    await one.end(released=False)


async def test_who_may_not_write_is_told_so() -> None:
    time = VirtualTime()
    one = Candidate("one", Server(time), [0.01])
    with pytest.raises(NotLeading, match="does not lead"):
        one.election.permit()
    await time.advance(3)
    one.election.permit()
    one.cut = True
    await time.advance(rules.DEADLINE + 0.1)
    with pytest.raises(NotLeading):
        one.election.permit()
    await one.end(released=False)


async def test_a_wall_clock_that_is_set_ends_no_term() -> None:
    """Each process's in its own way: an hour ahead, back to 1970, on each look."""

    class Stepping(VirtualTime):
        looks = 0

        def wall(self) -> datetime:
            self.looks += 1
            return datetime.fromtimestamp((self.looks % 3) * 1e9, UTC)

    time = Stepping()
    server = Server(time)
    processes = [Candidate(name, server, [0.01]) for name in ("one", "two")]
    await time.advance(120)
    assert sorted(each.terms for each in processes) == [[], [1]]
    assert time.looks > 40
    for each in processes:
        await each.end(released=False)
