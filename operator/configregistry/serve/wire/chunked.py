"""The body of a stream over HTTP/1.1."""

# ruff: noqa: D102 - methods of Sink; what they promise is said there

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from configregistry.serve.responses import Feed
from configregistry.serve.wire import encode
from configregistry.serve.wire.shared import Shared, reset, tell

if TYPE_CHECKING:
    from configregistry.serve.wire.http1 import Http1

KERNEL_BYTES: Final = 128 * 1024
"""What the kernel may hold of one stream (it doubles this). Else it grows to megabytes for each client that does not
read, which nobody sees and thousands of them have in the memory of the node."""

AT_ONCE: Final = 64 * 1024
"""Bytes that a transport is given at once: it copies what the socket does not take, for each client."""


class ChunkedSink:
    """A stream's body. In HTTP/1.0 there are no chunks, and its end is that of the connection.

    What the transport was not given yet waits in `_outbox` as it is, and so is there once for all streams that are
    given the same. While something waits there, the connection is paused, or about to be lost.
    """

    __slots__ = ("_chunked", "_connection", "_outbox", "_shared", "_taken", "_transport", "_waiting", "feed", "open")

    def __init__(self, connection: Http1, transport: asyncio.Transport, shared: Shared, *, chunked: bool) -> None:
        self._connection = connection
        self._transport = transport
        self._shared = shared
        self._chunked = chunked
        self.open = True
        self._outbox: deque[bytes] | None = None
        """None while it is empty: an idle stream shall be small."""
        self._waiting = 0
        """Bytes in the outbox that the transport was not given."""
        self._taken = 0
        """Bytes of the first that it was given."""
        self.feed: Feed | None = None
        held = transport.get_extra_info("socket")
        if held is not None:
            with suppress(OSError):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)

    @property
    def pending(self) -> int:
        return self._waiting + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if self.open and data:
            framed = self._shared.chunk(data) if self._chunked else data
            if len(framed) <= AT_ONCE and not self._connection.paused:
                self._transport.write(framed)
            else:
                self._put(framed)

    def end(self) -> None:
        if self.open:
            if self._chunked:
                self._put(encode.LAST_CHUNK)
            self.close()
            if self.left:
                self._connection.ending()
            else:
                self._connection.ended()

    def abort(self) -> None:
        if self.open:
            self.lost()
            reset(self._transport)

    # What the connection calls.

    def resume(self) -> None:
        """Go on: the transport has nothing left."""
        self._hand_over()
        if not self.left:
            if not self.open:
                self._connection.ended()
            elif not self._connection.paused:
                self.tell("resumed")

    def lost(self) -> None:
        """Nothing more goes to the client, or nothing more shall."""
        self._drop()
        self.close()

    def tell(self, what: str) -> None:
        """Call one of the feed's methods; a feed with a defect loses its stream."""
        if self.open and self.feed is not None and not tell(self.feed, what):
            self.abort()

    @property
    def left(self) -> bool:
        """Whether the transport was not given all."""
        return self._outbox is not None

    def close(self) -> None:
        """Nothing more comes in: the client is gone, or the feed has ended it."""
        if self.open:
            self.open = False
            # Not at once: the feed may be in the middle of something.
            self._shared.loop.call_soon(self._closed)

    def _put(self, data: bytes) -> None:
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(data)
        self._waiting += len(data)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the transport what waits, piece by piece, until its socket takes no more."""
        outbox = self._outbox
        while outbox and not self._connection.paused:
            if self._transport.is_closing():
                self._drop()
                return
            front, start = outbox[0], self._taken
            self._taken = min(start + AT_ONCE, len(front))
            self._waiting -= self._taken - start
            if self._taken == len(front):
                outbox.popleft()
                self._taken = 0
            self._transport.write(memoryview(front)[start : start + AT_ONCE])
        if not outbox:
            self._outbox = None

    def _drop(self) -> None:
        self._outbox, self._waiting, self._taken = None, 0, 0

    def _closed(self) -> None:
        if self.feed is not None:
            tell(self.feed, "closed")
