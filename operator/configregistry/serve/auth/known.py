"""Answers of somebody who may be away: remembered, asked for again in time, one question at a time.

    age of an answer    0 … ahead      ahead … fresh           fresh … grace, or the end that it has of itself
    is given            at once        at once, and asked for  after asking; without waiting for long,
                                       again behind it         and as it is where nobody answers

So nobody who asks often ever waits, what is revoked is honoured for at most `fresh` while there are answers, and an
outage is no reason to turn anybody away who was known. Only good answers are kept on like this (stale-while-revalidate
and stale-if-error of RFC 5861, with bounds of our own); a refusal counts for `refused` and is then asked for anew.

Single flight: whoever asks what is being asked already waits for the same answer. What is remembered is bounded, and
the unknown can only ever push out the unknown. It must never know what is asked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable
from functools import partial
from math import inf
from typing import Final, Generic, NamedTuple, TypeVar

from configregistry.serve.auth.asking import Asking, NotAnswered

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_REFUSED: Final = 4096


class Times(NamedTuple):
    """Seconds."""

    fresh: float = 10.0
    """Age until which an answer counts: serving.md."""
    ahead: float = 7.0
    """Age from which one that is used is asked for again, before anybody has to wait for it."""
    refused: float = 2.0
    """Age until which a refusal counts: long enough that one client in a loop is no load for the API server,
    short enough that a right which was just given is had soon."""
    grace: float = 86_400.0
    """Age until which a good answer counts while there is no newer one to be had: ADR 8."""
    patience: float = 0.25
    """How long somebody who was known may wait for an answer, from when it was asked for."""
    pause: float = 0.5
    """How long what was found is good for without looking here again, while it is being asked for."""


class Answer(NamedTuple, Generic[V]):
    """What was answered."""

    value: V
    good: bool
    """Not a refusal."""
    ends: float = inf
    """When it ends of itself (a token's `exp`), on the monotonic clock; it only ever shortens."""


class Found(NamedTuple, Generic[V]):
    """What counts at present, and until when nobody has to look again."""

    value: V
    until: float


Question = Callable[[], Awaitable[Answer[V]]]
"""Asks. Raises `NotAnswered`."""
Flight = asyncio.Task[NotAnswered | None]
"""One asking; it gives why there was no answer, and never raises, since nobody may be there to hear it."""


class _Entry(Generic[V]):
    """One question: its last answer, and the asking that is under way."""

    __slots__ = ("ahead_at", "answer", "begun", "flight", "fresh_until", "grace_until")

    def __init__(self) -> None:
        self.answer: Answer[V] | None = None
        self.ahead_at = self.fresh_until = self.grace_until = -inf
        self.flight: Flight | None = None
        self.begun = -inf

    def take(self, answer: Answer[V], asked: float, times: Times) -> None:
        """Have a new answer; its age counts from when it was asked for, since then it may have changed."""
        self.answer = answer
        if answer.good and answer.ends > asked:
            self.ahead_at = min(asked + times.ahead, answer.ends)
            self.fresh_until = min(asked + times.fresh, answer.ends)
            self.grace_until = min(asked + times.grace, answer.ends)
        else:
            # Also what counts beyond its own end, as a token does for its issuer's leeway.
            self.ahead_at = self.fresh_until = asked + times.refused
            self.grace_until = -inf


class _Waiting(Generic[V]):
    """A wait that has not begun; unlike a coroutine it may be dropped, as when its client is gone before that."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Coroutine[None, None, Found[V]]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[None, None, Found[V]]:
        return self._wait().__await__()


class Known(Generic[K, V]):
    """All answers to one kind of question. Belongs to the event loop's thread."""

    def __init__(
        self,
        asking: Asking,
        times: Times,
        now: Callable[[], float],
        size: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._asking = asking
        self._times = times
        self._now = now
        self._size = size
        self._sleep = sleep
        self._good: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._rest: OrderedDict[K, _Entry[V]] = OrderedDict()
        """Of whom nothing good is known: being asked for the first time, or refused."""
        self._flights: set[Flight] = set()

    def __len__(self) -> int:
        return len(self._good) + len(self._rest)

    def find(self, key: K, ask: Question[V]) -> Found[V] | Awaitable[Found[V]]:
        """Give what counts, at once where it is known. Awaiting it raises `NotAnswered`."""
        entry = self._good.get(key)
        if entry is not None:
            self._good.move_to_end(key)
        else:
            entry = self._rest.get(key)
        if entry is None:
            entry = self._rest[key] = _Entry()
            if len(self._rest) > MAX_REFUSED:
                self._rest.popitem(last=False)
        now = self._now()
        found = self._at_hand(key, entry, ask, now)
        if found is not None:
            return found
        flight = entry.flight or self._begin(key, entry, ask, now)
        return _Waiting(partial(self._answered, entry, flight, entry.answer))

    async def close(self) -> None:
        """Ask nothing more."""
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _at_hand(self, key: K, entry: _Entry[V], ask: Question[V], now: float) -> Found[V] | None:
        answer = entry.answer
        if answer is None:
            return None
        if now < entry.ahead_at:
            return Found(answer.value, entry.ahead_at)
        soon = now + self._times.pause
        if now < entry.fresh_until:
            if entry.flight is None and self._asking.due(now):
                self._begin(key, entry, ask, now)
            return Found(answer.value, min(soon, entry.fresh_until))
        if now < entry.grace_until:
            if not self._asking.answers:
                if entry.flight is None and self._asking.due(now):
                    self._begin(key, entry, ask, now)
                return Found(answer.value, min(soon, entry.grace_until))
            if entry.flight is not None and now >= entry.begun + self._times.patience:
                return Found(answer.value, min(soon, entry.grace_until))
        return None

    async def _answered(self, entry: _Entry[V], flight: Flight, held: Answer[V] | None) -> Found[V]:
        """Wait for a flight: to its end, or where an older answer is held, for as long as there is patience."""
        if held is not None and self._now() < entry.grace_until:
            patience = asyncio.ensure_future(self._sleep(entry.begun + self._times.patience - self._now()))
            try:
                await asyncio.wait((flight, patience), return_when=asyncio.FIRST_COMPLETED)
            finally:
                patience.cancel()
        else:
            # Not cancelled with one of those who wait for it: others may too.
            error = await asyncio.shield(flight)
            if error is not None:
                raise error
        now = self._now()
        if entry.answer is None or (entry.answer is held and now >= entry.grace_until):
            raise NotAnswered("nobody answered in time")
        if now < entry.fresh_until:
            return Found(entry.answer.value, entry.ahead_at)
        return Found(entry.answer.value, min(now + self._times.pause, entry.grace_until))

    def _begin(self, key: K, entry: _Entry[V], ask: Question[V], now: float) -> Flight:
        entry.begun = now
        entry.flight = flight = asyncio.create_task(self._fly(key, entry, ask))
        self._flights.add(flight)
        flight.add_done_callback(self._flights.discard)
        return flight

    async def _fly(self, key: K, entry: _Entry[V], ask: Question[V]) -> NotAnswered | None:
        asked = entry.begun
        try:
            answer = await self._asking.ask(ask, stranger=self._now() >= entry.grace_until)
        except NotAnswered as error:
            return error
        finally:
            entry.flight = None
        entry.take(answer, asked, self._times)
        self._file(key, entry, good=answer.good)
        return None

    def _file(self, key: K, entry: _Entry[V], *, good: bool) -> None:
        """Keep an entry where its last answer belongs; it may have been pushed out meanwhile."""
        to, other = (self._good, self._rest) if good else (self._rest, self._good)
        other.pop(key, None)
        to[key] = entry
        to.move_to_end(key)
        if len(to) > (self._size if good else MAX_REFUSED):
            to.popitem(last=False)
