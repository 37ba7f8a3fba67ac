"""The state layer as the product uses it: publication, memory of history, pauses by the collector.

    PYTHONPATH=operator python -m tests.bench.bench_state [publication|memory|pauses ...]

Goals: publication with 1,000,000 keys in memory below 1 ms; 100 versions of 100,000 keys with ten
changes each within 1.2 times the memory of one. Parts that depend on how pyrsistent was imported
run in fresh processes, in turn.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tracemalloc
from collections import deque
from dataclasses import replace
from itertools import pairwise
from time import perf_counter, thread_time
from typing import Any

import pyrsistent
from tests.bench import harness

from configregistry.state import Change, Registry, Store, Version
from configregistry.state.version import _changed

MODULE = "tests.bench.bench_state"

NO_C = "PYRSISTENT_NO_C_EXTENSION"
PARTS = {"C": "", "Python": "1"}
LARGEST = 20_000
"""Keys that one registry may have."""


def content(keys: int) -> dict[str, bytes]:
    return {f"service-{key % 97}.setting.{key}": b'"value %d"' % key for key in range(keys)}


def edited(data: dict[str, bytes], number: int, changes: int = 10) -> dict[str, bytes]:
    choose = random.Random(number)
    return data | dict.fromkeys(choose.sample(list(data), changes), b'"edit %d"' % number)


def check_part(part: str) -> None:
    assert (type(pyrsistent.pvector()).__module__ == "pvectorc") == (part == "C"), part


def step(registry: Registry, data: dict[str, bytes]) -> Registry:
    number = registry.revision + 1
    new = registry.record(number, f"h{number}", data, parent=registry.revision)
    return new.decide(revision=number, stable=number)


def publication(part: str) -> dict[str, list[float]]:
    """Publish one registry of 20,000 keys beside nothing else, and beside 980,000 other keys."""
    check_part(part)
    data = content(LARGEST)
    stores = {"20,000": 1, "1,000,000": 50}
    made = {}
    for name, registries in stores.items():
        store = Store()
        for number in range(registries):
            place = ("shop", f"registry-{number}")
            registry = step(Registry(place[1], f"uid-{number}", history_limit=10), data)
            store.publish(store.snapshot(), {place: registry})
        made[name] = store
    measured: dict[str, list[float]] = {f"{what} {name}": [] for name in made for what in ("publish", "whole")}
    for turn in range(100):
        new_content = edited(data, turn)
        for name in sorted(made, reverse=bool(turn % 2)):
            store = made[name]
            start = perf_counter()
            snapshot = store.snapshot()
            old = snapshot.registry("shop", "registry-0")
            assert old is not None
            new = step(old, new_content)
            ready = perf_counter()
            store.publish(snapshot, {("shop", "registry-0"): new})
            end = perf_counter()
            measured[f"publish {name}"].append(end - ready)
            measured[f"whole {name}"].append(end - start)
    return measured


def report_publication() -> None:
    print("\n### Publication\n")
    rows = []
    for part, variable in PARTS.items():
        measured = harness.in_child(MODULE, "--publication", part, **{NO_C: variable})
        for what, text in (("publish", "publish alone"), ("whole", "derive, decide, publish")):
            small, large = measured[f"{what} 20,000"], measured[f"{what} 1,000,000"]
            rows.append(
                [
                    text,
                    part,
                    *(f"{harness.percentile(large, share) * 1e3:.3f}" for share in (0.5, 0.99, 1)),
                    f"{harness.percentile(small, 0.5) * 1e3:.3f}",
                    f"{harness.percentile(large, 0.5) / harness.percentile(small, 0.5):.2f}",
                ]
            )
    header = ["1,000,000 keys in memory", "part", "p50 ms", "p99 ms", "max ms"]
    print(harness.table([*header, "p50 ms with 20,000", "ratio of p50"], rows))


def memory(part: str) -> dict[str, float]:
    """Weigh one version, then a hundred more; keys and values of their own are counted too."""
    check_part(part)
    tracemalloc.start()
    resident = harness.resident()
    version = Version.derive(None, 1, "h1", content(100_000))
    gc.collect()
    one, one_resident = tracemalloc.get_traced_memory()[0], harness.resident() - resident
    versions = [version]
    for number in range(2, 101):
        data = edited(versions[-1].content(), number)
        data[f"added.{number}"] = data.pop(f"service-{number % 97}.setting.{number}")
        versions.append(Version.derive(versions[-1], number, f"h{number}", data))
    del data
    gc.collect()
    hundred = tracemalloc.get_traced_memory()[0]
    shared = sum(a.data is not b.data for a, b in pairwise(versions))
    assert shared == 99
    return {"one": one / 1e6, "hundred": hundred / 1e6, "resident": one_resident}


def report_memory() -> None:
    print("\n### 100 versions of 100,000 keys, 10 values and one key's name changed in each\n")
    rows = []
    for part, variable in PARTS.items():
        found = harness.in_child(MODULE, "--memory", part, **{NO_C: variable})
        ratio = found["hundred"] / found["one"]
        rows.append([part, f"{found['one']:.1f}", f"{found['hundred']:.1f}", f"{ratio:.3f}"])
    print(harness.table(["part", "one version MB", "100 versions MB", "ratio"], rows))


class Connection:
    """What a request leaves behind for a while: some containers in a cycle, as in any server."""

    def __init__(self, body: bytes) -> None:
        self.me = self
        self.headers = [["etag", body] for _ in range(16)]


RATE = 2_500
SECONDS = 4.0


def following(version: Version) -> Version:
    """Change ten keys, by a list as `derive` makes it: making the list is another benchmark's."""
    number = version.number + 1
    keys = sorted(random.Random(number).sample(list(version.index), 10))
    changes = tuple(Change(key, version.get(key), b'"edit %d"' % number) for key in keys)
    data = _changed(version.data, changes)
    return replace(version, number=number, data=data, parent=version.number, changes=changes)


def loaded(layout: str) -> Store:
    """Hold so many registries of so many keys in so many versions each."""
    registries, keys, versions = map(int, layout.split("x"))
    store, data = Store(), content(keys)
    changes: dict[tuple[str, str], Registry | None] = {}
    for number in range(registries):
        version = Version.derive(None, 1, "h1", data)
        held = {1: version}
        while len(held) < versions:
            version = following(version)
            held[version.number] = version
        name = f"registry-{number}"
        registry = Registry(name, f"uid-{number}", versions=held)
        changes["shop", name] = registry.decide(revision=versions, stable=versions)
    store.publish(store.snapshot(), changes)
    return store


def swapped(registry: Registry) -> Registry:
    """Serve one more version, and drop the oldest."""
    assert registry.stable is not None
    new = following(registry.stable)
    versions = dict(list(registry.versions.items())[1:]) | {new.number: new}
    return replace(registry, versions=versions, stable=new, revision=new.number)


def answer(store: Store, mode: str) -> list[float]:
    """Answer requests that arrive at a fixed rate, publishing ten times a second meanwhile.

    A request is late from the moment at which it should have been answered, so one pause counts
    for every request that arrives in it, as it does behind a real socket.
    """
    names = sorted(store.snapshot().namespace("shop"))
    first: Any = store.snapshot().registry("shop", names[0])
    asked = random.Random(5).choices(list(first.stable.index), k=1_000)
    connections: deque[Connection] = deque(maxlen=1_000)
    latencies = []
    start = perf_counter()
    for number in range(int(RATE * SECONDS)):
        due = start + number / RATE
        while perf_counter() < due:
            pass
        registry: Any = store.snapshot().registry("shop", names[number % len(names)])
        connections.append(Connection(registry.stable.get(asked[number % len(asked)])))
        if number % (RATE // 10) == 0:
            first = swapped(first)
            store.publish(store.snapshot(), {("shop", first.name): first})
            if mode == "each":
                gc.freeze()
        latencies.append(perf_counter() - due)
    return latencies


def pauses(part: str, mode: str, layout: str) -> dict[str, float]:
    """Load, freeze or not, answer; watch the collector meanwhile.

    A pass is timed by the processor's time: on a busy machine the clock would blame it for others.
    """
    check_part(part)
    gc.disable()
    store = loaded(layout)
    gc.collect()
    if mode != "none":
        gc.freeze()
    gc.enable()
    passes = 0

    def watch(phase: str, info: dict[str, int]) -> None:
        nonlocal passes
        passes += phase == "stop" and info["generation"] == 2

    gc.callbacks.append(watch)
    latencies = answer(store, mode)
    gc.callbacks.remove(watch)
    start = thread_time()
    gc.collect()
    full = thread_time() - start
    gc.unfreeze()
    return {
        "p50": harness.percentile(latencies, 0.5) * 1e3,
        "p99": harness.percentile(latencies, 0.99) * 1e3,
        "max": max(latencies) * 1e3,
        "passes": passes,
        "full": full * 1e3,
        "kept": gc.collect(),
    }


MODES = {"none": "never", "once": "once, after loading", "each": "after each publication"}
LAYOUTS = {
    "1x100000x100": "one registry of 100,000 keys, 100 versions",
    "50x20000x10": "50 registries of 20,000 keys, 10 versions each",
}


def report_pauses() -> None:
    for layout, text in LAYOUTS.items():
        print(f"\n### Pauses: {text}; {RATE:,} requests/s and 10 publications/s\n")
        names = [(part, mode) for part in PARTS for mode in MODES]
        runs: dict[tuple[str, str], list[Any]] = {name: [] for name in names}
        for _turn in range(2):
            for part, mode in names:
                environment = {NO_C: PARTS[part]}
                run = harness.in_child(MODULE, "--pauses", part, mode, layout, **environment)
                runs[part, mode].append(run)
        header = [
            "part",
            "gc.freeze()",
            "p50 ms",
            "p99 ms",
            "max ms",
            "full passes",
            "one full pass, CPU ms",
            "garbage kept",
        ]
        rows = [
            [
                part,
                MODES[mode],
                *(
                    harness.spread([run[what] for run in runs[part, mode]], 1, digits)
                    for what, digits in (("p50", 3), ("p99", 2), ("max", 1))
                ),
                "/".join(str(run["passes"]) for run in runs[part, mode]),
                harness.spread([run["full"] for run in runs[part, mode]], 1, 1),
                "/".join(str(run["kept"]) for run in runs[part, mode]),
            ]
            for part, mode in names
        ]
        print(harness.table(header, rows), flush=True)


CHILDREN = {"--publication": publication, "--memory": memory, "--pauses": pauses}
REPORTS = {"publication": report_publication, "memory": report_memory, "pauses": report_pauses}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        child: Any = CHILDREN[sys.argv[1]]
        print(json.dumps(child(*sys.argv[2:])))
    else:
        print(harness.facts("pyrsistent"))
        for report in sys.argv[1:] or REPORTS:
            REPORTS[report]()
