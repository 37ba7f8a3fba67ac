"""What a controller knows of consumers: every EXCHANGE_EVERY seconds it asks all serve replicas, and tells them.

Sooner when one of them has heard of an error that is new (they are waited for between the rounds), so that a rollback
does not wait for a round; but never two such rounds within EARLY_EVERY, whatever replicas say and however many
consumers fail at once.

In a round each replica is handed the list that the last round came to, all at the same time, and states what it
heard itself (model/reports.py says how these become one list). A replica that does not answer keeps its word
until the TTLs in it are over, and is told of as an error: never as fewer consumers.

Who waits for its turn to lead runs it as well, and hands out nothing: it then knows the consumers from the first
moment, and can say who reads a registry that somebody wants to delete. What two of them handed out would differ where
one of them does not reach a replica.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple

import structlog

from configregistry.clock import Clock
from configregistry.health import Known
from configregistry.health.consumers_check import STALE
from configregistry.model.reads import LastReads, Owner
from configregistry.model.reports import EXCHANGE_EVERY, Exchange, Gathering, Merged, Place, Report, merge
from configregistry.reconcile.memory import Key
from configregistry.reconcile.replicas import Answer, Replicas
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

EARLY_EVERY: Final = 0.25
"""Seconds between two rounds that are made before their time, at least."""
READS_EVERY: Final = 600.0
"""Seconds after which all that was read is asked for again: what was said in between may have been lost."""
LONG_AGO: Final = 86_400.0
"""Seconds for which a read counts though somebody else, who may know of a later one, was never heard."""

News = Callable[[Collection[Key]], None]
"""Is told of registries of which something is new."""


class _Round(NamedTuple):
    """What a round came to."""

    asked: float
    """Monotonic time at its start."""
    at: float
    """Monotonic time at which the ages were those of the lists."""
    consumers: Mapping[Owner, Sequence[Report]]
    errors: Mapping[str, str]
    reads: bool
    """Whether all replicas have said what was read there."""


class Collector:
    """Asks in rounds while `run` runs; in between everybody may look at the last one."""

    def __init__(
        self,
        replicas: Replicas,
        clock: Clock,
        metrics: Metrics,
        *,
        tells: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`tells`: whether the replicas are to be handed what a round came to, or only asked."""
        self._tells = tells
        self._replicas = replicas
        self._clock = clock
        self._metrics = metrics
        self._sleep = sleep
        self._news: list[News] = []
        self._read: list[News] = []
        self._reads = LastReads()
        self._whole: dict[str, str] = {}
        """By name of those who have said all that was read there: which process it was."""
        self._latest: _Round | None = None
        self._first = asyncio.Event()

    def subscribe(self, news: News) -> Callable[[], None]:
        """Tell of registries of which a consumer reports an error that it did not report before, from now on.

        What is returned ends that.
        """
        self._news.append(news)
        return partial(self._news.remove, news)

    def subscribe_reads(self, read: News) -> Callable[[], None]:
        """Tell of registries that somebody has read since it was told of last, from now on; as `subscribe`."""
        self._read.append(read)
        return partial(self._read.remove, read)

    async def run(self) -> None:
        """Ask until cancelled; then nothing is known any more."""
        gathering, given, failing = Gathering(), Exchange(reads=True), frozenset[tuple[Place, int]]()
        early = wanted = -inf
        try:
            while True:
                started = self._clock.monotonic()
                if given.reads:
                    wanted = started
                    self._reads.forget(started)
                answers = await self._ask(given)
                now = self._clock.monotonic()
                for each in answers:
                    if each.reports is not None:
                        # As old as it can be: what was said before a stage must not seem to be of it.
                        gathering.told(each.reports, started)
                merged = gathering.merged(now)
                self._take(started, now, merged, answers)
                failing = self._tell(failing, merged.consumers if merged else ())
                self._take_reads(started, answers, whole=given.reads)
                self._metrics.exchange_duration.observe(now - started)
                # A round costs each replica the time to encode all that it heard; early ones take a third at most.
                if await self._until(started + EXCHANGE_EVERY, early + max(EARLY_EVERY, 2 * (now - started))):
                    early = self._clock.monotonic()
                reads = self._lacks(answers) or self._clock.monotonic() - wanted >= READS_EVERY
                given = Exchange.of(merged if self._tells() else None, self._clock.monotonic() - now, reads=reads)
        finally:
            self._latest = None
            self._first.clear()
            self._reads, self._whole = LastReads(), {}

    async def known(self, namespace: str, registry: str, uid: str) -> Known:
        """The consumers of one registry; waits until all replicas have been asked for the first time."""
        while self._latest is None:
            await self._first.wait()
        latest, now = self._latest, self._clock.monotonic()
        return Known(_alive(latest, Owner(namespace, registry, uid), now), latest.errors, now - latest.asked)

    def reported(self, namespace: str, registry: str, uid: str) -> frozenset[int] | None:
        """The versions that consumers of a registry run with; None while nobody can know all of them."""
        latest, now = self._latest, self._clock.monotonic()
        if latest is None or latest.errors or now - latest.asked > STALE:
            return None
        consumers = _alive(latest, Owner(namespace, registry, uid), now)
        return frozenset(each.observed.version for each in consumers if each.observed is not None)

    def last_read(self, namespace: str, registry: str, uid: str) -> float | None:
        """Seconds since somebody read a registry; infinite where no replica has noted it since it started.

        None while nobody can say: before the first round, and while there is a replica that has not said yet what
        was read there; a read of the last day counts all the same.
        """
        if self._latest is None:
            return None
        age = self._reads.age(Owner(namespace, registry, uid), self._clock.monotonic())
        if not self._latest.reads and (age is None or age > LONG_AGO):
            return None
        return inf if age is None else age

    async def _until(self, due: float, early: float) -> bool:
        """Wait until a round is due, or before that for an error that is new; gives whether it was that."""
        seconds = due - self._clock.monotonic()
        if seconds <= 0:
            return False
        time, news = asyncio.ensure_future(self._sleep(seconds)), asyncio.create_task(self._heard(seconds))
        try:
            await asyncio.wait((time, news), return_when=asyncio.FIRST_COMPLETED)
            if not time.done() and not news.result():
                await time
            if time.done():
                return False
        finally:
            await _ended(time, news)
        await self._sleep(max(0.0, min(early, due) - self._clock.monotonic()))
        return True

    async def _heard(self, seconds: float) -> bool:
        try:
            return await self._replicas.news(seconds)
        except Exception:  # noqa: BLE001 - see _ask
            _log.exception("waiting for the replicas failed")
            return False

    async def _ask(self, given: Exchange) -> Sequence[Answer]:
        try:
            return await self._replicas.exchange(given)
        except Exception as error:  # noqa: BLE001
            # A defect of ours. The rounds go on, and every check says that it cannot be made.
            _log.exception("asking the replicas failed")
            return [Answer("replicas", None, f"asking failed with {type(error).__name__}")]

    def _take(self, asked: float, now: float, merged: Merged | None, answers: Sequence[Answer]) -> None:
        consumers: defaultdict[Owner, list[Report]] = defaultdict(list)
        for each in merged.consumers if merged else ():
            consumers[Owner(each.namespace, each.registry, each.uid)].append(each)
        errors = {each.name: each.error or "no answer" for each in answers if each.reports is None}
        before = self._latest.errors if self._latest else {}
        for name in errors.keys() - before.keys():
            _log.warning("a replica does not answer", replica=name, error=errors[name])
        for name in before.keys() - errors.keys():
            _log.info("a replica answers again, or is gone", replica=name)
        self._metrics.exchange_errors.inc(len(errors))
        self._latest = _Round(asked, now, dict(consumers), errors, reads=False)
        self._first.set()

    def _tell(self, before: frozenset[tuple[Place, int]], consumers: Iterable[Report]) -> frozenset[tuple[Place, int]]:
        """Tell of errors that are new; gives those that there are."""
        failing = frozenset(
            (each.place, each.observed.version)
            for each in consumers
            if each.observed is not None and each.observed.status == "error"
        )
        _call(self._news, {(place.namespace, place.registry) for place, _version in failing - before})
        return failing

    def _take_reads(self, asked: float, answers: Sequence[Answer], *, whole: bool) -> None:
        """Take what was read, and tell of it; `whole`: the replicas were asked for all of it."""
        read: set[Key] = set()
        for each in answers:
            if each.reports is None and each.name in self._whole:
                self._whole[each.name] = ""  # what it says of late, later, is not all that it has not said
            elif each.reports is not None and each.reports.reads is not None:
                read.update(owner[:2] for owner in self._reads.told(each.reports.reads, asked))
                if whole:
                    self._whole[each.name] = each.reports.replica
        # Pods come and go: who is not asked any more is not remembered.
        self._whole = {each.name: self._whole[each.name] for each in answers if each.name in self._whole}
        if self._latest is not None:
            self._latest = self._latest._replace(reads=all(self._has_said(each) for each in answers))
        _call(self._read, read)

    def _has_said(self, answer: Answer) -> bool:
        """Whether it has said all that was read there; one that is silent now may have said it before."""
        if answer.reports is None:
            return answer.name in self._whole
        return self._whole.get(answer.name) == answer.reports.replica

    def _lacks(self, answers: Sequence[Answer]) -> bool:
        """Whether one that could say all that was read there has not been asked to."""
        return any(
            each.reports is not None and each.reports.reads is not None and not self._has_said(each) for each in answers
        )


def _call(listeners: Iterable[News], registries: Collection[Key]) -> None:
    for listener in listeners if registries else ():
        try:
            listener(registries)
        except Exception:  # noqa: BLE001 - their error is not ours
            _log.exception("telling of reports failed")


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _alive(latest: _Round, owner: Owner, now: float) -> tuple[Report, ...]:
    """The consumers whose TTL is not over, as of now."""
    return tuple(merge([(latest.consumers.get(owner, ()), now - latest.at)]).consumers)
