"""What is kept of a cluster when a test has failed: events, objects, the logs of pods. Never a Secret."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Final

from .errors import ClusterError
from .withpods import WithPods

# Secrets for what they are, events since they have a file of their own; the rest is never of interest, and long.
_LEFT_OUT: Final = (
    "secrets",
    "events",
    "events.events.k8s.io",
    "componentstatuses",
    "apiservices.apiregistration.k8s.io",
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
)


def keep(cluster: WithPods, directory: Path) -> None:
    """Write it all there; what cannot be had is said in its place, and never hides the failure."""
    directory.mkdir(parents=True, exist_ok=True)
    _keep(cluster, directory / "events.txt", "get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")
    _keep(cluster, directory / "pods.txt", "get", "pods,nodes", "--all-namespaces", "--output=wide")
    listed = _ask(cluster, "api-resources", "--verbs=list", "--output=name").split()
    kinds = ",".join(kind for kind in listed if kind not in _LEFT_OUT)
    if kinds:
        _keep(cluster, directory / "objects.yaml", "get", kinds, "--all-namespaces", "--output=yaml")
    with contextlib.suppress(ValueError):  # said in pods.txt
        for pod in json.loads(_ask(cluster, "get", "pods", "--all-namespaces", "--output=json"))["items"]:
            _keep_pod(cluster, directory / "logs", pod["metadata"]["namespace"], pod["metadata"]["name"], pod["status"])


def _keep_pod(cluster: WithPods, directory: Path, namespace: str, name: str, status: dict[str, object]) -> None:
    directory.mkdir(exist_ok=True)
    told = ("logs", f"--namespace={namespace}", name, "--all-containers", "--prefix", "--timestamps")
    _keep(cluster, directory / f"{namespace}_{name}.log", *told)
    containers = status.get("containerStatuses")
    if isinstance(containers, list) and any(each.get("restartCount") for each in containers):
        _keep(cluster, directory / f"{namespace}_{name}.previous.log", *told, "--previous")


def _keep(cluster: WithPods, file: Path, *args: str) -> None:
    file.write_text(_ask(cluster, *args))


def _ask(cluster: WithPods, *args: str) -> str:
    try:
        ended = cluster.kubectl(*args, check=False)
    except (ClusterError, subprocess.TimeoutExpired) as error:
        return f"kubectl {' '.join(args)}: {error}\n"
    return ended.stdout + ended.stderr
