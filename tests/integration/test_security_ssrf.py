"""A process that runs inside a cluster is not talked into asking its own node, by anything that a spec may name.

The real operator, told that it is in a cluster by what Kubernetes tells pods; the service that it must not ask is a
real one on loopback, and counts connections. All ways of writing an address: tests/unit/test_security_outbound.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.integration.operators import crd
from tests.integration.running import Client, condition, running
from tests.unit.test_health_outbound import Server, told

__all__ = ["crd"]


@pytest.fixture
async def person(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as made:
        yield made


async def test_nothing_that_a_spec_names_reaches_the_node(
    crd: KubeCluster, namespace: str, tmp_path: Path, person: Client
) -> None:
    def rollout(**kind: Any) -> dict[str, Any]:
        check = {"name": "c", "interval": "1s", "consecutiveErrorLimit": 0, **kind}
        steps = [{"setWeight": 50}, {"pause": {"duration": "30s"}}]
        return {"rollout": {"steps": steps, "checks": [check], "progressDeadline": "60s"}}

    async with Server(told(200, b'{"allowed":true}')) as server:
        here = f"127.0.0.1:{server.port}"
        specs: dict[str, tuple[dict[str, Any], str]] = {
            "address": (rollout(http={"url": f"http://{here}/"}), "(loopback)"),
            "name": (rollout(http={"url": f"http://localhost:{server.port}/"}), "(loopback)"),
            "mapped": (rollout(http={"url": f"http://[::ffff:127.0.0.1]:{server.port}/"}), "(loopback)"),
            "metadata": (rollout(http={"url": "http://169.254.169.254/latest/meta-data/"}), "(link-local)"),
            "prometheus": (rollout(prometheus={"address": f"http://{here}", "query": "up"}, min=1), "(loopback)"),
            "hook": (
                {
                    "hooks": [{"name": "h", "when": "PreRollout", "url": f"http://{here}/"}],
                    "rollout": {**rollout(http={"url": "http://127.0.0.1/"})["rollout"], "progressDeadline": "1s"},
                },
                "(loopback)",
            ),
        }
        with running(crd, namespace, tmp_path, start=False) as operator:
            operator.environment["KUBERNETES_SERVICE_HOST"] = "127.0.0.1"
            await asyncio.to_thread(operator.start)
            for name in specs:
                await person.apply(name, data={"a": 1})
            for name in specs:
                await person.ready(name)
            for name, (spec, _why) in specs.items():
                await person.apply(name, data={"a": 2}, **spec)
            validator = {"name": "v", "url": f"http://user:pw@{here}/"}
            await person.apply("validator", data={"a": 1}, validators=[validator])
            for name, (_spec, why) in specs.items():
                found = await person.until(
                    name, lambda s: s.get("rejected") or condition(s, "Stalled")["reason"] == "HookVetoed"
                )
                assert why in str(found), (name, found)
                assert found["stable"]["version"] == 1
            waits = await person.until("validator", lambda s: "(loopback)" in condition(s, "Ready").get("message", ""))
            assert "stable" not in waits
        assert server.connections == 0
