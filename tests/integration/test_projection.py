"""spec.project on a real API server: what the ConfigMap holds, when it changes, whose it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.integration.running import Client, condition, said, stable

from configregistry.kube.configmaps import ConfigMapObject, Wanted, change, create, read_whole, remove
from configregistry.kube.failures import AlreadyExists, Conflict, NotFound
from configregistry.kube.objects import Meta
from configregistry.kube.paths import CONFIGMAPS
from configregistry.model.canonical import canonical, content_hash

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

WAITS: dict[str, Any] = {"steps": [{"setWeight": 50}, {"pause": {}}]}
GRACE = {"metadata": {"finalizers": ["test.configregistry.dev/hold"]}}


async def seen(client: Client, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(await client.api.get(CONFIGMAPS.path(client.namespace, name)))
    except NotFound:
        return None
    return found


async def patched(client: Client, name: str, body: dict[str, Any]) -> None:
    await client.api.patch(CONFIGMAPS.path(client.namespace, name), json.dumps(body).encode())


def files(data: dict[str, Any]) -> dict[str, str]:
    """What pods are to find, worked out here by the words of the documentation."""
    small = {key: value if isinstance(value, str) else canonical(value).decode() for key, value in data.items()}
    return {key: text for key, text in small.items() if "/" not in key} | {"config.json": canonical(data).decode()}


async def holds(client: Client, name: str, data: dict[str, Any], *, not_uid: str = "") -> dict[str, Any]:
    """Wait until a ConfigMap holds exactly this, and give it."""
    found: dict[str, Any] | None = None

    async def met() -> bool:
        nonlocal found
        found = await seen(client, name)
        if found is None or found["metadata"]["uid"] == not_uid or found.get("immutable"):
            return False
        return bool(found.get("data") == files(data)) and "binaryData" not in found

    await client.wait(met, lambda: f"{name} to hold {files(data)}, not {json.dumps(found)[:3000]}")
    assert found is not None
    return found


async def test_it_holds_the_stable_version_and_never_the_candidate(client: Client) -> None:
    first = {
        "timeout.ms": 2500,
        "ratio": 0.5,
        "text": "  on\n",
        "quoted": '"7"',
        "umlaut": "Zürich \u2028",
        "nothing": {"a": None, "b": [True]},
        "path/to": "not a file",
        "config.json": "the whole wins",
        "gone-later": 1,
    }
    await client.apply("shop", data=first, rollout=WAITS, project={"configMap": "shop-config"})
    await client.ready("shop")
    found = await holds(client, "shop-config", first)
    meta, registry = found["metadata"], await client.get("shop") or {}
    assert meta["labels"] == {"configregistry.dev/registry": "shop"}
    assert meta["annotations"] == {
        "configregistry.dev/version": "1",
        "configregistry.dev/hash": content_hash(canonical(first)),
        "configregistry.dev/left-out": "2",
    }
    [owner] = meta["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (registry["metadata"]["uid"], True)

    second = {"timeout.ms": 3000, "new": "x"}
    await client.apply("shop", data=second, rollout=WAITS, project={"configMap": "shop-config"})
    await client.steady("shop", Ready=("False", "Paused"))
    assert (await seen(client, "shop-config") or {})["metadata"]["resourceVersion"] == meta["resourceVersion"]
    # What is put right while a candidate is out is the stable version as well.
    await patched(client, "shop-config", {"data": {"text": "by a hand"}})
    await holds(client, "shop-config", first)
    await client.command("shop", "promote", "2:0:go")
    changed = (await holds(client, "shop-config", second))["metadata"]
    assert (changed["uid"], changed["annotations"]["configregistry.dev/version"]) == (meta["uid"], "2")
    # A pin is what is stable.
    await client.apply("shop", data=second, pinnedVersion=1, project={"configMap": "shop-config"})
    await holds(client, "shop-config", first)


async def test_what_a_hand_does_to_it_is_undone(client: Client) -> None:
    data = {"a": 1, "b": "two"}
    await client.apply("drifts", data=data, project={"configMap": "drift"})
    meta = (await holds(client, "drift", data))["metadata"]
    await patched(client, "drift", {"metadata": {"labels": {"team": "x"}}})
    edits: list[dict[str, Any]] = [
        {"data": {"a": "9"}},
        {"data": {"b": None, "c": "added"}},
        {"data": None},
        {"binaryData": {"bin": "AAAA"}},
        {"data": {"a": None}, "binaryData": {"a": "AAAA"}},
        {"metadata": {"annotations": {"configregistry.dev/version": "7", "configregistry.dev/hash": None}}},
        {"metadata": {"labels": {"configregistry.dev/registry": None}}},
    ]
    for edit in edits:
        await patched(client, "drift", edit)

        async def mended() -> bool:
            there = (await holds(client, "drift", data))["metadata"]
            return all(there.get(part, {}).items() >= meta[part].items() for part in ("labels", "annotations"))

        await client.wait(mended, lambda edit=edit: f"{edit} to be undone")  # type: ignore[misc]
    there = (await holds(client, "drift", data))["metadata"]
    assert (there["uid"], there["labels"]["team"]) == (meta["uid"], "x")

    await client.configmap("drift", None)
    again = (await holds(client, "drift", data))["metadata"]
    assert again["uid"] != meta["uid"]
    # Nobody's pods hear of a change of an immutable one: it is made anew.
    await patched(client, "drift", {"immutable": True})
    anew = (await holds(client, "drift", data, not_uid=again["uid"]))["metadata"]
    # One that is going is waited for.
    await patched(client, "drift", GRACE)
    await client.configmap("drift", None)
    await client.apply("drifts", data={"a": 2}, project={"configMap": "drift"})
    await client.until("drifts", lambda s: stable(s, 2))
    assert (await seen(client, "drift") or {})["metadata"]["uid"] == anew["uid"]
    await patched(client, "drift", {"metadata": {"finalizers": None}})
    await holds(client, "drift", {"a": 2}, not_uid=anew["uid"])


async def test_somebody_elses_is_left_alone_until_it_goes(client: Client) -> None:
    await client.configmap("theirs", {"a": "theirs"})
    before = await seen(client, "theirs")
    await client.apply("wants", data={"a": 1}, project={"configMap": "theirs"})
    held = await client.steady("wants", Ready=("False", "ProjectionConflict"), Available=("True", "VersionServed"))
    assert said(held, Stalled=("True", "ProjectionConflict"), Reconciling=("False", "Idle"))
    message = condition(held, "Stalled")["message"]
    assert "spec.project.configMap: 'theirs'" in message
    assert "it belongs to no registry" in message
    # What is served does not depend on it.
    await client.apply("wants", data={"a": 2}, project={"configMap": "theirs"})
    await client.until("wants", lambda s: stable(s, 2) and said(s, Ready=("False", "ProjectionConflict")))
    assert await seen(client, "theirs") == before
    await client.configmap("theirs", None)
    await client.ready("wants")
    await holds(client, "theirs", {"a": 2})
    # Given away: without its owner it is somebody else's again.
    await patched(client, "theirs", {"metadata": {"ownerReferences": None}, "data": {"a": "mine now"}})
    await client.steady("wants", Ready=("False", "ProjectionConflict"))
    assert (await seen(client, "theirs") or {})["data"]["a"] == "mine now"


async def test_of_two_registries_the_first_has_it_and_the_other_follows(client: Client) -> None:
    await client.apply("one", data={"n": "one"}, project={"configMap": "shared"})
    await client.ready("one")
    await holds(client, "shared", {"n": "one"})
    await client.apply("two", data={"n": "two"}, project={"configMap": "shared"})
    held = await client.steady("two", Stalled=("True", "ProjectionConflict"))
    assert "it belongs to ConfigRegistry one" in condition(held, "Stalled")["message"]
    assert said(await client.status("one"), Ready=("True", "RolloutComplete"))
    await client.apply("one", data={"n": "one"})
    await client.ready("one")
    await client.configmap("shared", None)
    await client.ready("two")
    await holds(client, "shared", {"n": "two"})


async def test_another_name_leaves_the_old_one_as_it_is(client: Client) -> None:
    await client.apply("renames", data={"n": 1}, project={"configMap": "old-name"})
    before = await holds(client, "old-name", {"n": 1})
    await client.apply("renames", data={"n": 2}, project={"configMap": "new-name"})
    await holds(client, "new-name", {"n": 2})
    await client.apply("renames", data={"n": 3})
    await client.until("renames", lambda s: stable(s, 3))
    assert await seen(client, "old-name") == before
    assert (await seen(client, "new-name") or {})["data"]["n"] == "2"
    # It goes with the registry, that is all: both belong to it.
    owners = [(await seen(client, name) or {})["metadata"]["ownerReferences"] for name in ("old-name", "new-name")]
    assert {each["uid"] for [each] in owners} == {(await client.get("renames") or {})["metadata"]["uid"]}


async def test_a_namesake_takes_over_what_its_forerunner_left(client: Client) -> None:
    await client.apply("again", data={"n": 1}, project={"configMap": "again-config"})
    first = await holds(client, "again-config", {"n": 1})
    await client.delete("again")
    await client.apply("again", data={"n": 2}, project={"configMap": "again-config"})
    async with client.history("again") as history:
        await client.ready("again")
        found = await holds(client, "again-config", {"n": 2}, not_uid=first["metadata"]["uid"])
    assert found["metadata"]["ownerReferences"][0]["uid"] == (await client.get("again") or {})["metadata"]["uid"]
    assert not [each for each in history.seen if said(each.status, Stalled=("True", "ProjectionConflict"))]


async def test_the_largest_registry_is_projected_as_a_whole(client: Client) -> None:
    """Each key's name is stored three times: 20,000 of them do not fit into one object of etcd."""
    large = {f"feature-{number:05}-key": 1 for number in range(20_000)}
    await client.apply("large", data=large, project={"configMap": "large-config"})
    await client.ready("large")

    async def met() -> bool:
        return await seen(client, "large-config") is not None

    await client.wait(met, lambda: "large-config to be there")
    found = await seen(client, "large-config") or {}
    assert json.loads(found["data"].pop("config.json")) == large
    assert not found["data"]
    assert found["metadata"]["annotations"]["configregistry.dev/left-out"] == "20000"
    # Most of what fits has its files, and 300 KiB of values that are nothing but what JSON escapes.
    odd = {f"k{number}": '\x01"\\' * 1500 for number in range(12)} | {f"s{number}": "y" * 1000 for number in range(200)}
    await client.apply("large", data=odd, project={"configMap": "large-config"})
    await holds(client, "large-config", odd)


@asynccontextmanager
async def owned(client: Client, name: str) -> AsyncIterator[tuple[Meta, ConfigMapObject]]:
    """A registry that projects nothing by itself, and a ConfigMap that was made as its."""
    registry = (await client.apply(name, data={"n": 1}))["metadata"]
    owner = Meta(name, client.namespace, registry["uid"])
    await create(client.api, owner, name, WANTED)
    found = await read_whole(client.api, client.namespace, name)
    assert found is not None
    yield owner, found


WANTED = Wanted({"l": "1"}, {"a": "1"}, {"config.json": "{}"})


async def test_only_the_very_object_that_was_read_is_changed_or_deleted(client: Client) -> None:
    async with owned(client, "raced") as (owner, found):
        assert found.meta.owned_by(owner.uid)
        with pytest.raises(AlreadyExists):
            await create(client.api, owner, "raced", WANTED)
        await patched(client, "raced", {"data": {"by": "somebody"}})
        with pytest.raises(Conflict):
            await change(client.api, found, WANTED)
        with pytest.raises(Conflict):
            await remove(client.api, found.meta)
        # Another object of that name.
        now = await read_whole(client.api, client.namespace, "raced")
        assert now is not None
        await client.configmap("raced", None)
        await client.configmap("raced", {"by": "somebody"})
        for gone in (found, now):
            with pytest.raises(Conflict):
                await change(client.api, gone, WANTED)
            with pytest.raises(Conflict):
                await remove(client.api, gone.meta)
        other = await read_whole(client.api, client.namespace, "raced")
        assert other is not None
        assert other.data == {"by": "somebody"}
        await client.configmap("raced", None)
        with pytest.raises(NotFound):
            await change(client.api, other, WANTED)
        with pytest.raises(NotFound):
            await remove(client.api, other.meta)
        assert await read_whole(client.api, client.namespace, "raced") is None
