"""A real Prometheus on a loopback port, that scrapes what it is told to.

It must never be reached by what a test looks at other than by HTTP, and ends with its context or,
if this process is killed, with the process.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import Process, spawn

from .prometheus_binary import find_prometheus

SCRAPE_EVERY: Final = "500ms"
_READY_WITHIN: Final = 60.0
_ATTEMPTS: Final = 3
_POLL: Final = 0.05

# The proxies of the environment are not asked for what is on loopback.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class PrometheusError(Exception):
    """It did not start, or did not come to what a test waits for."""


class Prometheus:
    """One server with its own data, thrown away at the end. It may be stopped and started again."""

    def __init__(self) -> None:
        self._program = find_prometheus()
        self._directory = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._port = 0
        self._process: Process | None = None

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers; on another port if this one was taken meanwhile."""
        (self._directory / "targets").mkdir(exist_ok=True)
        config = self._directory / "prometheus.yml"
        config.write_text(json.dumps(_CONFIG))  # JSON is YAML
        for _ in range(_ATTEMPTS):
            self._port = self._port or pick_ports(1)[0]
            self._process = spawn(
                [
                    str(self._program),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address={LOOPBACK}:{self._port}",
                ],
                log=self._log,
                pid_file=self._directory / "pid.json",
                directory=self._directory,
                environment={"PATH": os.environ.get("PATH", os.defpath)},
                detached=False,
            )
            _wait(lambda: self._ready() or not self._alive(), "Prometheus to be ready", _READY_WITHIN)
            if self._alive():
                return
            self._port = 0
        raise PrometheusError(f"Prometheus ended at once:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it; its data stays until the context ends."""
        if self._process is not None:
            self._process.end(grace=5.0)
            self._process = None

    def scrape(self, target: str, **labels: str) -> None:
        """Scrape a host and port from now on; Prometheus takes up new targets every 5 s."""
        path = self._directory / "targets" / f"{target.replace(':', '-')}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps([{"targets": [target], "labels": labels}]))
        draft.replace(path)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The vector that an instant query gives."""
        url = f"{self.address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with _open(url, timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def wait_for(self, query: str, within: float = 60.0) -> list[dict[str, Any]]:
        """Wait until a query gives something, and return that."""
        _wait(lambda: bool(self.query(query)), f"Prometheus to know {query}", within)
        return self.query(query)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _alive(self) -> bool:
        return self._process is not None and self._process.alive()

    def _ready(self) -> bool:
        try:
            with _open(f"{self.address}/-/ready", timeout=5) as response:
                # Somebody else may have taken the port: then ours is about to end.
                return response.status == 200 and self._alive()
        except OSError:
            return False


_CONFIG: Final = {
    "global": {"scrape_interval": SCRAPE_EVERY, "evaluation_interval": SCRAPE_EVERY},
    "scrape_configs": [
        {
            "job_name": "app",
            "file_sd_configs": [{"files": ["targets/*.json"], "refresh_interval": "1s"}],
        }
    ],
}


def _wait(condition: Callable[[], bool], what: str, within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            raise PrometheusError(f"waited {within:g} s in vain for {what}")
        time.sleep(_POLL)
