"""That a consumer reports an error which it did not report before: counted, and told to whoever waits for it.

The leader asks every EXCHANGE_EVERY seconds, which is long for a rollback. So it learns in each exchange how many
such errors this replica has counted, and waits here for one more: then it asks at once. What comes between its
exchange and its waiting has raised the count already, so nothing is missed, and nothing needs to be remembered of
who waits.

It must never hold anything for longer than it was asked to, nor cost a heartbeat more than a look.
"""

from __future__ import annotations

import asyncio
from typing import Final

from configregistry.model.reports import Observed
from configregistry.serve.waits import Later

MAX_WAITING: Final = 64
"""Leaders that are waiting at once; there is one, and those that have not noticed yet that they are none."""


class News:
    """Belongs to the event loop's thread."""

    def __init__(self, later: Later) -> None:
        self._later = later
        self._waiting: set[asyncio.Event] = set()
        self._draining = False
        self.count = 0
        """Errors that were new when they were reported here."""

    def heard(self, before: Observed | None, now: Observed | None) -> None:
        """Take what a consumer says, and what it said before."""
        if now is None or now.status != "error":
            return
        if before is not None and before.status == "error" and before.version == now.version:
            return
        self.count += 1
        for woken in self._waiting:
            woken.set()

    async def after(self, known: int, seconds: float) -> int:
        """Give the count: at once if it is not the one that is known, else as soon as that changes, or time is over."""
        if self.count != known or self._draining or len(self._waiting) >= MAX_WAITING:
            return self.count
        woken = asyncio.Event()
        timer = self._later(seconds, woken.set)
        self._waiting.add(woken)
        try:
            await woken.wait()
        finally:
            self._waiting.discard(woken)
            timer.cancel()
        return self.count

    def drain(self) -> None:
        """Hold nobody any more."""
        self._draining = True
        for woken in self._waiting:
            woken.set()
