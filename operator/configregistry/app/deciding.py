"""The half that decides: changes -> queue -> gather -> decide -> act, and kopf, which names what changed.

It must never publish anything to readers: they follow what it wrote, as every replica does.
"""

from __future__ import annotations

import asyncio
import platform
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import kopf
import structlog

from configregistry.app.admission import Admission
from configregistry.app.following import Following
from configregistry.app.leading import STALE, Terms, behind, identity, newest_epoch, place
from configregistry.clock import Clock, WakefulClock
from configregistry.handlers import registries
from configregistry.handlers import settings as kopf_settings
from configregistry.handlers.thread import KopfThread
from configregistry.health import Means, Outbound, Runner
from configregistry.kube.client import Api
from configregistry.kube.credentials import ca_file, token_file
from configregistry.kube.election import Election, Unelected
from configregistry.kube.events import Recorder
from configregistry.kube.fence import Fence
from configregistry.kube.lease import Leases
from configregistry.kube.objects import RegistryObject, RevisionObject
from configregistry.kube.workloads import KubeWorkloads
from configregistry.reconcile import (
    Collector,
    Controller,
    Floors,
    InProcess,
    Ledger,
    OverHttp,
    Replicas,
    VersionIndex,
    Watched,
    at_addresses,
    of_service,
)
from configregistry.serve.consumers import Consumers
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

WORKED_OFF: Final = 30.0
"""Seconds that the start waits at most for what was listed to be reconciled."""
DRAIN: Final = 1.0
"""Seconds that events have at the end to be sent."""


class Deciding:
    """Wired from what is followed; runs its parts until they are cancelled."""

    def __init__(
        self,
        settings: Settings,
        api: Api,
        following: Following,
        clock: Clock,
        metrics: Metrics,
        local: Consumers | None = None,
    ) -> None:
        """`local`: what the serving half of this process knows, which then is the only replica there is."""
        self._settings = settings
        self._api = api
        self._clock = clock
        self._metrics = metrics
        self._replicas = _replicas(settings, api, local)
        self._collector = (
            Collector(self._replicas, clock, metrics, tells=lambda: self._controller is not None)
            if self._replicas is not None
            else None
        )
        self._following = following
        self._recorder = Recorder(api, instance=platform.node())
        self._outbound = Outbound(allow_local=not settings.in_cluster)
        self._means = Means(self._outbound, self._collector, KubeWorkloads(api))
        self._versions = VersionIndex()
        following.revisions.subscribe(self._revision_changed)
        self._ledger = Ledger()
        following.registries.subscribe(self._registry_changed)
        self._floors = Floors()
        for followed in (following.registries, following.configmaps):
            followed.subscribe_rewound(self._rewound)
        self._election = _election(settings, api, following) if settings.leader_election else None
        self._controller: Controller | None = None
        self._terms = Terms(self._election, self._term, partial(behind, api, following, settings.namespaces), metrics)
        self._kopf: KopfThread | None = None
        self._admission = (
            Admission(settings, api, following, self._collector, clock, metrics) if settings.webhook_port else None
        )

    @property
    def ready(self) -> Mapping[str, Callable[[], str | None]]:
        """What readiness waits for beside the lists: not for leading, since who waits for its turn is well."""
        return {}

    async def open(self) -> None:
        """Make kopf's thread, to be started late; the webhook's starts now, since it lists nothing."""
        login = kopf_settings.login_with(self._settings.kubeconfig, self._settings.context)
        enqueue = self._enqueue()

        def register(registry: kopf.OperatorRegistry) -> None:
            kopf_settings.register(registry, login)
            registries.register(registry, enqueue)

        self._kopf = KopfThread(register, self._settings.namespaces)
        if self._admission is not None:
            await self._admission.open()

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until the end."""
        parts = [self._recorder.run(), self._terms.run()]
        if self._collector is not None:
            parts.append(self._collector.run())
        return parts if self._admission is None else [*parts, *self._admission.parts()]

    def begin(self) -> None:
        """Everything has been listed: lead, or wait for the turn to."""
        self._terms.open()

    async def filled(self) -> None:
        """Nothing of this half has to be in memory before reads are quick."""

    async def settle(self) -> None:
        """Have kopf start last.

        All that it would name by then is queued, and its own list of 10,000 objects takes the interpreter for
        seconds which readers wait for.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(WORKED_OFF):
                await self._terms.looked()
                while self._controller is not None and self._controller.waiting:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.05)
        if self._kopf is not None:
            self._kopf.start()

    async def drain(self) -> None:
        """Say what has still to be said."""
        if self._kopf is not None:
            self._kopf.ask_to_stop()
        if self._admission is not None:
            self._admission.drain()
        await self._recorder.drain(DRAIN)

    async def close(self) -> None:
        """End kopf, and what is asked with."""
        if self._admission is not None:
            await self._admission.close()
        if self._kopf is not None:
            await self._kopf.stop()
        await self._outbound.close()
        if self._replicas is not None:
            await self._replicas.close()

    def _term(self) -> _Term:
        """All that decides, made anew for each term."""
        following, election = self._following, self._election
        fence = Fence(election.permit if election is not None else lambda: None)
        self._controller = Controller(
            self._api.fenced(fence),
            Watched(
                following.registries.store,
                following.configmaps.store,
                following.policies.store,
                following.namespaces.store,
                lambda: following.registries.watching and following.revisions.watching,
            ),
            self._recorder,
            self._outbound,
            lambda changed, probed: Runner(self._means, self._clock, changed, probed=probed),
            self._clock,
            self._metrics,
            spread=_spread,
            collector=self._collector,
            unused_after=self._settings.unused_after,
            versions=self._versions,
            office=election or Unelected(),
            floors=self._floors,
            ledger=self._ledger,
        )
        return _Term(self._controller, following, fence, self._settings.workers, self._term_ended)

    def _term_ended(self) -> None:
        """Nobody decides here: nothing of the term is kept, nor told of anything."""
        self._controller = None

    def _rewound(self) -> None:
        """Etcd was restored: keep what was known before it is gone, in and out of office."""
        registries = self._following.registries.store
        self._floors.keep(registries.values())
        if self._controller is not None:
            self._controller.rewound(list(registries))

    def _registry_changed(self, _key: tuple[str, str], _old: RegistryObject | None, new: RegistryObject | None) -> None:
        """See what became of writes of a term that is over."""
        if new is not None:
            self._ledger.settle(new)

    def _revision_changed(self, key: tuple[str, str], old: RevisionObject | None, new: RevisionObject | None) -> None:
        """Keep the index up to date in and out of office."""
        self._versions.changed(key, old, new)

    def _enqueue(self) -> Callable[[str, str], None]:
        loop = asyncio.get_running_loop()

        def named(namespace: str, name: str) -> None:
            if self._controller is not None:
                self._controller.triggers.named(namespace, name)

        def enqueue(namespace: str, name: str) -> None:
            loop.call_soon_threadsafe(named, namespace, name)

        return enqueue


class _Term:
    """One term: a controller, told of changes."""

    def __init__(
        self, controller: Controller, following: Following, fence: Fence, workers: int, ended: Callable[[], None]
    ) -> None:
        self._ended = ended
        self._controller = controller
        self._following = following
        self._fence = fence
        self._workers = workers
        triggers = controller.triggers
        self._unsubscribe = (
            following.registries.subscribe(triggers.registry_changed),
            following.revisions.subscribe(triggers.revision_changed),
            following.configmaps.subscribe(triggers.configmap_changed),
            following.policies.subscribe(triggers.policy_changed),
            following.namespaces.subscribe(triggers.namespace_changed),
        )

    def begin(self, behind: Iterable[tuple[tuple[str, str], str]]) -> None:
        """Look at everything."""
        self._controller.begin(self._following.registries.store, behind)

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """The workers."""
        return [self._controller.work() for _ in range(self._workers)]

    async def shut(self, seconds: float) -> bool:
        """Write nothing any more, and wait at most so long for what is under way."""
        return await self._fence.shut(seconds)

    async def close(self) -> None:
        """End the checks, and hear of nothing any more."""
        self._ended()
        for end in self._unsubscribe:
            end()
        await self._controller.close()


def _election(settings: Settings, api: Api, following: Following) -> Election:
    return Election(
        Leases(api.apart(), place(settings)),
        identity(),
        WakefulClock(),
        partial(newest_epoch, following),
        jitter=_spread,
        able=lambda: following.staleness() < STALE,
    )


def _spread() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311


def _replicas(settings: Settings, api: Api, local: Consumers | None) -> Replicas | None:
    """Whom consumers report to; None where nobody was named."""
    if local is not None:
        return InProcess(local.exchange, local.newer)
    ca, token = settings.replica_ca_file, settings.replica_token_file
    if settings.replicas:
        find, source = at_addresses(settings.replicas), "replicas"
    elif settings.replica_service:
        namespace, _, name = settings.replica_service.partition("/")
        find, source = of_service(api, namespace, name, tls=ca is not None), f"service {settings.replica_service}"
    else:
        _log.warning("no replicas are named (--replica-service, --replica): checks of kind consumers cannot be made")
        return None
    return OverHttp(
        find,
        source,
        token=token_file(token).get if token is not None else None,
        tls=ca_file(ca).get if ca is not None else None,
        server_hostname=_hostname(settings),
    )


def _hostname(settings: Settings) -> str | None:
    """Pods are asked by their addresses; their certificate is for the Service."""
    if settings.replica_ca_file is None or not settings.replica_service:
        return None
    namespace, _, name = settings.replica_service.partition("/")
    return f"{name}.{namespace}.svc"
