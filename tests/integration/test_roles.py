"""`controller` and `serve` apart: one decides, any number of replicas serve what was decided."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.integration.running import Client, Operator, install_crd, running, wait

PATH = "/v1/namespaces/{}/registries/checkout"


@pytest.fixture(scope="module")
def crd(cluster: KubeCluster) -> KubeCluster:
    install_crd(cluster)
    return cluster


@pytest.fixture
async def client(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as made:
        yield made


ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "replica"},
    "rules": [
        {"apiGroups": ["configregistry.dev"], "resources": ["configregistries"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": ["get", "list", "watch"]},
    ],
}
"""All that a replica of one namespace needs without authentication."""


def following(replica: Operator, path: str, met: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until a replica gives what is expected."""
    wait(lambda: met(replica.read(path)), lambda: replica.log[-3000:])


@contextmanager
def apart(cluster: KubeCluster, namespace: str, directory: Path, replicas: int) -> Iterator[tuple[Operator, ...]]:
    """A controller, and replicas."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(running(cluster, namespace, directory / f"{command}-{number}", command=command))
            for number, command in enumerate(["controller", *["serve"] * replicas])
        )


async def test_every_replica_serves_what_the_controller_decided(
    crd: KubeCluster, namespace: str, client: Client, tmp_path: Path
) -> None:
    path = PATH.format(namespace)
    await client.apply("checkout", data={"a": 1})
    with apart(crd, namespace, tmp_path, 2) as (controller, first, second):
        await client.ready("checkout")
        await client.apply("checkout", data={"a": 2})
        status = await client.ready("checkout")
        for replica in (first, second):
            following(replica, path, lambda read: read["revision"] == status["revision"])
            assert replica.read(path)["data"] == {"a": 2}
        assert first.read(path) == second.read(path)

        controller.kill()
        await client.apply("checkout", data={"a": 3})
        second.restart()
        assert first.read(path)["data"] == second.read(path)["data"] == {"a": 2}
        controller.start()
        await client.ready("checkout")
        for replica in (first, second):
            following(replica, path, lambda read: read["data"] == {"a": 3})
    assert not any("version recorded" in replica.log for replica in (first, second))


async def test_a_replica_needs_to_read_and_nothing_else(
    crd: KubeCluster, namespace: str, client: Client, tmp_path: Path
) -> None:
    await client.apply("checkout", data={"a": 1})
    with running(crd, namespace, tmp_path / "once", command="controller"):
        await client.ready("checkout")
    user = f"replica-{namespace}"
    crd.kubectl(
        "apply", "--server-side", f"--namespace={namespace}", "-f", "-", input=json.dumps(ROLE)
    )  # fmt: skip
    crd.kubectl("create", "rolebinding", "replica", "--role=replica", f"--user={user}", f"--namespace={namespace}")
    kubeconfig = crd.user_kubeconfig(user)
    with running(crd, namespace, tmp_path / "replica", kubeconfig=kubeconfig, command="serve") as replica:
        assert replica.read(PATH.format(namespace))["data"] == {"a": 1}
