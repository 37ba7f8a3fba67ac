"""The demo's application: 50 workers that price orders, each with the configuration it is given.

It knows the registry only by its HTTP API, as any application would, and nothing of the demo: what
it serves on /healthz is the outcome of real work. Each worker asks under its own name, with the
ETag of what it has; an answer that it cannot get leaves it with its last good configuration.

| path | tells |
| --- | --- |
| /healthz | 200, or 500 when the last work of any worker failed |
| /workers | each worker, and when /healthz first failed |
| /journal?after=N | each change of a worker's version, variant or health since entry N |

Times are seconds of the machine's monotonic clock: they can be compared between processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import random
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

PERIOD = 0.2
_ORDERS = 24
_JOURNAL = 100_000


@dataclass
class Health:
    """What was answered on /healthz; `first_failed_at` belongs to the latest unbroken row of failures."""

    asked: int = 0
    failed: int = 0
    failing: bool = False
    first_failed_at: float | None = None

    def answered(self, failing: bool) -> None:
        """Count an answer."""
        self.asked += 1
        self.failed += failing
        if failing and not self.failing:
            self.first_failed_at = time.monotonic()
        self.failing = failing


@dataclass
class Worker:
    """One worker: its name, its configuration, how its last work went."""

    name: str
    orders: list[int]
    config: dict[str, Any] | None = None
    etag: str = ""
    ok: bool | None = None
    error: str = ""
    read_error: str = ""
    since: float = field(default_factory=time.monotonic)
    """When any of version, variant and ok last changed."""

    @property
    def version(self) -> int | None:
        """Which version it has."""
        return None if self.config is None else int(self.config["version"])

    @property
    def variant(self) -> str | None:
        """Whether that is the stable one or the canary."""
        return None if self.config is None else str(self.config["variant"])

    @property
    def revision(self) -> int | None:
        """Which revision of the registry it was read at."""
        return None if self.config is None else int(self.config["revision"])

    async def read(self, session: aiohttp.ClientSession, url: str) -> None:
        """Ask for the configuration; without an answer the last good one stays."""
        headers = {"If-None-Match": self.etag} if self.etag else {}
        try:
            async with session.get(url, params={"target": self.name}, headers=headers) as answer:
                if answer.status == 200:
                    self.config = await answer.json()
                    self.etag = answer.headers.get("ETag", "")
                self.read_error = "" if answer.status in (200, 304) else f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.read_error = f"{type(error).__name__}: {error}"

    async def work(self) -> None:
        """Price the orders with the configuration; whatever goes wrong in it is this worker's failure."""
        if self.config is None:
            return
        try:
            await price(self.orders, self.config["data"])
        except Exception as error:  # noqa: BLE001 - a worker survives its work, whatever that raises
            self.ok, self.error = False, f"{type(error).__name__}: {error}"
        else:
            self.ok, self.error = True, ""

    def told(self) -> dict[str, Any]:
        """Describe it."""
        return {
            "name": self.name,
            "version": self.version,
            "variant": self.variant,
            "revision": self.revision,
            "ok": self.ok,
            "error": self.error,
            "readError": self.read_error,
            "since": self.since,
        }


async def price(orders: list[int], config: dict[str, Any]) -> int:
    """Price orders (in cents) in batches of the configured size, within the configured time."""
    size, percent = config["batch.size"], config["discount.percent"]
    batches = math.ceil(len(orders) / size)
    total = 0
    async with asyncio.timeout(config["timeout.ms"] / 1000):
        for batch in range(batches):
            total += sum(order * (100 - percent) // 100 for order in orders[batch * size : (batch + 1) * size])
            await asyncio.sleep(0)
    return total


class Shop:
    """The workers and what they tell."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._workers = [_worker(number) for number in range(count)]
        self._health = Health()
        self._journal: deque[dict[str, Any]] = deque(maxlen=_JOURNAL)
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Let all workers work until cancelled."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            for number, worker in enumerate(self._workers):
                # Spread over the period, as processes that started at different times are.
                group.create_task(self._live(worker, session, PERIOD * number / len(self._workers)))

    def application(self) -> web.Application:
        """Give the HTTP side."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/workers", self._told)
        application.router.add_get("/journal", self._entries)
        return application

    async def _live(self, worker: Worker, session: aiohttp.ClientSession, offset: float) -> None:
        await asyncio.sleep(offset)
        while True:
            began = time.monotonic()
            before = (worker.version, worker.variant, worker.ok)
            await worker.read(session, self._url)
            await worker.work()
            if (worker.version, worker.variant, worker.ok) != before:
                worker.since = time.monotonic()
                self._journal.append({"number": next(self._numbers), **worker.told()})
            await asyncio.sleep(max(0.0, began + PERIOD - time.monotonic()))

    async def _healthz(self, _request: web.Request) -> web.Response:
        failing = [worker for worker in self._workers if worker.ok is False]
        self._health.answered(bool(failing))
        told: dict[str, Any] = {"failing": len(failing), "of": len(self._workers)}
        if failing:
            told["first"] = f"{failing[0].name}: {failing[0].error}"
        return web.json_response(told, status=500 if failing else 200)

    async def _told(self, _request: web.Request) -> web.Response:
        health = {
            "asked": self._health.asked,
            "failed": self._health.failed,
            "firstFailedAt": self._health.first_failed_at,
        }
        workers = [worker.told() for worker in self._workers]
        return web.json_response({"now": time.monotonic(), "health": health, "workers": workers})

    async def _entries(self, request: web.Request) -> web.Response:
        after = int(request.query.get("after", "0"))
        return web.json_response([entry for entry in self._journal if entry["number"] > after])


def _worker(number: int) -> Worker:
    name = f"worker-{number:02}"
    orders = random.Random(name)
    return Worker(name, [orders.randrange(100, 20_000) for _ in range(_ORDERS)])


async def serve(shop: Shop, port: int) -> None:
    """Run the shop until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(shop.application(), access_log=None)
    await runner.setup()
    work = asyncio.create_task(shop.run())
    stop = asyncio.create_task(ended.wait())
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        sys.stdout.write(f"the shop is open on port {port}\n")
        sys.stdout.flush()
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, stop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await runner.cleanup()


def main() -> None:
    """Read the arguments and open."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configuration", required=True, help="URL of the registry")
    parser.add_argument("--port", type=int, required=True, help="port on loopback for the shop's own endpoints")
    parser.add_argument("--workers", type=int, default=50)
    asked = parser.parse_args()
    asyncio.run(serve(Shop(asked.configuration, asked.workers), asked.port))


if __name__ == "__main__":
    main()
