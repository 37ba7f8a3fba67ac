"""Names and meanings of the metrics, which are contract, and what 10,000 registries cost."""

from __future__ import annotations

import timeit
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from configregistry.telemetry.metrics import Metrics, Shown

PLACE = {"env": "prod", "cluster": "one", "namespace": "shop", "registry": "checkout"}
NAMED = {"namespace": "shop", "registry": "checkout"}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(env="prod", cluster="one")
    made.show("shop", "checkout", Shown(31, 7, 8, 50, 3))
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


def test_all_names_are_there_in_both_formats(metrics: Metrics) -> None:
    metrics.rollouts.labels("Completed", "User").inc()
    metrics.checks.labels("errors", "Pass").inc()
    metrics.reconciles.labels("done").inc()
    metrics.reconcile_duration.observe(0.1)
    metrics.queue_depth.set(3)
    names = {
        "registry_version_active",
        "registry_load_duration_seconds",
        "hot_reload_status",
        "hot_reload_duration_seconds",
        "hot_reload_switch_errors",
        "configregistry_revision",
        "configregistry_canary_weight",
        "configregistry_rollout_step",
        "configregistry_rollouts",
        "configregistry_checks",
        "configregistry_reads",
        "configregistry_read_duration_seconds",
        "configregistry_snapshot_versions",
        "configregistry_reconcile_duration_seconds",
        "configregistry_reconciles",
        "configregistry_queue_depth",
    }
    for accept, parse in (
        ("text/plain", prometheus),
        ("application/openmetrics-text", openmetrics),
    ):
        content_type, text = metrics.expose(accept)
        assert content_type.startswith(accept)
        found = {family.name for family in parse(text.decode())}
        assert names <= found


def test_two_programs_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics(registry=CollectorRegistry())
    one.read(200, 0.1)
    assert sample(other, "configregistry_reads_total", code="200") is None


def test_names_that_need_escaping_do_not_break_the_text(metrics: Metrics) -> None:
    metrics.show('a"b\\', "c\nd", Shown(1, 1))
    families = {family.name: family for family in prometheus(metrics.expose("")[1].decode())}
    labels = [sample.labels for sample in families["configregistry_revision"].samples]
    assert {"namespace": 'a"b\\', "registry": "c\nd"} in labels


def test_counting_a_read_is_cheap(metrics: Metrics) -> None:
    # 1.2 us; the bound is wide because machines of CI are slow and shared.
    assert timeit.timeit(lambda: metrics.read(200, 0.0001), number=10_000) < 0.5


def test_connections(metrics: Metrics) -> None:
    for change in (1, 1, -1):
        metrics.connected(change)
    metrics.connection_refused("peer")
    assert sample(metrics, "configregistry_connections") == 1
    assert sample(metrics, "configregistry_connections_refused_total", reason="peer") == 1
