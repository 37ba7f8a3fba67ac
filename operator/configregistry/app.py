"""Puts the program together, starts it, and ends it. The only place where reconcile and serve meet.

One event loop for everything of ours; kopf has a thread and loop of its own, and hands over names only.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import signal
import threading
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, Final

import structlog

from configregistry import pauses
from configregistry.clock import SystemClock
from configregistry.errors import UsageError
from configregistry.followed import Followed
from configregistry.handlers.settings import login_with
from configregistry.handlers.thread import KopfThread
from configregistry.health import Means, Outbound, Runner
from configregistry.kube.client import Api, connect
from configregistry.kube.events import Recorder
from configregistry.kube.failures import NotFound
from configregistry.kube.objects import RevisionObject, decode_meta, decode_registry, decode_revision
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES, REVISIONS
from configregistry.kube.preflight import preflight
from configregistry.kube.reflector import WHOLE
from configregistry.model.names import LABEL_REGISTRY
from configregistry.reconcile import Controller
from configregistry.serve import HttpServer, HttpServerFailed, Hydrator, Loop, Probes, ReadApp, Routes, serve_http
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

STOP_WITHIN: Final = 4.0
"""Seconds from SIGTERM to the end, of the 5 that are promised; what has not ended by then is left."""
START_WAITS: Final = 30.0
"""Seconds that each part of the start waits at most for the one before it: lists published, names worked off, kopf."""
SETTLED: Final = 60.0
"""Seconds after which kopf and reconcile have looked at every registry once, and remember what they remember."""


class Program:
    """All parts, wired; `run` starts them and ends them."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings = settings
        self._api = api
        self._clock = SystemClock()
        self._metrics = Metrics(env=settings.env, cluster=settings.cluster, per_registry=settings.registry_metrics)
        self._filled = False
        self._follow()
        self._control()
        self._serve()

    def _follow(self) -> None:
        """What is held of the API server's objects."""
        api, places = self._api, self._settings.namespaces
        self._registries = Followed(api, REGISTRIES, decode_registry, places, page=WHOLE)
        self._revisions = Followed(api, REVISIONS, decode_revision, places, params={"labelSelector": LABEL_REGISTRY})
        self._configmaps = Followed(api, CONFIGMAPS, decode_meta, places, metadata_only=True)
        self._all: tuple[Followed[Any], ...] = (self._registries, self._revisions, self._configmaps)

    def _control(self) -> None:
        """Changes -> queue -> gather -> decide -> act."""
        self._recorder = Recorder(self._api, instance=platform.node())
        self._outbound = Outbound(allow_local=not self._settings.in_cluster)
        self._controller = Controller(
            self._api,
            self._registries.store,
            self._configmaps.store,
            self._recorder,
            lambda changed, probed: Runner(Means(self._outbound), self._clock, changed, probed=probed),
            self._clock,
            self._metrics,
            spread=lambda: random.uniform(0.8, 1.2),  # noqa: S311
        )
        triggers = self._controller.triggers
        self._registries.subscribe(triggers.registry_changed)
        self._revisions.subscribe(triggers.revision_changed)
        self._configmaps.subscribe(triggers.configmap_changed)

    def _serve(self) -> None:
        """The same objects -> state -> responses."""
        self._loop = Loop(self._fetch)
        self._hydrator = Hydrator(
            self._registries.store,
            self._revisions.store,
            metrics=self._metrics,
            clock=self._clock,
            ask=self._loop.ask,
            wake=self._loop.wake,
        )
        self._loop.drive(self._hydrator)
        self._registries.subscribe(lambda key, _old, _new: self._hydrator.registry_changed(key))
        self._revisions.subscribe(lambda key, _old, _new: self._hydrator.revision_changed(key))
        self._probes = Probes(
            self._metrics,
            {
                "api": self._waits_for_lists,
                "hydrate": self._hydrator.waits,
                "memory": lambda: None if self._filled else "the end of loading",
            },
            host=self._settings.host,
            port=self._settings.probe_port,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, and end it when `stop` is set. Raises when a part ends by itself."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._outbound.close)
            stack.push_async_callback(self._controller.close)
            stack.push_async_callback(self._loop.close)
            stack.push_async_callback(self._probes.stop)
            server = await self._listen()
            stack.push_async_callback(server.stop)
            kopf = self._kopf()
            stack.push_async_callback(kopf.stop)
            await self._until(stop, server, kopf)
            _log.info("ending")
            _insist(STOP_WITHIN)
            kopf.ask_to_stop()
            self._probes.drain()
            await self._recorder.drain(STOP_WITHIN / 4)

    async def _listen(self) -> HttpServer:
        settings = self._settings
        with _listening("--probe-port", settings.host, settings.probe_port):
            await self._probes.start()
        app = ReadApp(Routes(self._hydrator), self._metrics, self._staleness, stale_after=settings.stale_after)
        with _listening("--port", settings.host, settings.port):
            server = await serve_http(app, settings.host, settings.port)
        _log.info(
            "serving",
            address=f"http://{settings.host}:{server.port}",
            probes=f"http://{settings.host}:{self._probes.port}",
            cluster=self._api.host,
            namespaces=list(settings.namespaces) or "all",
        )
        return server

    def _kopf(self) -> KopfThread:
        loop, settings = asyncio.get_running_loop(), self._settings

        def enqueue(namespace: str, name: str) -> None:
            loop.call_soon_threadsafe(self._controller.triggers.named, namespace, name)

        return KopfThread(login_with(settings.kubeconfig, settings.context), settings.namespaces, enqueue)

    async def _until(self, stop: asyncio.Event, server: HttpServer, kopf: KopfThread) -> None:
        """Have all parts run until `stop` is set; an end of one by itself is a defect, and ends the program."""
        parts: list[Coroutine[Any, Any, None]] = [self._recorder.run(), server.wait()]
        parts += [reflector.run() for followed in self._all for reflector in followed.reflectors]
        parts += [self._controller.work() for _ in range(self._settings.workers)]
        begun, stopped = asyncio.create_task(self._begin(kopf)), asyncio.create_task(stop.wait())
        tasks = [asyncio.create_task(part) for part in parts]
        waiting: set[asyncio.Task[Any]] = {begun, stopped, *tasks}
        try:
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (begun, stopped, *tasks):
                task.cancel()
            await asyncio.gather(begun, stopped, *tasks, return_exceptions=True)

    async def _begin(self, kopf: KopfThread) -> None:
        """Decide and publish only once everything has been listed: before that, absence means nothing.

        kopf comes last: all that it would name by then is queued, and its own list of 10,000 objects takes the
        interpreter for seconds which readers wait for.
        """
        for followed in self._all:
            await followed.synced()
        self._hydrator.begin()
        self._controller.triggers.open(self._registries.store)
        _log.info("listed", registries=len(self._registries.store), versions=len(self._revisions.store))
        await self._published()
        pauses.filled()
        self._filled = True
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WAITS):
                while self._controller.waiting:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.05)
        kopf.start()
        await asyncio.sleep(SETTLED)
        pauses.filled()

    async def _published(self) -> None:
        """Wait for all that was listed to be published, for as long as that is likely."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WAITS):
                while self._hydrator.waits() is not None:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)

    async def _fetch(self, namespace: str, name: str) -> RevisionObject | None:
        try:
            return decode_revision(await self._api.get(REVISIONS.path(namespace, name)))
        except NotFound:
            return None

    def _staleness(self) -> float:
        return max(self._registries.staleness(), self._revisions.staleness())

    def _waits_for_lists(self) -> str | None:
        waiting = [name for followed in self._all for name in followed.unsynced()]
        return f"the first list of {', '.join(waiting)}" if waiting else None


@contextmanager
def _listening(option: str, host: str, port: int) -> Iterator[None]:
    """Say what to do where nobody can listen."""
    try:
        yield
    except (OSError, HttpServerFailed) as error:
        told = f"cannot listen on {host}:{port} ({error}): end what listens there, or choose another with {option}"
        raise UsageError(told) from error


def _insist(seconds: float) -> None:
    """End the process in so many seconds whatever still runs: all that matters has been written long ago."""

    def end() -> None:
        _log.warning("not all parts have ended in time", seconds=seconds)
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await connect(settings.kubeconfig, settings.context) as api:
        if await _unless(stop, preflight(api, settings.namespaces or None)):
            await Program(settings, api).run(stop)


async def _unless(stop: asyncio.Event, awaited: Awaitable[None]) -> bool:
    """Wait for something; False when the program was asked to end before it was over."""
    task, stopped = asyncio.ensure_future(awaited), asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        return False
    task.result()
    return not stop.is_set()


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; gives the exit code. Raises `ConfigRegistryError` for what a person can mend."""
    pauses.starting()
    asyncio.run(_run(settings))
    return 0
