"""Every metric of the program, in one place: their names are contract, so nobody else spells one.

A `Metrics` owns a `CollectorRegistry`; there are no globals, so two programs (or tests) in one
process never share a number. What is counted on the way of a read costs about a microsecond.

What exists once per ConfigRegistry is kept as a few small values and made into samples only when
somebody scrapes: 10,000 of prometheus_client's own histograms would take 40 MB. A registry that is
forgotten has no series from then on.

It must never know what a registry is (callers push plain values), and never block the event loop:
`expose` is safe to call in another thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

LOAD_BUCKETS: Final = (0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0)
READ_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
SWAP_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
WATCH_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 5.0)
WORK_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

STAGES: Final = {"loading": 1, "validating": 2, "switching": 3, "success": 4, "failed": -1}
"""Of `hot_reload_status`: the present stage has its number, every other one 0 (inactive)."""

Key = tuple[str, str]
"""Namespace and name."""


class Shown(NamedTuple):
    """What one registry gives at present. 0 means there is none."""

    revision: int = 0
    stable: int = 0
    canary: int = 0
    weight: int = 0
    versions: int = 0
    """How many of its versions are in memory."""


class _Loads:
    """One registry's load histogram: eight counts and a sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LOAD_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LOAD_BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        return _buckets(LOAD_BUCKETS, self.counts)


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    """Counts between bounds as the text format has them: up to each bound, and all."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))


class _Registries(Collector):
    """The series that each registry has, made when they are asked for."""

    _LABELS: Final = ("env", "cluster", "namespace", "registry")

    def __init__(self, env: str, cluster: str, *, each: bool) -> None:
        self._place = (env, cluster)
        self._each = each
        self._shown: dict[Key, Shown] = {}
        self._steps: dict[Key, int] = {}
        self._loads: dict[Key, _Loads] = {}

    def show(self, key: Key, shown: Shown) -> None:
        self._shown[key] = shown

    def step(self, key: Key, step: int | None) -> None:
        if step is None:
            self._steps.pop(key, None)
        else:
            self._steps[key] = step

    def load(self, key: Key, seconds: float) -> None:
        # Without series for each registry all of them are told in one, whose labels are empty.
        place = key if self._each else ("", "")
        loads = self._loads.get(place)
        if loads is None:
            loads = self._loads[place] = _Loads()
        loads.observe(seconds)

    def forget(self, key: Key) -> None:
        self._shown.pop(key, None)
        self._steps.pop(key, None)
        if self._each:
            self._loads.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        # Copies: the event loop goes on writing while another thread makes text of these.
        shown = list(self._shown.items())
        yield self._versions(shown)
        if self._each:
            yield from self._gauges(shown)
        loads = HistogramMetricFamily(
            "registry_load_duration_seconds",
            "From the event that told of a status to its publication",
            labels=self._LABELS,
        )
        for key, load in list(self._loads.items()):
            loads.add_metric((*self._place, *key), load.buckets(), load.total)
        yield loads

    def _gauges(self, shown: Iterable[tuple[Key, Shown]]) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "registry_version_active",
            "Version number given as this variant",
            labels=(*self._LABELS, "variant"),
        )
        gauges = [
            GaugeMetricFamily(f"configregistry_{name}", text, labels=("namespace", "registry"))
            for name, text in (
                ("revision", "Revision of the registry that is served"),
                ("canary_weight", "Percent of targets that get the candidate"),
                ("rollout_step", "Index of the step that the candidate is in"),
            )
        ]
        revision, weight, step = gauges
        for key, value in shown:
            if value.stable:
                active.add_metric((*self._place, *key, "stable"), value.stable)
            if value.canary:
                active.add_metric((*self._place, *key, "canary"), value.canary)
                weight.add_metric(key, value.weight)
            revision.add_metric(key, value.revision)
        for key, number in list(self._steps.items()):
            step.add_metric(key, number)
        return iter((active, *gauges))

    def _versions(self, shown: Iterable[tuple[Key, Shown]]) -> Metric:
        return GaugeMetricFamily(
            "configregistry_snapshot_versions",
            "Versions held in memory, of all registries",
            value=sum(value.versions for _key, value in shown),
        )


class _Reads(Collector):
    """Requests by status, and how long they took: on the way of each read, so nothing but numbers that grow."""

    def __init__(self) -> None:
        self.codes: Counts[int] = Counts()
        self.counts = [0] * (len(READ_BUCKETS) + 1)
        self.total = 0.0

    def collect(self) -> Iterator[Metric]:
        reads = CounterMetricFamily("configregistry_reads", "Requests answered", labels=("code",))
        for code, number in list(self.codes.items()):
            reads.add_metric((str(code),), number)
        yield reads
        durations = HistogramMetricFamily("configregistry_read_duration_seconds", "Of one request in this process")
        durations.add_metric((), _buckets(READ_BUCKETS, self.counts), self.total)
        yield durations


class _Deliveries(Collector):
    """From a publication to its event being written, of all streams: observed for many of them at once."""

    def __init__(self) -> None:
        self._counts = [0] * (len(WATCH_BUCKETS) + 1)
        self._total = 0.0

    def observe(self, seconds: float, streams: int) -> None:
        self._counts[bisect_left(WATCH_BUCKETS, seconds)] += streams
        self._total += seconds * streams

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "configregistry_watch_delivery_seconds", "From a publication to its event being written to a stream"
        )
        family.add_metric((), _buckets(WATCH_BUCKETS, self._counts), self._total)
        yield family


class _HotKeys(Collector):
    """The few keys that are read most, asked for when somebody scrapes."""

    def __init__(self, *, each: bool) -> None:
        self._each = each
        self.hottest: Callable[[], Iterable[tuple[str, str, str, float, float]]] = tuple

    def collect(self) -> Iterator[Metric]:
        hot = list(self.hottest())
        yield GaugeMetricFamily("configregistry_hot_keys", "Keys over the sampling limit, as told", value=len(hot))
        if self._each:
            labels = ("namespace", "registry", "key")
            rate = GaugeMetricFamily("configregistry_hot_key_rate", "Reads a second of a hot key", labels=labels)
            slow = GaugeMetricFamily(
                "configregistry_hot_key_slow_ratio", "Share of its answers that took too long", labels=labels
            )
            for *place, reads, share in hot:
                rate.add_metric([str(each) for each in place], reads)
                slow.add_metric([str(each) for each in place], share)
            yield from (rate, slow)


class _Consumers(Collector):
    """Live consumers by what they observed, asked for when somebody scrapes."""

    def __init__(self, *, each: bool) -> None:
        self._each = each
        self.counts: Callable[[], Iterable[tuple[str, str, int, str, int]]] = tuple

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "configregistry_consumers",
            "Live consumers whose last heartbeat this replica got: sum over replicas",
            labels=("namespace", "registry", "version", "status"),
        )
        # Without series for each registry a version's number says nothing, so it is left out as well.
        sums: Counts[tuple[str, str, str, str]] = Counts()
        for namespace, name, version, status, number in self.counts():
            shown = str(version) if version else ""
            sums[(namespace, name, shown, status) if self._each else ("", "", "", status)] += number
        for labels, number in sums.items():
            family.add_metric(labels, number)
        yield family


class _Reloads(Collector):
    """`hot_reload_status`: each component is in one stage; all stages are told."""

    def __init__(self) -> None:
        self.stages: dict[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "hot_reload_status",
            "0 inactive, 1 loading, 2 validating, 3 switching, 4 success, -1 failed",
            labels=("stage", "component"),
        )
        for component, present in list(self.stages.items()):
            for stage, number in STAGES.items():
                family.add_metric((stage, component), number if stage == present else 0)
        yield family


class Metrics:
    """All metric objects. `env` and `cluster` are labels that this process gives itself.

    With `per_registry` off nothing is labelled by a registry's name.
    """

    def __init__(
        self,
        *,
        env: str = "",
        cluster: str = "",
        per_registry: bool = True,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.per_registry = per_registry
        self._registries = _Registries(env, cluster, each=per_registry)
        self._reloads = _Reloads()
        registry.register(self._registries)
        registry.register(self._reloads)
        self._consumers = _Consumers(each=per_registry)
        registry.register(self._consumers)
        self._deliveries = _Deliveries()
        registry.register(self._deliveries)
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        self.rollouts = counter("configregistry_rollouts_total", "Rollouts that ended", "result", "trigger")
        self.checks = counter("configregistry_checks_total", "Probes made", "check", "verdict")
        self.reconciles = counter("configregistry_reconciles_total", "Reconciliations", "result")
        self.reconcile_duration = histogram(
            "configregistry_reconcile_duration_seconds", "Of one reconciliation", WORK_BUCKETS
        )
        self.drift_repairs = counter(
            "configregistry_drift_repairs_total",
            "States that another hand changed, and that were put back",
        )
        self.exchange_errors = counter(
            "configregistry_replica_exchange_errors_total", "Replicas that did not tell the leader of their consumers"
        )
        self.exchange_duration = histogram(
            "configregistry_replica_exchange_duration_seconds",
            "Of asking all replicas for their consumers",
            WORK_BUCKETS,
        )
        self.unused = Gauge(
            "configregistry_unused_registries", "Registries that nobody has read for --unused-after", registry=registry
        )
        self.queue_depth = Gauge("configregistry_queue_depth", "Names that wait to be reconciled", registry=registry)
        self.switch_errors = counter(
            "hot_reload_switch_errors_total",
            "States that were not switched to, by the reason",
            "component",
            "reason",
        )
        self.switch_duration = histogram(
            "hot_reload_duration_seconds", "Of one batch of switches", SWAP_BUCKETS, "component"
        )
        self.stale_reads = counter(
            "configregistry_stale_reads_total", "Reads answered while cut off from the API server"
        )
        self._hot_keys = _HotKeys(each=per_registry)
        registry.register(self._hot_keys)
        self.shed_reads = counter("configregistry_hot_key_shed_total", "Reads of hot keys answered with 429")
        self.reviews = counter(
            "configregistry_reviews_total", "TokenReviews and SubjectAccessReviews made", "review", "result"
        )
        self._connections = Gauge("configregistry_connections", "Open connections of clients", registry=registry)
        self._refused = counter("configregistry_connections_refused_total", "Connections over a limit", "reason")
        self._watchers = Gauge("configregistry_watchers", "Open streams", registry=registry)
        self._cut_off = counter("configregistry_watch_cut_off_total", "Streams ended before their time", "reason")
        self._reads = _Reads()
        registry.register(self._reads)

    def read(self, code: int, seconds: float | None) -> None:
        """Count one answered request; None: it was held. The hot path's only metrics call."""
        reads = self._reads
        reads.codes[code] += 1
        if seconds is not None:
            reads.counts[bisect_left(READ_BUCKETS, seconds)] += 1
            reads.total += seconds

    def repeated(self, code: int, number: int) -> None:
        """Count requests that were answered with what was answered before, within microseconds."""
        self._reads.codes[code] += number
        self._reads.counts[0] += number

    def connected(self, change: int) -> None:
        """Tell that there is one connection more (1) or less (-1)."""
        self._connections.inc(change)

    def connection_refused(self, reason: str) -> None:
        """Count a connection that was over a limit: `connections` or `peer`."""
        self._refused.labels(reason).inc()

    def watching(self, change: int) -> None:
        """Tell that there is one stream more (1) or less (-1)."""
        self._watchers.inc(change)

    def delivered(self, seconds: float, streams: int) -> None:
        """Observe that so many streams were written an event, so long after its publication."""
        self._deliveries.observe(seconds, streams)

    def cut_off(self, reason: str) -> None:
        """Count a stream that was ended: `slow-reader`, or `defect` (which is logged)."""
        self._cut_off.labels(reason).inc()

    def show(self, namespace: str, name: str, shown: Shown) -> None:
        """Tell what a registry gives at present."""
        self._registries.show((namespace, name), shown)

    def step(self, namespace: str, name: str, step: int | None) -> None:
        """Tell the step that a registry's candidate is in; None: there is no candidate."""
        self._registries.step((namespace, name), step)

    def loaded(self, namespace: str, name: str, seconds: float) -> None:
        """Observe how long it took from a status's event to its publication."""
        self._registries.load((namespace, name), seconds)

    def forget(self, namespace: str, name: str) -> None:
        """Drop every series of a deleted registry."""
        self._registries.forget((namespace, name))

    def watch_hot_keys(self, hottest: Callable[[], Iterable[tuple[str, str, str, float, float]]]) -> None:
        """Ask for hot keys at each scrape: namespace, registry, key, reads a second, share of slow answers.

        Called in any thread.
        """
        self._hot_keys.hottest = hottest

    def count_consumers(self, counts: Callable[[], Iterable[tuple[str, str, int, str, int]]]) -> None:
        """Ask for the live consumers at each scrape: namespace, registry, observed version (0: none), status, how many.

        Called in any thread.
        """
        self._consumers.counts = counts

    def stage(self, component: str, stage: str) -> None:
        """Tell where a component is in its reload; one of `STAGES`."""
        self._reloads.stages[component] = stage

    def switched(self, component: str, seconds: float) -> None:
        """Observe a reload that succeeded."""
        self.switch_duration.labels(component).observe(seconds)
        self._reloads.stages[component] = "success"

    def failed(self, component: str, reason: str) -> None:
        """Count a state that was not switched to."""
        self.switch_errors.labels(component, reason).inc()
        self._reloads.stages[component] = "failed"

    def expose(self, accept: str) -> tuple[str, bytes]:
        """Give the content type and text of all metrics, in the format that `accept` prefers."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self.registry)
