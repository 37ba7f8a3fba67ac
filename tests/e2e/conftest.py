"""The cluster of the end-to-end tests: a node of our own, kind's, or somebody's. `make e2e` starts it.

    def test_something(node: WithPods, namespace: str, images: Images) -> None: ...

Tests that take `node` are marked so; elsewhere than under `make e2e` they are skipped. What is left of a test that
failed is kept in artifacts/e2e before anything of it is removed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster import ExternalCluster, WithPods
from tests.cluster.artifacts import keep
from tests.cluster.build import CLIENT
from tests.cluster.e2e import ARTIFACTS, IMAGE
from tests.cluster.external import external_is_chosen
from tests.cluster.kind import KindCluster
from tests.cluster.node import NodeCluster
from tests.cluster.node.images import CLIENT_IMAGE, import_one

_KEPT_FAILURES = 5
_KEPT = pytest.StashKey[list[Path]]()
_PRODUCT = "configregistry.dev/configregistry:dev"


@dataclass(frozen=True)
class Images:
    """What pods are made of; they are on the nodes already, so nothing is pulled."""

    product: str
    client: str
    """tests/cluster/pods/client: `/client serve`, `load URL`, `streams URL` and more; see its usage."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "node: needs a cluster on which pods run; `make e2e` starts one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "node" in getattr(item, "fixturenames", ()):
            item.add_marker("node")


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[WithPods]:
    """Yield the cluster; one for the whole run."""
    running: WithPods | None = NodeCluster.here() or KindCluster.here()
    if running is None and external_is_chosen() and os.environ.get(IMAGE):
        running = ExternalCluster()
    if running is None:
        pytest.skip("needs a cluster on which pods run: make e2e")
    yield running
    if request.session.testsfailed:
        running.keep_logs(ARTIFACTS / "cluster")
    if isinstance(running, ExternalCluster):
        running.close()


@pytest.fixture(scope="session")
def cluster(node: WithPods) -> WithPods:
    """Return the same: what the fixtures of other suites (`namespace`) are about here."""
    return node


@pytest.fixture(scope="session")
def disturbable(node: WithPods) -> WithPods:
    """Return it to a test that restarts parts of it or kills processes; skip the test if it is not ours."""
    if not node.disturbable:
        pytest.skip("needs a cluster of which parts may be restarted")
    return node


@pytest.fixture(scope="session")
def images(node: WithPods) -> Images:
    """Return the names of the images."""
    client = os.environ.get("CONFIGREGISTRY_CLIENT_IMAGE") or CLIENT_IMAGE
    if isinstance(node, KindCluster):
        import_one(client, CLIENT, node.load_image)
    return Images(os.environ.get(IMAGE) or _PRODUCT, client)


@pytest.fixture(scope="session")
def upgraded_image(node: WithPods, images: Images) -> str:
    """Return the product's image under another tag: a release is upgraded by naming it."""
    if not node.disturbable:
        return os.environ.get("CONFIGREGISTRY_UPGRADED_IMAGE") or pytest.skip("needs CONFIGREGISTRY_UPGRADED_IMAGE")
    upgraded = f"{images.product.rpartition(':')[0]}:upgraded"
    node.tag_image(images.product, upgraded)
    return upgraded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = getattr(item, "funcargs", {}).get("node")
    if report.failed and report.when != "teardown" and isinstance(running, WithPods):
        kept = item.session.stash.setdefault(_KEPT, [])
        # Twenty failures have mostly one cause, and each costs some seconds.
        if len(kept) < _KEPT_FAILURES:
            directory = _directory(item)
            shutil.rmtree(directory, ignore_errors=True)  # of an earlier run
            keep(running, directory)
            kept.append(directory)
            report.sections.append(("kept", str(directory)))
    return report


def _directory(item: pytest.Item) -> Path:
    return ARTIFACTS / re.sub(r"[^\w.-]+", "-", item.nodeid.rpartition("/")[2]).strip("-")
