"""Starts the halves of the program that were asked for, and ends them.

It must never know what a half does.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from configregistry.app import pauses
from configregistry.app.consistency import Consistency
from configregistry.app.deciding import Deciding
from configregistry.app.following import Following
from configregistry.app.leading import place
from configregistry.app.serving import Serving, listening
from configregistry.clock import SystemClock
from configregistry.kube.client import Api, connect
from configregistry.kube.paths import REGISTRIES, ROLLOUT_POLICIES
from configregistry.kube.preflight import (
    CONTROLLER_NEEDS,
    ENDPOINT_NEEDS,
    POLICY_NEEDS,
    REVIEW_NEEDS,
    SERVE_NEEDS,
    check_rights,
    lease_needs,
    namespace_needs,
    preflight,
)
from configregistry.serve import Probes
from configregistry.settings import Settings
from configregistry.telemetry import tracing
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

STOP_WITHIN: Final = 4.0
"""Seconds from SIGTERM to the end, of the 5 that are promised; what has not ended by then is left."""
SETTLED: Final = 60.0
"""Seconds after which kopf and reconcile have looked at every registry once, and remember what they remember."""


class Half(Protocol):
    """What decides, or what serves."""

    @property
    def ready(self) -> Mapping[str, Callable[[], str | None]]:
        """Checks by name: what readiness waits for, or None."""
        ...

    async def open(self) -> None:
        """Listen, and make what is needed."""
        ...

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until the end; one that ends by itself ends the program."""
        ...

    def begin(self) -> None:
        """Everything has been listed."""
        ...

    async def filled(self) -> None:
        """Return when what is in memory is there to stay."""
        ...

    async def settle(self) -> None:
        """Do what is better done late."""
        ...

    async def drain(self) -> None:
        """The end is near."""
        ...

    async def close(self) -> None:
        """End all that there is, opened or not."""
        ...


class Program:
    """All parts, wired; `run` starts them and ends them."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings = settings
        self._api = api
        self._filled = False
        clock = SystemClock()
        metrics = Metrics(
            env=settings.env,
            cluster=settings.cluster,
            per_registry=settings.registry_metrics,
            decides=settings.decides,
            serves=settings.serves,
        )
        api.count(metrics.asked)
        self._following = Following(api, settings.namespaces, decide=settings.decides)
        metrics.watch_staleness(self._following.staleness)
        self._halves: list[Half] = []
        serving = Serving(settings, api, self._following, clock, metrics) if settings.serves else None
        if settings.decides:
            local = serving.consumers if serving is not None else None
            self._halves.append(Deciding(settings, api, self._following, clock, metrics, local))
        if serving is not None:
            self._halves.append(serving)
        self._consistency = Consistency(
            api,
            self._following.all,
            serving.published() if serving is not None else None,
            metrics,
            interval=settings.consistency_interval,
        )
        checks: dict[str, Callable[[], str | None]] = {"api": self._following.waits}
        for half in self._halves:
            checks.update(half.ready)
        checks["memory"] = lambda: None if self._filled else "the end of loading"
        self._probes = Probes(metrics, checks, host=settings.host, port=settings.probe_port)

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, and end it when `stop` is set. Raises when a part ends by itself."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._probes.stop)  # the last thing to end: until then it says that this ends
            for half in self._halves:
                stack.push_async_callback(half.close)
            with listening("--probe-port", settings.host, settings.probe_port):
                await self._probes.start()
            for half in self._halves:
                await half.open()
            _log.info("started", probes=f"http://{settings.host}:{self._probes.port}")
            await self._until(stop)
            _log.info("ending")
            self._probes.drain()
            await asyncio.gather(*(half.drain() for half in self._halves))

    async def _until(self, stop: asyncio.Event) -> None:
        """Have all parts run until `stop` is set; an end of one by itself is a defect, and ends the program."""
        parts = [reflector.run() for followed in self._following.all for reflector in followed.reflectors]
        parts += [part for half in self._halves for part in half.parts()]
        parts.append(self._consistency.run())
        begun, stopped = asyncio.create_task(self._begin()), asyncio.create_task(stop.wait())
        tasks = [asyncio.create_task(part) for part in parts]
        waiting: set[asyncio.Task[Any]] = {begun, stopped, *tasks}
        try:
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            _insist(STOP_WITHIN, 0 if stopped.done() else 1)
            for task in (begun, stopped, *tasks):
                task.cancel()
            await asyncio.gather(begun, stopped, *tasks, return_exceptions=True)

    async def _begin(self) -> None:
        """Decide and publish only once everything has been listed: before that, absence means nothing."""
        await self._following.synced()
        for half in self._halves:
            half.begin()
        _log.info(
            "listed",
            registries=len(self._following.registries.store),
            versions=len(self._following.revisions.store),
        )
        for half in self._halves:
            await half.filled()
        pauses.filled()
        self._filled = True
        for half in self._halves:
            await half.settle()
        await asyncio.sleep(SETTLED)
        pauses.filled()


def _insist(seconds: float, code: int) -> None:
    """End the process in so many seconds whatever still runs: all that matters has been written long ago."""

    def end() -> None:
        _log.warning("not all parts have ended in time", seconds=seconds)
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await connect(settings.kubeconfig, settings.context) as api:
        usable = await _unless(stop, _preflight(settings, api))
        if usable is not None:
            await Program(usable, api).run(stop)


async def _preflight(settings: Settings, api: Api) -> Settings:
    """Ask whether this can work; gives the settings with the namespaces in which it can."""
    needs = CONTROLLER_NEEDS if settings.decides else SERVE_NEEDS
    kinds = (REGISTRIES, ROLLOUT_POLICIES) if settings.decides else (REGISTRIES,)
    lease = place(settings)  # it stays where it is, whichever namespaces are left
    usable = await preflight(api, settings.namespaces or None, needs, kinds)
    settings = replace(settings, lease=str(lease), namespaces=usable)
    if settings.decides:
        await check_rights(api, None, (*POLICY_NEEDS, *namespace_needs(settings.namespaces)))
        if settings.leader_election:
            await check_rights(api, (lease.namespace,), lease_needs(lease.name))
    if settings.auth == "kubernetes":
        await check_rights(api, None, REVIEW_NEEDS)
    if settings.replica_service:
        await check_rights(api, (settings.replica_service.partition("/")[0],), ENDPOINT_NEEDS)
    return settings


async def _unless(stop: asyncio.Event, awaited: Awaitable[Settings]) -> Settings | None:
    """Wait for something; None when the program was asked to end before it was over."""
    task, stopped = asyncio.ensure_future(awaited), asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        return None
    settings = task.result()
    return None if stop.is_set() else settings


def _open_files() -> None:
    """Take as many open files as there may be: each client and each stream is one, and the usual 1,024 are few."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # what the limit is stays the limit: `Limits.room` goes by it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; gives the exit code. Raises `ConfigRegistryError` for what a person can mend."""
    pauses.starting()
    _open_files()
    tracing.configure(_service(settings))
    try:
        asyncio.run(_run(settings))
    finally:
        tracing.close()
    return 0


def _service(settings: Settings) -> str:
    """What traces call this process, unless OTEL_SERVICE_NAME says otherwise."""
    halves = {(True, False): "-controller", (False, True): "-serve"}
    return f"configregistry{halves.get((settings.decides, settings.serves), '')}"
