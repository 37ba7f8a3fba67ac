"""One registry as the test asks for it: its object, its ConfigMap, and what all of that means.

It must never know what the operator does with it.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, Final

from tests.integration.histories_compare import Edit
from tests.integration.histories_model import content_of
from tests.integration.histories_world import Event, World, patiently

from configregistry.kube.objects import RevisionObject, decode_revision
from configregistry.kube.paths import REGISTRIES, REVISIONS
from configregistry.model.content import Content
from configregistry.model.spec import parse_spec
from configregistry.rollout.commands import commands_of
from configregistry.rollout.observation import Verdict
from configregistry.rollout.plan import Stage, plan_of

HANG_UP: Final = 0
BAD: Final = "bad"
"""The data that checks fail on, as long as nobody says otherwise."""
CONFIGMAPS: Final = ({"x": "1"}, {"x": "2"})
"""All that its ConfigMap ever holds."""
_VERDICTS: Final = {200: Verdict.PASS, HANG_UP: Verdict.ERROR}


def verdict_of(code: int) -> Verdict:
    """What a check makes of an answer."""
    return _VERDICTS.get(code, Verdict.FAIL)


class Registry:
    """What is asked for, and the writes that ask for it."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        self.world, self.name, self.seed = world, name, seed
        self.random = random.Random(seed)
        self.uid = ""
        self.spec: dict[str, Any] = {}
        self.annotations: dict[str, str] = {}
        self.configmap: dict[str, str] | None = None
        self.codes: dict[str, int] = {}
        """What the checked server answers, by the content's hash."""
        self.verdicts: dict[str, Verdict] = {}
        """The same, as a check takes it."""
        self.contents: dict[str, Any] = {}
        """By hash: all that was ever asked for."""
        self.stages: dict[str, tuple[Stage, ...]] = {}
        """By stepsHash: all steps that were."""
        self.tokens = 0
        self.queue = world.told[name] = asyncio.Queue[Event]()
        world.answers[name] = lambda content: self.codes[content]

    @property
    def configmap_name(self) -> str:
        """Of the one ConfigMap that it may read."""
        return f"{self.name}-base"

    def token(self) -> str:
        """A new one."""
        self.tokens += 1
        return f"t{self.tokens}"

    async def write_commands(self, commands: dict[str, str]) -> dict[str, Any]:
        """All in one write; gives the object."""
        new = {f"configregistry.dev/command-{verb}": text for verb, text in commands.items()}
        self.annotations |= new
        return await self.patch({"metadata": {"annotations": new}})

    async def patch(self, part: Any, subresource: str = "") -> dict[str, Any]:
        """Merge into the object."""
        path = REGISTRIES.path(self.world.client.namespace, self.name, *([subresource] if subresource else []))
        body = json.dumps(part).encode()
        found: dict[str, Any] = json.loads(await patiently(lambda: self.world.client.api.patch(path, body)))
        return found

    async def revisions(self) -> list[RevisionObject]:
        """The versions that are recorded for this life, by quorum."""
        params = {"labelSelector": f"configregistry.dev/registry={self.name}"}
        path = REVISIONS.path(self.world.client.namespace)
        found = json.loads(await patiently(lambda: self.world.client.api.list(path, params)))
        decoded = [decode_revision(json.dumps(each).encode()) for each in found["items"]]
        return sorted((each for each in decoded if each.meta.owned_by(self.uid)), key=lambda each: each.number)

    async def write_spec(self) -> dict[str, Any]:
        """Apply `spec`; gives the object."""
        self._learn()
        body = {"spec": self.spec}
        found: dict[str, Any] = await patiently(lambda: self.world.client.manifest(self.name, body))
        return found

    def asked(self, found: dict[str, Any]) -> Edit:
        """What an object asks for."""
        spec = parse_spec(json.dumps(found["spec"]).encode())
        return Edit(found["metadata"]["generation"], spec, commands_of(self.annotations))

    def configmaps(self) -> dict[str, dict[str, str]]:
        """Those that there are."""
        return {} if self.configmap is None else {self.configmap_name: self.configmap}

    def _learn(self) -> None:
        """Before anything is asked for: what it means, for whoever sees it first."""
        spec = parse_spec(json.dumps(self.spec).encode())
        plan = plan_of(spec.rollout)
        self.stages[plan.steps_hash] = plan.stages
        for configmaps in ({}, *({self.configmap_name: data} for data in CONFIGMAPS)):
            content = content_of(spec, configmaps)
            if isinstance(content, Content) and content.hash not in self.contents:
                self.contents[content.hash] = json.loads(content.json)
                self.codes[content.hash] = 500 if self.spec["data"]["c"] == BAD else 200
                self.verdicts[content.hash] = verdict_of(self.codes[content.hash])
