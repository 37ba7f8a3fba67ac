"""In front of each write of a term: it is asked right before one is sent, and knows which are under way.

Why the second: a write that is cut off in the middle may still be carried out, and the next leader would meet it
after it has read what there is. So a term that ends in peace lets what is under way be answered first.

It must never keep a read from being made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from configregistry.kube.failures import ApiError, NotLeading

UNANSWERED: Final = 5.0
"""Seconds after which a write without an answer is taken for lost; see ADR 11 for those that come later still."""


class Fence:
    """`permit` raises `NotLeading` where nothing may be written any more."""

    def __init__(self, permit: Callable[[], None]) -> None:
        self._permit = permit
        self._shut = False
        self._under_way = 0
        self._lost = -UNANSWERED
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def passage(self) -> Iterator[None]:
        """One write, from right before it is sent until it is answered. Raises `NotLeading`."""
        if self._shut:
            raise NotLeading("not written: this term is over")
        self._permit()
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        except ApiError:
            raise
        except BaseException:
            self._lost = time.monotonic()
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def shut(self, seconds: float) -> bool:
        """Let nothing through any more, and wait for what is under way, at most so long.

        Gives whether it is known of each write what became of it.
        """
        self._shut = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return not self._under_way and time.monotonic() - self._lost >= UNANSWERED
