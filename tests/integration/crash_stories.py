"""What is done to a registry while its operator is killed: each story is a whole life of one, from nothing on.

A story's person waits for what the API server has accepted, does the next thing, and knows nothing of kills. So a
story played with kills and one played without can be told apart by what the operator did alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from tests.cluster.ports import LOOPBACK
from tests.integration.histories_world import patiently
from tests.integration.running import Client, Condition, History, InVainError, Seen, Status, condition, stable

from configregistry.kube.failures import NotFound, Unavailable
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES

PAUSE: Final = 2.5
"""Seconds of the stages that must not be shortened: longer than a life takes to start."""
LONG: Final = 240.0
"""Seconds for what a story waits for: its operator dies some fifty times meanwhile."""
DEPENDENCY: Final = "base"
"""A registry that is ready all the time."""
VERDICT: Final = "configregistry.dev/verdict"
CLAIMED: Final = "configregistry.dev/claimed"


@dataclass
class Surroundings:
    """The server that checks, validators and hooks ask. All of it says yes but the checks of who is `sick`.

    The hook `after` is out of order the first time that somebody is told of to it.
    """

    sick: set[str] = field(default_factory=set)
    told: set[tuple[str, str, int]] = field(default_factory=set)
    """Of whom (a registry) which hook or validator has been told about which version (0: none yet), and said so."""
    _tried: set[tuple[str, str, int]] = field(default_factory=set)
    address: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Surroundings]:
        """Listen."""
        app = web.Application()
        app.router.add_get("/check/{registry}", self._checked)
        app.router.add_post("/told/{registry}/{by}", self._told)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, 0).start()
        self.address = f"{LOOPBACK}:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _checked(self, request: web.Request) -> web.Response:
        return web.Response(status=500 if request.match_info["registry"] in self.sick else 200)

    async def _told(self, request: web.Request) -> web.Response:
        number = json.loads(await request.read())["version"].get("number") or 0
        told = (request.match_info["registry"], request.match_info["by"], number)
        if told[1] == "after" and told not in self._tried:
            self._tried.add(told)
            return web.Response(status=503)
        self.told.add(told)
        return web.json_response({"allowed": True})


@dataclass
class Play:
    """One registry of one story."""

    client: Client
    name: str
    story: str
    around: Surroundings
    history: History
    news: asyncio.Event = field(default_factory=asyncio.Event)
    specs: list[dict[str, Any]] = field(default_factory=list)
    """All that it was asked for."""

    def saw(self, status: Status) -> None:
        """The API server has accepted a status. (The first one that a watch tells is what the CRD defaults.)"""
        if not status.get("conditions"):
            return
        if not self.history.seen or self.history.seen[-1].status != status:
            self.history.seen.append(Seen(status, time.monotonic()))
            self.news.set()

    async def until(self, met: Condition) -> Status:
        """Wait until the latest status fulfils a condition."""
        deadline = time.monotonic() + LONG
        while True:
            self.news.clear()
            last = self.history.seen[-1].status if self.history.seen else {}
            if last and met(last):
                return last
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self.news.wait()
            except TimeoutError:
                raise InVainError(f"{self.name}: waited in vain; last: {json.dumps(last)}") from None

    async def apply(self, **spec: Any) -> None:
        """Apply a spec."""
        self.specs.append(spec)
        await patiently(lambda: self.client.apply(self.name, **spec))

    async def command(self, verb: str, text: str) -> None:
        """Annotate a command."""
        await patiently(lambda: self.client.command(self.name, verb, text))

    async def wait(self, met: Callable[[], Any], what: str) -> None:
        """Wait for anything else."""
        await self.client.wait(met, lambda: f"{self.name}: {what}", LONG)

    async def marked(self, numbers: Collection[int]) -> None:
        """Wait until decisions have been copied to versions."""

        async def met() -> bool:
            found = await self.client.revisions(self.name)
            return all(VERDICT in found[n]["metadata"].get("annotations", {}) for n in numbers if n in found)

        await self.wait(met, f"versions {numbers} to be marked")

    def check(self) -> dict[str, Any]:
        """A check that asks the surroundings."""
        url = f"http://{self.around.address}/check/{self.name}"
        return {"name": "alive", "interval": "200ms", "failureLimit": 1, "http": {"url": url}}

    def asked(self, name: str) -> dict[str, Any]:
        """A validator or hook of theirs."""
        return {"name": name, "url": f"http://{self.around.address}/told/{self.name}/{name}"}


async def first(play: Play) -> None:
    """Refused, for its policy does not exist; a first version; a hand deletes it, and it is made again."""
    await play.apply(data={"n": 1}, rollout={"policyRef": {"name": "of-nobody"}})
    await play.until(lambda s: condition(s, "Stalled").get("reason") == "InvalidSpec")
    await play.apply(data={"n": 1})
    await play.until(lambda s: stable(s, 1))
    await play.marked([1])
    await patiently(lambda: play.client.delete_revision(play.name, 1))

    async def restored() -> bool:
        return 1 in await play.client.revisions(play.name)

    await play.wait(restored, "version 1 to be made again")
    await play.marked([1])


async def good(play: Play) -> None:
    """Steps that take time, a check, a bake, and a dependency."""
    await play.apply(data={"n": 1})
    await play.until(lambda s: stable(s, 1))
    steps = [{"setWeight": 20}, {"pause": {"duration": f"{PAUSE * 1000:.0f}ms"}}, {"setWeight": 60}]
    rollout = {"steps": steps, "bake": f"{PAUSE * 1000:.0f}ms", "checks": [play.check()]}
    await play.apply(data={"n": 2}, rollout=rollout, dependsOn=[{"name": DEPENDENCY}])
    await play.until(lambda s: stable(s, 2))
    await play.marked([1, 2])


async def bad(play: Play) -> None:
    """A check that fails at 60 percent: everything goes back, and the version is rejected."""
    await play.apply(data={"n": 1})
    await play.until(lambda s: stable(s, 1))
    steps = [{"setWeight": 20}, {"pause": {"duration": "300ms"}}, {"setWeight": 60}, {"pause": {}}]
    await play.apply(data={"n": 2}, rollout={"steps": steps, "checks": [play.check()]})
    await play.until(lambda s: _at(s, 60))
    play.around.sick.add(play.name)
    await play.until(lambda s: not s.get("canary") and condition(s, "Stalled").get("reason") == "RolledBack")
    await play.marked([1, 2])


async def commanded(play: Play) -> None:
    """Pause, resume, promote at each wait: each once."""
    await play.apply(data={"n": 1})
    await play.until(lambda s: stable(s, 1))
    steps: list[dict[str, Any]] = [{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}, {"pause": {}}]
    await play.apply(data={"n": 2}, rollout={"steps": steps, "bake": "100ms"})
    await play.until(lambda s: _at(s, 20) and _paused(s) == "Step")
    await play.command("pause", "2:-:p")
    await play.until(lambda s: _paused(s) == "Command")
    await play.command("resume", "2:-:r")
    found = await play.until(lambda s: _paused(s) == "Step")
    await play.command("promote", f"2:{found['canary']['currentStepIndex']}:g1")
    found = await play.until(lambda s: _at(s, 60) and _paused(s) == "Step")
    # What is said again acts no second time.
    await play.command("resume", "2:-:r")
    await play.command("promote", f"2:{found['canary']['currentStepIndex']}:g2")
    await play.until(lambda s: stable(s, 2))
    await play.marked([1, 2])


async def aborted(play: Play) -> None:
    """Aborted by a person, asked for again, and then completed."""
    await play.apply(data={"n": 1})
    await play.until(lambda s: stable(s, 1))
    steps: list[dict[str, Any]] = [{"setWeight": 20}, {"pause": {}}]
    await play.apply(data={"n": 2}, rollout={"steps": steps, "bake": "100ms"})
    await play.until(lambda s: _at(s, 20) and _paused(s) == "Step")
    await play.command("abort", "2:-:a")
    await play.until(lambda s: not s.get("canary") and bool(s.get("rejected")))
    await play.command("retry", "2:-:t")
    found = await play.until(lambda s: _at(s, 20) and _paused(s) == "Step")
    await play.command("promote", f"2:{found['canary']['currentStepIndex']}:g")
    await play.until(lambda s: stable(s, 2))
    await play.marked([1, 2])


async def projected(play: Play) -> None:
    """Content from a ConfigMap, and a ConfigMap made of it, which a hand makes immutable."""
    source = f"{play.name}-source"
    spec = {
        "dataFrom": [{"configMapRef": {"name": source}}],
        "data": {"own": 1},
        "project": {"configMap": f"{play.name}-made"},
    }
    await patiently(lambda: play.client.configmap(source, {"a": "1"}))
    await play.apply(**spec)
    await _holds(play, 1)
    await patiently(lambda: play.client.configmap(source, {"a": "2"}))
    await _holds(play, 2)
    path = CONFIGMAPS.path(play.client.namespace, f"{play.name}-made")
    await patiently(lambda: play.client.api.patch(path, b'{"immutable": true}'))

    async def anew() -> bool:
        found = await made(play)
        return found is not None and not found["immutable"]

    await play.wait(anew, "its ConfigMap to be made anew")
    await play.marked([1, 2])


async def pruned(play: Play) -> None:
    """More versions than are kept, and then back to an old one."""
    for n in (1, 2, 3, 4):
        await play.apply(data={"n": n}, revisionHistoryLimit=1)
        await play.until(lambda s, n=n: stable(s, n))  # type: ignore[misc]
        await play.marked([n])  # only what is stable is marked so

    async def gone() -> bool:
        found = await play.client.revisions(play.name)
        # What was claimed when a life ended stays for ten minutes.
        return all(CLAIMED in found[n]["metadata"]["annotations"] for n in (1, 2) if n in found)

    await play.wait(gone, "versions 1 and 2 to be pruned")
    for n, version in ((5, 5), (3, 3)):
        await play.apply(data={"n": n}, revisionHistoryLimit=3)
        await play.until(lambda s, version=version: stable(s, version))  # type: ignore[misc]
        await play.marked([version])


async def hooked(play: Play) -> None:
    """A validator, a hook that is asked before, and one that is told after."""
    spec = {
        "validators": [play.asked("validator")],
        "hooks": [{**play.asked("before"), "when": "PreRollout"}, {**play.asked("after"), "when": "PostRollout"}],
    }
    for n in (1, 2):
        await play.apply(data={"n": n}, rollout={"steps": [{"setWeight": 50}], "bake": "100ms"}, **spec)
        await play.until(lambda s, n=n: stable(s, n) and s["lastOutcome"]["hooks"] == "Told")  # type: ignore[misc]
        assert (play.name, "after", n) in play.around.told, "the status says that a hook was told which does not know"
    await play.marked([1, 2])


Story = Callable[[Play], Awaitable[None]]
STORIES: Final[dict[str, Story]] = {
    story.__name__: story for story in (first, good, bad, commanded, aborted, projected, pruned, hooked)
}


async def made(play: Play) -> dict[str, Any] | None:
    """The ConfigMap that is made of a registry: what counts of it. None: there is none."""
    try:
        found = json.loads(await play.client.api.get(CONFIGMAPS.path(play.client.namespace, f"{play.name}-made")))
    except NotFound:
        return None
    version = found["metadata"]["annotations"]["configregistry.dev/version"]
    return {"data": found["data"], "version": version, "immutable": found.get("immutable", False)}


async def watched(client: Client, plays: dict[str, Play]) -> None:
    """Tell each play of every status that the API server accepts, until cancelled: a watch never merges two."""
    path = REGISTRIES.path(client.namespace)
    version = json.loads(await client.api.list(path))["metadata"]["resourceVersion"]
    while True:
        with suppress(Unavailable):  # the machine is busy; from the same version on nothing is missed
            async with client.api.watch(path, {"resourceVersion": version, "timeoutSeconds": "300"}) as lines:
                async for raw in lines:
                    line = json.loads(raw)
                    assert line["type"] in {"ADDED", "MODIFIED", "DELETED"}, line
                    found = line["object"]["metadata"]
                    version = found["resourceVersion"]
                    play = plays.get(found["name"])
                    if play is not None and line["type"] != "DELETED" and "status" in line["object"]:
                        play.saw(line["object"]["status"])


async def _holds(play: Play, version: int) -> None:
    await play.until(lambda s: stable(s, version))

    async def met() -> bool:
        found = await made(play)
        return found is not None and found["version"] == str(version)

    await play.wait(met, f"version {version} to be projected")


def _at(status: Status, weight: int) -> bool:
    return bool((status.get("canary") or {}).get("weight") == weight)


def _paused(status: Status) -> str | None:
    by: str | None = ((status.get("canary") or {}).get("paused") or {}).get("by")
    return by
