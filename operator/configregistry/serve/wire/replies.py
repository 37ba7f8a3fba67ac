"""The replies of one HTTP/2 connection, on their way to its client: by turns, as far as windows and socket let them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from configregistry.serve.responses import Headers, Problem, Reply, Response, Stream, defect
from configregistry.serve.wire import encode
from configregistry.serve.wire.exchange import Exchange, FramedSink
from configregistry.serve.wire.shared import Shared, settled, tell

_log = structlog.get_logger(__name__)


class Replies:
    """The requests under way, and what of their replies has not been sent. `done` is called whenever one is over."""

    __slots__ = (
        "_done",
        "_frames",
        "_shared",
        "_sinks",
        "closed",
        "draining",
        "finished",
        "here",
        "paused",
        "transport",
    )

    def __init__(self, frames: H2Connection, shared: Shared, done: Callable[[], None]) -> None:
        self._frames = frames
        self._shared = shared
        self._done = done
        self._sinks: dict[int, FramedSink] = {}
        self.transport: asyncio.Transport
        self.here: dict[int, Exchange] = {}
        """By the number of their stream."""
        self.paused = False
        """The socket takes nothing at present."""
        self.draining = False
        self.closed = False
        """Nothing more can be sent."""
        self.finished = 0
        """How many have come to an end."""

    def reply(self, exchange: Exchange, reply: Reply | Awaitable[Reply]) -> None:
        """Begin with a reply; what it consists of is sent by `send_all`."""
        if isinstance(reply, Response):
            self._whole(exchange, reply)
        elif isinstance(reply, Stream):
            self._stream(exchange, reply)
        else:
            task = exchange.current = asyncio.ensure_future(reply)
            task.add_done_callback(lambda task: self._settled(exchange, task))

    def _settled(self, exchange: Exchange, task: asyncio.Future[Reply]) -> None:
        if exchange.current is task:
            exchange.current = None
            self.reply(exchange, settled(task, exchange.request))
            self.send_all()
        elif not task.cancelled():
            task.exception()

    def _whole(self, exchange: Exchange, response: Response) -> None:
        try:
            encode.rest(response)
        except ValueError as error:
            response = defect(exchange.request, error)
        headers = response.headers
        empty = response.status in encode.NO_CONTENT
        if not empty:
            headers = [*headers, ("content-length", str(len(response.body)))]
        empty = empty or exchange.request.method == "HEAD" or not response.body
        self._head(exchange, response.status, headers, end=empty)
        if not empty:
            exchange.last = True
            exchange.put(response.body)
            exchange.deadline = self._stalled()

    def _stream(self, exchange: Exchange, stream: Stream) -> None:
        try:
            encode.fields(stream.headers)
        except ValueError as error:
            self._whole(exchange, defect(exchange.request, error))
            return
        head_only = exchange.request.method == "HEAD"
        self._head(exchange, stream.status, stream.headers, end=head_only)
        if head_only:
            return
        self.write()
        sink = self._sinks[exchange.number] = FramedSink(self, exchange)
        exchange.streaming = True
        try:
            exchange.feed = stream.open(sink)
        except Exception:  # noqa: BLE001 - a defect of one stream shall not end the others
            _log.exception("a stream could not be opened", path=exchange.request.path)
            sink.abort()
            return
        if self.draining:
            self._tell(exchange, "drain")

    def _head(self, exchange: Exchange, status: int, headers: Headers, *, end: bool) -> None:
        told = [(":status", str(status)), ("date", self._shared.date), *headers]
        self._frames.send_headers(exchange.number, told, end_stream=end)
        if end:
            self.forget(exchange)

    def refuse(self, exchange: Exchange, problem: Problem, *, complete: bool) -> None:
        """Answer at once; have the client send no more of a request that is not complete."""
        response = problem.to(exchange.request)
        self._head(
            exchange, response.status, [*response.headers, ("content-length", str(len(response.body)))], end=False
        )
        number = exchange.number
        told = self._frames.local_flow_control_window(number) >= len(response.body)
        if told:
            self._frames.send_data(number, response.body, end_stream=True)
        if not complete or not told:
            self._frames.reset_stream(number, ErrorCodes.NO_ERROR)
        self.forget(exchange)

    # Frames.

    def send(self, exchange: Exchange) -> None:
        """Send as much of one stream as goes."""
        while self._frame(exchange):
            pass
        exchange.held = bool(exchange.outbox)

    def send_all(self) -> None:
        """Send as much of all replies as goes, frame by frame in turns."""
        self.write()
        waiting = [each for each in self.here.values() if each.outbox or each.last]
        while waiting:
            waiting = [each for each in waiting if self._frame(each)]
        for exchange in [each for each in self.here.values() if each.held and not each.outbox]:
            exchange.held = False
            self._tell(exchange, "resumed")
        self._done()

    def _frame(self, exchange: Exchange) -> bool:
        """Send one frame; False when nothing more of this reply can be sent at present."""
        if self.paused or self.closed or exchange.number not in self.here:
            return False
        try:
            more = self._send_frame(exchange)
        except ProtocolError:  # the client has taken its request back, and that event is behind this one
            self.forget(exchange)
            more = False
        self.write()
        return more

    def _send_frame(self, exchange: Exchange) -> bool:
        frames, number = self._frames, exchange.number
        if not exchange.outbox:
            if exchange.last:
                frames.end_stream(number)
                self.forget(exchange)
            return False
        size = min(frames.local_flow_control_window(number), frames.max_outbound_frame_size)
        if size <= 0:
            return False
        part = exchange.take(size)
        end = exchange.last and not exchange.outbox
        frames.send_data(number, part, end_stream=end)
        if end:
            self.forget(exchange)
        elif not exchange.streaming:
            exchange.deadline = self._stalled()
        return not end

    def write(self) -> None:
        """Give the socket the frames that are ready."""
        data = self._frames.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _stalled(self) -> float:
        return self._shared.loop.time() + self._shared.limits.stall_seconds

    # Ends.

    def end_feed(self, exchange: Exchange, sink: FramedSink) -> None:
        """The feed has nothing more to say; it is told so when it is not in the middle of something."""
        sink.open = False
        self._sinks.pop(exchange.number, None)
        self._shared.loop.call_soon(self._feed_closed, exchange)

    def _feed_closed(self, exchange: Exchange) -> None:
        feed, exchange.feed = exchange.feed, None
        exchange.streaming = False
        if exchange.outbox:
            exchange.deadline = self._stalled()
        if feed is not None:
            tell(feed, "closed")

    def cut(self, exchange: Exchange) -> None:
        """End one reply before its end."""
        if exchange.number in self.here and not self.closed:
            self._frames.reset_stream(exchange.number, ErrorCodes.CANCEL)
            self.forget(exchange)
            self.write()
            self._done()

    def forget(self, exchange: Exchange) -> None:
        """This request is over, one way or the other."""
        if self.here.pop(exchange.number, None) is None:
            return
        self.finished += 1
        exchange.drop()
        current, exchange.current = exchange.current, None
        if current is not None:
            current.cancel()
        sink = self._sinks.get(exchange.number)
        if sink is not None:
            self.end_feed(exchange, sink)

    def close(self) -> None:
        """All of them are over."""
        self.closed = True
        for exchange in list(self.here.values()):
            self.forget(exchange)

    def drain(self) -> None:
        """Have the streams end."""
        self.draining = True
        for exchange in list(self.here.values()):
            self._tell(exchange, "drain")

    def _tell(self, exchange: Exchange, what: str) -> None:
        sink = self._sinks.get(exchange.number)
        if sink is not None and exchange.feed is not None and not tell(exchange.feed, what):
            sink.abort()
