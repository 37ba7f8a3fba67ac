"""The script of a fault: which requests, how many of them, and what becomes of those. Pure.

A fault has two sides: what happens to a request that comes while it is armed, and what happens to a watch that is
open. Most have one only.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from tests.faults.picture import Picture

REASONS: Final = {
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.CONFLICT: "Conflict",
    HTTPStatus.GONE: "Expired",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Invalid",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "Timeout",
}
"""What an API server names the statuses that it answers with."""


class Seen(NamedTuple):
    """A request as a rule looks at it."""

    method: str
    path: str
    watch: bool


class Ask(enum.Enum):
    """What becomes of a request."""

    PASS = "pass"
    ANSWER = "answer"
    """By the proxy itself; the API server never hears of it."""
    RESET_BEFORE = "reset before it was sent on"
    RESET_AFTER = "reset after it was carried out: who asked cannot know"
    STALL_BEFORE = "no answer, and not sent on"
    STALL_AFTER = "no answer, though it was carried out"
    LATE = "no answer, and sent on only when the fault is over"
    PAST = "answered from a picture"


class Flow(enum.Enum):
    """What becomes of the watches that are open when the fault comes."""

    PASS = "pass"
    HOLD = "events wait until the fault is over"
    CUT = "half a line, and the connection breaks"
    END = "ended in good order, before its time"
    EXPIRE = "an ERROR event that says 410"
    GARBAGE = "a line that is no event"


@dataclass(frozen=True)
class Fault:
    """What goes wrong. The functions below make these."""

    name: str
    ask: Ask = Ask.PASS
    flow: Flow = Flow.PASS
    code: int = 0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    picture: Picture | None = None


def refuse(code: int, *, retry_after: int | None = None, text: str = "", flow: Flow = Flow.PASS) -> Fault:
    """Answer a status as an API server does; with `text`, as something that is not one."""
    body = text.encode() or status(code, retry_after)
    told = (("Retry-After", str(retry_after)),) if retry_after is not None else ()
    kind = "text/html" if text else "application/json"
    headers = (("Content-Type", kind), *told)
    return Fault(f"{code}{' of a proxy' if text else ''}", Ask.ANSWER, flow, code, body, headers)


def reset(*, after: bool = False) -> Fault:
    """Break the connection; what is open breaks as well."""
    ask = Ask.RESET_AFTER if after else Ask.RESET_BEFORE
    return Fault(ask.value, ask, Flow.CUT)


def stall(*, after: bool = False) -> Fault:
    """Say nothing for as long as the fault lasts; watches go on."""
    ask = Ask.STALL_AFTER if after else Ask.STALL_BEFORE
    return Fault(ask.value, ask)


def late() -> Fault:
    """What is asked lies about in the network, and arrives when nobody expects it any more."""
    return Fault(Ask.LATE.value, Ask.LATE, Flow.HOLD)


def black_hole() -> Fault:
    """Nothing comes back, nothing breaks, and nothing is sent on: as a network that was split."""
    return Fault("black hole", Ask.STALL_BEFORE, Flow.HOLD)


def hold() -> Fault:
    """What watches tell comes late; whoever asks is told the truth."""
    return Fault("events held back", Ask.PASS, Flow.HOLD)


def cut() -> Fault:
    """Break off the watches in the middle of a line."""
    return Fault("half a line", Ask.PASS, Flow.CUT)


def end() -> Fault:
    """End the watches in good order, but before their time."""
    return Fault("watch ended early", Ask.PASS, Flow.END)


def expire() -> Fault:
    """Tell the watches that their resourceVersion is too old."""
    return Fault("410 in a watch", Ask.PASS, Flow.EXPIRE)


def garbage() -> Fault:
    """Tell the watches something that is no event."""
    return Fault("garbage in a watch", Ask.PASS, Flow.GARBAGE)


def behind(picture: Picture, *, flow: Flow = Flow.CUT) -> Fault:
    """Answer reads from a picture, as an API server does that is behind; watches break, so that lists are asked for."""
    return Fault("an answer of the past", Ask.PAST, flow, picture=picture)


@dataclass(frozen=True)
class Rule:
    """A fault for some requests: empty fields match all. `skip`: so many pass first; `hits`: so many meet it."""

    fault: Fault
    methods: Collection[str] = ()
    path: str = ""
    """A regular expression, searched for."""
    watch: bool | None = None
    skip: int = 0
    hits: int | None = None

    def matches(self, seen: Seen) -> bool:
        """Whether the rule is about this request."""
        return (
            (not self.methods or seen.method in self.methods)
            and (self.watch is None or self.watch == seen.watch)
            and re.search(self.path, seen.path) is not None
        )


@dataclass
class Armed:
    """A rule that holds at present, and what it has met."""

    rule: Rule
    met: int = 0
    hits: int = 0
    """Requests and watches that the fault happened to."""
    requests: list[Seen] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    """What the API server answered to what came late."""

    def takes(self, seen: Seen) -> bool:
        """Count a request; whether the fault happens to it."""
        rule = self.rule
        if rule.fault.ask is Ask.PASS or not rule.matches(seen):
            return False
        self.met += 1
        if self.met <= rule.skip or (rule.hits is not None and self.hits >= rule.hits):
            return False
        self.hits += 1
        self.requests.append(seen)
        return True


def status(code: int, retry_after: int | None = None) -> bytes:
    """A Status as an API server sends it."""
    details = {"retryAfterSeconds": retry_after} if retry_after is not None else {}
    return json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": f"{HTTPStatus(code).phrase} (by the fault proxy)",
            "reason": REASONS.get(HTTPStatus(code), "Unknown"),
            "details": details,
            "code": code,
        }
    ).encode()
