"""CoreDNS in the cluster, as everywhere: a Deployment behind the Service kube-dns."""

from __future__ import annotations

import json
from typing import Any, Final

from .images import COREDNS_IMAGE
from .places import DNS, DOMAIN

NAMESPACE: Final = "kube-system"
DEPLOYMENT: Final = "coredns"
_LABELS: Final = {"k8s-app": "kube-dns"}
_COREFILE: Final = f"""\
.:53 {{
    errors
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    cache 5
    loadbalance
}}
"""
_READ: Final = ["list", "watch"]


def manifests() -> str:
    """Return all of it, for `kubectl apply`."""
    named = {"name": DEPLOYMENT, "namespace": NAMESPACE}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": _READ},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", **named}],
    }
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": _LABELS},
        "spec": {"clusterIP": DNS, "selector": _LABELS, "ports": ports},
    }
    items = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        role,
        binding,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"Corefile": _COREFILE}},
        _deployment(named),
        service,
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _deployment(named: dict[str, str]) -> dict[str, Any]:
    container = {
        "name": DEPLOYMENT,
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    pod = {
        "serviceAccountName": DEPLOYMENT,
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": DEPLOYMENT}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**named, "labels": _LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }
