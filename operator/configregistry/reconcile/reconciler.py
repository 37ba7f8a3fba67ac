"""Workers that take names from the queue: gather -> decide -> act. Nothing else calls these three."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from msgspec.structs import replace

from configregistry import failpoints
from configregistry.clock import Clock
from configregistry.errors import ConfigRegistryError
from configregistry.health import Runner
from configregistry.kube.election import CREDIBLE, Office
from configregistry.kube.failures import ApiError, Conflict, NotLeading, Unavailable
from configregistry.model.conditions import standing
from configregistry.reconcile.act import Actor
from configregistry.reconcile.consent import Consent
from configregistry.reconcile.gather import Gathered, Gatherer
from configregistry.reconcile.memory import Key, Memories
from configregistry.reconcile.queue import LAST_RETRY, WorkQueue
from configregistry.reconcile.sources import Unreadable
from configregistry.reconcile.traced import Times, deciding
from configregistry.reconcile.triggers import Triggers
from configregistry.reconcile.usage import Readers
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import Decision
from configregistry.telemetry import tracing
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

ROLLBACK_RETRY: Final = 0.2
"""Seconds at most between two tries while a candidate is out (rollout.md: "retry every 200 ms")."""
REFUSED_RETRY: Final = 2.0
"""The same where the API server does answer, and refuses."""
TIDY_RETRY: Final = 30.0
"""Seconds after which marks and pruning that failed are tried again."""


class Reconciler:
    """Works off the queue. One registry is never in two workers at a time (the queue sees to it)."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        gatherer: Gatherer,
        actor: Actor,
        consent: Consent,
        runner: Runner,
        memories: Memories,
        triggers: Triggers,
        clock: Clock,
        metrics: Metrics,
        readers: Readers,
        office: Office,
    ) -> None:
        self._queue = queue
        self._gatherer = gatherer
        self._actor = actor
        self._consent = consent
        self._runner = runner
        self._memories = memories
        self._triggers = triggers
        self._clock = clock
        self._metrics = metrics
        self._readers = readers
        self._office = office
        self._rolling: set[Key] = set()

    async def work(self) -> None:
        """Reconcile names for ever; one registry's error is never another one's."""
        while True:
            key = await self._queue.get()
            failpoints.about(key[1])
            started = self._clock.monotonic()
            try:
                failpoints.reach("queue.taken")
                result = await self._once(key)
                failpoints.reach("queue.done")
            except Exception:  # noqa: BLE001
                # A defect of ours. It must not end the worker; the registry is tried again, ever more rarely.
                _log.exception("reconcile failed", namespace=key[0], registry=key[1])
                self._queue.retry(key)
                result = "defect"
            finally:
                self._queue.done(key)
            self._metrics.reconciles.labels(result).inc()
            self._metrics.reconcile_duration.observe(self._clock.monotonic() - started)
            # A registry that is steady waits for nothing: without this, 10,000 of them would hold up every read.
            await asyncio.sleep(0)

    async def _once(self, key: Key) -> str:
        """Reconcile one registry; gives the result to count."""
        try:
            wake_in = await self.reconcile(key)
        except Conflict:
            # Somebody changed the object since it was read: read and decide again at once.
            self._queue.retry(key, at_most=ROLLBACK_RETRY)
            return "conflict"
        except NotLeading:
            self._queue.retry(key)  # this term ends in a moment; in the next one all are looked at anew
            return "fenced"
        except (ApiError, Unreadable) as error:
            self._again(key, error)
            return "error"
        self._queue.succeeded(key)
        if wake_in is not None:
            self._queue.add_after(key, wake_in)
        return "ok"

    async def reconcile(self, key: Key) -> float | None:
        """One pass; gives the seconds after which to come again, None when only an event would change anything."""
        began = tracing.now()
        gathered = await self._gatherer.gather(key)
        if gathered is None:
            self._forget(key)
            return None
        (self._rolling.add if gathered.status.canary else self._rolling.discard)(key)
        self._metrics.stand(*key, standing(gathered.status.conditions))
        times = Times(began, tracing.now())
        failpoints.reach("decide.before")
        decision = self._signed(gathered, decide(gathered.status, gathered.observation))
        failpoints.reach("decide.after")
        if decision.changed or gathered.belief.drifted or decision.status != gathered.status:
            with deciding(gathered, decision, times):
                await self._actor.commit(gathered, decision)
            memory = gathered.memory
            if memory.written != decision.status:
                if not memory.drops:
                    told = "the API server drops fields of the status: the CRD is older than this program, apply crds/"
                    _log.error(told, namespace=key[0], registry=key[1])
                # Without them the rest is decided: neither a rollout nor a rollback waits for the CRD.
                first, memory.drops = not memory.drops, True
                return TIDY_RETRY if memory.written == gathered.status and not first else 0.0
            return 0.0
        if decision.record:
            with deciding(gathered, decision, times):
                await self._actor.record(gathered)
            return 0.0
        tidied = await self._actor.tidy(gathered)
        wakes = [self._readers.look_in(gathered.object.meta, gathered.status)]
        wakes += [decision.wake_in] if decision.wake_in is not None else []
        wakes += [] if tidied else [TIDY_RETRY]
        if gathered.unread:
            # Asked again with a growing delay; time goes on for a candidate all the same.
            self._queue.add_after(key, min(wakes))
            raise Unreadable(gathered.unread)
        return min(wakes)

    def _signed(self, gathered: Gathered, decision: Decision) -> Decision:
        """Put the epoch under what is to be written. Raises `NotLeading` where a later leader has written already.

        A candidate that is out is signed at once, changed or not: what the leader before it still sends was decided
        on another resourceVersion then.
        """
        epoch, there = self._office.epoch, gathered.belief.epoch
        if not epoch:
            return decision
        if epoch < there <= CREDIBLE:
            self._office.outbid(there)
            raise NotLeading(f"not written: epoch {there} is there already, and this leader's is {epoch}")
        if decision.changed or gathered.belief.drifted or decision.status.canary is not None:
            return decision._replace(status=replace(decision.status, leader_epoch=epoch))
        return decision

    def _again(self, key: Key, error: ConfigRegistryError) -> None:
        """Have a registry tried again after a failure: soon, where a rollback may be waiting for it."""
        at_most, at_least = LAST_RETRY, getattr(error, "retry_after", None) or 0.0
        if key in self._rolling and not isinstance(error, Unreadable):
            at_most = ROLLBACK_RETRY if isinstance(error, Unavailable) else REFUSED_RETRY
        failures = self._queue.failures(key)
        seconds = self._queue.retry(key, at_most, at_least)
        # The 1st, 2nd, 4th, 8th time: an outage of an hour must not fill the disk.
        if failures & (failures + 1) == 0:
            _log.warning(
                "to be tried again",
                namespace=key[0],
                registry=key[1],
                error=str(error),
                failures=failures + 1,
                seconds=round(seconds, 2),
            )

    def _forget(self, key: Key) -> None:
        self._actor.forget(key)
        self._triggers.follow(key, frozenset())
        memory = self._memories.forget(key)
        if memory is not None and memory.rollout is not None:
            self._runner.forget(memory.rollout)
        self._consent.forget(key)
        self._queue.forget(key)
        self._readers.forget(key)
        self._rolling.discard(key)
        self._metrics.dismiss(*key)
