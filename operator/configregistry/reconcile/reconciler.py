"""Workers that take names from the queue: gather -> decide -> act. Nothing else calls these three."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from configregistry.clock import Clock
from configregistry.health import Runner
from configregistry.kube.failures import ApiError, Conflict
from configregistry.reconcile.act import Actor
from configregistry.reconcile.gather import Gathered, Gatherer
from configregistry.reconcile.memory import Key, Memories
from configregistry.reconcile.queue import WorkQueue
from configregistry.reconcile.sources import Unreadable
from configregistry.reconcile.triggers import Triggers
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import Decision
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

ROLLBACK_RETRY: Final = 0.2
"""Seconds at most between two tries while a candidate is out (rollout.md: "retry every 200 ms")."""


class Reconciler:
    """Works off the queue. One registry is never in two workers at a time (the queue sees to it)."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        gatherer: Gatherer,
        actor: Actor,
        runner: Runner,
        memories: Memories,
        triggers: Triggers,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._queue = queue
        self._gatherer = gatherer
        self._actor = actor
        self._runner = runner
        self._memories = memories
        self._triggers = triggers
        self._clock = clock
        self._metrics = metrics
        self._rolling: set[Key] = set()

    async def work(self) -> None:
        """Reconcile names for ever; one registry's error is never another one's."""
        while True:
            key = await self._queue.get()
            started = self._clock.monotonic()
            try:
                result = await self._once(key)
            except Exception:  # noqa: BLE001
                # A defect of ours. It must not end the worker; the registry is tried again, ever more rarely.
                _log.exception("reconcile failed", namespace=key[0], registry=key[1])
                self._queue.retry(key)
                result = "defect"
            finally:
                self._queue.done(key)
            self._metrics.reconciles.labels(result).inc()
            self._metrics.reconcile_duration.observe(self._clock.monotonic() - started)

    async def _once(self, key: Key) -> str:
        """Reconcile one registry; gives the result to count."""
        try:
            wake_in = await self.reconcile(key)
        except Conflict:
            # Somebody changed the object since it was read: read and decide again at once.
            self._queue.retry(key, at_most=ROLLBACK_RETRY)
            return "conflict"
        except (ApiError, Unreadable) as error:
            urgent = key in self._rolling
            seconds = self._queue.retry(key, *([ROLLBACK_RETRY] if urgent else []))
            _log.warning(
                "to be tried again", namespace=key[0], registry=key[1], error=str(error), seconds=round(seconds, 2)
            )
            return "error"
        self._queue.succeeded(key)
        if wake_in is not None:
            self._queue.add_after(key, wake_in)
        return "ok"

    async def reconcile(self, key: Key) -> float | None:
        """One pass; gives the seconds after which to come again, None when only an event would change anything."""
        gathered = await self._gatherer.gather(key)
        if gathered is None:
            self._forget(key)
            return None
        self._triggers.follow(key, gathered.spec)
        (self._rolling.add if gathered.status.canary else self._rolling.discard)(key)
        await self._actor.restore(gathered)
        decision = decide(gathered.status, gathered.observation)
        if decision.record:
            await self._actor.record(gathered)
            return 0.0
        if decision.changed or gathered.observed != gathered.status:
            await self._commit(key, gathered, decision)
            return 0.0
        await self._actor.tidy(gathered)
        return decision.wake_in

    async def _commit(self, key: Key, gathered: Gathered, decision: Decision) -> None:
        if not decision.changed:
            self._metrics.drift_repairs.inc()
            _log.warning("status was changed by another hand, and is put back", namespace=key[0], registry=key[1])
        await self._actor.commit(gathered, decision)

    def _forget(self, key: Key) -> None:
        self._triggers.follow(key, None)
        memory = self._memories.forget(key)
        if memory is not None and memory.rollout is not None:
            self._runner.forget(memory.rollout)
        self._queue.forget(key)
        self._rolling.discard(key)


async def run_workers(reconciler: Reconciler, number: int) -> None:
    """Run so many workers until cancelled."""
    async with asyncio.TaskGroup() as group:
        for index in range(number):
            group.create_task(reconciler.work(), name=f"reconcile worker {index}")
