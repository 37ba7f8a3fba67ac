"""The election where an answer is cut off, a hand meddles, or its namespace is not there: in virtual time.

The API server is the fake of the election's property tests: one that is slow on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from tests.property.test_election_machine import Candidate, Server
from tests.servers.virtual import VirtualTime

from configregistry.kube import election as rules
from configregistry.kube.election import Election
from configregistry.kube.failures import NotFound
from configregistry.kube.lease import Found, Leases


async def ends(one: Candidate) -> None:
    """As a process ends: what is under way is cut off, and then the Lease is given up."""
    for task in one.tasks:
        task.cancel()
    await asyncio.gather(*one.tasks, return_exceptions=True)
    releasing = asyncio.ensure_future(one.election.release())
    await one.server.time.advance(rules.RELEASE)
    await releasing


async def comes(server: Server, condition: Callable[[Found | None], bool]) -> None:
    before = server.time.now
    while not condition(server.lease):
        await server.time.advance(0.05)
        assert server.time.now - before < 60


def held_by(server: Server) -> str:
    assert server.lease is not None
    return server.lease.holder


async def test_a_renewal_whose_answer_is_cut_off_does_not_keep_the_lease_from_being_given_up() -> None:
    server = Server(VirtualTime())
    one = Candidate("one", server, [0.2])
    await comes(server, lambda lease: lease is not None)
    await server.time.advance(0.5)
    assert one.election.holds
    former = server.lease
    await comes(server, lambda lease: lease != former)
    await ends(one)
    assert held_by(server) == ""


async def test_a_lease_whose_taking_is_cut_off_is_given_up() -> None:
    server = Server(VirtualTime())
    one = Candidate("one", server, [0.2])
    await comes(server, lambda lease: lease is not None)
    assert not one.election.epoch, "nobody has told it yet"
    await ends(one)
    assert held_by(server) == ""


async def test_the_lease_of_somebody_else_is_left_alone() -> None:
    server = Server(VirtualTime())
    one = Candidate("one", server, [0.01])
    await server.time.advance(3)
    assert one.election.holds
    other = server.put("other", rules.LASTS, 7)
    await ends(one)
    assert server.lease == other


@pytest.mark.parametrize("seconds", [0, 1, rules.LASTS - 1])
async def test_a_duration_that_a_hand_has_shortened_lets_nobody_in_early(seconds: int) -> None:
    """Its holder, cut off, may write until its own deadline, whatever the object says by now."""
    server = Server(VirtualTime())
    one = Candidate("one", server, [0.01])
    await server.time.advance(3)
    other = Candidate("other", server, [0.01])
    await server.time.advance(3)
    assert server.lease is not None
    one.cut = True
    server.lease = server.lease._replace(version=str(next(server.versions)), seconds=seconds)
    before = server.time.now
    while not other.election.holds:
        await server.time.advance(0.05)
        assert not (one.election.holds and other.election.holds)
        assert server.time.now - before < 60
    assert server.time.now - before >= rules.DEADLINE
    for each in (one, other):
        await each.end(released=False)


class Nowhere:
    """Leases in a namespace that is not there: 404 to whoever reads one, and to whoever makes one."""

    place = "gone/configregistry"

    async def read(self) -> None:
        return None

    async def take(self, *_: Any) -> Found:
        raise NotFound("namespaces gone not found")


async def test_a_namespace_that_is_not_there_is_said_ever_more_rarely() -> None:
    time = VirtualTime()
    election = Election(cast("Leases", Nowhere()), "one", time, lambda: 0, jitter=lambda: 1.0, sleep=time.sleep)
    with capture_logs() as lines:
        task = asyncio.ensure_future(election.win())
        await time.advance(600)
    assert not task.done()
    assert [line["failures"] for line in lines] == [1, 8, 16, 32, 64, 128, 256, 512]
    assert {(line["log_level"], line["error"]) for line in lines} == {("warning", "namespaces gone not found")}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
