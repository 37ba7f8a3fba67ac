"""The order of it all: surroundings, four acts, the interfaces, the verdict."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.cluster.standing import REPOSITORY
from tests.demo import acts, failing, surroundings, tour
from tests.demo.acts import Stage
from tests.demo.follow import EndedError, NotSeenError, View, following
from tests.demo.kubectl import Kubectl, KubectlError
from tests.demo.ledger import Ledger
from tests.demo.manifests import REGISTRY, manifests
from tests.demo.picture import Picture
from tests.demo.screen import Screen
from tests.demo.surroundings import Addresses, Place, Program

Kind = type[BaseException] | None
ARTIFACTS = REPOSITORY / "artifacts" / "demo"


class Story:
    """One run on one cluster."""

    def __init__(self, screen: Screen, place: Place) -> None:
        self._screen = screen
        self._place = place
        self._ledger = Ledger(screen)
        self._rollback: float | None = None
        self.kept = False

    async def tell(self) -> bool:
        """Tell it all; say whether everything was as expected. What was made is gone at the end."""
        keep = os.environ.get("DEMO_KEEP", "") not in {"", "0"}
        async with AsyncExitStack() as stack:
            stage, at = await self._prepare(stack)
            await self._play(stage, at)
            self._verdict()
            if keep:
                self.kept = True
                tour.instructions(stage, at.url, at.shop_url, self._place)
                with stage.picture.shown():
                    await asyncio.Event().wait()
        return self.well

    @property
    def well(self) -> bool:
        """Whether all expectations were met so far, and there were some."""
        return bool(self._ledger.entries) and not self._ledger.failed

    async def _prepare(self, stack: AsyncExitStack) -> tuple[Stage, Addresses]:
        """Bring up everything; the stack ends it."""
        screen, place = self._screen, self._place
        screen.heading("Setting the stage")
        at = surroundings.addresses()
        kubectl = Kubectl(place.program, place.kubeconfig, REPOSITORY)
        await stack.enter_async_context(surroundings.resources(screen, kubectl, place))
        namespace = await stack.enter_async_context(surroundings.namespace(screen, kubectl, place))
        directory = ARTIFACTS / namespace
        directory.mkdir(parents=True)
        stack.push(self._tidier(directory))
        operator = await self._operator(stack, directory, namespace, at)
        shop = await self._shop(stack, directory, namespace, at)
        screen.say(f"manifests and logs: {_short(directory)}")
        view = View(lambda: operator.ended() or shop.ended())
        picture = Picture(screen, view)
        here = Kubectl(place.program, place.kubeconfig, directory)
        follower = following(view, here, namespace, at.shop_url, picture.changed)
        await stack.enter_async_context(follower)
        made = manifests(f"{at.shop_url}/healthz")
        stage = Stage(screen, self._ledger, here, namespace, view, picture, made, operator.kill)
        return stage, at

    async def _operator(self, stack: AsyncExitStack, directory: Path, namespace: str, at: Addresses) -> Program:
        flags = f"--namespace {namespace} --port {at.api} --probe-port {at.probes}"
        self._screen.command(f"python -m configregistry run {flags}")
        arguments = ["configregistry", "run", "--kubeconfig", str(self._place.kubeconfig), *flags.split()]
        running = await stack.enter_async_context(surroundings.program("operator", directory, *arguments))
        await surroundings.answering(at.readyz, running)
        self._screen.output(f"ready after {self._screen.elapsed:.1f} s in all")
        return running

    async def _shop(self, stack: AsyncExitStack, directory: Path, namespace: str, at: Addresses) -> Program:
        url = f"{at.url}/v1/namespaces/{namespace}/registries/{REGISTRY}"
        flags = f"--configuration {url} --port {at.shop}"
        self._screen.command(f"python -m tests.demo.shop {flags}")
        running = await stack.enter_async_context(
            surroundings.program("shop", directory, "tests.demo.shop", *flags.split())
        )
        await surroundings.answering(f"{at.shop_url}/workers", running)
        self._screen.output("50 workers have opened; there is no configuration yet")
        return running

    async def _play(self, stage: Stage, at: Addresses) -> None:
        """Play the acts; each needs what an earlier one has left."""
        try:
            if not await self._played(acts.first_version(stage)):
                return
            if await self._played(acts.second_version(stage)):
                await self._played(self._third(stage))
            else:
                self._screen.say("without version 2 as the stable one the third act is left out", "yellow")
            await self._played(failing.invalid(stage))
            await self._played(tour.interfaces(stage, at.url))
        except EndedError as error:
            self._ledger.fail("operator and shop run to the end", str(error))

    async def _third(self, stage: Stage) -> None:
        self._rollback = await failing.third_version(stage)

    async def _played(self, act: Coroutine[Any, Any, object]) -> bool:
        """Play one act to its end; tell what stopped it."""
        try:
            await act
        except NotSeenError as error:
            self._ledger.fail("what was awaited comes", str(error))
            return False
        except KubectlError as error:
            self._ledger.fail("kubectl does what it is told", str(error))
            return False
        return True

    def _verdict(self) -> None:
        self._screen.heading("What was expected, and what was seen")
        self._screen.table(self._ledger.rows())
        if self._rollback is not None:
            told = f"From the first failed check to the last worker back on stable: {self._rollback:.2f} s"
            self._screen.say(told, "bold")
        failed, count = len(self._ledger.failed), len(self._ledger.entries)
        told = f"{failed} of {count} expectations failed" if failed else f"all {count} expectations were met"
        self._screen.say(f"{told}, {self._screen.elapsed:.0f} s", "bold red" if failed else "bold green")

    def _tidier(self, directory: Path) -> Callable[[Kind, BaseException | None, TracebackType | None], None]:
        """Throw the logs away at the end, unless something went wrong."""

        def tidy(kind: Kind, _error: BaseException | None, _trace: TracebackType | None) -> None:
            # Interrupted, or with a terminal that is gone: nobody will look.
            if self._ledger.failed or (kind is not None and not issubclass(kind, asyncio.CancelledError | OSError)):
                self._screen.say(f"the logs stay in {_short(directory)}")
            else:
                shutil.rmtree(directory, ignore_errors=True)

        return tidy


def _short(path: Path) -> str:
    return os.path.relpath(path)
