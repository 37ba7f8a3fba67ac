"""The pytest fixtures; the root conftest.py imports what it wants from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .cluster import Cluster
from .external import ExternalCluster, external_is_chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .base import KubeCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[KubeCluster]:
    """Yield a running cluster: one for this run, or for each worker of pytest-xdist."""
    with ExternalCluster() if external_is_chosen() else Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def own_cluster(cluster: KubeCluster) -> Cluster:
    """Return that cluster to a test that stops parts of it; skip the test if they are not ours."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs a cluster of which parts may be stopped")
    return cluster


@pytest.fixture
def namespace(cluster: KubeCluster) -> Iterator[str]:
    """Yield the name of a fresh namespace; it goes away some time after the test."""
    name = cluster.create_namespace()
    yield name
    cluster.delete_namespace(name)
