"""etcd as a peer, loaded by its own client (`etcdload`, built once into the user's cache).

One member on the server's core, without TLS and without fsync: as fast as it can be.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.bench.product import SERVER_CORE, client_cores, cpu_seconds, resident_mib, starting_on
from tests.bench.world import say
from tests.cluster.build import KUBE, ensure_built
from tests.cluster.locks import exclusive
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import Process, spawn
from tests.servers.debian import cache_directory

SOURCES = Path(__file__).with_name("etcdload")
KEY = "/registry-1/key.1"
_FLAGS = ["-mod=readonly", "-buildvcs=false", "-trimpath"]


class Peer(NamedTuple):
    """An etcd that runs."""

    process: Process
    endpoint: str
    program: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.identity.pid

    def cpu(self) -> float:
        """Seconds of processor that it has used."""
        return cpu_seconds(self.pid)

    def resident(self) -> float:
        """Resident memory, in MiB."""
        return resident_mib(self.pid)

    def put(self, size: int) -> dict[str, Any]:
        """Write the key that is read and watched; `put`: nanoseconds of the wall clock when that was accepted."""
        return self._run("put", "-key", KEY, "-size", str(size))

    def range(self, seconds: float, *, connections: int, workers: int) -> dict[str, Any]:
        """Read the key as fast as it is answered: `rate`; `p50`, `p99`, the `client`'s processor a read in seconds."""
        counts = ["-connections", str(connections), "-workers", str(workers)]
        return self._run("range", "-key", KEY, *counts, "-seconds", f"{seconds:g}")

    def _run(self, command: str, *arguments: str) -> dict[str, Any]:
        with starting_on(client_cores()):
            told = subprocess.run(
                [self.program, command, "-endpoint", self.endpoint, *arguments],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
        found: dict[str, Any] = json.loads(told)
        return found


def load_program() -> Path:
    """Build what loads, if need be."""
    digest = hashlib.sha256("\0".join(_FLAGS).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    target = cache_directory("bench") / f"etcdload-{digest.hexdigest()[:20]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.with_name("etcdload.lock"), when_busy=lambda: say("another process builds etcdload")):
        if not target.exists():
            say("building etcdload (once)")
            draft = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
                command = ["go", "build", *_FLAGS, "-o", str(draft / "etcdload"), "."]
                subprocess.run(command, cwd=SOURCES, env=environment, check=True)
                (draft / "etcdload").rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


@contextmanager
def etcd(directory: Path) -> Iterator[Peer]:
    """Run etcd on the server's core."""
    program = load_program()
    home = directory / "etcd-peer"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    endpoint = f"{LOOPBACK}:{pick_ports(1)[0]}"
    arguments = [
        f"--data-dir={home / 'data'}",
        "--unsafe-no-fsync",
        "--log-level=error",
        f"--listen-client-urls=http://{endpoint}",
        f"--advertise-client-urls=http://{endpoint}",
        f"--listen-peer-urls=http://{LOOPBACK}:0",
    ]
    # Go makes itself at home on the cores that it is started on.
    with starting_on({SERVER_CORE}):
        process = spawn(
            [str(ensure_built(KUBE) / "etcd"), *arguments],
            log=home / "log",
            pid_file=home / "etcd.pid",
            directory=home,
            environment=dict(os.environ),
            detached=False,
        )
    try:
        yield Peer(process, endpoint, program)
    finally:
        process.end(grace=5.0)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def following(command: list[str | Path]) -> Iterator[Followers]:
    """Run `etcdload watch` or `etcdload sse` on the load's cores, until the context ends."""
    with (
        starting_on(client_cores()),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            followers = Followers(process.pid, process.stdout)
            followers.line()
            yield followers
        finally:
            process.stdin.close()
            process.wait(60)


class Followers:
    """Many watchers in one process."""

    def __init__(self, pid: int, told: IO[str]) -> None:
        self.pid = pid
        self._told = told

    def line(self) -> dict[str, Any]:
        """Give the next event that all have: `first`, `p50` and `last` in nanoseconds of the wall clock."""
        text = self._told.readline()
        if not text:
            raise RuntimeError("who follows has ended")
        found: dict[str, Any] = json.loads(text)
        return found
