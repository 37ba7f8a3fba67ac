"""The components of a cluster: the command line of each, and how it tells that it is well.

Another component (kube-scheduler, say) is one more function and one more line
in COMPONENTS, beside its lines in build.py and kube/main.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .certs import Certificate
from .ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"

SERVICE_ACCOUNT_KEYS = "service-account"
ADMIN = Certificate("admin", "configregistry-admin", ["system:masters"])
CERTIFICATES = (
    ADMIN,
    Certificate(ETCD, ETCD, hosts=[LOOPBACK, "localhost", ETCD]),
    Certificate(
        API_SERVER,
        API_SERVER,
        hosts=[LOOPBACK, "localhost", "kubernetes", "kubernetes.default.svc", "10.0.0.1"],
    ),
    Certificate(
        CONTROLLER_MANAGER,
        "system:kube-controller-manager",
        hosts=[LOOPBACK, "localhost"],
    ),
)


@dataclass(frozen=True)
class Layout:
    """Where the files and the ports of one cluster are."""

    directory: Path
    ports: Mapping[str, int]

    @property
    def pki(self) -> Path:
        """Return the directory of keys and certificates."""
        return self.directory / "pki"

    @property
    def controller_manager_kubeconfig(self) -> Path:
        """Return the controller manager's credentials."""
        return self.directory / f"{CONTROLLER_MANAGER}.kubeconfig"

    def log(self, name: str) -> Path:
        """Return the log of a component."""
        return self.directory / "logs" / f"{name}.log"

    @property
    def run(self) -> Path:
        """Return the directory of the pid files."""
        return self.directory / "run"

    def pid_file(self, name: str) -> Path:
        """Return the pid file of a component."""
        return self.run / f"{name}.json"


@dataclass(frozen=True)
class Component:
    """One server: its name, its arguments, the path where it says over HTTPS that it is ready."""

    name: str
    arguments: Callable[[Layout], list[str]]
    readiness: str = ""
    ready: Callable[[Layout], bool] | None = None
    """For one that says so in another way."""


def _etcd(at: Layout) -> list[str]:
    client = f"https://{LOOPBACK}:{at.ports[ETCD]}"
    return [
        f"--data-dir={at.directory / 'etcd'}",
        # This data is thrown away; a crash of the machine may well cost it.
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        # The one member talks to no peers, so any port will do.
        f"--listen-peer-urls=http://{LOOPBACK}:0",
        "--client-cert-auth",
        # All certificates come from one authority; those of users get no
        # further than the API server.
        f"--client-cert-allowed-hostname={ETCD}",
        f"--trusted-ca-file={at.pki / 'ca.crt'}",
        f"--cert-file={at.pki / ETCD}.crt",
        f"--key-file={at.pki / ETCD}.key",
    ]


def _api_server(at: Layout) -> list[str]:
    keys = at.pki / SERVICE_ACCOUNT_KEYS
    return [
        f"--etcd-servers=https://{LOOPBACK}:{at.ports[ETCD]}",
        f"--etcd-cafile={at.pki / 'ca.crt'}",
        f"--etcd-certfile={at.pki / ETCD}.crt",
        f"--etcd-keyfile={at.pki / ETCD}.key",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={at.ports[API_SERVER]}",
        f"--advertise-address={LOOPBACK}",
        # Endpoints may not be loopback addresses; nobody needs them without pods.
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={at.pki / API_SERVER}.crt",
        f"--tls-private-key-file={at.pki / API_SERVER}.key",
        f"--client-ca-file={at.pki / 'ca.crt'}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}.pub",
        f"--service-account-signing-key-file={keys}.key",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--allow-privileged=true",
        # Watches get that long to end. By default they get none, and the
        # server hangs for a minute in its clean end until the last one is gone.
        "--shutdown-watch-termination-grace-period=1s",
    ]


def _controller_manager(at: Layout) -> list[str]:
    kubeconfig = at.controller_manager_kubeconfig
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={at.ports[CONTROLLER_MANAGER]}",
        f"--tls-cert-file={at.pki / CONTROLLER_MANAGER}.crt",
        f"--tls-private-key-file={at.pki / CONTROLLER_MANAGER}.key",
        f"--root-ca-file={at.pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={at.pki / 'ca.crt'}",
        f"--cluster-signing-key-file={at.pki / 'ca.key'}",
        f"--service-account-private-key-file={at.pki / SERVICE_ACCOUNT_KEYS}.key",
        "--use-service-account-credentials",
        # There is one of it, and a lease would delay each restart.
        "--leader-elect=false",
        # A test namespace is gone in a moment, and not when 20 requests a
        # second have worked through all the resources there are.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


# In the order in which they start; they end in the opposite order.
COMPONENTS: tuple[Component, ...] = (
    Component(ETCD, _etcd, "/health"),
    Component(API_SERVER, _api_server, "/readyz"),
    Component(CONTROLLER_MANAGER, _controller_manager, "/healthz"),
)
