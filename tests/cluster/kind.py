"""A cluster of kind's, for machines with a Docker engine and without root: started for one run, and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .errors import ClusterError
from .external import ExternalCluster
from .waiting import wait_for

VARIABLE: Final = "CONFIGREGISTRY_KIND"
"""Set for what uses it: its name. KUBECONFIG and CLUSTER=external are set too."""

_WITHIN: Final = 600.0
_READY_WITHIN: Final = 120.0


def usable() -> str:
    """Return why kind cannot be used here; nothing when it can."""
    missing = [name for name in ("docker", "kind") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} is not on PATH"
    answer = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    return "" if answer.returncode == 0 else f"Docker does not answer: {answer.stderr.strip()}"


@contextlib.contextmanager
def started(directory: Path) -> Iterator[dict[str, str]]:
    """Start one; yield the environment in which the tests find it; end it."""
    name = f"configregistry-{secrets.token_hex(3)}"
    kubeconfig = directory / "kind.kubeconfig"
    try:
        _run("kind", "create", "cluster", f"--name={name}", f"--kubeconfig={kubeconfig}", "--wait=180s", shown=True)
        yield {VARIABLE: name, "CLUSTER": "external", "KUBECONFIG": str(kubeconfig)}
    finally:
        _run("kind", "delete", "cluster", f"--name={name}", f"--kubeconfig={kubeconfig}", shown=True)


class KindCluster(ExternalCluster):
    """The one that this run started."""

    disturbable = True

    def __init__(self, name: str) -> None:
        """Use it by its name."""
        super().__init__()
        self._name = name

    @classmethod
    def here(cls) -> KindCluster | None:
        """Return the one that this process was started for; None without one."""
        name = os.environ.get(VARIABLE)
        return cls(name) if name else None

    def load_image(self, archive: Path) -> None:
        """Have kind import it."""
        _run("kind", "load", "image-archive", str(archive), f"--name={self._name}")

    def tag_image(self, name: str, further: str) -> None:
        """Tag it in the node's containerd."""
        self._inside("ctr", "--namespace=k8s.io", "images", "tag", "--force", name, further)

    def restart_kubelet(self) -> None:
        """Restart the node's service."""
        self._inside("systemctl", "restart", "kubelet")
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", f"--timeout={_READY_WITHIN:g}s", timeout=_WITHIN)

    def restart_api_server(self) -> None:
        """Stop its container, for the kubelet to start it again."""
        container = self._inside("crictl", "ps", "--name=kube-apiserver", "--quiet").strip()
        self._inside("crictl", "stop", container)

        def another_one_answers() -> bool:
            now = self._inside("crictl", "ps", "--name=kube-apiserver", "--quiet").strip()
            answer = self.kubectl("get", "--raw=/readyz", check=False)
            return now not in {"", container} and answer.returncode == 0

        wait_for(another_one_answers, "the API server to come back", timeout=_READY_WITHIN, interval=0.5)

    def kill_container(
        self, namespace: str, pod: str, container: str | None = None, signum: int = signal.SIGKILL
    ) -> None:
        """Signal its process in the node."""
        identity = self.container_id(namespace, pod, container)
        inspected = json.loads(self._inside("crictl", "inspect", "--output=json", identity))
        self._inside("kill", f"-{int(signum)}", str(inspected["info"]["pid"]))

    def keep_logs(self, directory: Path) -> None:
        """Have kind export them."""
        _run("kind", "export", "logs", str(directory), f"--name={self._name}")

    def _inside(self, *command: str) -> str:
        return _run("docker", "exec", f"{self._name}-control-plane", *command)


def _run(*command: str, shown: bool = False) -> str:
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
        timeout=_WITHIN,
    )
    if ended.returncode != 0:
        message = f"{' '.join(command)} ended with {ended.returncode}: {(ended.stderr or '').strip()}"
        raise ClusterError(message)
    return ended.stdout
