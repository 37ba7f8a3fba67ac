"""What is counted so often, or under such names, that prometheus_client's own objects do not do.

On the way of a read there are only numbers that grow: about a microsecond. Names that come from specs have room for
so many and no more, however many registries come and go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from configregistry.telemetry.names import METRICS, MOST_CHECKS, OTHER, READ_BUCKETS, STAGES, WATCH_BUCKETS
from configregistry.telemetry.text import bounds

VERDICTS: Final = ("Pass", "Fail", "Error", "NoData")
IDLE: Final = 3600.0
"""Seconds after which a check that was not made gives its place to another one."""


class Reads(Collector):
    """Requests by status, and how long they took."""

    def __init__(self) -> None:
        self.codes: Counts[int] = Counts()
        self.counts = [0] * (len(READ_BUCKETS) + 1)
        self.total = 0.0

    def collect(self) -> Iterator[Metric]:
        """Make it of what there is now."""
        reads = CounterMetricFamily(*_told("configregistry_reads_total"), labels=("code",))
        for code, number in list(self.codes.items()):
            reads.add_metric((str(code),), number)
        yield reads
        yield _histogram("configregistry_read_duration_seconds", self.counts, self.total)


class Deliveries(Collector):
    """From a publication to its event being written, of all streams: observed for many of them at once."""

    def __init__(self) -> None:
        self._counts = [0] * (len(WATCH_BUCKETS) + 1)
        self._total = 0.0

    def observe(self, seconds: float, streams: int) -> None:
        """Observe the same for so many streams."""
        self._counts[bisect_left(WATCH_BUCKETS, seconds)] += streams
        self._total += seconds * streams

    def collect(self) -> Iterator[Metric]:
        """Make it of what there is now."""
        yield _histogram("configregistry_watch_delivery_seconds", self._counts, self._total)


class Reloads(Collector):
    """`hot_reload_status`: each component is in one stage; all stages are told."""

    def __init__(self) -> None:
        self.stages: dict[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        """Make it of what there is now."""
        family = GaugeMetricFamily(*_told("hot_reload_status"), labels=("stage", "component"))
        for component, present in list(self.stages.items()):
            for stage, number in STAGES.items():
                family.add_metric((stage, component), number if stage == present else 0)
        yield family


class Checks:
    """Probes by the name of their check: a spec's word, so only so many of them have series at a time.

    Whoever finds no room is counted under `other`, unless the one that was idle longest has been so for an hour:
    then that one's series end, and the newcomer's begin. A name in use never loses its place.
    """

    def __init__(self, counter: Counter, now: Callable[[], float]) -> None:
        self._counter = counter
        self._now = now
        self._used: OrderedDict[str, float] = OrderedDict()
        """Names, the longest idle first, and when each was used last."""

    def labels(self, check: str, verdict: str) -> Counter:
        """Give the counter of one check and verdict."""
        return self._counter.labels(self._place(check), verdict)

    def _place(self, check: str) -> str:
        now = self._now()
        if check in self._used:
            self._used.move_to_end(check)
        elif check == OTHER or not self._room(now):
            return OTHER
        else:
            for verdict in VERDICTS:
                self._counter.labels(check, verdict)
        self._used[check] = now
        return check

    def _room(self, now: float) -> bool:
        if len(self._used) < MOST_CHECKS:
            return True
        idle, used = next(iter(self._used.items()))
        if now - used < IDLE:
            return False
        del self._used[idle]
        for verdict in VERDICTS:
            self._counter.remove(idle, verdict)
        return True


RESULTS: Final[Mapping[int, str]] = {0: "none", 409: "409", 429: "429"}
"""Answers of the API server that are counted apart; of others the class."""


def result_of(status: int) -> str:
    """What an answer of the API server is counted as; 0: there was none."""
    return RESULTS.get(status) or f"{status // 100}xx"


def _told(name: str) -> tuple[str, str]:
    return name, METRICS[name].text


def _histogram(name: str, counts: list[int], total: float) -> Metric:
    family = HistogramMetricFamily(*_told(name))
    family.add_metric((), list(zip(bounds(METRICS[name]), accumulate(counts), strict=True)), total)
    return family
