"""A queue of a term that is over: nothing of it comes again, and no timer keeps it alive."""

from __future__ import annotations

import asyncio
import gc
import weakref

from tests.unit.reconcile_world import NAME, SPACE, Checks, FakeApi, Process, played, until

from configregistry.kube.paths import REGISTRIES
from configregistry.reconcile.queue import LAST_RETRY, WorkQueue


def test_a_closed_queue_gives_nothing_however_long_one_waits() -> None:
    async def life() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda: 1.0)
        for name in ("now", "worked", "again", "failed", "later"):
            queue.add(name)
        assert [await queue.get() for _ in range(2)] == ["now", "worked"]
        queue.add("worked")
        queue.retry("failed")
        queue.add_after("later", LAST_RETRY)
        queue.close()
        queue.done("now")
        queue.done("worked")
        await asyncio.sleep(10 * LAST_RETRY)
        assert len(queue) == 0
        assert queue.failures("failed") == 0

    played(life())


async def test_no_timer_keeps_a_closed_queue() -> None:
    queue: WorkQueue[str] = WorkQueue(lambda: 1.0)
    queue.add_after("later", 3600.0)
    queue.retry("failed")
    kept = weakref.ref(queue)
    queue.close()
    del queue
    gc.collect()
    assert kept() is None


def test_a_process_that_ended_has_nothing_queued() -> None:
    async def life() -> None:
        api = FakeApi(ill=lambda _method, _path: "down")
        api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": {"data": {"a": 1}}})
        process = Process(api, Checks(), 0.0)
        queue = process._controller._queue
        await until(lambda: queue.failures((SPACE, NAME)) > 3)
        await asyncio.sleep(0.1)
        assert queue._timers
        await process.kill()
        assert not queue._timers
        assert len(queue) == 0

    played(life())
