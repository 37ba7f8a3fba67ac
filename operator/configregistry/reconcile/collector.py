"""What the leader knows of consumers: every EXCHANGE_EVERY seconds it asks all serve replicas, and tells them.

In a round each replica is handed the list that the last round came to, all at the same time, and states what it
heard itself (model/reports.py says how these become one list). A replica that does not answer keeps its word
until the TTLs in it are over, and is told of as an error: never as fewer consumers.

Only the leader may run this: a second one would do no harm to the lists, but decide by its own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog

from configregistry.clock import Clock
from configregistry.health import Known
from configregistry.health.consumers_check import STALE
from configregistry.model.reports import EXCHANGE_EVERY, Exchange, Gathering, Merged, Place, Report, merge
from configregistry.reconcile.memory import Key
from configregistry.reconcile.replicas import Answer, Replicas
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

News = Callable[[Collection[Key]], None]
"""Is told of registries of which a consumer reports an error that it did not report before."""
_Owner = tuple[str, str, str]
"""Namespace, name and UID of a registry."""


class _Round(NamedTuple):
    """What a round came to."""

    asked: float
    """Monotonic time at its start."""
    at: float
    """Monotonic time at which the ages were those of the lists."""
    consumers: Mapping[_Owner, Sequence[Report]]
    errors: Mapping[str, str]


class Collector:
    """Asks in rounds while `run` runs; in between everybody may look at the last one."""

    def __init__(
        self,
        replicas: Replicas,
        clock: Clock,
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._replicas = replicas
        self._clock = clock
        self._metrics = metrics
        self._sleep = sleep
        self._news: list[News] = []
        self._latest: _Round | None = None
        self._first = asyncio.Event()

    def subscribe(self, news: News) -> None:
        """Tell of errors that are new, from now on."""
        self._news.append(news)

    async def run(self) -> None:
        """Ask until cancelled; then nothing is known any more."""
        gathering, given, failing = Gathering(), Exchange(), frozenset[tuple[Place, int]]()
        try:
            while True:
                started = self._clock.monotonic()
                answers = await self._ask(given)
                now = self._clock.monotonic()
                for each in answers:
                    if each.reports is not None:
                        # As old as it can be: what was said before a stage must not seem to be of it.
                        gathering.told(each.reports, started)
                merged = gathering.merged(now)
                self._take(started, now, merged, answers)
                failing = self._tell(failing, merged.consumers if merged else ())
                self._metrics.exchange_duration.observe(now - started)
                await self._sleep(max(0.0, started + EXCHANGE_EVERY - self._clock.monotonic()))
                given = Exchange.of(merged, self._clock.monotonic() - now)
        finally:
            self._latest = None
            self._first.clear()

    async def known(self, namespace: str, registry: str, uid: str) -> Known:
        """The consumers of one registry; waits until all replicas have been asked for the first time."""
        while self._latest is None:
            await self._first.wait()
        latest, now = self._latest, self._clock.monotonic()
        return Known(_alive(latest, (namespace, registry, uid), now), latest.errors, now - latest.asked)

    def reported(self, namespace: str, registry: str, uid: str) -> frozenset[int] | None:
        """The versions that consumers of a registry run with; None while nobody can know all of them."""
        latest, now = self._latest, self._clock.monotonic()
        if latest is None or latest.errors or now - latest.asked > STALE:
            return None
        consumers = _alive(latest, (namespace, registry, uid), now)
        return frozenset(each.observed.version for each in consumers if each.observed is not None)

    async def _ask(self, given: Exchange) -> Sequence[Answer]:
        try:
            return await self._replicas.exchange(given)
        except Exception as error:  # noqa: BLE001
            # A defect of ours. The rounds go on, and every check says that it cannot be made.
            _log.exception("asking the replicas failed")
            return [Answer("replicas", None, f"asking failed with {type(error).__name__}")]

    def _take(self, asked: float, now: float, merged: Merged | None, answers: Sequence[Answer]) -> None:
        consumers: defaultdict[_Owner, list[Report]] = defaultdict(list)
        for each in merged.consumers if merged else ():
            consumers[each.namespace, each.registry, each.uid].append(each)
        errors = {each.name: each.error or "no answer" for each in answers if each.reports is None}
        before = self._latest.errors if self._latest else {}
        for name in errors.keys() - before.keys():
            _log.warning("a replica does not answer", replica=name, error=errors[name])
        for name in before.keys() - errors.keys():
            _log.info("a replica answers again, or is gone", replica=name)
        self._metrics.exchange_errors.inc(len(errors))
        self._latest = _Round(asked, now, dict(consumers), errors)
        self._first.set()

    def _tell(self, before: frozenset[tuple[Place, int]], consumers: Iterable[Report]) -> frozenset[tuple[Place, int]]:
        """Tell of errors that are new; gives those that there are."""
        failing = frozenset(
            (each.place, each.observed.version)
            for each in consumers
            if each.observed is not None and each.observed.status == "error"
        )
        registries = {(place.namespace, place.registry) for place, _version in failing - before}
        for news in self._news if registries else ():
            try:
                news(registries)
            except Exception:  # noqa: BLE001 - their error is not ours
                _log.exception("telling of reports failed")
        return failing


def _alive(latest: _Round, owner: _Owner, now: float) -> tuple[Report, ...]:
    """The consumers whose TTL is not over, as of now."""
    return tuple(merge([(latest.consumers.get(owner, ()), now - latest.at)]).consumers)
