"""The real operator as a process on a real API server, and a client that speaks as a person's kubectl would.

    async with Client.of(cluster, namespace) as client:
        with running(cluster, namespace, tmp_path) as operator:
            await client.apply("checkout", data={"a": 1})
            await client.until("checkout", ready)

Nothing here sleeps for a fixed time: everything is awaited by condition, with a deadline and the last status.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import Process, spawn
from tests.cluster.standing import REPOSITORY

from configregistry.kube.client import Api, connect
from configregistry.kube.failures import NotFound, Unavailable
from configregistry.kube.paths import CONFIGMAPS, EVENTS, REGISTRIES, REVISIONS

CRDS: Final = REPOSITORY / "crds"
WITHIN: Final = 60.0
"""Seconds for what takes one: the machine is shared."""
_POLL: Final = 0.05
_APPLY: Final = "application/apply-patch+yaml"

Status = dict[str, Any]
Condition = Callable[[Status], object]

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class InVainError(AssertionError):
    """A condition did not come; the message shows what was there last."""


def install_crd(cluster: KubeCluster) -> None:
    """Make the cluster know all kinds of this API; again does nothing."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")
    established = ("wait", "--for=condition=Established", f"--filename={CRDS}", "--timeout=30s")
    # Right after one was made it has no conditions at all, which kubectl takes for an error.
    wait(lambda: cluster.kubectl(*established, check=False).returncode == 0, lambda: "the CRDs to be established")


def wait(condition: Callable[[], object], what: Callable[[], str], within: float = WITHIN) -> None:
    """Wait in a test that is not asynchronous."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            raise InVainError(f"waited {within:g} s in vain: {what()}")
        time.sleep(_POLL)


@dataclass
class Operator:
    """One process of the operator; `kill` and `start` it as often as wanted."""

    arguments: tuple[str, ...]
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    probe_port: int = 0
    command: str = "run"
    starts: int = 0
    _process: Process | None = None

    @property
    def log(self) -> str:
        """What it has said so far, over all its lives."""
        path = self.directory / "operator.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The same, line by line."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def start(self, *, ready: bool = True) -> Self:
        """Start it; returns when /readyz says so."""
        if not self.port:
            self.port, self.probe_port = pick_ports(2)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CONFIGREGISTRY_", "KUBERNETES_")) and name != "KUBECONFIG"
        }
        ports = [f"--probe-port={self.probe_port}", "--log-format=json"]
        if self.command != "controller":
            ports.append(f"--port={self.port}")
        self.starts += 1
        self._process = spawn(
            [sys.executable, "-m", "configregistry", self.command, *ports, *self.arguments],
            log=self.directory / "operator.log",
            pid_file=self.directory / "operator.pid",
            directory=REPOSITORY,
            environment={**kept, "PYTHONPATH": str(REPOSITORY / "operator"), **self.environment},
            detached=False,
        )
        if ready:
            self.await_ready()
        return self

    def await_ready(self, within: float = WITHIN) -> None:
        """Wait for /readyz."""
        wait(lambda: self.get("/readyz") == 200 or not self.alive, lambda: self.log[-3000:], within)
        assert self.alive, self.log[-3000:]

    def get(self, path: str) -> int:
        """The status of a path of the probes' listener; 0 without an answer."""
        return self._code(path, self.probe_port)

    def _code(self, path: str, port: int = 0) -> int:
        with suppress(OSError):
            try:
                with _open(f"http://{LOOPBACK}:{port or self.port}{path}", timeout=5) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code
        return 0

    def metrics(self, name: str) -> dict[str, float]:
        """All series of a metric, by their labels as text."""
        with _open(f"http://{LOOPBACK}:{self.probe_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        series = (line.rpartition(" ") for line in lines if line.startswith(name) and not line.startswith("#"))
        return {key[len(name) :]: float(value) for key, _, value in series}

    def read(self, path: str) -> dict[str, Any]:
        """What a consumer reads. Content may come some milliseconds after the status that names it."""
        wait(lambda: self._code(path) != HTTPStatus.SERVICE_UNAVAILABLE, lambda: f"{path} to be served")
        with _open(f"http://{LOOPBACK}:{self.port}{path}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive()

    @property
    def pid(self) -> int:
        """Of the present process."""
        assert self._process is not None
        assert self._process.child is not None
        return self._process.child.pid

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.end(grace=0)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self, within: float = WITHIN) -> int:
        """Wait for its end; gives the exit code."""
        assert self._process is not None
        child = self._process.child
        assert child is not None
        wait(lambda: child.poll() is not None, lambda: self.log[-3000:], within)
        assert child.returncode is not None
        return child.returncode

    def restart(self) -> None:
        """Kill it and start it."""
        self.kill()
        self.start()


@contextmanager
def running(
    cluster: KubeCluster,
    namespace: str,
    directory: Path,
    *arguments: str,
    kubeconfig: Path | None = None,
    command: str = "run",
    start: bool = True,
    election: bool = False,
) -> Iterator[Operator]:
    """An operator that looks after one namespace: `run`, or one half of it.

    Without an election unless the test is about it: the Lease of one that was killed lasts for 15 s.
    """
    alone = () if election or command == "serve" else ("--no-leader-election",)
    given = (f"--kubeconfig={kubeconfig or cluster.kubeconfig}", f"--namespace={namespace}", *alone, *arguments)
    directory.mkdir(exist_ok=True)
    operator = Operator(given, directory, command=command)
    try:
        if start:
            operator.start()
        yield operator
    finally:
        operator.kill()


class Client:
    """What a person does with one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    @classmethod
    @asynccontextmanager
    async def of(cls, cluster: KubeCluster, namespace: str) -> AsyncIterator[Client]:
        """Connect as the administrator."""
        async with await connect(str(cluster.kubeconfig)) as api:
            yield cls(api, namespace)

    async def apply(self, name: str, manager: str = "test", **spec: Any) -> dict[str, Any]:
        """Server-side apply a spec; gives the object."""
        return await self.manifest(name, {"spec": spec}, manager)

    async def manifest(self, name: str, body: dict[str, Any], manager: str = "test") -> dict[str, Any]:
        """Server-side apply anything of a registry."""
        whole = {"apiVersion": "configregistry.dev/v1alpha1", "kind": "ConfigRegistry", **copy.deepcopy(body)}
        whole.setdefault("metadata", {})["name"] = name
        path = f"{REGISTRIES.path(self.namespace, name)}?fieldManager={manager}&force=true"
        found: dict[str, Any] = json.loads(await self.api.patch(path, json.dumps(whole).encode(), kind=_APPLY))
        return found

    async def command(self, name: str, verb: str, text: str) -> None:
        """Annotate a command."""
        await self.annotate(name, **{f"configregistry.dev/command-{verb}": text})

    async def annotate(self, name: str, **annotations: str | None) -> None:
        """Merge annotations."""
        body = json.dumps({"metadata": {"annotations": annotations}}).encode()
        await self.api.patch(REGISTRIES.path(self.namespace, name), body)

    async def patch_status(self, name: str, status: Any) -> None:
        """What no person should do."""
        body = json.dumps({"status": status}).encode()
        await self.api.patch(REGISTRIES.path(self.namespace, name, "status"), body)

    async def get(self, name: str) -> dict[str, Any] | None:
        """The object; None: absent."""
        try:
            found: dict[str, Any] = json.loads(await self.api.get(REGISTRIES.path(self.namespace, name)))
        except NotFound:
            return None
        return found

    async def status(self, name: str) -> Status:
        """Its status; empty where there is none."""
        found: Status = ((await self.get(name)) or {}).get("status", {})
        return found

    async def delete(self, name: str) -> None:
        """Delete a registry."""
        with suppress(NotFound):
            await self.api.delete(REGISTRIES.path(self.namespace, name))

    async def until(self, name: str, condition: Condition, within: float = WITHIN) -> Status:
        """Wait until a status fulfils a condition, and give it."""
        last: Status = {}

        async def met() -> bool:
            nonlocal last
            last = await self.status(name)
            return bool(last) and bool(condition(last))

        await self.wait(met, lambda: f"{name}: {json.dumps(last, indent=1)}", within)
        return last

    async def wait(self, met: Callable[[], Any], what: Callable[[], str], within: float = WITHIN) -> None:
        """Wait for anything."""
        deadline = time.monotonic() + within
        while True:
            with suppress(Unavailable):
                if await met():
                    return
            if time.monotonic() >= deadline:
                raise InVainError(f"waited {within:g} s in vain: {what()}")
            await asyncio.sleep(_POLL)

    async def steady(self, name: str, within: float = WITHIN, **conditions: tuple[str, str]) -> Status:
        """Wait until conditions (type -> status and reason) speak of the present generation."""
        found = await self.get(name)
        assert found is not None
        generation = found["metadata"]["generation"]
        return await self.until(name, lambda s: speaks(s, generation) and said(s, **conditions), within)

    async def ready(self, name: str, within: float = WITHIN) -> Status:
        """Wait until it is Ready for the present generation."""
        return await self.steady(name, within, Ready=("True", "RolloutComplete"))

    async def configmap(self, name: str, data: dict[str, str] | None) -> None:
        """Make a ConfigMap hold this; None: absent."""
        path = CONFIGMAPS.path(self.namespace, name)
        if data is None:
            await self.api.delete(path)
            return
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        await self.api.patch(f"{path}?fieldManager=test&force=true", json.dumps(body).encode(), kind=_APPLY)

    async def revisions(self, name: str) -> dict[int, dict[str, Any]]:
        """The ControllerRevisions of a registry by number."""
        params = {"labelSelector": f"configregistry.dev/registry={name}"}
        found = json.loads(await self.api.list(REVISIONS.path(self.namespace), params))
        return {each["revision"]: each for each in found["items"]}

    async def delete_revision(self, name: str, number: int) -> None:
        """What no person should do."""
        await self.api.delete(REVISIONS.path(self.namespace, f"{name}-{number}"))

    async def events(self, name: str) -> list[dict[str, Any]]:
        """The events about a registry, as (reason, note, count) dictionaries."""
        found = json.loads(await self.api.list(EVENTS.path(self.namespace)))["items"]
        return [each for each in found if each.get("regarding", {}).get("name") == name]

    @asynccontextmanager
    async def history(self, name: str) -> AsyncIterator[History]:
        """Every status that the API server has accepted for a registry from now on."""
        listed = json.loads(await self.api.list(REGISTRIES.path(self.namespace)))
        history = History(name)
        task = asyncio.create_task(
            history.follow(self.api, REGISTRIES.path(self.namespace), listed["metadata"]["resourceVersion"])
        )
        try:
            yield history
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@dataclass
class Seen:
    """One accepted status, and when the test saw it."""

    status: Status
    at: float


@dataclass
class History:
    """The statuses of one registry, in order, without gaps: a watch never merges two writes."""

    name: str
    seen: list[Seen] = field(default_factory=list)

    async def follow(self, api: Api, path: str, version: str) -> None:
        """Collect until cancelled."""
        params = {"fieldSelector": f"metadata.name={self.name}", "resourceVersion": version}
        async with api.watch(path, params) as lines:
            async for line in lines:
                status = json.loads(line)["object"].get("status")
                if status and (not self.seen or self.seen[-1].status != status):
                    self.seen.append(Seen(status, time.monotonic()))

    @property
    def places(self) -> list[tuple[Any, ...]]:
        """Where the rollout stood, each place once in a row: stable, candidate, weight, baking, how it waits."""
        found: list[tuple[Any, ...]] = []
        for each in self.seen:
            place = place_of(each.status)
            if not found or found[-1] != place:
                found.append(place)
        return found

    @property
    def revisions(self) -> list[int]:
        """The revisions in the order in which they were accepted."""
        return [each.status.get("revision", 0) for each in self.seen]

    def stays(self) -> dict[tuple[Any, ...], float]:
        """Seconds that the rollout was seen to stand at each place."""
        times: dict[tuple[Any, ...], float] = {}
        for one, next_one in zip(self.seen, self.seen[1:], strict=False):
            place = place_of(one.status)
            times[place] = times.get(place, 0.0) + next_one.at - one.at
        return times

    def check(self) -> None:
        """What holds for every history, however often the operator was killed."""
        for one, next_one in zip(self.seen, self.seen[1:], strict=False):
            before, after = one.status.get("revision", 0), next_one.status.get("revision", 0)
            assert after >= before, self.places
            if given(one.status) != given(next_one.status):
                assert after > before, (one.status, next_one.status)


def place_of(status: Status) -> tuple[Any, ...]:
    """Where a rollout stands."""
    canary = status.get("canary") or {}
    return (
        (status.get("stable") or {}).get("version"),
        canary.get("version"),
        canary.get("weight"),
        canary.get("baking"),
        (canary.get("paused") or {}).get("by"),
    )


def given(status: Status) -> tuple[Any, ...]:
    """What consumers get by a status."""
    canary = status.get("canary") or {}
    stable = status.get("stable") or {}
    return stable.get("version"), canary.get("version"), canary.get("weight"), str(canary.get("match"))


def condition(status: Status, kind: str) -> dict[str, Any]:
    """One condition."""
    found = (each for each in status.get("conditions", ()) if each["type"] == kind)
    return next(found, {})


def said(status: Status, **conditions: tuple[str, str]) -> bool:
    """Whether conditions have these values."""
    return all(
        (found.get("status"), found.get("reason")) == wanted
        for found, wanted in ((condition(status, kind), wanted) for kind, wanted in conditions.items())
    )


def speaks(status: Status, generation: int) -> bool:
    """Whether a status is about a generation."""
    return int(status.get("observedGeneration", 0)) == int(generation)


def candidate(status: Status, version: int, weight: int | None = None) -> bool:
    """Whether this version is the candidate, at this weight."""
    canary = status.get("canary") or {}
    return canary.get("version") == version and weight in (None, canary.get("weight"))


def stable(status: Status, version: int) -> bool:
    """Whether this version is stable and nothing is under way."""
    return (status.get("stable") or {}).get("version") == version and not status.get("canary")
