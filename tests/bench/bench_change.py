"""Whether one more change costs more when there are more registries. It must not.

    PYTHONPATH=operator python -m tests.bench --only change

With 100, 1,000 and 10,000 registries in memory: the time from an apply, and from the status write that
follows it, until the new version is read; then, without any reads, the processor time that the product
spends on one change (less what it spends when nothing happens).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import NamedTuple

from tests.bench import harness
from tests.bench.product import Product
from tests.bench.timeline import Change, Reader, Seen, apply, change, watching
from tests.bench.world import NAMESPACES_USED, World, place

from configregistry.kube.client import Api

SIZES = (100, 1_000, 10_000)
QUICK_SIZES = (100, 200)
CHANGES = 100
WARM_UP = 10
BLOCKS = 5
PER_SECOND = 10.0


class Cost(NamedTuple):
    """What changes cost with so many registries; seconds."""

    registries: int
    readable: list[float]
    """From accepted to read."""
    served: list[float]
    """From the event of the status, as a client sees it, to read. Below 0: the product was told first."""
    processor: list[float]
    """Of one change: the mean of each block."""
    idle: float
    """Cores used when nothing happens."""
    resident: float


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    costs = []
    for size in QUICK_SIZES if quick else SIZES:
        world.grow_decided(size)
        with world.product() as product:
            product.ready()
            product.settled()
            costs.append(_measure(world, product, 20 if quick else CHANGES))
    return _report(costs)


def _measure(world: World, product: Product, count: int) -> Cost:
    changes: list[Change] = []
    noted: list[Seen] = []
    processor: list[float] = []
    idle: list[float] = []

    async def measure(api: Api) -> None:
        async with watching(api, place(0)[0]) as seen, Reader(product) as reader:
            noted.append(seen)
            some = range(0, world.registries, NAMESPACES_USED)  # all of one namespace
            for turn in range(WARM_UP + count):
                if turn == WARM_UP:
                    changes.clear()
                changes.append(await change(api, reader, seen, some[turn * 7 % len(some)], world.edit()))
        for _ in range(BLOCKS):
            await asyncio.sleep(2.0)  # what tidies up after the changes has its turn
            before = product.cpu()
            await asyncio.sleep(2.0)
            idle.append((product.cpu() - before) / 2.0)
            begin, before = time.monotonic(), product.cpu()
            for turn in range(count // BLOCKS):
                await asyncio.sleep(max(0.0, begin + turn / PER_SECOND - time.monotonic()))
                await apply(api, turn * 13 % world.registries, world.edit())
            await asyncio.sleep(1.0)
            used = product.cpu() - before - statistics.median(idle) * (time.monotonic() - begin)
            processor.append(used / (count // BLOCKS))

    world.run(measure)
    served = []
    for each in changes:
        written = each.decided(noted[0])
        if written is not None:
            served.append(each.readable - written)
    readable = [each.readable - each.accepted for each in changes]
    return Cost(world.registries, readable, served, processor, statistics.median(idle), product.resident())


def _report(costs: list[Cost]) -> str:
    rows = [
        [
            f"{each.registries:,}",
            *(f"{harness.percentile(each.readable, share) * 1e3:.1f}" for share in (0.5, 0.95)),
            *(f"{harness.percentile(each.served, share) * 1e3:.1f}" for share in (0.5, 0.95)),
            harness.spread(each.processor, 1e-3, 1),
            f"{statistics.median(each.processor) / statistics.median(costs[0].processor):.2f}",
            f"{each.idle * 100:.1f}",
            f"{each.resident:.0f}",
        ]
        for each in costs
    ]
    header = [
        "registries",
        "accepted to readable p50 ms",
        "p95",
        "status event to readable p50 ms",
        "p95",
        "processor ms a change",
        f"ratio to {costs[0].registries}",
        "idle % of a core",
        "resident MiB",
    ]
    return f"### One more change\n\n{harness.facts()}\n\n{harness.table(header, rows)}"
