"""The namespaces of a node: made, entered, ended, with everything that runs in them.

Nothing of a node is seen outside: its interfaces, rules, mounts and processes are in namespaces whose first process
(inside.py) takes all others with it; and that one dies with whoever made them, unless it is detached. What the kernel
does not remove (cgroups, a directory) is removed by `end`, or by the next start.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.cluster.errors import ClusterError
from tests.cluster.leftovers import OWNER_FILE
from tests.cluster.process import Identity, Process, identify, own_identity, read_identity, spawn, write_private
from tests.cluster.waiting import wait_for

from . import cgroups
from .places import ADDRESS, BRIDGE, DNS, PREFIX_LENGTH, SERVICES, VARIABLE
from .programs import find_ip

if TYPE_CHECKING:
    from types import TracebackType

PREFIX: Final = "configregistry-node-"
_INSIDE: Final = Path(__file__).with_name("inside.py")
_NAMESPACES: Final = ("--mount", "--net", "--pid", "--ipc", "--uts")
_STATE: Final = "sandbox.json"
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_CHROOT": 18, "CAP_SYS_ADMIN": 21}


class Sandbox:
    """One set of namespaces, and its directory."""

    def __init__(self, directory: Path | None = None, *, detached: bool = False) -> None:
        """Name it; without a directory, in a temporary one of its own. Nothing is made yet."""
        self._given = directory.absolute() if directory else None
        self._detached = detached
        self._directory = self._given
        self._holder: Process | None = None
        self._first: Identity | None = None

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """Return what another process started there, or its remains; None without any."""
        if not (directory / _STATE).exists():
            return None
        sandbox = cls(directory, detached=True)
        if holder := read_identity(sandbox._pid_file("holder")):
            sandbox._holder = Process(holder)
        sandbox._first = read_identity(sandbox._pid_file("first"))
        return sandbox

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def directory(self) -> Path:
        assert self._directory is not None, "it has been started"
        return self._directory

    @property
    def cluster_directory(self) -> Path:
        return self.directory / "cluster"

    @property
    def cgroup(self) -> str:
        return str(json.loads((self.directory / _STATE).read_text())["cgroup"])

    def start(self) -> None:
        """Make the namespaces and return when they can be entered."""
        require_privileges()
        try:
            self._make_directory()
            cgroups.make(self.cgroup)
            self._start()
        except BaseException:
            self.end()
            raise

    def alive(self) -> bool:
        """Tell whether it can be entered."""
        return self._first is not None and self._first.alive()

    def command(self, command: Sequence[str], *, environment: dict[str, str] | None = None) -> list[str]:
        """Return the command line by which this one runs inside, in the current directory."""
        if self._first is None or not self._first.alive():
            message = f"the node of {self.directory} is not running"
            raise ClusterError(message)
        given = {VARIABLE: str(self.cluster_directory), **(environment or {})}
        variables = [f"{name}={value}" for name, value in given.items()]
        entered = ["nsenter", f"--target={self._first.pid}", *_NAMESPACES, "--"]
        return [*entered, "env", f"--chdir={Path.cwd()}", *variables, *command]

    def end(self) -> None:
        """End every process inside, and remove what the kernel leaves; again does nothing."""
        if self._directory is None or not self._directory.exists():
            return
        if self._holder is None and (holder := read_identity(self._pid_file("holder"))):
            self._holder = Process(holder)  # a start that was interrupted half-way
        # First the one that cannot refuse: with it ends all that is inside, and with that the other.
        for process in (Process(self._first) if self._first else None, self._holder):
            if process is not None:
                process.end(grace=0)
        self._holder = self._first = None
        if (self._directory / _STATE).exists():
            cgroups.remove(self.cgroup)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = self._given

    def _make_directory(self) -> None:
        if self._given is None:
            sweep()
            self._directory = Path(tempfile.mkdtemp(prefix=PREFIX))
            own_identity().write(self._directory / OWNER_FILE)
        else:
            self._given.mkdir(mode=0o700, parents=True)
        for name in ("pids", "logs"):
            (self.directory / name).mkdir()
        # Before there is anything to clean up, what its name is.
        state = {"cgroup": f"{PREFIX}{os.urandom(4).hex()}"}
        write_private(self.directory / _STATE, json.dumps(state) + "\n")

    def _start(self) -> None:
        log = self.directory / "logs" / "namespaces.log"
        unshare = ["unshare", *_NAMESPACES, "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"]
        address = f"{ADDRESS}/{PREFIX_LENGTH}"
        inside = [sys.executable, "-I", "-S", str(_INSIDE), str(self.directory), BRIDGE, address, SERVICES, DNS]
        ip = find_ip()
        searched = [str(ip.path.parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
        program = shutil.which(unshare[0])
        assert program is not None, "asked for by require_privileges"
        self._holder = spawn(
            [program, *unshare[1:], *inside],
            log=log,
            pid_file=self._pid_file("holder"),
            directory=self.directory,
            environment={**ip.environment, "PATH": os.pathsep.join(searched)},
            detached=self._detached,
        )
        holder = self._holder
        ready = self.directory / "ready"
        wait_for(lambda: ready.exists() or not holder.alive(), "the node's namespaces")
        first = _child_of(holder.identity.pid)
        if not ready.exists() or first is None:
            message = f"the node's namespaces cannot be made: {log.read_text().strip()}"
            raise ClusterError(message)
        self._first = first
        first.write(self._pid_file("first"))

    def _pid_file(self, name: str) -> Path:
        return self.directory / "pids" / f"{name}.json"


def require_privileges() -> None:
    """Raise `ClusterError` where a node cannot be, and say what to do instead."""
    lacking = []
    if sys.platform != "linux":
        lacking.append("Linux")
    elif os.geteuid() != 0:
        lacking.append("root")
    else:
        status = Path("/proc/self/status").read_text()
        effective = int(status.partition("CapEff:")[2].split()[0], 16)
        lacking += [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    lacking += [f"the program {name}" for name in ("unshare", "nsenter", "mount") if shutil.which(name) is None]
    if lacking:
        message = (
            f"a node of our own needs {', '.join(lacking)}, which this process lacks. Run it with sudo "
            "(sudo -E env PATH=$PATH make e2e), or choose CLUSTER=kind where Docker and kind are, or "
            "CLUSTER=external with KUBECONFIG"
        )
        raise ClusterError(message)


def sweep() -> None:
    """End and remove the temporary nodes whose owners are gone."""
    scope = own_identity().scope
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = read_identity(directory / OWNER_FILE)
        if owner is None or owner.scope != scope or owner.alive():
            continue
        if left := Sandbox.open(directory):
            left.end()


def _child_of(parent: int) -> Identity | None:
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:  # it has ended
            continue
        if f"\nPPid:\t{parent}\n" in text:
            return identify(int(status.parent.name))
    return None
