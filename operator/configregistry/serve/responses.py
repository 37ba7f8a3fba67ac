"""Requests and replies as plain values, so that every answer can be tested without a socket.

A reply is a `Response`, which is whole, or a `Stream`, whose body goes on. An `Answer` is a
representation that was encoded once and is given to many; a `Problem` is an error as RFC 9457 has
it, and is raised wherever it is found.

Nothing here may know the server, nor what a registry is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import msgspec
import structlog

from configregistry.serve.compress import AT_ONCE, WORTH, Coding, accepted, in_background

Headers = list[tuple[str, str]]
"""Names are in lower case, as HTTP/2 wants them."""

_log = structlog.get_logger(__name__)

PROBLEMS: Final = "https://configregistry.dev/problems/"
"""What each problem's `type` begins with; the rest is its name and is contract."""
JSON: Final = "application/json"
VERSION_HEADER: Final = "x-configregistry-version"
REVISION_HEADER: Final = "x-configregistry-revision"
STALE_HEADER: Final = "x-configregistry-stale"
TARGET_HEADER: Final = "x-configregistry-target"
ATTRIBUTE_HEADER: Final = "x-configregistry-attr-"


class Request(NamedTuple):
    """One request. The path is percent-decoded already (once), the query is not."""

    method: str
    path: str
    query: str
    header: Callable[[str], str | None]
    """Gives a header by its name in lower case; one that came several times joined by commas."""
    body: bytes = b""
    """Whole; longer ones than the server's limit never get here."""
    peer: str = ""
    """The client's address, for limits; never an identity."""
    user: str = ""
    """Who it is, once that has been authenticated."""


class Response:
    """One whole response. For HEAD it has the body all the same: the server leaves it out.

    Never changed once it is made: it may be given to many, and the server keeps with it what it encoded of it.
    """

    __slots__ = ("body", "headers", "lasting", "status", "wire")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.lasting = False
        """Whether the same request gives this until something is published."""
        self.wire: bytes | None = None
        """The server's: the headers as HTTP/1.1 has them, once they have been sent."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.status, self.headers, self.body))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Response({self.status}, {self.headers}, {self.body[:80]!r})"

    def _replace(self, *, headers: Headers) -> Response:
        """Give the same with other headers, as a named tuple would."""
        return Response(self.status, headers, self.body)


class Sink(Protocol):
    """Where the bytes of one stream go: one client. Belongs to the event loop's thread."""

    @property
    def pending(self) -> int:
        """Give the bytes that were written and that the client's socket has not taken yet."""
        ...

    def write(self, data: bytes) -> None:
        """Send more of the body. Never waits, never raises; nothing happens once it is closed."""
        ...

    def end(self) -> None:
        """End the response once all that was written is sent."""
        ...

    def abort(self) -> None:
        """Cut the client off now; what was not sent yet is dropped."""
        ...


class Feed(Protocol):
    """What writes to a sink. All of it is called in the event loop's thread."""

    def resumed(self) -> None:
        """All that was pending has been taken (called only after `pending` was above zero)."""
        ...

    def drain(self) -> None:
        """This process is about to end: say goodbye and end the sink."""
        ...

    def closed(self) -> None:
        """The client is gone, or the sink was ended or aborted. Called once, and nothing after it."""
        ...


class Stream(NamedTuple):
    """A response whose body goes on until either side ends it."""

    status: int
    headers: Headers
    open: Callable[[Sink], Feed]
    """Called once, when the head has been sent; may write at once."""


Reply = Response | Stream
Handle = Callable[[Request], Reply | Awaitable[Reply]]
"""Answers a request, at once where it can. Never raises; an awaited one is cancelled when its client goes away."""


class Answer:
    """An encoded representation with its strong ETag. Shared between requests; never changed.

    What is not short is given packed to whom that is welcome, packed once for each coding, when it is first asked
    for. Each coding is a representation of its own, with an ETag of its own (RFC 9110, 8.8.3.3).
    """

    __slots__ = ("_packed", "_unchanged", "body", "etag", "found", "headers", "unchanged")

    def __init__(self, body: bytes, headers: Headers, content_type: str = JSON) -> None:
        # 96 bits of the very bytes that are sent: equal ETags mean equal bytes.
        self.etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        self.body = body
        if len(body) < WORTH:
            self._packed: dict[str, Response | None] | None = None
        else:
            self._packed, self._unchanged = {}, dict[str, Response]()
            headers = _varied(headers)
        self.headers = [*headers, ("etag", self.etag), ("cache-control", "no-cache")]
        self.found = Response(200, [("content-type", content_type), *self.headers], body)
        self.unchanged = Response(304, self.headers, b"")

    @property
    def size(self) -> int:
        """Give the bytes that this may come to, packed forms included."""
        return len(self.body) if self._packed is None else 2 * len(self.body)

    def to(self, request: Request) -> Response:
        """Give 200, or 304 where the client has these bytes already, packed or not."""
        if self._packed is not None:
            accepts = request.header("accept-encoding")
            if accepts is not None:
                return self._chosen(accepted(accepts), request.header("if-none-match"))
        known = request.header("if-none-match")
        if known is not None and (known == self.etag or _names(known, self.etag)):
            return self.unchanged
        return self.found

    def _chosen(self, codings: tuple[Coding, ...], known: str | None) -> Response:
        """Choose the representation that the client has; else the one that it likes best and that is there."""
        if known is not None:
            if _names(known, self.etag):
                return self.unchanged
            for coding in codings:
                if _names(known, self._tag(coding)):
                    return self._same(coding)
        for coding in codings:
            packed = self._pack(coding)
            if packed is not None:
                return packed
        return self.found

    def _tag(self, coding: Coding) -> str:
        # Of the plain bytes: another replica's library may pack them otherwise, but never into something else.
        return f'{self.etag[:-1]}{coding.suffix}"'

    def _same(self, coding: Coding) -> Response:
        same = self._unchanged.get(coding.name)
        if same is None:
            same = self._unchanged[coding.name] = Response(304, self._headers(coding), b"")
        return same

    def _headers(self, coding: Coding) -> Headers:
        return [(name, self._tag(coding) if name == "etag" else value) for name, value in self.headers]

    def _pack(self, coding: Coding) -> Response | None:
        """Give the packed form, if it is there and worth it; see that it is made if it was not yet."""
        forms = self._packed
        assert forms is not None
        if coding.name not in forms:
            forms[coding.name] = None
            if len(self.body) <= AT_ONCE:
                self._make(coding, forms)
            elif in_background(lambda: self._make(coding, forms)) is None:
                del forms[coding.name]  # for whoever asks next
                return None
        return forms[coding.name]

    def _make(self, coding: Coding, forms: dict[str, Response | None]) -> None:
        """Pack it; kept only while all that is packed takes less than the body itself, which bounds `size`."""
        data = coding.pack(self.body)
        kept = sum(len(form.body) for form in list(forms.values()) if form is not None)
        if kept + len(data) < len(self.body):
            head = [self.found.headers[0], ("content-encoding", coding.name)]
            forms[coding.name] = Response(200, [*head, *self._headers(coding)], data)


def _varied(headers: Headers) -> Headers:
    """Say that the answer depends on Accept-Encoding as well."""
    names = [value for name, value in headers if name == "vary"]
    rest = [(name, value) for name, value in headers if name != "vary"]
    return [*rest, ("vary", ", ".join([*names, "accept-encoding"]))]


_ETAG = re.compile(r'"[^"]*"')


def _names(if_none_match: str, etag: str) -> bool:
    """Compare weakly, as RFC 9110 asks for If-None-Match: `W/"x"` names `"x"`, `*` names all."""
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)


class Problem(Exception):  # noqa: N818 - it is what RFC 9457 calls it
    """An error that the client is told. `name` is what it is distinguished by."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail
        self.field = field
        self.headers = headers or []

    def to(self, request: Request) -> Response:
        """Give it as `application/problem+json`."""
        document = {
            "type": PROBLEMS + self.name,
            "title": _title(self.name),
            "status": self.status,
            "detail": self.detail,
            "instance": quote(request.path),
        }
        if self.field is not None:
            document["field"] = self.field
        headers = [("content-type", "application/problem+json"), ("cache-control", "no-cache")]
        return Response(self.status, headers + self.headers, msgspec.json.encode(document))


def defect(request: Request, error: BaseException) -> Response:
    """Answer what a handler did not: it is logged, not told."""
    _log.error("a request could not be answered", method=request.method, path=request.path, exc_info=error)
    detail = "this request met a defect; it has been logged"
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal", detail).to(request)


RETRY_AFTER: Final = 2
"""Seconds after which a client should ask again for what is not there yet."""


def unavailable(name: str, detail: str, headers: Headers | None = None) -> Problem:
    """Say that the answer is not known at present, which is never the same as 404."""
    retry = ("retry-after", str(RETRY_AFTER))
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, name, detail, headers=[retry, *(headers or [])])


def not_found(name: str, detail: str, headers: Headers | None = None) -> Problem:
    """Say that what was named does not exist."""
    return Problem(HTTPStatus.NOT_FOUND, name, detail, headers=headers)


def bad_parameter(field: str, detail: str) -> Problem:
    """Say which part of the input was bad, and what was expected."""
    return Problem(HTTPStatus.BAD_REQUEST, "InvalidParameter", f"{field}: {detail}", field=field)


def _title(name: str) -> str:
    """`VersionNotFound` as words: Version not found; `InvalidTTL`: Invalid TTL."""
    first, *words = _WORD.findall(name)
    return " ".join([first, *(word if word.isupper() else word.lower() for word in words)])


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*")
