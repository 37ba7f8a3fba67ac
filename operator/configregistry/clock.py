"""Time as an argument. Pure code gets numbers; only the edge holds a `Clock`, so tests can move it.

Two clocks, never mixed: `wall` is what a person reads (status, events), and may jump;
`monotonic` is what waiting is measured with, and means nothing to another process.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the edge asks for the time."""

    def wall(self) -> datetime:
        """The present time, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary origin."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> datetime:
        """The present time, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()


class WakefulClock(SystemClock):
    """As `SystemClock`, but `monotonic` goes on while the machine is suspended (where the system can tell)."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_BOOTTIME."""
        return time.clock_gettime(_BOOT) if _BOOT is not None else time.monotonic()


_BOOT = getattr(time, "CLOCK_BOOTTIME", None)


def timestamp(moment: datetime) -> str:
    """RFC 3339 with whole seconds and a Z, as Kubernetes writes `metav1.Time`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime | None:
    """The moment that an RFC 3339 text names; None for anything else (a hand may have edited it)."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
