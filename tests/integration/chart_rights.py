"""The rights that the chart gives, on a real API server: as they are rendered, and with one of them taken away.

with granted(cluster, namespace) as chart:
    async with chart.without(right):
        ...
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import click
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.helm import Helm
from tests.integration.running import Operator

from configregistry.cli.main import cli
from configregistry.kube.client import Api
from configregistry.kube.paths import Resource
from configregistry.settings import Settings

_RBAC: Final = "rbac.authorization.k8s.io"
_ROLES: Final = {
    "Role": Resource(_RBAC, "v1", "roles"),
    "ClusterRole": Resource(_RBAC, "v1", "clusterroles"),
}
_MADE: Final = ("ServiceAccount", "Secret", "ValidatingWebhookConfiguration")
COMPONENTS: Final = ("controller", "serve")


class Right(NamedTuple):
    """One verb on one resource, of one component. `role`: the suffix of the role that has it, and its rule's place."""

    component: str
    verb: str
    group: str
    resource: str
    names: tuple[str, ...]
    role: tuple[str, str]
    rule: int

    def __str__(self) -> str:
        """As preflight tells it."""
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}"


class Chart:
    """What `helm template` says for one namespace that is looked after, which is the release's own."""

    def __init__(self, cluster: KubeCluster, namespace: str, name: str, values: dict[str, Any]) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        given = {"fullnameOverride": name, **values}
        self.objects = Helm().template(release=name, namespace=namespace, values=given)

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """The objects of these kinds, without those of `helm test`."""
        found = [each for each in self.objects if each["kind"] in kinds]
        return [each for each in found if "helm.sh/hook" not in each["metadata"].get("annotations", {})]

    def roles(self, component: str) -> list[dict[str, Any]]:
        """The roles that a component's ServiceAccount is bound to."""
        account = f"{self.name}-{component}"
        refs = [
            (each["roleRef"]["kind"], each["roleRef"]["name"])
            for each in self.of("RoleBinding", "ClusterRoleBinding")
            if [subject["name"] for subject in each["subjects"]] == [account]
        ]
        return [each for each in self.of("Role", "ClusterRole") if (each["kind"], each["metadata"]["name"]) in refs]

    def rights(self) -> list[Right]:
        """All of them, verb by verb."""
        return [
            Right(component, verb, group, resource, tuple(rule.get("resourceNames", ())), _place(role), number)
            for component in COMPONENTS
            for role in self.roles(component)
            for number, rule in enumerate(role["rules"])
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        ]

    def arguments(self, component: str) -> list[str]:
        """Of the component's container."""
        name = f"{self.name}-{component}"
        (found,) = (each for each in self.of("Deployment") if each["metadata"]["name"] == name)
        arguments: list[str] = found["spec"]["template"]["spec"]["containers"][0]["args"]
        return arguments

    def settings(self, component: str, file: Path) -> Settings:
        """What the program makes of these arguments; `file` stands for those that a pod would have."""
        command, *options = self.arguments(component)
        here = [f"{each.partition('=')[0]}={file}" if "=/" in each else each for each in options]
        context: click.Context = cli.commands[command].make_context(command, here)
        known = {name: value for name, value in context.params.items() if name != "allow_unauthenticated"}
        return Settings(**known, decides=command == "controller", serves=command == "serve")

    def kubeconfig(self, component: str) -> Path:
        """Credentials of the component's ServiceAccount."""
        return self.cluster.service_account_kubeconfig(self.namespace, f"{self.name}-{component}")

    def install(self) -> None:
        """Make accounts, rights, and what the rights are about; nothing that runs."""
        configurations = self.of("ValidatingWebhookConfiguration")
        for each in configurations:
            # There are no pods: whoever is asked would not answer.
            each["webhooks"][0]["namespaceSelector"] = {"matchLabels": {"nobody": "has-it"}}
        made = self.of(*_MADE, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        self.cluster.kubectl("apply", "--server-side", f"--namespace={self.namespace}", "-f", "-", input=body)

    def uninstall(self) -> None:
        """Remove what belongs to no namespace."""
        label = f"--selector=app.kubernetes.io/instance={self.name}"
        self.cluster.kubectl("delete", "clusterrole,clusterrolebinding,validatingwebhookconfiguration", label)

    @asynccontextmanager
    async def without(self, admin: Api, right: Right) -> AsyncIterator[None]:
        """Take a right away, and give it back."""
        (role,) = (each for each in self.roles(right.component) if _place(each) == right.role)
        resource, metadata = _ROLES[role["kind"]], role["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        lesser = copy.deepcopy(role)
        rule = lesser["rules"].pop(right.rule)
        # The rest of the rule stays: the other verbs, and this one for the other resources.
        others = [each for each in rule["resources"] if each != right.resource]
        parts = [
            {**rule, "resources": [right.resource], "verbs": [verb for verb in rule["verbs"] if verb != right.verb]},
            {**rule, "resources": others},
        ]
        lesser["rules"] += [part for part in parts if part["resources"] and part["verbs"]]
        await admin.replace(path, json.dumps(lesser).encode())
        try:
            yield
        finally:
            await admin.replace(path, json.dumps(role).encode())


class Installed:
    """Both components as processes, with the chart's arguments and their accounts' credentials."""

    def __init__(self, chart: Chart, directory: Path) -> None:
        (self._port,) = pick_ports(1)
        token = directory / "token"
        account = ("create", "token", f"{chart.name}-controller", f"--namespace={chart.namespace}")
        token.write_text(chart.cluster.kubectl(*account, "--audience=configregistry").stdout)
        self.serve = self._made(chart, "serve", directory)
        self.serve.port, self.serve.probe_port = pick_ports(2)
        # There is no Service here: the replica is named. The rest is as the chart says it.
        self.controller = self._made(
            chart,
            "controller",
            directory,
            f"--replica=http://{LOOPBACK}:{self.serve.port}",
            f"--replica-token-file={token}",
            f"--webhook-host={LOOPBACK}",
            f"--webhook-port={self._port}",
        )

    def _made(self, chart: Chart, component: str, directory: Path, *instead: str) -> Operator:
        elsewhere = (
            "--host=",
            "--port=",
            "--probe-port=",
            "--log-format=",
            "--replica",
            "--webhook-host=",
            "--webhook-port=",
        )
        kept = [each for each in chart.arguments(component)[1:] if not each.startswith(elsewhere)]
        home = directory / component
        home.mkdir()
        return Operator((f"--kubeconfig={chart.kubeconfig(component)}", *kept, *instead), home, command=component)

    def __enter__(self) -> Self:
        self.serve.start()
        self.controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.controller.kill()
        self.serve.kill()


@contextmanager
def granted(cluster: KubeCluster, namespace: str, **values: Any) -> Iterator[Chart]:
    """The chart's accounts and rights, installed; without values it looks after this namespace alone."""
    chart = Chart(cluster, namespace, f"configregistry-{secrets.token_hex(3)}", values or {"namespaces": [namespace]})
    chart.install()
    try:
        yield chart
    finally:
        chart.uninstall()


def _place(role: dict[str, Any]) -> tuple[str, str]:
    """The same for every release."""
    return role["kind"], str(role["metadata"]["name"]).removeprefix(
        role["metadata"]["labels"]["app.kubernetes.io/instance"]
    )
