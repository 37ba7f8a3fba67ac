"""The work queue beside a model: no name is lost, worked on twice at once, or worked on without reason."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from configregistry.reconcile.queue import FIRST_RETRY, LAST_RETRY, WorkQueue


def make() -> WorkQueue[str]:
    return WorkQueue(lambda: 1.0)


async def test_added_twice_is_worked_on_once() -> None:
    queue = make()
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_added_while_worked_on_comes_again_after_it_and_not_before() -> None:
    queue = make()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("a")
    assert await waiting == "a"


async def test_get_waits_for_a_name() -> None:
    queue = make()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add("a")
    assert await waiting == "a"


async def test_the_earlier_of_two_timers_counts() -> None:
    queue = make()
    queue.add_after("a", 3600)
    queue.add_after("a", 0)
    queue.add_after("a", 3600)
    assert await asyncio.wait_for(queue.get(), 5) == "a"


async def test_adding_now_replaces_the_timer() -> None:
    queue = make()
    queue.add_after("a", 0.0)
    queue.add("a")
    assert await queue.get() == "a"
    queue.done("a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(queue) == 0


async def test_retries_double_up_to_the_last_and_restart_after_success() -> None:
    queue = make()
    delays = [queue.retry("a") for _ in range(30)]
    assert delays[:3] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY]
    assert delays[-1] == LAST_RETRY
    assert all(earlier <= later for earlier, later in pairwise(delays))
    queue.succeeded("a")
    assert queue.retry("a") == FIRST_RETRY
    queue.forget("a")


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.sampled_from("abc"))))
def test_any_order_keeps_each_name_once_and_loses_none(steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        queue = make()
        wanted: set[str] = set()
        working: set[str] = set()
        for step, name in steps:
            if step == "add":
                queue.add(name)
                wanted.add(name)
            elif step == "done" and name in working:
                working.discard(name)
                queue.done(name)
            elif step == "get" and wanted - working:
                taken = await asyncio.wait_for(queue.get(), 5)
                assert taken in wanted
                assert taken not in working
                wanted.discard(taken)
                working.add(taken)
        for name in working:
            queue.done(name)
        left = {await asyncio.wait_for(queue.get(), 5) for _ in range(len(queue))}
        assert left == wanted

    asyncio.run(play())
