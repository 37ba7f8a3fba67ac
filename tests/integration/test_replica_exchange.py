"""The leader's way to its replicas on a real API server: found behind a Service, asked with a token over TLS."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.cluster.certs import Certificate, make_certificates
from tests.cluster.ports import LOOPBACK
from tests.integration.running import Client, Operator, running, stable, wait

from configregistry.kube.endpoints import Endpoint, list_endpoints
from configregistry.model.reports import EXCHANGE_EVERY

AUDIENCE = "configregistry"
ERRORS = "configregistry_replica_exchange_errors_total"
ROUNDS = "configregistry_replica_exchange_duration_seconds_count"


@pytest.fixture
async def person(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as made:
        yield made


def manifest(cluster: KubeCluster, namespace: str, *objects: dict[str, Any]) -> None:
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    cluster.kubectl("apply", "--server-side", "--force-conflicts", f"--namespace={namespace}", "-f", "-", input=body)


def slice_of(name: str, service: str, *endpoints: dict[str, Any], kind: str = "IPv4") -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "ports": [{"name": "probes", "port": 8081}, {"name": "http", "port": 8080}],
        "endpoints": list(endpoints),
    }


async def test_the_pods_behind_a_service(crd: KubeCluster, namespace: str, person: Client) -> None:
    assert await list_endpoints(person.api, namespace, "serve", "http") == []

    def pod(name: str, address: str, **conditions: bool) -> dict[str, Any]:
        target = {"kind": "Pod", "name": name, "namespace": namespace, "uid": f"uid-{name}"}
        return {"addresses": [address], "conditions": conditions, "targetRef": target}

    manifest(
        crd,
        namespace,
        slice_of("serve-4", "serve", pod("a", "10.9.0.1", ready=True), pod("b", "10.9.0.2", ready=False)),
        slice_of("serve-more", "serve", pod("c", "10.9.0.3", ready=False, serving=True, terminating=True)),
        slice_of("serve-6", "serve", pod("a", "fd00::1", ready=True), kind="IPv6"),
        slice_of("other", "other", pod("d", "10.9.0.4", ready=True)),
    )
    assert await list_endpoints(person.api, namespace, "serve", "http") == [
        Endpoint("a", "10.9.0.1", 8080, True),
        Endpoint("b", "10.9.0.2", 8080, False),
        Endpoint("c", "10.9.0.3", 8080, True),
    ]


def told(controller: Operator, event: str) -> list[str]:
    """The lines of that event, as text."""
    return [json.dumps(line) for line in controller.lines if line.get("event") == event]


async def test_a_token_with_the_right_over_tls(
    crd: KubeCluster, namespace: str, person: Client, tmp_path: Path
) -> None:
    """Who may not exchange is an error of every round, until its token is replaced by one that may."""
    role = f"exchange-{namespace}"
    for account in ("controller", "stranger"):
        crd.kubectl("create", "serviceaccount", account, f"--namespace={namespace}")
    rule = ["--verb=update", "--resource=configregistries.configregistry.dev/consumers-exchange"]
    crd.kubectl("create", "clusterrole", role, *rule)
    crd.kubectl(
        "create", "clusterrolebinding", role, f"--clusterrole={role}", f"--serviceaccount={namespace}:controller"
    )

    def token(account: str) -> str:
        made = crd.kubectl("create", "token", account, f"--namespace={namespace}", f"--audience={AUDIENCE}")
        return str(made.stdout)

    make_certificates(tmp_path / "pki", [Certificate("serve", "serve", hosts=[LOOPBACK])])
    pair = [f"--tls-certificate={tmp_path / 'pki' / 'serve.crt'}", f"--tls-key={tmp_path / 'pki' / 'serve.key'}"]
    path = tmp_path / "token"
    path.write_text(token("stranger"))
    try:
        with running(crd, namespace, tmp_path / "serve", "--auth=kubernetes", *pair, command="serve") as serve:
            url = f"https://{LOOPBACK}:{serve.port}"
            asking = [
                f"--replica={url}",
                f"--replica-token-file={path}",
                f"--replica-ca-file={tmp_path / 'pki' / 'ca.crt'}",
            ]
            with running(crd, namespace, tmp_path / "controller", *asking, command="controller") as controller:
                wait(lambda: controller.metrics(ERRORS)[""] >= 2, lambda: controller.log[-3000:])
                (silent,) = told(controller, "a replica does not answer")
                assert "it answered 403" in silent

                fresh = tmp_path / "token.new"
                fresh.write_text(token("controller"))
                fresh.replace(path)
                wait(
                    lambda: bool(told(controller, "a replica answers again, or is gone")),
                    lambda: controller.log[-3000:],
                )
                errors, rounds = controller.metrics(ERRORS)[""], controller.metrics(ROUNDS)[""]
                wait(lambda: controller.metrics(ROUNDS)[""] >= rounds + 2, lambda: controller.log[-3000:])
                assert controller.metrics(ERRORS)[""] == errors
                assert path.read_text() not in controller.log + serve.log
    finally:
        crd.kubectl("delete", "clusterrole,clusterrolebinding", role)


async def test_an_error_does_not_wait_for_the_next_round(
    crd: KubeCluster, namespace: str, person: Client, tmp_path: Path
) -> None:
    """Reported right behind a round, so that the next one is two seconds away: the rollback does not wait for it."""
    name = "checkout"
    check = {"name": "consumers", "interval": "1h", "consumers": {"maxErrorPercent": 3, "minReporting": 1}}
    rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": [check]}
    took = []
    with running(crd, namespace, tmp_path / "serve", command="serve") as serve:
        asking = f"--replica=http://{LOOPBACK}:{serve.port}"
        with running(crd, namespace, tmp_path / "controller", asking, command="controller") as controller:
            path = f"/v1/namespaces/{namespace}/registries/{name}"
            await person.apply(name, data={"n": 0}, rollout=rollout)
            await person.until(name, lambda status: stable(status, 1))
            for number in range(1, 6):
                await person.apply(name, data={"n": number}, rollout=rollout)
                status = await person.until(name, lambda status: status.get("canary"))
                version = status["canary"]["version"]
                rounds = controller.metrics(ROUNDS)[""]
                wait(lambda rounds=rounds: controller.metrics(ROUNDS)[""] > rounds, lambda: "a round")  # type: ignore[misc]
                reported = put(serve, f"{path}/consumers/pod-{number}", version)
                await person.until(name, lambda status: stable(status, 1))
                took.append(time.monotonic() - reported)
    assert min(took) < EXCHANGE_EVERY / 2, took


def put(serve: Operator, path: str, version: int) -> float:
    """Report an error; gives when that was answered with success."""
    body = json.dumps({"ttlSeconds": 600, "observed": {"version": version, "status": "error"}})
    connection = http.client.HTTPConnection(LOOPBACK, serve.port, timeout=30)
    try:
        connection.request("PUT", path, body, {"Content-Type": "application/json"})
        assert connection.getresponse().status in (200, 201)
        return time.monotonic()
    finally:
        connection.close()
