"""A Kubernetes with one node, run and asked by a process that is inside of the node's namespaces.

Everything a Cluster can do, and pods: their images come from archives, their processes can be killed, the kubelet
can be stopped. Pods, Services and NodePorts are reached directly: this process has the node's network.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.cluster.binaries import find_binaries
from tests.cluster.build import NODE as NODE_PROGRAMS
from tests.cluster.build import ensure_built
from tests.cluster.cluster import Cluster
from tests.cluster.components import API_SERVER, Layout
from tests.cluster.errors import ClusterError
from tests.cluster.waiting import wait_for
from tests.cluster.withpods import WithPods

from . import dns
from .components import (
    CERTIFICATES_WITH_NODE,
    COMPONENTS_WITH_NODE,
    CONTAINERD,
    KUBELET,
    USERS,
    kubeconfig,
)
from .configs import write_configs
from .images import import_all
from .places import CONTAINERD_SOCKET, DNS, ENVIRONMENT, NODE, inside_a_node
from .programs import find_programs

_TASKS: Final = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
_IMPORT_WITHIN: Final = 300.0
_READY_WITHIN: Final = 120.0


class NodeCluster(Cluster, WithPods):
    """One cluster with one node."""

    disturbable = True
    components = COMPONENTS_WITH_NODE
    certificates = CERTIFICATES_WITH_NODE

    def __init__(self, directory: Path | None = None, *, detached: bool = False) -> None:
        if directory is None or inside_a_node() != directory.absolute():
            message = "a node runs in namespaces of its own: `python -m tests.cluster node run -- COMMAND`"
            raise ClusterError(message)
        super().__init__(directory, detached=detached)

    @classmethod
    def here(cls) -> NodeCluster | None:
        """Return the running one that this process is inside of; None outside."""
        directory = inside_a_node()
        return cls.open(directory) if directory else None

    def start(self) -> None:
        """Start everything; return when the node is ready and names are resolved."""
        super().start()
        began = time.monotonic()
        import_all(self.load_image)
        self.kubectl("apply", "--server-side", "--filename=-", input=dns.manifests())
        self.wait_ready()
        _say(f"node ready, names resolved after another {time.monotonic() - began:.1f} s")

    def wait_ready(self) -> None:
        """Await that the node takes pods and that names are resolved, as after a restart."""
        awaited = f"--timeout={_READY_WITHIN:g}s"
        wait_for(
            lambda: not self.kubectl("get", "node", NODE, check=False).returncode,
            f"the kubelet to register {NODE}",
            timeout=_READY_WITHIN,
        )
        self.kubectl("wait", "--for=condition=Ready", f"node/{NODE}", awaited, timeout=_READY_WITHIN + 10)
        self.kubectl(
            *("rollout", "status", f"--namespace={dns.NAMESPACE}", f"deployment/{dns.DEPLOYMENT}", awaited),
            timeout=_READY_WITHIN + 10,
        )
        # A pod that asks before kube-proxy knows the way waits five seconds for an answer that was never sent.
        wait_for(_names_are_reached, "kube-proxy to lead to CoreDNS", timeout=_READY_WITHIN)

    def load_image(self, archive: Path) -> None:
        self.ctr("images", "import", str(archive))

    def tag_image(self, name: str, further: str) -> None:
        self.ctr("images", "tag", "--force", name, further)

    def restart_kubelet(self) -> None:
        self.restart_component(KUBELET)

    def restart_api_server(self) -> None:
        self.restart_component(API_SERVER)

    @contextlib.contextmanager
    def reached(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Yield the URL of the Service itself: kube-proxy's rules hold for this process too."""
        asked = ("get", "service", service, f"--namespace={namespace}", "--output=jsonpath={.spec.clusterIP}")
        yield f"http://{self.kubectl(*asked).stdout}:{port}"

    def keep_logs(self, directory: Path) -> None:
        shutil.copytree(self.logs(KUBELET).parent, directory / "components", dirs_exist_ok=True)
        # Of pods that are gone as well, and of containers before their restart.
        shutil.copytree("/var/log/pods", directory / "pods", dirs_exist_ok=True)

    def ctr(self, *args: str) -> str:
        """Run containerd's own client; return what it prints."""
        command = [str(self._binaries["ctr"]), f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *args]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_IMPORT_WITHIN
        )
        if ended.returncode:
            message = f"ctr {' '.join(args)} ended with {ended.returncode}: {ended.stderr.strip()}"
            raise ClusterError(message)
        return ended.stdout

    def kill_container(
        self, namespace: str, pod: str, container: str | None = None, signum: int = signal.SIGKILL
    ) -> None:
        task = _TASKS / self.container_id(namespace, pod, container) / "init.pid"
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(task.read_text()), signum)

    def _find_binaries(self) -> dict[str, Path]:
        node = ensure_built(NODE_PROGRAMS)
        programs = find_programs()
        return {
            **find_binaries(),
            **{name: node / name for name in NODE_PROGRAMS.applets},
            CONTAINERD: programs.paths[CONTAINERD],
            "ctr": programs.paths["ctr"],
        }

    def _prepare(self, layout: Layout) -> None:
        for user in USERS:
            self._write_kubeconfig(kubeconfig(layout, user.name), user.name)
        programs = find_programs()
        environment = programs.link(layout.directory / "bin")
        (layout.directory / "bin" / "kubectl").symlink_to(self.kubectl_path)
        (layout.directory / ENVIRONMENT).write_text(json.dumps(environment))
        sandbox = json.loads((layout.directory.parent / "sandbox.json").read_text())
        write_configs(layout, programs, str(sandbox["cgroup"]))

    def _environment(self) -> Mapping[str, str]:
        return {str(name): str(value) for name, value in json.loads((self.directory / ENVIRONMENT).read_text()).items()}


def _names_are_reached() -> bool:
    try:
        socket.create_connection((DNS, 53), timeout=1.0).close()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
