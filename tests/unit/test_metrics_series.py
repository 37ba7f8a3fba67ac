"""How many series there can be, whatever comes and goes and whatever clients send; and their text."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from configregistry.telemetry.counted import IDLE
from configregistry.telemetry.metrics import Metrics, Shown
from configregistry.telemetry.names import METRICS, MOST_CHECKS

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def series(metrics: Metrics) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """All that a scrape would store, but for the process's own."""
    return {
        (each.name, frozenset(each.labels.items()))
        for family in prometheus(metrics.expose("")[1].decode())
        for each in family.samples
        if not each.name.startswith("process_")
    }


def live(metrics: Metrics, number: int, consumers: list[tuple[str, str, int, str, int]]) -> str:
    """What a registry with a candidate and a stalled spec makes of itself."""
    name = f"registry-{number}"
    metrics.show("shop", name, Shown(31, 7, 8, 50, 3, 100))
    metrics.step("shop", name, 2)
    metrics.loaded("shop", name, 0.02)
    metrics.stand("shop", name, "ChecksPending")
    consumers += [("shop", name, version, status, 1) for version in (6, 7, 8) for status in ("ok", "error")] + [
        ("shop", name, 0, "none", 1)
    ]
    return name


def gone(metrics: Metrics, name: str, consumers: list[Any]) -> None:
    metrics.forget("shop", name)
    metrics.dismiss("shop", name)
    consumers[:] = [each for each in consumers if each[1] != name]


def made(**options: Any) -> tuple[Metrics, list[tuple[str, str, int, str, int]]]:
    metrics = Metrics(env="prod", cluster="one", **options)
    consumers: list[tuple[str, str, int, str, int]] = []
    metrics.count_consumers(lambda: consumers)
    metrics.lead(True, 1)
    return metrics, consumers


def test_series_per_registry_are_bounded_and_end_with_it() -> None:
    metrics, consumers = made()
    before = series(metrics)
    names = [live(metrics, number, consumers) for number in range(50)]
    while_there = series(metrics) - before
    # versions 2, revision, weight, step, load 10, not ready, consumers 7
    assert len(while_there) == 50 * (2 + 3 + 10 + 1 + 7)
    for name in names[1:]:
        gone(metrics, name, consumers)
    left = series(metrics) - before
    assert {dict(labels).get("registry") for _, labels in left} == {"registry-0"}
    gone(metrics, names[0], consumers)
    assert series(metrics) == before


def test_without_series_for_each_registry_their_number_changes_nothing() -> None:
    metrics, consumers = made(per_registry=False)
    live(metrics, 0, consumers)
    one = series(metrics)
    for number in range(1, 200):
        live(metrics, number, consumers)
    assert series(metrics) == one
    assert not any("registry" in dict(labels) for _, labels in one)
    assert metrics.registry.get_sample_value("configregistry_registries", {"reason": "ChecksPending"}) == 200


def test_consumers_that_claim_any_version_make_no_series() -> None:
    metrics, consumers = made()
    live(metrics, 0, consumers)
    before = series(metrics)
    consumers += [("shop", "registry-0", version, "ok", 1) for version in range(100, 10_000)]
    assert series(metrics) == before
    told = {"namespace": "shop", "registry": "registry-0", "status": "ok"}
    value = metrics.registry.get_sample_value
    assert value("configregistry_consumers", {**told, "version": "other"}) == 9_901
    assert value("configregistry_consumers", {**told, "version": "8"}) == 1


def test_a_reason_that_is_not_known_is_another_one() -> None:
    metrics, _ = made()
    for number in range(100):
        metrics.stand("shop", f"registry-{number}", f"Reason{number}")
    assert metrics.registry.get_sample_value("configregistry_registries", {"reason": "other"}) == 100


# Checks: their names come and go with the specs that have them.


class Probes:
    """Probes of checks, by names, at a time of the test's own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = Metrics(now=lambda: self.now)

    def make(self, name: str, verdict: str = "Pass") -> None:
        self.metrics.checks.labels(name, verdict).inc()

    def count(self, name: str, verdict: str = "Pass") -> Any:
        labels = {"check": name, "verdict": verdict}
        return self.metrics.registry.get_sample_value("configregistry_checks_total", labels)

    def names(self) -> set[str]:
        return {dict(labels)["check"] for name, labels in series(self.metrics) if name == "configregistry_checks_total"}


def test_there_is_room_for_so_many_checks_and_no_more() -> None:
    probes = Probes()
    for number in range(10 * MOST_CHECKS):
        probes.make(f"check-{number}", "Fail")
    assert probes.names() == {"other", *(f"check-{number}" for number in range(MOST_CHECKS))}
    assert probes.count("other", "Fail") == 9 * MOST_CHECKS
    assert (probes.count("check-0", "Fail"), probes.count("check-0", "Error")) == (1, 0)


def test_a_check_that_is_made_no_more_gives_its_place_to_another_one() -> None:
    probes = Probes()
    for number in range(MOST_CHECKS):
        probes.make(f"check-{number}")
    probes.now = IDLE - 1
    probes.make("check-0")
    probes.make("new")
    assert (probes.count("new"), probes.count("other")) == (None, 1)
    probes.now = IDLE
    probes.make("new")
    assert (probes.count("new"), probes.count("other")) == (1, 1)
    assert probes.count("check-1") is None
    assert probes.count("check-0") == 2
    assert len(probes.names()) == MOST_CHECKS + 1


def test_a_check_in_use_never_loses_its_place() -> None:
    probes = Probes()
    for round_ in range(5):
        probes.now = round_ * IDLE
        for number in range(MOST_CHECKS):
            probes.make(f"check-{number}")
        for number in range(MOST_CHECKS):
            probes.make(f"later-{number}")
    assert probes.names() == {"other", *(f"check-{number}" for number in range(MOST_CHECKS))}
    assert probes.count("check-7") == 5


def test_a_check_that_is_called_other_takes_no_place() -> None:
    probes = Probes()
    probes.make("other")
    for number in range(MOST_CHECKS):
        probes.make(f"check-{number}")
    assert probes.count("other") == 1
    assert len(probes.names()) == MOST_CHECKS + 1


# The text.


@pytest.mark.parametrize("odd", ['a"b\\', "c\nd", "é=,}", '"', "\\n", "a b"])
@pytest.mark.parametrize(("accept", "parse"), [("", prometheus), (OPENMETRICS, openmetrics)])
def test_the_text_says_what_the_library_would(odd: str, accept: str, parse: Callable[[str], Any]) -> None:
    metrics, consumers = made()
    metrics.show(odd, odd, Shown(31, 7, 8, 50, 3))
    metrics.step(odd, odd, 2)
    for seconds in (0.01, 0.02, 7.5):
        metrics.loaded(odd, odd, seconds)
    metrics.stand(odd, odd, "Baking")
    metrics.watch_hot_keys(lambda: [(odd, odd, odd, 2e6, 1 / 3)])
    consumers.append((odd, odd, 7, "ok", 1))

    def told(text: bytes) -> dict[str, Any]:
        return {
            family.name: (
                family.type,
                family.documentation,
                {(each.name, frozenset(each.labels.items())): each.value for each in family.samples},
            )
            for family in parse(text.decode())
            if not family.name.startswith("process_")
        }

    ours = told(metrics.expose(accept)[1])
    families = {family.name: family for family in metrics.registry.collect()}
    for name, (kind, documentation, samples) in ours.items():
        assert (kind, documentation) == (families[name].type, families[name].documentation)
        theirs = {(each.name, frozenset(each.labels.items())): each.value for each in families[name].samples}
        assert samples == theirs, name
    assert ours.keys() == {name for name in families if not name.startswith("process_")}


def test_openmetrics_ends_once_and_last() -> None:
    metrics, consumers = made()
    live(metrics, 0, consumers)
    text = metrics.expose(OPENMETRICS)[1]
    assert text.endswith(b"# EOF\n")
    assert text.count(b"# EOF") == 1
    assert b"EOF" not in metrics.expose("")[1]
    assert b"_created" not in text


def test_many_registries_cost_a_fraction_of_what_the_library_takes() -> None:
    metrics, _ = made()
    for number in range(2_000):
        live(metrics, number, [])
    began = time.thread_time()
    metrics.expose("")
    ours = time.thread_time() - began
    generate_latest(metrics.registry)
    # 0.025 s against 0.25 s; processor time, so that a busy machine changes little.
    assert ours < (time.thread_time() - began - ours) / 3


def test_counters_are_told_before_anything_is_counted() -> None:
    # An alert on increase() would not see the first error of a series that begins with it.
    value = Metrics().registry.get_sample_value
    for metric in METRICS.values():
        for row in metric.rows:
            assert value(metric.name, dict(zip(metric.labels, row, strict=True))) == 0
