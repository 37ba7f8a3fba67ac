"""What a spec asks for: how to roll out, and which content. Reads ConfigMaps; it never decides what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from configregistry import failpoints
from configregistry.errors import FieldError
from configregistry.kube.objects import RegistryObject, RevisionObject
from configregistry.model import conditions
from configregistry.model.content import Content
from configregistry.model.policy import Policy
from configregistry.model.spec import Spec, parse_spec
from configregistry.model.status import Canary, Stable, Status
from configregistry.reconcile import hooks, links, validation
from configregistry.reconcile.cluster import Cluster
from configregistry.reconcile.memory import Key, Memory
from configregistry.reconcile.policies import Policies
from configregistry.reconcile.projection import examine_projection
from configregistry.reconcile.sources import Sources, Unreadable, sources_of
from configregistry.reconcile.triggers import Triggers
from configregistry.rollout.observation import Problem
from configregistry.rollout.plan import Plan

EXAMINERS: Final = (validation.examine, hooks.examine, examine_projection)
"""Each raises `FieldError` for what of a spec this program could never do."""


class Asked(NamedTuple):
    """What a spec asks for. `unread`: why that could not be read; the last that it came to stands for it."""

    spec: Spec | None
    plan: Plan | None
    content: Content | Problem | None
    unread: str = ""
    policies: tuple[Policy, ...] = ()
    """Those that the plan was made under."""


class Wanted:
    """Works out what specs ask for."""

    def __init__(self, cluster: Cluster, sources: Sources, policies: Policies, triggers: Triggers) -> None:
        self._cluster = cluster
        self._sources = sources
        self._policies = policies
        self._triggers = triggers

    async def of(
        self,
        key: Key,
        memory: Memory,
        found: RegistryObject,
        status: Status,
        revisions: Mapping[int, RevisionObject],
    ) -> Asked:
        """What the spec asks for. The last valid plan stays while spec.rollout is broken."""
        try:
            spec = parse_spec(found.spec)
        except FieldError as error:
            return Asked(None, memory.plan, Problem(conditions.INVALID_SPEC, str(error)))
        # Before anything of it is read, so that no change is missed meanwhile.
        followed = links.followed(key[0], spec, self._cluster.registry)
        self._triggers.follow(key, followed | self._policies.followed(key[0], spec.rollout))
        try:
            failpoints.reach("wanted.policies.before")
            planned = await self._policies.plan(key[0], spec.rollout)
            failpoints.reach("wanted.policies.after")
        except Unreadable as error:
            wrong = _examined(spec) or links.fallback_ring(key, spec, self._cluster.registry)
            return Asked(spec, memory.plan, wrong or _instead(memory, spec, status, error), str(error), memory.policies)
        if planned.problem is None:
            memory.plan, memory.policies = planned.plan, planned.policies
        # Without one of its policies a plan lacks checks: the last whole one watches a candidate better.
        plan = memory.plan or planned.plan
        problem = planned.problem if planned.plan is None else None
        problem = problem or _examined(spec) or links.fallback_ring(key, spec, self._cluster.registry)
        if problem is not None:
            return Asked(spec, plan, problem)
        try:
            content = await self._content(key, memory, found, spec, revisions)
        except Unreadable as error:
            stands = planned.problem or _instead(memory, spec, status, error)
            return Asked(spec, plan, stands, str(error), planned.policies)
        ring = links.dependency_ring(key, spec, self._cluster.registry)
        # A policy that is gone holds what begins or goes on, dependencies hold starts only.
        if planned.problem is not None and not (status.canary is None and _is_of(content, status.stable)):
            content = planned.problem
        elif ring is not None and not _is_of(content, status.canary) and not _ends(content, status):
            content = ring
        return Asked(spec, plan, content, "", planned.policies)

    async def _content(
        self,
        key: Key,
        memory: Memory,
        found: RegistryObject,
        spec: Spec,
        revisions: Mapping[int, RevisionObject],
    ) -> Content | Problem:
        """The content of a spec, from memory where a watch vouches that nothing of it has changed."""
        names = sources_of(spec)
        present = self._cluster.configmap_versions(key[0], names)
        known = (found.meta.generation, tuple(sorted(present.items())))
        # One that is absent is asked for again: no watch vouches for that.
        if memory.content is not None and memory.content_key == known and len(present) == len(names):
            content = memory.content
            if isinstance(content, Problem) or content.json or _recorded(content.hash, revisions.values()):
                return content
        failpoints.reach("wanted.content.before")
        content = await self._sources.resolve(key[0], spec, present)
        failpoints.reach("wanted.content.after")
        memory.content_key, memory.content = known, content
        if isinstance(content, Content) and _recorded(content.hash, revisions.values()):
            memory.content = content._replace(json=b"")
        return content


def _ends(content: Content | Problem, status: Status) -> bool:
    """Whether it is the way back of a candidate that is out."""
    return status.canary is not None and _is_of(content, status.stable)


def _examined(spec: Spec) -> Problem | None:
    """What could never be asked or written, whatever the content is."""
    try:
        for examine in EXAMINERS:
            examine(spec)
    except FieldError as error:
        return Problem(conditions.INVALID_SPEC, str(error))
    return None


def _is_of(content: Content | Problem, part: Stable | Canary | None) -> bool:
    return part is not None and isinstance(content, Content) and content.hash == part.hash


def _recorded(content_hash: str, revisions: Iterable[RevisionObject]) -> bool:
    return any(each.hash == content_hash for each in revisions)


def _instead(memory: Memory, spec: Spec, status: Status, error: Unreadable) -> Content | Problem | None:
    """What stands for content that could not be read: what goes on anyway, and nothing new.

    So a candidate can still be rolled back, and nothing starts under policies, or of sources, that nobody could
    read. Raises the error where nothing can stand for it: then nothing is decided at all.
    """
    known, canary, stable = memory.content, status.canary, status.stable
    if isinstance(known, Problem):
        return known
    going_on = {part.hash for part in (canary, stable) if part} | set(status.rejected_hashes)
    if known is not None and known.hash in going_on:
        return known
    if canary is not None:
        return Content(canary.hash, b"", 0)
    if spec.pinned_version is not None and stable is not None:
        return None  # a pin asks for no content
    if known is not None and stable is not None:
        return Content(stable.hash, b"", stable.keys)
    raise error
