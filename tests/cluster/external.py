"""A cluster that somebody else runs, chosen on purpose: CLUSTER=external and KUBECONFIG.

Nothing in it is started, stopped or reconfigured by this module. The context
that is current at the beginning is copied, so that switching contexts in
another terminal cannot send half a test run elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .binaries import find_kubectl
from .certs import Certificate, make_certificates
from .errors import ClusterError
from .kubeconfig import certificate_user, write_kubeconfig
from .process import write_private
from .waiting import wait_for
from .withpods import WithPods

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

CHOICE = "CLUSTER"
EXTERNAL = "external"
OWN = "own"
KIND = "kind"
_SIGNER = "kubernetes.io/kube-apiserver-client"


def external_is_chosen() -> bool:
    """Tell whether the tests are to use a cluster that is there already."""
    chosen = os.environ.get(CHOICE, "")
    if chosen == KIND:
        message = f"{CHOICE}={KIND} is for `make e2e`, which then starts one"
        raise ClusterError(message)
    if chosen not in {"", OWN, EXTERNAL}:
        message = f"{CHOICE}={chosen} is not understood: {OWN} (or nothing), or {EXTERNAL}"
        raise ClusterError(message)
    return chosen == EXTERNAL


def copy_current_context(target: Path) -> None:
    """Write the current context of the user's KUBECONFIG, complete, to a private file."""
    configured = os.environ.get("KUBECONFIG")
    if not configured:
        # Not ~/.kube/config: tests create and delete things, and must only do
        # so where somebody has pointed at.
        message = f"{CHOICE}={EXTERNAL} needs KUBECONFIG to be set as well"
        raise ClusterError(message)
    shown = subprocess.run(
        [str(find_kubectl()), "config", "view", "--raw", "--flatten", "--minify", "--output=json"],
        env={**os.environ, "KUBERC": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode != 0:
        message = f"KUBECONFIG={configured} cannot be used: {shown.stderr.strip()}"
        raise ClusterError(message)
    write_private(target, shown.stdout)


class ExternalCluster(WithPods):
    """Somebody's cluster, used but not run by the tests."""

    owned = False

    def __init__(self) -> None:
        """Copy the current context of KUBECONFIG."""
        self._kubectl = find_kubectl()
        self._directory = tempfile.TemporaryDirectory(prefix="configregistry-external-")
        self._kubeconfig = Path(self._directory.name) / "admin.kubeconfig"
        try:
            copy_current_context(self._kubeconfig)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget the credentials."""
        self.close()

    def close(self) -> None:
        """Forget the credentials; the cluster itself is left as it is."""
        self._directory.cleanup()

    @property
    def kubeconfig(self) -> Path:
        """Return the copy of the user's current context."""
        return self._kubeconfig

    @property
    def kubectl_path(self) -> Path:
        """Return the user's own kubectl, or ours if there is none."""
        return self._kubectl

    @property
    def cluster_entry(self) -> dict[str, object]:
        """Return the kubeconfig's entry for the cluster, as the user has it."""
        entry = json.loads(self._kubeconfig.read_text())["clusters"][0]["cluster"]
        return {str(key): value for key, value in entry.items()}

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig for a user whose certificate the cluster's own authority signs."""
        digest = hashlib.sha256(json.dumps([user, list(groups)]).encode()).hexdigest()[:16]
        path = Path(self._directory.name) / "users" / f"{digest}.kubeconfig"
        if not path.exists():
            pki = Path(self._directory.name) / "pki"
            name = f"user-{digest}"
            make_certificates(pki, requests=[Certificate(name, user, tuple(groups))])
            (pki / f"{name}.crt").write_bytes(self._sign((pki / f"{name}.csr").read_bytes()))
            credentials = certificate_user(pki / f"{name}.crt", pki / f"{name}.key")
            write_kubeconfig(path, cluster=self.cluster_entry, user=credentials)
        return path

    def has(self, component: str) -> bool:
        """Tell whether the cluster runs this component: a complete cluster runs them all."""
        return bool(component)

    def stop_component(self, name: str) -> NoReturn:
        """Refuse."""
        self._refuse(name)

    def kill_component(self, name: str) -> NoReturn:
        """Refuse."""
        self._refuse(name)

    def start_component(self, name: str) -> NoReturn:
        """Refuse."""
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        message = f"{name} of {self.server} is not ours to stop or start"
        raise ClusterError(message)

    def _sign(self, request: bytes) -> bytes:
        wanted = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "configregistry-test-"},
            "spec": {
                "request": base64.b64encode(request).decode(),
                "signerName": _SIGNER,
                "usages": ["client auth"],
            },
        }
        made = self.kubectl("create", "--filename=-", "--output=name", input=json.dumps(wanted))
        name = made.stdout.strip()
        try:
            self.kubectl("certificate", "approve", name)
            signed = wait_for(
                lambda: self.kubectl("get", name, "--output=jsonpath={.status.certificate}").stdout,
                f"the cluster to sign {name}",
            )
        finally:
            self.kubectl("delete", name, "--ignore-not-found")
        return base64.b64decode(signed)
