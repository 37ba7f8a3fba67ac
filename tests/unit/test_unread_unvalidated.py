"""While a source cannot be read, nothing goes out that somebody has not agreed to. See reconcile_world for the fake."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.unit.reconcile_world import NAME, SPACE, Checks, FakeApi, Process, VirtualLoop

from configregistry.health import Answer
from configregistry.kube.failures import Unavailable
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES


class Says:
    def __init__(self, body: bytes) -> None:
        self.body = body

    async def request(self, *_: Any, **__: Any) -> Answer:
        await asyncio.sleep(0.01)
        return Answer(200, self.body)


class Api(FakeApi):
    broken = False

    async def get(self, path: str, *, accept: str = "") -> bytes:
        if self.broken and "/configmaps" in path:
            raise Unavailable("503")
        return await super().get(path, accept=accept)


def played(main: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


def test_refused_content_stays_out_while_its_source_cannot_be_read() -> None:
    played(_refused())


def test_a_candidate_waits_for_its_hooks_while_its_source_cannot_be_read() -> None:
    played(_waiting())


async def _waiting() -> None:
    api, says = Api(), Says(b"?")
    base = CONFIGMAPS.path(SPACE, "base")
    api.add(CONFIGMAPS.path(SPACE), {"metadata": {"name": "base"}, "data": {"a": "1"}})
    spec = {
        "dataFrom": [{"configMapRef": {"name": "base"}}],
        "hooks": [{"name": "warm", "when": "PreRollout", "url": "http://warm/"}],
    }
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec})
    process = Process(api, Checks(), 0.0, outbound=says)
    try:
        await asyncio.sleep(5)
        api.edit(base, data={"a": "2"})
        await asyncio.sleep(5)
        assert api.status.canary is not None
        assert api.status.canary.step_started_at == ""
        api.broken = True
        api.edit(base, data={"a": "3"})
        await asyncio.sleep(30)
        assert api.status.stable is not None
        assert api.status.stable.version == 1, "no hook has let version 2 out"
    finally:
        await process.kill()


async def _refused() -> None:
    api, says = Api(), Says(b'{"allowed": true}')
    base = CONFIGMAPS.path(SPACE, "base")
    api.add(CONFIGMAPS.path(SPACE), {"metadata": {"name": "base"}, "data": {"a": "1"}})
    spec = {
        "dataFrom": [{"configMapRef": {"name": "base"}}],
        "validators": [{"name": "limits", "url": "http://limits/"}],
    }
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec})
    process = Process(api, Checks(), 0.0, outbound=says)
    try:
        await asyncio.sleep(5)
        assert api.status.stable is not None
        assert len(api.versions()) == 1
        says.body = b'{"allowed": false}'
        api.edit(base, data={"a": "2"})
        await asyncio.sleep(5)
        ready = {each.type: each.reason for each in api.status.conditions}
        assert ready["Ready"] == "InvalidSpec"
        assert len(api.versions()) == 1
        api.broken = True
        api.edit(base, data={"a": "3"})
        await asyncio.sleep(30)
        assert api.status.stable is not None
        assert len(api.versions()) == 1, "what was refused is a version now"
        assert api.status.stable.version == 1
    finally:
        await process.kill()
