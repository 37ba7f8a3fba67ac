"""Variables OTEL_* whose values nobody can use: told, and no reason not to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from configregistry.telemetry import tracing


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    tracing.close(0.1)


@pytest.mark.parametrize(
    ("name", "value", "on"),
    [
        # What OpenTelemetry raises for a plugin that is not installed is a RuntimeError.
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "nowhere", False),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", False),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000", False),
        # Of these it says that they are none, and goes on without.
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", True),
        ("OTEL_TRACES_SAMPLER", "nowhere", True),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b c", True),
    ],
)
def test_a_program_starts_with_any_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str, *, on: bool) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with capture_logs() as lines:
        tracing.configure("test")
    assert tracing.on() is on
    assert [line["log_level"] for line in lines] == ["info" if on else "error"]
