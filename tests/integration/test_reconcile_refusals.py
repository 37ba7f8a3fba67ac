"""Bad input: refused with the field and what was expected, by the API server or by the controller; nothing
that is served changes, and mending the input is all that it takes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.running import Client, Operator, condition, said, stable
from tests.schemas import doubling

from configregistry.kube.failures import Invalid

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

HTTP = {"url": "http://127.0.0.1:9/healthz"}
PROMETHEUS = {"address": "http://127.0.0.1:9", "query": "up"}


def rollout(**fields: Any) -> dict[str, Any]:
    return {"rollout": fields}


def check(**fields: Any) -> dict[str, Any]:
    return rollout(checks=[{"name": "alive", **fields}])


BY_CONTROLLER: dict[str, tuple[dict[str, Any], str]] = {
    "key with a blank": ({"data": {"a b": 1}}, "spec.data['a b']"),
    "key that begins with a dot": ({"data": {".a": 1}}, "spec.data['.a']"),
    "key too long": ({"data": {"a" * 254: 1}}, "expected a key of the form"),
    "integer beyond what is exact": ({"data": {"n": {"deep": [2**53]}}}, "spec.data['n'].deep[0]"),
    "value too large": ({"data": {"a": "x" * 530_000}}, "expected at most 524,288 bytes"),
    "too many keys": (
        {"data": {f"k{i}": 0 for i in range(20_000)}, "dataFrom": [{"configMapRef": {"name": "one-more"}}]},
        "expected at most 20,000 keys",
    ),
    "schema that is none": ({"data": {"a": 1}, "schema": {"type": 5}}, "spec.schema: expected a JSON Schema"),
    "schema from elsewhere": (
        {"data": {"a": 1}, "schema": {"$ref": "http://127.0.0.1:9/schema"}},
        "put the schema inline",
    ),
    "data that breaks the schema": (
        {"data": {"a": "text"}, "schema": {"properties": {"a": {"type": "integer"}}}},
        "spec.data['a']: does not fit spec.schema",
    ),
    "data that breaks a schema with references": (
        {
            "data": {"a": "text"},
            "schema": {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}},
        },
        "spec.data['a']: does not fit spec.schema",
    ),
    "schema that would take for ever": (
        {"data": {"a": 1}, "schema": doubling(60)},
        "spec.schema: expected one that is compared with the data in 10 s",
    ),
    "pin of a version that is not there": ({"data": {"a": 1}, "pinnedVersion": 99}, "spec.pinnedVersion: 99"),
    "key of a ConfigMap": (
        {"data": {"a": 1}, "dataFrom": [{"configMapRef": {"name": "odd"}}]},
        "spec.dataFrom[0]: ConfigMap odd",
    ),
    "validator that is asked of a version": (
        {"data": {"a": 2}, "validators": [{"name": "limits", "url": "http://127.0.0.1:9/{{version}}"}]},
        "spec.validators[0].url",
    ),
}

BY_API_SERVER: dict[str, tuple[dict[str, Any], str]] = {
    "duration": ({"data": {"a": 2}, **rollout(steps=[{"pause": {"duration": "soon"}}])}, "spec.rollout.steps"),
    "bake": ({"data": {"a": 2}, **rollout(bake="5 minutes")}, "spec.rollout.bake"),
    "steps and preset": (
        {"data": {"a": 2}, **rollout(preset="AllAtOnce", steps=[{"setWeight": 5}])},
        "spec.rollout",
    ),
    "two kinds in one check": (
        {"data": {"a": 2}, **check(http=HTTP, prometheus=PROMETHEUS, max=1)},
        "spec.rollout.checks",
    ),
    "no kind in a check": ({"data": {"a": 2}, **check()}, "spec.rollout.checks"),
    "weight beyond 100": ({"data": {"a": 2}, **rollout(steps=[{"setWeight": 101}])}, "setWeight"),
    "too many keys": ({"data": {f"k{i}": 0 for i in range(20_001)}}, "spec.data: Too many"),
    "pin of nothing": ({"data": {"a": 2}, "pinnedVersion": 0}, "spec.pinnedVersion"),
    "history of less than nothing": ({"data": {"a": 2}, "revisionHistoryLimit": -1}, "revisionHistoryLimit"),
}


def slug(case: str) -> str:
    return case.replace(" ", "-").lower()[:50]


@pytest.mark.parametrize("case", BY_CONTROLLER)
async def test_the_controller_refuses_and_what_was_served_stays_served(client: Client, case: str) -> None:
    spec, expected = BY_CONTROLLER[case]
    name = slug(case)
    await client.configmap("odd", {"_bad": "1"})
    await client.configmap("one-more", {"one-more": "1"})
    good: dict[str, Any] = {"data": {"good": True}}
    await client.apply(name, **good)
    before = await client.ready(name)
    await client.apply(name, **spec)
    refused = await client.steady(name, Stalled=("True", "InvalidSpec"), Ready=("False", "InvalidSpec"))
    assert expected in condition(refused, "Stalled")["message"]
    assert said(refused, Available=("True", "VersionServed"), Reconciling=("False", "Idle"))
    assert (refused["stable"], refused["revision"]) == (before["stable"], before["revision"])
    assert "canary" not in refused
    assert len(await client.revisions(name)) == 1
    await client.wait(
        lambda: _told(client, name, "InvalidSpec", expected), lambda: f"an event InvalidSpec with {expected}"
    )
    await client.apply(name, **good)
    mended = await client.ready(name)
    assert (mended["stable"], mended["revision"]) == (before["stable"], before["revision"])


async def _told(client: Client, name: str, reason: str, text: str) -> bool:
    return any(each["reason"] == reason and text in each["note"] for each in await client.events(name))


@pytest.mark.parametrize(
    "case", ["key with a blank", "value too large", "schema that is none", "validator that is asked of a version"]
)
async def test_a_first_version_that_is_invalid_is_never_served(client: Client, case: str) -> None:
    spec, expected = BY_CONTROLLER[case]
    name = f"first-{slug(case)}"
    await client.apply(name, **spec)
    refused = await client.steady(
        name, Available=("False", "NoVersion"), Stalled=("True", "InvalidSpec"), Ready=("False", "InvalidSpec")
    )
    assert expected in condition(refused, "Stalled")["message"]
    assert "stable" not in refused
    assert not await client.revisions(name)
    await client.apply(name, data={"good": True})
    assert (await client.ready(name))["stable"]["version"] == 1


@pytest.mark.parametrize("case", BY_API_SERVER)
async def test_the_api_server_refuses_what_a_crd_can(client: Client, case: str) -> None:
    spec, expected = BY_API_SERVER[case]
    name = f"api-{slug(case)}"
    await client.apply(name, data={"good": True})
    before = await client.ready(name)
    with pytest.raises(Invalid, match=expected):
        await client.apply(name, **spec)
    assert await client.status(name) == before


async def test_weights_that_decrease_are_refused_by_either(client: Client) -> None:
    """CEL on the API server where it can; the controller says the same where it could not."""
    await client.apply("decreasing", data={"good": True})
    await client.ready("decreasing")
    steps = [{"setWeight": 50}, {"setWeight": 10}]
    try:
        await client.apply("decreasing", data={"a": 2}, **rollout(steps=steps))
    except Invalid as error:
        assert "steps" in str(error)  # noqa: PT017
    else:
        await client.steady("decreasing", Stalled=("True", "InvalidSpec"))
    assert stable(await client.status("decreasing"), 1)


async def test_a_candidate_is_held_while_its_spec_is_invalid_and_can_be_aborted(client: Client) -> None:
    paused = rollout(steps=[{"setWeight": 20}, {"pause": {}}])
    await client.apply("held", data={"a": 1}, **paused)
    await client.ready("held")
    await client.apply("held", data={"a": 2}, **paused)
    await client.steady("held", Ready=("False", "Paused"))
    await client.apply("held", data={"a b": 3}, **paused)
    held = await client.steady("held", Stalled=("True", "InvalidSpec"))
    assert (held["canary"]["version"], held["canary"]["weight"]) == (2, 20)
    await client.command("held", "abort", "2:-:t1")
    aborted = await client.until("held", lambda s: stable(s, 1))
    assert said(aborted, Stalled=("True", "InvalidSpec"))
    assert aborted["rejected"][0]["reason"] == "Aborted"


async def test_the_largest_that_is_allowed_is_recorded_and_read(client: Client, operator: Operator, place: str) -> None:
    data = {f"key-{number:05}": "x" * 10 for number in range(20_000)}
    await client.apply("largest", data=data)
    status = await client.ready("largest")
    assert status["stable"]["keys"] == 20_000
    found = operator.read(f"/v1/namespaces/{place}/registries/largest/keys/key-19999")
    assert found["value"] == "x" * 10
