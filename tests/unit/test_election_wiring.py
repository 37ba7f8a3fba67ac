"""The election and the rounds over the replicas, as the half that decides wires them. The API server is a fake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from tests.unit.test_kube_fake_api import SERVER, answer, serving, until

from configregistry.app.deciding import Deciding
from configregistry.app.following import Following
from configregistry.app.leading import newest_epoch
from configregistry.clock import SystemClock
from configregistry.kube.access import Access, no_token
from configregistry.kube.client import MAX_CONCURRENT, Api, Timeouts
from configregistry.kube.election import CREDIBLE, Election
from configregistry.kube.objects import Meta, RegistryObject
from configregistry.kube.paths import LEASES
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

SETTINGS = Settings(serves=False, lease="shop/leader", replicas=("http://127.0.0.1:9",))
HANGS = "/hangs"


class Server:
    """One Lease; and what hangs until the client goes away."""

    def __init__(self) -> None:
        self.hanging = 0
        self.lease: dict[str, Any] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == HANGS:
            self.hanging += 1
            await asyncio.Event().wait()
        assert request.path.startswith(LEASES.path("shop"))
        if request.method in ("POST", "PUT"):
            self.lease = await request.json()
            assert self.lease is not None
            self.lease["metadata"] = {**self.lease["metadata"], "resourceVersion": str(id(self.lease))}
        return answer(404, "NotFound") if self.lease is None else web.json_response(self.lease, headers=SERVER)


@asynccontextmanager
async def wired(api: Api) -> AsyncIterator[tuple[Deciding, Election, Following]]:
    """The half that decides, which is not running."""
    following = Following(api, (), decide=True)
    deciding = Deciding(SETTINGS, api, following, SystemClock(), Metrics())
    assert deciding._election is not None
    try:
        yield deciding, deciding._election, following
    finally:
        await deciding.close()


async def test_a_renewal_waits_for_nobody_elses_requests() -> None:
    """Where all places of the client are taken by requests that hang, the Lease is taken and given up all the same."""
    server = Server()
    async with (
        serving(server.handle) as url,
        Api(Access(url, no_token), timeouts=Timeouts(60.0, 60.0, 60.0)) as api,
        wired(api) as (_deciding, election, _following),
    ):
        tasks = [asyncio.create_task(api.list(HANGS, seconds=300.0)) for _ in range(2 * MAX_CONCURRENT)]
        try:
            await until(lambda: server.hanging == MAX_CONCURRENT)
            async with asyncio.timeout(30):
                assert await election.win() == 1
                await election.release()
            assert server.lease is not None
            assert not server.lease["spec"]["holderIdentity"]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_collector_hands_out_only_while_its_process_leads() -> None:
    async with (
        Api(Access("http://127.0.0.1:9", no_token)) as api,
        wired(api) as (deciding, _election, _following),
    ):
        assert deciding._collector is not None
        tells: Callable[[], bool] = deciding._collector._tells
        assert not tells()
        for _ in range(2):
            term = deciding._term()
            assert tells()
            await term.close()
            assert not tells()


@pytest.mark.parametrize(
    ("epochs", "newest"), [([], 0), ([3, 41, 7], 41), ([CREDIBLE], CREDIBLE), ([3, CREDIBLE + 1], 3), ([2**40], 0)]
)
async def test_an_epoch_that_no_lease_could_name_is_a_hands_and_does_not_count(epochs: list[int], newest: int) -> None:
    """`leaseTransitions` is an int32: nobody could ever begin a term above it."""
    async with Api(Access("http://127.0.0.1:9", no_token)) as api:
        following = Following(api, (), decide=True)
        (reflector,) = following.registries.reflectors
        for number, epoch in enumerate(epochs):
            meta = Meta(f"r{number}", "shop", "uid", "1")
            status = json.dumps({"revision": 1, "leaderEpoch": epoch}).encode()
            reflector._cache.put(RegistryObject(meta, b"{}", status))
        assert newest_epoch(following) == newest
    assert CREDIBLE < 2**31 - 1
