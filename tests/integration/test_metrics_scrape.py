"""What real processes tell under load, as a real Prometheus reads it: names, series, alerts, the dashboard."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text
from tests.cluster import KubeCluster
from tests.integration.metrics_scene import JOB, MARK, OPENMETRICS, TEXT_JOB, Clients, Scene, at_work, played
from tests.integration.running import Client, wait
from tests.rules.expressions import filled, panels, rules
from tests.rules.promtool import promtool
from tests.servers import Prometheus

from configregistry.telemetry.names import BOTH, DEFINED, LABELS, METRICS, REASONS, STAGES, Side

pytestmark = pytest.mark.xdist_group("metrics")

SIDES = {"controller": Side.DECIDES, "serve": Side.SERVES, "run": BOTH}
EMPTY = {
    "Hot keys",  # nobody reads 2,000 times a second
    "Webhook's certificate",  # there is no webhook
}


@pytest.fixture(scope="module")
def scene(
    crd: KubeCluster, place: str, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    async def play(made: Scene) -> None:
        async with Client.of(crd, place) as client:
            await played(client, made)

    with at_work(crd, place, tmp_path_factory.mktemp("metrics"), prometheus) as made:
        asyncio.run(play(made))
        with Clients(made):
            for job in (JOB, TEXT_JOB):
                prometheus.wait_for(f'count(up{{job="{job}"}} == 1) == 3')
                prometheus.wait_for(f'sum(configregistry_reads_total{{job="{job}",code="404"}}) > 100')
            yield made


def families(scene: Scene, name: str, accept: str = "text/plain") -> dict[str, Any]:
    parse = openmetrics if accept == OPENMETRICS else prometheus_text
    return {family.name: family for family in parse(scene.text(name, accept))}


@pytest.mark.parametrize("name", SIDES)
def test_promtool_is_content_with_each_process(scene: Scene, name: str) -> None:
    assert promtool("check", "metrics", given=scene.text(name).encode()) == ""


@pytest.mark.parametrize("name", SIDES)
def test_each_process_tells_of_what_it_does_and_of_nothing_else(scene: Scene, name: str) -> None:
    wanted = {metric.name.removesuffix("_total") for metric in DEFINED if metric.side & SIDES[name]}
    # Told once there is a webhook; and nothing of each registry where that is switched off.
    wanted -= {"configregistry_webhook_certificate_expiration_timestamp_seconds"}
    if name == "run":
        told_as_sums = {"registry_load_duration_seconds", "configregistry_consumers"}
        wanted -= {metric.name for metric in DEFINED if metric.each} - told_as_sums
    for accept in ("text/plain", OPENMETRICS):
        found = {found for found in families(scene, name, accept) if not found.startswith("process_")}
        assert found == wanted


def test_prometheus_stores_the_same_of_both_formats(scene: Scene) -> None:
    def stored(job: str) -> set[frozenset[tuple[str, str]]]:
        found = scene.prometheus.query(f'{{job="{job}",__name__!~"scrape_.*"}}')
        return {frozenset((k, v) for k, v in each["metric"].items() if k not in {"job", "instance"}) for each in found}

    wait(lambda: stored(JOB) == stored(TEXT_JOB), lambda: str(stored(JOB) ^ stored(TEXT_JOB)))
    assert len(stored(JOB)) > 200


def test_nothing_that_a_client_sends_becomes_a_label(scene: Scene) -> None:
    for name in SIDES:
        assert MARK not in scene.text(name).lower()
    told = scene.text("serve")
    assert 'version="other",status="ok"' in told


def test_each_label_has_values_that_are_known(scene: Scene) -> None:
    listed: dict[str, set[str]] = {
        "namespace": {scene.namespace},
        "registry": {"checkout", "slow", "gone"},
        "check": {"alive"},
        "variant": {"stable", "canary"},
        "status": {"ok", "error", "none"},
        "stage": set(STAGES),
        "component": {"serve"},
        "verdict": {"Pass", "Fail", "Error", "NoData"},
        "env": {"test"},
        "cluster": {"one"},
    }
    seen: set[str] = set()
    for name in SIDES:
        for family in families(scene, name).values():
            metric = METRICS.get(family.name) or METRICS.get(f"{family.name}_total")
            for label, value in {pair for each in family.samples for pair in each.labels.items() if metric}:
                assert metric is not None
                seen.add(label)
                if metric.rows:
                    assert value in {row[metric.labels.index(label)] for row in metric.rows}, (family.name, value)
                elif label == "reason":
                    assert value in REASONS
                elif label == "code":
                    assert 100 <= int(value) < 600
                elif label == "version" and family.name == "configregistry_consumers":
                    assert value in {"1", "2", "other"}
                elif label in listed:
                    assert value in listed[label], (family.name, label, value)
                else:
                    assert label in {"le", "version"}, (family.name, label)
    assert seen - {"le"} == LABELS.keys() - {"key"}


def test_without_series_for_each_registry_none_is_named(scene: Scene) -> None:
    assert "checkout" not in scene.text("run")
    assert 'registry="checkout"' in scene.text("serve")


def test_one_leads_and_says_where_registries_stand(scene: Scene) -> None:
    value = scene.prometheus.query
    assert [float(each["value"][1]) for each in value(f'sum(configregistry_leader{{job="{JOB}"}})')] == [1]
    (rolled_back,) = scene.prometheus.wait_for(f'configregistry_not_ready{{job="{JOB}",registry="checkout"}}')
    (waiting,) = scene.prometheus.wait_for(f'configregistry_not_ready{{job="{JOB}",registry="slow"}}')
    assert (rolled_back["metric"]["reason"], waiting["metric"]["reason"]) == ("RolledBack", "Paused")
    scene.prometheus.wait_for(f'configregistry_rollouts_total{{job="{JOB}",result="RolledBack"}} == 1')
    scene.prometheus.wait_for(f'configregistry_checks_total{{job="{JOB}",check="alive",verdict="Fail"}} > 0')
    scene.prometheus.wait_for(f'sum(configregistry_snapshot_bytes{{job="{JOB}"}}) > 0')
    scene.prometheus.wait_for(f'sum(configregistry_api_requests_total{{job="{JOB}",verb="WATCH",result="2xx"}}) > 2')


def test_an_alert_fires_where_it_should(scene: Scene) -> None:
    (fired,) = scene.prometheus.query(rules()["ConfigRegistryRolledBack"]["expr"].replace("{", f'{{job="{JOB}",'))
    assert fired["metric"] == {"namespace": scene.namespace, "registry": "checkout"}
    for name, rule in rules().items():
        scene.prometheus.query(rule["expr"])  # an expression that Prometheus does not take is an HTTP error
        quiet = name not in {"ConfigRegistryRolledBack", "ConfigRegistryRolloutForgotten"}
        assert not quiet or not scene.prometheus.query(f"({rule['expr']}) and on () vector(1)"), name


@pytest.mark.parametrize(("title", "expression"), [*panels()], ids=lambda text: urllib.parse.quote(text)[:40])
def test_every_panel_of_the_dashboard_has_something_to_show(scene: Scene, title: str, expression: str) -> None:
    asked = filled(expression, JOB, "10s")
    if title in EMPTY:
        assert scene.prometheus.query(asked) == []
    elif title == "Rollbacks":
        scene.prometheus.query(asked)  # marks the minute in which it happened, and that may be over
    else:
        assert scene.prometheus.wait_for(asked)


async def test_series_of_a_registry_end_with_it(scene: Scene, client: Client) -> None:
    """The last, since it takes one away."""
    scene.prometheus.wait_for(f'{{job="{JOB}",registry="gone"}}')
    await client.delete("gone")
    wait(
        lambda: not scene.prometheus.query(f'{{job="{JOB}",registry="gone"}}'),
        lambda: str(scene.prometheus.query(f'{{job="{JOB}",registry="gone"}}')),
    )
    assert "gone" not in scene.text("serve")
