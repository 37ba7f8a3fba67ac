"""One trace from an apply to the last acknowledgement: `controller` and `serve` as processes, a real collector."""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK
from tests.integration.running import WITHIN, Client, Operator, running, stable, wait
from tests.otel.collector import Collector, Seen

ANNOTATION = "configregistry.dev/traceparent"
APPLY = "b7ad6b7169203331"
"""The span of whoever applies: not the operator's, so the collector never sees it."""


def traceparent(trace: str, flags: str = "01") -> str:
    return f"00-{trace}-{APPLY}-{flags}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@contextmanager
def processes(crd: KubeCluster, namespace: str, directory: Path, endpoint: str) -> Iterator[tuple[Operator, Operator]]:
    """A controller and a replica, which trace."""
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with ExitStack() as stack:
        serve = stack.enter_context(running(crd, namespace, directory / "serve", command="serve", start=False))
        serve.environment = traced
        serve.start()
        replica = f"--replica=http://{LOOPBACK}:{serve.port}"
        made = running(crd, namespace, directory / "controller", replica, command="controller", start=False)
        controller = stack.enter_context(made)
        controller.environment = traced
        yield controller.start(), serve


@pytest.fixture(scope="module")
def both(
    crd: KubeCluster, place: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Operator, Operator]]:
    with processes(crd, place, tmp_path_factory.mktemp("tracing"), collector.endpoint) as found:
        yield found
        for each in found:
            assert "Traceback" not in each.log, each.log[-3000:]


class Service:
    """Whoever is asked: each path answers any method as it is told, and what it was sent is kept."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.sent: list[tuple[str, str]] = []
        """Path and traceparent."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            self._answer(request)

        methods = {"do_GET": answer, "do_POST": answer, "log_message": lambda *_: None}
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), methods)
        self._server = http.server.ThreadingHTTPServer((LOOPBACK, 0), handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.sent.append((request.path, request.headers.get("traceparent", "")))
        status, answer = self.answers.get(request.path, (200, {}))
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def url(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}{path}"

    def to(self, path: str) -> list[str]:
        return [trace for asked, trace in tuple(self.sent) if asked == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


class Stream:
    """A watch, read by hand."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=60)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")

    def until(self, version: int) -> dict[str, Any]:
        """The data of the event that brings a version."""
        deadline = time.monotonic() + WITHIN
        for line in self._file:
            assert time.monotonic() < deadline, f"version {version} did not come"
            if line.startswith(b"data: "):
                data: dict[str, Any] = json.loads(line[6:])
                if data.get("to", data.get("version")) == version:
                    return data
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def of(spans: list[Seen], trace: str) -> dict[str, list[Seen]]:
    """The spans of one trace by name."""
    found: dict[str, list[Seen]] = {}
    for span in spans:
        if span.trace == trace:
            found.setdefault(span.name, []).append(span)
    return found


async def test_one_trace_from_the_apply_to_the_acknowledgement(
    both: tuple[Operator, Operator], client: Client, collector: Collector, service: Service
) -> None:
    _controller, serve = both
    trace = "0af7651916cd43dd8448eb211c80319c"
    await client.apply("traced", data={"a": 1})
    await client.ready("traced")
    path = f"/v1/namespaces/{client.namespace}/registries/traced"
    service.answers["/validate"] = 200, {"allowed": True}
    stream = Stream(serve.port, f"{path}/watch?target=pod-7")
    assert "traceparent" not in stream.until(1)
    url = service.url
    spec = {
        "data": {"a": 2},
        "validators": [{"name": "limits", "url": url("/validate")}],
        "hooks": [{"name": "told", "when": "PostRollout", "url": url("/told")}],
        "rollout": {
            "steps": [{"setWeight": 50}, {"setWeight": 100}],
            "checks": [{"name": "alive", "interval": "1s", "http": {"url": url("/alive")}}],
        },
    }
    # The value of another program, in the manifest, as the command line would set it.
    await client.manifest("traced", {"metadata": {"annotations": {ANNOTATION: traceparent(trace)}}, "spec": spec})
    given = stream.until(2)
    stream.close()
    said = {"ttlSeconds": 60, "observed": {"version": 2, "status": "ok"}}
    code, _ = ask(serve.port, "PUT", f"{path}/consumers/pod-7", said, traceparent=given["traceparent"])
    assert code == 201
    await client.until("traced", lambda status: stable(status, 2))
    wait(lambda: service.to("/told"), lambda: "the hook to be told")
    for sent in (service.to("/validate")[0], service.to("/alive")[0], service.to("/told")[0]):
        assert sent.split("-")[1] == trace
        assert sent.split("-")[2] != APPLY, "under the span of the asking"

    wanted = {
        "reconcile", "gather", "decide", "record", "status write", "validator", "hook", "check", "publish",
        "watch delivery", "acknowledge",
    }  # fmt: skip
    collector.until(lambda spans: wanted <= of(spans, trace).keys(), f"{wanted} of {trace}")
    found = of(collector.spans, trace)
    assert found.keys() == wanted
    by_id = {span.id: span for spans in found.values() for span in spans}

    def parents(name: str) -> frozenset[str]:
        return frozenset(by_id[span.parent].name if span.parent in by_id else span.parent for span in found[name])

    # Who is under whom; the rest under whoever applied.
    assert {name: parents(name) for name in wanted} == {
        **dict.fromkeys(("reconcile", "validator", "hook", "check", "publish"), frozenset({APPLY})),
        **dict.fromkeys(("gather", "decide", "record", "status write"), frozenset({"reconcile"})),
        "watch delivery": {"publish"},
        "acknowledge": {"publish"},
    }
    services = {name: {span.service for span in spans} for name, spans in found.items()}
    serving = {"publish", "watch delivery", "acknowledge"}
    for name, told in services.items():
        assert told == {"configregistry-serve" if name in serving else "configregistry-controller"}, name
    for spans in found.values():
        for span in spans:
            assert span.ended >= span.began
            assert not span.failed, span
            assert (span.attributes["namespace"], span.attributes["registry"]) == (client.namespace, "traced")
    for inner in (*found["gather"], *found["decide"], *found["status write"]):
        outer = by_id[inner.parent]
        assert outer.began <= inner.began <= inner.ended <= outer.ended
    assert [span.attributes["version"] for span in found["record"]] == [2]
    weights = [span.attributes.get("weight") for span in sorted(found["publish"], key=lambda span: span.began)]
    assert weights[0] == 50
    assert weights[-1] is None, "completed"
    assert {span.attributes["verdict"] for span in found["check"]} == {"Pass"}
    assert found["acknowledge"][0].attributes["version"] == 2
    assert sum(span.attributes["streams"] for span in found["watch delivery"]) >= 1


async def test_the_next_edit_has_its_own_trace_and_a_malformed_one_none(
    both: tuple[Operator, Operator], client: Client, collector: Collector, service: Service
) -> None:
    """And a failure is marked as one."""
    first, second = "1" * 32, "2" * 32
    service.answers["/alive"] = 500, None
    rollout = {
        "steps": [{"setWeight": 50}, {"pause": {}}],
        "checks": [{"name": "alive", "interval": "1s", "http": {"url": service.url("/alive")}}],
    }

    async def edit(value: int, annotation: str) -> None:
        spec = {"data": {"a": value}, "rollout": rollout}
        await client.manifest("edited", {"metadata": {"annotations": {ANNOTATION: annotation}}, "spec": spec})

    await edit(1, traceparent(first))
    await client.ready("edited")
    await edit(2, traceparent(second))
    await client.until("edited", lambda status: (status.get("lastOutcome") or {}).get("result") == "RolledBack")
    await edit(1, "what is this")
    await client.until("edited", lambda status: status["observedGeneration"] == 3)
    await edit(3, f"00-{'3' * 32}-{APPLY}-01-more")
    # Its check fails at once, so that it may be over before anybody has looked.
    await client.until("edited", lambda status: status["lastVersion"] == 3)
    await client.until("edited", lambda status: (status.get("lastOutcome") or {}).get("version") == 3)
    spans = collector.until(lambda found: any(each.failed for each in of(found, second).get("check", ())), "the check")
    assert "check" not in of(spans, first)
    (failed, *_) = of(spans, second)["check"]
    assert (failed.attributes["verdict"], failed.why) == ("Fail", "Fail"), "not what was said, which may be anything"
    assert "RolledBack" in {each.attributes["what"].split(",")[-1] for each in of(spans, second)["decide"]}
    assert not of(spans, "3" * 32)
    for span in spans:
        if span.trace in (first, second):
            assert "what is this" not in str(span)


async def test_reads_are_traced_by_whom_they_come_from(
    both: tuple[Operator, Operator], client: Client, collector: Collector
) -> None:
    _controller, serve = both
    await client.apply("read", data={"a": 1})
    await client.ready("read")
    path = f"/v1/namespaces/{client.namespace}/registries/read"
    wait(lambda: ask(serve.port, "GET", path)[0] == 200, lambda: "it to be served")
    trace, unsampled = "4" * 32, "5" * 32
    for header in ({"traceparent": traceparent(unsampled, "00")}, {"traceparent": "nonsense"}, {}):
        assert ask(serve.port, "GET", f"{path}/keys/a", None, **header)[0] == 200
    assert ask(serve.port, "GET", f"{path}/keys/a", None, traceparent=traceparent(trace))[0] == 200
    assert ask(serve.port, "GET", f"{path}/keys/b", None, traceparent=traceparent(trace))[0] == 404
    spans = collector.until(lambda found: len(of(found, trace).get("read", ())) == 2, "the reads")
    read, absent = of(spans, trace)["read"]
    assert (read.parent, read.service, read.attributes["status"]) == (APPLY, "configregistry-serve", 200)
    assert (read.attributes["version"], read.attributes["revision"]) == ("1", "1")
    assert (absent.attributes["status"], absent.failed) == (404, False)
    assert not of(spans, unsampled)
    assert [span for span in spans if span.name == "read"] == [read, absent]


async def test_a_collector_that_is_away_or_hangs_is_nobodys_matter(
    crd: KubeCluster, namespace: str, tmp_path: Path
) -> None:
    """Everything goes on, and the process ends in its time."""
    with socket.create_server((LOOPBACK, 0)) as silent:  # takes connections, and never answers
        endpoint = f"http://user:secret@{LOOPBACK}:{silent.getsockname()[1]}"
        async with Client.of(crd, namespace) as client:
            with processes(crd, namespace, tmp_path, endpoint) as both:
                for value in range(3):
                    annotations = {ANNOTATION: traceparent("6" * 32)}
                    body = {"metadata": {"annotations": annotations}, "spec": {"data": {"a": value}}}
                    await client.manifest("away", body)
                    await client.ready("away")
                path = f"/v1/namespaces/{namespace}/registries/away"
                wait(lambda: ask(both[1].port, "GET", path)[1].get("version") == 3, lambda: both[1].log[-2000:])
                for each in both:
                    began = time.monotonic()
                    each.send(signal.SIGTERM)
                    assert each.ended() == 0, each.log[-2000:]
                    # 4 s by its own clock; the rest is what a busy machine takes.
                    assert time.monotonic() - began < 20
                    assert "secret" not in each.log
                    assert "not all parts have ended in time" not in each.log
