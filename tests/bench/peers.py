"""Candidates that answer requests, measured in turn on one core: rates, latencies, and what a request costs.

On a machine that others use too, a rate is mostly a share of the processor. What a request cost the server is
not: the kernel counts a process's time, its own work for that process included. So both are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.bench import harness
from tests.bench.load import Measured
from tests.bench.product import cpu_seconds


class Peer(NamedTuple):
    """Something to be loaded."""

    pid: int
    load: Callable[[float], Measured]
    """Loads it for so many seconds."""


class Round(NamedTuple):
    """What one load of one peer gave."""

    measured: Measured
    cost: float
    """Seconds of the server's processor for one request."""
    used: float
    """Share of its core that the server used: near 1 the server was the limit, far below it somebody else."""


def in_turn(peers: Mapping[str, Peer], rounds: int, seconds: float) -> dict[str, list[Round]]:
    """Load each for so many seconds, in so many rounds; each round begins with another one."""
    for peer in peers.values():
        peer.load(1.0)

    def load(peer: Peer) -> Round:
        begin, before = time.monotonic(), cpu_seconds(peer.pid)
        measured = peer.load(seconds)
        used, took = cpu_seconds(peer.pid) - before, time.monotonic() - begin
        return Round(measured, used / (measured.rate * seconds), used / took)

    names = list(peers)
    found: dict[str, list[Round]] = {name: [] for name in names}
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            found[name].append(load(peers[name]))
    return found


HEADER = ["reads/s", "p50 ms", "p99 ms", "its core, used", "processor µs a read"]


def row(name: str, rounds: list[Round]) -> list[str]:
    """One line of a table with HEADER behind its first column."""
    return [
        name,
        harness.spread([each.measured.rate for each in rounds], 1, 0),
        harness.spread([each.measured.p50 for each in rounds], 1e-3),
        harness.spread([each.measured.p99 for each in rounds], 1e-3),
        harness.spread([each.used for each in rounds]),
        harness.spread([each.cost for each in rounds], 1e-6, 1),
    ]


def compared(text: str, goal: float, rounds: list[Round], peer: list[Round]) -> list[str]:
    """One line of a table of goals: the ratio of rates, and that of reads in a second of the server's processor."""
    rates = harness.ratios([each.measured.rate for each in rounds], [each.measured.rate for each in peer])
    costs = harness.ratios([1 / each.cost for each in rounds], [1 / each.cost for each in peer])
    return [text, f"{goal:g}", rates, costs]


COMPARED = ["goal", "at least", "ratio of reads/s", "ratio of reads in a second of its processor"]
