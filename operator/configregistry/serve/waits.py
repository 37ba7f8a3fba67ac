"""Requests that are held: until their answer changes (`?wait=`), until a revision is here (`?minRevision=`).

A client that has read from one replica may be sent to another that is behind. It shows the revision that it has
seen, and this replica waits until it has that as well; it never answers with an older one. A revision that is still
lacking after `CATCH_UP` is 503, because another replica may have it.

Whoever waits is interested first and compares then, so no change falls in between; nobody polls.

It must never decide what is answered, nor keep anything of a client that has gone away.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import unquote_plus

from configregistry.errors import FieldError
from configregistry.kube.objects import Key
from configregistry.model.durations import parse_duration
from configregistry.serve.interest import Interests
from configregistry.serve.responses import (
    RETRY_AFTER,
    REVISION_HEADER,
    Headers,
    Problem,
    Reply,
    Request,
    Response,
    bad_parameter,
    unavailable,
)
from configregistry.serve.routes import Endpoint, Place
from configregistry.serve.view import Source, concerned
from configregistry.state import Snapshot

MAX_HELD: Final = 20_000
"""Requests that are held at once; some 5 KiB each."""
MAX_WAIT: Final = 300.0
"""Seconds of the longest `?wait=`: what lies between may drop a connection that is silent for longer."""
CATCH_UP: Final = 5.0
"""Seconds that a revision is waited for."""
AT_ONCE: Final = 64
"""Held requests that are answered before all others have their turn: some 2 ms."""
MAX_GONE: Final = 10_000
_MAX_DIGITS: Final = 18


class Behind(Problem):
    """This replica does not have (yet) what the client has seen elsewhere."""

    def __init__(self, detail: str, headers: Headers | None = None) -> None:
        retry = ("retry-after", str(RETRY_AFTER))
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, "BehindRevision", detail, headers=[retry, *(headers or [])])


class Timer(Protocol):
    """What was asked to be called later."""

    def cancel(self) -> None:
        """Do not call it any more."""
        ...


Later = Callable[[float, Callable[[], None]], Timer]
"""Calls something in so many seconds, as `loop.call_later`."""
Get = Callable[[Request, Place], Response]


class Waits:
    """All requests of this replica that are held. All of it runs in the event loop's thread."""

    def __init__(
        self, source: Source, interests: Interests, *, later: Later | None = None, max_held: int = MAX_HELD
    ) -> None:
        self._source = source
        self._interests = interests
        self._later = later or (lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        self._held: set[asyncio.Event] = set()
        self._max_held = max_held
        self._to_wake: deque[asyncio.Event] = deque()
        self._draining = False
        self._gone: OrderedDict[Key, int] = OrderedDict()

    def on(self, handle: Get, *, hold: bool = True) -> Endpoint:
        """Give a GET of one registry that can be waited with; `handle` sees neither parameter.

        Without `hold` only for a revision: of what may change without a publication.
        """
        names = (_WAIT, _MIN_REVISION) if hold else (_MIN_REVISION,)

        def waited(request: Request, place: Place) -> Reply | Awaitable[Reply]:
            shown = request.header(REVISION_HEADER)
            asking = request.query and _MAY_ASK(request.query)
            revision, seconds, rest = 0, 0.0, request
            if asking:
                revision, seconds, rest = _read(request, names)
            if shown is not None:
                revision = max(revision, _revision("X-ConfigRegistry-Revision", shown))

            try:
                if revision:
                    self._reach(place, revision)
                reply = handle(rest, place)
            except Behind:
                pass
            else:
                if not seconds or reply.status != HTTPStatus.NOT_MODIFIED:
                    return reply

            def attempt() -> Response:
                self._reach(place, revision)
                return handle(rest, place)

            if len(self._held) >= self._max_held:
                raise unavailable("TooManyWaiting", "this replica holds as many requests as it can")
            return self._hold(attempt, place, seconds)

        return waited

    def drain(self) -> None:
        """Answer all that is held with what is there, and hold nothing from now on."""
        self._draining = True
        for woken in self._held:
            woken.set()

    def published(self, before: Snapshot, now: Snapshot, changed: Collection[Key]) -> None:
        """Remember what is gone; subscribe this to the hydrator.

        A registry that is made again counts its revisions anew: what a client has seen of the former one is
        nothing that could come still.
        """
        for key in changed:
            old, new = before.registry(*key), now.registry(*key)
            if old is not None and (new is None or new.uid != old.uid):
                self._gone[key] = max(old.revision, self._gone.pop(key, 0))
                if len(self._gone) > MAX_GONE:
                    self._gone.popitem(last=False)

    def _reach(self, place: Place, revision: int) -> None:
        """Raise `Behind` where a registry has not come as far as a client has seen it."""
        key = (place.namespace, place.name)
        registry = self._source.snapshot().registry(*key)
        here = registry.revision if registry is not None else 0
        if here < revision and self._gone.get(key, 0) < revision:
            headers = [(REVISION_HEADER, str(here))] if registry is not None else []
            what = f"has revision {here} of" if registry is not None else "does not know"
            raise Behind(f"this replica {what} {'/'.join(key)}, revision {revision} was asked for", headers)

    def _wake(self, woken: asyncio.Event) -> None:
        """Wake somebody soon: thousands may wait for one publication, and others want to read meanwhile."""
        self._to_wake.append(woken)
        if len(self._to_wake) == 1:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        for _ in range(min(AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().set()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)

    async def _hold(self, attempt: Callable[[], Response], place: Place, seconds: float) -> Reply:
        """Try again at each publication that may matter, until there is something new or time is over."""
        woken = asyncio.Event()
        interest = self._interests.listen((), lambda: self._wake(woken))
        self._held.add(woken)
        over, late = _Deadline(woken), _Deadline(woken)
        over.passed = not seconds
        timers = [
            self._later(after, deadline.pass_) for after, deadline in ((seconds, over), (CATCH_UP, late)) if after
        ]
        try:
            while True:
                woken.clear()
                interest.on(concerned(self._source.snapshot(), place.namespace, place.name))
                try:
                    reply = attempt()
                except Behind:
                    if late.passed or self._draining:
                        raise
                else:
                    if reply.status != HTTPStatus.NOT_MODIFIED or over.passed or self._draining:
                        return reply
                await woken.wait()
        finally:
            interest.cancel()
            self._held.discard(woken)
            for timer in timers:
                timer.cancel()


class _Deadline:
    """A moment that somebody is woken at."""

    __slots__ = ("_woken", "passed")

    def __init__(self, woken: asyncio.Event) -> None:
        self._woken = woken
        self.passed = False

    def pass_(self) -> None:
        self.passed = True
        self._woken.set()


_WAIT: Final = "wait"
_MIN_REVISION: Final = "minRevision"
_MAY_ASK: Final = re.compile(f"{_WAIT}|{_MIN_REVISION}").search
"""Whether a query may hold one of both: most do not, and are not taken apart for it."""


def _read(request: Request, names: Collection[str]) -> tuple[int, float, Request]:
    """Take the parameters of waiting off a request: revision, seconds, and the rest. Raises `Problem`."""
    asked: dict[str, str] = {}
    others = []
    for part in request.query.split("&"):
        name, _, value = part.partition("=")
        if name not in names:
            others.append(part)
        elif name in asked:
            raise bad_parameter(name, "given more than once")
        else:
            asked[name] = unquote_plus(value)
    revision = _revision(_MIN_REVISION, asked[_MIN_REVISION]) if _MIN_REVISION in asked else 0
    seconds = _seconds(asked[_WAIT]) if _WAIT in asked else 0.0
    return revision, seconds, request._replace(query="&".join(others))


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except FieldError:
        raise bad_parameter(_WAIT, "expected a duration such as 30s or 2m") from None
    if seconds > MAX_WAIT:
        raise bad_parameter(_WAIT, "expected at most 5m")
    return seconds


def _revision(field: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    raise bad_parameter(field, "expected a revision's number")
