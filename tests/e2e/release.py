"""A release of the charts on a node: as `helm install` leaves it, and what a person looks at of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final

from tests.cluster import ClusterError, WithPods, wait_for
from tests.helm import CHART, CRDS_CHART, Helm

NAME: Final = "configregistry"
NAMESPACE: Final = "configregistry-system"
WITHIN: Final = 120.0
_HELM: Final = "--timeout=3m"

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True)
class Answer:
    """What the HTTP API said; names of headers in lower case."""

    code: int
    body: Any
    headers: dict[str, str]


@dataclass(frozen=True)
class Release:
    """One release; `url` is that of its Service, as this process reaches it."""

    node: WithPods
    helm: Helm
    url: str
    image: str

    @property
    def inside(self) -> str:
        """The Service's URL, as pods reach it."""
        return f"http://{NAME}.{NAMESPACE}.svc:8080"

    def address(self) -> str:
        """The Service's URL by its address, as pods reach it."""
        shown = self.node.kubectl("get", "service", NAME, f"--namespace={NAMESPACE}", "--output=json").stdout
        return f"http://{json.loads(shown)['spec']['clusterIP']}:8080"

    def get(self, path: str, token: str | None = None, method: str = "GET", body: Any = None) -> Answer:
        """Ask; the first answer that there is, for right after a change of endpoints nobody may listen."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, headers, method=method)

        def once() -> Answer | None:
            try:
                with _open(asked, timeout=10) as answer:
                    return Answer(answer.status, json.load(answer), _lower(answer.headers))
            except urllib.error.HTTPError as error:
                return Answer(error.code, json.load(error), _lower(error.headers))
            except OSError:
                return None

        return wait_for(once, f"an answer to {path}")

    def pods(self, component: str) -> dict[str, Any]:
        """The pods of a component by name, without those that are going."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        shown = self.node.kubectl("get", "pods", f"--namespace={NAMESPACE}", selector, "--output=json").stdout
        found = json.loads(shown)["items"]
        return {each["metadata"]["name"]: each for each in found if not each["metadata"].get("deletionTimestamp")}

    def restarts(self) -> dict[str, int]:
        """How often each container was started again."""
        all_ = {**self.pods("controller"), **self.pods("serve")}
        return {name: each["status"]["containerStatuses"][0]["restartCount"] for name, each in all_.items()}

    def leader(self) -> str:
        """The pod that leads; empty for a moment when nobody does."""
        shown = self.node.kubectl("get", "lease", NAME, f"--namespace={NAMESPACE}", "--output=json").stdout
        return str(json.loads(shown)["spec"].get("holderIdentity") or "").rpartition("_")[0]

    def upgrade(self, image: str) -> None:
        """`helm upgrade` to another image, and wait until it is done."""
        arguments = ("upgrade", NAME, CHART, f"--namespace={NAMESPACE}", "--wait", _HELM)
        self.helm.run(*arguments, values=_values(image))
        self.ready()

    def rollback(self) -> None:
        """`helm rollback` to what was before, and wait until it is done."""
        self.helm.run("rollback", NAME, f"--namespace={NAMESPACE}", "--wait", _HELM)
        self.ready()

    def ready(self) -> None:
        """Wait until all pods are."""
        for component in ("controller", "serve"):
            told = ("rollout", "status", f"--namespace={NAMESPACE}", f"deployment/{NAME}-{component}")
            self.node.kubectl(*told, f"--timeout={WITHIN:g}s", timeout=WITHIN + 10)

    def series(self, component: str, name: str) -> dict[str, float]:
        """The value of a metric without labels in each pod of a component that answers."""
        found: dict[str, float] = {}
        for pod in self.pods(component):
            try:
                with (
                    self.node.forwarded(NAMESPACE, pod, 8081) as port,
                    _open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
                ):
                    lines = answer.read().decode().splitlines()
            except (OSError, ClusterError):
                continue  # it was killed, and starts again
            found[pod] = sum(float(each.split()[1]) for each in lines if each.startswith(f"{name} "))
        return found

    def logs(self, component: str) -> list[dict[str, Any]]:
        """All lines of all pods of a component."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        shown = self.node.kubectl("logs", f"--namespace={NAMESPACE}", selector, "--tail=-1").stdout
        return [json.loads(line) for line in shown.splitlines() if line.startswith("{")]


@contextmanager
def installed(node: WithPods, image: str) -> Iterator[Release]:
    """Install both charts as docs/install/helm.md tells it, and take the release away at the end."""
    helm = Helm.of(node)
    helm.run("install", f"{NAME}-crds", CRDS_CHART, f"--namespace={NAMESPACE}", "--create-namespace")
    node.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    try:
        helm.run("install", NAME, CHART, f"--namespace={NAMESPACE}", "--wait", _HELM, values=_values(image))
        with node.reached(NAMESPACE, NAME, 8080) as url:
            yield Release(node, helm, url, image)
    finally:
        for each in (NAME, f"{NAME}-crds"):
            helm.run("uninstall", each, f"--namespace={NAMESPACE}", "--wait", check=False)
        # The chart leaves them, since with them goes all data. Here that is wanted.
        crds = ("configregistries.configregistry.dev", "rolloutpolicies.configregistry.dev")
        node.kubectl("delete", "crd", *crds, "--ignore-not-found", "--timeout=60s", check=False, timeout=90)
        node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _values(image: str) -> dict[str, Any]:
    """Everything as it is by default but where the image is."""
    repository, _, tag = image.rpartition(":")
    return {"image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}}
