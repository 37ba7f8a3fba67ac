"""Lives of the operator: each a process of its own, started in a tenth of a second, that kills itself where it is told.

    async with Zygote.of(directory) as zygote:
        lane = Lane(zygote, cluster, namespace, directory)
        life = await lane.begin([Target("good-0", "act.status.after", 3)])
        end = await life            # -9: it has died there

A kill is SIGKILL, sent by the process to itself at a failpoint, between two instructions of the product. What is
not real is the start: a life is forked from a process that has imported the modules (`crash_zygote`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY

from configregistry.failpoints import SWITCH

OPERATOR: Final = os.environ.get("CRASH_OPERATOR", str(REPOSITORY / "operator"))
"""The package that is killed; another one is how this suite is seen to fail."""
KILLED: Final = -signal.SIGKILL
_ZYGOTE: Final = Path(__file__).with_name("crash_zygote.py")


class Target(NamedTuple):
    """Where a life is to end: at the `hit`th time that a registry's work reaches a failpoint, over all lives."""

    registry: str
    """Empty: what is done for none, at the start."""
    name: str
    hit: int


class Zygote:
    """The process that forks."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._begun: asyncio.Queue[int] = asyncio.Queue()
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._one = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def of(cls, directory: Path) -> AsyncIterator[Self]:
        """Start it; all lives end with it."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CONFIGREGISTRY_", "KUBERNETES_")) and name != "KUBECONFIG"
        }
        with (directory / "zygote.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(_ZYGOTE),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env={**kept, "PYTHONPATH": OPERATOR},
            )
        zygote = cls(process)
        listening = asyncio.create_task(zygote._listen())
        try:
            yield zygote
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.wait()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await asyncio.gather(listening, return_exceptions=True)

    async def fork(
        self, arguments: list[str], environment: dict[str, str], log: Path
    ) -> tuple[int, asyncio.Future[int]]:
        """Begin a life; gives its pid, and how it ends."""
        asked = {"arguments": arguments, "environment": environment, "log": str(log)}
        assert self._process.stdin is not None
        async with self._one:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            await self._process.stdin.drain()
            pid = await self._begun.get()
        return pid, self._end(pid)

    def _end(self, pid: int) -> asyncio.Future[int]:
        return self._ends.setdefault(pid, asyncio.get_running_loop().create_future())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "ended" in told:
                self._end(told["pid"]).set_result(told["ended"])
            else:
                self._begun.put_nowait(told["pid"])


class Lane:
    """One namespace with its operator, one life after the other."""

    def __init__(self, zygote: Zygote, cluster: KubeCluster, namespace: str, directory: Path, *more: str) -> None:
        directory.mkdir(exist_ok=True)
        self.namespace = namespace
        self.log = directory / "operator.log"
        self.reached = Counter[tuple[str, str]]()
        """How often each registry's work has reached each place, over all lives."""
        self.order: list[tuple[str, str]] = []
        """The same, in order."""
        self.lives = 0
        self._zygote = zygote
        self._record = directory / "reached"
        self._read = 0
        self._arguments = [
            *("run", f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"),
            *("--port=0", "--probe-port=0", "--log-format=json", *more),
        ]
        self._pid = 0
        self._ended: asyncio.Future[int] | None = None

    async def begin(self, targets: Iterable[Target] = ()) -> asyncio.Future[int]:
        """Start a life that ends at the first of these that it comes to."""
        self.look()
        rules = [f"record={self._record}", *(self._rule(target) for target in targets)]
        self.lives += 1
        environment = {SWITCH: ",".join(rules)}
        self._pid, self._ended = await self._zygote.fork(self._arguments, environment, self.log)
        return self._ended

    async def end(self) -> None:
        """Kill the present life, if there is one."""
        if self._ended is not None and not self._ended.done():
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            await self._ended
        self.look()

    def look(self) -> tuple[str, str] | None:
        """Take what was written down since the last look; gives the last place."""
        if not self._record.exists():
            return None
        with self._record.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        self._read += len(lines)
        found = [(line.partition(" ")[2], line.partition(" ")[0]) for line in lines.decode().splitlines()]
        self.order += found
        self.reached.update(found)
        return found[-1] if found else None

    def _rule(self, target: Target) -> str:
        if not target.registry:
            return f"{target.name}=kill@{target.hit}"
        hit = max(1, target.hit - self.reached[target.registry, target.name])
        return f"{target.name}[{target.registry}]=kill@{hit}"

    @property
    def defects(self) -> list[str]:
        """What the log must not hold."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if "reconcile failed" in line or "Traceback" in line]
