"""Keys that are read more than this replica can bear: found, told in the metrics, and where they hurt, shed.

Reads are counted per key in windows of one second by the algorithm of Misra and Gries ("Finding repeated elements",
1982) with purges by the median (Anderson et al., "A High-Performance Algorithm for Identifying Frequent Items in Data
Streams", 2017): at most `size` counters; over it the median of all counts is taken from each, and what reaches zero is
dropped, so a read costs constant time on average. Of N reads in a window no key is counted too high, and none too low
by more than 2 N / size: at 100,000 reads/s and 1,024 counters that is 196. (Space-Saving errs by half of it, but
upwards, and shedding must never take the wrong one.)

The 99th percentile needs no sketch: it is over a bound exactly if more than 1 in 100 answers took longer, and those
are counted.

It must never look into what is read, nor cost anything while it is off: then no route is changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Final, NamedTuple

from configregistry.serve.responses import Problem, Reply, Request, Response
from configregistry.serve.routes import Endpoint, Place, Route
from configregistry.telemetry.metrics import Metrics

WINDOW: Final = 1.0
"""Seconds: limits are per second, and so is `Retry-After`."""
HOLD: Final = 10.0
"""Seconds for which a key that was slow above the limit stays limited to it. Without that the relief of a second of
shedding would end it, and every other second would be slow."""
SIZE: Final = 1024
TOP: Final = 10
"""Keys in the metrics at most."""
PERCENT: Final = 100
"""One answer in so many may be slow: the 99th percentile."""


@dataclass(frozen=True)
class HotLimits:
    """Reads of one key in a second, and seconds."""

    sample: float = 2000
    """From so many on a key is in the metrics."""
    shed: float = 5000
    """More than so many are shed, while the 99th percentile is over `slow`."""
    slow: float = 0.010


class HotKey(NamedTuple):
    """A key in a window that is over."""

    namespace: str
    name: str
    key: str
    rate: float
    """Reads a second, shed ones too; at least."""
    slow: float
    """Share of its answers that took longer than `HotLimits.slow`."""


Key = tuple[str, str, str]


class Seen:
    """One key in the present window."""

    __slots__ = ("answered", "count", "found", "slow")

    def __init__(self) -> None:
        self.count = 0
        self.answered = 0
        self.found = False
        self.slow = 0


class Lag:
    """How late the event loop is: what a request waits before anything here sees it.

    Measured by a timer that should ring every `TICK`. What sockets received is handled before timers that are
    overdue, so `due` is looked at as well.
    """

    TICK: Final = 0.05

    def __init__(
        self, now: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object] | None = None
    ) -> None:
        self._now = now
        self._call_later = call_later
        self._last = 0.0
        self.worst = 0.0
        """Seconds that the last two rings were late."""
        self.due = inf
        """When it rings next."""

    def start(self) -> None:
        """Measure, until the loop ends."""
        if self._call_later is not None:
            self.due = self._now() + self.TICK
            self._call_later(self.TICK, self._ring)

    def _ring(self) -> None:
        late = max(0.0, self._now() - self.due)
        self.worst, self._last = max(late, self._last), late
        self.start()


class HotKeys:
    """Belongs to the event loop's thread; `hottest` may be asked in any."""

    def __init__(
        self,
        now: Callable[[], float],
        limits: HotLimits = HotLimits(),
        *,
        size: int = SIZE,
        lag: Lag | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Observe. Without a `lag` that was started, only the time from a request's being seen counts."""
        self._now = now
        self._limits = limits
        self._slow = limits.slow
        self._size = size
        self._lag = lag or Lag(now)
        self._metrics = metrics
        self._table: dict[Key, Seen] = {}
        self._ends = -inf
        self._held: dict[Key, float] = {}
        """Keys that are limited, until when. At most one for each `shed` reads of the last `HOLD` seconds."""
        self._told: tuple[float, tuple[HotKey, ...]] = (-inf, ())
        if metrics is not None:
            metrics.watch_hot_keys(self.hottest)

    def over(self, routes: Iterable[Route]) -> list[Route]:
        """Give the routes with those that read one key observed."""
        return [
            route._replace(handle=self._on(route.handle)) if route.pattern.endswith("/{key*}") else route
            for route in routes
        ]

    def before(self, namespace: str, name: str, key: str) -> Seen:
        """Count a read that is about to be answered. Raises `Problem` (429) where it is one too many."""
        now = self._now()
        if now >= self._ends:
            self._turn(now)
        place = (namespace, name, key)
        seen = self._table.get(place)
        if seen is None:
            seen = self._new(place)
        seen.count += 1
        if self._held and seen.count > self._limits.shed and place in self._held:
            if self._metrics is not None:
                self._metrics.shed_reads.inc()
            raise _shed(place, self._limits)
        return seen

    def after(self, seen: Seen, began: float, *, found: bool = True) -> None:
        """Tell that it has been answered, and when that was begun. Who reads what is not there names no metric."""
        now, lag = self._now(), self._lag
        seen.found = seen.found or found
        seen.answered += 1
        if now - began + lag.worst > self._slow or now - lag.due > self._slow:
            seen.slow += 1

    def hottest(self) -> tuple[HotKey, ...]:
        """Give the keys of the last whole window that were read most, from the sampling limit on."""
        ended, hot = self._told
        return hot if self._now() < ended + 2 * WINDOW else ()

    def _on(self, handle: Endpoint) -> Endpoint:
        def observed(request: Request, place: Place) -> Reply | Awaitable[Reply]:
            seen = self.before(place.namespace, place.name, place.rest[-1])
            began = self._now()
            reply = handle(request, place)
            if isinstance(reply, Response):  # one that waits for a change says nothing about us
                self.after(seen, began, found=reply.status < HTTPStatus.BAD_REQUEST)
            return reply

        return observed

    def _new(self, place: Key) -> Seen:
        if len(self._table) >= self._size:
            self._purge()
        seen = self._table[place] = Seen()
        return seen

    def _purge(self) -> None:
        """Take the median count from all, which drops at least half of them."""
        median = sorted(seen.count for seen in self._table.values())[len(self._table) // 2]
        for place, seen in list(self._table.items()):
            if seen.count > median:
                seen.count -= median
            else:
                del self._table[place]

    def _turn(self, now: float) -> None:
        """End a window: what was hot in it is told, what was slow as well is limited from now on."""
        table, self._table = self._table, {}
        ended, self._ends = self._ends, now + WINDOW
        self._held = {place: until for place, until in self._held.items() if now < until}
        limits, hot = self._limits, list[HotKey]()
        for place, seen in table.items():
            if seen.count < limits.sample:
                continue
            if seen.found:
                hot.append(HotKey(*place, seen.count / WINDOW, seen.slow / seen.answered if seen.answered else 0.0))
            if seen.count > limits.shed and seen.slow * PERCENT > seen.answered:
                self._held[place] = now + HOLD
        hot.sort(key=lambda each: each.rate, reverse=True)
        self._told = ended, tuple(hot[:TOP])


def _shed(place: Key, limits: HotLimits) -> Problem:
    namespace, name, key = place
    where = f"{key!r} of {namespace}/{name}" if name else repr(key)
    detail = f"{where} is read more than {limits.shed:g} times a second, and answers become slow: watch it instead"
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "HotKey", detail, headers=[("retry-after", f"{WINDOW:.0f}")])
