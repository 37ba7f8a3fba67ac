"""The ground of all other end-to-end tests: pods run, are reached, are named, are killed, and survive their keepers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import WithPods, wait_for
from tests.cluster.e2e import ARTIFACTS
from tests.cluster.standing import REPOSITORY

from .conftest import Images

_WITHIN = 120.0


def _container(image: str, name: str) -> dict[str, object]:
    """As the chart's are: nothing is allowed that it does not need."""
    security = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"name": name, "image": image, "securityContext": security, "resources": {"limits": {"memory": "64Mi"}}}


def _web(image: str) -> str:
    """Two pods and a Service."""
    container = {
        **_container(image, "web"),
        "args": ["serve"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment, service]})


@pytest.fixture(scope="module")
def web(node: WithPods, images: Images) -> Iterator[str]:
    namespace = node.create_namespace()
    node.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    node.kubectl("apply", f"--namespace={namespace}", "--filename=-", input=_web(images.client))
    _available(node, namespace)
    yield namespace
    node.delete_namespace(namespace)


def _available(node: WithPods, namespace: str) -> None:
    awaited = ("rollout", "status", f"--namespace={namespace}", "deployment/web", f"--timeout={_WITHIN:g}s")
    node.kubectl(*awaited, timeout=_WITHIN + 10)


def _pods(node: WithPods, namespace: str) -> dict[str, int]:
    """Each pod's name, with how often it has been restarted."""
    shown = node.kubectl("get", "pods", f"--namespace={namespace}", "--selector=app=web", "--output=json").stdout
    return {
        each["metadata"]["name"]: each["status"]["containerStatuses"][0]["restartCount"]
        for each in json.loads(shown)["items"]
    }


def test_a_pod_asks_a_service_by_its_name(node: WithPods, web: str) -> None:
    def answered() -> str:
        """Refused until kube-proxy has heard of the endpoints."""
        asked = ("/client", "get", f"http://web.{web}.svc.cluster.local/")
        return node.exec(web, "deployment/web", *asked, check=False).stdout

    answer = wait_for(answered, "an answer of the Service", timeout=_WITHIN)
    assert json.loads(answer)["body"].strip() in _pods(node, web)
    node.exec(web, "deployment/web", "/client", "lookup", "kubernetes.default")


def test_the_test_itself_reaches_it(node: WithPods, web: str) -> None:
    with node.reached(web, "web", 80) as url, urllib.request.urlopen(url, timeout=_WITHIN) as answer:
        assert answer.read().decode().strip() in _pods(node, web)
    pod = next(iter(_pods(node, web)))
    with (
        node.forwarded(web, pod, 8080) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=_WITHIN) as answer,
    ):
        assert answer.read().decode().strip() == pod


def test_the_keepers_are_restarted_and_no_request_is_lost(disturbable: WithPods, web: str, images: Images) -> None:
    before = _pods(disturbable, web)
    address = disturbable.kubectl(
        "get", "service", "web", f"--namespace={web}", "--output=jsonpath={.spec.clusterIP}"
    ).stdout
    container = {**_container(images.client, "asking"), "args": ["load", "-fresh", f"http://{address}/"]}
    asked = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "asking"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }
    )
    disturbable.kubectl("apply", f"--namespace={web}", "--filename=-", input=asked)
    disturbable.kubectl(
        "wait", f"--namespace={web}", "--for=condition=Ready", "pod/asking", "--timeout=60s", timeout=70
    )
    disturbable.restart_kubelet()
    disturbable.restart_api_server()
    assert _pods(disturbable, web) == before
    disturbable.kill_container(web, "asking", signum=15)
    wait_for(lambda: "failed" in disturbable.pod_logs(web, "asking"), "the totals", timeout=_WITHIN)
    totals = json.loads(disturbable.pod_logs(web, "asking").splitlines()[-1])
    assert totals["failed"] == 0, totals
    assert totals["codes"]["200"] > 0


def test_a_killed_process_is_started_again(disturbable: WithPods, web: str) -> None:
    before = _pods(disturbable, web)
    pod = next(iter(before))
    disturbable.kill_container(web, pod)
    wait_for(lambda: _pods(disturbable, web)[pod] == before[pod] + 1, f"a restart of {pod}", timeout=_WITHIN)
    _available(disturbable, web)


_FAILS = """
import pytest

@pytest.fixture
def taken(node):
    name = node.create_namespace()
    yield name
    node.delete_namespace(name)

def test_it(node, taken):
    for kind in ("secret generic", "configmap"):
        node.kubectl("create", *kind.split(), "it", f"--namespace={taken}", f"--from-literal=word={kind}-is-in-it")
    assert False
"""


def test_what_is_left_of_a_failure_is_kept_without_secrets(disturbable: WithPods, tmp_path: Path) -> None:
    (tmp_path / "test_fails.py").write_text(_FAILS)
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "tests.e2e.conftest", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, f"--rootdir={REPOSITORY}", str(tmp_path / "test_fails.py")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    kept, at_the_end = ARTIFACTS / "test_it", ARTIFACTS / "cluster"
    try:
        assert str(kept) in ended.stdout
        objects = (kept / "objects.yaml").read_text()
        assert "configmap-is-in-it" in objects
        assert "kind: Node" in objects
        assert "Scheduled" in (kept / "events.txt").read_text()
        assert "CoreDNS-" in "".join(path.read_text() for path in (kept / "logs").glob("kube-system_coredns-*.log"))
        assert "kubelet.log" in [path.name for path in (at_the_end / "components").iterdir()]
        everything = b"".join(path.read_bytes() for path in kept.rglob("*") if path.is_file())
        assert b64encode(b"secret generic-is-in-it") not in everything
        assert b"kind: Secret" not in everything
    finally:
        for directory in (kept, at_the_end):
            shutil.rmtree(directory, ignore_errors=True)
