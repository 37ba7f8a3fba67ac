"""The components of a cluster with a node: those of every cluster, and what runs pods."""

from __future__ import annotations

import dataclasses
import http.client
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.cluster.certs import Certificate
from tests.cluster.components import (
    API_SERVER,
    CERTIFICATES,
    COMPONENTS,
    CONTROLLER_MANAGER,
    ETCD,
    Component,
    Layout,
)
from tests.cluster.ports import LOOPBACK

from .places import ADDRESS, CONTAINERD_SOCKET, NODE

SCHEDULER: Final = "kube-scheduler"
CONTAINERD: Final = "containerd"
KUBELET: Final = "kubelet"
PROXY: Final = "kube-proxy"
KUBELET_CLIENT: Final = "kubelet-client"
"""As whom the API server asks the kubelet for logs, exec and port-forward."""

USERS: Final = (
    Certificate(SCHEDULER, "system:kube-scheduler", hosts=[LOOPBACK, "localhost"]),
    Certificate(KUBELET, f"system:node:{NODE}", ["system:nodes"], hosts=[NODE, ADDRESS, LOOPBACK]),
    Certificate(PROXY, "system:kube-proxy"),
)
"""Each of them gets a kubeconfig."""


def kubeconfig(at: Layout, name: str) -> Path:
    """Give the path of a component's kubeconfig."""
    return at.directory / f"{name}.kubeconfig"


def config(at: Layout, name: str) -> Path:
    """Give the path of a component's configuration file."""
    return at.directory / f"{name}.config"


def _certificates() -> tuple[Certificate, ...]:
    def widened(each: Certificate) -> Certificate:
        names = ["kubernetes.default", f"kubernetes.default.svc.{'cluster.local'}", ADDRESS]
        return dataclasses.replace(each, hosts=[*each.hosts, *names]) if each.name == API_SERVER else each

    kubelet_client = Certificate(KUBELET_CLIENT, KUBELET_CLIENT, ["system:masters"])
    return (*map(widened, CERTIFICATES), kubelet_client, *USERS)


def _api_server(base: Callable[[Layout], list[str]]) -> Callable[[Layout], list[str]]:
    def arguments(at: Layout) -> list[str]:
        client = at.pki / KUBELET_CLIENT
        return [
            *base(at),
            # Of a flag that is given twice the last one counts.
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS}",
            "--endpoint-reconciler-type=lease",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-client-certificate={client}.crt",
            f"--kubelet-client-key={client}.key",
            f"--kubelet-certificate-authority={at.pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    return arguments


def _scheduler(at: Layout) -> list[str]:
    mine = kubeconfig(at, SCHEDULER)
    return [
        f"--kubeconfig={mine}",
        f"--authentication-kubeconfig={mine}",
        f"--authorization-kubeconfig={mine}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={at.ports[SCHEDULER]}",
        f"--tls-cert-file={at.pki / SCHEDULER}.crt",
        f"--tls-private-key-file={at.pki / SCHEDULER}.key",
        "--leader-elect=false",
    ]


def _containerd(at: Layout) -> list[str]:
    return [f"--config={config(at, CONTAINERD)}"]


def _kubelet(at: Layout) -> list[str]:
    return [
        f"--config={config(at, KUBELET)}",
        f"--kubeconfig={kubeconfig(at, KUBELET)}",
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
    ]


def _proxy(at: Layout) -> list[str]:
    return [f"--config={config(at, PROXY)}"]


def _listens(_at: Layout) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(CONTAINERD_SOCKET))
        except OSError:
            return False
    return True


def _proxy_is_well(at: Layout) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, at.ports[PROXY], timeout=5.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


_BASE: Final = {each.name: each for each in COMPONENTS}
CERTIFICATES_WITH_NODE: Final = _certificates()
COMPONENTS_WITH_NODE: Final = (
    _BASE[ETCD],
    dataclasses.replace(_BASE[API_SERVER], arguments=_api_server(_BASE[API_SERVER].arguments)),
    _BASE[CONTROLLER_MANAGER],
    Component(SCHEDULER, _scheduler, "/healthz"),
    Component(CONTAINERD, _containerd, ready=_listens),
    Component(KUBELET, _kubelet, "/healthz"),
    Component(PROXY, _proxy, ready=_proxy_is_well),
)
