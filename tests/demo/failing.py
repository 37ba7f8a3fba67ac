"""The last two acts: a version that breaks the workers that get it, and content that is not valid."""

from __future__ import annotations

import time
from typing import Any

from tests.demo.acts import Stage
from tests.demo.kubectl import KubectlError
from tests.demo.manifests import CHECK, FAILURE_LIMIT, REGISTRY
from tests.demo.picked import content_hash, picked

_SECONDS = 1.0
"""The product's promise for a rollback, and what the demo holds it to, reading included."""


async def third_version(stage: Stage) -> float | None:
    """The schema allows it, the workers break on it, nobody does anything: it is taken back. Gives the time it took."""
    view, manifests = stage.view, stage.manifests
    with stage.act("Version 3: it breaks the workers that get it"):
        mark, began = len(view.journal), time.monotonic()
        expected = picked(content_hash(manifests.three.data), 10, view.names())
        asked_before = view.health.get("firstFailedAt")
        await stage.apply(manifests.three, before=manifests.two)
        with stage.picture.shown():
            await view.until(lambda: view.at_weight(3, 10), "version 3 to be at 10 %")
            await view.until(
                lambda: view.health.get("firstFailedAt") != asked_before, "the operator's check to meet a failing shop"
            )
            await view.until(lambda: view.condition("Ready").get("reason") == "RolledBack", "the rollback")
            await view.until(lambda: stage.all_have(2), "all workers to work with version 2 again")
        first_failed = float(view.health["firstFailedAt"])
        stage.ledger.expect("the check met a failing shop", first_failed > began, _error(view.journal[mark:]))
        back = _judge_workers(stage, mark, expected)
        _judge_status(stage)
        took = back - first_failed
        stage.ledger.expect(
            f"from the first failed check to the last worker back on stable: under {_SECONDS:g} s",
            took < _SECONDS,
            f"{took:.2f} s{_decided(stage, first_failed)}",
        )
        await stage.list()
        return took


def _judge_workers(stage: Stage, mark: int, expected: frozenset[str]) -> float:
    """Judge by the journal who had version 3; give when the last one was back."""
    since = stage.view.journal[mark:]
    had = {entry["name"] for entry in since if entry["version"] == 3}
    failed = {entry["name"] for entry in since if entry["version"] == 3 and entry["ok"] is False}
    ledger = stage.ledger
    # Not all of them need have asked before it was taken back again.
    told = f"{len(had & expected)} of {len(expected)}" + (
        f"; not picked: {len(had - expected)}" if had - expected else ""
    )
    ledger.expect("only picked workers got version 3", bool(had) and had <= expected, told)
    ledger.expect("each of them really failed", failed == had, f"{len(failed)} failed")
    others = {entry["name"] for entry in since} - had
    ledger.expect("no other worker was touched", not others, f"{50 - len(had) - len(others)} noticed nothing")
    return max((float(entry["since"]) for entry in since if entry["version"] == 2), default=time.monotonic())


def _judge_status(stage: Stage) -> None:
    view, ledger = stage.view, stage.ledger
    stalled, ready = view.condition("Stalled"), view.condition("Ready")
    told = f"{stalled.get('reason')}: {stalled.get('message')}"
    rolled_back = stalled.get("status") == "True" and stalled.get("reason") == ready.get("reason") == "RolledBack"
    ledger.expect("the conditions say RolledBack", rolled_back, told)
    message = str(stalled.get("message"))
    named = [word for word in (CHECK, "500", f"limit {FAILURE_LIMIT}") if word not in message]
    ledger.expect("the message names check, value and limit", not named, f"lacks {named}" if named else "")
    outcome = view.status.get("lastOutcome") or {}
    said = (outcome.get("version"), outcome.get("result"), outcome.get("trigger"))
    ledger.expect("it did that by itself", said == (3, "RolledBack", "Check"), f"lastOutcome {said}")


async def invalid(stage: Stage) -> None:
    """What is not valid is refused with its reason, and nothing that is served changes."""
    view, manifests, ledger = stage.view, stage.manifests, stage.ledger
    with stage.act("Version 4: not valid"):
        mark, revision, last = len(view.journal), view.status["revision"], view.status["lastVersion"]
        await stage.apply(manifests.four, before=manifests.three)
        with stage.picture.shown():
            await view.until(lambda: view.condition("Stalled").get("reason") == "InvalidSpec", "the refusal")
        stalled, available = view.condition("Stalled"), view.condition("Available")
        message = str(stalled.get("message"))
        ledger.expect("Stalled says InvalidSpec and why", stalled.get("status") == "True", message)
        named = [word for word in ("batch.size", "unlimited", "integer") if word not in message]
        ledger.expect(
            "it names the field, the value and what was expected", not named, f"lacks {named}" if named else ""
        )
        ledger.expect("what was served is served", available.get("status") == "True", str(available.get("message")))
        same = (view.status["revision"], view.status["lastVersion"], view.stable) == (revision, last, 2)
        told = f"revision {view.status['revision']}, last version {view.status['lastVersion']}"
        ledger.expect("no version was recorded, no revision raised", same, told)
        await stage.list()
        await _backwards(stage)
        ledger.expect("no worker noticed any of it", len(view.journal) == mark, view.told_workers())


async def _backwards(stage: Stage) -> None:
    """Some mistakes the API server refuses itself, before anything is stored."""
    stage.screen.say("")
    stage.screen.say("What the API server can tell is wrong is not even stored: weights that decrease.")
    before = await _generation(stage)
    try:
        await stage.apply(stage.manifests.backwards, before=stage.manifests.two)
    except KubectlError as error:
        stage.screen.output(str(error))
        named = "weights must never decrease" in str(error)
        stage.ledger.expect("the API server refuses it with its reason", named)
    else:
        stage.ledger.fail("the API server refuses it with its reason", "it was accepted")
    after = await _generation(stage)
    stage.ledger.expect("the resource is unchanged", before == after, f"generation {after}")


async def _generation(stage: Stage) -> int:
    found = await stage.kubectl.json("get", "creg", REGISTRY, "-n", stage.namespace)
    return int(found["metadata"]["generation"])


def _decided(stage: Stage, first_failed: float) -> str:
    """Tell how much of the time the operator needed, as far as kubectl shows it."""
    written = next((each.at for each in stage.view.served if each.at > first_failed and each.canary is None), None)
    return "" if written is None else f", of it {written - first_failed:.2f} s until kubectl showed the rollback"


def _error(entries: list[dict[str, Any]]) -> str:
    return next((f"{entry['name']}: {entry['error']}" for entry in entries if entry["ok"] is False), "no error")
