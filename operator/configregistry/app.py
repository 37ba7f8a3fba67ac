"""Puts the program together, starts it, and ends it. The only place where reconcile and serve meet.

One event loop for everything of ours; kopf has a thread and loop of its own, and hands over names only.
"""

from __future__ import annotations

import asyncio
import platform
import random
import signal
from collections import ChainMap
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog

from configregistry.clock import SystemClock
from configregistry.handlers.settings import login_with
from configregistry.handlers.thread import KopfThread
from configregistry.health import Means, Outbound, Runner
from configregistry.kube.client import Api, connect
from configregistry.kube.events import Recorder
from configregistry.kube.failures import NotFound
from configregistry.kube.objects import HasMeta, RevisionObject, decode_meta, decode_registry, decode_revision
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES, REVISIONS, Resource
from configregistry.kube.preflight import preflight
from configregistry.kube.reflector import Reflector
from configregistry.model.names import LABEL_REGISTRY
from configregistry.reconcile.act import Actor
from configregistry.reconcile.cluster import Cluster, VersionIndex
from configregistry.reconcile.gather import Gatherer
from configregistry.reconcile.memory import Key, Memories
from configregistry.reconcile.queue import WorkQueue
from configregistry.reconcile.reconciler import Reconciler
from configregistry.reconcile.sources import Sources
from configregistry.reconcile.triggers import Triggers
from configregistry.serve import Hydrator, Loop, Probes, ReadApp, Routes, serve_http
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

STOP_WITHIN: Final = 4.0
"""Seconds from SIGTERM to the end, of the 5 that are promised."""

T = TypeVar("T", bound=HasMeta)


class Followed(Generic[T]):
    """One resource in all namespaces that are looked after: one reflector for each, or one for all."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        decode: Callable[[bytes | msgspec.Raw], T],
        namespaces: tuple[str, ...],
        **options: Any,
    ) -> None:
        places: Iterable[str | None] = namespaces or (None,)
        self.reflectors = [
            Reflector(api, resource.path(place), decode, name=f"{resource} in {place or 'all namespaces'}", **options)
            for place in places
        ]
        self.store: Mapping[Key, T] = ChainMap(*(each.store for each in self.reflectors))  # type: ignore[arg-type]

    def subscribe(self, on_change: Callable[[Key, T | None, T | None], object]) -> None:
        """Tell of each change, and of what is there already as of a change."""
        for each in self.reflectors:
            each.subscribe(on_change)  # type: ignore[arg-type]

    async def synced(self) -> None:
        """Wait for the first list of each."""
        for each in self.reflectors:
            await each.synced.wait()

    def staleness(self) -> float:
        """Seconds since the last sign of the API server; 0 while the watches are open."""
        return max((each.staleness() or 0.0) for each in self.reflectors)


class Program:
    """All parts, wired; `run` starts them and ends them."""

    def __init__(self, settings: Settings, api: Api) -> None:
        clock = SystemClock()
        places = settings.namespaces
        self._settings = settings
        self._api = api
        self._registries = Followed(api, REGISTRIES, decode_registry, places)
        self._revisions = Followed(api, REVISIONS, decode_revision, places, params={"labelSelector": LABEL_REGISTRY})
        self._configmaps = Followed(api, CONFIGMAPS, decode_meta, places, metadata_only=True)
        self._metrics = Metrics(env=settings.env, cluster=settings.cluster, per_registry=settings.registry_metrics)
        self._stop = asyncio.Event()

        # Reconcile: changes -> queue -> gather -> decide -> act.
        queue: WorkQueue[Key] = WorkQueue(lambda: random.uniform(0.8, 1.2))  # noqa: S311
        versions = VersionIndex()
        self._metrics.queue_depth.set_function(lambda: len(queue))
        self._recorder = Recorder(api, instance=platform.node())
        self._outbound = Outbound(allow_local=not settings.in_cluster)
        self._runner = Runner(
            Means(self._outbound),
            clock,
            changed=lambda rollout: queue.add((rollout.namespace, rollout.registry)),
            probed=lambda _key, check, probe: self._metrics.checks.labels(check.name, probe.verdict.value).inc(),
        )
        memories = Memories()
        cluster = Cluster(api, self._registries.store, versions, self._configmaps.store, self._recorder)
        self._triggers = Triggers(queue, versions)
        self._reconciler = Reconciler(
            queue,
            Gatherer(cluster, Sources(cluster.read_configmap), self._runner, clock, memories, self._triggers),
            Actor(cluster, self._runner, clock, self._metrics),
            self._runner,
            memories,
            self._triggers,
            clock,
            self._metrics,
        )
        self._registries.subscribe(self._triggers.registry_changed)
        self._revisions.subscribe(self._triggers.revision_changed)
        self._configmaps.subscribe(self._triggers.configmap_changed)

        # Serve: the same objects -> state -> responses.
        self._loop = Loop(self._fetch)
        self._hydrator = Hydrator(
            self._registries.store,
            self._revisions.store,
            metrics=self._metrics,
            clock=clock,
            ask=self._loop.ask,
            wake=self._loop.wake,
        )
        self._loop.drive(self._hydrator)
        self._registries.subscribe(lambda key, _old, _new: self._hydrator.registry_changed(key))
        self._revisions.subscribe(lambda key, _old, _new: self._hydrator.revision_changed(key))
        self._probes = Probes(
            self._metrics,
            {"api": self._waits_for_lists, "hydrate": self._hydrator.waits},
            host=settings.host,
            port=settings.probe_port,
        )

    async def run(self) -> None:
        """Start everything, and end it when `stop` was called. Raises when a part ends by itself."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

        def enqueue(namespace: str, name: str) -> None:
            loop.call_soon_threadsafe(self._triggers.named, namespace, name)

        kopf = KopfThread(
            login_with(settings.kubeconfig, settings.context),
            settings.namespaces,
            enqueue,
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._outbound.close)
            stack.push_async_callback(self._runner.close)
            stack.push_async_callback(self._loop.close)
            stack.push_async_callback(self._probes.stop)
            await self._probes.start()
            app = ReadApp(
                Routes(self._hydrator), self._metrics, self._staleness, stale_after=settings.stale_after
            )
            server = await serve_http(app, settings.host, settings.port)
            stack.push_async_callback(server.stop)
            _log.info(
                "serving",
                address=f"http://{settings.host}:{server.port}",
                probes=f"http://{settings.host}:{self._probes.port}",
                cluster=self._api.host,
                namespaces=list(settings.namespaces) or "all",
            )
            kopf.start()
            stack.callback(kopf.stop)
            await self._until_stopped()
            _log.info("ending")
            self._probes.drain()
            await self._recorder.drain()

    def stop(self) -> None:
        """End orderly; safe to call twice."""
        self._stop.set()

    async def _until_stopped(self) -> None:
        parts: list[Coroutine[Any, Any, None]] = [self._recorder.run(), self._begin()]
        for followed in (self._registries, self._revisions, self._configmaps):
            parts += [reflector.run() for reflector in followed.reflectors]
        parts += [self._reconciler.work() for _ in range(self._settings.workers)]
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(part) for part in parts]
        stopped = asyncio.create_task(self._stop.wait())
        try:
            # _begin ends well; every other end is a defect and ends the program, loudly.
            while not stopped.done():
                done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    task.result()
                    tasks.remove(task)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)

    async def _begin(self) -> None:
        """Decide and publish only once everything has been listed: before that, absence means nothing."""
        for followed in (self._registries, self._revisions, self._configmaps):
            await followed.synced()
        self._hydrator.begin()
        self._triggers.open(self._registries.store)
        _log.info("listed", registries=len(self._registries.store), versions=len(self._revisions.store))

    async def _fetch(self, namespace: str, name: str) -> RevisionObject | None:
        try:
            return decode_revision(await self._api.get(REVISIONS.path(namespace, name)))
        except NotFound:
            return None

    def _staleness(self) -> float:
        return max(self._registries.staleness(), self._revisions.staleness())

    def _waits_for_lists(self) -> str | None:
        waiting = [
            reflector.name
            for followed in (self._registries, self._revisions, self._configmaps)
            for reflector in followed.reflectors
            if not reflector.synced.is_set()
        ]
        return f"the first list of {', '.join(waiting)}" if waiting else None


async def _run(settings: Settings) -> None:
    async with await connect(settings.kubeconfig, settings.context) as api:
        await preflight(api, settings.namespaces or None)
        await Program(settings, api).run()


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; gives the exit code. Raises `ConfigRegistryError` for what a person can mend."""
    asyncio.run(_run(settings))
    return 0
