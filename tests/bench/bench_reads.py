"""Reads of one key over HTTP: throughput beside nginx, and what publications do to the slowest reads.

    PYTHONPATH=operator python -m tests.bench --only reads

The server runs on one core, everything else (load, API server, etcd) on the others. nginx gives the
same bytes from a file. Goal: p99 with 10 publications a second within 2 times that of a quiet server.
A publication is the whole product at work: apply, version, status write, watch, swap.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.bench import harness
from tests.bench.load import Measured, readers, wrk
from tests.bench.nginx import nginx
from tests.bench.product import Product, client_cores, pin
from tests.bench.timeline import apply
from tests.bench.world import World, place

from configregistry.kube.client import Api

REGISTRIES = 100
PUBLICATIONS = 10.0
RATE = 1_000.0
ROUNDS = 5
MODES = ("quiet", "publishing")

T = TypeVar("T")

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    pin(os.getpid(), client_cores())
    try:
        return _run(world, quick=quick)
    finally:
        pin(os.getpid(), set(range(os.cpu_count() or 1)))


def _run(world: World, *, quick: bool) -> str:
    world.grow_decided(REGISTRIES)
    rounds, seconds = (2, 2.0) if quick else (ROUNDS, 10.0)
    namespace, name = place(1)
    with world.product(pinned=True) as product:
        product.ready()
        product.settled()
        url = f"{product.url}/v1/namespaces/{namespace}/registries/{name}/keys/key.1"
        with _open(url, timeout=5) as answer:
            body = answer.read()
        with nginx(world.directory, body) as peer:
            throughput = _throughput(url, peer, rounds, seconds / 2)
        return f"{throughput}\n\n{_latency(world, product, url, rounds, seconds)}"


def _throughput(url: str, peer: str, rounds: int, seconds: float) -> str:
    measured: dict[str, list[Measured]] = {url: [], peer: []}
    for target in measured:
        wrk(target, 1.0)
    for turn in range(rounds):
        for target in sorted(measured, reverse=bool(turn % 2)):
            measured[target].append(wrk(target, seconds))
    rates = {target: [each.rate for each in found] for target, found in measured.items()}
    rows = [
        [
            text,
            harness.spread(rates[target], 1, 0),
            harness.ratios(rates[target], rates[peer]),
            harness.spread([each.p50 for each in measured[target]], 1e-3),
            harness.spread([each.p99 for each in measured[target]], 1e-3),
        ]
        for text, target in (("configregistry", url), ("nginx, the same bytes from a file", peer))
    ]
    header = ["one key, 16 connections, one core", "reads/s", "ratio to nginx", "p50 ms", "p99 ms"]
    return f"### Reads: throughput\n\n{harness.facts('granian')}\n\n{harness.table(header, rows)}"


def _latency(world: World, product: Product, url: str, rounds: int, seconds: float) -> str:
    full: dict[str, list[Measured]] = {mode: [] for mode in MODES}
    paced: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    made: list[float] = []
    for turn in range(rounds):
        for mode in MODES if turn % 2 else reversed(MODES):
            with _publications(world, product, made, 2 * seconds) if mode == "publishing" else _nothing():
                full[mode].append(wrk(url, seconds))
                paced[mode].append(readers(url, RATE, seconds))
            time.sleep(1.0)
    rows = [
        _row("16 connections, as fast as they are answered (wrk)", full, lambda run: (run.p50, run.p99)),
        _row(
            f"{RATE:,.0f} reads/s, from when each was due",
            paced,
            lambda run: (harness.percentile(run, 0.5), harness.percentile(run, 0.99)),
        ),
    ]
    header = ["load", "p50 ms quiet", "p50 ms publishing", "p99 ms quiet", "p99 ms publishing", "ratio of p99"]
    told = f"Publications a second: {harness.spread(made, 1, 1)}; {world.registries:,} registries in memory."
    return f"### Reads: publications meanwhile\n\n{harness.facts('granian')}\n\n{harness.table(header, rows)}\n\n{told}"


def _row(text: str, runs: dict[str, list[T]], shares: Callable[[T], tuple[float, float]]) -> list[str]:
    p50s = [[shares(run)[0] for run in runs[mode]] for mode in MODES]
    p99s = [[shares(run)[1] for run in runs[mode]] for mode in MODES]
    quiet, publishing = p99s
    return [text, *(harness.spread(each, 1e-3) for each in (*p50s, *p99s)), harness.ratios(publishing, quiet)]


@contextmanager
def _publications(world: World, product: Product, made: list[float], seconds: float) -> Iterator[None]:
    """Apply ten changes a second meanwhile, to registries in turn; count what the product decided."""
    product.lines()
    stop = threading.Event()
    begin = time.monotonic()

    async def publish(api: Api) -> None:
        due, under_way = 0, set[asyncio.Task[bytes]]()
        while not stop.is_set() and time.monotonic() < begin + seconds + 60:
            task = asyncio.create_task(apply(api, due % world.registries, world.edit()))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += 1
            await asyncio.sleep(max(0.0, begin + due / PUBLICATIONS - time.monotonic()))
        await asyncio.gather(*under_way)

    thread = threading.Thread(target=world.run, args=(publish,))
    thread.start()
    try:
        yield
        lasted = time.monotonic() - begin
        made.append(sum(line["event"] == "version recorded" for line in product.lines()) / lasted)
    finally:
        stop.set()
        thread.join(60)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
