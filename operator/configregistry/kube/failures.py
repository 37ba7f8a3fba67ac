"""What the API server refuses, as types: a caller says in an `except` what it can cope with.

Why: the difference between "does not exist", "changed meanwhile" and "nobody answered" decides
whether configuration changes, and must never be guessed from a text. An answer that does not come
from a Kubernetes API server (a proxy's 404 page) is `Unavailable`, never `NotFound`.

It must never do I/O, and never turn an answer that it does not know into one of the definite ones.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from configregistry.errors import ConfigRegistryError, UsageError

NOT_KUBERNETES: Final = "NotKubernetes"
"""Reason of an answer that an API server would not give."""
TIMEOUT: Final = "Timeout"
"""Reason of silence: nothing says that the server is still there."""
NO_CONNECTION: Final = "NoConnection"
"""Reason where no connection came about, so that the request was never sent."""
BROKEN: Final = "ConnectionBroken"
"""Reason of a connection that the other side ended in the middle."""
OLDER: Final = "OlderState"
"""Reason of a list older than what the same API has told before."""

MAX_SHOWN: Final = 300
"""How much of a body that is no Status is told."""


class Cause(msgspec.Struct, frozen=True):
    """One of the reasons that a Status lists."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """What a Status is about."""

    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""
    causes: tuple[Cause, ...] = ()
    retry_after_seconds: int = 0


class ApiError(ConfigRegistryError):
    """A request without the answer that was asked for.

    `status` is 0 where there was no answer. `retry_after`: seconds, where the server named some.
    `outcome_unknown`: a write may or may not have happened; only `Unavailable` ever has it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        details: Details | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.details = details or Details()
        self.outcome_unknown = outcome_unknown


class NotFound(ApiError):  # noqa: N818 - these are Kubernetes' own names
    """404 by an API server: the object does not exist."""


class Conflict(ApiError):  # noqa: N818
    """409: the object has changed since it was read, or is another one of that name."""


class AlreadyExists(ApiError):  # noqa: N818
    """409: the name is taken."""


class Gone(ApiError):  # noqa: N818
    """410: that resourceVersion (or page) is no longer known; list again."""


class Forbidden(ApiError):  # noqa: N818
    """403: these credentials may not."""


class Unauthorized(ApiError):  # noqa: N818
    """401: these credentials are not known (any longer)."""


class Invalid(ApiError):  # noqa: N818
    """422 or 400: the API server does not take this object."""


class Throttled(ApiError):  # noqa: N818
    """429: later; nothing was done."""


class Unavailable(ApiError):  # noqa: N818
    """No answer, a 5xx, or an answer that no API server gives. Says nothing about the object."""


class NotLeading(ApiError):  # noqa: N818
    """Never sent: this process does not lead (any more), so it may not write."""


class NoClusterError(UsageError):
    """No API server can be talked to; the message says what to do."""


class MissingCrdError(UsageError):
    """The cluster does not know ConfigRegistry; the message says what to do."""


class NotPermittedError(UsageError):
    """These credentials lack rights that the program needs; the message lists all of them."""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


_DECODER: Final = msgspec.json.Decoder(_Status)
_BY_REASON: Final[dict[str, type[ApiError]]] = {
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "Expired": Gone,
    "Gone": Gone,
    "NotFound": NotFound,
}
_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    HTTPStatus.BAD_REQUEST: Invalid,
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.GONE: Gone,
    HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
    HTTPStatus.TOO_MANY_REQUESTS: Throttled,
}


def from_answer(code: int, body: bytes, *, what: str, retry_after: str | None = None, write: bool = False) -> ApiError:
    """Give the error that an answer other than 2xx is. `what` begins its message."""
    try:
        status = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        status = None
    known = status is not None and status.kind == "Status"
    if status is None or not known:
        text = body[:MAX_SHOWN].decode("utf-8", "replace").strip()
        status = _Status(kind="", message=text or "no text", reason=NOT_KUBERNETES)
    kind = _kind(code, status.reason, known=known)
    seconds = _seconds(retry_after, status.details)
    return kind(
        f"{what}: {code} {status.message}",
        status=code,
        reason=status.reason,
        retry_after=seconds,
        details=status.details,
        outcome_unknown=write and kind is Unavailable,
    )


def from_event(body: bytes, *, what: str) -> ApiError:
    """Give the error that the object of a watch's ERROR event is."""
    try:
        code = _DECODER.decode(body).code
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        code = 0
    return from_answer(code, body, what=what)


def _kind(code: int, reason: str, *, known: bool) -> type[ApiError]:
    if known and reason in _BY_REASON:
        return _BY_REASON[reason]
    # 401, 403, 410 and 429 mean the same from a proxy; 404 and 409 do not.
    if known or code not in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return _BY_STATUS.get(code, Unavailable)
    return Unavailable


def _seconds(header: str | None, details: Details | None) -> float | None:
    if header is not None and header.isascii() and header.isdigit():
        return float(header)
    if details is not None and details.retry_after_seconds > 0:
        return float(details.retry_after_seconds)
    return None
