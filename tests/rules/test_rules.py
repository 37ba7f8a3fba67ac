"""Alerts and dashboard: well made, tested, explained, and about metrics and values that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.rules import expressions
from tests.rules.expressions import ROOT, RULES, grouped_by, matchers_of, metrics_of, panels, rules
from tests.rules.promtool import promtool

from configregistry.telemetry.names import METRICS, REASONS

TESTS = sorted((ROOT / "tests" / "rules").glob("*.yaml"))
TARGET = {"job", "instance", "pod"}
"""Labels that scraping adds; `namespace` is added where a metric has none of its own."""
ALERTS = rules()
ASKED = [(f"alert {name}", rule["expr"]) for name, rule in ALERTS.items()] + [*panels()]


def test_promtool_takes_the_rules() -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_and_stays_quiet_as_its_tests_say() -> None:
    promtool("test", "rules", *TESTS)


def test_each_alert_is_tested_both_ways() -> None:
    fires, quiet = set[str](), set[str]()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for asked in test["alert_rule_test"]:
                (fires if asked["exp_alerts"] else quiet).add(asked["alertname"])
    assert (fires, quiet) == (set(ALERTS), set(ALERTS))


def test_each_alert_has_a_paragraph_in_the_runbooks_and_each_paragraph_an_alert() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        paragraph = re.split(r"^#", text.partition(f"### {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        assert all(part in paragraph for part in ("*People see*:", "*Do*")), name


def test_each_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for name, rule in ALERTS.items():
        assert name.startswith("ConfigRegistry")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}


@pytest.mark.parametrize(("what", "expression"), ASKED)
def test_what_is_asked_for_exists(what: str, expression: str) -> None:
    names = metrics_of(expression)
    assert names <= METRICS.keys()
    for name, matcher in matchers_of(expression):
        metric = METRICS.get(name)
        if metric is None:  # of the process, or of Prometheus
            continue
        assert matcher.label in {*metric.labels, *TARGET}, (what, name, matcher)
        known: set[str] = set()
        if metric.rows and matcher.label in metric.labels:
            known = {row[metric.labels.index(matcher.label)] for row in metric.rows}
        elif matcher.label == "reason":
            known = set(REASONS)
        if known:
            # Whoever waits for a value that is never told waits for ever.
            assert set(matcher.values) <= known, (what, name, matcher)
    labels = {label for name in names for label in METRICS[name].labels}
    assert grouped_by(expression) <= {*labels, *TARGET, "namespace", "le"}, what


def test_every_metric_of_the_contract_is_on_the_dashboard() -> None:
    shown = {name for _, expression in panels() for name in metrics_of(expression)}
    unshown = METRICS.keys() - shown
    # One is the number of series of another, and one its share.
    assert unshown == {"configregistry_hot_keys", "configregistry_hot_key_slow_ratio", "configregistry_revision"}


def test_the_dashboard_is_one_for_grafana() -> None:
    whole = expressions.dashboard()
    assert (whole["uid"], whole["schemaVersion"]) == ("configregistry", 39)
    assert {each["name"] for each in whole["templating"]["list"]} == {"datasource", "job", "namespace", "registry"}
    identities = [panel["id"] for panel in whole["panels"]]
    assert len(identities) == len(set(identities))
    rows = [panel["title"] for panel in whole["panels"] if panel["type"] == "row"]
    assert rows == ["Rollouts", "Reads", "Watches", "Controller", "Memory"]
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        # It is told with the installation's own data source, whatever that is called.
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
        cells = _cells(panel["gridPos"])
        assert not cells & taken, panel["title"]
        taken |= cells


def _cells(place: dict[str, Any]) -> set[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    return {
        (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
    }
