"""From an apply that was accepted to the new version read over HTTP: how long, and where the time goes.

    PYTHONPATH=operator python -m tests.bench --only apply_to_read

One change at a time, 100 registries in memory. Stages are told apart by what a client sees: its own
watches of the API server, the product's log lines, and reads over one kept connection every 0.5 ms.
"""

from __future__ import annotations

from typing import Any

from tests.bench import harness
from tests.bench.product import Product
from tests.bench.timeline import Change, Reader, Seen, change, watching
from tests.bench.world import World, place

from configregistry.kube.client import Api

REGISTRIES = 100
CHANGES = 200
WARM_UP = 10


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    world.grow_decided(REGISTRIES)
    changes: list[Change] = []
    seen: list[Seen] = []
    count = 30 if quick else CHANGES
    number = 7
    with world.product() as product:
        product.ready()
        product.settled()

        async def measure(api: Api) -> None:
            async with watching(api, place(number)[0]) as noted, Reader(product) as reader:
                seen.append(noted)
                for edit in range(WARM_UP + count):
                    changes.append(await change(api, reader, noted, number, world.edit()))
                    if edit == WARM_UP - 1:
                        product.lines()
                        changes.clear()

        world.run(measure)
        return _report(product, changes, seen[0])


def _report(product: Product, changes: list[Change], seen: Seen) -> str:
    said: dict[tuple[str, int], float] = {}
    writes = 0
    for line in product.lines():
        if line["event"] == "version recorded":
            said.setdefault((line["event"], line["version"]), line["at"])
        if line["event"] == "audit":
            writes += 1
            said.setdefault((line["event"], line["to"]["stable"]), line["at"])
    stages: dict[str, list[float]] = {}

    def stage(name: str, start: float | None, end: float | None) -> None:
        if start is not None and end is not None:
            stages.setdefault(name, []).append(end - start)

    for each in changes:
        recorded, decided = (said.get((event, each.version)) for event in ("version recorded", "audit"))
        stage("apply: sent to accepted", each.sent, each.accepted)
        stage("**accepted to readable**", each.accepted, each.readable)
        stage("accepted to its watch event here", each.accepted, each.event)
        stage("accepted to version recorded (watch, gather, decide, list, create)", each.accepted, recorded)
        written = min([at for at in (decided, each.decided(seen)) if at is not None], default=None)
        stage("recorded to status written (gather, decide, PUT)", recorded, written)
        stage("status written to readable (watch, hydrate, publish, read)", written, each.readable)
    rows = [[name, *_percentiles(values)] for name, values in stages.items()]
    header = ["stage", "p50 ms", "p95 ms", "max ms"]
    told = (
        f"Status writes per change: {writes / len(changes):.2f}. Inside the product, from the event of a status to "
        f"its publication: {_loads(product) * 1e3:.2f} ms on average (`registry_load_duration_seconds`)."
    )
    return "\n".join(
        [
            f"### From apply to read: {len(changes)} changes, one at a time\n",
            harness.facts(),
            "",
            harness.table(header, rows),
            "",
            told,
        ]
    )


def _percentiles(values: list[float]) -> list[Any]:
    return [f"{harness.percentile(values, share) * 1e3:.1f}" for share in (0.5, 0.95, 1)]


def _loads(product: Product) -> float:
    told = product.metrics(registry=f'registry="{place(7)[1]}"')
    total, count = (
        sum(value for name, value in told.items() if name.startswith(f"registry_load_duration_seconds_{part}"))
        for part in ("sum", "count")
    )
    return total / count
