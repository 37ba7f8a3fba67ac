"""The fault proxy does what it is told, to what it is told, and nothing else. Behind it stands the fake API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.cluster.kubeconfig import write_kubeconfig
from tests.faults import (
    Fault,
    FaultProxy,
    Picture,
    Rule,
    Seen,
    behind,
    black_hole,
    cut,
    end,
    expire,
    garbage,
    hold,
    late,
    refuse,
    reset,
    stall,
)
from tests.faults.rules import Armed
from tests.unit.test_kube_fake_api import PATH, FakeApi, fake_api, until

from configregistry.kube.access import load_access
from configregistry.kube.client import Api, Timeouts
from configregistry.kube.envelopes import decode_event, decode_page
from configregistry.kube.failures import BROKEN, NO_CONNECTION, NOT_KUBERNETES, TIMEOUT, ApiError, Unavailable


@asynccontextmanager
async def proxied(directory: Path) -> AsyncIterator[tuple[FakeApi, FaultProxy, Api]]:
    """A fake, the proxy in front of it, and a client of the proxy."""
    async with fake_api() as (fake, _direct):
        fake.put("a")
        upstream = write_kubeconfig(directory / "upstream", cluster={"server": fake.url}, user={})
        with FaultProxy(upstream, directory) as proxy:
            access = await load_access(str(proxy.kubeconfig))
            async with Api(access, timeouts=Timeouts(1.0, 1.0, 30.0)) as api:
                yield fake, proxy, api


async def names(api: Api) -> list[str]:
    page = decode_page(await api.list(PATH))
    return [json.loads(bytes(item))["metadata"]["name"] for item in page.items]


async def failure(api: Api, path: str = PATH) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await api.list(path)
    return caught.value


async def test_without_a_rule_everything_passes_and_is_counted(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (fake, proxy, api):
        assert await names(api) == ["a"]
        async with api.watch(PATH, {"resourceVersion": "101"}) as lines:
            fake.put("b")
            assert decode_event(await anext(lines)).type == "ADDED"
            assert proxy.watches == 1
        await until(lambda: not proxy.watches)
        assert proxy.requests == {("GET", PATH): 2}


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (refuse(401), 401, "Unauthorized"),
        (refuse(403), 403, "Forbidden"),
        (refuse(409), 409, "Conflict"),
        (refuse(410), 410, "Expired"),
        (refuse(422), 422, "Invalid"),
        (refuse(429, retry_after=7), 429, "TooManyRequests"),
        (refuse(500), 500, "InternalError"),
        (refuse(503), 503, "ServiceUnavailable"),
        (refuse(504), 504, "Timeout"),
        (refuse(404, text="<html>nginx</html>"), 404, NOT_KUBERNETES),
        (reset(), 0, BROKEN),
        (reset(after=True), 0, BROKEN),
        (stall(), 0, TIMEOUT),
        (stall(after=True), 0, TIMEOUT),
        (black_hole(), 0, TIMEOUT),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
async def test_a_request_meets_its_fault_and_only_while_it_lasts(
    tmp_path: Path, fault: Fault, code: int, reason: str
) -> None:
    async with proxied(tmp_path) as (fake, proxy, api):
        with proxy.during(Rule(fault)) as (armed,):
            error = await failure(api)
        assert (error.status, error.reason) == (code, reason)
        assert error.retry_after == (7 if code == 429 else None)
        # aiohttp asks once more where the connection of a GET breaks.
        assert armed.hits == (2 if reason == BROKEN else 1)
        assert len(fake.lists) == (armed.hits if "carried out" in fault.name else 0)
        assert await names(api) == ["a"]


def test_a_rule_is_about_what_it_names_for_as_often_as_it_says() -> None:
    armed = Armed(Rule(refuse(500), methods={"PUT"}, path=r"/status$", skip=1, hits=2))
    path = f"{PATH}/a/status"
    assert not armed.takes(Seen("GET", path, watch=False))
    assert not armed.takes(Seen("PUT", PATH, watch=False))
    assert [armed.takes(Seen("PUT", path, watch=False)) for _ in range(5)] == [False, True, True, False, False]
    assert armed.met == 5
    watches = Armed(Rule(refuse(500), watch=True))
    assert not watches.takes(Seen("GET", PATH, watch=False))
    assert watches.takes(Seen("GET", PATH, watch=True))


@pytest.mark.parametrize("fault", [cut(), end(), expire(), garbage()], ids=lambda fault: fault.name)
async def test_an_open_watch_meets_its_fault(tmp_path: Path, fault: Fault) -> None:
    async with proxied(tmp_path) as (fake, proxy, api), api.watch(PATH, {"resourceVersion": "101"}) as lines:
        fake.put("b")
        await anext(lines)
        with proxy.during(Rule(fault, hits=1)) as (armed,):
            if fault.name == "half a line":
                with pytest.raises(Unavailable):
                    await anext(lines)
            elif fault.name == "watch ended early":
                assert [line async for line in lines] == []
            else:
                expected = b"<html>" if "garbage" in fault.name else b'{"type":"ERROR"'
                assert (await anext(lines)).startswith(expected)
            assert armed.hits == 1


async def test_events_that_are_held_back_come_later_and_reads_are_fresh(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (fake, proxy, api), api.watch(PATH, {"resourceVersion": "101"}) as lines:
        coming = asyncio.ensure_future(anext(lines))
        with proxy.during(Rule(hold(), watch=True)):
            fake.put("b")
            assert await names(api) == ["a", "b"]
            assert not coming.done()
        assert decode_event(await asyncio.wait_for(coming, 30)).type == "ADDED"


async def test_what_comes_late_arrives_though_nobody_waits_for_it(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (fake, proxy, api):
        with proxy.during(Rule(late())) as (armed,):
            assert (await failure(api)).reason == TIMEOUT
            assert fake.lists == []
        await until(lambda: armed.arrived == [200])
        assert len(fake.lists) == 1


async def test_a_picture_is_what_there_was(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (fake, proxy, api):
        picture = await asyncio.to_thread(proxy.picture, PATH)
        fake.put("b")
        with proxy.during(Rule(behind(picture))):
            page = decode_page(await api.list(PATH, {"limit": "1"}))
            assert page.resource_version == "101"
            assert await names(api) == ["a"]
            assert json.loads(await api.get(f"{PATH}/a"))["metadata"]["name"] == "a"
        assert await names(api) == ["a", "b"]
    assert Picture({}).answer(PATH) is None


async def test_nobody_listens_where_it_is_gone(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (_fake, proxy, api), api.watch(PATH, {"resourceVersion": "101"}) as lines:
        with proxy.gone():
            with pytest.raises(Unavailable):
                await anext(lines)
            assert (await failure(api)).reason == NO_CONNECTION
        assert await names(api) == ["a"]


async def test_what_is_asked_meanwhile_is_counted(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (_fake, proxy, api):
        await names(api)
        with proxy.counted() as rate:
            await names(api)
            await names(api)
        assert rate.requests == 2
        assert rate.of["GET", PATH] == 2
        assert rate.per_second > 0
