"""The texts of docs/gitops.md that users paste: taken from there, so that what is tested is what is written."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml
from tests.cluster.standing import REPOSITORY

PAGE: Final = REPOSITORY / "docs" / "gitops.md"
KEY: Final = "resource.customizations.health.configregistry.dev_ConfigRegistry"


def blocks() -> list[Any]:
    """Each YAML block of the page, read."""
    found = re.findall(r"^( *)```yaml\n(.*?)^ *```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(text) for _, text in found]


def lua() -> str:
    """Argo CD's health script."""
    (found,) = (block["data"][KEY] for block in blocks() if KEY in block.get("data", {}))
    assert isinstance(found, str)
    return found


def exprs() -> dict[str, str]:
    """Flux's expressions."""
    found = (each for block in blocks() for each in block.get("spec", {}).get("healthCheckExprs", ()))
    (one,) = (each for each in found if each["kind"] == "ConfigRegistry")
    return {name: one[name] for name in ("inProgress", "failed", "current") if name in one}
