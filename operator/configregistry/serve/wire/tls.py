"""TLS between a socket and a connection, over OpenSSL as `ssl.SSLObject` has it.

Not asyncio's own: that keeps a buffer of 256 KiB for each connection, which ten thousand streams pay 2.6 GB for, and
tells nobody of a connection before its handshake is over, so that clients who never finish it are in no count and
under no limit. Here the connection is there from the first moment, and its deadline includes the handshake.
"""

# ruff: noqa: D102 - methods of asyncio.Protocol and asyncio.Transport; what they promise is said there

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Final, cast

import structlog

RECORD: Final = 16 * 1024
"""Bytes that one record carries at most (RFC 8446, 5.1)."""

_log = structlog.get_logger(__name__)


class Tls(asyncio.Protocol, asyncio.Transport):
    """The protocol of a socket's transport, and the transport of an HTTP connection."""

    __slots__ = ("_early", "_ended", "_incoming", "_inner", "_outer", "_outgoing", "_ready", "_resting", "_tls")

    def __init__(self, inner: asyncio.Protocol, context: ssl.SSLContext) -> None:
        super().__init__()
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ready = False
        """The handshake is over."""
        self._early = b""
        """What was written before."""
        self._resting = False
        self._ended = False
        """We have said that nothing more comes."""

    # What the event loop calls, for the socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outer = cast("asyncio.Transport", transport)
        self._inner.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        self._advance()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def _advance(self) -> None:
        """Take as far as it goes what has come."""
        if self._ended and self._ready:
            self._incoming.read()
            return
        try:
            if not self._ready:
                self._shake_hands()
            while not self._resting and not self._ended and not self._outer.is_closing():
                data = self._tls.read(RECORD)
                if not data:
                    self._over()
                    return
                self._inner.data_received(data)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLZeroReturnError:
            self._over()
        except ssl.SSLError as error:
            self._broke(error)

    def _shake_hands(self) -> None:
        """Go on with the handshake, and send what was written before it was over."""
        self._tls.do_handshake()
        self._ready = True
        early, self._early = self._early, b""
        self._encrypt(early)
        if self._ended:
            self._say_goodbye()
        self._flush()
        if self._ended:
            with suppress(OSError):  # the other side has gone already
                self._outer.write_eof()

    def _broke(self, error: ssl.SSLError) -> None:
        """End it now: OpenSSL neither reads nor writes anything once it met a fatal error (RFC 8446, 6.2)."""
        _log.debug("a client broke TLS", why=str(error))
        self._ended = True
        self._flush()  # the alert that tells why
        self._outer.abort()

    def _over(self) -> None:
        """The client has said that nothing more comes."""
        if not self._inner.eof_received():
            self.close()

    def _encrypt(self, data: bytes) -> None:
        """Encrypt it, record by record: what OpenSSL keeps for the outgoing grows with what lay there at once."""
        if len(data) <= RECORD:
            if data:
                self._tls.write(data)
            return
        left, records = memoryview(data), []
        while left:
            left = left[self._tls.write(left[:RECORD]) :]
            records.append(self._outgoing.read())
        self._outer.write(b"".join(records))

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._outer.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        with suppress(ssl.SSLError):  # it says so, and then wants to hear the other's
            self._tls.unwrap()

    # What the HTTP connection calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._ready:
            self._early += bytes(data)
        elif not self._ended:
            try:
                self._encrypt(cast("bytes", data))
                self._flush()
            except ssl.SSLError as error:
                self._broke(error)

    def get_write_buffer_size(self) -> int:
        return self._outer.get_write_buffer_size() + len(self._early)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._outer.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        self._resting = True
        self._outer.pause_reading()

    def resume_reading(self) -> None:
        self._resting = False
        self._outer.resume_reading()
        # What has been decrypted may be all there is.
        asyncio.get_running_loop().call_soon(self._advance)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._end()
        if self._ready:
            self._outer.write_eof()

    def close(self) -> None:
        self._end()
        self._outer.close()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._ready:
                self._say_goodbye()
                self._flush()

    def abort(self) -> None:
        self._outer.abort()

    def is_closing(self) -> bool:
        return self._outer.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._outer.get_extra_info(name, default)
