"""Who must agree before new content goes out: the policies' limits, the validators, the dependencies, the hooks.

Asked in this order, each only where those before it have nothing against it. None of it is waited for but the
dependencies' GETs: validators and hooks are asked in the background, and say so when they have answered. It must
never hold up what is out already.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import inf

from configregistry import failpoints
from configregistry.kube.objects import Meta, RevisionObject
from configregistry.model import conditions
from configregistry.model.spec import Spec
from configregistry.model.status import Status
from configregistry.reconcile import links
from configregistry.reconcile.cluster import Cluster
from configregistry.reconcile.hooks import Hooks
from configregistry.reconcile.memory import Key
from configregistry.reconcile.validation import PENDING, Validation
from configregistry.reconcile.wanted import Asked
from configregistry.rollout import gates
from configregistry.rollout.intent import Wish, intent_of
from configregistry.rollout.observation import Observation, Problem
from configregistry.rollout.policy import limited

Revisions = Mapping[int, RevisionObject]
"""The recorded versions, in which the JSON of recorded content is found without asking anybody."""


class Consent:
    """Asks all of them."""

    def __init__(self, cluster: Cluster, validation: Validation, hooks: Hooks) -> None:
        self._cluster = cluster
        self._validation = validation
        self._hooks = hooks

    async def asked(
        self, meta: Meta, asked: Asked, status: Status, obs: Observation, revisions: Revisions
    ) -> Observation:
        """The observation with what they say. Raises `ApiError`."""
        spec = asked.spec
        if spec is None:
            self._validation.idle(meta.key)
            return obs
        key = meta.key
        obs = limited(status, obs, spec.rollout, *asked.policies)
        obs = self._validated(meta, spec, status, obs, revisions)
        if spec.depends_on and intent_of(status, obs).wish is Wish.NEW and not _trips(status, obs):
            obs = obs._replace(waiting_for=await self._waiting_for(key, spec))
        content_hash = obs.content.hash if obs.content is not None else ""
        deadline = obs.plan.progress_deadline if obs.plan is not None else inf
        hook, message = self._hooks.before(key, meta, spec, status, content_hash, deadline)
        return obs._replace(
            hook=hook,
            hook_message=message,
            tells=self._hooks.tells(spec),
            told=self._hooks.told(key, meta, spec, status),
        )

    def forget(self, key: Key) -> None:
        """The registry is gone."""
        self._validation.forget(key)
        self._hooks.forget(key)

    async def close(self) -> None:
        """End everything that is being asked."""
        await self._validation.close()
        await self._hooks.close()

    def _validated(self, meta: Meta, spec: Spec, status: Status, obs: Observation, revisions: Revisions) -> Observation:
        content = obs.content
        if content is None:
            self._validation.idle(meta.key)
            return obs
        if not content.json and self._validation.wants(meta.key, meta, spec, content.hash, status):
            content = content._replace(json=_recorded(content.hash, revisions))
            if not content.json:
                problem = Problem(conditions.VALIDATOR_UNAVAILABLE, f"content {content.hash} is recorded, and damaged")
                return obs._replace(content=None, problem=problem)
        refused = self._validation.verdict(meta.key, meta, spec, content, status)
        if refused is PENDING:
            refused = _said_before(meta, status) or refused
        return obs if refused is None else obs._replace(content=None, problem=refused)

    async def _waiting_for(self, key: Key, spec: Spec) -> tuple[str, ...]:
        """The dependencies that are not Ready for their present generation, asked by GET."""
        names = [each.name for each in spec.depends_on]
        failpoints.reach("consent.dependency.before")
        return tuple([name for name in names if not links.is_ready(await self._cluster.fresh_registry((key[0], name)))])


def _said_before(meta: Meta, status: Status) -> Problem | None:
    """The refusal that the status tells of this very spec: a restart asks again, and is no news meanwhile."""
    for each in status.conditions:
        same = each.type == conditions.STALLED and each.observed_generation == meta.generation
        if same and each.reason == conditions.INVALID_SPEC and each.message.startswith("spec.validators["):
            return Problem(conditions.INVALID_SPEC, each.message)
    return None


def _trips(status: Status, obs: Observation) -> bool:
    return status.canary is not None and obs.plan is not None and gates.trips(status.canary, obs.plan, obs.reports)


def _recorded(content_hash: str, revisions: Revisions) -> bytes:
    """The JSON of content as it was recorded; empty where it is damaged or gone."""
    for revision in revisions.values():
        if revision.hash == content_hash:
            with suppress(ValueError):
                return revision.content()
    return b""
