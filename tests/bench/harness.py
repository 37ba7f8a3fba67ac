"""What all benchmarks share: alternated runs, honest ratios, and the facts of the machine.

Two numbers of two runs say little on a shared machine. Candidates are therefore run in turn within
one process run, each round gives one ratio to the baseline, and what is reported is the median
ratio with its smallest and largest.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


def facts(*libraries: str) -> str:
    """Name what the numbers depend on."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if "MemTotal" in line), "0")
    parts = [
        f"{cpu}, {os.cpu_count()} cores, {int(memory) / 2**20:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        *(f"{library} {metadata.version(library)}" for library in libraries),
    ]
    return f"_{' · '.join(parts)} · load {os.getloadavg()[0]:.1f}_"


def seconds(run: Callable[[], object]) -> float:
    """Time one call by this thread's processor time, so that a busy machine does not count.

    Without passes of the collector: those are measured by themselves.
    """
    gc.collect()
    gc.disable()
    try:
        start = thread_time()
        run()
        return thread_time() - start
    finally:
        gc.enable()


def alternate(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure the candidates in turn; each round begins with another one."""
    names = list(candidates)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            measured[name].append(candidates[name]())
    return measured


def ratios(measured: Sequence[float], baseline: Sequence[float]) -> str:
    """Give the median of the rounds' ratios, with the spread."""
    each = [one / other for one, other in zip(measured, baseline, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def spread(measured: Sequence[float], unit: float = 1.0, digits: int = 2) -> str:
    """Give the median with smallest and largest, in a unit (1e-6 for microseconds)."""
    low, middle, high = min(measured), statistics.median(measured), max(measured)
    return " ".join([f"{middle / unit:.{digits}f}", f"({low / unit:.{digits}f}-{high / unit:.{digits}f})"])


def percentile(values: Iterable[float], share: float) -> float:
    """Give the value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def resident() -> float:
    """Give this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def in_child(module: str, *arguments: str, **environment: str) -> Any:
    """Run a benchmark's own part in a fresh process; it prints one line of JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
