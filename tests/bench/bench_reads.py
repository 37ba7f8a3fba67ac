"""Reads of one key over HTTP: what publications do to the slowest of them.

    PYTHONPATH=operator python -m tests.bench --only reads

The server runs on one core, the load, the API server and etcd on the others. Goal: p99 with 10 publications
a second within 2 times that of a quiet server. A publication is the whole product at work: apply, version,
status write, watch, swap. It is measured for one process that does all of it, for a replica that only serves
while another one decides, and for one whose API server costs the load nothing (`fed`). nginx in the replica's
place tells what the load waits for, whoever answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

from tests.bench import harness
from tests.bench.load import Measured, readers, wrk
from tests.bench.nginx import nginx
from tests.bench.product import SERVER_CORE, Product, client_cores, pin
from tests.bench.world import World, place, say
from tests.cluster.ports import LOOPBACK, pick_ports

REGISTRIES = 100
PUBLICATIONS = 10.0
RATE = 1_000.0
ROUNDS = 4
MODES = ("quiet", "publishing")
PATH = "/v1/namespaces/{}/registries/{}/keys/key.1".format(*place(1))

T = TypeVar("T")
Publishing = Callable[[], AbstractContextManager[None]]

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
    rounds, seconds = (2, 2.0) if quick else (ROUNDS, 5.0)
    server, others = {SERVER_CORE}, client_cores()
    with world.product(cores=server) as product:
        product.ready()
        product.settled()
        url = _url(product)
        with _open(url, timeout=5) as answer:
            body = answer.read()
        together = _latency(url, rounds, seconds, lambda: _publications(world, product))
    with world.product("controller", cores=others) as product:
        product.ready()
        product.settled()
        with nginx(world.directory, key=body) as peer:
            control = _latency(peer.url, rounds, seconds, lambda: _publications(world, product))
        with world.product("serve", cores=server) as replica:
            replica.ready()
            apart = _latency(_url(replica), rounds, seconds, lambda: _publications(world, product))
    with _fed() as (url, publishing):
        fed = _latency(url, rounds, seconds, publishing)
    rows = [
        *_rows("a replica, fed: its API server is elsewhere", fed),
        *_rows("`configregistry serve`; controller and API server on the load's cores", apart),
        *_rows("nginx in its place: what the load itself waits for", control),
        *_rows("`configregistry run`: decides and serves", together),
    ]
    header = ["server", "load", "p50 ms quiet", "publishing", "p99 ms quiet", "publishing", "ratio of p99"]
    title = f"## Reads while {PUBLICATIONS:.0f} versions a second are published"
    return f"{title}\n\n{harness.facts()}\n\n{harness.table(header, rows)}"


def _url(product: Product) -> str:
    return product.url + PATH


def _rows(server: str, rows: list[list[str]]) -> list[list[str]]:
    return [[server, *row] for row in rows]


def _latency(url: str, rounds: int, seconds: float, publishing: Publishing) -> list[list[str]]:
    full: dict[str, list[Measured]] = {mode: [] for mode in MODES}
    paced: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    for turn in range(rounds):
        for mode in MODES if turn % 2 else reversed(MODES):
            with publishing() if mode == "publishing" else nullcontext():
                full[mode].append(wrk(url, seconds))
                paced[mode].append(readers(url, RATE, seconds))
            time.sleep(1.0)
    return [
        _row("16 connections, as fast as they are answered (wrk)", full, lambda run: (run.p50, run.p99)),
        _row(
            f"{RATE:,.0f} reads/s, from when each was due",
            paced,
            lambda run: (harness.percentile(run, 0.5), harness.percentile(run, 0.99)),
        ),
    ]


def _row(text: str, runs: dict[str, list[T]], shares: Callable[[T], tuple[float, float]]) -> list[str]:
    p50s = [[shares(run)[0] for run in runs[mode]] for mode in MODES]
    p99s = [[shares(run)[1] for run in runs[mode]] for mode in MODES]
    quiet, publishing = p99s
    return [text, *(harness.spread(each, 1e-3) for each in (*p50s, *p99s)), harness.ratios(publishing, quiet)]


@contextmanager
def _publications(world: World, product: Product) -> Iterator[None]:
    """Apply ten changes a second meanwhile; see that the product keeps up with them."""
    arguments = [str(world.cluster.kubeconfig), str(world.registries), str(PUBLICATIONS)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.publish", *arguments], stdin=subprocess.PIPE
    ) as publisher:
        time.sleep(3.0)
        product.lines()
        begin = time.monotonic()
        try:
            yield
            rate = sum(line["event"] == "version recorded" for line in product.lines()) / (time.monotonic() - begin)
            say(f"{rate:.1f} publications/s")
            assert rate > PUBLICATIONS * 0.7
        finally:
            assert publisher.stdin is not None
            publisher.stdin.close()
            publisher.wait(60)


@contextmanager
def _fed() -> Iterator[tuple[str, Publishing]]:
    """Run `fed`; gives its URL and what has it publish."""
    port = pick_ports(1)[0]
    command = [sys.executable, "-m", "tests.bench.fed", str(port), str(REGISTRIES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as replica:
        pipe = replica.stdin
        assert pipe is not None
        pin(replica.pid, {SERVER_CORE})
        url = f"http://{LOOPBACK}:{port}{PATH}"

        def order(rate: float) -> None:
            pipe.write(f"{rate}\n")
            pipe.flush()

        @contextmanager
        def publishing() -> Iterator[None]:
            order(PUBLICATIONS)
            try:
                yield
            finally:
                order(0.0)

        try:
            for _ in range(200):
                with suppress(OSError), _open(url, timeout=5):
                    break
                time.sleep(0.05)
            yield url, publishing
        finally:
            pipe.close()
            replica.wait(30)
