"""The chart's rights are enough, and none of them is too much: each is taken away, and then something fails.

What the program cannot do without, it asks for at its start (kube/preflight.py), and names what is lacking. What it
needs for what some registries ask for (projection, checks of workloads), or when something turns up (a certificate),
is tried here by the very code that does it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster import KubeCluster
from tests.integration.chart_rights import COMPONENTS, Chart, Installed, Right, granted
from tests.integration.running import Client, stable, wait

from configregistry.admission.rotation import InCluster
from configregistry.app.program import _preflight
from configregistry.kube import configmaps
from configregistry.kube.client import Api, connect
from configregistry.kube.configmaps import Wanted
from configregistry.kube.failures import Forbidden, NotPermittedError
from configregistry.kube.objects import decode_meta
from configregistry.kube.paths import CONFIGMAPS, LEASES, NAMESPACES, REGISTRIES, ROLLOUT_POLICIES, Resource
from configregistry.kube.reviews import ApiReviews
from configregistry.kube.workloads import KubeWorkloads
from configregistry.model.names import API_VERSION, LABEL_POLICY, POLICY_KIND

pytestmark = pytest.mark.xdist_group("chart-rights")

WITHIN: Final = 30.0
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments")
SECRETS: Final = Resource("", "v1", "secrets")
CONFIGURATIONS: Final = Resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
_APPLY: Final = "application/apply-patch+yaml"


class Tried:
    """What is needed to try the program's own doings as one of its accounts."""

    def __init__(self, chart: Chart, admin: Api, apis: Mapping[str, Api]) -> None:
        self.chart, self.admin, self.apis = chart, admin, apis
        self.api = apis["controller"]
        self.namespace = chart.namespace

    async def project(self, verb: str) -> None:
        """Do with a ConfigMap of a registry what spec.project asks for."""
        owner = decode_meta(await self.admin.get(REGISTRIES.path(self.namespace, "owner"))).meta
        wanted = Wanted({}, {"tried": str(time.monotonic_ns())}, {"a": "1"})
        name = f"projected-{time.monotonic_ns()}"
        by_whom = self.api if verb == "create" else self.admin
        made = await configmaps.create(by_whom, owner, name, wanted)
        if verb == "patch":
            found = await configmaps.read_whole(self.admin, self.namespace, name)
            assert found is not None
            await configmaps.change(self.api, found, wanted._replace(data={"a": "2"}))
        elif verb == "delete":
            await configmaps.remove(self.api, made)

    async def look(self, kind: str = "Deployment") -> None:
        """Look at a workload; there is a Deployment, so that its ReplicaSets and pods are listed."""
        await KubeWorkloads(self.api).look(self.namespace, kind, "looked-at", fresh=True)

    async def certify(self, write: bool, configuration: bool) -> None:
        """Read or write one of the two objects of the webhook's certificate."""
        name = self.chart.name
        mine = InCluster(self.api, self.namespace, f"{name}-webhook", name)
        theirs = InCluster(self.admin, self.namespace, f"{name}-webhook", name)
        if configuration:
            found = await (theirs if write else mine).read_webhooks()
            assert found is not None
            if write:
                await mine.write_bundle(found, b"")
        else:
            secret = await (theirs if write else mine).read_secret()
            assert secret is not None
            if write:
                await mine.write_secret({"tls.crt": str(time.monotonic_ns()).encode()}, secret)

    async def exchange(self) -> None:
        """Ask, as serve does, whether the controller may exchange consumers."""
        reviews = ApiReviews(self.apis["serve"])
        account = f"{self.chart.name}-controller"
        made = await asyncio.to_thread(
            self.chart.cluster.kubectl,
            *("create", "token", account, f"--namespace={self.namespace}", "--audience=configregistry"),
        )
        who = await reviews.token(made.stdout.strip(), ["configregistry"])
        assert who is not None
        if not await reviews.access(who, "update", "consumers-exchange", "", ""):
            raise Forbidden("serve says no", status=403, reason="Forbidden")


Doing = Callable[[Tried], Awaitable[None]]
Attempt = Callable[[], Awaitable[object]]
DOINGS: Final[Mapping[tuple[str, str], Doing]] = {
    ("create", "configmaps"): lambda tried: tried.project("create"),
    ("patch", "configmaps"): lambda tried: tried.project("patch"),
    ("delete", "configmaps"): lambda tried: tried.project("delete"),
    ("get", "deployments"): lambda tried: tried.look("Deployment"),
    ("get", "statefulsets"): lambda tried: tried.look("StatefulSet"),
    ("get", "daemonsets"): lambda tried: tried.look("DaemonSet"),
    ("list", "replicasets"): lambda tried: tried.look(),
    ("list", "pods"): lambda tried: tried.look(),
    ("get", "secrets"): lambda tried: tried.certify(write=False, configuration=False),
    ("patch", "secrets"): lambda tried: tried.certify(write=True, configuration=False),
    ("get", "validatingwebhookconfigurations"): lambda tried: tried.certify(write=False, configuration=True),
    ("patch", "validatingwebhookconfigurations"): lambda tried: tried.certify(write=True, configuration=True),
    ("update", "configregistries/consumers-exchange"): lambda tried: tried.exchange(),
}
"""What is not asked for at the start, and what needs it."""


@pytest.fixture(scope="module")
def chart(crd: KubeCluster, place: str) -> Iterator[Chart]:
    with granted(crd, place) as found:
        yield found


@pytest.fixture
async def tried(chart: Chart, client: Client) -> AsyncIterator[Tried]:
    """Connected as the administrator and as each account; with what the doings look at."""
    owner = {"apiVersion": API_VERSION, "kind": "ConfigRegistry", "metadata": {"name": "owner"}, "spec": {}}
    labels = {"app": "looked-at"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "nobody/pulls:it"}]}}
    looked_at = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "looked-at"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod},
    }
    for resource, body in ((REGISTRIES, owner), (DEPLOYMENTS, looked_at)):
        path = f"{resource.path(client.namespace, body['metadata']['name'])}?fieldManager=test&force=true"  # type: ignore[index]
        await client.api.patch(path, json.dumps(body).encode(), kind=_APPLY)
    async with (
        await connect(str(chart.kubeconfig("controller"))) as controller,
        await connect(str(chart.kubeconfig("serve"))) as serve,
    ):
        yield Tried(chart, client.api, {"controller": controller, "serve": serve})


async def refused(attempt: Attempt, right: Right) -> Exception:
    """Wait until it is refused: the API server learns of a role a moment after it was written."""
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            await attempt()
        except (Forbidden, NotPermittedError) as error:
            return error
        assert time.monotonic() < deadline, f"{right}: nothing fails without it: the chart should not give it"
        await asyncio.sleep(0.01)


async def allowed(attempt: Attempt, right: Right) -> None:
    """Wait until it is not refused any more."""
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            await attempt()
        except (Forbidden, NotPermittedError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"before {right} is taken away: {error}") from error
            await asyncio.sleep(0.01)
        else:
            return


@pytest.mark.parametrize("component", COMPONENTS)
async def test_without_any_one_of_them_something_fails(tried: Tried, component: str, tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    settings = tried.chart.settings(component, file)
    rights = [each for each in tried.chart.rights() if each.component == component]
    assert rights
    for right in rights:
        doing = DOINGS.get((right.verb, right.resource))
        if doing is None:
            attempt: Attempt = partial(_preflight, settings, tried.apis[component])
        else:
            attempt = partial(doing, tried)
        await allowed(attempt, right)
        async with tried.chart.without(tried.admin, right):
            error = await refused(attempt, right)
        assert doing is not None or str(right) in str(error)


async def test_the_whole_cluster_is_looked_after_with_the_same_rights(
    crd: KubeCluster, chart: Chart, place: str, tmp_path: Path
) -> None:
    """As the defaults have it: ClusterRoles, where there were Roles, and not one right more."""
    (file := tmp_path / "file").touch()
    with granted(crd, place, logLevel="info") as whole:
        for component in COMPONENTS:
            async with await connect(str(whole.kubeconfig(component))) as api:
                await _preflight(whole.settings(component, file), api)
    assert {each[:4] for each in whole.rights()} == {each[:4] for each in chart.rights()}


async def test_a_tour_with_exactly_these_rights(chart: Chart, client: Client, tmp_path: Path) -> None:
    """Record, roll out, roll back, project, read sources, ask policies and workloads, tell, prune, certify, lead."""
    sources = [{"configMapRef": {"name": "base"}}]
    more: dict[str, Any] = {"dataFrom": sources, "project": {"configMap": "projected"}, "revisionHistoryLimit": 1}
    waits: dict[str, Any] = {"steps": [{"setWeight": 50}, {"pause": {}}]}
    workload = {"name": "pods", "interval": "100ms", "workload": {"kind": "Deployment", "name": "absent"}}
    await client.configmap("base", {"from": "base"})
    with Installed(chart, tmp_path) as installed:
        await client.apply("tour", data={"n": 0}, **more)
        await client.until("tour", lambda status: stable(status, 1))
        async with policy(client, maxStep=60):
            await client.apply("tour", data={"n": 1}, **more)
            await client.steady("tour", Stalled=("True", "InvalidSpec"))
        for number in (2, 3, 4):
            await client.apply("tour", data={"n": number}, **more)
            status = await client.ready("tour")
        latest = status["stable"]["version"]
        await client.wait(lambda: pruned(client, latest), lambda: "older versions to be pruned")
        # One that goes out to half of the consumers, and is taken back.
        await client.apply("tour", data={"n": 5}, rollout=waits, **more)
        status = await client.until("tour", lambda status: (status.get("canary") or {}).get("weight") == 50)
        await client.command("tour", "abort", f"{status['canary']['version']}:-:now")
        await client.until("tour", lambda status: stable(status, latest))
        await client.apply("checked", data={"n": 1})
        await client.until("checked", lambda status: stable(status, 1))
        await client.apply("checked", data={"n": 2}, rollout={**waits, "checks": [workload]})
        await client.until("checked", lambda status: "absent" in json.dumps(status.get("canary")))
        await everything_is_there(client, chart, installed)


@asynccontextmanager
async def policy(client: Client, **limits: Any) -> AsyncIterator[None]:
    """While a policy holds for the namespace."""
    name = f"tour-{client.namespace}"
    body = {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": {"name": name}, "spec": {"limits": limits}}

    async def label(value: str | None) -> None:
        labels = json.dumps({"metadata": {"labels": {LABEL_POLICY: value}}}).encode()
        await client.api.patch(NAMESPACES.path(None, client.namespace), labels)

    await client.api.create(ROLLOUT_POLICIES.path(), json.dumps(body).encode())
    try:
        await label(name)
        yield
        await label(None)
    finally:
        await client.api.delete(ROLLOUT_POLICIES.path(None, name))


async def everything_is_there(client: Client, chart: Chart, installed: Installed) -> None:
    """What the tour must have left, and that nobody was refused anything."""
    api, namespace = client.api, client.namespace
    projected = json.loads(await api.get(CONFIGMAPS.path(namespace, "projected")))
    assert projected["data"]["from"] == "base"

    async def told() -> bool:
        reasons = {each["reason"] for each in await client.events("tour")}
        return {"VersionRecorded", "RolloutStarted", "RolloutCompleted", "VersionPruned", "InvalidSpec"} <= reasons

    await client.wait(told, lambda: installed.controller.log[-3000:])
    secret = json.loads(await api.get(SECRETS.path(namespace, f"{chart.name}-webhook")))
    assert secret["data"].keys() >= {"tls.crt", "tls.key"}
    trusting = json.loads(await api.get(CONFIGURATIONS.path(None, chart.name)))
    assert trusting["webhooks"][0]["clientConfig"]["caBundle"]
    lease = json.loads(await api.get(LEASES.path(namespace, chart.name)))
    assert lease["spec"]["holderIdentity"]

    def exchanged() -> bool:
        rounds = "configregistry_replica_exchange_duration_seconds_count"
        return sum(installed.controller.metrics(rounds).values()) >= 2

    await asyncio.to_thread(wait, exchanged, lambda: installed.controller.log[-3000:])
    assert not sum(installed.controller.metrics("configregistry_replica_exchange_errors_total").values())
    for process in (installed.controller, installed.serve):
        lines = [json.dumps(line) for line in process.lines]
        assert not [line for line in lines if any(word in line for word in ("orbidden", "no right", "may not"))]


async def pruned(client: Client, latest: int) -> bool:
    return len(await client.revisions("tour")) <= 3 and latest in await client.revisions("tour")
