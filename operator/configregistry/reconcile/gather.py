"""Everything that a decision needs, read before anything is decided. Reads only; never writes, never decides.

Reads the reflectors' stores. The API server itself is asked where a stale answer would do harm: before a
first version, before a pin, after a write whose outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from configregistry.clock import Clock, parse_timestamp
from configregistry.errors import FieldError
from configregistry.health import RolloutKey, Runner, StageKey, Subject
from configregistry.kube.history import recover
from configregistry.kube.objects import RegistryObject, RevisionObject
from configregistry.model import conditions
from configregistry.model.content import Content
from configregistry.model.spec import Spec, parse_spec
from configregistry.model.status import Status, parse_status
from configregistry.reconcile.cluster import Cluster
from configregistry.reconcile.memory import Key, Memories, Memory
from configregistry.reconcile.sources import Sources, Unreadable, sources_of
from configregistry.rollout.commands import commands_of
from configregistry.rollout.intent import Wish, intent_of
from configregistry.rollout.observation import CheckReport, Observation, Problem, VersionInfo
from configregistry.rollout.plan import Plan, plan_of
from configregistry.rollout.table import CHECKED, phase_of


class Gathered(NamedTuple):
    """What was read about one registry.

    `status` is what to decide on; it differs from what the object holds (`observed`) when a hand
    changed or deleted that, and is then to be written back.
    """

    object: RegistryObject
    memory: Memory
    spec: Spec | None
    status: Status
    observed: Status | None
    observation: Observation
    revisions: Mapping[int, RevisionObject]
    rollout: RolloutKey | None
    """The candidate whose reports these are."""
    at: float
    """Monotonic time of the observation."""


class Gatherer:
    """Reads what a decision needs."""

    def __init__(self, cluster: Cluster, sources: Sources, runner: Runner, clock: Clock, memories: Memories) -> None:
        self._cluster = cluster
        self._sources = sources
        self._runner = runner
        self._clock = clock
        self._memories = memories

    async def gather(self, key: Key) -> Gathered | None:
        """Read one registry; None when it is gone or going. Raises `ApiError` and `Unreadable`: try again."""
        found = self._cluster.registry(key)
        if found is not None and self._memories.of(key, found.meta.uid).attempted:
            found = await self._cluster.fresh_registry(key)
        if found is None or found.meta.terminating:
            return None
        memory = self._memories.of(key, found.meta.uid)
        found = _newer(found, memory.latest)
        revisions = self._cluster.revisions(key, memory.uid)
        observed = _readable(found.status, memory.uid)
        if observed is None or observed.stable is None:
            # A first version is for good, so no decision about it rests on a watch that may be behind.
            fresh = await self._cluster.fresh_registry(key)
            if fresh is None or fresh.meta.uid != memory.uid:
                return None
            found, observed = fresh, _readable(fresh.status, memory.uid)
            revisions = await self._cluster.fresh_revisions(key, memory.uid)
        self._settle(memory, observed)
        status = self._believed(memory, observed, revisions)
        spec, plan, content = await self._asked(key, memory, found, status)
        pinned = spec.pinned_version if spec else None
        if pinned is not None and (status.stable is None or status.stable.version != pinned):
            revisions = await self._cluster.fresh_revisions(key, memory.uid)
        now = self._clock.monotonic()
        rollout = rollout_key(key, status, memory.uid)
        observation = Observation(
            uid=memory.uid,
            generation=found.meta.generation,
            plan=plan,
            content=content if isinstance(content, Content) else None,
            problem=content if isinstance(content, Problem) else None,
            versions=_versions(revisions, memory),
            now=self._clock.wall(),
            since_saved=now - (memory.saved_at if memory.saved_at is not None else now),
            pinned=pinned,
            reports=self._reports(memory, rollout, status, plan),
            commands=commands_of(found.meta.annotations),
            fallback=spec.fallback if spec else None,
        )
        if spec is not None and spec.depends_on and intent_of(status, observation).wish is Wish.NEW:
            observation = observation._replace(waiting_for=await self._waiting_for(key, spec))
        return Gathered(found, memory, spec, status, observed, observation, revisions, rollout, now)

    def _settle(self, memory: Memory, observed: Status | None) -> None:
        """Learn what became of a write without an answer; `observed` was read after it."""
        attempt, memory.attempted = memory.attempted, None
        if attempt is not None and observed == attempt.status:
            memory.written, memory.saved_at = observed, self._clock.monotonic()
            if attempt.rollout is not None:
                self._runner.saved(attempt.rollout, attempt.counts)

    def _believed(
        self,
        memory: Memory,
        observed: Status | None,
        revisions: Mapping[int, RevisionObject],
    ) -> Status:
        """The status to decide on: what is there, or what this process knows where a hand changed that."""
        if memory.written is not None:
            return memory.written
        status = observed or Status()
        if status.stable is None and revisions:
            kept = recover(list(revisions.values()), memory.uid)
            status = replace(kept, revision=max(kept.revision, status.revision)) if kept.stable else status
        memory.written = status
        memory.saved_at = self._clock.monotonic()
        return status

    async def _asked(
        self, key: Key, memory: Memory, found: RegistryObject, status: Status
    ) -> tuple[Spec | None, Plan | None, Content | Problem]:
        """What the spec asks for. The last valid plan stays while spec.rollout is broken."""
        try:
            spec = parse_spec(found.spec)
        except FieldError as error:
            return None, memory.plan, Problem(conditions.INVALID_SPEC, str(error))
        try:
            plan = memory.plan = plan_of(spec.rollout)
        except FieldError as error:
            return spec, memory.plan, Problem(conditions.INVALID_SPEC, str(error))
        present = self._cluster.configmaps(key[0], sources_of(spec))
        known = (found.meta.generation, tuple(sorted(present.items())))
        # What was read is kept only where a watch vouches for each source: an absent one is asked for again.
        vouched = len(present) == len(sources_of(spec))
        if memory.content is not None and memory.content_key == known and vouched:
            return spec, plan, memory.content
        try:
            content = await self._sources.resolve(key[0], spec, present)
        except Unreadable:
            if isinstance(memory.content, Content):
                return spec, plan, memory.content
            if status.canary is None:
                raise
            # After a restart: the candidate stands for what was asked, so that it can still be rolled back.
            return spec, plan, Content(status.canary.hash, b"", 0)
        memory.content_key, memory.content = known, content
        return spec, plan, content

    def _reports(
        self, memory: Memory, rollout: RolloutKey | None, status: Status, plan: Plan | None
    ) -> tuple[CheckReport, ...]:
        """See that the candidate's checks are made and no others, and what they said."""
        if memory.rollout is not None and memory.rollout != rollout:
            self._runner.forget(memory.rollout)
        memory.rollout = rollout
        canary = status.canary
        if rollout is None or canary is None or plan is None:
            return ()
        stable = status.stable.version if status.stable else None
        subject = Subject(rollout.namespace, rollout.registry, canary.version, canary.hash, stable)
        started = parse_timestamp(canary.started_at)
        since = (self._clock.wall() - started).total_seconds() if started else 0.0
        self._runner.watch(rollout, plan.checks, subject, StageKey.of(canary), max(0.0, since))
        return self._runner.report(rollout)

    async def _waiting_for(self, key: Key, spec: Spec) -> tuple[str, ...]:
        """The dependencies that are not Ready for their present generation, asked by GET."""
        waiting = []
        for dependency in spec.depends_on:
            found = await self._cluster.fresh_registry((key[0], dependency.name))
            status = _readable(found.status, found.meta.uid) if found else None
            ready = status and next((c for c in status.conditions if c.type == conditions.READY), None)
            if not (found and ready and ready.status == "True" and ready.observed_generation == found.meta.generation):
                waiting.append(dependency.name)
        return tuple(waiting)


def rollout_key(key: Key, status: Status, uid: str) -> RolloutKey | None:
    """The candidate whose checks are to be made; None when there is none, or not in this phase."""
    if status.canary is None or phase_of(status) not in CHECKED:
        return None
    return RolloutKey(key[0], key[1], uid, status.canary.version, status.canary.hash)


def _newer(seen: RegistryObject, written: RegistryObject | None) -> RegistryObject:
    """The later of two states of one object: a watch may be behind our own write."""
    # resourceVersions of one resource are comparable as numbers (KEP-5504).
    later = written is not None and int(written.meta.resource_version) > int(seen.meta.resource_version)
    return written if written is not None and later else seen


def _readable(raw: bytes, uid: str) -> Status | None:
    """A status that was written for this very object; None for none, for an unreadable one, a namesake's."""
    if not raw:
        return None
    try:
        status = parse_status(raw)
    except ValueError:
        return None
    return status if status.uid in ("", uid) else None


def _versions(revisions: Mapping[int, RevisionObject], memory: Memory) -> dict[int, VersionInfo]:
    """The recorded versions: what a watch told, and what this process recorded since."""
    known = {number: VersionInfo(number, each.hash, each.keys) for number, each in revisions.items()}
    memory.recorded = {number: info for number, info in memory.recorded.items() if number not in known}
    return memory.recorded | known
