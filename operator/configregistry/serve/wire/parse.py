"""Bytes of a connection -> requests, over llhttp (`httptools`). Pure: no socket, no clock.

llhttp frames the messages and refuses what two parsers could understand differently: a length beside chunks, two
lengths, folded lines, bare LF, control characters. What it leaves to us is here: bounds, one Host, targets, and
`Upgrade`, which llhttp takes to end HTTP at once, although a server may ignore it (RFC 9110, 7.8) and Java's and
curl's clients offer `h2c` in front of ordinary contents.

Whatever way the same bytes are split, the same requests come out.
"""

# ruff: noqa: D102 - the callbacks are httptools', and described there

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import httptools

from configregistry.serve.responses import Problem, Request
from configregistry.serve.wire.limits import Limits

BOUNDARY, HEAD, BODY = range(3)
"""Where in a message a connection is: between two, in a head, in a body."""

PIECE: Final = 4096
"""Bytes that are parsed at a time, so that no client has us parse thousands of small requests at once."""
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "upgrade", "expect", "connection"})


Admit = Callable[[Request], int]
"""Says how many bytes a request may bring, by its head alone; less than the server's limit changes nothing."""


class Incoming(NamedTuple):
    """A request, and what its answer has to look like."""

    request: Request
    keep_alive: bool = True
    old: bool = False
    """HTTP/1.0: no chunks, and a connection that is kept must be said to be."""
    plain: bool = False
    """A GET with nothing about its framing: the same bytes always mean the same, and nothing follows from them."""


class Reader:
    """The requests of one connection. `feed` it, then take from `ready`, then see whether there is a `problem`."""

    __slots__ = (
        "_admit",
        "_begun",
        "_body",
        "_bound",
        "_fed",
        "_fields",
        "_limits",
        "_method",
        "_muted",
        "_parser",
        "_peer",
        "_size",
        "_url",
        "expects",
        "finished",
        "messages",
        "phase",
        "problem",
        "ready",
    )

    def __init__(self, limits: Limits, peer: str, admit: Admit | None = None) -> None:
        self._limits = limits
        self._admit = admit
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self._muted = False
        self._reset()
        self.phase = BOUNDARY
        self.messages = 0
        self.ready: deque[Incoming] = deque()
        self.problem: Problem | None = None
        """Why nothing more can be read; the requests in `ready` came before it."""
        self.finished = False
        """The last request said that it is the last one."""
        self.expects = False
        """The client waits for 100 (Continue) before it sends the body."""

    def _reset(self) -> None:
        self._url = b""
        self._fields: dict[str, str] = {}
        self._size = self._fed = 0
        self._bound = self._limits.body_bytes
        self._body: list[bytes] = []
        self._begun: Incoming | None = None

    def feed(self, data: bytes) -> None:
        """Read more: at most `PIECE` bytes at a time. Never raises."""
        if self.finished or self.problem is not None:
            return
        phase, message = self.phase, self.messages
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self.finished:
                self._refuse(HTTPStatus.BAD_REQUEST, "MalformedRequest", f"no valid HTTP/1.1 request: {error}")
        if phase == self.phase and message == self.messages and phase != BOUNDARY:
            self._count(len(data))

    def _count(self, size: int) -> None:
        """Bound what has no end: a field or a chunk's extension is told to us only when it is complete."""
        self._fed += size
        if self.phase == HEAD and self._fed > self._limits.head_bytes + PIECE:
            self.problem = self.problem or head_too_large(self._limits)
        elif self.phase == BODY and self._fed > 8 * self._bound + PIECE:
            self.problem = self.problem or body_too_large(self._bound)

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self._muted or self.problem is not None:
            return
        self._reset()
        self.messages += 1
        self.phase = HEAD

    def on_url(self, url: bytes) -> None:
        if self._muted or self.problem is not None:
            return
        self._url += url
        self._size += len(url)
        if len(self._url) > self._limits.url_bytes:
            self.problem = self.problem or target_too_long(self._limits)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._muted or self.problem is not None or self.phase == BODY:  # trailers are read and forgotten
            return
        self._size += len(name) + len(value) + 4
        text = name.decode("ascii").lower()
        told = value.decode(errors="replace").strip(" \t")
        former = self._fields.get(text)
        if former is not None:
            if text == "host":
                self._refuse(HTTPStatus.BAD_REQUEST, "MalformedRequest", "more than one Host")
            told = f"{former}, {told}"
        self._fields[text] = told
        if self._size > self._limits.head_bytes or len(self._fields) > self._limits.head_fields:
            self.problem = self.problem or head_too_large(self._limits)

    def on_headers_complete(self) -> None:
        if self._muted or self.problem is not None:
            return None
        parser, fields = self._parser, self._fields
        method, version = parser.get_method().decode("ascii"), parser.get_http_version()
        found = target(self._url)
        if version not in ("1.1", "1.0"):
            detail = f"HTTP/{version} is not spoken in this form, only 1.1 and 1.0"
            return self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "UnsupportedVersion", detail)
        if version == "1.1" and "host" not in fields:
            return self._refuse(HTTPStatus.BAD_REQUEST, "MalformedRequest", "no Host")
        if method == "CONNECT" or found is None:
            return self._refuse(HTTPStatus.BAD_REQUEST, "MalformedRequest", "expected a path or a URL as target")
        coding = fields.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            detail = f"transfer coding {coding!r} is not known, only chunked"
            return self._refuse(HTTPStatus.NOT_IMPLEMENTED, "UnsupportedTransferCoding", detail)
        if coding is not None and version == "1.0":
            return self._refuse(HTTPStatus.BAD_REQUEST, "MalformedRequest", "chunks in HTTP/1.0")
        request = Request(method, *found, fields.get, b"", self._peer)
        if self._framed() and self._too_large(request):
            return None
        expected = fields.get("expect")
        if expected is not None and version == "1.1":
            if expected.lower() != "100-continue":
                detail = f"{expected!r} cannot be expected, only 100-continue"
                return self._refuse(HTTPStatus.EXPECTATION_FAILED, "ExpectationFailed", detail)
            self.expects = coding is not None or fields.get("content-length", "0") != "0"
        plain = method == "GET" and version == "1.1" and _FRAMING.isdisjoint(fields)
        self._begun = Incoming(request, parser.should_keep_alive(), version == "1.0", plain)
        self.phase, self._size, self._fed = BODY, 0, 0
        return None

    def _too_large(self, request: Request) -> bool:
        """Find out how much content this request may have, and refuse more before it is read."""
        if self._admit is not None:
            self._bound = max(self._bound, self._admit(request))
        if int(self._fields.get("content-length", "0")) > self._bound:
            self.problem = body_too_large(self._bound)
        return self.problem is not None

    def on_body(self, data: bytes) -> None:
        if self._muted or self.problem is not None:
            return
        self.expects = False
        self._body.append(data)
        self._size += len(data)
        if self._size > self._bound:
            self.problem = self.problem or body_too_large(self._bound)

    def on_message_complete(self) -> None:
        if self._muted or self.problem is not None or self._begun is None:
            return
        if self._parser.should_upgrade() and self._framed():
            return  # not complete at all: see _ignore_upgrade
        incoming, self._begun = self._begun, None
        if self._body:
            request = incoming.request._replace(body=b"".join(self._body))
            incoming = incoming._replace(request=request)
            self._body = []
        # A parser that was told the framing anew (below) does not know that this request is the last one.
        self.finished = self._muted = not incoming.keep_alive
        self.phase = BOUNDARY
        self.expects = False
        self.ready.append(incoming)

    def _framed(self) -> bool:
        return "transfer-encoding" in self._fields or self._fields.get("content-length", "0") != "0"

    def _ignore_upgrade(self, behind: bytes) -> None:
        """Go on in HTTP/1.1 with a parser that has not seen the offer, and is told the same framing."""
        if self.problem is not None:
            return
        self._parser = httptools.HttpRequestParser(self)
        if self._begun is not None:
            fields = self._fields
            framing = "content-length" if "content-length" in fields else "transfer-encoding"
            self._muted = True
            self._parser.feed_data(f"POST / HTTP/1.1\r\nhost: x\r\n{framing}: {fields[framing]}\r\n\r\n".encode())
            self._muted = False
        if behind:
            self.feed(behind)

    def _refuse(self, status: HTTPStatus, name: str, detail: str) -> None:
        self.problem = self.problem or Problem(status, name, detail)


def target_too_long(limits: Limits) -> Problem:
    """Say how long a target may be."""
    detail = f"expected a target of at most {limits.url_bytes} bytes"
    return Problem(HTTPStatus.REQUEST_URI_TOO_LONG, "TargetTooLong", detail)


def head_too_large(limits: Limits) -> Problem:
    """Say how large a head may be."""
    detail = f"expected a head of at most {limits.head_bytes} bytes and {limits.head_fields} fields"
    return Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "HeadTooLarge", detail)


def body_too_large(size: int) -> Problem:
    """Say how long a body may be."""
    detail = f"expected a body of at most {size} bytes"
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BodyTooLarge", detail)


def target(url: bytes) -> tuple[str, str] | None:
    """Give path (percent-decoded once) and query (raw) of a request target; None for what has none.

    `/path?query`, `http://host/path?query` (RFC 9112, 3.2.2) and `*` are targets; a fragment is not part of one.
    """
    text = url.decode(errors="replace")
    if "#" in text:
        return None
    if not text.startswith("/") and text != "*":
        try:
            parts = urlsplit(text)
        except ValueError:
            return None
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return None
        text = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    path, _, query = text.partition("?")
    return (unquote(path, errors="replace") if "%" in path else path), query
