"""Write kubeconfigs, and run kubectl with one of them and nothing of the user's.

A kubeconfig is written as JSON, which every reader of YAML reads. It holds its
keys inside, so it may be copied elsewhere, and is readable by its owner only.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from typing import TYPE_CHECKING

from .errors import ClusterError
from .ports import LOOPBACK
from .process import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NAME = "configregistry-test"


def certificate_user(certificate: Path, key: Path) -> dict[str, object]:
    """Return the credentials of a client certificate."""
    return {
        "client-certificate-data": _encoded(certificate.read_bytes()),
        "client-key-data": _encoded(key.read_bytes()),
    }


def loopback_cluster(port: int, authority: Path) -> dict[str, object]:
    """Return a kubeconfig's entry for an API server on a loopback port."""
    return {
        "server": f"https://{LOOPBACK}:{port}",
        "certificate-authority-data": _encoded(authority.read_bytes()),
    }


def write_kubeconfig(path: Path, *, cluster: Mapping[str, object], user: Mapping[str, object]) -> Path:
    """Write a kubeconfig with this cluster entry, this user entry and one context."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _NAME, "cluster": dict(cluster)}],
        "users": [{"name": _NAME, "user": dict(user)}],
        "contexts": [{"name": _NAME, "context": {"cluster": _NAME, "user": _NAME}}],
        "current-context": _NAME,
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps(content, indent=2) + "\n")
    return path


def kubectl_environment() -> dict[str, str]:
    """Return this process's environment without what would steer kubectl elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    # kubectl would also follow the user's aliases and default flags (kuberc).
    return {**kept, "KUBERC": "off"}


def kubectl_command(kubectl: Path, kubeconfig: Path) -> list[str]:
    """Return the beginning of each command line of kubectl.

    kubectl caches what an API server offers under its address. Another test
    cluster may have had the same port before, so each has a cache of its own.
    """
    cache = kubeconfig.parent / "kubectl-cache"
    return [str(kubectl), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}"]


def run_kubectl(
    kubectl: Path,
    kubeconfig: Path,
    args: Sequence[str],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl to its end; a failure is an error with all that it said, unless unchecked."""
    command = [*kubectl_command(kubectl, kubeconfig), *args]
    ended = subprocess.run(
        command,
        # Never this process's standard input: nobody is there to answer.
        input=stdin if stdin is not None else "",
        env=kubectl_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if check and ended.returncode != 0:
        said = (ended.stdout + ended.stderr).strip()
        message = f"kubectl {' '.join(args)} ended with {ended.returncode}: {said}"
        raise ClusterError(message)
    return ended


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
