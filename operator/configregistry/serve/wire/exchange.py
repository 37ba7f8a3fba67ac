"""One request and its reply on an HTTP/2 connection, which carries many of them at once."""

# ruff: noqa: D102 - methods of Sink; what they promise is said there

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Final

from h2.exceptions import ProtocolError
from h2.utilities import HeaderValidationFlags, validate_headers

from configregistry.serve.responses import Feed, Problem, Reply, Request
from configregistry.serve.wire.limits import Limits
from configregistry.serve.wire.parse import body_too_large, head_too_large, target, target_too_long

if TYPE_CHECKING:
    from configregistry.serve.wire.replies import Replies

Fields = list[tuple[bytes, bytes]]


class Exchange:
    """A request as far as it is there, and what the client's window has not let through yet of its reply."""

    __slots__ = (
        "body",
        "current",
        "deadline",
        "feed",
        "held",
        "last",
        "number",
        "outbox",
        "pending",
        "received",
        "request",
        "streaming",
    )

    def __init__(self, number: int, request: Request) -> None:
        self.number = number
        self.request = request
        self.body: list[bytes] = []
        self.received = 0
        self.current: asyncio.Future[Reply] | None = None
        """What its answer waits for."""
        self.streaming = False
        self.feed: Feed | None = None
        self.outbox: deque[memoryview] = deque()
        self.pending = 0
        """Bytes in the outbox."""
        self.held = False
        """Whether a feed is to be told when the outbox is empty."""
        self.last = False
        """Nothing more comes into the outbox."""
        self.deadline = inf

    def put(self, data: bytes) -> None:
        """Add to what is to be sent."""
        self.outbox.append(memoryview(data))
        self.pending += len(data)

    def take(self, size: int) -> memoryview:
        """Remove at most so many bytes from the front. There has to be something."""
        front = self.outbox.popleft()
        if len(front) > size:
            self.outbox.appendleft(front[size:])
            front = front[:size]
        self.pending -= len(front)
        return front

    def drop(self) -> None:
        """Forget what was to be sent."""
        self.outbox.clear()
        self.pending = 0


class FramedSink:
    """A stream's body, in DATA frames."""

    __slots__ = ("_exchange", "_replies", "open")

    def __init__(self, replies: Replies, exchange: Exchange) -> None:
        self._replies = replies
        self._exchange = exchange
        self.open = True

    @property
    def pending(self) -> int:
        return self._exchange.pending

    def write(self, data: bytes) -> None:
        if self.open and data:
            self._exchange.put(data)
            self._replies.send(self._exchange)

    def end(self) -> None:
        if self.open:
            self._exchange.last = True
            self._replies.end_feed(self._exchange, self)
            self._replies.send(self._exchange)

    def abort(self) -> None:
        if self.open:
            self._replies.end_feed(self._exchange, self)
            self._replies.cut(self._exchange)


_RULES: Final = HeaderValidationFlags(
    is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False
)


def request_of(fields: Fields, limits: Limits, peer: str) -> Request | Problem:
    """Make a request without its content of the fields of a HEADERS frame, or say why it is refused.

    h2's own rules: names are in lower case, values without space around them, pseudo-fields come first and once, and
    nothing is of a connection. What breaks them is an error of this request alone (RFC 9113, 8.1.1).
    """
    try:
        for _ in validate_headers(fields, _RULES):
            pass
    except ProtocolError as error:
        return Problem(HTTPStatus.BAD_REQUEST, "MalformedRequest", f"no valid HTTP/2 request: {error}")
    found: dict[str, str] = {}
    url = b""
    for name, value in fields:
        if name == b":path":
            url = value
        text, told = name.decode(errors="replace"), value.decode(errors="replace")
        former = found.get(text)
        found[text] = told if former is None else f"{former}, {told}"
    if len(url) > limits.url_bytes:
        return target_too_long(limits)
    if sum(len(name) + len(value) + 4 for name, value in fields) > limits.head_bytes or len(found) > limits.head_fields:
        return head_too_large(limits)
    place = target(url) if url.startswith(b"/") or url == b"*" else None
    if place is None:
        return Problem(HTTPStatus.BAD_REQUEST, "MalformedRequest", "expected a path as target")
    length = found.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        return body_too_large(limits.body_bytes)
    if ":authority" in found:
        found["host"] = found[":authority"]
    return Request(found[":method"], *place, found.get, b"", peer)
