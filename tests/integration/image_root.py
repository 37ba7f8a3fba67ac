"""The image, built, and run as a node would run it, but by the kernel's own means: no container runtime is needed.

The program gets a root file system that nobody can write to, uid 65532, no capability and no way to new ones, and an
environment with nothing of this machine. It keeps the machine's network, since the test cluster is on loopback.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from image.oci import ENTRYPOINT, ENVIRONMENT
from tests.cluster import KubeCluster
from tests.cluster.ports import pick_ports
from tests.cluster.process import spawn
from tests.cluster.standing import REPOSITORY
from tests.integration.running import Operator

__all__ = ["Built", "Contained", "contained", "image", "in_image"]

_ACCOUNT: Final = "var/run/secrets/kubernetes.io/serviceaccount"
_JAIL: Final = """
set -e
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs /usr/sbin/chroot --userspec=65532:65532 "$root" "$@"
"""


@dataclass(frozen=True)
class Built:
    """The archive, and what is in it as a folder."""

    archive: Path
    root: Path
    digest: str


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build it, or take it from the cache."""
    directory = tmp_path_factory.mktemp("image")
    built = Built(directory / "image.tar", directory / "root", "")
    command = [sys.executable, "-m", "image", f"--output={built.archive}", f"--rootfs={built.root}"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return Built(built.archive, built.root, ended.stdout.strip())


def in_image(root: Path, command: Sequence[str]) -> list[str]:
    """The command that runs this in the image."""
    if os.geteuid() != 0:
        pytest.skip("only root may change the root of a process")
    for name in ("proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    # Each becomes the next one: the process that is started is the program at last.
    return ["/usr/bin/unshare", "--mount", "--propagation=private", "sh", "-c", _JAIL, "jail", str(root), *command]


class Contained(Operator):
    """The operator as the image's entry point."""

    root: Path = Path()

    def start(self, *, ready: bool = True) -> Contained:
        """Start it; returns when /readyz says so."""
        if not self.port:
            self.port, self.probe_port = pick_ports(2)
        ports = [f"--probe-port={self.probe_port}", "--log-format=json"]
        if self.command != "controller":
            ports.append(f"--port={self.port}")
        self.starts += 1
        self._process = spawn(
            in_image(self.root, [*ENTRYPOINT, self.command, *ports, *self.arguments]),
            log=self.directory / "operator.log",
            pid_file=self.directory / "operator.pid",
            directory=REPOSITORY,
            environment={**ENVIRONMENT, **self.environment, "PATH": "/usr/bin:/usr/sbin:/bin:/sbin"},
            detached=False,
        )
        if ready:
            self.await_ready()
        return self

    @property
    def kernel_says(self) -> dict[str, str]:
        """What the kernel says of the process: ids, capabilities."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextmanager
def contained(
    built: Built, cluster: KubeCluster, namespace: str, directory: Path, command: str, *arguments: str
) -> Iterator[Contained]:
    """The image as a pod of that namespace would run it: by its service account, which may do everything here."""
    root = directory / "root"
    shutil.copytree(built.root, root, symlinks=True)
    environment = _account(cluster, namespace, root / _ACCOUNT)
    directory.joinpath("log").mkdir()
    operator = Contained((f"--namespace={namespace}", *arguments), directory / "log", environment, command=command)
    operator.root = root
    try:
        yield operator
    finally:
        operator.kill()


def _account(cluster: KubeCluster, namespace: str, place: Path) -> dict[str, str]:
    """Put the token and the authority where a kubelet does; gives the variables that it sets."""
    binding = f"{namespace}-image"
    account = f"{namespace}:default"
    cluster.kubectl(
        "create", "clusterrolebinding", binding, "--clusterrole=cluster-admin", f"--serviceaccount={account}"
    )
    token = cluster.kubectl("create", "token", "default", f"--namespace={namespace}").stdout
    entry: dict[str, Any] = json.loads(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    place.mkdir(parents=True)
    (place / "token").write_text(token.strip())
    (place / "ca.crt").write_bytes(base64.b64decode(entry["certificate-authority-data"]))
    (place / "namespace").write_text(namespace)
    server = urlsplit(entry["server"])
    return {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
