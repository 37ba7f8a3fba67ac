"""Everything that a decision needs, read before anything is decided. Reads only; never writes, never decides.

Reads the reflectors' stores. The API server itself is asked where a stale answer would do harm: before a
first version, before a pin, after a write that failed, and for whatever no watch vouches for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from configregistry import failpoints
from configregistry.clock import Clock, parse_timestamp
from configregistry.errors import FieldError
from configregistry.health import RolloutKey, Runner, StageKey, Subject
from configregistry.kube.failures import Conflict
from configregistry.kube.objects import Meta, RegistryObject, RevisionObject
from configregistry.model.content import Content
from configregistry.model.spec import Spec, parse_spec
from configregistry.model.status import Status
from configregistry.reconcile import belief
from configregistry.reconcile.belief import Belief
from configregistry.reconcile.cluster import Cluster, remade
from configregistry.reconcile.consent import Consent
from configregistry.reconcile.floors import Floors
from configregistry.reconcile.memory import Key, Memories, Memory, Recorded
from configregistry.reconcile.projection import conflict
from configregistry.reconcile.usage import Readers
from configregistry.reconcile.wanted import Asked, Wanted
from configregistry.rollout import gates
from configregistry.rollout.commands import commands_of
from configregistry.rollout.gates import stored_elapsed
from configregistry.rollout.observation import CheckReport, Observation, Problem, Usage, VersionInfo
from configregistry.rollout.plan import Plan
from configregistry.rollout.table import CHECKED, phase_of
from configregistry.telemetry import tracing

TRUSTED: Final = 10.0
"""Seconds for which a version that was recorded here is believed to exist though no watch has told of it."""


class Gathered(NamedTuple):
    """What was read about one registry.

    `belief.status` is what to decide on; where it differs from what the object holds (`drifted`), a hand
    changed or deleted that, and it is then to be written back.
    """

    object: RegistryObject
    memory: Memory
    spec: Spec | None
    belief: Belief
    observation: Observation
    revisions: Mapping[int, RevisionObject]
    rollout: RolloutKey | None
    """The candidate whose reports these are."""
    at: float
    """Monotonic time of the observation."""
    unread: str
    """Why what the spec asks for could not be read; the last that it came to stands for it. Empty: it was."""

    @property
    def status(self) -> Status:
        """What to decide on."""
        return self.belief.status


class _Waiting(NamedTuple):
    """A registry of which something is being asked: what ends that, and what `_at_once` is to be told."""

    left: asyncio.Timeout
    about: tuple[Memory, RegistryObject, Status, RolloutKey | None]


class Gatherer:
    """Reads what a decision needs."""

    def __init__(
        self,
        cluster: Cluster,
        wanted: Wanted,
        consent: Consent,
        runner: Runner,
        clock: Clock,
        memories: Memories,
        readers: Readers,
        floors: Floors,
    ) -> None:
        self._floors = floors
        self._cluster = cluster
        self._wanted = wanted
        self._consent = consent
        self._runner = runner
        self._clock = clock
        self._memories = memories
        self._readers = readers
        self._waiting: dict[Key, _Waiting] = {}

    async def gather(self, key: Key) -> Gathered | None:
        """Read one registry; None when it is gone or going. Raises `ApiError` and `Unreadable`: try again."""
        try:
            async with asyncio.timeout(None) as left:
                return await self._gathered(key, left)
        except TimeoutError:
            # A check went over its limit meanwhile: what is known without asking will do.
            return await self._gathered(key, None)
        finally:
            self._waiting.pop(key, None)

    def news(self, key: Key) -> None:
        """Probes said something: where the candidate goes back now, what is still being asked is left."""
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.left.expired() and self._at_once(*waiting.about) is not None:
            waiting.left.reschedule(asyncio.get_running_loop().time())

    async def _gathered(self, key: Key, left: asyncio.Timeout | None) -> Gathered | None:
        found = await self._object(key)
        if found is None:
            return None
        # Whoever is asked from here on, for however long, is asked on behalf of whoever applied this.
        with tracing.joined(tracing.of(found.meta.annotations)):
            return await self._read(key, found, left)

    async def _read(self, key: Key, found: RegistryObject, left: asyncio.Timeout | None) -> Gathered:
        memory = self._memories.of(key, found.meta.uid)
        revisions = self._cluster.revisions(key, memory.uid)
        believed = self._believed(memory, found, revisions)
        status = believed.status
        rollout = rollout_key(key, status, memory.uid)
        about = (memory, found, status, rollout)
        if left is not None:
            self._waiting[key] = _Waiting(left, about)
        failpoints.reach("gather.wanted.before")
        asked = self._at_once(*about) or await self._wanted.of(key, memory, found, status, revisions)
        failpoints.reach("gather.wanted.after")
        spec, plan, content = asked.spec, asked.plan, asked.content
        pinned = spec.pinned_version if spec else None
        versions = await self._versions(key, memory, revisions, status, pinned)
        self._hold(found, status, memory, revisions, content)
        # From here on nothing is awaited but who must agree to a start: time and reports are those of one moment.
        now = self._clock.monotonic()
        observation = Observation(
            uid=memory.uid,
            # Conditions must not say that they speak of what could not be read.
            generation=status.observed_generation if asked.unread else found.meta.generation,
            plan=plan,
            content=content if isinstance(content, Content) else None,
            problem=content if isinstance(content, Problem) else None,
            versions=versions,
            now=self._clock.wall(),
            since_saved=now - (memory.saved_at if memory.saved_at is not None else now),
            pinned=pinned,
            reports=self._reports(memory, rollout, status, plan),
            commands=commands_of(found.meta.annotations),
            fallback=spec.fallback if spec else None,
            projection=self._projection(memory, found.meta, spec, status),
            usage=Usage() if memory.drops else self._readers.usage(found.meta, status),
        )
        # Of what stands for content that could not be read too: nobody may have agreed to it yet.
        failpoints.reach("gather.consent.before")
        observation = await self._consent.asked(found.meta, asked, status, observation, revisions)
        failpoints.reach("gather.consent.after")
        return Gathered(found, memory, spec, believed, observation, revisions, rollout, now, asked.unread)

    def _at_once(
        self, memory: Memory, found: RegistryObject, status: Status, rollout: RolloutKey | None
    ) -> Asked | None:
        """What is known without asking anybody, where a check is over its limit: going back waits for no answer."""
        canary, plan = status.canary, memory.plan
        known = memory.content_key[:1] == (found.meta.generation,)  # the plan is that of this very spec
        if rollout is None or canary is None or plan is None or not known or memory.rollout != rollout:
            return None
        if not gates.trips(canary, plan, self._runner.report(rollout)):
            return None
        with suppress(FieldError):
            told = "not read: a check is over its limit"
            return Asked(parse_spec(found.spec), plan, Content(canary.hash, b"", 0), told, memory.policies)
        return None

    async def _object(self, key: Key) -> RegistryObject | None:
        """The registry as it is to be decided about; None when it is gone or going."""
        seen = self._cluster.registry(key)
        if seen is None or seen.meta.terminating:
            return None
        gone = self._memories.replaced(key, seen.meta.uid)
        if gone is not None and gone.rollout is not None:
            self._runner.forget(gone.rollout)
        memory = self._memories.of(key, seen.meta.uid)
        found = belief.newest(memory, seen)
        status = belief.readable(found.status, memory.uid)
        # A first version is for good, so no decision about it rests on a watch that may be behind. And where the watch
        # is not even open, nothing does: the API server may have been restored, and what is held be another history.
        if not self._cluster.live() or memory.doubted or memory.attempts or status is None or status.stable is None:
            failpoints.reach("gather.registry.before")
            fresh = await self._cluster.fresh_registry(key)
            failpoints.reach("gather.registry.after")
            if fresh is None or fresh.meta.terminating or fresh.meta.uid != memory.uid:
                # Gone it is once a watch has told of that, which queues it; one answer alone ends nothing for good.
                raise Conflict(f"{key[0]}/{key[1]} is gone, but no watch has told of that yet")
            memory.doubted, memory.latest, found = False, fresh, fresh
        return found

    def _believed(self, memory: Memory, found: RegistryObject, revisions: Mapping[int, RevisionObject]) -> Belief:
        """The status to decide on; probes that a write without an answer had counted are not counted again."""
        now = self._clock.monotonic()
        observed = belief.readable(found.status, memory.uid)
        accepted = belief.settled(memory, found, observed, now)
        if accepted is not None and accepted.rollout is not None:
            self._runner.saved(accepted.rollout, accepted.counts)
        raised = partial(self._floors.raised, found.meta.key, memory.uid)
        return belief.believed(memory, observed, revisions, now, raised)

    async def _versions(
        self,
        key: Key,
        memory: Memory,
        revisions: Mapping[int, RevisionObject],
        status: Status,
        pinned: int | None,
    ) -> dict[int, VersionInfo]:
        """The recorded versions: what a watch told, and what this process recorded since."""
        known = {number: VersionInfo(number, each.hash, each.keys) for number, each in revisions.items()}
        memory.recorded = {number: each for number, each in memory.recorded.items() if number not in known}
        now = self._clock.monotonic()
        unseen = any(now - each.at > TRUSTED for each in memory.recorded.values())
        to_pin = pinned is not None and (status.stable is None or status.stable.version != pinned)
        if unseen or to_pin or status.stable is None or not self._cluster.live():
            failpoints.reach("gather.versions.before")
            fresh = await self._cluster.fresh_revisions(key, memory.uid)
            failpoints.reach("gather.versions.after")
            known = {number: VersionInfo(number, each.hash, each.keys) for number, each in fresh.items()}
            memory.recorded = {
                number: Recorded(each.info, now) for number, each in memory.recorded.items() if number in known
            }
        return {number: each.info for number, each in memory.recorded.items()} | known

    def _hold(
        self,
        found: RegistryObject,
        status: Status,
        memory: Memory,
        revisions: Mapping[int, RevisionObject],
        content: Content | Problem | None,
    ) -> None:
        """Keep a copy of the versions that status names, in case that a hand deletes one."""
        named = {part.version: part.hash for part in (status.stable, status.canary, status.previous) if part}
        held = {number: each for number, each in memory.held.items() if number in named}
        held |= {number: each for number, each in revisions.items() if number in named}
        if isinstance(content, Content) and content.json:
            # Deleted while nobody ran: what the spec asks for may be that very content.
            for number, content_hash in named.items():
                if number not in held and content_hash == content.hash:
                    held[number] = remade(found.meta, number, content)
        memory.held = held

    def _reports(
        self, memory: Memory, rollout: RolloutKey | None, status: Status, plan: Plan | None
    ) -> tuple[CheckReport, ...]:
        """See that the candidate's checks are made and no others, and what they said."""
        if memory.rollout is not None and memory.rollout != rollout:
            self._runner.forget(memory.rollout)
        memory.rollout = rollout
        canary = status.canary
        if canary is not None and canary.failed:
            memory.resumed = canary.step_started_at
        if rollout is None or canary is None or plan is None:
            return ()
        stable = status.stable.version if status.stable else None
        subject = Subject(rollout.namespace, rollout.registry, canary.version, canary.hash, stable)
        started = parse_timestamp(canary.started_at)
        since = (self._clock.wall() - started).total_seconds() if started else 0.0
        # `promote` ends a wait by setting elapsed: such a time is not one that has passed.
        saved = self._clock.monotonic() - memory.saved_at if memory.saved_at is not None else 0.0
        anew = canary.promoted or memory.resumed == canary.step_started_at
        elapsed = 0.0 if anew else stored_elapsed(canary) + saved
        self._runner.watch(rollout, plan.checks, subject, StageKey.of(canary), max(0.0, since), elapsed)
        return self._runner.report(rollout)

    def _projection(self, memory: Memory, meta: Meta, spec: Spec | None, status: Status) -> str:
        """Why spec.project cannot be followed; empty: it can, or there is nothing yet to keep."""
        if spec is None or spec.project is None or status.stable is None:
            return ""
        present = self._cluster.configmap((meta.namespace, spec.project.config_map))
        return conflict(meta.key, meta.uid, spec, present, memory.projected)


def rollout_key(key: Key, status: Status, uid: str) -> RolloutKey | None:
    """The candidate whose checks are to be made; None when there is none, or not in this phase."""
    if status.canary is None or phase_of(status) not in CHECKED:
        return None
    return RolloutKey(key[0], key[1], uid, status.canary.version, status.canary.hash)
