"""What the story needs around it, brought up before and ended after, whatever happens in between.

What was there before is left as it was found: a standing cluster goes on standing, CRDs that an
external cluster had stay. What the demo made goes away, in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.cluster import ClusterError, ExternalCluster
from tests.cluster.external import external_is_chosen
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import Process, spawn
from tests.cluster.standing import DEFAULT_DIRECTORY, REPOSITORY, StandingCluster
from tests.demo.kubectl import Kubectl, KubectlError
from tests.demo.screen import Screen

CRD = "crd/configregistries.configregistry.dev"
_RESOURCE = "configregistries.configregistry.dev"
_TAIL = 25
_GRACE = 15.0
_POLL = 0.05


class SurroundingsError(Exception):
    """Something that the story needs could not be brought up."""


@dataclass(frozen=True)
class Place:
    """The cluster that is used."""

    program: Path
    kubeconfig: Path
    exports: str
    """What a person types to use it."""
    stays: bool
    """Whether it outlives the demo."""
    external: bool = False


@contextmanager
def cluster(screen: Screen) -> Iterator[Place]:
    """Find the cluster or start it; end it only if it was started here."""
    if external_is_chosen():
        with ExternalCluster() as found:
            screen.say(f"cluster: {found.server}, the one of KUBECONFIG")
            yield Place(found.kubectl_path, found.kubeconfig, "", stays=True, external=True)
        return
    directory = Path(os.environ.get("DEMO_CLUSTER") or DEFAULT_DIRECTORY)
    standing = StandingCluster(directory)
    stood, _ = standing.status()
    if stood and not (directory / "state").exists():
        raise SurroundingsError(
            f"{os.path.relpath(standing.kubeconfig)} is of a cluster that is not ours: CLUSTER=external uses it, "
            "`make cluster-down` forgets it"
        )
    if not stood:
        screen.say("cluster: starting etcd, kube-apiserver, kube-controller-manager (the first time builds them)")
    try:
        screen.say(f"cluster: {standing.up()}")
        exports = f'export KUBECONFIG="{_typed(standing.kubeconfig)}" PATH="{_typed(standing.kubectl.parent)}:$PATH"'
        yield Place(standing.kubectl, standing.kubeconfig, exports, stays=stood)
    finally:
        if not stood:
            screen.say(f"cluster: {standing.down()}")


@asynccontextmanager
async def resources(screen: Screen, kubectl: Kubectl, place: Place) -> AsyncIterator[None]:
    """Install the CRDs. On somebody's cluster they go away again if they came with the demo and nobody uses them."""
    had = await _exists(kubectl, CRD)
    screen.command("kubectl apply --server-side -f crds/")
    crds = str(REPOSITORY / "crds")
    screen.output(await kubectl.run("apply", "--server-side", f"--filename={crds}"))
    await kubectl.run("wait", "--for=condition=Established", CRD, "--timeout=30s")
    try:
        yield
    finally:
        if place.external and not had:
            with contextlib.suppress(KubectlError):
                if not (await kubectl.json("get", _RESOURCE, "--all-namespaces"))["items"]:
                    await kubectl.run("delete", CRD, "--timeout=30s")


@asynccontextmanager
async def namespace(screen: Screen, kubectl: Kubectl, place: Place) -> AsyncIterator[str]:
    """Make a fresh namespace; unless its cluster ends anyway, delete it and wait until it is gone."""
    name = f"demo-{secrets.token_hex(3)}"
    try:
        screen.command(f"kubectl create namespace {name}")
        screen.output(await kubectl.run("create", "namespace", name))
        yield name
    finally:
        if place.stays:
            try:
                await kubectl.run("delete", "namespace", name, "--ignore-not-found", "--timeout=90s", within=100)
            except KubectlError as error:
                screen.say(f"namespace {name} is not gone: {error}", "red")


class Program:
    """A process of the demo's own with its log."""

    def __init__(self, what: str, log: Path, process: Process) -> None:
        self.what = what
        self.log = log
        self._process = process
        self._wanted = True

    def ended(self) -> str | None:
        """Tell that it has ended by itself, and its last words; None while it runs."""
        if not self._wanted or self._process.alive():
            return None
        child = self._process.child
        code = child.returncode if child is not None else None
        return f"the {self.what} has ended by itself (exit code {code}); {self.tail()}"

    def tail(self) -> str:
        """Give the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(
            [f"the last lines of {os.path.relpath(self.log)}:", *(f"  {line}" for line in lines[-_TAIL:] or ["(none)"])]
        )

    def kill(self) -> None:
        """End it as a crash would. Its end counts as one that it made by itself."""
        self._process.end(grace=0)

    async def end(self) -> None:
        """Ask it to end, and wait until it has."""
        self._wanted = False
        await asyncio.to_thread(self._process.end, grace=_GRACE)


@asynccontextmanager
async def program(what: str, directory: Path, *arguments: str) -> AsyncIterator[Program]:
    """Run a Python module until the end of the block; it is killed if the demo itself is."""
    log = directory / f"{what}.log"
    kept = {
        name: value
        for name, value in os.environ.items()
        # Neither flags of the operator from the user's environment nor a pod's identity.
        if not name.startswith(("CONFIGREGISTRY_", "KUBERNETES_")) and name != "KUBECONFIG"
    }
    process = spawn(
        [sys.executable, "-m", *arguments],
        log=log,
        pid_file=directory / f"{what}.pid",
        directory=REPOSITORY,
        environment={**kept, "PYTHONPATH": str(REPOSITORY / "operator"), "PYTHONUNBUFFERED": "1"},
        detached=False,
    )
    running = Program(what, log, process)
    try:
        yield running
    finally:
        await running.end()


async def answering(url: str, running: Program, *, within: float = 60.0) -> None:
    """Wait until a program answers 200."""
    deadline = asyncio.get_running_loop().time() + within
    last = "no answer yet"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while True:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
                    last = f"status {answer.status}: {(await answer.text()).strip()}"
            except (aiohttp.ClientError, TimeoutError) as error:
                last = f"{type(error).__name__}: {error}"
            if ended := running.ended():
                raise SurroundingsError(ended)
            if asyncio.get_running_loop().time() >= deadline:
                what = f"the {running.what} did not answer 200 at {url} within {within:g} s"
                raise SurroundingsError(f"{what}; last: {last}; {running.tail()}")
            await asyncio.sleep(_POLL)


@dataclass(frozen=True)
class Addresses:
    """Where things listen: free ports of loopback."""

    api: int
    probes: int
    shop: int

    @property
    def url(self) -> str:
        """The operator's HTTP API."""
        return f"http://{LOOPBACK}:{self.api}"

    @property
    def readyz(self) -> str:
        """Whether the operator is ready."""
        return f"http://{LOOPBACK}:{self.probes}/readyz"

    @property
    def shop_url(self) -> str:
        """The shop's own endpoints."""
        return f"http://{LOOPBACK}:{self.shop}"


def addresses() -> Addresses:
    """Pick them."""
    try:
        return Addresses(*pick_ports(3))
    except ClusterError as error:
        raise SurroundingsError(str(error)) from None


def _typed(path: Path) -> str:
    """Give a path as a person types it in this directory."""
    return f"$PWD/{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else str(path)


async def _exists(kubectl: Kubectl, what: str) -> bool:
    return bool(await kubectl.run("get", what, "--ignore-not-found", "--output=name"))
