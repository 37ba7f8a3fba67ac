"""A controller, a replica and a standby at work, with clients who send what they like, scraped by a real Prometheus."""

from __future__ import annotations

import http.client
import json
import random
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK
from tests.integration.running import Client, Operator, running, wait
from tests.servers import AppServer, Prometheus

MARK: Final = "zzclient"
"""In all that a client chooses; nowhere in the metrics."""
JOB: Final = "creg"
TEXT_JOB: Final = "text"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass
class Scene:
    """The processes, and Prometheus."""

    namespace: str
    prometheus: Prometheus
    app: AppServer
    operators: dict[str, Operator] = field(default_factory=dict)

    def text(self, name: str, accept: str = "text/plain") -> str:
        """What one of them tells."""
        return fetched(self.operators[name].probe_port, accept)[1].decode()


def fetched(port: int, accept: str) -> tuple[str, bytes]:
    """/metrics as somebody with this `Accept` gets it."""
    asked = urllib.request.Request(f"http://{LOOPBACK}:{port}/metrics", headers={"Accept": accept})
    with _open(asked, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read()


class PlainText:
    """A stand-in for a Prometheus that knows no OpenMetrics: it scrapes for the real one, and asks for plain text.

    It exists because Debian's Prometheus cannot be told which format to ask for.
    """

    def __init__(self, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, body = fetched(port, "text/plain;version=0.0.4")
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.address = f"{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Clients:
    """Consumers who read, watch and report, and ask for what there is not; until the context ends."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._streams: list[http.client.HTTPConnection] = []
        self._dice = random.Random(7)

    def __enter__(self) -> Self:
        for _ in range(5):
            connection = self._connection()
            connection.request("GET", f"{self._place('slow')}/watch?target={MARK}", headers={"X-Trace": MARK})
            connection.getresponse()
            self._streams.append(connection)
        self._threads.append(threading.Thread(target=self._work, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        for connection in self._streams:
            connection.close()

    def _work(self) -> None:
        connection = self._connection()
        while not self._over.wait(0.02):
            with suppress(OSError, http.client.HTTPException):
                for method, path, body in self._wishes():
                    connection.request(method, path, body, {"User-Agent": MARK, "Content-Type": "application/json"})
                    connection.getresponse().read()
                continue
            connection.close()  # and open it again
        connection.close()

    def _wishes(self) -> Iterator[tuple[str, str, bytes | None]]:
        number = self._dice.randrange(10**6)
        yield "GET", self._place("slow"), None
        yield "GET", f"{self._place('slow')}/keys/{MARK}-{number}", None
        yield "GET", f"{self._place(f'{MARK}-{number}')}?target={MARK}-{number}", None
        yield "GET", f"/v1/namespaces/{MARK}-{number}/registries/x", None
        yield "GET", f"/{MARK}/{number}", None
        yield f"{MARK.upper()}", "/v1", None
        said = {"ttlSeconds": 60, "observed": {"version": number + 1, "status": "ok", "message": MARK}}
        yield "PUT", f"{self._place('slow')}/consumers/{MARK}-{number % 50}", json.dumps(said).encode()

    def _place(self, name: str) -> str:
        return f"/v1/namespaces/{self._scene.namespace}/registries/{name}"

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(LOOPBACK, self._scene.operators["serve"].port, timeout=10)


@contextmanager
def at_work(cluster: KubeCluster, namespace: str, directory: Path, prometheus: Prometheus) -> Iterator[Scene]:
    """Start all; returns when the controller leads and everybody is scraped."""
    with ExitStack() as stack:
        scene = Scene(namespace, prometheus, stack.enter_context(AppServer()))

        def start(name: str, *arguments: str) -> Operator:
            elect = name != "serve"
            made = stack.enter_context(
                running(cluster, namespace, directory / name, *arguments, command=name, election=elect)
            )
            scene.operators[name] = made
            return made

        serve = start("serve", "--env=test", "--cluster=one", "--hot-keys")
        controller = start("controller", f"--replica=http://{LOOPBACK}:{serve.port}")
        leads: Callable[[], Any] = lambda: controller.metrics("configregistry_leader ").get("") == 1  # noqa: E731
        wait(leads, lambda: controller.log[-3000:])
        start("run", "--no-registry-metrics")
        for operator in scene.operators.values():
            prometheus.scrape(f"{LOOPBACK}:{operator.probe_port}", job=JOB)
            plain = stack.enter_context(PlainText(operator.probe_port))
            prometheus.scrape(plain.address, job=TEXT_JOB)
        yield scene


async def played(client: Client, scene: Scene) -> None:
    """Have three registries: one rolled back, one that waits at half, one that is there to be deleted."""
    check = {"name": "alive", "interval": "500ms", "http": {"url": f"http://{scene.app.address}/healthz"}}
    await client.apply("checkout", data={"a": 1})
    await client.apply("slow", data={"a": 1})
    await client.apply("gone", data={"a": 1})
    for name in ("checkout", "slow", "gone"):
        await client.ready(name)
    scene.app.health = 500
    await client.apply("checkout", data={"a": 2}, rollout={"checks": [check], "bake": "10m"})
    await client.apply("slow", data={"a": 2}, rollout={"steps": [{"setWeight": 50}, {"pause": {}}]})
    await client.steady("checkout", Stalled=("True", "RolledBack"))
    await client.steady("slow", Reconciling=("True", "Paused"))
