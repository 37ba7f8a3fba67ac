"""What a registry does beside rolling out: sources, schema, pruning, dependencies, pins, commands, events."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.integration.running import Client, Operator, condition, said, stable
from tests.servers import AppServer

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

WAITS: dict[str, Any] = {"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]}


def refs(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"configMapRef": {"name": name}, **more} for name in names]


def read(operator: Operator, client: Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = operator.read(f"/v1/namespaces/{client.namespace}/registries/{name}")["data"]
    return found


async def reads(operator: Operator, client: Client, name: str, wanted: dict[str, Any]) -> None:
    """Serve follows the same status by a watch of its own, some milliseconds later."""

    async def met() -> bool:
        return read(operator, client, name) == wanted

    await client.wait(met, lambda: f"{name} to give {wanted}, not {read(operator, client, name)}")


async def test_a_configmap_is_followed_and_its_change_rolls_out(client: Client, operator: Operator) -> None:
    await client.configmap("base", {"a": "1", "text": "on", "list": "[1, 2]"})
    await client.configmap("over", {"text": "off"})
    spec: dict[str, Any] = {
        "data": {"b": 2},
        "dataFrom": [
            *refs("base"),
            *refs("over", format="String", prefix="over."),
            {"configMapRef": {"name": "perhaps", "optional": True}},
        ],
        "rollout": {"steps": [{"setWeight": 30}, {"pause": {}}]},
    }
    await client.apply("follows", **spec)
    await client.ready("follows")
    await reads(operator, client, "follows", {"a": 1, "text": "on", "list": [1, 2], "over.text": "off", "b": 2})
    generation = (await client.get("follows") or {})["metadata"]["generation"]

    await client.configmap("base", {"a": "1", "text": "changed", "list": "[1, 2]"})
    waiting = await client.until("follows", lambda s: s.get("canary", {}).get("weight") == 30)
    assert waiting["stable"]["version"] == 1
    await client.until("follows", lambda s: said(s, Ready=("False", "Paused")))
    await client.command("follows", "promote", "2:0:go")
    await client.until("follows", lambda s: stable(s, 2))
    await reads(operator, client, "follows", {"a": 1, "text": "changed", "list": [1, 2], "over.text": "off", "b": 2})
    assert (await client.get("follows") or {})["metadata"]["generation"] == generation

    # An optional one that appears and one that goes are changes of content as well.
    await client.configmap("perhaps", {"c": "3"})
    await client.until("follows", lambda s: s.get("canary", {}).get("version") == 3)
    await client.configmap("perhaps", None)
    cancelled = await client.until("follows", lambda s: stable(s, 2))
    assert cancelled["lastOutcome"]["result"] == "Cancelled"


async def test_a_source_that_goes_away_holds_what_is_served(client: Client, operator: Operator) -> None:
    await client.configmap("going", {"a": "1"})
    await client.apply("loses", dataFrom=refs("going"))
    before = await client.ready("loses")
    await client.configmap("going", None)
    missing = await client.until("loses", lambda s: said(s, Ready=("False", "SourceNotFound")))
    assert said(missing, Reconciling=("True", "SourceNotFound"), Stalled=("False", "Idle"))
    assert "'going'" in condition(missing, "Ready")["message"]
    assert (missing["stable"], missing["revision"]) == (before["stable"], before["revision"])
    await reads(operator, client, "loses", {"a": 1})
    await client.configmap("going", {"a": "1"})
    back = await client.ready("loses")
    assert (back["stable"], back["revision"]) == (before["stable"], before["revision"])
    await client.configmap("going", {"a": "2"})
    await client.until("loses", lambda s: stable(s, 2))


async def test_a_source_that_is_missing_at_first_is_waited_for(client: Client) -> None:
    await client.apply("early", dataFrom=refs("late"))
    await client.until("early", lambda s: said(s, Ready=("False", "SourceNotFound"), Available=("False", "NoVersion")))
    await client.configmap("late", {"a": "1"})
    assert (await client.ready("early"))["stable"]["version"] == 1


async def test_a_schema_is_kept(client: Client) -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 1}}}
    await client.apply("typed", data={"a": 1}, schema=schema)
    await client.ready("typed")
    await client.apply("typed", data={"a": 0}, schema=schema)
    refused = await client.steady("typed", Stalled=("True", "InvalidSpec"))
    assert "spec.data['a']" in condition(refused, "Stalled")["message"]
    await client.apply("typed", data={"a": 2}, schema=schema)
    assert (await client.ready("typed"))["stable"]["version"] == 2


async def test_old_versions_are_pruned_but_not_what_is_needed(client: Client) -> None:
    for number in range(1, 7):
        await client.apply("pruned", data={"n": number}, revisionHistoryLimit=2)
        await client.until("pruned", lambda s, number=number: stable(s, number))  # type: ignore[misc]

    async def left() -> bool:
        return sorted(await client.revisions("pruned")) == [4, 5, 6]

    await client.wait(left, lambda: "versions 4, 5 and 6 to be left")
    await client.wait(lambda: told(client, "pruned", "VersionPruned"), lambda: "an event VersionPruned")


async def told(client: Client, name: str, reason: str) -> bool:
    return any(each["reason"] == reason for each in await client.events(name))


async def test_content_that_comes_back_keeps_its_number(client: Client) -> None:
    for n, number in ((1, 1), (2, 2), (1, 1), (3, 3)):
        await client.apply("returns", data={"n": n})
        await client.until("returns", lambda s, number=number: stable(s, number))  # type: ignore[misc]
    assert sorted(await client.revisions("returns")) == [1, 2, 3]


async def test_a_dependency_holds_the_start_and_no_more(client: Client) -> None:
    await client.apply("needs", data={"a": 1}, dependsOn=[{"name": "needed"}])
    waiting = await client.steady("needs", Ready=("False", "DependencyNotReady"))
    assert said(waiting, Reconciling=("True", "WaitingForDependency"), Available=("False", "NoVersion"))
    assert not await client.revisions("needs")
    await client.apply("needed", data={"a": 1})
    await client.ready("needs")
    # While the dependency rolls out, nothing that depends on it starts.
    await client.apply("needed", data={"a": 2}, rollout=WAITS)
    await client.steady("needed", Ready=("False", "Paused"))
    await client.apply("needs", data={"a": 2}, dependsOn=[{"name": "needed"}])
    held = await client.steady("needs", Ready=("False", "DependencyNotReady"))
    assert held["stable"]["version"] == 1
    await client.command("needed", "promote-full", "2:-:t")
    assert (await client.ready("needs"))["stable"]["version"] == 2


async def test_rings_are_refused(client: Client) -> None:
    await client.apply("ring-a", data={"a": 1}, dependsOn=[{"name": "ring-b"}])
    await client.steady("ring-a", Ready=("False", "DependencyNotReady"))
    await client.apply("ring-b", data={"a": 1}, dependsOn=[{"name": "ring-c"}])
    await client.apply("ring-c", data={"a": 1}, dependsOn=[{"name": "ring-a"}])
    refused = await client.steady("ring-c", Stalled=("True", "InvalidSpec"))
    assert "ring-c -> ring-a -> ring-b -> ring-c" in condition(refused, "Stalled")["message"]
    await client.apply("ring-c", data={"a": 1})
    for name in ("ring-c", "ring-b", "ring-a"):
        await client.ready(name)


async def test_a_fallback_that_closes_a_ring_is_refused_and_nobody_elses(client: Client) -> None:
    await client.apply("fall-a", data={"a": 1}, fallback={"name": "fall-b"})
    await client.ready("fall-a")
    await client.apply("fall-b", data={"b": 1}, fallback={"name": "fall-a"})
    refused = await client.steady("fall-b", Stalled=("True", "InvalidSpec"))
    assert "fall-b -> fall-a -> fall-b" in condition(refused, "Stalled")["message"]
    assert said(await client.status("fall-a"), Ready=("True", "RolloutComplete"))
    await client.apply("fall-a", data={"a": 1})
    await client.ready("fall-a")
    assert (await client.ready("fall-b"))["fallback"] == {"name": "fall-a"}


async def test_pin_and_unpin(client: Client, operator: Operator) -> None:
    for n in (1, 2, 3):
        await client.apply("pins", data={"n": n})
        await client.until("pins", lambda s, n=n: stable(s, n))  # type: ignore[misc]
    revision = (await client.status("pins"))["revision"]
    await client.apply("pins", data={"n": 3}, pinnedVersion=1)
    pinned = await client.steady("pins", Ready=("True", "Pinned"))
    assert (pinned["stable"]["version"], pinned["revision"]) == (1, revision + 1)
    assert [each["reason"] for each in pinned["rejected"]] == ["Unpinned"]
    await reads(operator, client, "pins", {"n": 1})
    # What was left by the pin is refused as a pin, and does not come back by itself.
    await client.apply("pins", data={"n": 3}, pinnedVersion=3)
    await client.steady("pins", Stalled=("True", "InvalidSpec"))
    await client.apply("pins", data={"n": 3})
    stays = await client.steady("pins", Stalled=("True", "Aborted"))
    assert stays["stable"]["version"] == 1
    await client.command("pins", "retry", "3:-:again")
    await client.until("pins", lambda s: stable(s, 3))


async def test_a_pin_ends_a_rollout_at_once(client: Client) -> None:
    await client.apply("pinned-out", data={"n": 1}, rollout=WAITS)
    await client.ready("pinned-out")
    await client.apply("pinned-out", data={"n": 2}, rollout=WAITS)
    await client.steady("pinned-out", Ready=("False", "Paused"))
    await client.apply("pinned-out", data={"n": 2}, rollout=WAITS, pinnedVersion=1)
    pinned = await client.steady("pinned-out", Ready=("True", "Pinned"))
    assert (pinned["stable"]["version"], pinned["lastOutcome"]["result"]) == (1, "Cancelled")


async def out(client: Client, name: str) -> None:
    """A candidate, version 2, waits at 10 %."""
    await client.apply(name, data={"n": 1}, rollout=WAITS)
    await client.ready(name)
    await client.apply(name, data={"n": 2}, rollout=WAITS)
    await client.steady(name, Ready=("False", "Paused"))


async def test_promote_goes_one_step_and_a_second_click_none(client: Client) -> None:
    await out(client, "steps")
    await client.command("steps", "promote", "2:0:first")
    await client.until("steps", lambda s: s.get("canary", {}).get("weight") == 50)
    await client.command("steps", "promote", "2:0:second")
    ignored = await client.until("steps", lambda s: s["commands"]["promote"]["token"] == "second")
    assert ignored["commands"]["promote"]["result"] == "Ignored"
    assert ignored["canary"]["weight"] == 50
    await client.wait(lambda: told(client, "steps", "CommandIgnored"), lambda: "an event CommandIgnored")
    # The annotation is still there: it acts once only.
    await client.annotate("steps", touched="yes")
    await client.command("steps", "promote", "2:2:third")
    await client.until("steps", lambda s: stable(s, 2))


async def test_pause_and_resume(client: Client) -> None:
    steps = {"steps": [{"setWeight": 10}, {"pause": {"duration": "1s"}}, {"setWeight": 50}, {"pause": {}}]}
    await client.apply("freezes", data={"n": 1}, rollout=steps)
    await client.ready("freezes")
    await client.apply("freezes", data={"n": 2}, rollout={**steps, "paused": True})
    named = await client.until("freezes", lambda s: bool(s.get("canary")))
    assert named["canary"]["weight"] == 0
    await client.apply("freezes", data={"n": 2}, rollout=steps)
    await client.until("freezes", lambda s: s["canary"]["weight"] == 10)
    await client.command("freezes", "pause", "2:-:p")
    await client.until("freezes", lambda s: s["canary"].get("paused", {}).get("by") == "Command")
    await client.command("freezes", "resume", "2:-:r")
    await client.until("freezes", lambda s: s["canary"]["weight"] == 50)


async def test_abort_rejects_and_retry_forgets(client: Client) -> None:
    await out(client, "aborts")
    await client.command("aborts", "abort", "2:-:a")
    aborted = await client.steady("aborts", Stalled=("True", "Aborted"), Ready=("False", "Aborted"))
    assert stable(aborted, 1)
    await client.command("aborts", "retry", "2:-:r")
    again = await client.until("aborts", lambda s: s.get("canary", {}).get("version") == 2)
    assert "rejected" not in again
    await client.command("aborts", "promote-full", "2:-:f")
    done = await client.ready("aborts")
    assert done["lastOutcome"]["trigger"] == "User"


async def test_a_command_for_another_version_or_unreadable_is_ignored(client: Client) -> None:
    await out(client, "wrong")
    await client.command("wrong", "abort", "7:-:a")
    await client.command("wrong", "promote", "nonsense")
    found = await client.until("wrong", lambda s: {"abort", "promote"} <= set(s.get("commands", {})))
    assert {each["result"] for each in found["commands"].values()} == {"Ignored"}
    assert found["canary"]["weight"] == 10


async def test_other_content_supersedes_and_the_old_one_cancels(client: Client) -> None:
    await out(client, "edits")
    await client.apply("edits", data={"n": 3}, rollout=WAITS)
    superseded = await client.until("edits", lambda s: s.get("canary", {}).get("version") == 3)
    assert superseded["lastOutcome"]["result"] == "Superseded"
    await client.apply("edits", data={"n": 1}, rollout=WAITS)
    cancelled = await client.ready("edits")
    assert (cancelled["stable"]["version"], cancelled["lastOutcome"]["result"]) == (1, "Cancelled")


async def test_a_failed_check_rolls_back_tells_why_and_is_not_tried_again(
    client: Client, operator: Operator, app: AppServer
) -> None:
    check = {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz"}}
    rollout = {"steps": [{"setWeight": 20}, {"pause": {"duration": "1s"}}], "checks": [check]}
    await client.apply("fails", data={"n": 1}, rollout=rollout)
    await client.ready("fails")
    app.health = 500
    await client.apply("fails", data={"n": 2}, rollout=rollout)
    back = await client.steady("fails", Stalled=("True", "RolledBack"), Healthy=("False", "CheckFailed"))
    assert stable(back, 1)
    message = condition(back, "Stalled")["message"]
    assert all(part in message for part in ("alive", "500", "limit 0")), message
    assert [(each["version"], each["reason"]) for each in back["rejected"]] == [(2, "CheckFailed")]
    await reads(operator, client, "fails", {"n": 1})
    app.health = 200
    # The same content again, after other edits, is not served: nobody said retry.
    await client.apply("fails", data={"n": 2}, rollout={**rollout, "bake": "1s"})
    await client.steady("fails", Stalled=("True", "RolledBack"))
    await client.apply("fails", data={"n": 2}, pinnedVersion=2)
    refused = await client.steady("fails", Stalled=("True", "InvalidSpec"))
    assert "not rejected" in condition(refused, "Stalled")["message"]
    await client.apply("fails", data={"n": 3}, rollout=rollout)
    assert (await client.ready("fails"))["stable"]["version"] == 3


async def test_events_tell_the_story_once(client: Client) -> None:
    await out(client, "story")
    await client.command("story", "promote", "2:0:a")
    await client.until("story", lambda s: s["canary"]["weight"] == 50 and bool(s["canary"].get("paused")))
    await client.command("story", "promote", "2:2:b")
    await client.ready("story")
    wanted = {
        ("VersionRecorded", "version 1"),
        ("VersionRecorded", "version 2"),
        ("RolloutStarted", "version 2 is the candidate"),
        ("StepAdvanced", "goes to 10 %"),
        ("RolloutPaused", "waits at 10 %"),
        ("StepAdvanced", "goes to 50 %"),
        ("RolloutPaused", "waits at 50 %"),
        ("RolloutCompleted", "version 2 is stable"),
    }

    async def all_told() -> bool:
        events = await client.events("story")
        return all(any(e["reason"] == reason and text in e["note"] for e in events) for reason, text in wanted)

    await client.wait(all_told, lambda: f"the events {wanted}")
    events = await client.events("story")
    notes = [(each["reason"], each["note"]) for each in events]
    assert len(notes) == len(set(notes)), "told twice"
    assert not [each for each in events if each.get("series")]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"data": {"n": 1}}, ["condition=Ready", "condition=Available", "condition=Stalled=False"]),
        ({"data": {"a b": 1}}, ["condition=Stalled", "condition=Ready=False", "condition=Reconciling=False"]),
    ],
)
async def test_kubectl_wait_reads_the_conditions(
    crd: KubeCluster, client: Client, spec: dict[str, Any], wanted: list[str]
) -> None:
    name = f"waits-{len(wanted)}-{'good' if 'n' in spec['data'] else 'bad'}"
    await client.apply(name, **spec)
    for each in wanted:
        await asyncio.to_thread(
            crd.kubectl, "wait", f"--for={each}", f"creg/{name}", f"--namespace={client.namespace}", "--timeout=30s"
        )


async def test_a_steady_registry_costs_no_write_and_a_rollout_few_reconciles(
    client: Client, operator: Operator
) -> None:
    """No hot loop: after the last write there is nothing to do, however often its object is touched."""

    def reconciles() -> float:
        return sum(operator.metrics("configregistry_reconciles_total").values())

    await client.apply("quiet", data={"n": 1})
    await client.ready("quiet")
    before = reconciles()
    steps = [part for weight in (10, 20, 30, 40) for part in ({"setWeight": weight}, {"pause": {"duration": "100ms"}})]
    async with client.history("quiet") as history:
        await client.apply("quiet", data={"n": 2}, rollout={"steps": steps})
        await client.ready("quiet")

        async def idle() -> bool:
            seen = reconciles()
            await asyncio.sleep(0.5)
            return reconciles() == seen

        await client.wait(idle, lambda: "the operator to have nothing to do")
    writes = len(history.seen)
    assert writes <= 8, history.places
    assert reconciles() - before <= 6 * writes
    version = (await client.get("quiet") or {})["metadata"]["resourceVersion"]
    await client.wait(idle, lambda: "the operator to stay idle")
    assert (await client.get("quiet") or {})["metadata"]["resourceVersion"] == version
    history.check()
    assert json.dumps(history.places)
