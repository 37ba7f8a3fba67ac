"""What tests may ask of any cluster, whoever runs it.

A test that takes a KubeCluster runs against our own cluster and against a
user's alike; what only our own can do (stop its API server) is refused by the
other with an error, and `owned` tells beforehand.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .kubeconfig import run_kubectl, write_kubeconfig
from .waiting import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

_TOKEN_LIFETIME = "24h"


class KubeCluster(ABC):
    """A running cluster, with an administrator's credentials for it."""

    #: Whether this run started it, and may therefore stop parts of it.
    owned: bool

    @property
    @abstractmethod
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""

    @property
    @abstractmethod
    def kubectl_path(self) -> Path:
        """Return the kubectl for this cluster."""

    @property
    @abstractmethod
    def cluster_entry(self) -> dict[str, object]:
        """Return a kubeconfig's entry for this cluster: its address, its authority."""

    @abstractmethod
    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig for a user who has a client certificate and no rights yet."""

    @abstractmethod
    def has(self, component: str) -> bool:
        """Tell whether the cluster runs this component."""

    @abstractmethod
    def stop_component(self, name: str) -> None:
        """End a component as an administrator would, and return when it is gone."""

    @abstractmethod
    def kill_component(self, name: str) -> None:
        """End a component as a power cut would, and return when it is gone."""

    @abstractmethod
    def start_component(self, name: str) -> None:
        """Start a component with its old data on its old port, and await that it is ready."""

    def restart_component(self, name: str) -> None:
        """Stop a component and start it again."""
        self.stop_component(name)
        self.start_component(name)

    @property
    def server(self) -> str:
        """Return the API server's address."""
        return str(self.cluster_entry["server"])

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        check: bool = True,
        kubeconfig: Path | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or as whoever's kubeconfig is given."""
        return run_kubectl(
            self.kubectl_path,
            kubeconfig or self.kubeconfig,
            args,
            stdin=input,
            check=check,
            timeout=timeout,
        )

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with a fresh token of a ServiceAccount that exists."""
        issued = self.kubectl("create", "token", name, f"--namespace={namespace}", f"--duration={_TOKEN_LIFETIME}")
        return write_kubeconfig(
            self.kubeconfig.parent / "users" / f"{namespace}.{name}.kubeconfig",
            cluster=self.cluster_entry,
            user={"token": issued.stdout.strip()},
        )

    def install_crds(self, *paths: Path) -> None:
        """Apply files or directories of CustomResourceDefinitions, and return when all count."""
        files = [f"--filename={path}" for path in paths]
        # Server-side: a large schema does not fit into the annotation of the other way.
        self.kubectl("apply", "--server-side", "--force-conflicts", *files)
        wait = ("wait", "--for=condition=Established", "--timeout=30s", *files)
        # More than once: kubectl fails at once on a CRD that has no conditions yet (they are null).
        wait_for(lambda: not self.kubectl(*wait, check=False).returncode, "the CRDs to be established")
        if self.owned and self.has("kube-controller-manager"):
            # Its garbage collector would learn of them some 40 seconds from
            # now; when it starts, it looks at all there is.
            self.restart_component("kube-controller-manager")

    def create_namespace(self, prefix: str = "test") -> str:
        """Make a namespace with a generated name, ready for use."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.kubectl("create", "namespace", name)
        if self.has("kube-controller-manager"):
            # Pods are refused until its controller has made this.
            wait_for(
                lambda: (
                    not self.kubectl("get", "serviceaccount", "default", f"--namespace={name}", check=False).returncode
                ),
                f"the default ServiceAccount of {name}",
            )
        return name

    def delete_namespace(self, name: str) -> None:
        """Ask for a namespace's end, without waiting for it."""
        self.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
