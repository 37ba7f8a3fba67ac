"""Helm for the tests: built from its own sources once, and run against a test cluster alone.

helm = Helm.of(cluster)
helm.run("install", "configregistry", CHART, f"--namespace={namespace}")
"""

from .building import HelmError, ensure_helm
from .command import CHART, CHARTS, CRDS_CHART, Helm

__all__ = ["CHART", "CHARTS", "CRDS_CHART", "Helm", "HelmError", "ensure_helm"]
