"""The admission webhook as users have it: the chart's objects, a real API server, kubectl, and the operator.

The API server calls by `url` instead of `service`, for this cluster has no pods; the rest of them is as it is.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.helm import Helm
from tests.integration.chart_rights import granted
from tests.integration.running import Client, Operator, condition, running, stable, wait

from configregistry.admission.certificates import Pair, make, trusts
from configregistry.admission.guard import ALLOW_DELETE
from configregistry.admission.rotation import OVERLAP, InCluster, Kept, Rotation
from configregistry.handlers.webhook import PATH
from configregistry.kube import webhooks
from configregistry.kube.client import connect
from configregistry.kube.failures import Conflict, Forbidden, Invalid

BAD: dict[str, Any] = {
    "data": {"_x": 1, "big": 2**53, "ok": 1},
    "schema": {"type": "object", "required": ["absent"]},
    "rollout": {"bake": "1m", "checks": [{"name": "up", "http": {"url": "http://x:99999/"}}]},
}
FIELDS = (
    "spec.data['_x']",
    "spec.data['big']",
    "spec.rollout.checks[0].http.url",
    "spec.data: does not fit spec.schema",
)
WARNED: dict[str, Any] = {"data": {"a": 1}, "rollout": {"steps": [{"setWeight": 50}, {"pause": {"duration": "1s"}}]}}


def registry(name: str, spec: dict[str, Any], **metadata: Any) -> str:
    whole = {"apiVersion": "configregistry.dev/v1alpha1", "kind": "ConfigRegistry", "spec": spec}
    return json.dumps({**whole, "metadata": {"name": name, **metadata}})


class Place:
    """A namespace with the webhook and the operator."""

    def __init__(self, cluster: KubeCluster, namespace: str, operator: Operator, configuration: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.operator = operator
        self.configuration = configuration

    def kubectl(self, *args: str, stdin: str | None = None) -> tuple[int, str]:
        done = self.cluster.kubectl(f"--namespace={self.namespace}", *args, input=stdin, check=False)
        return done.returncode, done.stdout + done.stderr

    def apply(self, name: str, spec: dict[str, Any]) -> tuple[int, str]:
        return self.kubectl("apply", "--server-side", "--filename=-", stdin=registry(name, spec))

    def asked(self) -> bool:
        """Whether the API server gets through: it warns of what the CRD takes."""
        code, told = self.kubectl("create", "--dry-run=server", "--filename=-", stdin=registry("dry", WARNED))
        assert not code, told
        return "Warning: spec.rollout: steps or bake without checks" in told

    def until_asked(self, asked: bool = True) -> None:
        wait(lambda: self.asked() == asked, lambda: f"asked: {not asked}\n{self.operator.log[-3000:]}")


def configure(cluster: KubeCluster, namespace: str, port: int, bundle: str | None = None) -> str:
    """The chart's configuration, for one namespace."""
    (found,) = (each for each in Helm().template() if each["kind"] == "ValidatingWebhookConfiguration")
    found["metadata"]["name"] = name = f"configregistry-{namespace}"
    (webhook,) = found["webhooks"]
    assert webhook["clientConfig"].pop("service")["path"] == PATH
    webhook["clientConfig"]["url"] = f"https://{LOOPBACK}:{port}{PATH}"
    if bundle is not None:
        webhook["clientConfig"]["caBundle"] = bundle
    webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    cluster.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(found))
    return name


@pytest.fixture(scope="module")
def here(crd: KubeCluster, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    (port,) = pick_ports(1)
    configuration = configure(crd, place, port)
    options = (
        f"--webhook-port={port}",
        f"--webhook-secret={place}/webhook",
        f"--webhook-configuration={configuration}",
    )
    try:
        with running(crd, place, tmp_path_factory.mktemp("admission"), *options) as operator:
            found = Place(crd, place, operator, configuration)
            found.until_asked()
            yield found
            defects = [line for line in operator.lines if "review failed" in str(line.get("event"))]
            assert not defects, defects
    finally:
        crd.kubectl("delete", "validatingwebhookconfiguration", configuration, "--ignore-not-found")


async def test_every_finding_is_told_with_its_field_and_kubectl_shows_warnings(here: Place) -> None:
    code, told = here.apply("refused", BAD)
    assert code
    assert "4 errors" in told
    assert all(field in told for field in FIELDS), told
    code, told = here.apply("warned", {**WARNED, "dependsOn": [{"name": "nobody"}], "pinnedVersion": 7})
    assert not code
    warnings = [line for line in told.splitlines() if line.startswith("Warning: ")]
    assert [line.split(": ")[1] for line in warnings] == [
        "spec.rollout",
        "spec.dependsOn[0].name",
        "spec.pinnedVersion",
    ]
    assert all(len(line) < 300 for line in warnings)


async def test_a_cycle_is_warned_of_and_taken(here: Place, client: Client) -> None:
    assert not here.apply("ring-a", {"data": {"a": 1}, "dependsOn": [{"name": "ring-b"}]})[0]
    other = registry("ring-b", {"data": {"b": 1}, "dependsOn": [{"name": "ring-a"}]})

    def warned() -> bool:
        code, told = here.kubectl("create", "--dry-run=server", "--filename=-", stdin=other)
        assert not code, told
        return "expected no cycle: ring-b -> ring-a -> ring-b" in told

    await asyncio.to_thread(wait, warned, lambda: here.operator.log[-3000:])


async def test_a_large_registry_can_be_edited_and_a_change_of_metadata_is_not_read(here: Place, client: Client) -> None:
    data = {f"key.{number:05}": f"{number}".ljust(24, "x") for number in range(13_000)}
    assert len(json.dumps(data)) > 500_000
    path = Path(here.operator.directory) / "large.json"
    for value in (1, 2):
        path.write_text(registry("large", {"data": {**data, "changing": value}}))
        code, told = here.kubectl("apply", "--server-side", f"--filename={path}")
        assert not code, told
        assert here.asked()
    # What is too large is refused by the webhook, not only taken by one that gave up.
    path.write_text(registry("large", {"data": {**data, "more": "x" * 90_000}}))
    code, told = here.kubectl("apply", "--server-side", f"--filename={path}")
    assert code
    assert "expected at most 524,288 bytes" in told
    await client.annotate("large", example="1")


async def test_what_a_webhook_that_is_down_lets_through_is_refused_by_the_controller(
    here: Place, client: Client, tmp_path: Path
) -> None:
    assert not here.apply("outage", {"data": {"a": 1}})[0]
    await client.until("outage", lambda status: stable(status, 1))
    refused = here.apply("outage", {"data": {"a": 2, "_x": 1}})[1]
    here.operator.kill()
    try:
        code, told = here.apply("outage", {"data": {"a": 2, "_x": 1}})
        assert not code, told
    finally:
        here.operator.start()
    status = await client.steady("outage", Stalled=("True", "InvalidSpec"))
    message = condition(status, "Stalled")["message"]
    assert message
    assert message in refused, "the webhook says the same as the controller"
    assert here.operator.read(f"/v1/namespaces/{here.namespace}/registries/outage")["data"] == {"a": 1}
    here.until_asked()
    # An object that is already bad can still be labelled, its status written, and it can be deleted.
    await client.annotate("outage", example="1")
    await client.patch_status("outage", {"lastReadAt": "2026-01-01T00:00:00Z"})
    with pytest.raises(Invalid, match="_x"):
        await client.apply("outage", data={"a": 3, "_x": 1})
    code, told = here.kubectl("delete", "creg", "outage")
    assert not code, told


async def test_an_expired_certificate_stops_nobody(crd: KubeCluster, tmp_path: Path) -> None:
    namespace = crd.create_namespace()
    files = tmp_path / "tls.crt", tmp_path / "tls.key"

    def keep(pair: Pair) -> None:
        for file, content in zip(files, pair[1:], strict=True):
            file.write_bytes(content)

    good = make((LOOPBACK,), datetime.now(UTC))
    bad = make((LOOPBACK,), datetime.now(UTC) - timedelta(days=100))
    keep(bad)
    (port,) = pick_ports(1)
    name = configure(crd, namespace, port)
    options = (f"--webhook-port={port}", f"--webhook-certificate={files[0]}", f"--webhook-key={files[1]}")
    try:
        async with await connect(str(crd.kubeconfig)) as api:
            found = await webhooks.read_webhooks(api, name)
            assert found is not None
            await webhooks.write_bundle(api, name, found, good.authority + bad.authority)
        with running(crd, namespace, tmp_path / "operator", *options) as operator:
            there = Place(crd, namespace, operator, name)
            code, told = there.apply("checkout", BAD)
            assert not code, told
            async with Client.of(crd, namespace) as client:
                await client.steady("checkout", Stalled=("True", "InvalidSpec"))
            # cert-manager has renewed it: in use without a restart.
            keep(good)
            there.until_asked()
            assert operator.starts == 1
    finally:
        crd.kubectl("delete", "validatingwebhookconfiguration", name, "--ignore-not-found")
        crd.delete_namespace(namespace)


async def test_a_registry_that_is_read_is_not_deleted(here: Place, client: Client) -> None:
    await client.apply("read", data={"a": 1})
    await client.until("read", lambda status: stable(status, 1))
    url = f"http://{LOOPBACK}:{here.operator.port}/v1/namespaces/{here.namespace}/registries/read/consumers/pod-1"
    beat = urllib.request.Request(
        url, data=b'{"ttlSeconds": 600}', method="PUT", headers={"Content-Type": "application/json"}
    )

    def reported() -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(beat, timeout=5).close()
        code, told = here.kubectl("delete", "creg", "read", "--dry-run=server")
        return bool(code) and "1 consumer reads it ('pod-1')" in told

    await asyncio.to_thread(wait, reported, lambda: here.operator.log[-3000:])
    code, told = here.kubectl("delete", "creg", "read")
    assert code
    assert f"annotate it {ALLOW_DELETE}=true" in told
    await client.annotate("read", **{ALLOW_DELETE: "true"})
    assert not here.kubectl("delete", "creg", "read")[0]
    assert await client.get("read") is None


async def test_the_rights_of_the_chart_are_enough_to_rotate(crd: KubeCluster, here: Place) -> None:
    """Beginning with the Secret that the chart makes, which is empty."""
    namespace = crd.create_namespace("rights")
    clock = _Clock()
    used: list[Pair] = []
    try:
        with granted(crd, namespace) as chart:
            name, secret_name, user = chart.name, f"{chart.name}-webhook", str(chart.kubeconfig("controller"))
            async with await connect(user) as api, await connect(user) as other:
                with pytest.raises(Forbidden):
                    await webhooks.read_secret(api, here.namespace, "webhook")
                with pytest.raises(Forbidden):
                    await webhooks.read_secret(api, namespace, "another")
                objects = InCluster(api, namespace, secret_name, name)
                rotation = Rotation(objects, (LOOPBACK,), used.append, clock)
                await rotation.round()
                clock.now += timedelta(days=61)
                await rotation.round()
                read = await objects.read_webhooks()
                assert read is not None
                kept = Kept.of(await objects.read_secret())
                assert kept.current == used[-1]
                assert kept.following is not None
                pairs = (*used, kept.following)
                assert all(trusts(bundle, pair) for bundle in read.bundles.values() for pair in pairs)
                # A second replica with the same Secret in hand is too late.
                secret = await InCluster(other, namespace, secret_name, name).read_secret()
                clock.now += timedelta(seconds=OVERLAP)
                await rotation.round()
                with pytest.raises(Conflict):
                    await webhooks.write_secret(other, namespace, secret_name, {}, secret)
                with pytest.raises(Conflict):
                    await webhooks.write_bundle(other, name, read._replace(resource_version="1"), b"")
                await rotation.round()
                assert used[-1] == kept.following
                assert Kept.of(await objects.read_secret()) == Kept(kept.following)
    finally:
        crd.delete_namespace(namespace)


class _Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.start = self.now = datetime.now(UTC)

    def wall(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return (self.now - self.start).total_seconds()
