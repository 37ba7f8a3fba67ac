"""The values that the chart is tried with: axes, and the options of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Values = dict[str, Any]

_PODS: Final[Values] = {
    "extraEnv": [
        {"name": "OTEL_TRACES_SAMPLER", "value": "always_on"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "podLabels": {"team": "platform"},
    "podAnnotations": {"example.org/note": "a: b"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
            ]
        }
    },
    "topologySpreadConstraints": [
        {
            "topologyKey": "example.org/rack",
            "maxSkew": 2,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}},
        }
    ],
    "priorityClassName": "system-cluster-critical",
    "preStopSeconds": 0,
    "terminationGracePeriodSeconds": 10,
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "1.5", "memory": "2Gi"}},
}
_CONSUMERS: Final[Values] = {"namespaceSelector": {"matchLabels": {"reads": "configuration"}}}

AXES: Final[Mapping[str, Mapping[str, Values]]] = {
    "names": {
        "default": {},
        "name": {"nameOverride": "settings"},
        "fullname": {"fullnameOverride": "x" * 45},
        "labels": {"commonLabels": {"team": "platform"}, "env": "prod", "cluster": "eu-1", "logLevel": "debug"},
    },
    "namespaces": {"all": {}, "two": {"namespaces": ["default", "kube-public"]}},
    "image": {
        "default": {},
        "tag": {"image": {"tag": "dev", "pullPolicy": "Never"}},
        "digest": {
            "image": {"repository": "mirror:5000/cr", "digest": "sha256:" + "0f" * 32, "pullSecrets": ["mirror"]}
        },
    },
    "auth": {"kubernetes": {}, "none": {"serve": {"auth": "none", "hotKeys": True}}},
    "tls": {"none": {}, "secret": {"serve": {"tls": {"secretName": "serve-tls"}, "authGrace": "1h30m"}}},
    "service": {
        "default": {},
        "balanced": {"serve": {"service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}}}},
    },
    "webhook": {
        "own": {},
        "fail": {"webhook": {"failurePolicy": "Fail", "timeoutSeconds": 2}},
        "off": {"webhook": {"enabled": False}},
        "cert-manager": {"webhook": {"certManager": {"enabled": True}}},
        "issuer": {
            "webhook": {"certManager": {"enabled": True, "issuerRef": {"name": "internal", "kind": "ClusterIssuer"}}}
        },
    },
    "scaling": {
        "fixed": {},
        "auto": {"serve": {"autoscaling": {"enabled": True, "maxReplicas": 3, "cpu": "0.5"}}},
        "one": {"serve": {"replicas": 1}, "controller": {"replicas": 1}},
    },
    "network": {
        "default": {},
        "off": {"networkPolicy": {"enabled": False}},
        "closed": {
            "networkPolicy": {
                "consumers": [_CONSUMERS, {"ipBlock": {"cidr": "10.1.0.0/16"}}],
                "metrics": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "apiServers": ["192.0.2.0/24"],
                "egress": {
                    "enabled": True,
                    "apiServer": {"blocks": ["192.0.2.10/32"], "ports": [6443]},
                    "controller": [{"to": [{"podSelector": {}}]}],
                },
            }
        },
        "egress": {"networkPolicy": {"egress": {"enabled": True}}},
    },
    "told": {
        "default": {},
        "all": {
            "metrics": {
                "perRegistry": False,
                "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
                "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
                "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Configuration"}},
            },
            "tracing": {"endpoint": "http://collector.observability:4318"},
        },
        "secure": {"tracing": {"endpoint": "https://collector.observability"}},
    },
    "rights": {
        "default": {},
        "given": {
            "rbac": {"create": False, "aggregate": False},
            "controller": {"serviceAccount": {"create": False, "name": "decides"}},
            "serve": {"serviceAccount": {"create": False, "name": "serves"}},
        },
        "named": {"controller": {"serviceAccount": {"name": "decides", "annotations": {"a": "b"}}}},
    },
    "pods": {
        "default": {},
        "all": {"controller": _PODS, "serve": _PODS},
        "budgets": {
            "controller": {"podDisruptionBudget": {"enabled": False}, "extraArgs": ["--log-level=warning"]},
            "serve": {"podDisruptionBudget": {"maxUnavailable": "25%"}},
        },
    },
}


def values_of(case: Mapping[str, str]) -> Values:
    """The values of one case: what its options say, together."""
    found: Values = {}
    for axis, option in case.items():
        _join(found, AXES[axis][option])
    return found


def _join(into: Values, more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _join(into.setdefault(name, {}), value)
        else:
            into[name] = value


REFUSED: Final[tuple[tuple[Values, str], ...]] = (
    ({"replicas": 3}, "additional properties 'replicas' not allowed"),
    ({"controller": {"replicaCount": 3}}, "additional properties 'replicaCount' not allowed"),
    ({"controller": {"replicas": "3"}}, "at '/controller/replicas': got string, want integer"),
    ({"controller": {"replicas": -1}}, "at '/controller/replicas': minimum: got -1, want 1"),
    ({"logLevel": "loud"}, "at '/logLevel': value must be one of 'debug', 'info', 'warning', 'error'"),
    ({"namespaces": "shop"}, "at '/namespaces': got string, want array"),
    ({"namespaces": ["Shop"]}, "at '/namespaces/0': 'Shop' does not match pattern"),
    ({"namespaces": ["shop", "shop"]}, "at '/namespaces'"),
    ({"image": {"digest": "0f0f"}}, "at '/image/digest': '0f0f' does not match pattern"),
    ({"image": {"repository": "a@sha256:00"}}, "at '/image/repository'"),
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of"),
    ({"serve": {"auth": "basic"}}, "at '/serve/auth': value must be one of 'kubernetes', 'none'"),
    ({"serve": {"authGrace": "1 day"}}, "at '/serve/authGrace': '1 day' does not match pattern"),
    ({"serve": {"service": {"port": 70000}}}, "at '/serve/service/port': maximum: got 70,000, want 65,535"),
    ({"serve": {"extraArgs": ["hot-keys"]}}, "at '/serve/extraArgs/0': 'hot-keys' does not match pattern"),
    ({"serve": {"extraEnv": [{"value": "x"}]}}, "at '/serve/extraEnv/0': missing property 'name'"),
    ({"serve": {"resources": {"limits": {"memory": "1 GB"}}}}, "at '/serve/resources/limits/memory'"),
    ({"serve": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "at '/serve/podDisruptionBudget/maxUnavailable'"),
    ({"webhook": {"failurePolicy": "Warn"}}, "at '/webhook/failurePolicy': value must be one of 'Ignore', 'Fail'"),
    ({"networkPolicy": {"apiServers": ["10.0.0.1"]}}, "at '/networkPolicy/apiServers/0'"),
    ({"tracing": {"endpoint": "collector:4318"}}, "at '/tracing/endpoint': 'collector:4318' does not match pattern"),
    (
        {"serve": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
        "serve.autoscaling.maxReplicas: 2: expected at least minReplicas, which is 5",
    ),
    (
        {"webhook": {"enabled": False, "certManager": {"enabled": True}}},
        "webhook.certManager.enabled: true: expected webhook.enabled to be true as well",
    ),
    (
        {"serve": {"preStopSeconds": 30}},
        "serve.terminationGracePeriodSeconds: 20: expected more than preStopSeconds and the 5 s that the end takes",
    ),
    (
        {"controller": {"serviceAccount": {"create": False}}},
        "controller.serviceAccount.name: expected the name of a ServiceAccount that exists",
    ),
)
"""Values, and what is said of them."""
