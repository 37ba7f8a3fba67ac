"""How many questions are asked at once, and whether anybody answers them.

Why: what is asked about everybody goes to one API server, through a client that hydration and (in `run`) the leader
use too. Those who were never heard of get few places and a bounded queue, so that a flood of invented tokens neither
starves them nor delays the next look at those who are known.

It must never know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar

import structlog

from configregistry.errors import ConfigRegistryError
from configregistry.kube.failures import ApiError

T = TypeVar("T")

STRANGERS: Final = 8
"""Questions under way about what was never answered; at 1 ms each they are some thousands a second."""
ACQUAINTANCES: Final = 16
"""Questions under way about what was answered before. Both together stay well below `kube.client.MAX_CONCURRENT`."""
MAX_WAITING: Final = 2048
"""Strangers' questions that wait for a place."""
RETRY_SECONDS: Final = 1.0
"""While nobody answers, one question is asked so often."""
TELL_SECONDS: Final = 30.0
"""So often it is logged that there are no answers."""

_log = structlog.get_logger(__name__)


class NotAnswered(ConfigRegistryError):  # noqa: N818
    """There is no answer at present, neither a good one nor a refusal."""


class Asking:
    """The way to whoever answers. Belongs to the event loop's thread."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._strangers = asyncio.Semaphore(STRANGERS)
        self._acquaintances = asyncio.Semaphore(ACQUAINTANCES)
        self._waiting = 0
        self._next = self._tell = -inf
        self.answers = True
        """Whether the last question about somebody known was answered."""

    def due(self, now: float) -> bool:
        """Whether to ask what nobody waits for: always, and once in a while as long as nobody answers."""
        if self.answers:
            return True
        if now < self._next:
            return False
        self._next = now + RETRY_SECONDS
        return True

    async def ask(self, question: Callable[[], Awaitable[T]], *, stranger: bool) -> T:
        """Ask, once there is a place. Raises `NotAnswered`."""
        if stranger and self._waiting >= MAX_WAITING:
            raise NotAnswered("too many questions wait already")
        self._waiting += stranger
        try:
            async with self._strangers if stranger else self._acquaintances:
                answer = await question()
        except Exception as error:
            self._failed(error, stranger=stranger)
            raise NotAnswered(str(error)) from error
        finally:
            self._waiting -= stranger
        if not self.answers:
            _log.info("reviews are answered again")
        self.answers = True
        return answer

    def _failed(self, error: Exception, *, stranger: bool) -> None:
        """Know that there are no answers, and tell it now and then.

        A defect of ours counts as that too: nobody is let in by it, and nobody who was known is turned away.
        """
        now = self._now()
        if not stranger:
            # Of a stranger it says nothing: a token may be such that the API server fails over it.
            self.answers = False
            self._next = now + RETRY_SECONDS
        if now >= self._tell:
            self._tell = now + TELL_SECONDS
            defect = None if isinstance(error, ApiError) else error
            told = "a review got no answer; who was known before goes on being served"
            _log.warning(told, error=str(error), exc_info=defect)
