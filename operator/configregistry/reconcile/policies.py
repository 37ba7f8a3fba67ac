"""Which RolloutPolicies a registry follows, and what plan they make of its spec.rollout.

A policy is named by spec.rollout.policyRef, or else by a label of the namespace; the namespace's own holds in
any case. Reads what the watches hold: a look-up each. What they lack is asked for, since absent means that a
GET answered 404 (as in `sources`). It must never decide, and never let a change of a policy begin anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

from configregistry import failpoints
from configregistry.errors import FieldError
from configregistry.health import examine as examine_check
from configregistry.kube.failures import ApiError
from configregistry.kube.objects import Meta, MetaObject
from configregistry.model import conditions
from configregistry.model.names import LABEL_POLICY
from configregistry.model.policy import Policy, parse_policy
from configregistry.model.spec import RolloutSpec
from configregistry.reconcile.links import Followed
from configregistry.reconcile.memory import Key
from configregistry.reconcile.sources import Unreadable, examine_checks
from configregistry.rollout.observation import Problem
from configregistry.rollout.plan import Plan, plan_of
from configregistry.rollout.policy import effective, examine

NO_NAMESPACE: Final = ""
"""In the keys of what belongs to the whole cluster."""


class PolicyObject(Protocol):
    """A RolloutPolicy as it is kept: `spec` is JSON."""

    @property
    def meta(self) -> Meta:
        """Its metadata."""
        ...

    @property
    def spec(self) -> bytes:
        """Its spec."""
        ...


ReadPolicy = Callable[[str], Awaitable[PolicyObject | None]]
ReadNamespace = Callable[[str], Awaitable[MetaObject | None]]
"""GETs by name; None is 404, everything else that goes wrong is raised as `ApiError`."""


class Chosen(NamedTuple):
    """The policies of a registry: the one that it follows, the one of its namespace, what is wrong with either."""

    chosen: Policy | None = None
    imposed: Policy | None = None
    problem: Problem | None = None


class Planned(NamedTuple):
    """The plan under the policies. Beside a problem it is what can be followed of it, or None."""

    plan: Plan | None
    policies: tuple[Policy, ...] = ()
    problem: Problem | None = None


class _Read(NamedTuple):
    """What a policy came to at a resourceVersion; a text says why nobody can follow it."""

    version: str
    found: Policy | str


class Policies:
    """Looks up policies. Each is parsed once for each resourceVersion."""

    def __init__(
        self,
        policies: Mapping[Key, PolicyObject],
        namespaces: Mapping[Key, MetaObject],
        read_policy: ReadPolicy,
        read_namespace: ReadNamespace,
    ) -> None:
        self._policies = policies
        self._namespaces = namespaces
        self._read_policy = read_policy
        self._read_namespace = read_namespace
        self._parsed: dict[str, _Read] = {}

    def followed(self, namespace: str, rollout: RolloutSpec) -> frozenset[Followed]:
        """Everything a change of which may change the policies of a registry."""
        names = {labelled(self._namespaces.get((NO_NAMESPACE, namespace)))}
        if rollout.policy_ref is not None:
            names.add(rollout.policy_ref.name)
        policies = {("policy", NO_NAMESPACE, name) for name in names if name}
        return frozenset({("namespace", NO_NAMESPACE, namespace), *policies})

    async def plan(self, namespace: str, rollout: RolloutSpec) -> Planned:
        """The plan of a spec.rollout. Raises `Unreadable` when nobody can say which policies there are."""
        found = await self.of(namespace, rollout)
        policies = tuple(each for each in (found.chosen, found.imposed) if each is not None)
        try:
            followed = effective(rollout, found.chosen, found.imposed)
            plan = plan_of(followed)
            examine_checks(followed)
        except FieldError as error:
            return Planned(None, policies, Problem(conditions.INVALID_SPEC, str(error)))
        return Planned(plan, policies, found.problem)

    async def of(self, namespace: str, rollout: RolloutSpec) -> Chosen:
        """The policies of a registry. Raises `Unreadable` when nobody can say which there are."""
        label = labelled(await self._namespace(namespace))
        ref = rollout.policy_ref.name if rollout.policy_ref is not None else ""
        imposed = await self._policy(label) if label else None
        chosen = imposed if ref in {"", label} else await self._policy(ref)
        wrong = [
            f"{field}: {name!r}: {found}"
            for field, name, found in (
                ("spec.rollout.policyRef.name", ref, chosen if ref else None),
                (f"label {LABEL_POLICY} of namespace {namespace}", label, imposed),
            )
            if isinstance(found, str)
        ]
        return Chosen(
            chosen if isinstance(chosen, Policy) else None,
            imposed if isinstance(imposed, Policy) else None,
            Problem(conditions.INVALID_SPEC, wrong[0]) if wrong else None,
        )

    async def _namespace(self, name: str) -> MetaObject | None:
        found = self._namespaces.get((NO_NAMESPACE, name))
        if found is not None:
            return found
        try:
            failpoints.reach("policies.namespace.before")
            return await self._read_namespace(name)
        except ApiError as error:
            raise Unreadable(f"Namespace {name} could not be read: {error}") from error

    async def _policy(self, name: str) -> Policy | str:
        """A policy, or what was expected of it."""
        found = self._policies.get((NO_NAMESPACE, name))
        if found is None:
            try:
                failpoints.reach("policies.policy.before")
                found = await self._read_policy(name)
            except ApiError as error:
                raise Unreadable(f"RolloutPolicy {name} could not be read: {error}") from error
        if found is None:
            self._parsed.pop(name, None)
            return "expected a RolloutPolicy"
        version = found.meta.resource_version
        known = self._parsed.get(name)
        if known is None or known.version != version:
            known = self._parsed[name] = _Read(version, _parse(name, found.spec))
        return known.found


def _parse(name: str, raw: bytes) -> Policy | str:
    try:
        policy = parse_policy(name, raw)
        examine(policy)
        for field, checks in (("spec.defaults.checks", policy.defaults.checks), ("spec.checks", policy.checks)):
            for index, check in enumerate(checks):
                examine_check(check, f"{field}[{index}]")
    except FieldError as error:
        return f"expected a RolloutPolicy that can be followed ({error})"
    return policy


def labelled(namespace: MetaObject | None) -> str:
    """The policy that a namespace's label names; empty: none."""
    return namespace.meta.labels.get(LABEL_POLICY, "") if namespace is not None else ""
