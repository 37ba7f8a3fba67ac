"""Find the programs that a cluster is made of: built here, or brought along.

KUBEBUILDER_ASSETS is the convention of controller-runtime's envtest: a
directory with etcd and kube-apiserver, mostly also with kubectl, seldom with
kube-controller-manager. What it lacks is done without, never built: whoever
sets it wants exactly those binaries.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .build import KUBE, ensure_built
from .errors import ClusterError

REQUIRED = ("etcd", "kube-apiserver")


def find_binaries() -> dict[str, Path]:
    """Return the path of each program there is, by name; build them if need be."""
    configured = os.environ.get("KUBEBUILDER_ASSETS")
    if not configured:
        directory = ensure_built(KUBE)
        return {name: directory / name for name in KUBE.applets}
    assets = Path(configured).absolute()
    found = {name: assets / name for name in KUBE.applets if os.access(assets / name, os.X_OK)}
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        message = f"KUBEBUILDER_ASSETS={configured} has no executable {' and no '.join(missing)}"
        raise ClusterError(message)
    if "kubectl" not in found and (elsewhere := shutil.which("kubectl")):
        found["kubectl"] = Path(elsewhere)
    return found


def find_kubectl() -> Path:
    """Return a kubectl for a cluster that is not ours: the user's own, if there is one.

    Its credentials may need the plugins that the user's own kubectl knows.
    """
    if found := shutil.which("kubectl"):
        return Path(found)
    return find_binaries()["kubectl"]
