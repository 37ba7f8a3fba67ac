"""Names and meanings of the metrics, which are contract, who tells them, and how many series there can be."""

from __future__ import annotations

import timeit
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from configregistry.telemetry.metrics import Metrics, Shown
from configregistry.telemetry.names import BOTH, DEFINED, LABELS, METRICS, Side

PLACE = {"env": "prod", "cluster": "one", "namespace": "shop", "registry": "checkout"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NAMED = {"namespace": "shop", "registry": "checkout"}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(env="prod", cluster="one")
    made.show("shop", "checkout", Shown(31, 7, 8, 50, 3, 4096))
    made.step("shop", "checkout", 2)
    made.loaded("shop", "checkout", 0.3)
    return made


def sample(metrics: Metrics, name: str, **labels: str) -> Any:
    return metrics.registry.get_sample_value(name, labels)


def test_what_a_registry_gives(metrics: Metrics) -> None:
    assert sample(metrics, "registry_version_active", **PLACE, variant="stable") == 7
    assert sample(metrics, "registry_version_active", **PLACE, variant="canary") == 8
    assert sample(metrics, "configregistry_revision", **NAMED) == 31
    assert sample(metrics, "configregistry_canary_weight", **NAMED) == 50
    assert sample(metrics, "configregistry_rollout_step", **NAMED) == 2
    assert sample(metrics, "configregistry_snapshot_versions") == 3
    assert sample(metrics, "configregistry_snapshot_bytes") == 4096


def test_without_a_candidate_there_are_no_series_of_one(metrics: Metrics) -> None:
    metrics.show("shop", "checkout", Shown(32, 8))
    metrics.step("shop", "checkout", None)
    assert sample(metrics, "registry_version_active", **PLACE, variant="canary") is None
    assert sample(metrics, "configregistry_canary_weight", **NAMED) is None
    assert sample(metrics, "configregistry_rollout_step", **NAMED) is None
    assert sample(metrics, "configregistry_revision", **NAMED) == 32


def test_load_durations(metrics: Metrics) -> None:
    for seconds in (0.005, 0.011, 3.0):
        metrics.loaded("shop", "checkout", seconds)
    bounds = {"0.01": 1, "0.05": 2, "0.1": 2, "0.3": 3, "0.5": 3, "1.0": 3, "2.0": 3, "+Inf": 4}
    for bound, count in bounds.items():
        assert sample(metrics, "registry_load_duration_seconds_bucket", **PLACE, le=bound) == count
    assert sample(metrics, "registry_load_duration_seconds_count", **PLACE) == 4
    assert sample(metrics, "registry_load_duration_seconds_sum", **PLACE) == pytest.approx(3.316)


def test_a_forgotten_registry_has_no_series(metrics: Metrics) -> None:
    metrics.show("shop", "other", Shown(1, 1))
    metrics.forget("shop", "checkout")
    metrics.forget("shop", "never-seen")
    text = metrics.expose("")[1].decode()
    assert "checkout" not in text
    assert 'registry="other"' in text


def test_without_series_for_each_registry() -> None:
    metrics = Metrics(per_registry=False)
    metrics.show("shop", "checkout", Shown(31, 7, 8, 50, 3))
    metrics.step("shop", "checkout", 2)
    metrics.loaded("shop", "checkout", 0.2)
    metrics.forget("shop", "other")
    text = metrics.expose("")[1].decode()
    assert "checkout" not in text
    assert sample(metrics, "configregistry_snapshot_versions") == 3
    nobody = {"env": "", "cluster": "", "namespace": "", "registry": ""}
    assert sample(metrics, "registry_load_duration_seconds_count", **nobody) == 1


def test_reload_stages(metrics: Metrics) -> Any:
    def stages() -> list[float]:
        names = ("loading", "validating", "switching", "success", "failed")
        return [sample(metrics, "hot_reload_status", stage=name, component="serve") for name in names]

    metrics.stage("serve", "validating")
    assert stages() == [0, 2, 0, 0, 0]
    metrics.switched("serve", 0.2)
    assert stages() == [0, 0, 0, 4, 0]
    metrics.failed("serve", "version-missing")
    assert stages() == [0, 0, 0, 0, -1]
    assert sample(metrics, "hot_reload_duration_seconds_count", component="serve") == 1
    labels = {"component": "serve", "reason": "version-missing"}
    assert sample(metrics, "hot_reload_switch_errors_total", **labels) == 1


def test_reads(metrics: Metrics) -> None:
    metrics.read(200, 0.0002)
    metrics.read(200, 2.0)
    metrics.read(404, 0.0002)
    assert sample(metrics, "configregistry_reads_total", code="200") == 2
    assert sample(metrics, "configregistry_reads_total", code="404") == 1
    assert sample(metrics, "configregistry_read_duration_seconds_count") == 3


CONTRACT = {
    "registry_version_active": "env cluster namespace registry variant",
    "registry_load_duration_seconds": "env cluster namespace registry",
    "hot_reload_status": "stage component",
    "hot_reload_duration_seconds": "component",
    "hot_reload_switch_errors_total": "component reason",
    "configregistry_revision": "namespace registry",
    "configregistry_canary_weight": "namespace registry",
    "configregistry_rollout_step": "namespace registry",
    "configregistry_rollouts_total": "result trigger",
    "configregistry_checks_total": "check verdict",
    "configregistry_consumers": "namespace registry version status",
    "configregistry_reads_total": "code",
    "configregistry_read_duration_seconds": "",
    "configregistry_watchers": "",
    "configregistry_watch_delivery_seconds": "",
    "configregistry_snapshot_bytes": "",
    "configregistry_snapshot_versions": "",
    "configregistry_reconcile_duration_seconds": "",
    "configregistry_reconciles_total": "result",
    "configregistry_queue_depth": "",
    "configregistry_leader": "",
    "configregistry_drift_repairs_total": "",
}
"""Of operating.md; whoever changes one of these breaks somebody's dashboard."""


def everything(metrics: Metrics) -> Metrics:
    """Have each metric tell something."""
    metrics.checks.labels("errors", "Pass").inc()
    metrics.lead(True, 3)
    metrics.stand("shop", "checkout", "Paused")
    metrics.certified(2e9)
    metrics.stage("serve", "success")
    metrics.switched("serve", 0.1)
    metrics.read(200, 0.1)
    metrics.count_consumers(lambda: [("shop", "checkout", 7, "ok", 2)])
    metrics.watch_hot_keys(lambda: [("shop", "checkout", "a", 3000.0, 0.5)])
    return metrics


def test_the_contract_is_kept() -> None:
    assert {name: set(METRICS[name].labels) for name in CONTRACT} == {
        name: set(labels.split()) for name, labels in CONTRACT.items()
    }
    assert METRICS["registry_load_duration_seconds"].buckets == (0.01, 0.05, 0.1, 0.3, 0.5, 1, 2)


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", prometheus), (OPENMETRICS, openmetrics)])
def test_all_names_are_there_in_both_formats_and_no_others(metrics: Metrics, accept: str, parse: Any) -> None:
    content_type, text = everything(metrics).expose(accept)
    assert content_type.startswith(accept.partition(";")[0])
    families = {family.name: family for family in parse(text.decode())}
    told = {name for name in families if not name.startswith("process_")}
    assert told == {name.removesuffix("_total") for name in METRICS}
    for metric in METRICS.values():
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind.value, metric.text)
        assert family.samples, metric.name
        # An empty value is no label.
        allowed = {*metric.labels, "le"} if metric.buckets else set(metric.labels)
        assert all(set(each.labels) <= allowed for each in family.samples)
        for row in metric.rows:
            labels = dict(zip(metric.labels, row, strict=True))
            assert any(each.labels == labels for each in family.samples), (metric.name, labels)


def test_labels_and_their_values_are_told_in_the_docs() -> None:
    assert {label for metric in METRICS.values() for label in metric.labels} == set(LABELS)


def names_told_by(metrics: Metrics) -> set[str]:
    return {family.name for family in prometheus(everything(metrics).expose("")[1].decode())}


def test_a_process_tells_of_what_it_does() -> None:
    controller, serve, run = Metrics(serves=False), Metrics(decides=False), Metrics()
    for made, side in ((controller, Side.DECIDES), (serve, Side.SERVES), (run, BOTH)):
        wanted = {metric.name.removesuffix("_total") for metric in DEFINED if metric.side & side}
        assert {name for name in names_told_by(made) if not name.startswith("process_")} == wanted
    assert "configregistry_leader" not in names_told_by(serve)
    assert "configregistry_reads" not in names_told_by(controller)


# Leading.


def test_where_registries_stand_is_told_by_the_leader_alone(metrics: Metrics) -> None:
    def stands(reason: str) -> Any:
        return sample(metrics, "configregistry_not_ready", **NAMED, reason=reason)

    metrics.stand("shop", "checkout", "Paused")
    assert (stands("Paused"), sample(metrics, "configregistry_registries", reason="Paused")) == (None, None)
    metrics.lead(True, 7)
    metrics.stand("shop", "other", "RolloutComplete")
    assert (stands("Paused"), sample(metrics, "configregistry_registries", reason="Paused")) == (1, 1)
    assert sample(metrics, "configregistry_registries", reason="RolloutComplete") == 1
    assert sample(metrics, "configregistry_not_ready", namespace="shop", registry="other", reason="Pinned") is None
    assert (sample(metrics, "configregistry_leader"), sample(metrics, "configregistry_leader_epoch")) == (1, 7)
    metrics.stand("shop", "checkout", "StepRunning")
    assert (stands("Paused"), stands("StepRunning")) == (None, 1)
    metrics.dismiss("shop", "checkout")
    assert (stands("StepRunning"), sample(metrics, "configregistry_registries", reason="StepRunning")) == (None, 0)


def test_a_term_that_is_over_leaves_nothing_behind(metrics: Metrics) -> None:
    metrics.lead(True, 7)
    metrics.stand("shop", "checkout", "Paused")
    metrics.queue_depth.set_function(lambda: 500)
    metrics.lead(False)
    assert (sample(metrics, "configregistry_leader"), sample(metrics, "configregistry_queue_depth")) == (0, 0)
    assert sample(metrics, "configregistry_leader_epoch") == 7
    metrics.lead(True, 9)
    assert sample(metrics, "configregistry_registries", reason="Paused") == 0


def test_without_a_certificate_there_is_no_date(metrics: Metrics) -> None:
    name = "configregistry_webhook_certificate_expiration_timestamp_seconds"
    assert sample(metrics, name) is None
    metrics.certified(1e9)
    metrics.certified(2e9)
    assert sample(metrics, name) == 2e9


# The API server.


@pytest.mark.parametrize(
    ("status", "result"),
    [(200, "2xx"), (201, "2xx"), (404, "4xx"), (409, "409"), (429, "429"), (500, "5xx"), (503, "5xx"), (0, "none")],
)
def test_requests_to_the_api_server(metrics: Metrics, status: int, result: str) -> None:
    metrics.asked("GET", status)
    assert sample(metrics, "configregistry_api_requests_total", verb="GET", result=result) == 1


def test_what_is_asked_for_at_each_scrape(metrics: Metrics) -> None:
    metrics.watch_staleness(lambda: 61.5)
    assert sample(metrics, "configregistry_staleness_seconds") == 61.5


def test_reviews_and_comparisons(metrics: Metrics) -> None:
    metrics.reviewed("denied", 0.2)
    metrics.consistency("repaired")
    metrics.repaired(3)
    assert sample(metrics, "configregistry_admission_reviews_total", result="denied") == 1
    assert sample(metrics, "configregistry_admission_review_duration_seconds_sum") == 0.2
    assert sample(metrics, "configregistry_consistency_checks_total", result="repaired") == 1
    assert sample(metrics, "configregistry_drift_repairs_total") == 3


def test_two_programs_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics(registry=CollectorRegistry())
    one.read(200, 0.1)
    assert sample(other, "configregistry_reads_total", code="200") is None


def test_counting_a_read_is_cheap(metrics: Metrics) -> None:
    # 1.2 us; the bound is wide because machines of CI are slow and shared.
    assert timeit.timeit(lambda: metrics.read(200, 0.0001), number=10_000) < 0.5


def test_connections(metrics: Metrics) -> None:
    for change in (1, 1, -1):
        metrics.connected(change)
    metrics.connection_refused("peer")
    assert sample(metrics, "configregistry_connections") == 1
    assert sample(metrics, "configregistry_connections_refused_total", reason="peer") == 1
