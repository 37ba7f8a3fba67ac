"""Fixtures for the suites that need a running operator: one for a module, looking after a namespace of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.cluster import KubeCluster
from tests.integration.running import Client, Operator, install_crd, running

__all__ = ["client", "crd", "operator", "place"]


@pytest.fixture(scope="module")
def crd(cluster: KubeCluster) -> KubeCluster:
    """The cluster, knowing ConfigRegistry."""
    install_crd(cluster)
    return cluster


@pytest.fixture(scope="module")
def place(crd: KubeCluster) -> Iterator[str]:
    """A namespace for all tests of a module: their registries have names of their own."""
    name = crd.create_namespace()
    yield name
    crd.delete_namespace(name)


@pytest.fixture(scope="module")
def operator(crd: KubeCluster, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator that nobody kills."""
    with running(crd, place, tmp_path_factory.mktemp("operator")) as found:
        yield found
        defects = [line for line in found.lines if "reconcile failed" in str(line.get("event"))]
        assert not defects, defects


@pytest.fixture
async def client(crd: KubeCluster, place: str) -> AsyncIterator[Client]:
    """A person at work in that namespace."""
    async with Client.of(crd, place) as found:
        yield found
