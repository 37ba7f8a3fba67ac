"""Heads of HTTP/1.1 responses as bytes. What does not change between two answers is encoded once.

A head is three pieces: the status line with the date, which all answers of one second share; what this very
connection has to say; and the fields of the response, which are kept with it, since a `Response` is given many times.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from configregistry.serve.responses import Headers, Response

NO_CONTENT: Final = frozenset({204, 304})
"""Statuses whose responses have no content, nor say its length."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")


def start(status: int, wall: float) -> bytes:
    """Give the status line and the date, at so many seconds since the epoch."""
    reason = _REASONS.get(status, "")
    return f"HTTP/1.1 {status} {reason}\r\ndate: {formatdate(wall, usegmt=True)}\r\n".encode("ascii")


def fields(headers: Headers) -> bytes:
    """Give header fields as lines. Raises `ValueError` for what would end one early."""
    for name, value in headers:
        if _FORBIDDEN.search(name) or _FORBIDDEN.search(value):
            raise ValueError(f"header {name!r}: {value!r} is no header")
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode()


def rest(response: Response) -> bytes:
    """Give the fields of a whole response, its length and the empty line; made once for each `Response`."""
    if response.wire is None:
        told = fields(response.headers)
        if response.status not in NO_CONTENT:
            told += b"content-length: %d\r\n" % len(response.body)
        response.wire = told + b"\r\n"
    return response.wire


def chunk(data: bytes) -> bytes:
    """Frame a part of a stream. Never called with nothing, which would be the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)
