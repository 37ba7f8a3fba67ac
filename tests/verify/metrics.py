"""The tables of docs/metrics.md, from the table that the metrics are made from."""

from __future__ import annotations

from configregistry.telemetry.names import BOTH, DEFINED, LABELS, Metric, Side

_BY = {Side.DECIDES: "controller", Side.SERVES: "serve", BOTH: "both"}


def metrics() -> str:
    """One row for each metric."""
    lines = ["| name | type | labels | told by | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{metric.name}` | {metric.kind.value} | {_labels(metric)} | {_BY[metric.side]} | {_meaning(metric)} |"
        for metric in DEFINED
    ]
    return "\n".join(lines) + "\n"


def labels() -> str:
    """One row for each label."""
    lines = ["| label | values |", "| --- | --- |"]
    lines += [f"| `{label}` | {values} |" for label, values in sorted(LABELS.items())]
    return "\n".join(lines) + "\n"


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels)


def _meaning(metric: Metric) -> str:
    told = metric.text
    if metric.rows and len(metric.labels) == 1:
        told += f" ({', '.join(f'`{value}`' for (value,) in metric.rows)})"
    elif metric.rows:
        columns = [dict.fromkeys(column) for column in zip(*metric.rows, strict=True)]
        lists = [
            f"{label} {', '.join(f'`{value}`' for value in column)}"
            for label, column in zip(metric.labels, columns, strict=True)
        ]
        told += f" ({'; '.join(lists)})"
    if metric.buckets:
        told += f"; buckets {', '.join(f'{bound:g}' for bound in metric.buckets)}"
    return told
