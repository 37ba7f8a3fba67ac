"""The standing cluster of a checkout: up, down, status.

It lives in one directory (`.cluster`), outlives the command that starts it,
and is found again by what is written there. `down` ends exactly the processes
that `up` started.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .binaries import find_kubectl
from .cluster import Cluster
from .errors import ClusterError
from .external import copy_current_context, external_is_chosen
from .kubeconfig import kubectl_command, kubectl_environment
from .locks import exclusive
from .process import write_private

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_DIRECTORY = REPOSITORY / ".cluster"


class StandingCluster:
    """The cluster of one directory."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        """Name the directory; nothing is made yet."""
        self._directory = directory.absolute()
        self._state = self._directory / "state"
        self._lock = self._directory / "lock"
        self.kubeconfig = self._directory / "kubeconfig"
        self.kubectl = self._directory / "bin" / "kubectl"

    def up(self) -> str:
        """Start it unless it is up; return what has come of it."""
        with exclusive(self._lock, when_busy=self._say_busy):
            if external_is_chosen():
                self._down()
                copy_current_context(self.kubeconfig)
                self._link(find_kubectl())
                return f"using the cluster of KUBECONFIG, copied to {self._shown()}"
            running = Cluster.open(self._state)
            if running and running.is_healthy():
                self._hand_out(running)  # somebody may have removed or replaced them
                return f"already running at {running.server}; kubeconfig: {self._shown()}"
            if self._state.exists():
                _say("found the remains of a cluster that is not well; starting afresh")
            self._down()
            began = time.monotonic()
            cluster = Cluster(self._state, detached=True)
            cluster.start()
            self._hand_out(cluster)
            took = time.monotonic() - began
            return f"ready at {cluster.server} after {took:.1f} s; kubeconfig: {self._shown()}"

    def down(self) -> str:
        """End what `up` started and remove what it wrote; return what has come of it."""
        if not self._directory.exists():
            return "not running"
        with exclusive(self._lock, when_busy=self._say_busy):
            return "stopped" if self._down() else "not running"

    def status(self) -> tuple[bool, str]:
        """Tell whether it can be used, and describe it."""
        running = Cluster.open(self._state)
        if running is None:
            if self.kubeconfig.exists():
                return True, f"a cluster of somebody else's; kubeconfig: {self._shown()}"
            return False, "not running"
        lines = [f"{name}: {state}" for name, state in running.describe().items()]
        lines += [f"address: {running.server}", f"kubeconfig: {self._shown()}"]
        return running.is_healthy(), "\n".join(lines)

    def exec_kubectl(self, args: Sequence[str]) -> None:
        """Become kubectl, talking to this cluster."""
        if not (self.kubeconfig.exists() and self.kubectl.exists()):
            message = "the cluster is not running, or its programs were removed; `make cluster-up` starts it"
            raise ClusterError(message)
        command = [*kubectl_command(self.kubectl, self.kubeconfig), *args]
        os.execve(command[0], command, kubectl_environment())

    def _down(self) -> bool:
        cluster = Cluster.open(self._state)
        if cluster is not None:
            cluster.stop()
        found = self._state.exists() or self.kubeconfig.exists() or cluster is not None
        for directory in (self._state, self.kubectl.parent, self._directory / "kubectl-cache"):
            shutil.rmtree(directory, ignore_errors=True)
        self.kubeconfig.unlink(missing_ok=True)
        return found

    def _hand_out(self, cluster: Cluster) -> None:
        write_private(self.kubeconfig, cluster.kubeconfig.read_text())
        self._link(cluster.kubectl_path)

    def _link(self, kubectl: Path) -> None:
        self.kubectl.parent.mkdir(parents=True, exist_ok=True)
        self.kubectl.unlink(missing_ok=True)
        self.kubectl.symlink_to(kubectl)

    def _shown(self) -> str:
        return os.path.relpath(self.kubeconfig)

    def _say_busy(self) -> None:
        _say(f"another command holds {self._lock}; waiting for it")


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
