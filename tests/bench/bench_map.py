"""pyrsistent's map, with and without its C part, beside a copied dict, immutables and rpds.

    PYTHONPATH=operator python -m tests.bench.bench_map [keys]

Answers: what does a read cost, what does a change cost, and what do a hundred versions weigh.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.bench import harness

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = "tests.bench.bench_map"
VERSIONS = 100
CHANGES = 10
ROUNDS = 7
NO_C = "PYRSISTENT_NO_C_EXTENSION"

Map = Any


def pyrsistent_pmap(part: str) -> Callable[[dict[str, bytes]], Map]:
    """Import pyrsistent once more, with or without its C part: both live in one process."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pyrsistent"]:
        del sys.modules[name]
    os.environ.pop(NO_C, None)
    if part == "Python":
        os.environ[NO_C] = "1"
    module = importlib.import_module("pyrsistent")
    os.environ.pop(NO_C, None)
    assert (type(module.pvector()).__module__ == "pvectorc") == (part == "C")
    return module.pmap  # type: ignore[no-any-return]


def copied(content: dict[str, bytes], key: str, value: bytes) -> dict[str, bytes]:
    return {**content, key: value}


def inserted(content: Map, key: str, value: bytes) -> Map:
    return content.insert(key, value)


def assigned(content: Map, key: str, value: bytes) -> Map:
    return content.set(key, value)


def implementation(name: str) -> tuple[Callable[[dict[str, bytes]], Map], Callable[..., Map]]:
    if name == "dict copy":
        return dict, copied
    if name == "immutables":
        return importlib.import_module("immutables").Map, assigned
    if name == "rpds":
        return importlib.import_module("rpds").HashTrieMap, inserted
    return pyrsistent_pmap(name.split()[1]), assigned


NAMES = ["dict copy", "immutables", "rpds", "pyrsistent C", "pyrsistent Python"]


def content(keys: int) -> dict[str, bytes]:
    return {f"service-{key % 97}.setting.{key}": b'"value %d"' % key for key in range(keys)}


def memory(name: str, keys: int) -> float:
    """MB that a hundred versions add to one; resident, because Rust's memory is not Python's."""
    build, change = implementation(name)
    data = content(keys)
    choose = random.Random(1)
    names = list(data)
    versions = [build(data)]
    gc.collect()
    before = harness.resident()
    for version in range(VERSIONS):
        new = versions[-1]
        for key in choose.sample(names, CHANGES):
            new = change(new, key, b"%d" % version)
        versions.append(new)
    gc.collect()
    return harness.resident() - before


def main(keys: int) -> None:
    made = {name: implementation(name) for name in NAMES}
    data = content(keys)
    choose = random.Random(2)
    asked = choose.choices(list(data), k=20_000)
    changed = asked[:200]
    maps = {name: build(data) for name, (build, _change) in made.items()}

    def hit(name: str) -> float:
        content = maps[name]
        return harness.seconds(lambda: [content[key] for key in asked]) / len(asked)

    def change(name: str) -> float:
        content, change = maps[name], made[name][1]
        some = changed[:10] if name == "dict copy" else changed
        return harness.seconds(lambda: [change(content, key, b"0") for key in some]) / len(some)

    def build(name: str) -> float:
        return harness.seconds(lambda: made[name][0](data))

    def weigh(name: str) -> float:
        return float(harness.in_child(MODULE, "--memory", name, str(keys)))

    def measure(run: Callable[[str], float], rounds: int = ROUNDS) -> dict[str, list[float]]:
        return harness.alternate({name: partial(run, name) for name in NAMES}, rounds)

    hits, sets, builds, weights = measure(hit), measure(change), measure(build), measure(weigh, 3)
    base = "pyrsistent C"
    print(f"\n{keys:,} keys; median (min-max) of {ROUNDS} alternated rounds; ratio to {base}\n")
    print(harness.facts("pyrsistent", "immutables", "rpds-py"), end="\n\n")
    header = ["map", "hit ns", "ratio", "set us", "ratio", "build ms", "+100 versions MB"]
    rows = [
        [
            name,
            harness.spread(hits[name], 1e-9, 0),
            harness.ratios(hits[name], hits[base]),
            harness.spread(sets[name], 1e-6, 1),
            harness.ratios(sets[name], sets[base]),
            harness.spread(builds[name], 1e-3, 0),
            harness.spread(weights[name], 1, 1),
        ]
        for name in NAMES
    ]
    print(harness.table(header, rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(memory(sys.argv[2], int(sys.argv[3]))))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 100_000)
