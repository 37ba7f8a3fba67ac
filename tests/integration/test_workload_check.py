"""Checks of kind workload on a real API server, whose controllers make the pods of a Deployment.

There is no node, and no kubelet: the test plays one, by writing into pods' statuses what a kubelet would write.
What the pods' numbers come to in the Deployment's status is the real controllers' work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.integration.running import Client, Operator, candidate, stable

from configregistry.clock import timestamp
from configregistry.health import Finding, Means, Memory, Question, StageKey, Subject
from configregistry.health.workload_check import TIMEOUT, UNAVAILABLE_FOR, probe
from configregistry.kube.client import connect
from configregistry.kube.failures import Forbidden
from configregistry.kube.paths import Resource
from configregistry.kube.workloads import KINDS, PODS, KubeWorkloads
from configregistry.model.spec import Check, WorkloadCheck
from configregistry.rollout.observation import Verdict

PASS, FAIL, ERROR, NO_DATA = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA
ONE, TWO = StageKey(0, False, "t1"), StageKey(1, False, "t2")
_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles")
_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings")

RULES = [
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"], "verbs": ["get"]},
    {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]
"""All that checks of this kind need."""


class Shop:
    """One workload in a namespace, its pods' kubelet, and a check of it whose clock the test moves."""

    def __init__(self, client: Client, name: str, kind: str = "Deployment") -> None:
        self.client, self.name, self.kind = client, name, kind
        self.memory, self.now, self.stage, self.began = Memory(), 0.0, ONE, 0.0

    async def apply(self, replicas: int = 3, **spec: Any) -> None:
        """Make it, or change it."""
        labels = {"app": self.name}
        body = {
            "apiVersion": "apps/v1",
            "kind": self.kind,
            "metadata": {"name": self.name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "app", "image": "nobody/pulls:it"}]},
                },
                **spec,
            },
        }
        path = KINDS[self.kind].path(self.client.namespace, self.name)
        await self.client.api.patch(f"{path}?fieldManager=test&force=true", json.dumps(body).encode(), kind=_APPLY)

    async def pods(self) -> list[dict[str, Any]]:
        """Its pods, oldest first."""
        params = {"labelSelector": f"app={self.name}"}
        found = json.loads(await self.client.api.list(PODS.path(self.client.namespace), params))["items"]
        living = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        return sorted(living, key=lambda each: (each["metadata"]["creationTimestamp"], each["metadata"]["name"]))

    async def kubelet(self, pod: dict[str, Any], restarts: int = 0, *, ready: bool = True) -> None:
        """Play the kubelet: the pod's container runs, after so many restarts."""
        now = timestamp(datetime.now(UTC))
        ended = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": now}}
        container = {
            "name": "app",
            "image": "nobody/pulls:it",
            "imageID": "",
            "ready": ready,
            "restartCount": restarts,
            "state": {"running": {"startedAt": now}},
            "lastState": ended if restarts else {},
        }
        conditions = [{"type": each, "status": str(ready)} for each in ("Ready", "ContainersReady")]
        body = {"status": {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}}
        path = PODS.path(self.client.namespace, pod["metadata"]["name"], "status")
        await self.client.api.patch(path, json.dumps(body).encode(), kind=_MERGE)

    async def run(self, number: int) -> list[dict[str, Any]]:
        """Wait for its pods, and have them all run."""
        found: list[dict[str, Any]] = []

        async def made() -> bool:
            nonlocal found
            found = await self.pods()
            return len(found) == number

        await self.client.wait(made, lambda: f"{number} pods, not {len(found)}")
        for pod in found:
            await self.kubelet(pod)
        await self.available(number)
        return found

    async def available(self, number: int) -> None:
        """Wait until its controller says that so many pods are available, of the present spec."""
        last: dict[str, Any] = {}

        async def met() -> bool:
            nonlocal last
            last = json.loads(await self.client.api.get(KINDS[self.kind].path(self.client.namespace, self.name)))
            status = last["status"]
            observed = status.get("observedGeneration") == last["metadata"]["generation"]
            return bool(observed and status.get("availableReplicas", 0) == number)

        await self.client.wait(met, lambda: json.dumps(last.get("status"), indent=1))

    async def ask(self, after: float = 0.0, looks: KubeWorkloads | None = None) -> Finding:
        """One probe, so many seconds after the one before it."""
        self.now += after
        question = Question(
            Check("pods", workload=WorkloadCheck(self.kind, self.name)),  # type: ignore[arg-type]
            Subject(self.client.namespace, self.name, 2, "9d3c", 1),
            self.stage,
            TIMEOUT,
            self.now - self.began,
            "uid",
            self.now,
            datetime.now(UTC),
            self.memory,
        )
        return await probe(question, Means(None, None, looks or KubeWorkloads(self.client.api)))  # type: ignore[arg-type]

    async def until(self, verdict: Verdict, told: str = "") -> Finding:
        """Ask, without time going on, until controllers and the watch cache have seen what was written."""
        last = Finding(ERROR)

        async def met() -> bool:
            nonlocal last
            last = await self.ask()
            return last.verdict is verdict and told in last.message

        await self.client.wait(met, lambda: str(last))
        return last


@pytest.fixture
async def person(cluster: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(cluster, namespace) as made:
        yield made


async def test_the_life_of_a_deployment(person: Client) -> None:
    """Absent, unavailable, well, drained, scaled, restarted: what each says."""
    shop = Shop(person, "checkout")
    told = f"there is no Deployment {person.namespace}/checkout, expected one"
    assert await shop.ask() == Finding(ERROR, "", told)

    # maxUnavailable is 34 % of 3, rounded down: 1.
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "34%", "maxSurge": 1}}
    await shop.apply(3, strategy=strategy)
    await shop.available(0)
    assert (await shop.ask()).verdict is NO_DATA
    assert (await shop.ask(after=UNAVAILABLE_FOR - 1)).verdict is NO_DATA
    finding = await shop.ask(after=1)
    assert finding == Finding(FAIL, "0/3", "0/3 pods are available for 30 s, expected at least 2")

    pods = await shop.run(3)
    assert await shop.ask(after=10) == Finding(PASS, "3/3")

    # A drain: one pod goes, and the one in its place takes its time.
    await person.api.delete(PODS.path(person.namespace, pods[0]["metadata"]["name"]))
    await shop.available(2)
    for _ in range(3):
        assert await shop.ask(after=60) == Finding(NO_DATA, "2/3", "2/3 pods are available")
    pods = await shop.run(3)
    assert await shop.ask(after=10) == Finding(PASS, "3/3")

    # An autoscaler's step up: its pods are not there for minutes.
    await shop.apply(6, strategy=strategy)
    await shop.available(3)
    assert (await shop.ask(after=60)).verdict is NO_DATA
    assert (await shop.ask(after=60)).verdict is NO_DATA
    await shop.run(6)
    assert await shop.ask(after=10) == Finding(PASS, "6/6")

    # More than maxUnavailable (2 of 6) are not there, for 30 s.
    pods = await shop.pods()
    for pod in pods[:3]:
        await shop.kubelet(pod, ready=False)
    await shop.available(3)
    assert (await shop.ask(after=10)).verdict is NO_DATA
    assert (await shop.ask(after=UNAVAILABLE_FOR)).value == "3/6"
    assert (await shop.ask()).verdict is FAIL
    await shop.run(6)

    # A step down.
    await shop.apply(2, strategy=strategy)
    await shop.available(2)
    assert await shop.ask(after=10) == Finding(PASS, "2/2")


async def test_a_restart(person: Client) -> None:
    shop = Shop(person, "basket")
    await shop.apply(2)
    pods = await shop.run(2)
    # Another workload's pod with the same labels, as nobody should have: it may do as it likes.
    meta = {"name": "stray", "labels": {"app": "basket"}}
    spec = {"containers": [{"name": "app", "image": "nobody/pulls:it"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    stray = json.loads(await person.api.create(PODS.path(person.namespace), json.dumps(body).encode()))
    await shop.kubelet(stray)
    await shop.kubelet(pods[0], 3)  # from before the stage
    assert await shop.ask() == Finding(PASS, "2/2")

    await shop.kubelet(stray, 9)
    for _ in range(3):
        assert (await shop.ask(after=10)).verdict is PASS

    await shop.kubelet(pods[0], 4)
    finding = await shop.until(FAIL)
    name = pods[0]["metadata"]["name"]
    told = f"1 restart since the step began, expected none: pod {name}, container app (Error)"
    assert finding == Finding(FAIL, "1 restart", told)

    # The next stage begins with what is there.
    shop.stage, shop.began = TWO, shop.now
    assert (await shop.ask()).verdict is PASS

    # A pod that came since may restart; that it is not there counts.
    await person.api.delete(PODS.path(person.namespace, name))
    await person.wait(lambda: _replaced(shop, name), lambda: "the pod to be replaced")
    fresh = next(each for each in await shop.pods() if each["metadata"]["uid"] not in _uids(pods))
    await shop.kubelet(fresh, 2, ready=False)
    await shop.available(1)
    assert (await shop.ask(after=10)).verdict is NO_DATA
    assert (await shop.ask(after=UNAVAILABLE_FOR)).message == "1/2 pods are available for 30 s, expected at least 2"


def _uids(pods: list[dict[str, Any]]) -> set[str]:
    return {each["metadata"]["uid"] for each in pods} | {"stray"}


async def _replaced(shop: Shop, name: str) -> bool:
    names = {each["metadata"]["name"] for each in await shop.pods()} - {"stray"}
    return name not in names and len(names) == 2


async def test_the_other_kinds(person: Client) -> None:
    shop = Shop(person, "queue", "StatefulSet")
    await shop.apply(2, serviceName="queue", podManagementPolicy="Parallel")
    pods = await shop.run(2)
    assert await shop.ask() == Finding(PASS, "2/2")
    await shop.kubelet(pods[0], 1)
    assert (await shop.until(FAIL)).value == "1 restart"

    nodes = Shop(person, "agent", "DaemonSet")
    labels = {"app": "agent"}
    pod = {"containers": [{"name": "app", "image": "nobody/pulls:it"}], "nodeSelector": {"nowhere": "at-all"}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["agent"]}]},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    await person.api.create(KINDS["DaemonSet"].path(person.namespace), json.dumps(body).encode())
    assert (await nodes.until(NO_DATA, "no pods are wanted, so none can tell")).value == "0/0"


async def test_the_rights_that_it_needs(cluster: KubeCluster, person: Client) -> None:
    """Each that is lacking is named; with these it works."""
    shop = Shop(person, "checkout")
    await shop.apply(1)
    await shop.run(1)
    user = f"prober-{person.namespace}"
    async with await connect(str(cluster.user_kubeconfig(user))) as api:
        looks = KubeWorkloads(api)
        for number, right in enumerate(["get deployments.apps", "list replicasets.apps", "list pods", ""]):
            await _grant(person, user, RULES[:number])
            await _told(shop, looks, f"no right to {right} in namespace {person.namespace}" if right else "PASS")
    assert await shop.ask() == Finding(PASS, "1/1")


async def _told(shop: Shop, looks: KubeWorkloads, wanted: str) -> None:
    """Wait until a look says this: rights take a moment."""
    last = ""

    async def met() -> bool:
        nonlocal last
        try:
            last = (await shop.ask(looks=looks)).verdict.name
        except Forbidden as error:
            last = error.message
        return last.startswith(wanted)

    await shop.client.wait(met, lambda: f"{wanted}; last: {last}")


async def _grant(person: Client, user: str, rules: list[dict[str, Any]]) -> None:
    group = "rbac.authorization.k8s.io"
    role = {"kind": "Role", "metadata": {"name": "prober"}, "rules": rules}
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "prober"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "prober"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    for where, what in ((_ROLES, role), (_BINDINGS, binding)):
        path = f"{where.path(person.namespace, 'prober')}?fieldManager=test&force=true"
        await person.api.patch(path, json.dumps({"apiVersion": f"{group}/v1", **what}).encode(), kind=_APPLY)


# The whole way: an operator that looks


async def test_pods_that_restart_take_a_version_back(operator: Operator, client: Client) -> None:
    shop = Shop(client, "payment")
    await shop.apply(2)
    pods = await shop.run(2)
    check = {"name": "pods", "interval": "500ms", "workload": {"kind": "Deployment", "name": "payment"}}
    rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": [check]}
    await client.apply("payment", data={"n": 1}, rollout=rollout)
    await client.ready("payment")
    await client.apply("payment", data={"n": 2}, rollout=rollout)
    await client.until("payment", lambda status: candidate(status, 2, 50))
    await client.wait(lambda: _passed(operator), lambda: str(operator.metrics("configregistry_checks_total")))
    await shop.kubelet(pods[1], 1)
    status = await client.until("payment", lambda status: stable(status, 1))
    said = status["rejected"][0]["message"]
    assert said.startswith("check pods (failed once, limit 0): 1 restart since the step began, expected none"), said
    assert pods[1]["metadata"]["name"] in said


async def _passed(operator: Operator) -> bool:
    """Whether the pods have been looked at, and were well."""
    found = await asyncio.to_thread(operator.metrics, "configregistry_checks_total")
    return any('check="pods"' in labels and 'verdict="Pass"' in labels for labels in found)
