"""One HTTP/1.1 connection.

A request whose bytes were seen before, on a connection where nothing else is under way, takes the short way in
`data_received`; everything else goes through `_pump`, one request at a time and at most a burst of them per turn.
"""

# ruff: noqa: D102 - methods of asyncio.Protocol and of Sink; what they promise is said there

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Final, cast

import structlog

from configregistry.serve.responses import Problem, Reply, Response, Stream, defect, unavailable
from configregistry.serve.wire import encode
from configregistry.serve.wire.chunked import ChunkedSink
from configregistry.serve.wire.parse import BODY, BOUNDARY, PIECE, Incoming, Reader
from configregistry.serve.wire.shared import LINGER, MAX_WAITING, NOBODY, Shared, reset, settled

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_log = structlog.get_logger(__name__)


class Http1(asyncio.Protocol):
    """A connection from its first byte to its last; HTTP/2 takes over when its preface comes."""

    __slots__ = (
        "_begun",
        "_clean",
        "_closing",
        "_current",
        "_draining",
        "_ended",
        "_handle",
        "_last",
        "_lasting",
        "_memo",
        "_paused",
        "_peer",
        "_raw",
        "_reader",
        "_resting",
        "_scheduled",
        "_seen",
        "_shared",
        "_starts",
        "_waiting",
        "deadline",
        "transport",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._handle = shared.handle
        self._lasting = shared.lasting
        self._memo = shared.memo
        self._starts = shared.starts
        self._peer = ""
        self._reader: Reader | None = None
        self._raw = b""
        """What was received and not parsed yet."""
        self._begun = False
        """Whether it is clear that this is HTTP/1."""
        self._clean = False
        """Between two requests, with nothing under way: the short way is open."""
        self._current: asyncio.Future[Reply] | ChunkedSink | None = None
        """What the request that is being answered waits for."""
        self._last: Incoming | None = None
        self._paused = False
        """The client has not taken all that was written."""
        self._waiting = 0
        self._resting = False
        """Nothing more is read from the socket."""
        self._scheduled = False
        self._seen = (0, BOUNDARY)
        self._draining = False
        self._closing = False
        """No more requests are answered."""
        self._ended = False
        """The client sends no more."""
        self.deadline = inf

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        # Zero: to be told as soon as a client does not take all of it, and when it has.
        self.transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        shared = self._shared
        refused = shared.enter(self, self._peer)
        shared.timed.add(self)
        self.deadline = shared.loop.time() + shared.limits.head_seconds
        if shared.draining or shared.crowded:
            self.abort()
        elif refused is not None:
            self._refuse(unavailable("TooManyConnections", "no room for another connection at present"))

    def data_received(self, data: bytes) -> None:
        if self._clean and self._lasting is not None and (known := self._lasting.find(data)) is not None:
            self.transport.write(known)
            if not self._paused:
                self.deadline = self._shared.idle_until
            return
        if self._clean and (incoming := self._memo.get(data)) is not None:
            request = incoming.request
            if request.peer != self._peer:
                request = request._replace(peer=self._peer)
            try:
                reply = self._handle(request)
            except Exception as error:  # noqa: BLE001 - as `Shared.ask` has it, without a call
                reply = defect(request, error)
            if reply.__class__ is Response:
                start = self._starts.get(reply.status)
                if start is not None and reply.wire is not None:
                    wire = start + reply.wire + reply.body
                    if reply.lasting and self._lasting is not None:
                        self._lasting.keep(data, wire, reply.status)
                    self.transport.write(wire)
                    if not self._paused:
                        self.deadline = self._shared.idle_until
                    return
            self._clean = False
            self._replied(incoming, reply)
            self._pump()
            return
        self._received(data)

    def eof_received(self) -> bool:
        self._ended = True
        reader = self._reader
        behind = self._raw or (reader is not None and (reader.ready or reader.problem))
        if behind and self._current is None and not self._closing:
            return True
        if self._current is not None and not self._closing:
            if isinstance(self._current, ChunkedSink):
                return self._end_stream(self._current)
            # It may have ended its own side only, or be gone: what takes but a moment is answered.
            self.deadline = self._shared.loop.time() + LINGER
            return True
        self._finish()
        return False

    def pause_writing(self) -> None:
        self._paused = True
        self._clean = False
        self._stall()

    def resume_writing(self) -> None:
        self._paused = False
        if isinstance(self._current, ChunkedSink):
            self._current.resume()
        elif not self._closing:
            self.deadline = inf if self._current is not None else self._shared.idle_until
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        self._closing, self._clean = True, False
        current, self._current = self._current, None
        if isinstance(current, ChunkedSink):
            current.lost()
        elif current is not None:
            current.cancel()
        self._reader, self._raw = None, b""
        self._shared.leave(self, self._peer)

    # What the server calls.

    def overdue(self, now: float) -> None:
        """End it for what it has not done in time, or look again later."""
        limits = self._shared.limits
        if self._paused:
            waiting = self.transport.get_write_buffer_size()
            if waiting < self._waiting:
                self._waiting = waiting
                self.deadline = now + limits.stall_seconds
            else:
                self.abort()
        elif self._closing:
            self.abort()
        elif self._current is not None and not self._ended:
            self.deadline = inf
        elif self._current is None and self._reader is not None and self._reader.phase != BOUNDARY:
            what, seconds = "head", limits.head_seconds
            if self._reader.phase == BODY:
                what, seconds = "body", limits.body_seconds
            detail = f"the {what} of a request has to be there within {seconds:g} s"
            self._refuse(Problem(HTTPStatus.REQUEST_TIMEOUT, "RequestTimeout", detail))
        else:
            self._finish()

    def drain(self) -> None:
        """End when what is under way has been answered."""
        self._draining, self._clean = True, False
        if isinstance(self._current, ChunkedSink):
            self._current.tell("drain")
        elif self._current is None and not self._paused and not self._raw and not self._unanswered():
            self._finish()

    def abort(self) -> None:
        """End it now."""
        self._closing, self._clean = True, False
        reset(self.transport)

    @property
    def paused(self) -> bool:
        """Whether the socket has not taken all that was written."""
        return self._paused

    def ending(self) -> None:
        """The stream has been ended by whoever fed it; what is left has to be taken in time, like any response."""
        self._shared.timed.add(self)
        self._stall()

    def ended(self) -> None:
        """All of the stream has been written."""
        self._current = None
        self.ending()
        self._go_on()
        self._again()

    # Requests.

    def _received(self, data: bytes) -> None:
        """Take what came, whatever it is."""
        if self._closing:
            return
        self._clean = False
        self._raw = self._raw + data if self._raw else data
        if not self._begun:
            if self._raw[: len(PREFACE)] == PREFACE[: len(self._raw)]:
                if len(self._raw) >= len(PREFACE):
                    self._become_http2()
                return
            self._begun = True
        self._pump()

    def _become_http2(self) -> None:
        from configregistry.serve.wire.http2 import Http2  # noqa: PLC0415 - most processes never need it

        new = Http2(self._shared, self._peer)
        self._shared.swap(self, new)
        self.transport.set_protocol(new)
        raw, self._raw = self._raw, b""
        new.begin(self.transport, raw)

    def _pump(self) -> None:
        """Parse and answer until there is nothing left, something is waited for, or it is others' turn."""
        if self._scheduled or self._closing:
            self._regulate()
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = Reader(self._shared.limits, self._peer, self._shared.admit)
        budget = self._shared.limits.burst
        while self._current is None and not self._paused and not self._closing:
            if reader.ready:
                if budget == 0:
                    self._again()
                    break
                budget -= 1
                self._answer(reader.ready.popleft())
            elif reader.problem is not None:
                self._refuse(reader.problem)
            elif self._raw:
                piece, self._raw = self._raw[:PIECE], self._raw[PIECE:]
                fresh = reader.phase == BOUNDARY
                reader.feed(piece)
                if fresh and not self._raw and len(reader.ready) == 1 and reader.phase == BOUNDARY:
                    incoming = reader.ready[0]
                    if incoming.plain and reader.problem is None:
                        self._shared.remember(piece, incoming)
            else:
                self._rest(reader)
                break
        self._regulate()

    def _rest(self, reader: Reader) -> None:
        """Nothing is there to be done: say what is waited for, and how long."""
        if reader.expects:
            reader.expects = False
            self.transport.write(encode.CONTINUE)
        if self._ended or (self._draining and reader.phase == BOUNDARY):
            self._finish()
        elif reader.phase == BOUNDARY:
            self._clean = not self._paused
        elif self._seen != (reader.messages, reader.phase):
            limits = self._shared.limits
            seconds = limits.body_seconds if reader.phase == BODY else limits.head_seconds
            self.deadline = self._shared.loop.time() + seconds
        self._seen = (reader.messages, reader.phase)

    def _unanswered(self) -> bool:
        """Whether a request is there, or begun, that has no answer yet."""
        reader = self._reader
        return reader is not None and (bool(reader.ready) or reader.phase != BOUNDARY or reader.problem is not None)

    def _regulate(self) -> None:
        """Read no more from a client that has much unanswered, and again when it has not."""
        if (len(self._raw) > MAX_WAITING) != self._resting and not self._closing:
            self._resting = not self._resting
            if self._resting:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _again(self) -> None:
        """Go on when all others have had their turn."""
        if not self._scheduled:
            self._scheduled = True
            self._shared.loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        self._pump()

    # Replies.

    def _answer(self, incoming: Incoming) -> None:
        self._replied(incoming, self._shared.ask(incoming.request))

    def _replied(self, incoming: Incoming, reply: Reply | Awaitable[Reply]) -> None:
        if isinstance(reply, Response):
            self._whole(incoming, reply)
        elif isinstance(reply, Stream):
            self._stream(incoming, reply)
        else:
            self._last = incoming
            self._current = asyncio.ensure_future(reply)
            self.deadline = self._shared.loop.time() + LINGER if self._ended else inf
            self._current.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Future[Reply]) -> None:
        if self._current is task and self._last is not None:
            self._current = None
            self._replied(self._last, settled(task, self._last.request))
            self._pump()
        elif not task.cancelled():
            task.exception()

    def _whole(self, incoming: Incoming, response: Response) -> None:
        self._last = incoming
        try:
            told = encode.rest(response)
        except ValueError as error:
            response = defect(incoming.request, error)
            told = encode.rest(response)
        body = b"" if incoming.request.method == "HEAD" or response.status in encode.NO_CONTENT else response.body
        self.transport.write(b"".join((self._shared.start(response.status), self._persistence(), told, body)))
        self._go_on()

    def _persistence(self) -> bytes:
        """Say whether the connection goes on, where that has to be said."""
        incoming = self._last
        assert incoming is not None
        if not incoming.keep_alive or self._draining:
            return encode.CLOSE
        return encode.KEEP_ALIVE if incoming.old else b""

    def _go_on(self) -> None:
        """See to the connection once a reply has been written."""
        if self._draining or self._last is None or not self._last.keep_alive:
            self._finish()
        elif not self._paused:
            self.deadline = self._shared.idle_until

    def _stream(self, incoming: Incoming, stream: Stream) -> None:
        try:
            told = encode.fields(stream.headers)
        except ValueError as error:
            self._whole(incoming, defect(incoming.request, error))
            return
        self._last = incoming if not incoming.old else incoming._replace(keep_alive=False)
        coding = b"" if incoming.old else encode.CHUNKED
        head = (self._shared.start(stream.status), self._persistence(), told, coding, b"\r\n")
        self.transport.write(b"".join(head))
        if incoming.request.method == "HEAD":
            self._go_on()
            return
        if self._reader is not None and self._reader.phase == BOUNDARY and not self._reader.ready:
            self._reader = None  # an idle stream shall be small
        sink = self._current = ChunkedSink(self, self.transport, self._shared, chunked=not incoming.old)
        self._shared.timed.discard(self)
        try:
            sink.feed = stream.open(sink)
        except Exception:  # noqa: BLE001 - a defect of one stream shall not end the others
            _log.exception("a stream could not be opened", path=incoming.request.path)
            sink.abort()
            return
        if self._draining:
            sink.tell("drain")
        if self._ended and not self._closing and self._current is sink:
            self._end_stream(sink)

    def _end_stream(self, sink: ChunkedSink) -> bool:
        """The client has ended its side: it gets what was written, and no more. Gives whether some of that is left."""
        if sink.open:
            assert self._last is not None
            self._last = self._last._replace(keep_alive=False)
            sink.close()
            if not sink.left:
                self._finish()
                return False
            self.ending()
        return True

    # Ends.

    def _stall(self) -> None:
        """Measure from here on whether the client takes what was written."""
        self._waiting = self.transport.get_write_buffer_size()
        self.deadline = self._shared.loop.time() + self._shared.limits.stall_seconds

    def _finish(self) -> None:
        """Send what is written, and end. A client that does not take it is cut off like any other."""
        self._closing, self._clean = True, False
        self._shared.timed.add(self)
        self._stall()
        self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Say what was wrong and end: where the next request begins is not known."""
        self._closing, self._clean = True, False
        response = problem.to(NOBODY)
        head = (self._shared.start(response.status), encode.CLOSE, encode.rest(response), response.body)
        self.transport.write(b"".join(head))
        if self._ended:
            self._finish()
            return
        self.deadline = self._shared.loop.time() + LINGER
        with suppress(OSError):  # the other side has gone already
            self.transport.write_eof()
        if self._resting:
            self._resting = False
            self.transport.resume_reading()
