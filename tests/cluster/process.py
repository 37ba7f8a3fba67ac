"""Processes that are told apart for certain, and signalled only when certain.

A pid alone names nobody: the kernel gives it to a stranger later. A pid with
the time at which its process started, within one boot and one pid namespace,
names one process for ever. Everything here signals by that identity and must
never signal a bare pid.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL = 0.01

# The kernel ties "kill it when the parent dies" to the thread that forked. All
# forks are made by this one thread, which lives as long as the interpreter,
# whichever (perhaps short-lived) thread asks for a restart.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cluster-forker")


@dataclass(frozen=True)
class Identity:
    """One process, never to be mistaken for another one with the same pid."""

    pid: int
    started: str
    scope: str

    def alive(self) -> bool:
        """Tell whether this very process still runs (a zombie does not)."""
        return identify(self.pid) == self

    def send(self, signum: int) -> bool:
        """Signal this very process; say whether it was there to be signalled."""
        if sys.platform != "linux":
            if not self.alive():
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)
            return True
        # The descriptor holds on to the process, whatever becomes of its pid
        # between the look at the identity and the signal.
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(descriptor, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def write(self, path: Path) -> None:
        """Record it in a pid file."""
        write_private(path, json.dumps(asdict(self)) + "\n")


def read_identity(path: Path) -> Identity | None:
    """Return what a pid file records; None when there is none, or nonsense in it."""
    try:
        recorded = json.loads(path.read_text())
        return Identity(int(recorded["pid"]), str(recorded["started"]), str(recorded["scope"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def identify(pid: int) -> Identity | None:
    """Return who has this pid now; None when nobody has, or only a zombie."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The second field is the program's name and may contain anything.
        fields = stat.rpartition(")")[2].split()
        state, started = fields[0], fields[19]
    else:
        shown = subprocess.run(
            ["ps", "-o", "state=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split(maxsplit=1)
        if not shown:
            return None
        state, started = shown[0], shown[1].strip()
    return None if state[0] in "ZX" else Identity(pid, started, _scope())


def own_identity() -> Identity:
    """Return who this process is."""
    identity = identify(os.getpid())
    assert identity is not None, "a process that asks is there"
    return identity


@functools.cache
def _scope() -> str:
    """Name what start times and pids are relative to: this boot and pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


@dataclass
class Process:
    """A component's process, started here or found in a pid file."""

    identity: Identity
    child: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Tell whether it runs; a child that ended is reaped on the way."""
        if self.child is not None and self.child.poll() is not None:
            return False
        return self.identity.alive()

    def end(self, *, grace: float) -> None:
        """Ask it to end, insist after the grace period, return when it is gone."""
        if grace > 0 and self.identity.send(signal.SIGTERM) and self._gone(within=grace):
            return
        self.identity.send(signal.SIGKILL)
        # Bounded all the same: a process in an uninterruptible sleep outlives
        # even this, and whoever waits had better hear of it.
        if not self._gone(within=30.0):
            message = f"process {self.identity.pid} does not end"
            raise ClusterError(message)

    def _gone(self, *, within: float) -> bool:
        deadline = time.monotonic() + within
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        if self.child is not None:
            self.child.wait()  # it may have ended between the two looks of alive()
        return True


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    pid_file: Path,
    directory: Path,
    environment: Mapping[str, str],
    detached: bool,
) -> Process:
    """Start a program in a session of its own; its pid file is there before it runs.

    Unless detached, it is killed when this interpreter ends.
    """
    return _forker.submit(
        _spawn,
        command,
        log=log,
        pid_file=pid_file,
        directory=directory,
        environment=environment,
        detached=detached,
    ).result()


def _spawn(
    command: Sequence[str],
    *,
    log: Path,
    pid_file: Path,
    directory: Path,
    environment: Mapping[str, str],
    detached: bool,
) -> Process:
    reader, writer = os.pipe()
    try:
        with log.open("ab") as output:
            parent = "0" if detached else str(os.getpid())
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(reader), parent, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[reader],
                cwd=directory,
                env=dict(environment),
                # Away from the terminal's Ctrl-C: whoever stops the tests still
                # needs the API server for the clean-up.
                start_new_session=True,
            )
        identity = identify(child.pid)
        if identity is None:
            message = f"{command[0]} ended before it began; see {log}"
            raise ClusterError(message)
        identity.write(pid_file)
        os.write(writer, b"g")
    finally:
        os.close(reader)
        os.close(writer)
    if detached:
        # It outlives this interpreter, which need not say so when it ends.
        child.returncode = 0
        return Process(identity)
    return Process(identity, child)


def write_private(path: Path, content: str) -> None:
    """Write a file that nobody else may read, at once or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    draft.replace(path)
