"""A node as a person or a script uses it: one that stays until it is ended, and one for the time of one command."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cluster.binaries import find_binaries
from tests.cluster.build import CERTS, CLIENT, COREDNS, NODE, PAUSE, ensure_built
from tests.cluster.errors import ClusterError
from tests.cluster.kubeconfig import kubectl_command
from tests.cluster.locks import exclusive
from tests.cluster.standing import DEFAULT_DIRECTORY

from .places import ENVIRONMENT
from .programs import find_ip, find_programs
from .sandbox import Sandbox, require_privileges

_BOOT = "tests.cluster.node.boot"
_KEPT_WITHIN = 120.0


def prepare() -> None:
    """Build and get all that a node needs; inside of one there is no network to get it by."""
    require_privileges()
    for program in (CERTS, PAUSE, CLIENT, COREDNS, NODE):
        ensure_built(program)
    find_binaries()
    find_programs()
    find_ip()


def entered(sandbox: Sandbox, command: Sequence[str]) -> list[str]:
    """Return the command line by which this one runs inside, with a kubeconfig, kubectl and ctr at hand."""
    kubeconfig = sandbox.cluster_directory / "admin.kubeconfig"
    given = json.loads((sandbox.cluster_directory / ENVIRONMENT).read_text())
    return sandbox.command(command, environment={**given, "KUBECONFIG": str(kubeconfig)})


def boot(sandbox: Sandbox, archives: Sequence[Path] = ()) -> None:
    """Start the cluster inside, unless it runs, and load these images."""
    told = [str(archive.absolute()) for archive in archives]
    if subprocess.run(sandbox.command([sys.executable, "-m", _BOOT, *told]), check=False).returncode:
        message = "the node did not start, or an image could not be loaded; what it said is above"
        raise ClusterError(message)


def keep(sandbox: Sandbox, directory: Path) -> None:
    """Write there what is to be seen of it: events, objects, all logs. What cannot be had is said, and no error."""
    command = sandbox.command([sys.executable, "-m", _BOOT, "--keep", str(directory)])
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, check=False, timeout=_KEPT_WITHIN)


@contextlib.contextmanager
def passing(archives: Sequence[Path] = ()) -> Iterator[Sandbox]:
    """Give a node that is ready, has these images, and ends with the block, or with this process."""
    prepare()
    with Sandbox() as sandbox:
        boot(sandbox, archives)
        yield sandbox


class StandingNode:
    """The node of one directory: there until it is ended."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self._directory = directory.absolute() / "node"
        self._lock = directory.absolute() / "node.lock"

    def up(self) -> str:
        """Start it unless it is up; return what has come of it."""
        prepare()
        with exclusive(self._lock, when_busy=self._say_busy):
            left = Sandbox.open(self._directory)
            if left is not None and left.alive():
                return f"already running; enter it with {self._how()}"
            self._down()
            sandbox = Sandbox(self._directory, detached=True)
            sandbox.start()
            try:
                boot(sandbox)
            except BaseException:
                sandbox.end()
                raise
        return f"ready; enter it with {self._how()}"

    def down(self) -> str:
        """End it with all that runs in it; return what has come of it."""
        with exclusive(self._lock, when_busy=self._say_busy):
            return "stopped" if self._down() else "not running"

    def status(self) -> tuple[bool, str]:
        """Tell whether it can be entered, and describe it."""
        sandbox = Sandbox.open(self._directory)
        if sandbox is None or not sandbox.alive():
            return False, "not running"
        kubectl = self.kubectl(["get", "nodes,pods", "--all-namespaces", "--output=wide"])
        shown = subprocess.run(kubectl, capture_output=True, text=True, check=False)
        return shown.returncode == 0, (shown.stdout + shown.stderr).strip()

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line by which this one runs inside."""
        sandbox = Sandbox.open(self._directory)
        if sandbox is None:
            message = "no node is running; `python -m tests.cluster node up` starts one"
            raise ClusterError(message)
        return entered(sandbox, command)

    def kubectl(self, args: Sequence[str]) -> list[str]:
        """Return the command line of a kubectl that talks to it."""
        kubeconfig = self._directory / "cluster" / "admin.kubeconfig"
        return self.command([*kubectl_command(find_binaries()["kubectl"], kubeconfig), *args])

    def load(self, archives: Sequence[Path]) -> None:
        """Load image archives."""
        sandbox = Sandbox.open(self._directory)
        if sandbox is None:
            message = "no node is running; `python -m tests.cluster node up` starts one"
            raise ClusterError(message)
        boot(sandbox, archives)

    def _down(self) -> bool:
        left = Sandbox.open(self._directory)
        if left is not None:
            left.end()
        shutil.rmtree(self._directory, ignore_errors=True)
        return left is not None

    def _how(self) -> str:
        return "`python -m tests.cluster node exec -- bash` (KUBECONFIG is set inside)"

    def _say_busy(self) -> None:
        print(f"another command holds {self._lock}; waiting for it", file=sys.stderr, flush=True)
