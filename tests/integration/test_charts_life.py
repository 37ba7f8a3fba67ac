"""The life of a release on a real API server: installed, upgraded, rolled back, uninstalled.

No pod runs here (there is no node): it is about objects. That no read is lost meanwhile is for tests/e2e.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import KubeCluster, wait_for
from tests.helm import CHART, CRDS_CHART, Helm

RELEASE = "configregistry"
CRDS = {"configregistries.configregistry.dev", "rolloutpolicies.configregistry.dev"}
KINDS = (
    "deployments,services,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,"
    "roles,rolebindings,clusterroles,clusterrolebindings,validatingwebhookconfigurations"
)
HEALTH = {"apiVersion": "configregistry.dev/v1alpha1", "kind": "ConfigRegistry"}


class Release:
    """What a person does with one."""

    def __init__(self, cluster: KubeCluster, namespace: str) -> None:
        self.cluster, self.namespace, self.helm = cluster, namespace, Helm.of(cluster)

    def __call__(self, verb: str, *arguments: Any, **values: Any) -> None:
        given = values or None
        self.helm.run(verb, RELEASE, *arguments, f"--namespace={self.namespace}", values=given)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        told = self.cluster.kubectl("get", kind, name, f"--namespace={self.namespace}", "--output=json").stdout
        found: dict[str, Any] = json.loads(told)
        return found

    def patch(self, kind: str, name: str, body: Any, how: str = "merge") -> None:
        patched = ("patch", kind, name, f"--namespace={self.namespace}", f"--type={how}", f"--patch={json.dumps(body)}")
        self.cluster.kubectl(*patched)

    def left(self) -> set[str]:
        """The objects that carry the release's name."""
        label = f"--selector=app.kubernetes.io/instance={RELEASE}"
        told = self.cluster.kubectl("get", KINDS, label, "--output=name", f"--namespace={self.namespace}").stdout
        return set(told.split())


@pytest.fixture
def release(cluster: KubeCluster, namespace: str) -> Iterator[Release]:
    found = Release(cluster, namespace)
    yield found
    found.helm.run("uninstall", RELEASE, "--ignore-not-found", f"--namespace={namespace}")


@pytest.fixture(scope="module")
def kinds(cluster: KubeCluster) -> Iterator[None]:
    """The CRDs by their chart, which takes over what other tests have installed without it."""
    place = cluster.create_namespace("crds")
    helm = Helm.of(cluster)
    helm.run("install", "crds", CRDS_CHART, f"--namespace={place}", "--take-ownership")
    wait_for(lambda: "crds" in helm.run("list", "--short", f"--namespace={place}").stdout, "the CRDs' release")
    yield
    helm.run("uninstall", "crds", "--ignore-not-found", f"--namespace={place}")
    cluster.delete_namespace(place)


@pytest.mark.usefixtures("kinds")
def test_upgrade_and_rollback_leave_what_the_operator_wrote_and_the_autoscaler_decided(release: Release) -> None:
    release("install", CHART, serve={"autoscaling": {"enabled": True}})
    certificate = {"tls.crt": base64.b64encode(b"certificate").decode(), "tls.key": base64.b64encode(b"key").decode()}
    bundle = base64.b64encode(b"authority").decode()
    release.patch("secret", f"{RELEASE}-webhook", {"data": certificate})
    trusting = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
    release.patch("validatingwebhookconfiguration", RELEASE, trusting, how="json")
    release.cluster.kubectl("scale", f"deployment/{RELEASE}-serve", "--replicas=5", f"--namespace={release.namespace}")

    def holds() -> tuple[Any, Any, Any]:
        (webhook,) = release.get("validatingwebhookconfiguration", RELEASE)["webhooks"]
        scale = release.get("deployment", f"{RELEASE}-serve")["spec"]["replicas"]
        data = release.get("secret", f"{RELEASE}-webhook").get("data")
        return data, webhook["clientConfig"].get("caBundle"), scale

    kept = (certificate, bundle, 5)
    assert holds() == kept
    release("upgrade", CHART, serve={"autoscaling": {"enabled": True}}, webhook={"timeoutSeconds": 9}, logLevel="debug")
    assert holds() == kept
    assert release.get("validatingwebhookconfiguration", RELEASE)["webhooks"][0]["timeoutSeconds"] == 9
    release("rollback", "1")
    assert holds() == kept
    assert release.get("validatingwebhookconfiguration", RELEASE)["webhooks"][0]["timeoutSeconds"] == 5


@pytest.mark.usefixtures("kinds")
def test_uninstall_leaves_the_kinds_and_every_object_of_them(release: Release) -> None:
    cluster, namespace = release.cluster, release.namespace
    release("install", CHART)
    made = {**HEALTH, "metadata": {"name": "checkout", "namespace": namespace}, "spec": {"data": {"a": 1}}}
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(made))
    uid = release.get("creg", "checkout")["metadata"]["uid"]
    assert len(release.left()) > 15
    release("uninstall", "--wait")
    assert not release.left()
    assert release.get("creg", "checkout")["metadata"]["uid"] == uid


def test_uninstalling_the_kinds_leaves_them(cluster: KubeCluster, namespace: str) -> None:
    helm = Helm.of(cluster)
    helm.run("install", "crds", CRDS_CHART, f"--namespace={namespace}", "--take-ownership")
    made = {**HEALTH, "metadata": {"name": "checkout", "namespace": namespace}, "spec": {"data": {"a": 1}}}
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in CRDS))
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(made))
    told = helm.run("uninstall", "crds", f"--namespace={namespace}").stdout
    assert all(name in told.partition("kept due to the resource policy")[2] for name in CRDS)
    cluster.kubectl("get", "creg", "checkout", f"--namespace={namespace}")
    helm.run("install", "again", CRDS_CHART, f"--namespace={namespace}", "--take-ownership")
    helm.run("uninstall", "again", f"--namespace={namespace}")


@pytest.mark.usefixtures("kinds")
def test_people_get_their_rights_by_the_roles_that_every_cluster_has(release: Release) -> None:
    """`view`, `edit` and `admin` speak of registries as soon as the chart is there."""
    cluster, namespace = release.cluster, release.namespace
    release("install", CHART)

    def may(user: str, verb: str, part: str = "") -> bool:
        what = ("configregistries.configregistry.dev", f"--subresource={part}")
        asked = ("auth", "can-i", verb, *what, f"--as={user}", f"--namespace={namespace}")
        return cluster.kubectl(*asked, check=False).stdout.strip() == "yes"

    for role in ("view", "edit", "admin"):
        bound = (role, f"--clusterrole={role}", f"--user={role}-{namespace}", f"--namespace={namespace}")
        cluster.kubectl("create", "rolebinding", *bound)
    reads, edits = f"view-{namespace}", f"edit-{namespace}"
    # The controller of aggregated roles has to see them first.
    wait_for(lambda: may(reads, "get", "data"), "the role view to be aggregated")
    wait_for(lambda: may(edits, "patch"), "the role edit to be aggregated")
    assert may(reads, "get")
    assert not may(reads, "patch")
    assert may(edits, "update", "consumers")
    assert not may(edits, "update", "status")
    assert not may(edits, "update", "consumers-exchange")
    assert may(f"admin-{namespace}", "delete")
