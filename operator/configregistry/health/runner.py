"""Makes the checks of all candidates, and keeps what they said until it is stored.

Each check is a task of its own. It exists between the probers, which know nothing of rollouts,
and the reconciler, which never waits for a probe. It must never decide anything (limits, noData
and stages are the pure gates'), and never let one check wait for another one's answer.

A check's first probe comes when its initialDelay is over, the following ones every interval, from
start to start and never two at a time. There is no jitter: a new leader needs a Pass of each
check before anything goes on, and a delay at random would delay rollbacks too. A Fail or an Error
is stored before the check is probed again: its task waits until `saved` has acknowledged it. A
new stage is probed at once instead of after the rest of the interval, for its weight is served
from now on, and nothing that was asked before says anything about it; a probe that is under way
is let finish, since a Fail of it counts. News (`news`) make a check due at once too, but never one
that fails already: failureLimit counts failures at intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from configregistry import failpoints
from configregistry.clock import Clock, timestamp
from configregistry.errors import ConfigRegistryError
from configregistry.health.kinds import PROBES, Kind, kind_of
from configregistry.health.question import Finding, Means, Memory, Question, RolloutKey, StageKey, Subject
from configregistry.health.unsaved import URGENT, Unsaved
from configregistry.rollout.gates import effective
from configregistry.rollout.observation import CheckReport, Probe, Verdict
from configregistry.rollout.plan import CheckPlan
from configregistry.telemetry import tracing

_GRACE: Final = 1.0
"""Seconds beyond a probe's own timeout after which it is given up from outside."""

_T = TypeVar("_T")
_logger = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Watched:
    """One check of one candidate."""

    plan: CheckPlan
    subject: Subject
    stage: StageKey
    began: float
    """Monotonic time at which the stage began, or somewhat later."""
    first: float
    """Monotonic time before which it is not probed."""
    memory: Memory = field(default_factory=Memory)
    unsaved: Unsaved = field(default_factory=Unsaved)
    asked: tuple[StageKey, float] | None = None
    """Stage and monotonic time of the latest probe's start."""
    passed: StageKey | None = None
    """The latest stage that has a Pass."""
    verdict: Verdict | None = None
    early: bool = False
    """There are news: not to wait for the rest of the interval."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """The stage changed, something was saved, or there are news."""
    task: asyncio.Task[None] | None = None
    trace: str = ""
    """Whose trace the probes belong to: the one that is being followed when `watch` is called."""

    def due(self, now: float) -> float:
        """When the next probe starts."""
        if self.asked is None:
            return self.first
        stage, started = self.asked
        return started + self.plan.interval if stage == self.stage and not self.early else now


class Runner:
    """All checks of all candidates. Only the leader has one; all of it runs in one event loop.

    `changed(key)` says that `report(key)` has something that a decision may depend on; it must
    only queue. `probed` is told of every probe (metrics). `sleep` and `clock` are the only time
    there is.
    """

    def __init__(
        self,
        means: Means,
        clock: Clock,
        changed: Callable[[RolloutKey], None],
        *,
        probed: Callable[[RolloutKey, CheckPlan, Probe], None] = lambda _key, _check, _probe: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        kinds: Mapping[str, Kind] = PROBES,
    ) -> None:
        self._means = means
        self._clock = clock
        self._changed = changed
        self._probed = probed
        self._sleep = sleep
        self._kinds = kinds
        self._rollouts: dict[RolloutKey, dict[str, _Watched]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def keys(self) -> frozenset[RolloutKey]:
        """The candidates whose checks are made."""
        return frozenset(self._rollouts)

    def watch(
        self,
        key: RolloutKey,
        checks: tuple[CheckPlan, ...],
        subject: Subject,
        stage: StageKey,
        started: float,
        elapsed: float = 0.0,
    ) -> None:
        """Make these checks of a candidate, and no others; the same again does nothing.

        New checks start, edited ones start anew, gone ones stop, and a new `stage` makes earlier
        passes not count. `started`: seconds since the candidate started, which count for
        initialDelay; `elapsed`: seconds that the stage has run, of which the greatest is believed.
        After `close` nothing starts: who is no leader any more does not probe.
        """
        if self._closed:
            return
        had = self._rollouts.get(key, {})
        now = self._clock.monotonic()
        # Time stands still in a status that is paused; whoever has seen the stage begin knows better.
        began = min([now - elapsed, *(each.began for each in had.values() if each.stage == stage)])
        watched: dict[str, _Watched] = {}
        for check in checks:
            same = had.get(check.name)
            if same is None or same.plan.hash != check.hash:
                first = now + max(0.0, check.initial_delay - started)
                watched[check.name] = _Watched(check, subject, stage, began, first)
                continue
            same.subject = subject
            same.began = began
            if same.stage != stage:
                same.stage = stage
                same.unsaved.forget_passes()
                same.woken.set()
            watched[check.name] = same
        self._rollouts[key] = watched
        for gone in had.values():
            if watched.get(gone.plan.name) is not gone:
                _cancel(gone.task)
        for new in watched.values():
            new.trace = tracing.here()
            if new.task is None:
                new.task = self._start(self._loop(key, new), f"check {new.plan.name} of {key.namespace}/{key.registry}")

    def forget(self, key: RolloutKey) -> None:
        """Stop a candidate's checks; what was not saved is gone."""
        for watched in self._rollouts.pop(key, {}).values():
            _cancel(watched.task)

    def report(self, key: RolloutKey) -> tuple[CheckReport, ...]:
        """What is unsaved of each check, and whether it passed in the stage of the latest `watch`."""
        return tuple(
            CheckReport(watched.plan.name, watched.unsaved.offer(), watched.passed == watched.stage)
            for watched in self._rollouts.get(key, {}).values()
        )

    def saved(self, key: RolloutKey, counts: Mapping[str, int]) -> None:
        """An accepted status write counted the first so many probes of the latest report."""
        watched = self._rollouts.get(key, {})
        for name, number in counts.items():
            if name in watched:
                watched[name].unsaved.saved(number)
                watched[name].woken.set()

    def news(self, kind: str, registries: Collection[tuple[str, str]]) -> None:
        """What checks of that kind ask has changed for these (namespace, name): make them now."""
        for key, rollout in self._rollouts.items():
            if (key.namespace, key.registry) not in registries:
                continue
            for watched in rollout.values():
                if kind_of(watched.plan.spec) == kind and watched.verdict not in URGENT:
                    watched.early = True
                    watched.woken.set()

    async def close(self) -> None:
        """End everything, for good."""
        self._closed = True
        for key in tuple(self._rollouts):
            self.forget(key)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _loop(self, key: RolloutKey, watched: _Watched) -> None:
        while True:
            await self._until_due(watched)
            failpoints.reach("check.due")
            stage, watched.early = watched.stage, False
            watched.asked = stage, self._clock.monotonic()
            failpoints.reach("check.asked")
            about: dict[str, tracing.Value] = {"check": watched.plan.name, "version": key.version}
            place = {"namespace": key.namespace, "registry": key.registry}
            with tracing.part("check", watched.trace, **place, **about) as span:
                finding = await self._ask(key, watched, stage)
                span.set(verdict=finding.verdict.value, value=finding.value)
                if finding.verdict in URGENT:
                    span.fail(finding.verdict.value)  # not what was said: consumers may say anything
            failpoints.reach("check.answered")
            probe = Probe(finding.verdict, finding.value, finding.message, timestamp(self._clock.wall()))
            tell = _take(watched, probe, stage)
            failpoints.reach("check.taken")
            self._call(self._probed, key, watched.plan, probe)
            if tell:
                self._call(self._changed, key)

    async def _until_due(self, watched: _Watched) -> None:
        """Wait until the next probe may start, looking again whenever something changes."""
        while True:
            watched.woken.clear()
            if watched.unsaved.urgent:
                await watched.woken.wait()
                continue
            now = self._clock.monotonic()
            delay = watched.due(now) - now
            if delay <= 0:
                return
            await self._either(self._start(watched.woken.wait(), "wake"), delay)

    async def _ask(self, key: RolloutKey, watched: _Watched, stage: StageKey) -> Finding:
        """One probe. Whatever becomes of it, there is a finding."""
        check = watched.plan.spec
        log = _logger.bind(namespace=key.namespace, registry=key.registry, version=key.version, check=check.name)
        try:
            kind = self._kinds[kind_of(check)]
            seconds = kind.timeout(check)
            now, wall = self._clock.monotonic(), self._clock.wall()
            elapsed = now - watched.began
            question = Question(check, watched.subject, stage, seconds, elapsed, key.uid, now, wall, watched.memory)
            task = self._start(_awaited(kind.probe(question, self._means)), f"probe {check.name}")
            if not await self._either(task, seconds + _GRACE):
                return Finding(Verdict.ERROR, "", f"the probe did not end within {seconds:g} s")
            return task.result()
        except asyncio.CancelledError:
            if (own := asyncio.current_task()) is None or own.cancelling():
                raise
            log.warning("probe was cancelled by itself")
            return Finding(Verdict.ERROR, "", "the probe was cancelled")
        except ConfigRegistryError as error:
            return Finding(Verdict.ERROR, "", str(error))
        except Exception as error:
            # A defect of ours: its text may hold anything, so only the log gets it.
            log.exception("probe raised")
            return Finding(Verdict.ERROR, "", f"the probe raised {type(error).__name__}")

    async def _either(self, task: asyncio.Task[Any], seconds: float) -> bool:
        """Whether a task ended within so many seconds. It is cancelled if not."""
        clock = self._start(_awaited(self._sleep(seconds)), "clock")
        try:
            await asyncio.wait((task, clock), return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            task.cancel()
            clock.cancel()

    def _start(self, coroutine: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """A task that is held on to, and ended by `close`."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Tell somebody; their error is not ours, and does not end a check."""
        try:
            function(*arguments)
        except Exception:
            _logger.exception("telling of a probe failed", of=str(arguments[0]) if arguments else "")


def _take(watched: _Watched, probe: Probe, stage: StageKey) -> bool:
    """Keep a probe that was asked in `stage`. Whether a decision may depend on it.

    Failures and errors always. Others only when they change something: the first Pass in a stage
    (it may end it), and a verdict unlike the one before (Healthy shows it). A steady Pass is left
    to be stored with the elapsed time, every 10 s.
    """
    counts_as = effective(watched.plan, probe)
    if counts_as in URGENT:
        watched.unsaved.add(probe, counts_as)
        watched.verdict = counts_as
        watched.early = False
        return True
    if stage != watched.stage:
        return False  # asked before the present stage began: says nothing about it
    watched.unsaved.add(probe, counts_as)
    news = counts_as is not watched.verdict
    if counts_as is Verdict.PASS:
        news = news or watched.passed != stage
        watched.passed = stage
    watched.verdict = counts_as
    return news


def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()


async def _awaited(awaitable: Awaitable[_T]) -> _T:
    return await awaitable
