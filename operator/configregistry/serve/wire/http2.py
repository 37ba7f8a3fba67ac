"""One HTTP/2 connection, over python-hyper's h2, which knows frames, headers and windows.

What is ours: requests are answered by turns, and what a client may cost is bounded. Their replies are `replies`'.
"""

# ruff: noqa: D102 - methods of asyncio.Protocol; what they promise is said there

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Any, Final

import structlog
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from configregistry.serve.responses import Problem
from configregistry.serve.wire.exchange import Exchange, request_of
from configregistry.serve.wire.limits import Limits
from configregistry.serve.wire.parse import PIECE, body_too_large
from configregistry.serve.wire.replies import Replies
from configregistry.serve.wire.shared import LINGER, MAX_WAITING, NOBODY, Shared, reset

LOOK: Final = 1.0
"""Seconds between two looks at the requests of a connection for one that is overdue."""
MAX_SILENT: Final = 256 * 1024
"""Bytes that may come without anything coming of them: h2 looks at a frame's length once it has all of the frame."""

MAX_BODIES: Final = 4
"""Contents of the largest size that the requests of one connection may bring together."""

_log = structlog.get_logger(__name__)


class _Frames(H2Connection):
    MAX_CLOSED_STREAMS = 256  # what h2 remembers of each request that is over, for as long as the connection lives


def _frames(limits: Limits) -> H2Connection:
    settings = {
        SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
        SettingCodes.MAX_HEADER_LIST_SIZE: limits.head_bytes,
    }
    # Ours are checked when they are encoded for HTTP/1.1, once for each response.
    # A client's are checked in `request_of`: here a bad one would end all other requests of the connection as well.
    config = H2Configuration(
        client_side=False,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    frames = _Frames(config)
    frames.local_settings = Settings(client=False, initial_values=settings)
    # Above the bound that is answered with 431, because here it is the connection that ends.
    frames.decoder.max_header_list_size = 4 * limits.head_bytes
    return frames


class Http2(asyncio.Protocol):
    """A connection from its preface on."""

    __slots__ = (
        "_closing",
        "_frames",
        "_goodbye",
        "_peer",
        "_queue",
        "_raw",
        "_replies",
        "_resets",
        "_resting",
        "_scheduled",
        "_shared",
        "_silent",
        "_until",
        "_waiting",
        "deadline",
        "transport",
    )

    def __init__(self, shared: Shared, peer: str) -> None:
        self._shared = shared
        self._peer = peer
        self._frames = _frames(shared.limits)
        self._replies = Replies(self._frames, shared, self._done)
        self._queue: deque[Exchange] = deque()
        """Requests that are there and wait for their turn."""
        self._raw = b""
        self._scheduled = self._resting = self._closing = False
        self._goodbye = False
        """No new requests are taken."""
        self._resets = self._silent = self._waiting = 0
        self._until = shared.idle_until
        """When the connection ends, if it is without requests or does not take what is written."""
        self.deadline = 0.0

    def begin(self, transport: asyncio.Transport, data: bytes) -> None:
        """Take over a connection whose first bytes are these."""
        self.transport = self._replies.transport = transport
        self._frames.initiate_connection()
        self._replies.write()
        self.data_received(data)

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._raw = self._raw + data if self._raw else data
            self._pump()

    def eof_received(self) -> bool:
        self._close()
        return False

    def pause_writing(self) -> None:
        self._replies.paused = True
        self._stall()
        self._regulate()

    def resume_writing(self) -> None:
        self._replies.paused = False
        self._until = self._shared.idle_until
        self._replies.send_all()
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        self._closing = True
        self._replies.close()
        self._shared.leave(self, self._peer)

    # What the server calls.

    def overdue(self, now: float) -> None:
        """End what was not done in time; this connection or some of its requests."""
        self.deadline = now + LOOK
        if self._replies.paused:
            waiting = self.transport.get_write_buffer_size()
            if waiting < self._waiting:
                self._stall()
        if self._replies.paused or self._closing:
            if now >= self._until:
                self.abort()
        elif self._replies.here:
            self._until = self._shared.idle_until
            self._give_up(now)
        elif now >= self._until:
            self._say_goodbye()
            self._close()

    def _give_up(self, now: float) -> None:
        """End the requests that have not come, and the replies that have not been taken, in time."""
        for exchange in [each for each in self._replies.here.values() if each.deadline <= now]:
            if exchange.outbox:
                self._replies.cut(exchange)
            else:
                seconds = self._shared.limits.body_seconds
                detail = f"the body of a request has to be there within {seconds:g} s"
                problem = Problem(HTTPStatus.REQUEST_TIMEOUT, "RequestTimeout", detail)
                self._replies.refuse(exchange, problem, complete=False)
        self._replies.write()
        self._done()

    def drain(self) -> None:
        """Take no new requests, and end when those that are here have been answered."""
        self._say_goodbye()
        self._replies.drain()
        self._done()

    def abort(self) -> None:
        """End it now."""
        self._closing = True
        reset(self.transport)

    # Frames that come.

    def _pump(self) -> None:
        """Parse a piece and answer a burst; then it is others' turn."""
        if not self._scheduled and not self._closing:
            if not self._queue and self._raw:
                self._parse()
            budget = self._shared.limits.burst
            while self._queue and budget and not self._replies.paused and not self._closing:
                budget -= 1
                exchange = self._queue.popleft()
                if exchange.number in self._replies.here:
                    self._replies.reply(exchange, self._shared.ask(exchange.request))
            self._replies.send_all()  # windows may have grown, too
            if (self._queue or self._raw) and not self._replies.paused and not self._closing:
                self._scheduled = True
                self._shared.loop.call_soon(self._continue)
        self._regulate()

    def _continue(self) -> None:
        self._scheduled = False
        self._pump()

    def _parse(self) -> None:
        piece, self._raw = self._raw[:PIECE], self._raw[PIECE:]
        try:
            events = self._frames.receive_data(piece)
        except ProtocolError as error:
            _log.debug("a client broke HTTP/2", peer=self._peer, why=str(error))
            self._turn_away()
            return
        self._silent = 0 if events else self._silent + len(piece)
        if self._silent > MAX_SILENT:
            self._send_away()
        for event in events:
            happened = _EVENTS.get(type(event))
            if happened is not None and not self._closing:
                try:
                    happened(self, event)
                except ProtocolError as error:
                    # The request was taken back by what came behind this event.
                    _log.debug("a request is gone", peer=self._peer, why=str(error))

    def _regulate(self) -> None:
        """Read no more from a client that does not read, or has much unanswered."""
        rest = self._replies.paused or len(self._raw) > MAX_WAITING
        if rest != self._resting and not self._closing:
            self._resting = rest
            if rest:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _on_request(self, event: RequestReceived) -> None:
        number, complete = event.stream_id, event.stream_ended is not None
        if self._goodbye:
            self._frames.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        found = request_of(event.headers, self._shared.limits, self._peer)
        if isinstance(found, Problem):
            exchange = self._replies.here[number] = Exchange(number, NOBODY)
            self._replies.refuse(exchange, found, complete=complete)
            return
        exchange = self._replies.here[number] = Exchange(number, found)
        if not complete:
            exchange.deadline = self._shared.loop.time() + self._shared.limits.body_seconds
            if found.header("expect") is not None:
                self._frames.send_headers(number, [(":status", "100")])

    def _on_data(self, event: DataReceived) -> None:
        self._frames.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        exchange = self._replies.here.get(event.stream_id)
        if exchange is not None:
            exchange.body.append(event.data)
            exchange.received += len(event.data)
            most = self._shared.limits.body_bytes
            if exchange.received > most:
                self._replies.refuse(exchange, body_too_large(most), complete=False)
            elif sum(each.received for each in self._replies.here.values()) > MAX_BODIES * most:
                # Nothing was done about it, and so it may be asked again (RFC 9113, 8.7).
                self._frames.reset_stream(exchange.number, ErrorCodes.REFUSED_STREAM)
                self._replies.forget(exchange)

    def _on_end(self, event: StreamEnded) -> None:
        exchange = self._replies.here.get(event.stream_id)
        if exchange is not None:
            exchange.deadline = inf
            if exchange.body:
                exchange.request = exchange.request._replace(body=b"".join(exchange.body))
                exchange.body = []
            self._queue.append(exchange)

    def _on_reset(self, event: StreamReset) -> None:
        exchange = self._replies.here.get(event.stream_id)
        self._resets += 1
        if exchange is not None:
            self._replies.forget(exchange)
            self._replies.finished -= 1
        if self._resets - self._replies.finished > self._shared.limits.resets:
            self._send_away()

    def _on_goodbye(self, _event: ConnectionTerminated) -> None:
        # h2 sends nothing more then, although what is under way could still be answered.
        self._turn_away()

    # Ends.

    def _say_goodbye(self) -> None:
        """Tell which request was the last one. h2 itself would send nothing more after its own GOAWAY."""
        if not self._goodbye and not self._closing:
            self._goodbye = True
            frame: Any = GoAwayFrame(0, last_stream_id=self._frames.highest_inbound_stream_id)
            self._replies.write()
            self.transport.write(frame.serialize())

    def _send_away(self) -> None:
        """End a connection that costs more than it may."""
        self._frames.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        self._turn_away()

    def _turn_away(self) -> None:
        """Say why, and listen on for a moment, else the kernel would throw away what was said."""
        self._replies.write()
        self._closing = True
        self._replies.close()
        self._until = self._shared.loop.time() + LINGER
        with suppress(OSError):  # the other side has gone already
            self.transport.write_eof()
        if self._resting:
            self._resting = False
            self.transport.resume_reading()

    def _done(self) -> None:
        """End when nothing is left to be done and nothing new is taken."""
        if self._goodbye and not self._replies.here and not self._closing and not self._raw:
            self._close()

    def _stall(self) -> None:
        """Measure from here on whether the client takes what was written."""
        self._waiting = self.transport.get_write_buffer_size()
        self._until = self._shared.loop.time() + self._shared.limits.stall_seconds

    def _close(self) -> None:
        self._closing = True
        self._stall()
        self.transport.close()


_EVENTS: Final[dict[type[Event], Callable[[Http2, Any], None]]] = {
    RequestReceived: Http2._on_request,  # noqa: SLF001 - its own
    DataReceived: Http2._on_data,  # noqa: SLF001
    StreamEnded: Http2._on_end,  # noqa: SLF001
    StreamReset: Http2._on_reset,  # noqa: SLF001
    ConnectionTerminated: Http2._on_goodbye,  # noqa: SLF001
}
