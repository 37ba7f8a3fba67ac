"""etcd is stopped and restored from a backup: what an operator of a cluster fears most.

resourceVersions go back, versions and registries that came later are gone, one that was deleted is there again. A
reader must never be refused, given half an answer, or be led back in `revision`; what there is now must be followed
by the processes that lived through it, and said loudly, once. A cluster of its own, of course.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import Cluster, KubeCluster
from tests.faults.reader import content, reading
from tests.integration.running import Client, Operator, install_crd, running, stable

pytestmark = pytest.mark.xdist_group("etcd-restored")

RESTORED = "the API server went back in time"
SERVERS = ("kube-controller-manager", "kube-apiserver", "etcd")
STEPS: dict[str, Any] = {"steps": [{"setWeight": 50}, {"pause": {"duration": "200ms"}}]}


@pytest.fixture
def restorable(cluster: KubeCluster) -> Iterator[Cluster]:
    """A cluster whose etcd nobody else uses."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs a cluster of which parts may be stopped")
    with Cluster() as own:
        install_crd(own)
        yield own


def down(cluster: Cluster) -> None:
    for name in filter(cluster.has, SERVERS):
        cluster.kill_component(name)


def up(cluster: Cluster) -> None:
    for name in filter(cluster.has, reversed(SERVERS)):
        cluster.start_component(name)


def back_up(cluster: Cluster, backup: Path) -> None:
    """As an administrator does it who has nothing but files: stop, copy, start."""
    down(cluster)
    shutil.copytree(cluster.directory / "etcd", backup)
    up(cluster)


def restore(cluster: Cluster, backup: Path) -> None:
    """Put the files back, and start with them. The servers are down."""
    data = cluster.directory / "etcd"
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    up(cluster)


def told(operator: Operator) -> list[str]:
    """The reflectors that said that the API server went back."""
    return [line["resource"] for line in operator.lines if str(line.get("event")).startswith(RESTORED)]


async def test_what_a_backup_brings_back_is_followed_and_nobody_is_led_back(
    restorable: Cluster, tmp_path: Path
) -> None:
    cluster = restorable
    namespace = cluster.create_namespace()
    backup = tmp_path / "backup"
    async with Client.of(cluster, namespace) as client:
        with (
            running(
                cluster,
                namespace,
                tmp_path / "controller",
                f"--lease={namespace}/leader",
                command="controller",
                election=True,
            ) as controller,
            running(cluster, namespace, tmp_path / "serve", command="serve") as replica,
        ):
            for name in ("kept", "deleted-later"):
                await client.apply(name, data=content(1), rollout=STEPS)
                await client.ready(name)
            await asyncio.to_thread(back_up, cluster, backup)
            await client.wait(lambda: answers(client), lambda: "the API server to be back")
            await client.apply("kept", data=content(2), rollout=STEPS)
            later = await client.until("kept", lambda s: stable(s, 2))
            await client.apply("made-later", data=content(1))
            await client.ready("made-later")
            await client.delete("deleted-later")
            path = f"/v1/namespaces/{namespace}/registries"
            await client.wait(
                lambda: codes(replica, path, **{"deleted-later": 404, "made-later": 200}), lambda: "both to be served"
            )
            assert told(controller) == told(replica) == []

            async with reading(replica.port, namespace, "kept") as reader:

                async def reads(version: int, revision: int) -> bool:
                    return reader.last.get("version") == version and reader.last["revision"] >= revision

                await client.wait(lambda: reads(2, later["revision"]), lambda: f"version 2: {reader.last}")
                await asyncio.to_thread(down, cluster)
                await asyncio.to_thread(restore, cluster, backup)

                # What was decided by then holds again, under a revision that nobody has met yet.
                await client.wait(lambda: answers(client), lambda: "the API server to be back")
                now = await client.until("kept", lambda s: stable(s, 1) and s["revision"] > later["revision"])
                await client.wait(lambda: reads(1, now["revision"]), lambda: f"version 1: {reader.last}")
                await client.wait(
                    lambda: codes(replica, path, **{"deleted-later": 200, "made-later": 404}), lambda: "what there is"
                )
                # Numbers and revisions go on from what was known.
                await client.apply("kept", data=content(3), rollout=STEPS)
                newest = await client.until("kept", lambda s: stable(s, 3))
                assert newest["revision"] > now["revision"]
                await client.wait(lambda: reads(3, newest["revision"]), lambda: f"version 3: {reader.last}")
                await client.apply("fresh", data=content(1), rollout=STEPS)
                await client.ready("fresh")
                assert reader.wrong == []
                assert reader.versions == {1, 2, 3}
                # Of a registry that is gone nothing is made again: the garbage collector would take it, for ever.
                assert sum("made again" in line["event"] for line in controller.lines) < 5
            for process in (controller, replica):
                assert any("configregistries" in resource for resource in told(process))
                assert len(told(process)) == len(set(told(process))), "said more than once"
                assert process.starts == 1
                assert process.alive


async def answers(client: Client) -> bool:
    """Whether the API server answers."""
    await client.get("kept")
    return True


async def codes(replica: Operator, path: str, **wanted: int) -> bool:
    """Whether registries are answered so."""
    found = {name: await asyncio.to_thread(replica._code, f"{path}/{name}") for name in wanted}
    return found == wanted
