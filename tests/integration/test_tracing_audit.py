"""The audit line of a real operator on a real API server: one for each accepted write that changes what is given."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.integration.running import Client, Operator, candidate, given, stable, wait


def audits(operator: Operator, name: str) -> list[dict[str, Any]]:
    return [line for line in operator.lines if line["event"] == "audit" and line["registry"] == name]


async def test_each_accepted_change_has_one_line(operator: Operator, client: Client, place: str) -> None:
    """Every status that the API server accepted is seen by a watch, and compared with what was told."""
    name = "audited"
    rollout = {"steps": [{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}, {"pause": {"duration": "1s"}}]}
    bad = {"name": "alive", "interval": "1s", "http": {"url": "http://127.0.0.1:1/", "timeoutSeconds": 1}}
    async with client.history(name) as history:
        await client.apply(name, manager="kubectl", data={"a": 1})
        await client.ready(name)
        await client.apply(name, manager="kubectl", data={"a": 2}, rollout=rollout)
        status = await client.until(name, lambda status: (status.get("canary") or {}).get("paused"))
        index = status["canary"]["currentStepIndex"]
        await client.command(name, "promote", f"2:{index}:first-click")
        await client.until(name, lambda status: stable(status, 2))
        checks = [{**bad, "consecutiveErrorLimit": 0}]
        await client.apply(name, manager="kubectl", data={"a": 3}, rollout={**rollout, "checks": checks})
        await client.until(name, lambda status: (status.get("lastOutcome") or {}).get("result") == "RolledBack")
        await client.apply(name, manager="kubectl", data={"a": 4}, rollout=rollout)
        await client.until(name, lambda status: candidate(status, 4, 20))
        await client.apply(name, manager="kubectl", data={"a": 4}, pinnedVersion=1)
        last = await client.until(name, lambda status: stable(status, 1))
        wait(lambda: audits(operator, name)[-1]["revision"] == last["revision"], lambda: operator.log[-3000:])
        await client.wait(lambda: _is(history.revisions[-1] == last["revision"]), lambda: "the watch to be there")
    statuses = [{}, *(each.status for each in history.seen)]
    changes = [
        (before.get("revision", 0), after["revision"])
        for before, after in pairwise(statuses)
        if given(before) != given(after)
    ]
    lines = audits(operator, name)
    told = [(line["from"]["revision"], line["to"]["revision"]) for line in lines]
    assert [each for each in told if each[0] != each[1]] == changes
    assert {line["logger"] for line in lines} == {"configregistry.audit"}
    assert all(line["namespace"] == place for line in lines)
    timely = {"StepAdvanced", "RolloutPaused"}  # whether they come before what a person does is a race
    assert {line["who"] for line in lines if line["what"] in timely and "command" not in line} == {"operator"}
    assert [(line["who"], line["what"]) for line in lines if line["what"] not in timely] == [
        ("kubectl", "RolloutCompleted"),
        ("kubectl", "RolloutStarted"),
        ("operator", "RolloutCompleted"),
        ("kubectl", "RolloutStarted"),
        ("operator", "RolledBack"),
        ("kubectl", "RolloutStarted"),
        ("kubectl", "RolloutCompleted"),
    ]
    (promoted,) = [line for line in lines if line.get("command")]
    assert promoted["command"] == "promote first-click"
    assert promoted["who"] != "operator"


async def _is(true: bool) -> bool:
    return true
