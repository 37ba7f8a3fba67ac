"""What hands and the API server do to a registry while the operator runs: same outcome, nothing lost."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster import KubeCluster
from tests.integration.running import Client, Operator, given, place_of, running, said, stable
from tests.servers import AppServer

from configregistry.kube.paths import CONFIGMAPS, REGISTRIES, REVISIONS

pytestmark = [pytest.mark.xdist_group("reconcile-faults"), pytest.mark.usefixtures("operator")]

WAITS: dict[str, Any] = {"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]}


async def out(client: Client, name: str, **more: Any) -> dict[str, Any]:
    """A candidate, version 2, waits at 10 %."""
    await client.apply(name, data={"n": 1}, rollout=WAITS, **more)
    await client.ready(name)
    await client.apply(name, data={"n": 2}, rollout=WAITS, **more)
    return await client.steady(name, Ready=("False", "Paused"))


async def finish(client: Client, name: str) -> None:
    await client.command(name, "promote-full", f"2:-:{secrets.token_hex(4)}")
    assert (await client.ready(name))["stable"]["version"] == 2


@asynccontextmanager
async def touched(client: Client, name: str) -> AsyncIterator[None]:
    """Somebody changes the object all the time, so that many writes of the operator meet a conflict."""

    async def touch() -> None:
        while True:
            await client.annotate(name, touched=secrets.token_hex(4))
            await asyncio.sleep(0.002)

    task = asyncio.create_task(touch())
    try:
        yield
    finally:
        task.cancel()


async def test_conflicts_change_nothing_of_the_outcome(client: Client, operator: Operator) -> None:
    steps = [part for weight in (10, 50) for part in ({"setWeight": weight}, {"pause": {"duration": "500ms"}})]
    await client.apply("conflicts", data={"n": 1}, rollout={"steps": steps})
    await client.ready("conflicts")
    async with client.history("conflicts") as history, touched(client, "conflicts"):
        await client.apply("conflicts", data={"n": 2}, rollout={"steps": steps})
        await client.until("conflicts", lambda s: stable(s, 2))
    assert [place[:3] for place in history.places if place[1]] == [(1, 2, 10), (1, 2, 50), (1, 2, 100)]
    assert history.revisions[-1] == 5
    history.check()
    assert operator.metrics("configregistry_reconciles_total")['{result="conflict"}'] > 0, "no conflict was met"


async def test_a_registry_deleted_in_a_rollout_begins_anew_under_its_name(client: Client, operator: Operator) -> None:
    await out(client, "reborn")
    uid = (await client.status("reborn"))["uid"]
    await client.delete("reborn")
    await client.apply("reborn", data={"n": 2}, rollout=WAITS)
    found = await client.ready("reborn")
    assert found["uid"] != uid
    assert (found["stable"]["version"], found["lastVersion"], found.get("canary")) == (1, 1, None)
    served = operator.read(f"/v1/namespaces/{client.namespace}/registries/reborn")
    assert served["data"] == {"n": 2}
    await client.apply("reborn", data={"n": 3}, rollout=WAITS)
    await client.steady("reborn", Ready=("False", "Paused"))
    await finish(client, "reborn")
    owners = {each["metadata"]["ownerReferences"][0]["uid"] for each in (await client.revisions("reborn")).values()}
    assert owners == {found["uid"]}


@pytest.mark.parametrize("where", ["steady", "out"])
@pytest.mark.parametrize(
    "edit",
    [
        None,
        {"stable": None, "canary": None, "revision": 0, "lastVersion": 0},
        {"canary": {"weight": 100}},
        {"canary": None},
        {"stable": {"version": 1, "hash": "0000000000000000"}},
        {"lastOutcome": None, "lastVersion": 7},
        {"revision": 5000, "canary": {"weight": 90}},
        {"observedGeneration": 7, "conditions": []},
    ],
    ids=["deleted", "emptied", "weight", "no-canary", "stable", "memory", "ahead", "conditions"],
)
async def test_a_status_that_a_hand_changed_is_put_back(
    client: Client, operator: Operator, where: str, edit: dict[str, Any] | None
) -> None:
    if where == "steady" and edit == {"canary": None}:
        pytest.skip("it has none")
    name = f"hand-{where}-{secrets.token_hex(3)}"
    if where == "out":
        before = await out(client, name)
    else:
        await client.apply(name, data={"n": 1})
        before = await client.ready(name)
        if edit is not None and edit.get("canary"):
            edit = {**edit, "canary": {**before["stable"], "weight": 40, "stepStartedAt": "2026-01-01T00:00:00Z"}}
    async with client.history(name) as history:
        if edit is None:
            await replaced(client, name)
        else:
            await client.patch_status(name, edit)
        back = await client.until(name, lambda s: like(s, before) and bool(history.seen))
    history.check()
    path = f"/v1/namespaces/{client.namespace}/registries/{name}?target=anybody"

    async def served() -> bool:
        return bool(operator.read(path)["revision"] == back["revision"])

    await client.wait(served, lambda: f"revision {back['revision']} to be served: {operator.read(path)}")
    if where == "out":
        assert back["canary"]["startedAt"] == before["canary"]["startedAt"]
        await finish(client, name)


async def replaced(client: Client, name: str) -> None:
    """Take the whole status away."""
    found = await client.get(name)
    assert found is not None
    found["status"] = {}
    await client.api.replace(REGISTRIES.path(client.namespace, name, "status"), json.dumps(found).encode())


def like(status: dict[str, Any], before: dict[str, Any]) -> bool:
    """The same in everything but the revision."""
    return {**status, "revision": 0} == {**before, "revision": 0} and status["revision"] >= before["revision"]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_version_that_a_hand_deleted_is_made_again(client: Client, number: int) -> None:
    name = f"deleted-{number}"
    await out(client, name)
    before = (await client.revisions(name))[number]
    await client.delete_revision(name, number)

    async def back() -> bool:
        found = (await client.revisions(name)).get(number)
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    await client.wait(back, lambda: f"version {number} to be made again")
    assert (await client.revisions(name))[number]["data"] == before["data"]
    await finish(client, name)


async def test_the_previous_version_is_made_again_as_well_and_can_be_pinned(client: Client) -> None:
    for n in (1, 2):
        await client.apply("previous", data={"n": n})
        await client.until("previous", lambda s, n=n: stable(s, n))  # type: ignore[misc]
    await client.delete_revision("previous", 1)

    async def back() -> bool:
        return 1 in await client.revisions("previous")

    await client.wait(back, lambda: "version 1 to be made again")
    await client.apply("previous", data={"n": 2}, pinnedVersion=1)
    assert (await client.steady("previous", Ready=("True", "Pinned")))["stable"]["version"] == 1


ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "operator"},
    "rules": [
        {
            "apiGroups": ["configregistry.dev"],
            "resources": ["configregistries"],
            "verbs": ["get", "list", "watch", "patch"],
        },
        {"apiGroups": ["configregistry.dev"], "resources": ["configregistries/status"], "verbs": ["update"]},
        {
            "apiGroups": ["apps"],
            "resources": ["controllerrevisions"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        },
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ],
}
"""All that an operator of one namespace needs in it."""
AROUND: Final[dict[str, Any]] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "rules": [
        {"apiGroups": ["configregistry.dev"], "resources": ["rolloutpolicies"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
    ],
}
"""What it needs besides, in the whole cluster (of namespaces a right to its own is enough: test_policies)."""


class Restricted:
    """An operator with the rights of a namespaced role, from which some can be taken."""

    def __init__(self, cluster: KubeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.user = f"operator-{namespace}"
        self.kubeconfig = cluster.user_kubeconfig(self.user)
        self.grant()
        around = f"around-{namespace}"
        cluster.kubectl("apply", "--filename=-", input=json.dumps({**AROUND, "metadata": {"name": around}}))
        cluster.kubectl("create", "clusterrolebinding", around, f"--clusterrole={around}", f"--user={self.user}")
        cluster.kubectl(
            "create", "rolebinding", "operator", "--role=operator", f"--user={self.user}", f"--namespace={namespace}"
        )

    def grant(self, without: str = "", verbs: tuple[str, ...] = ()) -> None:
        """Give all rights but some verbs on a resource; returns when the API server knows."""
        role = json.loads(json.dumps(ROLE))
        for rule in role["rules"]:
            if without in rule["resources"]:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs] or ["none"]
        self.cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", f"--namespace={self.namespace}", "-f", "-",
            input=json.dumps(role),
        )  # fmt: skip

    async def effective(self, client: Client, verb: str, resource: str, *, allowed: bool) -> None:
        """Wait until a right counts."""

        async def met() -> bool:
            answer = await asyncio.to_thread(
                self.cluster.kubectl, "auth", "can-i", verb, resource, f"--as={self.user}", "-n", self.namespace,
                check=False,
            )  # fmt: skip
            return answer.stdout.strip() == ("yes" if allowed else "no")

        await client.wait(met, lambda: f"{verb} {resource} to be {allowed}")


@pytest.fixture
def restricted(crd: KubeCluster, namespace: str, tmp_path: Path) -> Iterator[tuple[Restricted, Operator]]:
    rights = Restricted(crd, namespace)
    with running(crd, namespace, tmp_path, kubeconfig=rights.kubeconfig) as operator:
        yield rights, operator


async def test_a_source_that_may_not_be_read_changes_nothing_and_is_asked_for_again(
    crd: KubeCluster, restricted: tuple[Restricted, Operator]
) -> None:
    rights, operator = restricted
    async with Client.of(crd, rights.namespace) as client:
        await client.configmap("base", {"a": "1"})
        spec: dict[str, Any] = {"dataFrom": [{"configMapRef": {"name": "base"}}], "data": {"b": 1}}
        await client.apply("denied", **spec)
        before = await client.ready("denied")
        rights.grant("configmaps", ("get",))
        await rights.effective(client, "get", "configmaps", allowed=False)
        await client.configmap("base", {"a": "2"})
        await client.wait(
            lambda: _true("could not be read" in operator.log), lambda: "a read to be refused: " + operator.log[-2000:]
        )
        assert await client.status("denied") == before
        # An edit meanwhile is not said to be done.
        await client.apply("denied", **{**spec, "data": {"b": 2}})
        refused = operator.log.count("could not be read")
        await client.wait(
            lambda: _true(operator.log.count("could not be read") > refused), lambda: "it to be tried again"
        )
        assert await client.status("denied") == before
        rights.grant()
        after = await client.ready("denied")
        assert after["stable"]["version"] == 2
        assert len(await client.revisions("denied")) == 2
        read = operator.read(f"/v1/namespaces/{rights.namespace}/registries/denied")
        assert read["data"] == {"a": 2, "b": 2}


async def _true(value: object) -> bool:
    return bool(value)


async def test_a_rollback_waits_for_nothing_but_its_own_write(
    crd: KubeCluster, restricted: tuple[Restricted, Operator], app: AppServer
) -> None:
    """Events, versions and sources may all be refused: one status write takes the candidate back."""
    rights, operator = restricted
    check = {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz"}}
    rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": [check]}
    async with Client.of(crd, rights.namespace) as client:
        await client.configmap("base", {"a": "1"})
        spec: dict[str, Any] = {"dataFrom": [{"configMapRef": {"name": "base"}}], "rollout": rollout}
        await client.apply("hindered", **spec)
        await client.ready("hindered")
        await client.configmap("base", {"a": "2"})
        await client.until("hindered", lambda s: said(s, Ready=("False", "Paused")))
        rights.grant("configmaps", ("get",))
        rights.grant("controllerrevisions", ("create", "patch", "delete", "get"))
        await rights.effective(client, "create", "controllerrevisions.apps", allowed=False)
        await client.delete_revision("hindered", 1)
        await client.configmap("base", {"a": "3"})
        app.health = 500
        back = await client.until("hindered", lambda s: stable(s, 1))
        assert back["lastOutcome"]["result"] == "RolledBack"
        assert operator.read(f"/v1/namespaces/{rights.namespace}/registries/hindered")["data"] == {"a": 1}
        rights.grant()

        async def whole() -> bool:
            return 1 in await client.revisions("hindered")

        await client.wait(whole, lambda: "version 1 to be made again")


async def test_one_registry_that_cannot_be_written_holds_up_no_other(
    crd: KubeCluster, restricted: tuple[Restricted, Operator]
) -> None:
    """A hundred registries without sources that may be read wait in their own time, not in a worker."""
    rights, _operator = restricted
    async with Client.of(crd, rights.namespace) as client:
        rights.grant("configmaps", ("get",))
        await rights.effective(client, "get", "configmaps", allowed=False)
        await client.configmap("base", {"a": "1"})
        for number in range(50):
            await client.apply(f"stuck-{number}", dataFrom=[{"configMapRef": {"name": "base"}}])
        await client.apply("free", data={"n": 1})
        assert (await client.ready("free", within=15))["stable"]["version"] == 1
        rights.grant()
        for number in range(0, 50, 7):
            await client.ready(f"stuck-{number}")


async def test_kopf_and_the_program_need_nothing_outside_of_their_namespace(
    crd: KubeCluster, restricted: tuple[Restricted, Operator], client: Client
) -> None:
    rights, operator = restricted
    async with Client.of(crd, rights.namespace) as own:
        await own.apply("inside", data={"n": 1})
        await own.ready("inside")
    assert client.namespace != rights.namespace
    assert "forbidden" not in operator.log.lower()
    assert "does not follow" not in operator.log
    paths = {REGISTRIES.path(client.namespace), REVISIONS.path(client.namespace), CONFIGMAPS.path(client.namespace)}
    assert not [path for path in paths if path in operator.log]


def test_place_and_given_tell_apart() -> None:
    """The words of the histories themselves."""
    one = {"stable": {"version": 1}, "canary": {"version": 2, "weight": 5}}
    assert place_of(one) != place_of({"stable": {"version": 1}})
    assert given(one) == (1, 2, 5, "None")
