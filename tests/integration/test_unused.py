"""A registry that nobody reads is told of, and whoever reads is heard: in one process, and with a replica apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK
from tests.integration.running import Client, running, wait

AFTER = "--unused-after=3s"
GAUGE = "configregistry_unused_registries"
BOTH = ("checkout", "defaults")


@pytest.fixture
async def person(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as made:
        yield made


@pytest.mark.parametrize("apart", [False, True], ids=["run", "apart"])
async def test_unused_until_somebody_reads(
    crd: KubeCluster, namespace: str, person: Client, tmp_path: Path, apart: bool
) -> None:
    """Of a registry and of the one that it falls back to."""
    await person.apply("defaults", data={"n": 1})
    await person.apply("checkout", data={"a": 1}, fallback={"name": "defaults"})
    command, options = ("serve", []) if apart else ("run", [AFTER])
    with running(crd, namespace, tmp_path / "serve", *options, command=command) as serve:
        asking = [f"--replica=http://{LOOPBACK}:{serve.port}", AFTER]
        with running(crd, namespace, tmp_path / "controller", *asking, command="controller", start=apart) as started:
            controller = started if apart else serve
            for name in BOTH:
                await person.until(name, lambda status: status.get("unused"))
            wait(lambda: controller.metrics(GAUGE)[""] == len(BOTH), lambda: str(controller.metrics(GAUGE)))
            told = crd.kubectl("get", "creg", "-n", namespace, "-o", "wide").stdout
            assert told.count("true") == len(BOTH), told
            # Who reads the one asks the other too.
            today = datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")
            assert serve.read(f"/v1/namespaces/{namespace}/registries/checkout/keys/a")["value"] == 1
            for name in BOTH:
                status = await person.until(name, lambda status: not status.get("unused"))
                assert status["lastReadAt"] >= today
            wait(lambda: controller.metrics(GAUGE)[""] == 0, lambda: str(controller.metrics(GAUGE)))
            assert not [line for line in controller.lines if "reconcile failed" in str(line.get("event"))]
