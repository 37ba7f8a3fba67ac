"""Spans: one trace from an apply to the last acknowledgement, sent where an environment names a collector.

    with tracing.joined(tracing.of(meta.annotations)):      # what is done here belongs to the trace of the apply
        with tracing.part("status write", namespace=..., registry=...):
            ...                                             # tracing.headers() carries it on

It exists so that every room names its spans in one way, and that a program without a collector neither imports
OpenTelemetry nor pays for it: each of these functions is then one look at a global. A global, like logging, because
a trace crosses every room and no decision may depend on it (docs/adr/0013).

It must never fail or hold up what it tells of: what it is given is put into a bounded queue, sent by a thread, and
dropped where nobody takes it. It must never be asked by a decision, nor tell values of a configuration.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, cast

import structlog

ANNOTATION: Final = "configregistry.dev/traceparent"
"""On a ConfigRegistry: the W3C context of whoever applied it last."""
HEADER: Final = "traceparent"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP: Final = "http/protobuf"
CLOSE_WITHIN: Final = 1.0
"""Seconds at the end for what has not been sent yet: the process has 4 for all of its end."""

Value = str | bool | int | float

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LONGEST: Final = 512
_log = structlog.get_logger(__name__)


class Traceparent(NamedTuple):
    """A place in a trace, as the W3C writes it: hexadecimal ids, and whether somebody keeps the trace."""

    trace_id: str
    span_id: str
    sampled: bool


class Span(Protocol):
    """Something that takes time. As a context manager it is what is done within, and ends with it."""

    def set(self, **attributes: Value) -> None:
        """Say more about it."""
        ...

    def fail(self, why: str) -> None:
        """It did not succeed."""
        ...

    def __enter__(self) -> Self:
        """Begin: what is done within is part of it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an exception is a failure."""
        ...


class Backend(Protocol):
    """What makes spans where there is a collector: `telemetry.otlp`."""

    def span(self, name: str, parent: str, began: int, attributes: Mapping[str, Value]) -> Span:
        """A span under a parent, under what is being done (an empty parent), or of a new trace."""
        ...

    def past(
        self, name: str, began: int, ended: int, parent: str, failure: str, attributes: Mapping[str, Value]
    ) -> str:
        """A span that is over; gives its traceparent."""
        ...

    def joined(self, parent: str) -> AbstractContextManager[None]:
        """What is done within belongs there."""
        ...

    def here(self) -> str:
        """The traceparent of what is being done; empty: of nothing."""
        ...

    def close(self, seconds: float) -> None:
        """Send what there is, for so long."""
        ...


class _Nothing:
    """A span that nobody wants."""

    def set(self, **attributes: Value) -> None:
        pass

    def fail(self, why: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


_NOTHING: Final = _Nothing()
_NO_HEADERS: Final[Mapping[str, str]] = {}
_backend: Backend | None = None


def on() -> bool:
    """Whether there is a collector: for whoever has to prepare something."""
    return _backend is not None


def now() -> int:
    """The time for `past`, in nanoseconds; 0 where nobody wants it."""
    return time.time_ns() if _backend is not None else 0


def span(name: str, parent: str = "", began: int = 0, /, **attributes: Value) -> Span:
    """Something that begins a trace, unless it has a parent (a traceparent) or belongs to what is being done."""
    return _NOTHING if _backend is None else _backend.span(name, parent, began, attributes)


def part(name: str, parent: str = "", /, **attributes: Value) -> Span:
    """A part of what its parent, or what is being done, is; nothing where that is not traced."""
    if _backend is None or not (parent or _backend.here()):
        return _NOTHING
    return _backend.span(name, parent, 0, attributes)


def past(name: str, began: int, ended: int, parent: str = "", failure: str = "", /, **attributes: Value) -> str:
    """A part that is over, from and to `now()`; gives its traceparent, empty where it is not traced."""
    if _backend is None or not (parent or _backend.here()):
        return ""
    return _backend.past(name, began, ended, parent, failure, attributes)


def joined(parent: str) -> AbstractContextManager[object]:
    """What is done within belongs to this trace; an empty one changes nothing."""
    return _NOTHING if _backend is None or not parent else _backend.joined(parent)


def here() -> str:
    """The traceparent of what is being done; empty: nothing that is traced."""
    return "" if _backend is None else _backend.here()


def headers() -> Mapping[str, str]:
    """What carries the trace on to whoever is asked by HTTP."""
    found = here()
    return {HEADER: found} if found else _NO_HEADERS


def parse(text: str) -> Traceparent | None:
    """Read a traceparent; None where it is none. Versions to come may add parts behind those of today."""
    found = _PARENT.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Traceparent(trace_id, span_id, bool(int(flags, 16) & 1))


def of(annotations: Mapping[str, str]) -> str:
    """The traceparent that an object carries; empty where it has none, or what it has is none."""
    text = annotations.get(ANNOTATION, "")
    if text and parse(text) is None:
        _log.debug("annotation is no traceparent, and is ignored", annotation=ANNOTATION, got=text[:_LONGEST])
        return ""
    return text


def add_trace_id(_logger: object, _method: str, line: Any) -> Any:
    """A processor of structlog: a line that is written within a trace names it."""
    if _backend is not None and "trace_id" not in line:
        found = parse(_backend.here())
        if found is not None:
            line["trace_id"] = found.trace_id
    return line


def configure(service: str, environ: Mapping[str, str] | None = None) -> None:
    """Begin to send, if the environment (OTEL_*) names a collector.

    A setting that cannot be followed is told of, and nothing is sent: tracing is no reason not to run.
    """
    global _backend  # noqa: PLW0603 - see the head of this module
    environ = os.environ if environ is None else environ
    if _backend is not None or not any(environ.get(name) for name in ENDPOINTS):
        return
    why = _off(environ)
    if why:
        _log.warning("nothing is traced", why=why)
        return
    try:
        # Here and not above: some 200 ms and 4 MB, for those who want it.
        _backend = cast("Backend", import_module("configregistry.telemetry.otlp").Otlp(service))
    except Exception as error:  # noqa: BLE001 - RuntimeError for a plugin that is not there, for one
        _log.error("nothing is traced", why=f"a variable OTEL_* has a value that cannot be used: {error}")
        return
    _log.info("tracing", service=service)


def _off(environ: Mapping[str, str]) -> str:
    """Why nothing is to be sent though there is an endpoint; empty: send."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return "OTEL_SDK_DISABLED is true"
    exporter = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter != "otlp":
        return f"OTEL_TRACES_EXPORTER is {exporter}, expected otlp"
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), HTTP)
    if protocol != HTTP:
        return f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, expected {HTTP} (port 4318 of most collectors)"
    return ""


def close(seconds: float = CLOSE_WITHIN) -> None:
    """Send what there is, for so long at most, and trace nothing more. To be called once the loop has ended."""
    global _backend
    backend, _backend = _backend, None
    if backend is not None:
        backend.close(seconds)
