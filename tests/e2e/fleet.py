"""Pods that consume: each reads its registry as itself, says what it works with, and whether that is any good.

They are what a team would write: no library, a token that is of no use elsewhere, a poll and a heartbeat.
"""

from __future__ import annotations

import json
from typing import Any, Final

from tests.cluster import WithPods

TOKEN: Final = "/var/run/secrets/registry/token"
_SECURITY: Final = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONSUMER: Final = """
import json, os, time, urllib.error, urllib.request
base, name, token = os.environ["REGISTRY"], os.environ["POD"], os.environ["TOKEN"]

def ask(method, path, body=None):
    head = {"Authorization": "Bearer " + open(token).read().strip(), "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(base + path, data, head, method=method)
    with urllib.request.urlopen(asked, timeout=5) as answer:
        return answer.headers, json.load(answer)

while True:
    try:
        head, found = ask("GET", "?target=" + name)
        version = int(head["X-ConfigRegistry-Version"])
        broken = found["data"].get("breaks", False)
        observed = {"version": version, "status": "error" if broken else "ok"}
        ask("PUT", "/consumers/" + name, {"ttlSeconds": 15, "observed": observed})
    except (OSError, ValueError, KeyError) as error:
        print(type(error).__name__, error, flush=True)
    time.sleep(0.5)
"""


def consumers(registry: str, url: str, image: str, number: int) -> list[dict[str, Any]]:
    """A ServiceAccount that may read and report on one registry, and a Deployment of so many pods."""
    labels = {"app": f"{registry}-consumer"}
    container = {
        "name": "consumer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "-c", _CONSUMER],
        "env": [
            {"name": "REGISTRY", "value": url},
            {"name": "TOKEN", "value": TOKEN},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "securityContext": _SECURITY,
        "resources": {"limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": TOKEN.rpartition("/")[0], "readOnly": True}],
    }
    projected = {"serviceAccountToken": {"audience": "configregistry", "path": "token"}}
    pod = {
        "serviceAccountName": registry,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "token", "projected": {"sources": [projected]}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{registry}-consumer"},
        "spec": {
            "replicas": number,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    return [*account(registry), deployment]


def account(registry: str) -> list[dict[str, Any]]:
    """A ServiceAccount of the registry's name, which may read and report on that one alone."""
    resources = ["configregistries/data", "configregistries/consumers"]
    rule = {
        "apiGroups": ["configregistry.dev"],
        "resources": resources,
        "resourceNames": [registry],
        "verbs": ["get", "update"],
    }
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": registry}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": registry}, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": registry},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": registry},
            "subjects": [{"kind": "ServiceAccount", "name": registry}],
        },
    ]


def client(name: str, image: str, *arguments: str) -> dict[str, Any]:
    """A pod of the tests' own client, which ends by itself or by SIGTERM and keeps its log then."""
    container = {
        "name": "client",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(arguments),
        "securityContext": _SECURITY,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]},
    }


def make(node: WithPods, namespace: str, *objects: dict[str, Any]) -> None:
    """Apply objects."""
    together = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    node.kubectl("apply", "--server-side", f"--namespace={namespace}", "--filename=-", input=together)


def token(node: WithPods, namespace: str, name: str) -> str:
    """A token as the pods of a ServiceAccount have it."""
    asked = ("create", "token", name, f"--namespace={namespace}", "--audience=configregistry", "--duration=2h")
    return node.kubectl(*asked).stdout.strip()
