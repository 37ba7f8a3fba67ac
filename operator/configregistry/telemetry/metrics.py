"""Every metric of the program, in one place: whoever measures calls a method here, and spells no name.

A `Metrics` owns its registry; there are no globals, so two programs (or tests) in one process never share a number.
What only one half of the program has to say is told only by a process with that half.

It must never know what a registry is (callers push plain values), and never block the event loop: `expose` is safe
to call in another thread. What the metrics mean is said in `names`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import Metric as Whole
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from configregistry import __version__
from configregistry.telemetry.counted import Checks, Deliveries, Reads, Reloads, result_of
from configregistry.telemetry.each import Consumers, HotKeys, Served, Shown, Standings
from configregistry.telemetry.names import METRICS, READ_BUCKETS, Side
from configregistry.telemetry.text import Family, lines, whole

__all__ = ["Metrics", "Shown"]

_END = b"# EOF\n"
"""Of OpenMetrics."""

# All counters are told from the start on, so when each began is known from the process. The library has no other way
# to be told.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Told(Protocol):
    """Has families to tell."""

    def families(self) -> Iterable[Family]:
        """Give them, as they are now."""
        ...


class Metrics:
    """All metric objects. `env` and `cluster` are labels that this process gives itself.

    With `per_registry` off nothing is labelled by a registry's name. `decides`, `serves`: the halves of the program
    that this process has.
    """

    def __init__(
        self,
        *,
        env: str = "",
        cluster: str = "",
        per_registry: bool = True,
        decides: bool = True,
        serves: bool = True,
        now: Callable[[], float] = time.monotonic,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.registry = registry or CollectorRegistry()
        """All of it, for whoever looks for one sample."""
        self.per_registry = per_registry
        self._sides = (Side.DECIDES if decides else Side(0)) | (Side.SERVES if serves else Side(0))
        self._few = CollectorRegistry()
        """What prometheus_client makes the text of; the rest is told by `_many`."""
        self._many: list[Told] = []
        self.registry.register(_Both(self._few, self._many))
        self._deciding()
        self._serving(env, cluster)
        self.checks = Checks(self._counter("configregistry_checks_total"), now)
        self.drift_repairs = self._counter("configregistry_drift_repairs_total")
        self._consistency = self._counter("configregistry_consistency_checks_total")
        self._staleness = self._gauge("configregistry_staleness_seconds")
        self._requests = self._counter("configregistry_api_requests_total")
        self._gauge("configregistry_build_info").labels(__version__).set(1)
        ProcessCollector(registry=self._few)

    def _deciding(self) -> None:
        self.rollouts = self._counter("configregistry_rollouts_total")
        self.reconciles = self._counter("configregistry_reconciles_total")
        self.reconcile_duration = self._histogram("configregistry_reconcile_duration_seconds")
        self.queue_depth = self._gauge("configregistry_queue_depth")
        self.unused = self._gauge("configregistry_unused_registries")
        self.exchange_errors = self._counter("configregistry_replica_exchange_errors_total")
        self.exchange_duration = self._histogram("configregistry_replica_exchange_duration_seconds")
        self._leader = self._gauge("configregistry_leader")
        self._epoch = self._gauge("configregistry_leader_epoch")
        self._admissions = self._counter("configregistry_admission_reviews_total")
        self._admission_duration = self._histogram("configregistry_admission_review_duration_seconds")
        self._certificate: Gauge | None = None
        self._standings = Standings(each=self.per_registry)
        self._add(self._standings, Side.DECIDES)

    def _serving(self, env: str, cluster: str) -> None:
        self._served = Served(env, cluster, each=self.per_registry)
        self._consumers = Consumers(self._served.gives, each=self.per_registry)
        self._hot_keys = HotKeys(each=self.per_registry)
        for told in (self._served, self._consumers, self._hot_keys):
            self._add(told, Side.SERVES)
        self._reads, self._deliveries, self._reloads = Reads(), Deliveries(), Reloads()
        if Side.SERVES in self._sides:
            for collector in (self._reads, self._deliveries, self._reloads):
                self._few.register(collector)
        self.switch_errors = self._counter("hot_reload_switch_errors_total")
        self.switch_duration = self._histogram("hot_reload_duration_seconds")
        self.stale_reads = self._counter("configregistry_stale_reads_total")
        self.shed_reads = self._counter("configregistry_hot_key_shed_total")
        self.reviews = self._counter("configregistry_reviews_total")
        self._connections = self._gauge("configregistry_connections")
        self._refused = self._counter("configregistry_connections_refused_total")
        self._watchers = self._gauge("configregistry_watchers")
        self._cut_off = self._counter("configregistry_watch_cut_off_total")

    # Reads and streams.

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

    # What is served.

    def show(self, namespace: str, name: str, shown: Shown) -> None:
        """Tell what a registry gives at present."""
        self._served.show((namespace, name), shown)

    def step(self, namespace: str, name: str, step: int | None) -> None:
        """Tell the step that a registry's candidate is in; None: there is no candidate."""
        self._served.step((namespace, name), step)

    def loaded(self, namespace: str, name: str, seconds: float) -> None:
        """Observe how long it took from a status's event to its publication."""
        self._served.load((namespace, name), seconds)

    def forget(self, namespace: str, name: str) -> None:
        """Drop every series of what was served of a deleted registry."""
        self._served.forget((namespace, name))

    def stage(self, component: str, stage: str) -> None:
        """Tell where a component is in its reload; one of `names.STAGES`."""
        self._reloads.stages[component] = stage

    def switched(self, component: str, seconds: float) -> None:
        """Observe a reload that succeeded."""
        self.switch_duration.labels(component).observe(seconds)
        self._reloads.stages[component] = "success"

    def failed(self, component: str, reason: str) -> None:
        """Count a state that was not switched to."""
        self.switch_errors.labels(component, reason).inc()
        self._reloads.stages[component] = "failed"

    # What is decided.

    def lead(self, leading: bool, epoch: int | None = None) -> None:
        """Tell whether this process decides, and the epoch that it took its Lease with (None: there is no Lease)."""
        if not leading:
            # What the term before knew is another leader's by now.
            self._standings.clear()
            self.queue_depth.set_function(lambda: 0)
            self.unused.set_function(lambda: 0)
        self._standings.told = leading
        self._leader.set(int(leading))
        if epoch is not None:
            self._epoch.set(epoch)

    def stand(self, namespace: str, name: str, reason: str) -> None:
        """Tell where a registry stands, as one of `names.REASONS`; empty: nobody has decided anything about it yet."""
        self._standings.stand((namespace, name), reason)

    def dismiss(self, namespace: str, name: str) -> None:
        """Drop every series of what was decided of a deleted registry."""
        self._standings.forget((namespace, name))

    def reviewed(self, result: str, seconds: float) -> None:
        """Count an answered AdmissionReview: `allowed`, `warned` (allowed with warnings), `denied` or `failed`."""
        self._admissions.labels(result).inc()
        self._admission_duration.observe(seconds)

    def certified(self, until: float) -> None:
        """Tell until when (seconds since 1970) the certificate that the webhook shows is valid."""
        if self._certificate is None:  # without one there is no series: 0 would have expired long ago
            self._certificate = self._gauge("configregistry_webhook_certificate_expiration_timestamp_seconds")
        self._certificate.set(until)

    # The API server.

    def consistency(self, result: str) -> None:
        """Count a comparison of memory with the API server.

        `same`, `repaired`, `differs` (and could not be repaired), or `failed` (nobody could be asked).
        """
        self._consistency.labels(result).inc()

    def repaired(self, number: int = 1) -> None:
        """Count states that were not what they should be, and were put right."""
        self.drift_repairs.inc(number)

    def asked(self, verb: str, status: int) -> None:
        """Count a request to the API server: its method or `WATCH`, and the HTTP status; 0: no answer came."""
        self._requests.labels(verb, result_of(status)).inc()

    def watch_staleness(self, staleness: Callable[[], float]) -> None:
        """Ask at each scrape how many seconds ago what is in memory was last known to be true. In any thread."""
        self._staleness.set_function(staleness)

    # The text.

    def expose(self, accept: str) -> tuple[str, bytes]:
        """Give the content type and text of all metrics, in the format that `accept` prefers."""
        content_type, pieces = self.pieces(accept)
        return content_type, b"".join(pieces)

    def pieces(self, accept: str) -> tuple[str, list[bytes]]:
        """Give the same in pieces: 15 MB for 10,000 registries are not to be copied while readers wait."""
        encoder, content_type = choose_encoder(accept)
        few = encoder(self._few)
        end = _END if few.endswith(_END) else b""
        pieces = [few.removesuffix(end)]
        for told in self._many:
            for family in told.families():
                pieces.extend(lines(family))
        return content_type, [*pieces, end] if end else pieces

    # Making them, as `names` has them.

    def _add(self, told: Told, side: Side) -> None:
        if side in self._sides:
            self._many.append(told)

    def _of(self, name: str) -> CollectorRegistry | None:
        return self._few if METRICS[name].side & self._sides else None

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, METRICS[name].text, METRICS[name].labels, registry=self._of(name))

    def _counter(self, name: str) -> Counter:
        made = Counter(name, METRICS[name].text, METRICS[name].labels, registry=self._of(name))
        for row in METRICS[name].rows:
            made.labels(*row)
        return made

    def _histogram(self, name: str) -> Histogram:
        metric = METRICS[name]
        return Histogram(name, metric.text, metric.labels, buckets=metric.buckets, registry=self._of(name))


class _Both(Collector):
    """What prometheus_client tells, and what is told beside it."""

    def __init__(self, few: CollectorRegistry, many: list[Told]) -> None:
        self._few = few
        self._many = many

    def collect(self) -> Iterable[Whole]:
        """Make it of what there is now."""
        yield from self._few.collect()
        for told in self._many:
            yield from map(whole, told.families())
