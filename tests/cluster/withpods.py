"""What tests may ask of a cluster on which pods run, whoever runs it.

The same for a node of our own, for kind and for a cluster of somebody else's; only what disturbs others (a restart
of the API server, a signal to a process) is refused by the last one, and `disturbable` tells beforehand.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from .base import KubeCluster
from .errors import ClusterError
from .kubeconfig import kubectl_command, kubectl_environment

_FORWARDS: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
_WITHIN: Final = 60.0


class WithPods(KubeCluster):
    """A cluster with nodes."""

    #: Whether its kubelet and its API server may be restarted and its processes be killed.
    disturbable = False

    def load_image(self, archive: Path) -> None:
        """Give the nodes the images of an archive, under the names that it gives them."""
        self._refuse_to(f"load {archive}")

    def tag_image(self, name: str, further: str) -> None:
        """Give an image of the nodes one more name."""
        self._refuse_to(f"tag {name} as {further}")

    def restart_kubelet(self) -> None:
        """Stop the kubelet and start it again; pods run on."""
        self._refuse_to("restart the kubelet")

    def restart_api_server(self) -> None:
        """Stop the API server and start it again; return when it answers."""
        self._refuse_to("restart the API server")

    def kill_container(
        self, namespace: str, pod: str, container: str | None = None, signum: int = signal.SIGKILL
    ) -> None:
        """Signal a container's first process from outside, as the kernel does it when memory runs out."""
        self._refuse_to(f"send {signal.Signals(signum).name} to {container or 'the container'} of {namespace}/{pod}")

    def exec(
        self, namespace: str, pod: str, *command: str, check: bool = True, timeout: float = _WITHIN
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod (`deployment/NAME` and the like are understood too)."""
        return self.kubectl("exec", f"--namespace={namespace}", pod, "--", *command, check=check, timeout=timeout)

    def pod_logs(self, namespace: str, pod: str, *options: str) -> str:
        """Return what a pod has printed."""
        return self.kubectl("logs", f"--namespace={namespace}", pod, *options).stdout

    @contextlib.contextmanager
    def forwarded(self, namespace: str, target: str, port: int) -> Iterator[int]:
        """Yield a loopback port that leads to one pod (`POD`, `service/NAME`) for as long as that pod lives."""
        told = ["port-forward", f"--namespace={namespace}", target, f":{port}", "--address=127.0.0.1"]
        with subprocess.Popen(
            [*kubectl_command(self.kubectl_path, self.kubeconfig), *told],
            env=kubectl_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            try:
                yield _port(running, f"{namespace}/{target}")
            finally:
                running.kill()

    @contextlib.contextmanager
    def reached(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Yield the URL, without a path, by which this process asks a Service (elsewhere: one of its pods)."""
        with self.forwarded(namespace, f"service/{service}", port) as local:
            yield f"http://127.0.0.1:{local}"

    def container_id(self, namespace: str, pod: str, container: str | None = None) -> str:
        """Return the id of a pod's running container; without a name, of the only one."""
        shown = self.kubectl("get", "pod", pod, f"--namespace={namespace}", "--output=json").stdout
        states = json.loads(shown)["status"].get("containerStatuses", [])
        running = [each for each in states if "running" in each["state"]]
        chosen = [str(each["containerID"]) for each in running if container in {None, each["name"]}]
        if len(chosen) != 1:
            names = ", ".join(each["name"] for each in running) or "none"
            message = f"pod {namespace}/{pod}: which running container is {container or 'meant'}? There are: {names}"
            raise ClusterError(message)
        return chosen[0].partition("://")[2]

    def keep_logs(self, directory: Path) -> None:
        """Copy what the cluster's own components have logged there, if that can be had."""

    def _refuse_to(self, what: str) -> NoReturn:
        message = f"{self.server} is not ours: it is not asked to {what}"
        raise ClusterError(message)


def _port(running: subprocess.Popen[str], target: str) -> int:
    assert running.stdout is not None, "it was asked for"
    said: list[str] = []
    deadline = time.monotonic() + _WITHIN
    with selectors.DefaultSelector() as ready:
        ready.register(running.stdout, selectors.EVENT_READ)
        while ready.select(max(0.0, deadline - time.monotonic())):
            line = running.stdout.readline()
            if found := _FORWARDS.search(line):
                return int(found[1])
            if not line:
                break
            said.append(line)
    message = f"no port is forwarded to {target}: {''.join(said).strip()}"
    raise ClusterError(message)
