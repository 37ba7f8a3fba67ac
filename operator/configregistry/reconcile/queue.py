"""The work queue: names, not events. A name that is added twice is worked on once; never by two at a time.

The rules are those of client-go's workqueue: a name that is added while it is worked on is queued again
when that ends; a failed one comes back after a growing delay.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY: Final = 0.05
LAST_RETRY: Final = 30.0
"""Seconds before the first retry of a name, doubled up to the last."""


class WorkQueue(Generic[Key]):
    """De-duplicating queue for one event loop. `spread` gives a factor around 1 for retries."""

    def __init__(self, spread: Callable[[], float]) -> None:
        self._spread = spread
        # Not a dict: to take the first of one costs as many steps as were taken before.
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """How many names wait now, not counting timers."""
        return len(self._waiting) + len(self._again)

    def add(self, key: Key) -> None:
        """Queue a name now."""
        self._cancel_timer(key)
        if key in self._working:
            self._again.add(key)
            return
        self._waiting[key] = None
        self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Queue a name later; an earlier timer of the same name stays, a later one is replaced."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_at(due, self.add, key)

    def retry(self, key: Key, at_most: float = LAST_RETRY, at_least: float = 0.0) -> float:
        """Queue a name after its own growing delay; gives the seconds."""
        failures = self.failures(key)
        self._failures[key] = failures + 1
        seconds = max(at_least, min(FIRST_RETRY * 2.0 ** min(failures, 20), at_most) * self._spread())
        self.add_after(key, seconds)
        return seconds

    def failures(self, key: Key) -> int:
        """How often in a row a name has failed."""
        return self._failures.get(key, 0)

    def succeeded(self, key: Key) -> None:
        """Forget the failures of a name."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next name, to be given back with `done`."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key, _ = self._waiting.popitem(last=False)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """The work on a name ended, well or not."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def forget(self, key: Key) -> None:
        """A name will not come again: drop its timer and failures."""
        self._cancel_timer(key)
        self._failures.pop(key, None)

    def close(self) -> None:
        """Forget every name, and keep no timer."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        self._again.clear()
        self._failures.clear()

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
