"""The text of metrics that have thousands of series, as Prometheus's text format and OpenMetrics both write it.

Why: prometheus_client makes an object with a dict for each sample; 10,000 registries are 110,000 samples, and a
scrape of them took 1.5 s of processor, which reads have to wait for. This makes strings only, and makes them in
pieces, so that no single step of it holds the interpreter's lock for long.

Only gauges and histograms: counters are called differently in the two formats. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric as Whole
from prometheus_client.utils import floatToGoString

from configregistry.telemetry.names import Kind, Metric

PIECE: Final = 500
"""Rows whose text is made at once: a millisecond or two."""

Values = tuple[str, ...]
"""Of the labels, in the order of their names."""


class Spread(NamedTuple):
    """A histogram's observations: how many between two bounds, and the sum of all."""

    counts: Sequence[int]
    total: float


class Family(NamedTuple):
    """All series of one metric."""

    metric: Metric
    rows: Iterable[tuple[Values, float | Spread]]


def lines(family: Family) -> Iterator[bytes]:
    """The text of a family, piece by piece."""
    metric = family.metric
    yield f"# HELP {metric.name} {metric.text}\n# TYPE {metric.name} {metric.kind.value}\n".encode()
    rows = iter(family.rows)
    make = _spreads if metric.kind is Kind.HISTOGRAM else _numbers
    while some := list(islice(rows, PIECE)):
        yield "".join(make(metric, some)).encode()


def whole(family: Family) -> Whole:
    """The same as prometheus_client has it: for whoever looks for one sample."""
    metric = family.metric
    made = Whole(metric.name, metric.text, metric.kind.value)
    for values, value in family.rows:
        labels = dict(zip(metric.labels, values, strict=True))
        if isinstance(value, Spread):
            for bound, count in zip(bounds(metric), accumulate(value.counts), strict=True):
                made.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
            made.add_sample(f"{metric.name}_count", labels, sum(value.counts))
            made.add_sample(f"{metric.name}_sum", labels, value.total)
        else:
            made.add_sample(metric.name, labels, value)
    return made


def bounds(metric: Metric) -> tuple[str, ...]:
    """The values of `le`."""
    return (*map(floatToGoString, metric.buckets), "+Inf")


def _numbers(metric: Metric, rows: Sequence[tuple[Values, float | Spread]]) -> Iterator[str]:
    name, labels = metric.name, metric.labels
    for values, value in rows:
        assert not isinstance(value, Spread)
        place = _place(labels, values)
        yield f"{name}{{{place}}} {_number(value)}\n" if place else f"{name} {_number(value)}\n"


def _spreads(metric: Metric, rows: Sequence[tuple[Values, float | Spread]]) -> Iterator[str]:
    name, labels, uppers = metric.name, metric.labels, bounds(metric)
    for values, value in rows:
        assert isinstance(value, Spread)
        place = _place(labels, values)
        head = f"{name}_bucket{{{place},le=" if place else f"{name}_bucket{{le="
        counted = 0
        for upper, count in zip(uppers, value.counts, strict=True):
            counted += count
            yield f'{head}"{upper}"}} {counted}\n'
        place = f"{{{place}}}" if place else ""
        yield f"{name}_count{place} {counted}\n{name}_sum{place} {_number(value.total)}\n"


def _place(labels: Sequence[str], values: Values) -> str:
    # An empty value is the same as no label, and shorter.
    return ",".join([f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True) if value])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text
