"""Long work in short slices: the loop is everybody's, and nobody waits for a check of what is right anyway.

It must never decide what is worked on.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

SLICE: Final = 0.002
"""Seconds in one go: what a read waits for at most."""
SHARE: Final = 0.1
"""Of the processor's time, while there is something to do."""


class Pace:
    """Call `breathe` between small pieces of work."""

    def __init__(
        self, sleep: Callable[[float], Awaitable[None]], *, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._sleep = sleep
        self._timer = timer
        self._since = timer()

    def begin(self) -> None:
        """Count from now: what was before was waiting."""
        self._since = self._timer()

    async def breathe(self) -> None:
        """Let others go on, where this has gone on for long enough."""
        worked = self._timer() - self._since
        if worked >= SLICE:
            await self._sleep(worked * (1 / SHARE - 1))
            self.begin()
