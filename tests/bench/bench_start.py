"""How long a replica takes from its start until 1,000,000 keys in 100 registries are served.

PYTHONPATH=operator python -m tests.bench --only start
"""

from __future__ import annotations

import asyncio
import json
import urllib.request

import msgspec
from tests.bench import harness
from tests.bench.product import SERVER_CORE, Product
from tests.bench.world import World, say

from configregistry.kube.client import Api
from configregistry.kube.paths import NAMESPACES, REGISTRIES

REGISTRIES_HELD = 100
KEYS = 10_000
STARTS = 5
NAMESPACE = "bench-start"
CONCURRENT = 4
QUICK = 5
"""Registries of a quick run."""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    count = QUICK if quick else REGISTRIES_HELD
    say(f"creating {count} registries of {KEYS:,} keys")
    with world.product() as product:
        product.ready()
        world.run(lambda api: _create(api, count))
        product.settled()
    rows = []
    for command in ("serve", "run"):
        starts = [_start(world, command, count) for _ in range(1 if quick else STARTS)]
        ready, processor, resident, peak = zip(*starts, strict=True)
        rows.append(
            [
                f"`configregistry {command}`",
                harness.spread(ready, 1, 1),
                harness.spread(processor, 1, 1),
                harness.spread(resident, 1, 0),
                harness.spread(peak, 1, 0),
            ]
        )
    header = [
        f"{count * KEYS:,} keys in {count} registries, one core",
        "process start to all served, s",
        "processor until then, s",
        "resident then, MiB",
        "peak, MiB",
    ]
    return f"## Start\n\n{harness.facts()}\n\n{harness.table(header, rows)}"


def _start(world: World, command: str, count: int) -> tuple[float, float, float, float]:
    with world.product(command, cores={SERVER_CORE}) as product:
        ready = product.ready()
        processor, resident = product.cpu(), product.resident()
        for number in range(count):
            _served(product, number)
        return ready, processor, resident, product.peak()


def _served(product: Product, number: int) -> None:
    """See that the last key of a registry is there."""
    path = f"/v1/namespaces/{NAMESPACE}/registries/large-{number}/keys/key.{KEYS - 1:05}"
    with _open(product.url + path, timeout=10) as answer:
        assert json.loads(answer.read())["value"] == f"{number}.{KEYS - 1}"


async def _create(api: Api, count: int) -> None:
    await api.create(NAMESPACES.path(), msgspec.json.encode({"metadata": {"name": NAMESPACE}}))
    numbers = iter(range(count))

    async def create() -> None:
        for number in numbers:
            made = {
                "apiVersion": "configregistry.dev/v1alpha1",
                "kind": "ConfigRegistry",
                "metadata": {"name": f"large-{number}", "namespace": NAMESPACE},
                "spec": {"data": {f"key.{key:05}": f"{number}.{key}" for key in range(KEYS)}},
            }
            await api.create(REGISTRIES.path(NAMESPACE), msgspec.json.encode(made))

    await asyncio.gather(*(create() for _ in range(CONCURRENT)))
