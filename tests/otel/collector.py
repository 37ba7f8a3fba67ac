"""A real OpenTelemetry Collector on loopback, and what it was sent.

It takes OTLP by gRPC and by HTTP, and writes each batch to a file as JSON. It must never be reached by what a test
looks at other than by OTLP. It may be stopped and started again on its ports.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import Process, spawn

from .build import find_collector

WITHIN: Final = 60.0
_ATTEMPTS: Final = 3
_POLL: Final = 0.05
_ERROR: Final = 2
"""STATUS_CODE_ERROR."""


class CollectorError(Exception):
    """It did not start, or was not sent what a test waits for."""


class Seen(NamedTuple):
    """A span as the collector got it. Attributes are without their prefix."""

    name: str
    trace: str
    id: str
    parent: str
    service: str
    attributes: dict[str, Any]
    failed: bool
    why: str
    began: int
    ended: int


class Collector:
    """One collector with its own file, thrown away at the end."""

    def __init__(self) -> None:
        self._program = find_collector()
        self._directory = Path(tempfile.mkdtemp(prefix="collector-"))
        self._ports: list[int] = []
        self._process: Process | None = None

    @property
    def endpoint(self) -> str:
        """Of OTLP over HTTP: OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://{LOOPBACK}:{self._ports[0]}"

    def start(self) -> None:
        """Start it, and wait until it listens; on other ports if these were taken meanwhile."""
        for _ in range(_ATTEMPTS):
            self._ports = self._ports or pick_ports(2)
            config = self._directory / "config.yaml"
            config.write_text(json.dumps(self._config()))  # JSON is YAML
            self._process = spawn(
                [str(self._program), f"--config=file:{config}"],
                log=self._log,
                pid_file=self._directory / "pid.json",
                directory=self._directory,
                environment={},
                detached=False,
            )
            self.wait(lambda: self._listens() or not self._alive(), "the collector to listen")
            if self._alive():
                return
            self._ports = []
        raise CollectorError(f"the collector ended at once:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it; what it was sent stays."""
        if self._process is not None:
            self._process.end(grace=5.0)
            self._process = None

    @property
    def spans(self) -> list[Seen]:
        """All that it was sent."""
        text = self._file.read_text() if self._file.exists() else ""
        found = []
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):  # the rest is being written
                found += _spans(json.loads(line))
        return found

    def until(self, true: Callable[[list[Seen]], object], what: str) -> list[Seen]:
        """Wait until what it was sent fulfils a condition; give it."""
        self.wait(lambda: true(self.spans), f"{what}; sent: {[each.name for each in self.spans]}")
        return self.spans

    def wait(self, true: Callable[[], object], what: str) -> None:
        """Wait for anything."""
        deadline = time.monotonic() + WITHIN
        while not true():
            if time.monotonic() >= deadline:
                raise CollectorError(f"waited {WITHIN:g} s in vain for {what}")
            time.sleep(_POLL)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _file(self) -> Path:
        return self._directory / "spans.json"

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _alive(self) -> bool:
        return self._process is not None and self._process.alive()

    def _listens(self) -> bool:
        try:
            for port in self._ports:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            return False
        return self._alive()

    def _config(self) -> dict[str, Any]:
        http, grpc = (f"{LOOPBACK}:{port}" for port in self._ports)
        return {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": http}, "grpc": {"endpoint": grpc}}}},
            "exporters": {"file": {"path": str(self._file), "append": True, "flush_interval": "50ms"}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        }


def _spans(batch: dict[str, Any]) -> list[Seen]:
    found = []
    for resource in batch["resourceSpans"]:
        service = _attributes(resource["resource"])["service.name"]
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                status = span.get("status", {})
                named = _attributes(span)
                found.append(
                    Seen(
                        name=span["name"],
                        trace=span["traceId"],
                        id=span["spanId"],
                        parent=span.get("parentSpanId", ""),
                        service=service,
                        attributes={name.removeprefix("configregistry."): value for name, value in named.items()},
                        failed=status.get("code") == _ERROR,
                        why=status.get("message", ""),
                        began=int(span["startTimeUnixNano"]),
                        ended=int(span["endTimeUnixNano"]),
                    )
                )
    return found


def _attributes(part: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: _value(each["value"]) for each in part.get("attributes", ())}


def _value(told: dict[str, Any]) -> Any:
    kind, value = next(iter(told.items()))
    return int(value) if kind == "intValue" else value
