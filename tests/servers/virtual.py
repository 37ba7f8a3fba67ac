"""Time that a test moves: what waits by `sleep` goes on when the test says so, in order, at once.

For code that is given its clock and its sleep. It must never be mixed with real sockets or
threads: time goes on only when nothing in the event loop is ready to run.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

_BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)


class VirtualTime:
    """A `configregistry.clock.Clock` with a `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return _BEGINNING + timedelta(seconds=self.now)

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved time so far."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._number), future))
        await future

    async def advance(self, seconds: float = 0.0) -> None:
        """Let all happen that happens within so many seconds."""
        end = self.now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await _settle()
        self.now = end


async def _settle() -> None:
    """Let everything run that can."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(0)
        if not loop._ready:  # type: ignore[attr-defined]
            return
