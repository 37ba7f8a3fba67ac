"""The API server is away for a minute: what an hour would be, since every wait has grown as far as it grows by then.

The waits of the program are bounded: 8 s of a reflector, 30 s of whatever else asks by itself. A minute without an
answer takes each of them to its bound (that an hour is no different is shown in virtual time, in
tests/unit/test_kube_reflector.py). What is seen here, on real processes: how much is asked and said meanwhile, and how
long after the end everything is caught up.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.cluster import KubeCluster
from tests.faults import FaultProxy
from tests.faults.reader import content, reading
from tests.integration.running import Client, candidate, running, said, stable
from tests.servers import AppServer

pytestmark = pytest.mark.xdist_group("api-outage")

AWAY = 60.0
CAUGHT_UP = 45.0
"""Seconds; it takes some 8 (a reflector's longest wait), on a machine that does nothing else."""
ASKED = 12.0
"""Requests a second, of five reflectors, kopf, and a rollback that is tried five times a second."""
SAID = 150


async def test_a_long_outage_is_over_when_it_is_over(crd: KubeCluster, namespace: str, tmp_path: Path) -> None:
    with (
        FaultProxy(crd.kubeconfig, tmp_path) as proxy,
        AppServer() as app,
        running(crd, namespace, tmp_path / "controller", kubeconfig=proxy.kubeconfig, command="controller") as decides,
        running(crd, namespace, tmp_path / "serve", kubeconfig=proxy.kubeconfig, command="serve") as serves,
    ):
        check = {"name": "alive", "interval": "200ms", "http": {"url": f"http://{app.address}/healthz"}}
        waits = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": [check]}
        async with Client.of(crd, namespace) as client:
            for name in ("edited", "deleted", "sick"):
                await client.apply(name, data=content(1), rollout=waits)
                await client.ready(name)
            await client.apply("sick", data=content(2), rollout=waits)
            await client.until("sick", lambda s: candidate(s, 2, 50) and said(s, Ready=("False", "Paused")))
            path = f"/v1/namespaces/{namespace}/registries"
            async with (
                client.history("sick") as history,
                reading(serves.port, namespace, "edited") as edited,
                reading(serves.port, namespace, "sick", "pod-7") as sick,
            ):
                talked = len(decides.lines), len(serves.lines)
                with proxy.gone():
                    began = time.monotonic()
                    # All of it happens while nobody hears of it.
                    app.health = 500
                    await client.apply("edited", data=content(2))
                    await client.delete("deleted")
                    await client.apply("made", data=content(1))
                    await asyncio.sleep(AWAY - (time.monotonic() - began))
                    assert (await client.status("edited"))["stable"]["version"] == 1
                    assert serves.get("/readyz") == serves.get("/livez") == 200
                    assert decides.get("/livez") == 200
                    told = serves.metrics("configregistry_stale_reads_total")
                back = time.monotonic()
                with proxy.counted() as rate:
                    await client.until("sick", lambda s: stable(s, 1), CAUGHT_UP)
                    await client.until("edited", lambda s: stable(s, 2), CAUGHT_UP)
                    await client.until("made", lambda s: stable(s, 1), CAUGHT_UP)

                    async def served() -> bool:
                        gone = await asyncio.to_thread(serves._code, f"{path}/deleted")
                        made = await asyncio.to_thread(serves._code, f"{path}/made")
                        return (gone, made, edited.last["version"], sick.last["version"]) == (404, 200, 2, 1)

                    await client.wait(served, lambda: f"all to be served: {edited.last}, {sick.last}", CAUGHT_UP)
                took = time.monotonic() - back
                print(f"caught up {took:.1f} s after {AWAY:g} s, with {rate.requests} requests")
            assert took < CAUGHT_UP
            assert rate.per_second < 60, rate.of.most_common(5)
            assert edited.wrong == sick.wrong == []
            assert edited.stale > 10
            assert sum(told.values()) > 0
            history.check()
            assert (await client.status("sick"))["lastOutcome"]["result"] == "RolledBack"
            for process, before in zip((decides, serves), talked, strict=True):
                assert process.starts == 1
                assert process.alive
                lines = process.lines[before:]
                assert len(lines) < SAID, [line["event"] for line in lines]
