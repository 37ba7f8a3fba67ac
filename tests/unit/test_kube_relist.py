"""A list that somebody asked for (`relist`) and that is refused: the watch is worth more. A scripted API server."""

from __future__ import annotations

import pytest
from aiohttp import web
from tests.unit.test_kube_fake_api import refuse, until
from tests.unit.test_kube_reflector import followed


@pytest.mark.parametrize("code", [403, 429, 503])
async def test_a_refused_list_costs_no_event(code: int) -> None:
    async with followed("a", idle=30.0) as it:
        fake, reflector = it.fake, it.reflector

        async def refused(request: web.Request) -> web.StreamResponse | None:
            fake.list_faults.append(refused)
            return await refuse(code, "Refused")(request)

        fake.list_faults.append(refused)
        reflector.relist()
        await until(lambda: reflector.errors["Refused"] and reflector.watching)
        fake.put("b")
        fake.delete("a")
        await until(lambda: it.has(b=102))
        assert reflector.watching
        assert reflector.lists == 1
        fake.list_faults.clear()
        fake.end()
        await until(lambda: reflector.lists == 2 and reflector.watching)
        fake.end()
        await until(lambda: len(fake.watches) >= 4 and reflector.watching)
        assert reflector.lists == 2, "asked for once, and done"
