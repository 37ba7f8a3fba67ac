"""RolloutPolicies with the real operator: whose policy holds, what it does, and that changing one starts nothing."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.integration.running import Client, Operator, candidate, condition, running, said, stable
from tests.servers import AppServer

from configregistry.kube.failures import NotFound
from configregistry.kube.paths import NAMESPACES, ROLLOUT_POLICIES
from configregistry.model.names import API_VERSION, LABEL_POLICY, POLICY_KIND

pytestmark = pytest.mark.xdist_group("policies")

DOCUMENT: Final = REPOSITORY / "docs/spec/rolloutpolicy.md"
INVALID: Final = ("True", "InvalidSpec")


class Platform:
    """What a platform team does. Policies belong to the whole cluster, so their names begin with the module's own."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.api = client.api
        self._prefix = prefix

    def name(self, short: str) -> str:
        return f"{self._prefix}-{short}"

    async def policy(self, short: str, **spec: Any) -> str:
        """Apply a policy; gives its name."""
        name = self.name(short)
        body = {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": {"name": name}, "spec": spec}
        path = f"{ROLLOUT_POLICIES.path(name=name)}?fieldManager=test&force=true"
        await self.api.patch(path, json.dumps(body).encode(), kind="application/apply-patch+yaml")
        return name

    async def drop(self, short: str) -> None:
        with suppress(NotFound):
            await self.api.delete(ROLLOUT_POLICIES.path(name=self.name(short)))

    async def label(self, namespace: str, policy: str | None) -> None:
        body = json.dumps({"metadata": {"labels": {LABEL_POLICY: policy}}}).encode()
        await self.api.patch(NAMESPACES.path(name=namespace), body)


@pytest.fixture(scope="module")
def labelled(crd: KubeCluster) -> Iterator[str]:
    """A second namespace, whose label the tests change; `place` has none."""
    name = crd.create_namespace()
    yield name
    crd.delete_namespace(name)


@pytest.fixture(scope="module")
def operator(
    crd: KubeCluster, place: str, labelled: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """One operator for both; as one of some namespaces it follows each of them by name."""
    with running(crd, place, tmp_path_factory.mktemp("operator"), f"--namespace={labelled}") as found:
        yield found
        defects = [line for line in found.lines if "reconcile failed" in str(line.get("event"))]
        assert not defects, defects


@pytest.fixture
async def there(crd: KubeCluster, labelled: str, operator: Operator) -> AsyncIterator[Client]:
    """A person at work in the namespace with a label."""
    assert operator.alive
    async with Client.of(crd, labelled) as found:
        yield found


@pytest.fixture
async def platform(client: Client, operator: Operator, place: str, labelled: str) -> AsyncIterator[Platform]:
    assert operator.alive
    found = Platform(client, place)
    yield found
    await found.label(labelled, None)
    listed = json.loads(await client.api.list(ROLLOUT_POLICIES.path()))["items"]
    for each in (item["metadata"]["name"] for item in listed):
        if each.startswith(f"{place}-"):
            await client.api.delete(ROLLOUT_POLICIES.path(name=each))


def alive(app: AppServer, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "interval": "100ms", "http": {"url": f"http://{app.address}/healthz"}, **more}


async def test_a_namespaces_policy_gives_steps_checks_and_bake(
    there: Client, platform: Platform, app: AppServer
) -> None:
    steps = [{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}, {"pause": {}}]
    name = await platform.policy(
        "whole", defaults={"steps": steps}, checks=[alive(app, "must")], limits={"minBake": "1h", "maxStep": 40}
    )
    await platform.label(there.namespace, name)
    await there.apply("governed", data={"a": 1})
    await there.ready("governed")
    await there.apply("governed", data={"a": 2})
    await there.until("governed", lambda s: candidate(s, 2, 20) and said(s, Ready=("False", "Paused")))
    for step, weight in (("0", 60), ("2", 100)):
        await there.command("governed", "promote", f"2:{step}:to-{weight}")
        await there.until("governed", lambda s, weight=weight: candidate(s, 2, weight))  # type: ignore[misc]
    baking = await there.until("governed", lambda s: (s.get("canary") or {}).get("baking"))
    assert [each["name"] for each in baking["canary"]["checks"]] == ["must"]
    # Without a policy there is neither a bake nor a check that it waits for.
    await platform.label(there.namespace, None)
    await there.until("governed", lambda s: stable(s, 2))


async def test_a_policy_that_is_missing_holds_what_is_new_until_it_comes(
    client: Client, platform: Platform, app: AppServer
) -> None:
    ref = {"policyRef": {"name": platform.name("late")}}
    await client.apply("waits", data={"a": 1})
    before = await client.ready("waits")
    await client.apply("waits", data={"a": 2}, rollout=ref)
    refused = await client.steady("waits", Stalled=INVALID)
    assert condition(refused, "Stalled")["message"] == (
        f"spec.rollout.policyRef.name: '{platform.name('late')}': expected a RolloutPolicy"
    )
    assert (refused["stable"], refused["revision"]) == (before["stable"], before["revision"])
    await platform.policy("late", defaults={"steps": [{"setWeight": 10}, {"pause": {}}]})
    out = await client.until("waits", lambda s: candidate(s, 2, 10))
    assert said(out, Stalled=("False", "Idle"))

    # Gone while a candidate is out: that one holds its weight, and is still watched by the policy's checks.
    steps = [{"setWeight": 10}, {"pause": {}}]
    await platform.policy("late", defaults={"steps": steps}, checks=[alive(app, "must")])
    await client.until("waits", lambda s: [each["name"] for each in s["canary"]["checks"]] == ["must"])
    await platform.drop("late")
    held = await client.steady("waits", Stalled=INVALID)
    assert (held["canary"]["weight"], held["revision"]) == (10, out["revision"])
    app.health = 500
    try:
        await client.until("waits", lambda s: stable(s, 1) and bool(s.get("rejectedHashes")))
    finally:
        app.health = 200
    await platform.policy("late")
    await client.steady("waits", Stalled=("True", "RolledBack"))


async def test_a_label_that_names_no_policy_is_told(there: Client, platform: Platform) -> None:
    await platform.label(there.namespace, platform.name("typo"))
    await there.apply("mislabelled", data={"a": 1})
    refused = await there.steady("mislabelled", Available=("False", "NoVersion"), Stalled=INVALID)
    assert condition(refused, "Stalled")["message"].startswith(f"label {LABEL_POLICY} of namespace {there.namespace}: ")
    await platform.label(there.namespace, None)
    await there.ready("mislabelled")
    before = await there.get("mislabelled")
    await platform.label(there.namespace, platform.name("typo"))
    await there.apply("witness", data={"a": 1})
    await there.steady("witness", Stalled=INVALID)
    assert await there.get("mislabelled") == before, "who is steady is left in peace"
    await platform.label(there.namespace, None)
    await there.ready("witness")


async def test_steps_beyond_the_limit_are_refused_until_somebody_gives_way(there: Client, platform: Platform) -> None:
    """Also where the registry names a policy without limits: those of its namespace hold."""
    name = await platform.policy("limits", limits={"maxStep": 25})
    free = await platform.policy("free", defaults={"preset": "AllAtOnce"})
    rollout = {"policyRef": {"name": free}}
    await platform.label(there.namespace, name)
    await there.apply("steep", data={"a": 1}, rollout=rollout)
    first = await there.ready("steep")
    await there.apply("steep", data={"a": 2}, rollout=rollout)
    refused = await there.steady("steep", Stalled=INVALID)
    message = condition(refused, "Stalled")["message"]
    assert message.startswith("spec.rollout.steps: none of its own: expected at most 25 percent more")
    assert f"limits.maxStep of RolloutPolicy '{name}'" in message
    assert (refused["stable"], refused["revision"], refused["lastVersion"]) == (first["stable"], first["revision"], 1)

    # The person gives way; then tries to leave the limit with an edit under the candidate.
    small = [{"setWeight": 25}, {"pause": {}}, {"setWeight": 50}, {"setWeight": 75}]
    await there.apply("steep", data={"a": 2}, rollout={"steps": small, **rollout})
    await there.until("steep", lambda s: candidate(s, 2, 25))
    await there.apply("steep", data={"a": 2}, rollout={"steps": [{"setWeight": 100}], **rollout})
    held = await there.steady("steep", Stalled=INVALID)
    assert held["canary"]["weight"] == 25
    assert "spec.rollout.steps[0].setWeight: 100: " in condition(held, "Stalled")["message"]
    # The platform team gives way: nothing of the registry is edited, and it goes on.
    await platform.policy("limits", limits={"maxStep": 100})
    await there.until("steep", lambda s: stable(s, 2))


async def test_a_policy_under_a_candidate_is_an_edit_of_its_rollout(
    there: Client, platform: Platform, app: AppServer
) -> None:
    name = await platform.policy("moves", defaults={"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]})
    await there.apply("moved", data={"a": 1}, rollout={"policyRef": {"name": name}})
    await there.ready("moved")
    await there.apply("moved", data={"a": 2}, rollout={"policyRef": {"name": name}})
    await there.until("moved", lambda s: candidate(s, 2, 10))
    steps = [{"setWeight": 30}, {"pause": {}}]
    await platform.policy("moves", defaults={"steps": steps})
    again = await there.until("moved", lambda s: candidate(s, 2, 30))
    assert (again["canary"]["currentStepIndex"], again["lastVersion"]) == (0, 2)

    # A limit that it no longer keeps to does not stop it; a check that it has to pass takes it back.
    strict = await platform.policy("strict", checks=[alive(app, "must")], limits={"maxStep": 5})
    await platform.label(there.namespace, strict)
    await there.until("moved", lambda s: [each["name"] for each in s["canary"]["checks"]] == ["must"])
    still = await there.status("moved")
    assert (still["revision"], said(still, Stalled=("False", "Idle"))) == (again["revision"], True)
    app.health = 500
    back = await there.until("moved", lambda s: stable(s, 1))
    assert "check must" in condition(back, "Stalled")["message"]
    app.health = 200


async def test_a_change_of_policies_writes_nothing_of_steady_registries(
    there: Client, platform: Platform, operator: Operator, app: AppServer
) -> None:
    name = await platform.policy("calm", defaults={"preset": "AllAtOnce"})
    other = await platform.policy("other", checks=[alive(app, "other")], limits={"minBake": "1h", "maxStep": 1})
    await platform.label(there.namespace, name)
    names = [f"steady-{index}" for index in range(10)]
    for each in names:
        await there.apply(each, data={"a": 1})
    for each in names:
        await there.ready(each)
    before = [(await there.get(each) or {})["metadata"]["resourceVersion"] for each in names]

    async def after(change: Any) -> None:
        """Every registry was looked at since: `ok` is counted at the end of a reconcile."""
        counted = sum(operator.metrics("configregistry_reconciles_total").values())
        await change

        async def met() -> bool:
            return sum(operator.metrics("configregistry_reconciles_total").values()) >= counted + len(names)

        await there.wait(met, lambda: "all registries to be looked at again")

    await after(platform.policy("calm", defaults={"steps": [{"setWeight": 5}]}, limits={"maxStep": 95}))
    await after(platform.policy("calm", checks=[alive(app, "must")]))
    await after(platform.label(there.namespace, other))
    await after(platform.label(there.namespace, None))
    assert [(await there.get(each) or {})["metadata"]["resourceVersion"] for each in names] == before


def rules(namespace: str) -> dict[str, Any]:
    """What docs/spec/rolloutpolicy.md says that an operator of one namespace needs in the cluster."""
    block = re.findall(r"```yaml\n(kind: ClusterRole.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    role: dict[str, Any] = yaml.safe_load(block.replace("[shop]", f"[{namespace}]"))
    role["metadata"]["name"] = f"policies-{namespace}"
    return role


async def test_an_operator_of_one_namespace_needs_no_more_than_the_document_says(
    crd: KubeCluster, namespace: str, platform: Platform, tmp_path: Path
) -> None:
    user = f"controller-{namespace}"
    here = f"--namespace={namespace}"
    crd.kubectl("create", "rolebinding", "all", "--clusterrole=admin", f"--user={user}", here)
    own = {"apiGroups": ["configregistry.dev"], "resources": ["*"], "verbs": ["*"]}
    rest = {"apiGroups": ["apps", "events.k8s.io"], "resources": ["controllerrevisions", "events"], "verbs": ["*"]}
    role = {**rules(namespace), "kind": "Role", "metadata": {"name": "own"}, "rules": [own, rest]}
    crd.kubectl("apply", here, "-f", "-", input=json.dumps(role))
    crd.kubectl("create", "rolebinding", "own", "--role=own", f"--user={user}", here)
    kubeconfig = crd.user_kubeconfig(user)
    with running(crd, namespace, tmp_path / "refused", kubeconfig=kubeconfig, start=False) as operator:
        operator.start(ready=False)
        assert operator.ended() == 2
        assert "list rolloutpolicies.configregistry.dev" in operator.log
        assert f"watch namespaces {namespace}" in operator.log
    crd.kubectl("apply", "-f", "-", input=json.dumps(rules(namespace)))
    binding = f"policies-{namespace}"
    crd.kubectl("create", "clusterrolebinding", binding, f"--clusterrole={binding}", f"--user={user}")
    try:
        async with Client.of(crd, namespace) as client:
            await platform.label(namespace, await platform.policy("owned", limits={"maxStep": 5}))
            with running(crd, namespace, tmp_path / "let-in", kubeconfig=kubeconfig):
                await client.apply("owned", data={"a": 1})
                await client.ready("owned")
                await client.apply("owned", data={"a": 2})
                await client.steady("owned", Stalled=INVALID)
                await platform.label(namespace, None)
                await client.until("owned", lambda s: stable(s, 2))
    finally:
        crd.kubectl("delete", "clusterrolebinding,clusterrole", binding)
