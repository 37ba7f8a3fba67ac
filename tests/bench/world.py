"""An API server of our own with any number of registries in it, and one product beside it.

It is grown, never shrunk: benchmarks that need 100, 1,000 and 10,000 registries share it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from tests.bench.product import REPOSITORY, Product, client_cores, pin
from tests.cluster import Cluster

from configregistry.kube import payload
from configregistry.kube.client import Api, connect
from configregistry.kube.paths import NAMESPACES, REGISTRIES, REVISIONS
from configregistry.model.content import build

NAMESPACES_USED = 20
CONCURRENT = 32
KEYS = 10
SIZE = 500
"""Bytes of one registry's content."""

Finish = Callable[[Api, bytes], Awaitable[None]]
"""Brings a registry that was just created to where the operator would bring it."""


def place(number: int) -> tuple[str, str]:
    """Namespace and name of a registry."""
    return f"bench-{number % NAMESPACES_USED}", f"registry-{number}"


def manifest(number: int, edit: int = 0) -> dict[str, Any]:
    """A registry of 500 B of content; another `edit` changes one key."""
    namespace, name = place(number)
    length = SIZE // KEYS - len('"key.0":"",')
    data = {f"key.{key}": f"{number}.{key}.".ljust(length, "x") for key in range(KEYS)}
    data["key.0"] = f"{number}.{edit}.".ljust(length, "y")
    return {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"data": data},
    }


def say(text: str) -> None:
    """Tell whoever waits; results go to standard output."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


class World:
    """The cluster and where the product's files go. All of it ends with the context."""

    def __init__(self, *, apart: bool = False) -> None:
        self._apart = apart
        self._edits = itertools.count(1)
        self._finish: Finish | None = None
        self.registries = 0

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self.cluster = Cluster()
        try:
            say("starting etcd and kube-apiserver")
            self.cluster.start()
            # Nothing here needs its garbage collection, and it would use the cores that are measured.
            if self.cluster.has("kube-controller-manager"):
                self.cluster.stop_component("kube-controller-manager")
            self.cluster.install_crds(REPOSITORY / "crds")
            if self._apart:
                for name in ("etcd", "kube-apiserver"):
                    pin(self._pid(name), client_cores())
            self.run(_create_namespaces)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def product(
        self,
        command: str = "run",
        options: Sequence[str] = (),
        *,
        name: str = "",
        cores: set[int] | None = None,
        **environment: str,
    ) -> Product:
        """A product for this API server, to be entered."""
        return Product(
            self.cluster.kubeconfig,
            self.directory,
            cores=cores,
            command=command,
            options=options,
            name=name,
            **environment,
        )

    def grow(self, registries: int) -> float:
        """Create registries, new ones, until there are so many; gives the seconds that took."""
        return self._create(registries, None)

    def grow_decided(self, registries: int) -> float:
        """The same, but as the operator leaves registries behind: with a version and a status.

        What that looks like is learnt from one that the operator has decided on.
        """
        if registries <= self.registries:
            return 0.0
        if not self.registries:
            self.grow(1)
            with self.product() as product:
                product.ready()
                product.settled()
            self.run(self._learn)
        return self._create(registries, self._finish)

    async def _learn(self, api: Api) -> None:
        self._finish = await learn(api)

    def _create(self, registries: int, finish: Finish | None) -> float:
        started = time.monotonic()
        first, self.registries = self.registries, max(self.registries, registries)
        if first >= registries:
            return 0.0
        say(f"creating {registries - first:,} registries")

        async def create(api: Api) -> None:
            numbers = iter(range(first, registries))

            async def work() -> None:
                for number in numbers:
                    path = REGISTRIES.path(place(number)[0])
                    created = await api.create(path, msgspec.json.encode(manifest(number)))
                    if finish is not None:
                        await finish(api, created)

            await asyncio.gather(*(work() for _ in range(CONCURRENT)))

        self.run(create)
        return time.monotonic() - started

    def edit(self) -> int:
        """Number of an edit that nobody has made yet."""
        return next(self._edits)

    def run(self, work: Callable[[Api], Awaitable[None]]) -> None:
        """Do something with a client of the API server."""

        async def run() -> None:
            async with await connect(str(self.cluster.kubeconfig)) as api:
                await work(api)

        asyncio.run(run())

    def _pid(self, name: str) -> int:
        recorded = json.loads((self.cluster.directory / "run" / f"{name}.json").read_text())
        return int(recorded["pid"])


async def _create_namespaces(api: Api) -> None:
    for number in range(NAMESPACES_USED):
        name = place(number)[0]
        await api.create(NAMESPACES.path(), msgspec.json.encode({"metadata": {"name": name}}))


async def learn(api: Api) -> Finish:
    """Look at what the operator made of registry 0, and give what makes the same of others."""
    namespace, name = place(0)
    pattern = json.loads(await api.get(REGISTRIES.path(namespace, name)))
    version = json.loads(await api.get(REVISIONS.path(namespace, f"{name}-1")))
    uid, old_hash = pattern["metadata"]["uid"], pattern["status"]["stable"]["hash"]
    kept = {field: version["metadata"][field] for field in ("name", "namespace", "labels", "annotations")}
    owner = version["metadata"]["ownerReferences"]
    known = json.dumps([pattern["status"], {**kept, "ownerReferences": owner}])

    async def finish(api: Api, created: bytes) -> None:
        made = json.loads(created)
        meta = made["metadata"]
        built = build(made["spec"]["data"])
        text = known.replace(uid, meta["uid"]).replace(old_hash, built.hash).replace(f'"{name}', f'"{meta["name"]}')
        status, version_meta = json.loads(text.replace(f'"{namespace}"', f'"{meta["namespace"]}"'))
        data = msgspec.Raw(payload.encode(built.json))
        revision = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": version_meta, "revision": 1}
        await api.create(REVISIONS.path(meta["namespace"]), msgspec.json.encode({**revision, "data": data}))
        body = msgspec.json.encode({**made, "status": status})
        await api.replace(REGISTRIES.path(meta["namespace"], meta["name"], "status"), body)

    return finish
