"""What can be seen from outside, kept up to date: the status, and what each worker really has.

The status is followed by `kubectl get --watch`, the workers by asking the shop. What is judged
later is not the sampled picture but the shop's journal, which misses nothing between two looks.

It must never ask /healthz: that is the operator's to ask, and the first failed answer is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from tests.demo.kubectl import Kubectl
from tests.demo.manifests import REGISTRY

T = TypeVar("T")
_PERIOD = 0.1
_LOOK = 0.03


class NotSeenError(Exception):
    """Something that was awaited did not come; the message tells what was seen last."""


class EndedError(Exception):
    """A process that the story needs has ended by itself; waiting for anything is in vain."""


@dataclass(frozen=True)
class Served:
    """What the status said is served, at one revision."""

    at: float
    revision: int
    stable: int | None
    canary: int | None
    weight: int | None
    seed: str


class View:
    """The latest picture, and what it is made from."""

    def __init__(self, ended: Callable[[], str | None]) -> None:
        self._ended = ended
        self.registry: dict[str, Any] | None = None
        self.workers: list[dict[str, Any]] = []
        self.health: dict[str, Any] = {}
        self.journal: list[dict[str, Any]] = []
        self.served: list[Served] = []
        """Each revision as it was first seen."""

    @property
    def status(self) -> dict[str, Any]:
        """The status, empty as long as there is none."""
        return (self.registry or {}).get("status") or {}

    @property
    def canary(self) -> dict[str, Any]:
        """The candidate, empty when there is none."""
        return self.status.get("canary") or {}

    @property
    def stable(self) -> int | None:
        """The number of the stable version."""
        return (self.status.get("stable") or {}).get("version")

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition, but only if it is about the spec as it is now."""
        if self.registry is None:
            return {}
        generation = self.registry["metadata"]["generation"]
        for each in self.status.get("conditions") or []:
            if each["type"] == kind and each.get("observedGeneration") == generation:
                return dict(each)
        return {}

    def having(self, version: int) -> frozenset[str]:
        """The workers that have this version now."""
        return frozenset(worker["name"] for worker in self.workers if worker["version"] == version)

    def names(self) -> list[str]:
        """All workers."""
        return [worker["name"] for worker in self.workers]

    def at_weight(self, version: int, weight: int) -> Served | None:
        """When the status first said that this candidate has this weight."""
        return next((each for each in self.served if (each.canary, each.weight) == (version, weight)), None)

    def took(self, registry: dict[str, Any] | None) -> None:
        """Take in an object of the watch."""
        self.registry = registry
        status, canary = self.status, self.canary
        revision = int(status.get("revision") or 0)
        if revision and (not self.served or self.served[-1].revision != revision):
            number, weight = canary.get("version"), canary.get("weight")
            served = Served(time.monotonic(), revision, self.stable, number, weight, canary.get("seed") or "")
            self.served.append(served)

    async def until(self, condition: Callable[[], T | None], what: str, *, within: float = 30.0) -> T:
        """Give the first true answer. Fails when the time is up, and at once when a process has ended."""
        deadline = time.monotonic() + within
        while True:
            if answer := condition():
                return answer
            if ended := self._ended():
                raise EndedError(f"while waiting for {what}: {ended}")
            if time.monotonic() >= deadline:
                raise NotSeenError(f"waited {within:g} s in vain for {what}; last seen: {self.described()}")
            await asyncio.sleep(_LOOK)

    def described(self) -> str:
        """Tell in one line what was seen last."""
        return f"{self.told_workers()}; {self.told_status()}"

    def told_workers(self) -> str:
        """Count the workers by version, and those that fail."""
        if not self.workers:
            return "no word from the shop"
        counted = Counter(worker["version"] for worker in self.workers)
        told = [
            f"version {version}: {count}" if version is not None else f"no version: {count}"
            for version, count in sorted(counted.items(), key=lambda item: item[0] or 0)
        ]
        failing = sum(worker["ok"] is False for worker in self.workers)
        return "workers with " + ", ".join(told) + (f", failing: {failing}" if failing else "")

    def told_status(self) -> str:
        """Tell what the status says of the rollout."""
        if self.registry is None:
            return "no registry"
        if not self.status:
            return "no status"
        canary = self.canary
        rollout = "no canary"
        if canary:
            baking = ", baking" if canary.get("baking") else ""
            step = f"step {canary.get('currentStepIndex')} of {canary.get('steps')}{baking}"
            rollout = f"canary {canary['version']} at {canary.get('weight')} % ({step})"
        ready = next((each for each in self.status.get("conditions") or [] if each["type"] == "Ready"), None)
        said = f", Ready={ready['status']} {ready['reason']}: {ready['message']}" if ready else ""
        return f"stable {self.stable}, {rollout}{said}"


@asynccontextmanager
async def following(
    view: View, kubectl: Kubectl, namespace: str, shop: str, changed: Callable[[], None]
) -> AsyncIterator[None]:
    """Keep the view up to date, and call `changed` after each look."""

    async def registry() -> None:
        while True:
            arguments = ("configregistries.configregistry.dev", f"--namespace={namespace}")
            async for event in kubectl.watch(*arguments):
                found = event.get("object") or {}
                if found.get("metadata", {}).get("name") == REGISTRY:
                    view.took(None if event.get("type") == "DELETED" else found)
                    changed()
            await asyncio.sleep(_PERIOD)

    async def workers() -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await _look(view, session, shop)
                    changed()
                await asyncio.sleep(_PERIOD)

    tasks = [asyncio.create_task(registry()), asyncio.create_task(workers())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _look(view: View, session: aiohttp.ClientSession, shop: str) -> None:
    async with session.get(f"{shop}/workers") as answer:
        told = await answer.json()
    # Asked second, so that whatever the picture shows is in the journal as well.
    after = view.journal[-1]["number"] if view.journal else 0
    async with session.get(f"{shop}/journal", params={"after": str(after)}) as answer:
        view.journal += await answer.json()
    view.workers, view.health = told["workers"], told["health"]
