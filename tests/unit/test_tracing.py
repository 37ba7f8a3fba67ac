"""Spans without a collector: where they belong, what they say, what they cost nobody. The exporter here is a fake:
it keeps spans in memory, fails, or hangs. The real one and a real collector are in tests/integration/test_tracing.py.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs
from tests.cluster.standing import REPOSITORY
from tests.unit.test_admission_review import World, created

from configregistry.errors import ConfigRegistryError
from configregistry.kube.failures import Conflict
from configregistry.serve.responses import Reply, Request, Response, Stream
from configregistry.serve.traced import TracedApp
from configregistry.telemetry import tracing
from configregistry.telemetry.otlp import Otlp, Told

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Kept(SpanExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return self.result

    def shutdown(self) -> None:
        pass


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """A backend whose spans are kept; they are there once it is closed."""
    found = Kept()
    monkeypatch.setattr(tracing, "_backend", Otlp("test", found))
    yield found
    tracing.close()


def ended(kept: Kept) -> dict[str, ReadableSpan]:
    """Send all; the spans by name."""
    tracing.close()
    return {span.name: span for span in kept.spans}


def parent(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def trace(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}" if span.context else ""


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"01-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
    ],
)
def test_a_traceparent_is_read(text: str, sampled: bool) -> None:
    assert tracing.parse(text) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}-more",
        f" {PARENT}",
        f"{PARENT}\n",
        f"00-{TRACE}-{SPAN}-1",
        f"01-{TRACE}-{SPAN}-01-{'x' * 1000}",
    ],
)
def test_a_malformed_one_is_ignored(text: str, kept: Kept) -> None:
    assert tracing.parse(text) is None
    with capture_logs() as lines:
        assert tracing.of({tracing.ANNOTATION: text}) == ""
    assert [line["log_level"] for line in lines] == (["debug"] if text else [])
    with tracing.joined(text), tracing.part("part"):
        assert tracing.headers() == {}
    assert not ended(kept)


def test_nothing_is_made_and_nothing_imported_without_a_collector() -> None:
    """In a process of its own: this one knows OpenTelemetry by now."""
    program = f"""
import sys
import configregistry.app.program
from configregistry.telemetry import tracing
tracing.configure("test", {{}})
assert not tracing.on() and tracing.now() == 0 and tracing.headers() == {{}}
with tracing.joined({PARENT!r}), tracing.part("a") as part, tracing.span("b", {PARENT!r}) as span:
    part.set(a=1)
    span.fail("b")
    assert tracing.past("c", 1, 2, {PARENT!r}) == tracing.here() == ""
tracing.close()
print([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf"))])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False,
                         env={"PYTHONPATH": f"{REPOSITORY}/operator"})  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_spans_are_where_they_belong(kept: Kept) -> None:
    with tracing.part("of nothing"):
        assert tracing.past("of nothing either", 1, 2) == ""
    with tracing.span("lone"):
        pass
    with tracing.joined(PARENT), tracing.span("outer", registry="checkout") as outer:
        outer.set(version=2)
        carried = tracing.headers()["traceparent"]
        with tracing.part("inner"):
            pass
        place = tracing.past("past", 1_000, 2_000, "", "was not read", weight=10)
    with tracing.part("later", place):
        pass
    assert tracing.here() == ""
    found = ended(kept)
    assert found.keys() == {"lone", "outer", "inner", "past", "later"}
    assert parent(found["outer"]) == SPAN
    assert found["outer"].attributes == {"configregistry.registry": "checkout", "configregistry.version": 2}
    assert parent(found["inner"]) == parent(found["past"]) == carried.split("-")[2]
    assert (found["past"].start_time, found["past"].end_time) == (1_000, 2_000)
    assert (found["past"].status.is_ok, found["past"].status.description) == (False, "was not read")
    assert parent(found["later"]) == place.split("-")[2]
    assert parent(found["lone"]) == ""
    assert {trace(found[name]) for name in found.keys() - {"lone"}} == {TRACE}


def test_what_was_not_sampled_is_not_told_but_carried_on(kept: Kept) -> None:
    with tracing.joined(f"00-{TRACE}-{SPAN}-00"), tracing.part("check"):
        assert tracing.headers()["traceparent"].startswith(f"00-{TRACE}-")
        assert tracing.headers()["traceparent"].endswith("-00")
    assert not ended(kept)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConfigRegistryError("spec.data.key: 'password=1234'"), "ConfigRegistryError"),
        (Conflict("a webhook said password=1234", reason="Conflict"), "Conflict"),
        (RuntimeError("password=1234"), "RuntimeError"),
    ],
)
def test_an_exception_is_a_failure_without_what_it_may_quote(kept: Kept, error: Exception, why: str) -> None:
    with pytest.raises(type(error)), tracing.span("status write"):
        raise error
    (span,) = ended(kept).values()
    assert (span.status.is_ok, span.status.description) == (False, why)
    assert not span.events


async def test_each_task_is_of_the_trace_that_it_began_in(kept: Kept) -> None:
    """Two registries at once, in tasks that outlast what started them."""

    async def asked(name: str) -> None:
        await asyncio.sleep(0)
        with tracing.part(name):
            await asyncio.sleep(0)

    traces = {name: f"{number}" * 32 for number, name in enumerate(("one", "two"), 1)}
    tasks = []
    for name, number in traces.items():
        with tracing.joined(f"00-{number}-{SPAN}-01"):
            tasks.append(asyncio.create_task(asked(name)))
    await asyncio.gather(*tasks, asked("none"))
    assert {name: trace(span) for name, span in ended(kept).items()} == traces


def test_a_line_within_a_trace_names_it(kept: Kept) -> None:
    assert tracing.add_trace_id(None, "info", {}) == {}
    with tracing.joined(PARENT):
        assert tracing.add_trace_id(None, "info", {}) == {"trace_id": TRACE}
        assert tracing.add_trace_id(None, "info", {"trace_id": "own"}) == {"trace_id": "own"}


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "OTEL_TRACES_EXPORTER is none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "expected http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "expected http/protobuf"),
    ],
)
def test_what_cannot_be_followed_is_told_and_fails_nothing(environ: dict[str, str], why: str) -> None:
    with capture_logs() as lines:
        tracing.configure("test", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", **environ})
    assert not tracing.on()
    assert [(line["log_level"], why in line["why"]) for line in lines] == [("warning", True)]


def test_a_value_that_is_none_is_told_and_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "0")
    with capture_logs() as lines:
        tracing.configure("test")
    assert not tracing.on()
    assert [line["log_level"] for line in lines] == ["error"]


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(**environ: str) -> dict[str, Any]:
        for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        found = Kept()
        backend = Otlp("configregistry-serve", found)
        with backend.span("one", "", 0, {}):
            pass
        backend.close(10.0)
        return dict(found.spans[0].resource.attributes)

    assert named()["service.name"] == "configregistry-serve"
    assert named(OTEL_SERVICE_NAME="mine")["service.name"] == "mine"
    said = named(OTEL_RESOURCE_ATTRIBUTES="service.name=theirs,deployment.environment=test")
    assert (said["service.name"], said["deployment.environment"]) == ("theirs", "test")


def test_the_environment_chooses_what_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    found = Kept()
    monkeypatch.setattr(tracing, "_backend", Otlp("test", found))
    with tracing.span("mine"):
        pass
    with tracing.span("theirs", PARENT):
        pass
    assert ended(found).keys() == {"theirs"}


def test_a_failing_collector_is_told_of_ever_more_rarely() -> None:
    exporter = Kept()
    told = Told(exporter)
    exporter.result = SpanExportResult.FAILURE
    with capture_logs() as lines:
        for _ in range(100):
            told.export(())
    assert [line["failures"] for line in lines] == [1, 2, 4, 8, 16, 32, 64]
    exporter.result = SpanExportResult.SUCCESS
    with capture_logs() as lines:
        told.export(())
        told.export(())
    assert [line["event"] for line in lines] == ["spans are taken again"]


def test_a_collector_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither whoever makes spans, however many, nor the end."""
    release = threading.Event()

    class Hangs(Kept):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            release.wait()
            return super().export(spans)

    hangs = Hangs()
    monkeypatch.setattr(tracing, "_backend", Otlp("test", hangs))
    for number in range(5_000):  # the queue has 2,048
        with tracing.span("many", number=number):
            pass
    began = time.monotonic()
    tracing.close(0.2)
    assert time.monotonic() - began < 30, "and not until it answers"
    assert not hangs.spans
    release.set()


def request(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Request:
    return Request(method, path, "", headers.get, body)


def test_a_request_without_a_sampled_traceparent_is_handed_on_as_it_is(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is worked out for it."""
    monkeypatch.delattr(tracing, "past")
    monkeypatch.delattr(tracing, "joined")
    reply = Response(200, [], b"{}")
    app = TracedApp(lambda _request: reply)
    path = "/v1/namespaces/shop/registries/checkout"
    for headers in ({}, {"traceparent": f"00-{TRACE}-{SPAN}-00"}, {"traceparent": "nonsense"}):
        assert app(request(path, "GET", b"", **headers)) is reply
    assert not ended(kept)


async def test_requests_are_called_what_they_are(kept: Kept) -> None:
    headers = [("x-configregistry-version", "7"), ("x-configregistry-revision", "31")]
    app = TracedApp(lambda _request: Response(200, headers, b"{}"))
    path = "/v1/namespaces/shop/registries/checkout"
    app(request(f"{path}/keys/a", traceparent=PARENT))
    app(request(f"{path}/watch", traceparent=PARENT))
    said = {"ttlSeconds": 30, "observed": {"version": 8, "status": "error", "message": "secret"}}
    app(request(f"{path}/consumers/pod-1", "PUT", json.dumps(said).encode(), traceparent=PARENT))

    async def later() -> Reply:
        await asyncio.sleep(0)
        return Response(503, [], b"")

    async def never() -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    slow = TracedApp(lambda _request: later())(request("/v1/watch", "GET", traceparent=PARENT))
    assert not isinstance(slow, Response | Stream)
    assert (await slow).status == 503
    gone = TracedApp(lambda _request: never())(request("/v1/namespaces/shop/registries", "HEAD", traceparent=PARENT))
    task = asyncio.ensure_future(gone)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    tracing.close()
    about = [
        (each.name, {key.removeprefix("configregistry."): value for key, value in (each.attributes or {}).items()})
        for each in kept.spans
    ]
    place = {"namespace": "shop", "registry": "checkout"}
    read = {"method": "GET", **place, "status": 200, "version": "7", "revision": "31"}
    assert about == [
        ("read", read),
        ("watch", read),
        ("acknowledge", {**read, "method": "PUT", "consumer": "pod-1", "version": 8, "verdict": "error"}),
        ("watch", {"method": "GET", "status": 503}),
        ("read", {"method": "HEAD", "namespace": "shop"}),
    ]
    assert [each.status.description for each in kept.spans] == [
        None, None, None, "status 503", "the client went away",
    ]  # fmt: skip
    assert {parent(each) for each in kept.spans} == {SPAN}


def test_a_body_that_is_no_heartbeat_is_the_applications_matter(kept: Kept) -> None:
    app = TracedApp(lambda _request: Response(400, [], b"{}"))
    for body in (b"", b"[", b"[]", b'{"observed": 7}', b'{"observed": {"version": "x"}}', b"[" * 100_000):
        app(request("/v1/namespaces/shop/registries/checkout/consumers/a", "PUT", body, traceparent=PARENT))
    tracing.close()
    assert [each.name for each in kept.spans] == ["acknowledge"] * 6


async def test_a_review_is_of_the_api_servers_trace_or_of_the_applys(kept: Kept) -> None:
    world, other = World(), "6" * 32
    carried = {tracing.ANNOTATION: PARENT}
    await world.answer(created({"data": {"a": 1}}))
    await world.answer(created({"data": {"a": 1}}, annotations=carried))
    with tracing.joined(f"00-{other}-{SPAN}-01"):
        await world.answer(created({"data": {"-": "hunter2"}}, annotations=carried))
    tracing.close()
    told = [(trace(each), (each.attributes or {})["configregistry.verdict"]) for each in kept.spans]
    assert told == [(TRACE, "Allowed"), (other, "Refused")]
    assert "hunter2" not in str([each.to_json() for each in kept.spans])
