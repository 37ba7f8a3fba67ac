"""All benchmarks: `python -m tests.bench [--list] [--quick] [--only NAME ...]`, or `make bench ARGS=...`.

Results go to standard output as Markdown, each with the machine, the load and the command; what is
under way to standard error. `--quick` shows that they run; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from tests.bench import (
    bench_admission,
    bench_apply_to_read,
    bench_change,
    bench_failover,
    bench_reads,
    bench_restart,
    bench_rollback,
    bench_serve,
    bench_start,
    bench_watch,
)
from tests.bench.world import World, say

SCRIPTS = {"map": "tests.bench.bench_map", "state": "tests.bench.bench_state"}
"""In processes of their own: they measure this interpreter's own memory and collector."""
SYSTEM: dict[str, Callable[..., str]] = {
    "reads": bench_reads.run,
    "serve": bench_serve.run,
    "watch": bench_watch.run,
    "start": bench_start.run,
    "rollback": bench_rollback.run,
    "admission": bench_admission.run,
    "failover": bench_failover.run,
    "apply_to_read": bench_apply_to_read.run,
    "change": bench_change.run,
    "restart": bench_restart.run,
}
"""On a real API server, in an order in which the number of registries only grows."""
APART = ("reads", "serve", "watch", "start")
"""Measured with everything else off the server's core; the others share one API server."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--list", action="store_true", help="tell the names and end")
    parser.add_argument("--only", metavar="NAME", action="append", choices=[*SCRIPTS, *SYSTEM], help="repeatable")
    parser.add_argument("--quick", action="store_true", help="few rounds, few registries: shows that they run")
    options = parser.parse_args()
    names = options.only or [*SCRIPTS, *SYSTEM]
    if options.list:
        print("\n".join(names))
        return 0
    for name in names:
        if name in SCRIPTS:
            say(name)
            arguments = ["1000"] if options.quick and name == "map" else []
            if options.quick and name == "state":
                arguments = ["publication"]
            subprocess.run([sys.executable, "-m", SCRIPTS[name], *arguments], check=True)
    for apart in (True, False):
        chosen = {name: run for name, run in SYSTEM.items() if name in names and (name in APART) == apart}
        if chosen:
            with World(apart=apart) as world:
                for name, run in chosen.items():
                    say(name)
                    print(f"\n{run(world, quick=options.quick)}\n")
                    flags = " --quick" if options.quick else ""
                    print(f"`PYTHONPATH=operator python -m tests.bench --only {name}{flags}`", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
