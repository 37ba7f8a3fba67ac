"""Who leads: the holder of a Lease, by the rules of client-go's leaderelection, and a fence in front of each write.

How it goes, for a leader A that is killed at 3.0 s and a standby B (seconds, each on its own monotonic clock):

    0.0  A takes the Lease (epoch 7), and renews it every 2 s
    2.0  A renews it; B, which looks every second, sees that at 2.4
    3.0  A is killed
    17.4 B has seen no change for the 15 s that A said: it takes it (epoch 8)

A itself may write until 10 s after the start of its last renewal that was answered, and each of its requests ends
within 4.5 s: the last of them has ended before anybody else can lead. Whoever slept through that (SIGSTOP, a frozen
machine) finds out before its next write, since `holds` asks the clock and no timer. What had left the process by
then is refused by its resourceVersion, or by its epoch (`reconcile`).

The wall clock is written for people and never read: clocks may differ and be put back.

It must never hold the Lease while what it is held for cannot be done, nor say that it leads because it could not ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from configregistry.clock import Clock
from configregistry.kube.failures import AlreadyExists, ApiError, Conflict, NotFound, NotLeading
from configregistry.kube.lease import Found, Leases

LASTS: Final = 15
"""Seconds after which others may take a Lease that is not renewed."""
CREDIBLE: Final = 2**31 - 2**20
"""A greater epoch is a hand's: `leaseTransitions` is an int32, and nobody could begin a term above it."""
DEADLINE: Final = 10.0
"""Seconds after the last renewal in which its holder may write."""
RENEW: Final = 2.0
"""Seconds between renewals, and between tries of one that failed."""
RENEW_WITHIN: Final = 3.0
"""Seconds that one renewal may take, so that a connection that is dead does not use up the deadline."""
LOOK: Final = 1.0
"""Seconds between the looks of those who wait."""
LAST_PAUSE: Final = 60.0
"""Seconds at most between terms that were outbid one after the other."""
LONG: Final = 300.0
"""A term that lasted for so long was not outbid as soon as it had begun."""
RELEASE: Final = 1.5
"""Seconds that giving up the Lease may take at the end of the process."""
SAID: Final = 5
"""Failures in a row after which one is said in the log again, and then each doubling."""

_log = structlog.get_logger(__name__)


class Office(Protocol):
    """What who decides must know of its being in office."""

    @property
    def epoch(self) -> int:
        """The number of this term, greater than that of any before; 0: there is no election."""
        ...

    def outbid(self, epoch: int) -> None:
        """Somebody has written a greater epoch: whoever it was, this term is over."""
        ...


class Unelected:
    """In office without an election."""

    epoch: Final = 0

    def outbid(self, epoch: int) -> None:
        """Nothing: without an election there are no terms."""


class _Seen(NamedTuple):
    """A Lease in the state in which it was last seen to change, and the monotonic time until which it may be held."""

    version: str
    until: float


class Election:
    """One candidate. `newest` gives the greatest epoch that is known from elsewhere."""

    def __init__(
        self,
        leases: Leases,
        identity: str,
        clock: Clock,
        newest: Callable[[], int],
        *,
        jitter: Callable[[], float],
        able: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`jitter` gives a factor around 1; `able` says whether this process could do what the Lease is held for.

        `clock.monotonic` has to go on while the machine is suspended.
        """
        self.identity = identity
        self._leases = leases
        self._clock = clock
        self._newest = newest
        self._jitter = jitter
        self._able = able
        self._sleep = sleep
        self._seen: _Seen | None = None
        self._held: Found | None = None
        self._taking = False
        """The Lease may be ours though no answer has said so."""
        self._greatest = 0
        self._until = 0.0
        self._since = 0.0
        self._outbid = 0
        self._outbids = 0
        self._failures = 0
        self._looked = asyncio.Event()

    @property
    def epoch(self) -> int:
        """Of the present term; 0 out of office."""
        return self._held.epoch if self._held is not None else 0

    @property
    def holds(self) -> bool:
        """Whether this process may write now."""
        return self._held is not None and self._clock.monotonic() < self._until and not self._outbid

    def permit(self) -> None:
        """Raise `NotLeading` where this process may not write now."""
        if not self.holds:
            raise NotLeading("not written: this process does not lead any more")

    def outbid(self, epoch: int) -> None:
        """Somebody has written a greater epoch: end this term, and begin one that is greater still."""
        self._outbid = max(self._outbid, epoch)

    async def looked(self) -> None:
        """Wait until it is known for the first time who leads, or that nobody can say."""
        await self._looked.wait()

    async def win(self) -> int:
        """Wait until this process leads; gives the epoch."""
        if self._outbids > 1:
            seconds = min(2.0**self._outbids, LAST_PAUSE)
            _log.error(
                "somebody else decides about the same registries: all controllers of them must name the same --lease",
                lease=str(self._leases.place),
                epoch=self._outbid,
                seconds=seconds,
            )
            await self._sleep(seconds)
        while True:
            seconds = await self._try()
            self._looked.set()
            if self._held is not None:
                return self._held.epoch
            await self._sleep(seconds)

    async def keep(self) -> str:
        """Renew the Lease for as long as that goes well; gives the reason for which it is held no more."""
        while True:
            left = self._until - self._clock.monotonic()
            await self._sleep(max(0.0, min(RENEW, left)))
            reason = f"epoch {self._outbid} was written by somebody else" if self._outbid else await self._renewed()
            if reason:
                if self._outbid:
                    long = self._clock.monotonic() - self._since > LONG
                    self._outbids = 1 if long else self._outbids + 1
                if not self.holds:
                    # Whoever has it by now may have it for as long as anybody.
                    self._seen = _Seen("", self._clock.monotonic() + LASTS)
                self._held = None
                return reason

    async def release(self) -> None:
        """Give up the Lease, if it is held: after the last write. Whoever waits takes it at its next look."""
        held, taking, self._held, self._taking = self._held, self._taking, None, False
        if held is None and not taking:
            return
        try:
            async with asyncio.timeout(RELEASE):
                if held is None or not await self._released(held):
                    # Our own renewal, whose answer was cut off, or a hand's label.
                    held = await self._leases.read()
                    if held is None or held.holder != self.identity or not await self._released(held):
                        return
                _log.info("lease released", lease=str(self._leases.place), epoch=held.epoch)
        except (ApiError, TimeoutError, msgspec.MsgspecError) as error:
            _log.warning("the lease is not released, and runs out", lease=str(self._leases.place), error=str(error))

    async def _released(self, held: Found) -> bool:
        try:
            await self._leases.release(held, self._clock.wall())
        except Conflict:
            return False
        return True

    async def _try(self) -> float:
        """Take the Lease if nobody holds it; gives the seconds after which to look again."""
        again = LOOK * self._jitter()
        found = None
        try:
            found = await self._leases.read()
            started = self._clock.monotonic()
            left = self._left(found, started)
            if left > 0 or not self._able():
                self._failures = 0
                return max(0.01, min(again, left)) if left > 0 else again
            epoch = 1 + max(self._greatest, self._newest(), self._outbid)
            self._taking = True
            self._held = await self._leases.take(found, self.identity, epoch, LASTS, self._clock.wall())
            self._taking = False
        except (Conflict, AlreadyExists):
            self._taking = False
            return again  # somebody was faster
        except (ApiError, msgspec.MsgspecError) as error:
            if not (isinstance(error, NotFound) and found is not None):  # else a hand has deleted it in between
                self._failed("the lease cannot be read or taken", error)
            return again
        self._greatest, self._seen = epoch, None  # if somebody deletes it, its holder need not wait
        if epoch <= self._newest():
            # It took so long to take that somebody else has led meanwhile, and a hand has deleted that Lease.
            self._outbid, self._held = self._newest(), None
            return 0.0
        self._since, self._until, self._outbid, self._failures = started, started + DEADLINE, 0, 0
        return 0.0

    def _left(self, found: Found | None, now: float) -> float:
        """Seconds for which somebody may still hold it: since it was last seen to change, on our own clock.

        One that is gone was deleted by a hand, and its holder may not know of that yet; that there was one, statuses
        tell who never saw it.
        """
        if found is None:
            if self._seen is None and not self._greatest and self._newest():
                self._seen = _Seen("", now + LASTS)
            return self._seen.until - now if self._seen is not None else 0.0
        self._greatest = max(self._greatest, found.epoch)
        free = found.holder in ("", self.identity)
        if self._seen is None or self._seen.version != found.version:
            # No less than what we promise ourselves: a hand may have edited the number.
            self._seen = _Seen(found.version, now if free else now + max(found.seconds, LASTS))
        return 0.0 if free else self._seen.until - now

    async def _renewed(self) -> str:
        """Renew once; gives why that is over, empty: it goes on."""
        assert self._held is not None
        started = self._clock.monotonic()
        if started >= self._until:
            return f"it was not renewed for {DEADLINE:g} s"
        try:
            async with asyncio.timeout(min(RENEW_WITHIN, self._until - started)):
                self._held = await self._leases.renew(self._held, LASTS, self._clock.wall())
        except Conflict:
            return await self._changed()
        except NotFound:
            return "somebody deleted it"
        except (ApiError, TimeoutError, msgspec.MsgspecError) as error:
            self._failed("the lease is not renewed", error)
            return ""
        self._until, self._failures = started + DEADLINE, 0
        return ""

    async def _changed(self) -> str:
        """Somebody has written it: another holder, or our own renewal whose answer was lost, or a hand a label."""
        try:
            async with asyncio.timeout(max(0.0, self._until - self._clock.monotonic())):
                found = await self._leases.read()
        except (ApiError, TimeoutError, msgspec.MsgspecError) as error:
            self._failed("the lease cannot be read", error)
            return ""
        if found is None:
            return "somebody deleted it"
        if found.holder != self.identity or self._held is None or found.epoch != self._held.epoch:
            return f"{found.holder or 'nobody'} holds it (epoch {found.epoch})"
        self._held = found
        return ""

    def _failed(self, what: str, error: Exception) -> None:
        """Say the first failure, and then ever fewer."""
        self._failures += 1
        if self._failures == 1 or (self._failures >= SAID and self._failures & (self._failures - 1) == 0):
            _log.warning(what, lease=str(self._leases.place), error=str(error), failures=self._failures)
