"""What each metric is called, says and is labelled with: a table, because names are contract.

Nothing is measured under a name, or with a label, that does not stand here; docs/metrics.md is generated from it.

The values of a label are a list, or come from what somebody with rights to write has made (a registry, a check), and
then something bounds them. It must never have a label whose values those who read configuration can choose.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

LOAD_BUCKETS: Final = (0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0)
READ_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
SWAP_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
WATCH_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 5.0)
WORK_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

OTHER: Final = "other"
"""The value that stands for all for which there is no room."""
MOST_CHECKS: Final = 100
"""Names of checks that have series of their own."""

STAGES: Final = {"loading": 1, "validating": 2, "switching": 3, "success": 4, "failed": -1}
"""Of `hot_reload_status`: the present stage has its number, every other one 0 (inactive)."""

REASONS: Final = (
    "RolloutComplete", "Pinned",
    "StepRunning", "ChecksPending", "Paused", "Baking",
    "WaitingForDependency", "SourceNotFound", "ValidatorUnavailable",
    "RolledBack", "Aborted", "CheckFailed", "HookVetoed", "ProjectionConflict", "InvalidSpec",
)  # fmt: skip
"""Where a registry may stand: the reason of Stalled, else of Reconciling, else of Ready."""
READY: Final = REASONS[:2]


class Kind(enum.Enum):
    """What Prometheus is told that it is."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Side(enum.Flag):
    """Which half of the program has something to say of it."""

    DECIDES = enum.auto()
    SERVES = enum.auto()


BOTH: Final = Side.DECIDES | Side.SERVES

Rows = tuple[tuple[str, ...], ...]


class Metric(NamedTuple):
    """One of them. `rows`: the values of the labels where there are no others, told from the start on, with 0.

    A counter that appeared with its first error would have no increase to alert on.
    """

    name: str
    kind: Kind
    text: str
    side: Side
    labels: tuple[str, ...] = ()
    rows: Rows = ()
    buckets: tuple[float, ...] = ()

    @property
    def each(self) -> bool:
        """Whether it exists once per registry, and --no-registry-metrics is for it."""
        return "registry" in self.labels


_PLACE: Final = ("env", "cluster", "namespace", "registry")
_NAMED: Final = ("namespace", "registry")


def _gauge(name: str, side: Side, text: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, text, side, labels)


def _counter(name: str, side: Side, text: str, labels: tuple[str, ...] = (), rows: Rows = ()) -> Metric:
    return Metric(name, Kind.COUNTER, text, side, labels, rows)


def _histogram(name: str, side: Side, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, text, side, labels, buckets=buckets)


def _ones(*values: str) -> Rows:
    return tuple((value,) for value in values)


_D, _S = Side.DECIDES, Side.SERVES

DEFINED: Final = (
    # What consumers are given.
    _gauge("registry_version_active", _S, "Version number given as this variant", *_PLACE, "variant"),
    _gauge("configregistry_revision", _S, "Revision of the registry that is served", *_NAMED),
    _gauge("configregistry_canary_weight", _S, "Percent of targets that get the candidate", *_NAMED),
    _gauge("configregistry_rollout_step", _S, "Index of the step that the candidate is in", *_NAMED),
    _gauge(
        "configregistry_consumers",
        _S,
        "Live consumers whose last heartbeat this replica got: sum over replicas",
        *_NAMED,
        "version",
        "status",
    ),
    # How it comes about.
    _histogram(
        "registry_load_duration_seconds",
        _S,
        "From the event that told of a status to its publication",
        LOAD_BUCKETS,
        *_PLACE,
    ),
    _gauge(
        "hot_reload_status",
        _S,
        "0 inactive, 1 loading, 2 validating, 3 switching, 4 success, -1 failed",
        "stage",
        "component",
    ),
    _histogram("hot_reload_duration_seconds", _S, "Of one batch of switches", SWAP_BUCKETS, "component"),
    _counter(
        "hot_reload_switch_errors_total",
        _S,
        "States that were not switched to, by the reason",
        ("component", "reason"),
        tuple(
            ("serve", reason)
            for reason in ("unreadable", "revision-back", "no-stable", "version-missing", "version-damaged", "error")
        ),
    ),
    _gauge("configregistry_snapshot_versions", _S, "Versions held in memory, of all registries"),
    _gauge(
        "configregistry_snapshot_bytes",
        _S,
        "Keys and values of the versions in memory, each version counted whole though they share what is equal",
    ),
    # Reads and streams.
    _counter("configregistry_reads_total", _S, "Requests answered", ("code",)),
    _histogram("configregistry_read_duration_seconds", _S, "Of one request in this process", READ_BUCKETS),
    _counter("configregistry_stale_reads_total", _S, "Reads answered while cut off from the API server"),
    _gauge("configregistry_connections", _S, "Open connections of clients"),
    _counter(
        "configregistry_connections_refused_total",
        _S,
        "Connections over a limit: of all clients, or of one address",
        ("reason",),
        _ones("connections", "peer"),
    ),
    _gauge("configregistry_watchers", _S, "Open streams"),
    _histogram(
        "configregistry_watch_delivery_seconds",
        _S,
        "From a publication to its event being written to a stream",
        WATCH_BUCKETS,
    ),
    _counter(
        "configregistry_watch_cut_off_total",
        _S,
        "Streams ended before their time",
        ("reason",),
        _ones("slow-reader", "defect"),
    ),
    _counter(
        "configregistry_reviews_total",
        _S,
        "TokenReviews and SubjectAccessReviews made",
        ("review", "result"),
        tuple((review, result) for review in ("token", "access") for result in ("allowed", "refused", "failed")),
    ),
    _gauge("configregistry_hot_keys", _S, "Keys over the sampling limit, as told"),
    _gauge("configregistry_hot_key_rate", _S, "Reads a second of a hot key", *_NAMED, "key"),
    _gauge("configregistry_hot_key_slow_ratio", _S, "Share of its answers that took too long", *_NAMED, "key"),
    _counter("configregistry_hot_key_shed_total", _S, "Reads of hot keys answered with 429"),
    # Deciding.
    _gauge("configregistry_leader", _D, "1: this process decides; 0: it stands by"),
    _gauge("configregistry_leader_epoch", _D, "Epoch of the last Lease that this process held; 0: none yet"),
    _gauge("configregistry_registries", _D, "Registries by where they stand, as the leader sees them", "reason"),
    _gauge("configregistry_not_ready", _D, "1: the registry is not Ready, for this reason", *_NAMED, "reason"),
    _counter(
        "configregistry_rollouts_total",
        _D,
        "Rollouts that ended",
        ("result", "trigger"),
        (
            ("Completed", "System"),
            ("Completed", "User"),
            ("RolledBack", "Check"),
            ("Aborted", "User"),
            ("Superseded", "User"),
            ("Cancelled", "User"),
            ("Cancelled", "System"),
        ),
    ),
    _counter("configregistry_checks_total", _D, "Probes made", ("check", "verdict")),
    _counter(
        "configregistry_reconciles_total",
        _D,
        "Reconciliations",
        ("result",),
        _ones("ok", "conflict", "fenced", "error", "defect"),
    ),
    _histogram("configregistry_reconcile_duration_seconds", _D, "Of one reconciliation", WORK_BUCKETS),
    _gauge("configregistry_queue_depth", _D, "Names that wait to be reconciled"),
    _gauge("configregistry_unused_registries", _D, "Registries that nobody has read for --unused-after"),
    _counter(
        "configregistry_replica_exchange_errors_total", _D, "Replicas that did not tell the leader of their consumers"
    ),
    _histogram(
        "configregistry_replica_exchange_duration_seconds",
        _D,
        "Of asking all replicas for their consumers",
        WORK_BUCKETS,
    ),
    _counter(
        "configregistry_admission_reviews_total",
        _D,
        "AdmissionReviews answered",
        ("result",),
        _ones("allowed", "warned", "denied", "failed"),
    ),
    _histogram("configregistry_admission_review_duration_seconds", _D, "Of one AdmissionReview", WORK_BUCKETS),
    _gauge(
        "configregistry_webhook_certificate_expiration_timestamp_seconds",
        _D,
        "Until when the certificate that the admission webhook shows is valid",
    ),
    # Both.
    _counter(
        "configregistry_drift_repairs_total", BOTH, "States that were not what they should be, and were put right"
    ),
    _counter(
        "configregistry_consistency_checks_total",
        BOTH,
        "Comparisons of memory with the API server",
        ("result",),
        _ones("same", "repaired", "differs", "failed"),
    ),
    _gauge(
        "configregistry_staleness_seconds",
        BOTH,
        "Since what is in memory was last known to be true; 0 while watches are open",
    ),
    _counter(
        "configregistry_api_requests_total",
        BOTH,
        "Requests to the API server, by what came of them; none: no answer",
        ("verb", "result"),
        tuple(
            (verb, result)
            for verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "WATCH")
            for result in ("2xx", "4xx", "409", "429", "5xx", "none")
        ),
    ),
    _gauge("configregistry_build_info", BOTH, "1; what is running", "version"),
)

METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in DEFINED}

LABELS: Final[Mapping[str, str]] = {
    "cluster": "`--cluster`",
    "check": f"names of checks in specs; the first {MOST_CHECKS} that are in use, then `{OTHER}`",
    "code": "HTTP status of an answer",
    "component": "`serve`",
    "env": "`--env`",
    "key": "existing keys that are read most, 10 at a time; only with `--hot-keys`",
    "namespace": "of a ConfigRegistry that exists",
    "reason": "a list, in brackets above",
    "registry": "name of a ConfigRegistry that exists",
    "result": "a list, in brackets above",
    "review": "`token`, `access`",
    "stage": ", ".join(f"`{stage}`" for stage in STAGES),
    "status": "`ok`, `error`, `none` (it has not said)",
    "trigger": "`User`, `System`, `Check`",
    "variant": "`stable`, `canary`",
    "verb": "HTTP method, or `WATCH`",
    "verdict": "`Pass`, `Fail`, `Error`, `NoData`",
    "version": f"of `_consumers`: the stable version or the candidate, `{OTHER}`, or empty; of `_build_info`: ours",
}
"""What a label's values are, and so how many there can be."""
