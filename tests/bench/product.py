"""The product as a process of its own, looked at from outside: its time, memory, log lines, metrics.

What is measured must cost the product nothing: all that is read here the kernel keeps anyway, or
the product tells anybody (log, /metrics).
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import Process, spawn

import configregistry

REPOSITORY = Path(__file__).parents[2]
SOURCES = Path(configregistry.__file__).parents[1]
"""What is measured is what this process would import."""
SERVER_CORE = 0
"""What is measured runs here, and whoever loads it on the others."""
READY_WITHIN = 120.0
CALM = 0.05
"""Of one core: a process that uses less has nothing to do."""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ProductError(Exception):
    """It ended, or did not come to where a benchmark needs it."""


class Product:
    """`configregistry run` (or `serve`, `controller`) against an API server; ends with the context."""

    def __init__(
        self,
        kubeconfig: Path,
        directory: Path,
        *,
        cores: set[int] | None = None,
        command: str = "run",
        options: Sequence[str] = (),
        name: str = "",
        **environment: str,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._directory = directory
        self._environment = environment
        self._cores = cores
        self._command = command
        self._name = name or command
        self._options = list(options)
        self._process: Process | None = None
        self._read = 0
        self.log = directory / f"{self._name}.log"
        self.port, self.probe_port = pick_ports(2)
        self.started = 0.0
        """Monotonic time of the start."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("CONFIGREGISTRY_", "KUBE", "PYTHON"))}
        # As installed: compiled once, by the first start, and not by every one.
        kept["PYTHONPYCACHEPREFIX"] = str(self._directory / "compiled")
        self.log.unlink(missing_ok=True)
        self._read = 0
        arguments = ["--kubeconfig", str(self._kubeconfig), "--log-format", "json"]
        ports = ["--probe-port", str(self.probe_port)]
        if self._command != "controller":
            ports += ["--port", str(self.port)]
        self.started = time.monotonic()
        self._process = spawn(
            [sys.executable, "-m", "configregistry", self._command, *arguments, *ports, *self._options],
            log=self.log,
            pid_file=self._directory / f"{self._name}.pid",
            directory=REPOSITORY,
            environment={**kept, "PYTHONPATH": f"{SOURCES}{os.pathsep}{REPOSITORY}", **self._environment},
            detached=False,
        )
        if self._cores is not None:
            pin(self.pid, self._cores)

    def stop(self) -> None:
        """End it as Kubernetes would."""
        if self._process is not None:
            self._process.end(grace=10.0)
            self._process = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.identity.pid

    @property
    def url(self) -> str:
        """Where it is read."""
        return f"http://{LOOPBACK}:{self.port}"

    def ready(self, within: float = READY_WITHIN) -> float:
        """Wait until /readyz says so; gives the seconds since the start."""
        deadline = time.monotonic() + within
        last = ""
        while time.monotonic() < deadline:
            self.alive()
            try:
                with _open(f"http://{LOOPBACK}:{self.probe_port}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return time.monotonic() - self.started
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise ProductError(f"/readyz answers {error.code}: {self.tail()}") from error
                last = error.read().decode()
            except OSError:
                pass
            time.sleep(0.02)
        raise ProductError(f"not ready within {within:g} s: {last} {self.tail()}")

    def alive(self) -> None:
        """Raise when it has ended by itself."""
        if self._process is None or not self._process.alive():
            raise ProductError(f"the product ended: {self.tail()}")

    def settled(self, least: int = 0, within: float = 1800.0) -> float:
        """Wait until nothing is queued or under way, after so many reconciliations; gives the seconds since start.

        By its use of processor: a look at /metrics costs it more than the rest once there are many registries.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            self.alive()
            calm_since = time.monotonic()
            for _ in range(4):
                before = self.cpu()
                time.sleep(0.25)
                if self.cpu() - before > CALM * 0.25:
                    break
            else:
                told = self.metrics()
                done = sum(v for n, v in told.items() if n.startswith("configregistry_reconciles_total"))
                if told["configregistry_queue_depth"] == 0 and done >= least:
                    return calm_since - self.started
                time.sleep(1.0)
        raise ProductError(f"not settled within {within:g} s")

    def metrics(self, registry: str | None = None) -> dict[str, float]:
        """What /metrics tells, without the series of each registry; or (`registry="NAME"`) those of one."""
        with _open(f"http://{LOOPBACK}:{self.probe_port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        lines = [line for line in lines if (registry in line if registry else 'registry="' not in line)]
        found = {}
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def lines(self) -> list[dict[str, Any]]:
        """Give the log lines that came since the last call; `at` is their wall clock time in seconds."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.splitlines():
            if line.startswith(b"{"):
                told = json.loads(line)
                told["at"] = datetime.fromisoformat(told["timestamp"]).timestamp()
                found.append(told)
        return found

    def tail(self) -> str:
        """Give its last words."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def resident(self) -> float:
        """Resident memory, in MiB."""
        return resident_mib(self.pid)

    def peak(self) -> float:
        """The most that it ever had, in MiB."""
        return _status(self.pid, "VmHWM")

    def cpu(self) -> float:
        """Seconds of processor that all its threads have used."""
        return cpu_seconds(self.pid)


def pin(pid: int, cores: set[int]) -> None:
    """Keep a process, with every thread that it has by now, on some cores; nothing where there are no such cores."""
    if (os.cpu_count() or 1) <= max(cores) or not hasattr(os, "sched_setaffinity"):
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue


def client_cores() -> set[int]:
    """The cores that the measured server is not on."""
    return set(range(os.cpu_count() or 1)) - {SERVER_CORE} or {SERVER_CORE}


@contextmanager
def starting_on(cores: set[int]) -> Iterator[None]:
    """What is started meanwhile by this thread is on these cores from its first moment."""
    if (os.cpu_count() or 1) <= max(cores) or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """Seconds of processor of a process, to the nanosecond where the kernel tells it."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
        except OSError:
            continue
    return total


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise ProductError(f"no {name}")
