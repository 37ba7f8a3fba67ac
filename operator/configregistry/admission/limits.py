"""What RolloutPolicies make of a spec.rollout, and say against it, before it is stored.

Warnings alone: a policy may change a moment later, and the controller decides when something begins. Asked in the
loop of the reflectors. It must never take a policy that could not be read for one that is missing.
"""

from __future__ import annotations

from configregistry.errors import FieldError
from configregistry.model.spec import RolloutSpec
from configregistry.reconcile.policies import Policies
from configregistry.reconcile.sources import Unreadable
from configregistry.rollout.plan import plan_of
from configregistry.rollout.policy import beyond, effective


class Limits:
    """Looks at the policies of a namespace and of a registry."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def look(self, namespace: str, rollout: RolloutSpec) -> tuple[RolloutSpec | None, tuple[str, ...]]:
        """The spec.rollout that is followed under the policies (None: nobody can say), and what to warn of."""
        try:
            found = await self._policies.of(namespace, rollout)
        except Unreadable:
            return None, ()
        if found.problem is not None:
            return None, (f"{found.problem.message}: no rollout starts until there is one",)
        try:
            followed = effective(rollout, found.chosen, found.imposed)
            sentence = beyond(rollout, plan_of(followed), found.chosen, found.imposed)
        except FieldError:
            return None, ()  # what is wrong with it the rules say
        return followed, (sentence,) if sentence is not None else ()
