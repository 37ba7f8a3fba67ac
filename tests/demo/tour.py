"""The interfaces that a newcomer meets: kubectl events, curl, and what to try when it is kept running."""

from __future__ import annotations

import asyncio
import os
import time

import aiohttp

from tests.demo.acts import Stage
from tests.demo.manifests import REGISTRY
from tests.demo.surroundings import Place

_STORY = (
    "VersionRecorded",
    "RolloutStarted",
    "StepAdvanced",
    "RolloutCompleted",
    "CheckFailed",
    "RolledBack",
    "InvalidSpec",
)
"""The events that must have been told."""
_WITHIN = 5.0
_AGAIN = 0.2


async def interfaces(stage: Stage, url: str) -> None:
    """Show the events of the whole story, and what an application reads."""
    with stage.act("Looking at it: events and reads"):
        events, missing = await _events(stage)
        stage.screen.command(f"kubectl {' '.join(_command(stage))}")
        stage.screen.output(events)
        stage.ledger.expect(
            "the events tell the story", not missing, f"missing: {', '.join(missing)}" if missing else ""
        )
        await _read(stage, f"{_registry(stage, url)}/keys/batch.size", '"value":16')
        await _read(stage, f"{_registry(stage, url)}/keys/batch.size?raw", "16")


def instructions(stage: Stage, url: str, shop: str, place: Place) -> None:
    """Tell how to go on by hand."""
    namespace, registry = stage.namespace, _registry(stage, url)
    stage.screen.heading("It is all still running: in another terminal, in this directory")
    manifests = os.path.relpath(stage.kubectl.directory)
    lines = (
        place.exports,
        f"kubectl get creg -n {namespace} --watch",
        f"kubectl describe creg {REGISTRY} -n {namespace}",
        f"kubectl edit creg {REGISTRY} -n {namespace}                  # change a value: a rollout starts",
        f"kubectl apply --server-side -n {namespace} -f {manifests}/version-1.yaml",
        f"curl '{registry}?target=worker-07'             # what this worker gets",
        f"curl {registry}/keys/batch.size",
        f"curl {shop}/healthz                            # the shop: /healthz, /workers",
    )
    for line in lines:
        if line:
            stage.screen.say(f"  {line}", "bold")
    stage.screen.say("Ctrl-C here ends everything that the demo started.")


def _registry(stage: Stage, url: str) -> str:
    return f"{url}/v1/namespaces/{stage.namespace}/registries/{REGISTRY}"


def _command(stage: Stage) -> list[str]:
    return ["events", "--for", f"configregistry/{REGISTRY}", "-n", stage.namespace]


async def _events(stage: Stage) -> tuple[str, list[str]]:
    """Give the events and those that lack. They are told in the background, so they may come a little later."""
    deadline = time.monotonic() + _WITHIN
    while True:
        events = await stage.kubectl.run(*_command(stage))
        missing = [reason for reason in _STORY if reason not in events]
        if not missing or time.monotonic() >= deadline:
            return events, missing
        await asyncio.sleep(_AGAIN)


async def _read(stage: Stage, url: str, expected: str) -> None:
    stage.screen.command(f"curl '{url}'")
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            body = await answer.text()
    except aiohttp.ClientError as error:
        stage.ledger.fail("a key can be read", f"{type(error).__name__}: {error}")
        return
    stage.screen.output(body)
    stage.ledger.expect("the key has version 2's value", expected in body)
