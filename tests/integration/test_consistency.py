"""A replica beside the real operator on a real API server: what its watches or its memory lose comes back.

The losses are fakes, and say so: an API server does not lose an event when asked to. All else is real.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec
from structlog.testing import capture_logs
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.integration.operators import client, crd, operator, place
from tests.integration.running import WITHIN, Client, Operator

from configregistry.app.consistency import Consistency
from configregistry.app.following import Following
from configregistry.app.serving import Serving
from configregistry.clock import SystemClock
from configregistry.kube import drift
from configregistry.kube.access import load_access
from configregistry.kube.client import JSON, Api
from configregistry.kube.consistency import StoreCheck
from configregistry.serve.consistency import PublishedCheck
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

__all__ = ["client", "crd", "operator", "place"]

SILENT = 2.0
"""Seconds of silence that count as such here; in life they are more."""
Lost = Callable[[dict[str, Any]], bool]


class LossyApi(Api):
    """A fake in one thing: it keeps events of watches from whoever watches, as a proxy in between might."""

    lost: Lost = staticmethod(lambda _event: False)
    swallowed = 0

    @asynccontextmanager
    async def watch(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = JSON
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().watch(path, params, accept=accept) as lines, aclosing(self._kept(lines)) as kept:
            yield kept

    async def _kept(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for line in lines:
            event = json.loads(line)
            if event["type"] != "BOOKMARK" and self.lost(event):
                self.swallowed += 1
            else:
                yield line


class Replica:
    """What a replica of `serve` has in memory, with its watches on the real API server."""

    def __init__(self, api: LossyApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.metrics = Metrics()
        self.following = Following(api, (namespace,), decide=True)
        settings = Settings(decides=False, namespaces=(namespace,))
        self.serving = Serving(settings, api, self.following, SystemClock(), self.metrics)
        self.hydrator = self.serving._hydrator
        self.consistency = self.checking(api)

    def checking(self, api: Api, **options: Any) -> Consistency:
        published = PublishedCheck(self.hydrator, self.following.registries.store)
        return Consistency(api, self.following.all, published, self.metrics, silent=SILENT, **options)

    @property
    def audits(self) -> list[StoreCheck[Any]]:
        return self.consistency._audits

    def memory(self, followed: Any) -> dict[Any, Any]:
        """What no program may touch; a fault is made here."""
        found: dict[Any, Any] = followed.reflectors[0]._cache._objects
        return found

    def data(self, name: str) -> Any:
        """What a consumer would read."""
        registry = self.hydrator.snapshot().registry(self.namespace, name)
        if registry is None or registry.stable is None:
            return None
        return {key: json.loads(value) for key, value in registry.stable.content().items()}

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN):
            while not true():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)

    async def checks(self) -> dict[tuple[str, str, str], bool]:
        return {
            (getattr(found, "resource", "served"), found.registry, found.what): found.repaired
            for found in await self.consistency.check()
        }

    def counted(self, name: str) -> dict[str, float]:
        lines = self.metrics.expose("")[1].decode().splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith(f"configregistry_{name}"))
        return {key.partition("{")[2].rstrip("}"): float(value) for key, _, value in found if float(value)}


@asynccontextmanager
async def replica(cluster: KubeCluster, namespace: str) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as stack:
        access = await load_access(str(cluster.kubeconfig), None)
        api = await stack.enter_async_context(LossyApi(access))
        made = Replica(api, namespace)
        tasks = [asyncio.create_task(each.run()) for followed in made.following.all for each in followed.reflectors]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        stack.push_async_callback(made.serving.close)
        stack.push_async_callback(end)
        async with asyncio.timeout(WITHIN):
            await made.following.synced()
        made.serving.begin()
        await made.serving.filled()
        yield made


async def test_what_was_lost_is_found_put_right_counted_and_said(
    operator: Operator, crd: KubeCluster, place: str, client: Client
) -> None:
    for name in ("gone", "late", "altered", "damaged", "calm"):
        await client.apply(name, data={"a": name, "n": [1, {"é": None}]})
    for name in ("gone", "late", "altered", "damaged", "calm"):
        await client.ready(name)
    async with replica(crd, place) as it:
        assert await it.checks() == {}
        registries = it.memory(it.following.registries)
        revisions = it.memory(it.following.revisions)

        # The watch of registries loses a DELETE and all that comes of one change.
        it.api.lost = lambda event: (
            event["object"]["kind"] == "ConfigRegistry" and event["object"]["metadata"]["name"] in {"gone", "late"}
        )
        await client.delete("gone")
        await client.apply("late", data={"a": "new"})
        await client.ready("late")
        await it.until(lambda: it.api.swallowed >= 3)
        assert it.data("gone") is not None
        assert it.data("late")["a"] == "late"
        # Memory loses: the status of one, what another serves, and the recorded content of a third.
        held = registries[place, "altered"]
        registries[place, "altered"] = msgspec.structs.replace(
            held, status=held.status.replace(b'"revision":1', b'"revision":0')
        )
        assert registries[place, "altered"] != held
        registry = it.hydrator.snapshot().registry(place, "damaged")
        assert registry is not None
        assert registry.stable is not None
        object.__setattr__(registry.stable, "data", registry.stable.data.set("a", b'"flipped"'))
        kept = revisions[place, "calm-1"]
        revisions[place, "calm-1"] = msgspec.structs.replace(kept, payload=kept.payload.replace(b"calm", b"wild"))

        with capture_logs() as logs:
            found = await it.checks()
        assert found == {
            ("configregistries.configregistry.dev", "gone", drift.DELETED): True,
            ("configregistries.configregistry.dev", "late", drift.OLDER): True,
            ("configregistries.configregistry.dev", "altered", drift.ALTERED): True,
            ("controllerrevisions.apps", "calm", drift.ALTERED): True,
            ("served", "damaged", "the content of version 1 in memory is not what was recorded"): True,
        }
        await it.until(lambda: it.data("gone") is None and it.data("late") == {"a": "new"})
        assert it.data("damaged")["a"] == "damaged"
        assert registries[place, "altered"] == held
        assert revisions[place, "calm-1"] == kept
        assert it.counted("drift_repairs_total") == {"": 5.0}
        assert it.counted("consistency_checks_total") == {'result="same"': 1.0, 'result="repaired"': 1.0}
        told = [line for line in logs if line["event"] == "memory was not what it should be"]
        assert {(line["registry"], line["done"]) for line in told} == {
            ("gone", "listed again"),
            ("late", "listed again"),
            ("altered", "listed again"),
            ("calm", "listed again"),
            ("damaged", "published anew"),
        }
        assert await it.checks() == {}
        assert it.counted("drift_repairs_total") == {"": 5.0}


async def test_rollouts_creations_and_deletions_are_no_differences(
    operator: Operator, crd: KubeCluster, place: str, client: Client
) -> None:
    """Dozens of rollouts are under way while checks are made without a pause between them."""
    async with replica(crd, place) as it:
        ended = False
        checks = 0
        it.consistency = it.checking(it.api, interval=0.2)

        async def check() -> None:
            nonlocal checks
            while not ended or checks < 20:
                assert await it.checks() == {}
                checks += 1

        async def life(name: str) -> None:
            for round_ in range(2):
                for value in range(3):
                    steps = [{"setWeight": 50}, {"pause": {"duration": "100ms"}}]
                    await client.apply(name, data={"v": [round_, value]}, rollout={"steps": steps})
                    await client.ready(name)
                await client.delete(name)

        checking = asyncio.create_task(check())
        try:
            await asyncio.gather(*(life(f"busy-{n}") for n in range(5)))
        finally:
            ended = True
            await checking
        assert it.counted("drift_repairs_total") == {}
        assert set(it.counted("consistency_checks_total")) == {'result="same"'}
        assert all(reflector.lists == 1 for followed in it.following.all for reflector in followed.reflectors)


async def test_what_cannot_be_compared_stays_as_it_is(
    operator: Operator, crd: KubeCluster, place: str, client: Client
) -> None:
    await client.apply("stays", data={"a": 1})
    await client.ready("stays")
    async with replica(crd, place) as it:
        before = it.hydrator.snapshot()
        (port,) = pick_ports(1)
        access = await load_access(str(crd.kubeconfig), None)
        async with Api(access._replace(host=f"https://{LOOPBACK}:{port}")) as api:
            it.consistency = it.checking(api)
            with capture_logs() as logs:
                assert await it.checks() == {}
        assert it.hydrator.snapshot() is before
        assert it.data("stays") == {"a": 1}
        assert it.counted("consistency_checks_total") == {'result="failed"': 1.0}
        told = [line for line in logs if line["log_level"] == "warning"]
        assert told[0]["event"] == "memory could not be compared with the API server; nothing has changed"
