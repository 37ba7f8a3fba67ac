"""Validators and hooks with the real operator, a real API server and a real HTTP service that they ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.integration.running import Client, Operator, candidate, condition, running, said, stable
from tests.servers import AppServer
from tests.servers.hooked import Hooked, Sent

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

SPEC = REPOSITORY / "docs" / "spec"
WAITS: dict[str, Any] = {"steps": [{"setWeight": 10}, {"pause": {}}]}


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    with Hooked() as service:
        yield service
        for each in service.sent:
            conforms(each)


def conforms(sent: Sent) -> None:
    """What was sent is what the schemas promise."""
    name = {"ValidationRequest": "validation-request", "HookEvent": "hook-event"}[sent.json["kind"]]
    jsonschema_rs.validate(json.loads((SPEC / f"{name}.schema.json").read_text()), sent.json)
    assert sent.headers["X-ConfigRegistry-Delivery"] == sent.json["id"]
    assert sent.headers["Content-Type"] == "application/json"


def validator(hooked: Hooked, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "url": hooked.url(f"/{name}"), **more}


def hook(hooked: Hooked, name: str, when: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "when": when, "url": hooked.url(f"/{name}"), **more}


async def has(client: Client, met: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait for something that the service has seen."""

    async def holds() -> object:
        return met()

    await client.wait(holds, lambda: str(what()))


async def test_a_validator_refuses_and_what_was_served_stays(client: Client, hooked: Hooked) -> None:
    asked: dict[str, Any] = {"validators": [validator(hooked, "limits")]}
    hooked.says("/limits", {"allowed": True})
    await client.apply("refused", data={"a": 1}, **asked)
    first = await client.ready("refused")
    (sent,) = hooked.to("/limits")
    assert sent.json["data"] == {"a": 1}
    assert "stable" not in sent.json

    hooked.says("/limits", {"allowed": False, "message": "a may not be 2"})
    await client.apply("refused", data={"a": 2}, **asked)
    refused = await client.steady("refused", Stalled=("True", "InvalidSpec"), Ready=("False", "InvalidSpec"))
    assert condition(refused, "Stalled")["message"] == "spec.validators[0] (limits): a may not be 2"
    assert said(refused, Available=("True", "VersionServed"))
    assert (refused["stable"], refused["revision"]) == (first["stable"], first["revision"])
    assert len(await client.revisions("refused")) == 1
    assert hooked.to("/limits")[-1].json["stable"] == {"hash": first["stable"]["hash"], "number": 1}

    # Another content is another question; each was asked once.
    hooked.says("/limits", {"allowed": True})
    await client.apply("refused", data={"a": 3}, **asked)
    assert (await client.ready("refused"))["stable"]["version"] == 2
    assert [each.json["data"] for each in hooked.to("/limits")] == [{"a": 1}, {"a": 2}, {"a": 3}]

    # Content that is recorded already is asked about like any, by validators that have not seen it.
    edited: dict[str, Any] = {"validators": [validator(hooked, "limits", timeoutSeconds=6)]}
    hooked.says("/limits", {"allowed": False})
    await client.apply("refused", data={"a": 1}, **edited)
    await client.steady("refused", Stalled=("True", "InvalidSpec"))
    assert hooked.to("/limits")[-1].json["data"] == {"a": 1}
    # And what is served is not questioned by them.
    await client.apply("refused", data={"a": 3}, **edited)
    assert (await client.ready("refused"))["stable"]["version"] == 2
    assert len(hooked.to("/limits")) == 4


async def test_a_validator_that_does_not_answer_holds_one_registry_only(client: Client, hooked: Hooked) -> None:
    asked: dict[str, Any] = {"validators": [validator(hooked, "silent"), validator(hooked, "other")]}
    hooked.says("/other", {"allowed": True})
    hooked.says("/silent", status=503)
    await client.apply("unsure", data={"a": 1}, **asked)
    waiting = await client.until(
        "unsure", lambda s: "spec.validators[0] (silent): got status 503" in condition(s, "Ready").get("message", "")
    )
    assert said(waiting, Ready=("False", "ValidatorUnavailable"), Reconciling=("True", "ValidatorUnavailable"))
    assert said(waiting, Available=("False", "NoVersion"), Stalled=("False", "Idle"))

    hooked.hangs("/hanging")
    await client.apply("hanging", data={"a": 1}, validators=[validator(hooked, "hanging", timeoutSeconds=30)])
    await has(client, lambda: hooked.to("/hanging"), hooked.by_path)
    await client.apply("quick", data={"a": 1}, validators=[validator(hooked, "other")])
    await client.ready("quick")
    assert "stable" not in await client.status("hanging")
    await client.delete("hanging")

    # An answer that cannot be read is none.
    hooked.says("/silent", b"ok")
    await client.until("unsure", lambda s: "could not be read" in condition(s, "Ready")["message"])
    hooked.says("/silent", {"allowed": True})
    assert (await client.ready("unsure"))["stable"]["version"] == 1
    assert len({each.json["id"] for each in hooked.to("/silent")}) == 1


async def test_a_veto_ends_the_candidate_and_editing_the_hooks_asks_again(client: Client, hooked: Hooked) -> None:
    hooks = [hook(hooked, "warm", "PreRollout"), hook(hooked, "chat", "Rollback")]
    await client.apply("vetoed", data={"a": 1}, hooks=hooks)
    first = await client.ready("vetoed")
    assert hooked.sent == []  # nobody gets anything else, so there is nothing to warm for

    hooked.says("/warm", {"allowed": False, "message": "the cache is cold"})
    await client.apply("vetoed", data={"a": 2}, hooks=hooks)
    vetoed = await client.steady("vetoed", Ready=("False", "HookVetoed"), Stalled=("True", "HookVetoed"))
    assert "spec.hooks[0] (warm): the cache is cold" in condition(vetoed, "Stalled")["message"]
    assert said(vetoed, Available=("True", "VersionServed"))
    assert "canary" not in vetoed
    assert "rejected" not in vetoed
    assert vetoed["stable"] == first["stable"]
    assert (vetoed["lastOutcome"]["result"], vetoed["lastOutcome"]["trigger"]) == ("Cancelled", "System")
    (event,) = hooked.to("/warm")
    assert (event.json["when"], event.json["version"]["number"]) == ("PreRollout", 2)
    assert event.json["stable"] == {"hash": first["stable"]["hash"], "number": 1}

    hooked.says("/warm")
    hooks[0] |= {"timeoutSeconds": 6}
    await client.apply("vetoed", data={"a": 2}, hooks=hooks)
    assert (await client.ready("vetoed"))["stable"]["version"] == 2
    assert len(hooked.to("/warm")) == 2
    assert len({each.json["id"] for each in hooked.to("/warm")}) == 2
    assert hooked.to("/chat") == []


async def test_a_hook_that_never_answers_is_a_veto_after_the_deadline(client: Client, hooked: Hooked) -> None:
    spec: dict[str, Any] = {
        "hooks": [hook(hooked, "gone", "PreRollout"), hook(hooked, "fine", "PreRollout")],
        "rollout": {**WAITS, "progressDeadline": "3s", "paused": True},
    }
    hooked.hangs("/gone")
    await client.apply("waits", data={"a": 1}, **spec)
    await client.ready("waits")
    await client.apply("waits", data={"a": 2}, **spec)
    await client.until("waits", lambda s: candidate(s, 2, 0) and said(s, Ready=("False", "Paused")))
    assert hooked.sent == []  # a rollout that is paused has not begun: nobody is asked

    spec["rollout"]["paused"] = False
    await client.apply("waits", data={"a": 2}, **spec)
    await has(client, lambda: hooked.to("/gone") and hooked.to("/fine"), hooked.by_path)
    waiting = await client.status("waits")
    assert candidate(waiting, 2, 0), waiting
    assert waiting["stable"]["version"] == 1
    vetoed = await client.steady("waits", Ready=("False", "HookVetoed"), Stalled=("True", "HookVetoed"))
    message = condition(vetoed, "Stalled")["message"]
    assert "spec.hooks[0] (gone): no answer within progressDeadline (3s)" in message
    assert stable(vetoed, 1)
    assert len(hooked.to("/fine")) == 1


async def test_a_rollback_waits_for_no_hook_and_tells_it_all_the_same(
    client: Client, hooked: Hooked, app: AppServer
) -> None:
    check = {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz"}}
    spec: dict[str, Any] = {
        "hooks": [hook(hooked, "stuck", "Rollback", timeoutSeconds=30), hook(hooked, "chat", "Rollback")],
        "rollout": {**WAITS, "checks": [check]},
    }
    hooked.hangs("/stuck")
    hooked.says("/chat", status=500)
    await client.apply("back", data={"a": 1}, **spec)
    await client.ready("back")
    await client.apply("back", data={"a": 2}, **spec)
    await client.until("back", lambda s: candidate(s, 2, 10))
    app.health = 500
    back = await client.until("back", lambda s: s.get("lastOutcome", {}).get("result") == "RolledBack")
    assert stable(back, 1)
    assert back["lastOutcome"]["hooks"] == "Pending"  # in one write with the rollback, which nobody was asked about

    # While one hangs, the next rollout goes on.
    app.health = 200
    await client.apply("back", data={"a": 3}, **spec)
    await client.until("back", lambda s: candidate(s, 3, 10))
    await client.wait(lambda: _event(client, "back", "HookFailed"), lambda: "an event HookFailed")
    hooked.says("/chat")
    await has(client, lambda: len(hooked.to("/chat")) > 1, hooked.by_path)
    ids = {(each.json["id"], each.json["outcome"]["result"]) for each in hooked.to("/chat")}
    assert len(ids) == 1
    assert ids.pop()[1] == "RolledBack"
    assert condition(await client.status("back"), "Ready")["reason"] in ("RolloutInProgress", "Paused")


async def _event(client: Client, name: str, reason: str) -> bool:
    return any(each["reason"] == reason for each in await client.events(name))


@pytest.fixture
async def mortal(crd: KubeCluster, tmp_path: Path) -> AsyncIterator[tuple[Operator, Client]]:
    """An operator that may be killed, with a namespace of its own."""
    namespace = crd.create_namespace()
    async with Client.of(crd, namespace) as client:
        with running(crd, namespace, tmp_path, start=False) as operator:
            await asyncio.to_thread(operator.start)
            yield operator, client
    crd.delete_namespace(namespace)


async def test_what_was_told_and_vetoed_outlives_the_operator(mortal: tuple[Operator, Client], hooked: Hooked) -> None:
    operator, client = mortal
    after = [hook(hooked, "after", "PostRollout")]
    hooked.says("/after", status=500)
    await client.apply("told", data={"a": 1}, hooks=after)
    pending = await client.until("told", lambda s: s.get("lastOutcome", {}).get("hooks") == "Pending")
    assert stable(pending, 1)  # served, whatever the hook says
    warm = hook(hooked, "warm", "PreRollout")
    await client.apply("no", data={"a": 1}, hooks=[warm])
    await client.ready("no")
    hooked.says("/warm", {"allowed": False, "message": "not today"})
    await client.apply("no", data={"a": 2}, hooks=[warm])
    vetoed = await client.steady("no", Ready=("False", "HookVetoed"))
    await has(client, lambda: len(hooked.to("/after")) > 1, hooked.by_path)

    await asyncio.to_thread(operator.kill)
    before = len(hooked.to("/after"))
    hooked.says("/warm")
    await asyncio.to_thread(operator.start)
    await has(client, lambda: len(hooked.to("/after")) > before, hooked.by_path)
    hooked.says("/after")
    done = await client.until("told", lambda s: s["lastOutcome"]["hooks"] == "Told")
    events = hooked.to("/after")
    assert len({each.body for each in events}) == 1  # the same bytes each time, and so the same id
    assert events[0].json["outcome"]["result"] == "Completed"
    assert events[0].json["version"] == {"hash": done["stable"]["hash"], "number": 1}

    # The veto is not asked again, and nothing of it has changed.
    await client.apply("no", data={"a": 2}, hooks=[warm], revisionHistoryLimit=9)
    again = await client.steady("no", Ready=("False", "HookVetoed"))
    assert condition(again, "Stalled")["message"] == condition(vetoed, "Stalled")["message"]
    assert again["revision"] == vetoed["revision"]
    assert len(hooked.to("/warm")) == 1
