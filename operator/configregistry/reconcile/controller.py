"""The parts of reconcile, wired: what is left to the outside is what they see and what they write with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from configregistry.clock import Clock
from configregistry.health import RolloutKey, Runner
from configregistry.kube.client import Api
from configregistry.kube.election import Office, Unelected
from configregistry.kube.events import Recorder
from configregistry.kube.objects import MetaObject, PolicyObject, RegistryObject
from configregistry.reconcile.act import Actor, Reported
from configregistry.reconcile.asking import Outbound
from configregistry.reconcile.audit import Ledger
from configregistry.reconcile.cluster import Cluster, VersionIndex, fresh_namespace, fresh_policy
from configregistry.reconcile.collector import Collector
from configregistry.reconcile.consent import Consent
from configregistry.reconcile.floors import Floors
from configregistry.reconcile.gather import Gatherer
from configregistry.reconcile.hooks import Hooks
from configregistry.reconcile.memory import Key, Memories
from configregistry.reconcile.policies import Policies
from configregistry.reconcile.queue import WorkQueue
from configregistry.reconcile.reconciler import Reconciler
from configregistry.reconcile.sources import Sources
from configregistry.reconcile.triggers import Triggers
from configregistry.reconcile.usage import UNUSED_AFTER, Readers
from configregistry.reconcile.validation import Validation
from configregistry.reconcile.wanted import Wanted
from configregistry.rollout.observation import Probe
from configregistry.rollout.plan import CheckPlan
from configregistry.telemetry.metrics import Metrics

Changed = Callable[[RolloutKey], None]
Probed = Callable[[RolloutKey, CheckPlan, Probe], None]
MakeRunner = Callable[[Changed, Probed], Runner]
"""Gives what makes the checks, told whom to call when they have something to say."""


class Watched(NamedTuple):
    """What watches hold: registries, the metadata of ConfigMaps and Namespaces, RolloutPolicies."""

    registries: Mapping[Key, RegistryObject]
    configmaps: Mapping[Key, MetaObject]
    policies: Mapping[Key, PolicyObject]
    namespaces: Mapping[Key, MetaObject]
    live: Callable[[], bool] = lambda: True
    """Whether registries and versions are held as they are now: their watches are open."""


def policies_of(api: Api, policies: Mapping[Key, PolicyObject], namespaces: Mapping[Key, MetaObject]) -> Policies:
    """The look-up of policies, by what watches hold and what the API server says where they lack something."""
    return Policies(policies, namespaces, partial(fresh_policy, api), partial(fresh_namespace, api))


class Controller:
    """Decides about registries, from changes that its `triggers` are told of. `work` in some tasks at once.

    `collector` is what the runner asks about consumers; None where no replicas are known.
    """

    def __init__(
        self,
        api: Api,
        watched: Watched,
        recorder: Recorder,
        outbound: Outbound,
        make_runner: MakeRunner,
        clock: Clock,
        metrics: Metrics,
        spread: Callable[[], float],
        collector: Collector | None = None,
        unused_after: float = UNUSED_AFTER,
        versions: VersionIndex | None = None,
        office: Office = Unelected(),  # noqa: B008 - immutable
        floors: Floors | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`versions`, `floors`, `ledger`: what outlives a term, kept by whoever tells `triggers` of changes."""
        queue: WorkQueue[Key] = WorkQueue(spread)
        self._queue = queue
        metrics.queue_depth.set_function(lambda: len(queue))
        versions = versions if versions is not None else VersionIndex()
        self._memories = memories = Memories()
        cluster = Cluster(api, watched.registries, versions, watched.configmaps, recorder, watched.live)
        self._runner = make_runner(
            lambda rollout: self._probes_said((rollout.namespace, rollout.registry)),
            lambda _key, check, probe: metrics.checks.labels(check.name, probe.verdict.value).inc(),
        )
        self.triggers = Triggers(queue, versions)
        self._sources = Sources(cluster.read_configmap)
        policies = policies_of(api, watched.policies, watched.namespaces)
        wanted = Wanted(cluster, self._sources, policies, self.triggers)
        self._consent = Consent(
            cluster, Validation(outbound, clock, queue.add), Hooks(outbound, clock, queue.add, cluster.tell)
        )
        readers = Readers(collector.last_read if collector else lambda *_: None, clock, unused_after)
        metrics.unused.set_function(lambda: len(readers))
        floors = floors if floors is not None else Floors()
        self._gatherer = Gatherer(cluster, wanted, self._consent, self._runner, clock, memories, readers, floors)
        # Without replicas nobody runs with anything; a collector that has not asked them yet knows of that.
        reported: Reported = collector.reported if collector else lambda *_: ()
        ledger = ledger if ledger is not None else Ledger()
        self._actor = Actor(cluster, self._runner, clock, metrics, reported, queue.add, ledger)
        self._unsubscribe: list[Callable[[], None]] = []
        if collector is not None:
            self._unsubscribe = [
                collector.subscribe(lambda registries: self._runner.news("consumers", registries)),
                collector.subscribe_reads(lambda read: self._look_at(readers.among(read))),
            ]
        self._reconciler = Reconciler(
            queue,
            self._gatherer,
            self._actor,
            self._consent,
            self._runner,
            memories,
            self.triggers,
            clock,
            metrics,
            readers,
            office,
        )

    def begin(self, registries: Iterable[Key], behind: Iterable[tuple[Key, str]] = ()) -> None:
        """Look at all of these, and at each change from now on.

        `behind`: key and UID of those that a watch has not told of as they are; they are asked for first.
        """
        for key, uid in behind:
            self._memories.doubt(key, uid)
        self.triggers.open(registries)

    def rewound(self, registries: Iterable[Key]) -> None:
        """The API server went back to an older state for good: all is read anew, and looked at."""
        self._memories.rewound()
        self._look_at(registries)

    def _look_at(self, registries: Iterable[Key]) -> None:
        for key in registries:
            self._queue.add(key)

    def _probes_said(self, registry: Key) -> None:
        self._queue.add(registry)
        self._gatherer.news(registry)

    @property
    def waiting(self) -> int:
        """How many registries wait to be reconciled."""
        return len(self._queue)

    async def work(self) -> None:
        """One worker: reconcile names for ever."""
        await self._reconciler.work()

    async def close(self) -> None:
        """End the checks, and what is asked and told."""
        self._queue.close()
        for end in self._unsubscribe:
            end()
        await self._runner.close()
        await self._consent.close()
        await self._sources.close()
        await self._actor.close()
