"""Credentials that are refused and read anew: what was open with the old ones ends, and is known to have ended."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.test_kube_fake_api import PATH, fake_api, refuse, until

from configregistry.kube.access import Access, no_token
from configregistry.kube.client import Api, Timeouts
from configregistry.kube.failures import BROKEN, Unavailable


async def test_a_watch_with_old_credentials_is_told_that_it_ends() -> None:
    """aiohttp closes the connections of a session and wakes nobody who reads them: a watch would be blind for ever."""
    async with fake_api() as (fake, _plain):

        async def load() -> Access:
            return Access(fake.url, no_token)

        async with Api(await load(), timeouts=Timeouts(10.0, 1.0, 60.0), reload=load) as api:
            async with api.watch(PATH, {"resourceVersion": "100"}) as lines:
                coming = asyncio.ensure_future(anext(lines))
                await until(lambda: fake.open)
                fake.list_faults.append(refuse(401, "Unauthorized"))
                await api.list(PATH)
                assert not coming.done(), "what is under way has its time"
                with pytest.raises(Unavailable) as caught:
                    await asyncio.wait_for(coming, 30)
            assert caught.value.reason == BROKEN
            async with api.watch(PATH, {"resourceVersion": "100"}) as lines:
                fake.put("a")
                assert await asyncio.wait_for(anext(lines), 30)
