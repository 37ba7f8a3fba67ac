"""The body of a stream over HTTP/1.1."""

# ruff: noqa: D102 - methods of Sink; what they promise is said there

from __future__ import annotations

import asyncio
import socket
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


class ChunkedSink:
    """A stream's body. In HTTP/1.0 there are no chunks, and its end is that of the connection."""

    __slots__ = ("_chunked", "_connection", "_open", "_shared", "_transport", "feed")

    def __init__(self, connection: Http1, transport: asyncio.Transport, shared: Shared, *, chunked: bool) -> None:
        self._connection = connection
        self._transport = transport
        self._shared = shared
        self._chunked = chunked
        self._open = True
        self.feed: Feed | None = None
        held = transport.get_extra_info("socket")
        if held is not None:
            with suppress(OSError):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)

    @property
    def pending(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if self._open and data:
            self._transport.write(self._shared.chunk(data) if self._chunked else data)

    def end(self) -> None:
        if self._open:
            if self._chunked:
                self._transport.write(encode.LAST_CHUNK)
            self.close()
            self._connection.ended()

    def abort(self) -> None:
        if self._open:
            self.close()
            reset(self._transport)

    def tell(self, what: str) -> None:
        """Call one of the feed's methods; a feed with a defect loses its stream."""
        if self._open and self.feed is not None and not tell(self.feed, what):
            self.abort()

    def close(self) -> None:
        """Nothing more goes: the client is gone, or the feed has ended it."""
        if self._open:
            self._open = False
            # Not at once: the feed may be in the middle of something.
            self._shared.loop.call_soon(self._closed)

    def _closed(self) -> None:
        if self.feed is not None:
            tell(self.feed, "closed")
