"""Requests and responses as plain values, so that every answer can be tested without a socket.

An `Answer` is a representation that was encoded once and is given to many; a `Problem` is an error
as RFC 9457 has it, and is raised wherever it is found.

Nothing here may know the server (that is `rsgi`), nor what a registry is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

Headers = list[tuple[str, str]]
"""Names are in lower case, as HTTP/2 wants them."""

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
    """Gives a header by its name in lower case."""


class Response(NamedTuple):
    """One whole response. For HEAD it has the body all the same: the server leaves it out."""

    status: int
    headers: Headers
    body: bytes


class Answer:
    """An encoded representation with its strong ETag. Shared between requests; never changed."""

    __slots__ = ("body", "etag", "found", "headers")

    def __init__(self, body: bytes, headers: Headers, content_type: str = JSON) -> None:
        # 96 bits of the very bytes that are sent: equal ETags mean equal bytes.
        self.etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        self.body = body
        self.headers = [*headers, ("etag", self.etag), ("cache-control", "no-cache")]
        self.found = Response(200, [("content-type", content_type), *self.headers], body)

    def to(self, request: Request) -> Response:
        """Give 200, or 304 where the client has these bytes already."""
        known = request.header("if-none-match")
        if known is not None and (known == self.etag or _names(known, self.etag)):
            return Response(304, self.headers, b"")
        return self.found


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
    """`VersionNotFound` as words: Version not found."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", name)
    return words[0] + words[1:].lower()
