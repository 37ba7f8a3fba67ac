"""OpenTelemetry: makes the spans of `telemetry.tracing` and sends them by OTLP over HTTP, in a thread of its own.

The only module that knows OpenTelemetry; imported by `tracing.configure` alone, where there is a collector.
The variables OTEL_* are read by OpenTelemetry itself, so that they mean what its documents say. It must never
raise into whoever tells of something, log a header or an endpoint's secrets, or say every few seconds that the
collector is away.
"""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import structlog
from opentelemetry import context as contexts
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from configregistry import __version__
from configregistry.telemetry.tracing import Value, parse

PREFIX: Final = "configregistry."
"""What each attribute's name begins with."""
_NO_NAME: Final = "unknown_service"
_log = structlog.get_logger(__name__)


class Otlp:
    """Makes spans. `exporter`: whom they go to, instead of what the environment names."""

    def __init__(self, service: str, exporter: SpanExporter | None = None) -> None:
        """Raises `ValueError` for a variable whose value cannot be used."""
        # It has its own retries, and a line for each; ours says once that it fails, and once that it is over.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(Told(exporter or OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("configregistry", __version__)

    def span(self, name: str, parent: str, began: int, attributes: Mapping[str, Value]) -> _Span:
        """A span under a parent, under what is being done (an empty parent), or of a new trace."""
        place, named = _within(parent), _named(attributes)
        return _Span(self._tracer.start_span(name, context=place, attributes=named, start_time=began or None))

    def past(
        self, name: str, began: int, ended: int, parent: str, failure: str, attributes: Mapping[str, Value]
    ) -> str:
        """A span that is over; gives its traceparent."""
        made = self._tracer.start_span(name, context=_within(parent), attributes=_named(attributes), start_time=began)
        if failure:
            made.set_status(api.Status(api.StatusCode.ERROR, failure))
        made.end(end_time=ended)
        return _written(made.get_span_context())

    @contextmanager
    def joined(self, parent: str) -> Iterator[None]:
        """What is done within belongs there."""
        token = contexts.attach(_within(parent) or contexts.Context())
        try:
            yield
        finally:
            contexts.detach(token)

    def here(self) -> str:
        """The traceparent of what is being done; empty: of nothing."""
        return _written(api.get_current_span().get_span_context())

    def close(self, seconds: float) -> None:
        """Send what there is, for so long; a collector that hangs is left to a thread that ends with the process."""
        ending = threading.Thread(target=self._provider.shutdown, name="tracing ends", daemon=True)
        ending.start()
        ending.join(seconds)


class _Span:
    """A span of ours over one of OpenTelemetry's."""

    __slots__ = ("_made", "_token")

    def __init__(self, made: api.Span) -> None:
        self._made = made
        self._token: Any = None

    def set(self, **attributes: Value) -> None:
        self._made.set_attributes(_named(attributes))

    def fail(self, why: str) -> None:
        self._made.set_status(api.Status(api.StatusCode.ERROR, why))

    def __enter__(self) -> Self:
        self._token = contexts.attach(api.set_span_in_context(self._made))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if isinstance(error, Exception):
            # Not its text: that of a refused spec quotes the value, that of an API server whatever a webhook said.
            self.fail(" ".join(dict.fromkeys(filter(None, (type(error).__name__, str(getattr(error, "reason", "")))))))
        self._made.end()


class Told(SpanExporter):
    """Sends spans by another exporter, in its thread; says when that fails: the 1st, 2nd, 4th, 8th time in a row."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failures = 0
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 - whatever it is, nobody else may notice
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._failures:
                _log.info("spans are taken again", lost=self._lost)
            self._failures = self._lost = 0
            return result
        self._failures += 1
        self._lost += len(spans)
        if self._failures & (self._failures - 1) == 0:
            _log.warning(
                "spans could not be sent: see that the collector of OTEL_EXPORTER_OTLP_ENDPOINT takes OTLP over HTTP",
                failures=self._failures,
                lost=self._lost,
            )
        return result

    def shutdown(self) -> None:
        """End it."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self._exporter.force_flush(timeout_millis)


def _resource(service: str) -> Resource:
    """Who sends: what the environment says, and for the rest what this process knows of itself."""
    said = Resource.create()
    name = str(said.attributes.get("service.name", ""))
    known = {"service.version": __version__, "host.name": platform.node()}  # of a pod: its name
    if not name or name.startswith(_NO_NAME):
        said = said.merge(Resource({"service.name": service}))
    return Resource(known).merge(said)


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {PREFIX + name: value for name, value in attributes.items()}


def _within(parent: str) -> contexts.Context | None:
    """Where a traceparent is; None: where we are."""
    found = parse(parent)
    if found is None:
        return None
    flags = api.TraceFlags(api.TraceFlags.SAMPLED if found.sampled else api.TraceFlags.DEFAULT)
    place = api.SpanContext(int(found.trace_id, 16), int(found.span_id, 16), is_remote=True, trace_flags=flags)
    return api.set_span_in_context(api.NonRecordingSpan(place))


def _written(place: api.SpanContext) -> str:
    if not place.is_valid:
        return ""
    return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}"
