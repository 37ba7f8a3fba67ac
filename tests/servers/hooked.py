"""A validating service, or one that is told of rollouts: it answers as it is told and records what it was sent.

A server of the standard library, in threads of its own, so that it answers while an event loop under test is
busy and a request that hangs holds up no other. It must never answer more than it is told.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

HANG: Final = "hang"
"""In place of an answer: none, until the server ends."""


@dataclass
class Sent:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Hooked:
    """`answers`: by path, the status and body of each answer; `HANG` for none. Others get 200 without a body."""

    answers: dict[str, tuple[int, bytes] | str] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    _port: int = 0
    _server: ThreadingHTTPServer | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        """Host and port; the same when it is started again."""
        return f"127.0.0.1:{self._port}"

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    def says(self, path: str, answer: Any = None, *, status: int = 200) -> None:
        """What a path answers from now on: JSON, or nothing but a status."""
        body = b"" if answer is None else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.answers[path] = status, body

    def hangs(self, path: str) -> None:
        """What is sent to a path is taken, and never answered."""
        self.answers[path] = HANG

    def to(self, path: str) -> list[Sent]:
        """What was sent to a path."""
        return [each for each in tuple(self.sent) if each.path == path]

    def by_path(self) -> dict[str, int]:
        """How much was sent to each path."""
        counts: defaultdict[str, int] = defaultdict(int)
        for each in tuple(self.sent):
            counts[each.path] += 1
        return dict(counts)

    def start(self) -> None:
        """Listen."""
        self._ended.clear()
        server = self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, as a service that crashed does."""
        self._ended.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def take(self, sent: Sent) -> tuple[int, bytes] | None:
        """The answer to a request; None: the connection ends without one."""
        self.sent.append(sent)
        answer = self.answers.get(sent.path, (200, b""))
        if isinstance(answer, str):
            self._ended.wait()
            return None
        return answer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked is gone: killed, or it did not wait so long."""


def _handler(hooked: Hooked) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = hooked.take(Sent(self.path, dict(self.headers.items()), body))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_: object) -> None:
            """Tests read `sent`."""

    return Handler
