"""An app to be checked: it answers /healthz and /metrics as it is told.

A server of the standard library, in threads of its own, so that it serves synchronous and
asynchronous tests alike and answers while an event loop under test is busy. It must never answer
more than it is told.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class AppServer:
    """`health`: the status of /healthz. `metrics`: what /metrics tells (series -> value), or a
    500."""

    def __init__(self) -> None:
        self.health = 200
        self.metrics: dict[str, float] | None = {}
        self.asked: list[str] = []
        """The paths, in the order in which they were asked."""
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """Host and port; the same when it is started again."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        server = self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        server.daemon_threads = True
        self._port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, as a service that crashed does."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str) -> tuple[int, bytes]:
        """What a path gives."""
        self.asked.append(path)
        if path == "/healthz":
            return self.health, b""
        if path == "/metrics" and self.metrics is not None:
            return 200, "".join(f"{series} {value}\n" for series, value in self.metrics.items()).encode()
        return (500 if path == "/metrics" else 404), b""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _handler(app: AppServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = app.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests read `asked`."""

    return Handler
