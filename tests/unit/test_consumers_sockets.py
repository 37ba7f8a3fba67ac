"""Consumers over a real connection: ids with slashes, and a stream that is read while others come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.serve_fakes import World
from tests.unit.test_consumers_http import CONSUMERS

from configregistry.serve import serve_http


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    world = World()
    world.serve(data={"a": 1})
    server = await serve_http(world.app, "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as made:
        yield made
    await server.stop()


async def test_ids_with_slashes_and_a_stream(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30), client.stream("GET", CONSUMERS, headers={"accept": "text/event-stream"}) as stream:
        lines = stream.aiter_lines()

        async def event() -> tuple[str, Any]:
            name = ""
            async for line in lines:
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return name, json.loads(line.removeprefix("data: "))
            raise AssertionError("the stream has ended")

        assert stream.status_code == 200
        assert (await event())[0] == "snapshot"
        made = await client.put(f"{CONSUMERS}/team%2Fpod-1", json={"ttlSeconds": 30})
        assert made.status_code == 201
        name, joined = await event()
        assert (name, joined["id"]) == ("joined", "team/pod-1")
        assert (await client.put(f"{CONSUMERS}/team/pod-1", json={"ttlSeconds": 0.2})).status_code == 200
        assert (await event())[0] == "changed"
        assert await event() == ("left", {"id": "team/pod-1", "reason": "Expired"})
        assert (await client.put(f"{CONSUMERS}/b", json={"ttlSeconds": 30})).status_code == 201
        assert (await client.delete(f"{CONSUMERS}/b")).status_code == 204
        assert [(await event())[0], (await event())[0]] == ["joined", "left"]
