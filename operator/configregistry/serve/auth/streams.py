"""Open streams, looked at again: a token that ended and a right that was taken end what was begun with them.

Whoever is let in is let in for one request; a stream is a request that does not end. Each is therefore checked
again about once a minute with its own request, as if it came anew.

It must never end a stream because nobody can be asked: what the guard still honours goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Protocol

import structlog

from configregistry.serve.responses import Feed, Problem, Request, Sink, Stream
from configregistry.serve.routes import Need

EVERY: Final = 60
"""Seconds between two looks at a stream; each second one in so many is looked at."""

AT_ONCE: Final = 16
"""Streams that are looked at together: each may have to wait for the API server."""

_log = structlog.get_logger(__name__)


class Guard(Protocol):
    """Knows who a client is and what it may do."""

    def check(self, request: Request, needs: tuple[Need, ...]) -> str | Awaitable[str]:
        """Give the user; raises `Problem`."""
        ...


class Streams:
    """All streams that somebody was let in for. All of it runs in the event loop's thread."""

    def __init__(self, guard: Guard, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._guard = guard
        self._sleep = sleep
        self._slots: list[dict[_Checked, None]] = [{} for _ in range(EVERY)]
        self._opened = 0

    def over(self, stream: Stream, request: Request, needs: tuple[Need, ...]) -> Stream:
        """Give the same stream, looked at again for as long as it is open."""

        def open_(sink: Sink) -> Feed:
            self._opened += 1
            slot = self._slots[self._opened % EVERY]
            checked = _Checked(stream.open(sink), sink, request, needs, slot)
            slot[checked] = None
            return checked

        return stream._replace(open=open_)

    async def run(self) -> None:
        """Look again for as long as this runs."""
        while True:
            for slot in self._slots:
                await self._sleep(1.0)
                here = list(slot)
                for start in range(0, len(here), AT_ONCE):
                    await asyncio.gather(*(self._look(checked) for checked in here[start : start + AT_ONCE]))

    async def _look(self, checked: _Checked) -> None:
        try:
            user = self._guard.check(checked.request, checked.needs)
            if not isinstance(user, str):
                await user
        except Problem as problem:
            if problem.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                _log.info("a stream ends with the right to it", path=checked.request.path, reason=problem.detail)
                checked.sink.end()
        except Exception:  # noqa: BLE001 - one stream's defect must not keep the others from being looked at
            _log.exception("a stream could not be looked at again")


class _Checked:
    """The feed of one stream, which tells when it is closed."""

    __slots__ = ("_feed", "_slot", "drain", "needs", "request", "resumed", "sink")

    def __init__(
        self, feed: Feed, sink: Sink, request: Request, needs: tuple[Need, ...], slot: dict[_Checked, None]
    ) -> None:
        self._feed = feed
        self._slot = slot
        self.sink = sink
        self.request = request
        self.needs = needs
        self.resumed = feed.resumed
        self.drain = feed.drain

    def closed(self) -> None:
        """Be looked at no more."""
        self._slot.pop(self, None)
        self._feed.closed()
