"""Does what was decided: records a version, writes the status, and then tells and tidies.

The status write is the commit point. What comes before it (recording) may be repeated without harm; what
comes after it (events, marks, pruning) may be lost without harm, and none of it can hold up the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

from configregistry import failpoints
from configregistry.clock import Clock
from configregistry.health import Runner, StageKey
from configregistry.kube.failures import ApiError, NotFound, Unavailable
from configregistry.model import conditions
from configregistry.model.status import Status, parse_status
from configregistry.reconcile import belief
from configregistry.reconcile.audit import Ledger, audited
from configregistry.reconcile.cluster import Cluster
from configregistry.reconcile.gather import Gathered
from configregistry.reconcile.memory import Attempt, Key, Recorded
from configregistry.reconcile.projection import Projected, Projector
from configregistry.rollout.observation import Decision, Note
from configregistry.telemetry import tracing
from configregistry.telemetry.audit import Record
from configregistry.telemetry.metrics import Metrics

Reported = Callable[[str, str, str], Collection[int] | None]
"""The versions that consumers of a registry (namespace, name, UID) run with; None while nobody can say."""

_log = structlog.get_logger(__name__)


PROJECT_FIRST: Final = 25.0
PROJECT_LAST: Final = 900.0
"""Seconds between tries of a projection that the API server refuses."""
PROJECTING: Final = 8
"""Projections that are written at once."""


class Actor:
    """Carries out decisions."""

    def __init__(
        self,
        cluster: Cluster,
        runner: Runner,
        clock: Clock,
        metrics: Metrics,
        reported: Reported,
        again: Callable[[Key], None],
        ledger: Ledger,
    ) -> None:
        """`again` queues a registry of which something has become known that a decision may depend on."""
        self._cluster = cluster
        self._runner = runner
        self._clock = clock
        self._metrics = metrics
        self._reported = reported
        self._again = again
        self._projector = Projector(cluster)
        self._ledger = ledger
        self._untidy: dict[Key, str] = {}
        """Why what comes after a decision was refused last."""
        self._projecting: dict[Key, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(PROJECTING)

    async def close(self) -> None:
        """End what is being written beside the decisions."""
        tasks = list(self._projecting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self, key: Key) -> None:
        """The registry is gone."""
        self._untidy.pop(key, None)

    async def record(self, gathered: Gathered) -> None:
        """Make the content a version; it is named in status by the next decision only."""
        content, status = gathered.observation.content, gathered.status
        assert content is not None
        assert content.json
        followed = status.canary or status.stable
        parent = followed.version if followed else 0
        failpoints.reach("act.record.before")
        with tracing.part("record", **_who(gathered), hash=content.hash) as span:
            info = await self._cluster.record(gathered.object.meta, content, parent, status.last_version)
            span.set(version=info.number)
        failpoints.reach("act.record.after")
        gathered.memory.recorded[info.number] = Recorded(info, self._clock.monotonic())
        note = Note("Normal", "VersionRecorded", f"version {info.number} recorded ({content.keys} keys, {info.hash})")
        self._cluster.tell(gathered.object.meta, (note,))
        failpoints.reach("act.record.told")
        _log.info("version recorded", **_who(gathered), version=info.number, hash=info.hash, keys=content.keys)

    async def commit(self, gathered: Gathered, decision: Decision) -> None:
        """Write the status. Raises `Conflict` when another has changed the object since it was read."""
        memory, before, after = gathered.memory, gathered.status, decision.status
        self._ledger.settle(gathered.object)
        notes = (*decision.notes, *_refused(before, after))
        record = _audited(gathered, after, notes)
        try:
            await self._claim(gathered, after)
            await self._write(gathered, decision, record)
        except ApiError:
            memory.doubted = True
            raise
        self._ledger.accepted(gathered.object.meta.key, record)
        if gathered.belief.drifted:
            self._metrics.drift_repairs.inc()
            _log.warning("status was changed by another hand, and is put back", **_who(gathered))
        if not decision.changed:
            return
        # A stage's time begins when its weight is served; within a stage what was measured goes on.
        memory.saved_at = gathered.at if _stage(before) == _stage(after) else self._clock.monotonic()
        if gathered.rollout is not None:
            self._runner.saved(gathered.rollout, _counts(gathered))
        self._cluster.tell(gathered.object.meta, notes)
        failpoints.reach("act.status.told")
        if after.last_outcome is not None and after.last_outcome != before.last_outcome:
            self._metrics.rollouts.labels(after.last_outcome.result, after.last_outcome.trigger).inc()
        if record is None:
            _log.debug("progress is stored", **_who(gathered), **_summary(after))

    async def tidy(self, gathered: Gathered) -> bool:
        """Keep the projection, make versions again that are needed, copy verdicts, prune: after a calm decision.

        Gives whether all of it was done; what was not holds nothing up, and is tried again later.
        """
        done = True
        self._ledger.settle(gathered.object)
        refused = ""
        for step in (self._project, self._restore, self._mark, self._prune):
            try:
                failpoints.reach("act.tidy.before")
                done = await step(gathered) and done
            except ApiError as error:
                done = False
                refused = str(error)
        # Tried every 30 s for as long as it is refused, and told when the reason changes.
        key = gathered.object.meta.key
        if refused and self._untidy.get(key) != refused:
            _log.warning("versions or projection could not be tidied; tried again", **_who(gathered), error=refused)
        self._untidy.pop(key, None)
        if refused:
            self._untidy[key] = refused
        failpoints.reach("act.tidy.after")
        return done

    async def _write(self, gathered: Gathered, decision: Decision, record: Record | None) -> None:
        memory = gathered.memory
        try:
            failpoints.reach("act.status.before")
            with tracing.part("status write", **_who(gathered), **_summary(decision.status)):
                written = await self._cluster.write_status(gathered.object, decision.status)
            failpoints.reach("act.status.after")
        except asyncio.CancelledError:
            # The term ends, and the write may have been accepted: whoever is told of that object next, tells of it.
            self._ledger.unanswered(gathered.object.meta.resource_version, decision.status, record)
            raise
        except Unavailable as error:
            if error.outcome_unknown:
                base = gathered.object.meta.resource_version
                attempt = Attempt(base, decision.status, gathered.rollout, _counts(gathered))
                memory.attempts = (*(each for each in memory.attempts if each.base == base), attempt)
                self._ledger.unanswered(base, decision.status, record)
            raise
        memory.attempts = ()
        memory.latest = written
        memory.written = parse_status(written.status)

    async def _claim(self, gathered: Gathered, status: Status) -> None:
        """An old version is touched before status names it (a new one is protected by its number)."""
        named = {part.version for part in (status.stable, status.canary) if part}
        before = gathered.status
        known = {part.version for part in (before.stable, before.canary, before.previous) if part}
        for number in sorted(named - known):
            revision = gathered.revisions.get(number)
            if revision is not None and number < before.last_version:
                failpoints.reach("act.claim.before")
                await self._cluster.claim(revision)
                failpoints.reach("act.claim.after")

    async def _project(self, gathered: Gathered) -> bool:
        """Keep the ConfigMap of spec.project equal to the stable version."""
        memory, spec, stable = gathered.memory, gathered.spec, gathered.status.stable
        if spec is None or spec.project is None or stable is None:
            memory.projected = None
            return True
        revision = gathered.revisions.get(stable.version)
        if revision is None:
            return True  # its watch, or `_restore`, brings it
        meta = gathered.object.meta
        before, present = memory.projected, self._cluster.configmap((meta.namespace, spec.project.config_map))
        if before is not None and before.still(spec, stable, present):
            return True
        aim = Projected(spec.project.config_map, stable.version, stable.hash)
        refused = before is not None and _trouble(before) and before._replace(trouble="") == aim
        if refused and self._clock.monotonic() < memory.project_after:
            return False
        running = self._projecting.get(meta.key)
        if running is None or running.done():
            # Never awaited: whoever admits ConfigMaps may hang, and a rollback of this registry may come meanwhile.
            kept = self._projector.project(meta, spec, stable, revision, present, before)
            self._projecting[meta.key] = asyncio.create_task(self._projected(gathered, kept))
        return False

    async def _projected(self, gathered: Gathered, kept: Coroutine[Any, Any, Projected | None]) -> None:
        memory, key, before = gathered.memory, gathered.object.meta.key, gathered.memory.projected
        try:
            async with self._places:
                failpoints.reach("act.project.before")
                memory.projected = await kept
                failpoints.reach("act.project.after")
        except ApiError as error:
            _log.warning("the projection could not be written; tried again", **_who(gathered), error=str(error))
        finally:
            del self._projecting[key]
            kept.close()
        # A right that is missing for 10,000 registries must not be asked for 300 times a second.
        again = bool(_trouble(memory.projected))
        memory.project_delay = min(PROJECT_LAST, max(PROJECT_FIRST, 2 * memory.project_delay)) if again else 0.0
        memory.project_after = self._clock.monotonic() + memory.project_delay
        if _trouble(memory.projected) != _trouble(before):
            self._again(key)

    async def _restore(self, gathered: Gathered) -> bool:
        """Make versions again that status names and a hand deleted, from the copies that are held."""
        memory, status = gathered.memory, gathered.status
        named = {part.version for part in (status.stable, status.canary, status.previous) if part}
        for number in sorted(named - gathered.revisions.keys() - memory.recorded.keys()):
            held = memory.held.get(number)
            if held is None:
                told = "a version that status names is gone, and nobody has its content"
                _log.error(told, **_who(gathered), version=number)
                continue
            failpoints.reach("act.restore.before")
            await self._cluster.restore(gathered.object.meta, held)
            failpoints.reach("act.restore.after")
            _log.warning("a version that is in use was deleted, and made again", **_who(gathered), version=number)
        return True

    async def _mark(self, gathered: Gathered) -> bool:
        with suppress(NotFound):  # deleted meanwhile; that change comes by itself
            failpoints.reach("act.mark.before")
            await self._cluster.mark(gathered.status, gathered.revisions)
            failpoints.reach("act.mark.after")
        return True

    async def _prune(self, gathered: Gathered) -> bool:
        if gathered.spec is None:
            return True
        limit, pinned = gathered.spec.revision_history_limit, gathered.spec.pinned_version
        meta, now = gathered.object.meta, gathered.observation.now
        reported = partial(self._reported, meta.namespace, meta.name, meta.uid)
        failpoints.reach("act.prune.before")
        pruned = await self._cluster.prune(meta, gathered.status, gathered.revisions, limit, pinned, now, reported)
        failpoints.reach("act.prune.after")
        if pruned:
            told = f"versions {', '.join(map(str, pruned))} deleted: revisionHistoryLimit is {limit}"
            self._cluster.tell(meta, (Note("Normal", "VersionPruned", told),))
        return pruned is not None


def _trouble(projected: Projected | None) -> str:
    return projected.trouble if projected is not None else ""


def _stage(status: Status) -> StageKey | None:
    return StageKey.of(status.canary) if status.canary else None


def _counts(gathered: Gathered) -> Mapping[str, int]:
    """How many probes of each check the decision has counted."""
    return {report.name: len(report.unsaved) for report in gathered.observation.reports}


def _refused(before: Status, after: Status) -> tuple[Note, ...]:
    """The event for a spec that has become invalid."""

    def said(status: Status) -> str:
        stalled = (each for each in status.conditions if each.type == conditions.STALLED)
        return next((each.message for each in stalled if each.reason == conditions.INVALID_SPEC), "")

    message = said(after)
    return (Note("Warning", "InvalidSpec", message),) if message and message != said(before) else ()


def _summary(status: Status) -> dict[str, int]:
    out = {"canary": status.canary.version, "weight": status.canary.weight} if status.canary else {}
    return {"stable": status.stable.version if status.stable else 0, **out, "revision": status.revision}


def _audited(gathered: Gathered, after: Status, notes: tuple[Note, ...]) -> Record | None:
    meta, spec, found = gathered.object.meta, gathered.spec, None
    if gathered.belief.drifted:
        found = belief.readable(gathered.object.status, gathered.memory.uid) or Status()
    follows = spec is None or bool(spec.data_from or gathered.memory.policies)
    return audited(meta, gathered.status, after, notes, follows=follows, found=found)


def _who(gathered: Gathered) -> dict[str, str]:
    return {"namespace": gathered.object.meta.namespace, "registry": gathered.object.meta.name}
