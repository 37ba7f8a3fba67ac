"""A restart with many registries: how soon it is ready, how much memory it takes, what readers notice.

    PYTHONPATH=operator python -m tests.bench --only restart

Goal: 10,000 registries of 500 B ready within 15 s of the process's start, below 400 MiB. Ready is what
/readyz says: everything listed is published. The reconciliations of all registries come after that; a
reader at a fixed rate tells whether they hold up reads.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from tests.bench import harness
from tests.bench.load import readers
from tests.bench.product import Product
from tests.bench.world import World, place

REGISTRIES = 10_000
NEW = 1_000
ROUNDS = 5
RATE = 500.0


class Restart(NamedTuple):
    """One start: seconds, MiB."""

    ready: float
    processor: float
    resident: float
    settled: float
    settled_processor: float
    settled_resident: float
    peak: float
    p50: float
    p99: float


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    registries, new, rounds = (200, 50, 2) if quick else (REGISTRIES, NEW, ROUNDS)
    world.grow_decided(registries)
    with world.product() as product:
        product.ready()
        product.settled()  # whatever this version of it still has to tidy up is none of a restart's
    starts = []
    for _ in range(rounds):
        with world.product() as product:
            starts.append(_start(product, world))
    return f"{_report(world.registries, starts)}\n\n{_first_start(world, world.registries + new)}"


def _start(product: Product, world: World) -> Restart:
    ready = product.ready()
    processor, resident = product.cpu(), product.resident()
    latencies: list[float] = []
    namespace, name = place(world.registries // 2)
    url = f"{product.url}/v1/namespaces/{namespace}/registries/{name}/keys/key.1"
    reading = threading.Thread(target=lambda: latencies.extend(readers(url, RATE, 4.0)))
    reading.start()
    reading.join()
    settled = product.settled(world.registries)
    return Restart(
        ready,
        processor,
        resident,
        settled,
        product.cpu(),
        product.resident(),
        product.peak(),
        harness.percentile(latencies, 0.5),
        harness.percentile(latencies, 0.99),
    )


def _first_start(world: World, registries: int) -> str:
    new = registries - world.registries
    world.grow(registries)
    with world.product() as product:
        ready = product.ready()
        settled = product.settled(registries)
        used, peak = product.cpu(), product.peak()
    return (
        f"A start that finds {new:,} registries that are new (beside {registries - new:,} old ones): ready after "
        f"{ready:.1f} s, all versions recorded, decided and tidied after {settled:.1f} s ({used:.1f} s of processor, "
        f"peak {peak:.0f} MiB)."
    )


def _report(registries: int, starts: list[Restart]) -> str:
    def row(text: str, name: str, unit: float = 1.0, digits: int = 1) -> list[str]:
        return [text, harness.spread([getattr(each, name) for each in starts], unit, digits)]

    rows = [
        row("process start to ready, s", "ready"),
        row("processor until then, s", "processor"),
        row("resident when ready, MiB", "resident", digits=0),
        row("start to every registry reconciled, s (measured 4 s after ready at the earliest)", "settled"),
        row("processor until then, s", "settled_processor"),
        row("resident then, MiB", "settled_resident", digits=0),
        row("peak, MiB", "peak", digits=0),
        row("read p50 in the 4 s after ready, ms", "p50", 1e-3, 2),
        row("read p99 in the 4 s after ready, ms", "p99", 1e-3, 2),
    ]
    header = [f"{registries:,} registries of 500 B", f"median (min-max) of {len(starts)} starts"]
    return f"### Restart\n\n{harness.facts()}\n\n{harness.table(header, rows)}"
