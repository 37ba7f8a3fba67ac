"""Does what was decided: records a version, writes the status, and then tells and tidies.

The status write is the commit point. What comes before it (recording) may be repeated without harm; what
comes after it (events, marks, pruning) may be lost without harm, and none of it can hold up the next.
"""

from __future__ import annotations

import structlog

from configregistry.clock import Clock
from configregistry.health import Runner
from configregistry.kube.failures import ApiError, Unavailable
from configregistry.model.status import Status, parse_status
from configregistry.reconcile.cluster import Cluster
from configregistry.reconcile.gather import Gathered
from configregistry.reconcile.memory import Attempt
from configregistry.rollout.observation import Decision, Note
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)


class Actor:
    """Carries out decisions."""

    def __init__(self, cluster: Cluster, runner: Runner, clock: Clock, metrics: Metrics) -> None:
        self._cluster = cluster
        self._runner = runner
        self._clock = clock
        self._metrics = metrics

    async def restore(self, gathered: Gathered) -> None:
        """Make versions again that status names and a hand deleted, from the copies that are held."""
        memory, status = gathered.memory, gathered.status
        named = {part.version for part in (status.stable, status.canary, status.previous) if part}
        memory.held = {number: held for number, held in memory.held.items() if number in named}
        memory.held |= {number: each for number, each in gathered.revisions.items() if number in named}
        for number in sorted(named & memory.held.keys() - gathered.revisions.keys() - memory.recorded.keys()):
            held = memory.held[number]
            await self._cluster.restore(gathered.object.meta, held)
            _log.warning("a version that is in use was deleted, and made again", **_who(gathered), version=number)

    async def record(self, gathered: Gathered) -> None:
        """Make the content a version; it is named in status by the next decision only."""
        content, status = gathered.observation.content, gathered.status
        assert content is not None
        followed = status.canary or status.stable
        parent = followed.version if followed else 0
        info = await self._cluster.record(gathered.object.meta, content, parent, status.last_version)
        gathered.memory.recorded[info.number] = info
        note = Note("Normal", "VersionRecorded", f"version {info.number} recorded ({content.keys} keys, {info.hash})")
        self._cluster.tell(gathered.object.meta, (note,))
        _log.info("version recorded", **_who(gathered), version=info.number, hash=info.hash, keys=content.keys)

    async def commit(self, gathered: Gathered, decision: Decision) -> None:
        """Write the status. Raises `Conflict` when another has changed the object since it was read."""
        memory, before = gathered.memory, gathered.status
        await self._claim(gathered, decision.status)
        reports = gathered.observation.reports
        counts = {report.name: len(report.unsaved) for report in reports}
        try:
            written = await self._cluster.write_status(gathered.object, decision.status)
        except Unavailable as error:
            if error.outcome_unknown:
                memory.attempted = Attempt(decision.status, gathered.rollout, counts)
            raise
        memory.latest = written
        memory.written = parse_status(written.status)
        memory.saved_at = gathered.at
        if gathered.rollout is not None:
            self._runner.saved(gathered.rollout, counts)
        self._cluster.tell(gathered.object.meta, decision.notes)
        self._count(before, decision.status)
        _log.info(
            "decided",
            **_who(gathered),
            stable=decision.status.stable.version if decision.status.stable else None,
            canary=decision.status.canary.version if decision.status.canary else None,
            weight=decision.status.canary.weight if decision.status.canary else None,
            revision=decision.status.revision,
            why="; ".join(note.message for note in decision.notes) or "progress",
        )

    async def tidy(self, gathered: Gathered) -> None:
        """Marks and pruning, after a calm decision; what fails is tried at the next one."""
        limit = gathered.spec.revision_history_limit if gathered.spec else 10
        try:
            pruned = await self._cluster.tidy(
                gathered.object.meta, gathered.status, gathered.revisions, limit, gathered.observation.now
            )
        except ApiError as error:
            _log.warning("versions could not be tidied", **_who(gathered), error=str(error))
            return
        if pruned:
            told = f"versions {', '.join(map(str, pruned))} deleted: revisionHistoryLimit is {limit}"
            self._cluster.tell(gathered.object.meta, (Note("Normal", "VersionPruned", told),))

    async def _claim(self, gathered: Gathered, status: Status) -> None:
        """An old version is touched before status names it (a new one is protected by its number)."""
        named = {part.version for part in (status.stable, status.canary) if part}
        before = gathered.status
        known = {part.version for part in (before.stable, before.canary, before.previous) if part}
        for number in sorted(named - known):
            revision = gathered.revisions.get(number)
            if revision is not None and number < before.last_version:
                await self._cluster.claim(revision)

    def _count(self, before: Status, after: Status) -> None:
        outcome = after.last_outcome
        if outcome is not None and outcome != before.last_outcome:
            self._metrics.rollouts.labels(outcome.result, outcome.trigger).inc()


def _who(gathered: Gathered) -> dict[str, str]:
    return {"namespace": gathered.object.meta.namespace, "registry": gathered.object.meta.name}
