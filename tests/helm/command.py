"""Run Helm with a test cluster's credentials and nothing of the user's.

It must never read the user's kubeconfig, plugins or list of repositories.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.servers.debian import cache_directory

from .building import HelmError, ensure_helm

CHARTS: Final = REPOSITORY / "charts"
CHART: Final = CHARTS / "configregistry"
CRDS_CHART: Final = CHARTS / "configregistry-crds"
_WITHIN: Final = 300.0


class Helm:
    """The program; without a cluster it can lint and render."""

    def __init__(self, kubeconfig: Path | None = None) -> None:
        self._program = ensure_helm()
        self._kubeconfig = kubeconfig

    @classmethod
    def of(cls, cluster: KubeCluster) -> Helm:
        """As the administrator of a cluster."""
        return cls(cluster.kubeconfig)

    def run(
        self, *arguments: str | Path, values: Mapping[str, Any] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; `values` are given as a file. A failure is an error with all that it said, if `check`."""
        given = [str(each) for each in arguments]
        if values is not None:
            given.append("--values=-")
        ended = subprocess.run(
            [self._program, *given],
            input="" if values is None else json.dumps(values),  # JSON is YAML
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN,
        )
        if check and ended.returncode != 0:
            raise HelmError(f"helm {' '.join(given)} ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
        return ended

    def template(
        self,
        chart: Path = CHART,
        *arguments: str,
        values: Mapping[str, Any] | None = None,
        release: str = "configregistry",
        namespace: str = "default",
    ) -> list[dict[str, Any]]:
        """The objects that an installation would make."""
        told = self.run("template", release, chart, f"--namespace={namespace}", *arguments, values=values).stdout
        return [each for each in yaml.safe_load_all(told) if each]

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "KUBECONFIG" and not name.startswith(("HELM_", "KUBERNETES_"))
        }
        # A place of its own for plugins, repositories and caches: nothing of the user's is found there.
        home = cache_directory("helm") / "home"
        places = {f"HELM_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        return {**kept, **places, "KUBECONFIG": str(self._kubeconfig or os.devnull)}
