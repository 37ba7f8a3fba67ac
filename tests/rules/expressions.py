"""What the chart asks Prometheus: the alerts and the dashboard's panels, and what each expression looks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from configregistry.telemetry.names import METRICS

ROOT: Final = Path(__file__).parents[2]
FILES: Final = ROOT / "charts" / "configregistry" / "files"
RULES: Final = FILES / "rules.yaml"
DASHBOARD: Final = FILES / "dashboard.json"

_SELECTOR: Final = re.compile(r"([a-z_][a-z0-9_]*)\{([^}]*)\}")
_MATCHER: Final = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*')
_OURS: Final = re.compile(r"\b((?:configregistry|hot_reload|registry)_[a-z_]+)\b")
_GROUPED: Final = re.compile(r"\b(?:by|on|without) \(([^)]*)\)")


class Matcher(NamedTuple):
    """A label, and the values that are named."""

    label: str
    values: tuple[str, ...]


def rules() -> dict[str, dict[str, Any]]:
    """Each alert by its name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    """As Grafana reads it."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> Iterator[tuple[str, str]]:
    """The title of each panel, and each of its expressions; beside them those of annotations."""
    whole = dashboard()
    for panel in whole["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in whole["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], annotation["expr"]


def filled(expression: str, job: str, interval: str) -> str:
    """An expression of the dashboard with all of its variables set."""
    values = {"job": job, "namespace": ".*", "registry": ".*", "__rate_interval": interval}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


def metrics_of(expression: str) -> set[str]:
    """The metrics of ours that it looks at, as the table calls them."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    return {_family(name) for name in _OURS.findall(plain)}


def matchers_of(expression: str) -> Iterator[tuple[str, Matcher]]:
    """Each metric, and what is asked of one of its labels."""
    for name, inside in _SELECTOR.findall(expression):
        for label, _, value in _MATCHER.findall(inside):
            yield _family(name), Matcher(label, () if "$" in value else tuple(value.split("|")))


def grouped_by(expression: str) -> set[str]:
    """The labels that it groups by."""
    return {label.strip() for inside in _GROUPED.findall(expression) for label in inside.split(",") if label.strip()}


def _family(name: str) -> str:
    for suffix in ("_bucket", "_count", "_sum"):
        if name.removesuffix(suffix) in METRICS:
            return name.removesuffix(suffix)
    return name
