"""Fallback chains as their readers see them: the real API server, the real operator, HTTP and its streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from typing import Any

import pytest
from tests.integration.running import Client, Operator, condition, said
from tests.serve_clients import Client as Connection
from tests.serve_clients import Received
from tests.socket_clients import Follower
from tests.watch_clients import Client as Folded
from tests.watch_clients import Event

from configregistry.rollout.buckets import bucket

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

HALF: dict[str, Any] = {"steps": [{"setWeight": 50}, {"pause": {}}]}


class Reader:
    """Reads registries of one namespace as one consumer, and follows them."""

    def __init__(self, operator: Operator, client: Client) -> None:
        self.port = operator.port
        self.client = client
        self.base = f"/v1/namespaces/{client.namespace}/registries"

    async def ask(self, path: str, *headers: str) -> Received:
        async with Connection(self.port) as connection:
            connection.send(f"{self.base}/{path}", *headers)
            return await connection.receive()

    async def data(self, path: str) -> dict[str, Any]:
        answer = await self.ask(path)
        found: dict[str, Any] = json.loads(answer.body).get("data", {})
        return found

    async def reads(self, path: str, wanted: dict[str, Any]) -> None:
        last: dict[str, Any] = {}

        async def met() -> bool:
            nonlocal last
            last = await self.data(path)
            return last == wanted

        await self.client.wait(met, lambda: f"{path} to give {wanted}, not {last}")

    @asynccontextmanager
    async def watch(self, name: str, query: str = "", cursor: str = "") -> AsyncIterator[Stream]:
        follower = Follower(self.port, f"{self.base}/{name}/watch{query}", cursor)
        try:
            yield Stream(follower, f"{self.client.namespace}/{name}")
        finally:
            await follower.close()


class Stream:
    """One watch with what its events come to."""

    def __init__(self, follower: Follower, name: str) -> None:
        self._follower = follower
        self._name = name
        self._folded = Folded()
        self._seen = 0

    @property
    def cursor(self) -> str:
        return self._folded.cursor

    @property
    def data(self) -> dict[str, Any] | None:
        return self._folded.has.get(self._name)

    async def until(self, wanted: dict[str, Any] | None) -> list[Event]:
        """Wait until the events come to this; gives those that came and changed anything (a promotion does not)."""
        came: list[Event] = []
        async with asyncio.timeout(60):
            while True:
                for event in self._follower.events[self._seen :]:
                    self._seen += 1
                    self._folded.fold(event)
                    came += [event] if event.name != "progress" and event.data.get("changes") != [] else []
                if came and self.data == wanted:
                    return came
                await self._follower.more()


@pytest.fixture
def reader(operator: Operator, client: Client) -> Reader:
    return Reader(operator, client)


async def chain(client: Client, *names: str) -> None:
    """Registries of which each falls back to the next; the last one is made first."""
    for above, name in reversed(list(zip([*names[1:], ""], names, strict=True))):
        more: dict[str, Any] = {"fallback": {"name": above}} if above else {}
        await client.apply(name, data={"who": name, name: 1}, **more)
        await client.ready(name)


async def test_everything_below_moves_when_one_above_changes(reader: Reader, client: Client) -> None:
    await chain(client, "low", "mid", "top")
    before = {
        "low": {"who": "low", "low": 1, "mid": 1, "top": 1},
        "mid": {"who": "mid", "mid": 1, "top": 1},
        "top": {"who": "top", "top": 1},
    }
    for name, data in before.items():
        await reader.reads(name, data)
    paths = [*before, "low/keys/top", "mid/keys/top", "low/keys", "mid/keys?prefix=t"]
    etags = {path: (await reader.ask(path)).headers["etag"] for path in paths}
    own = (await reader.ask("low/keys/low")).headers["etag"]
    page = json.loads((await reader.ask("low/keys?limit=2")).body)["continue"]
    revisions = {name: (await client.status(name))["revision"] for name in before}
    async with AsyncExitStack() as stack:
        streams = {name: await stack.enter_async_context(reader.watch(name)) for name in before}
        cursors = {}
        for name, stream in streams.items():
            assert [each.name for each in await stream.until(before[name])] == ["snapshot"]
            cursors[name] = stream.cursor
        waiting = asyncio.create_task(reader.ask("low?wait=1m", f"If-None-Match: {etags['low']}"))

        await client.apply("top", data={"who": "top", "top": 2, "new": [1]})
        after = {name: {**data, "top": 2, "new": [1]} for name, data in before.items()}
        for name, stream in streams.items():
            [delta] = await stream.until(after[name])
            assert {each["path"] for each in delta.data["changes"]} == {"/top", "/new"}
            assert (delta.data["from"] == delta.data["to"]) is (name != "top")
            assert stream.cursor != cursors[name]
        answer = await waiting
        assert (answer.status, json.loads(answer.body)["data"]) == (200, after["low"])
        # Who comes back with what he had is told exactly what he missed.
        for name, cursor in cursors.items():
            async with reader.watch(name, cursor=cursor) as again:
                again._folded.has[again._name], again._folded.about[again._name] = before[name], {"version": 1}
                assert [each.name for each in await again.until(after[name])] == ["delta"]
    for path, etag in etags.items():
        moved = await reader.ask(path, f"If-None-Match: {etag}")
        assert (moved.status, moved.headers["etag"] != etag) == (200, True), path
    assert (await reader.ask("low/keys/low", f"If-None-Match: {own}")).status == 304
    # A page that was begun before goes on in the state that it began in.
    rest = json.loads((await reader.ask(f"low/keys?limit=9&continue={page}")).body)["keys"]
    assert {each["key"]: each["value"] for each in rest} == {"top": 1, "who": "low"}
    # Nothing was decided about those below.
    assert (await client.status("low"))["revision"] == revisions["low"]
    assert (await client.status("mid"))["revision"] == revisions["mid"]


async def test_a_chain_over_a_deleted_registry_ends_there_and_heals(reader: Reader, client: Client) -> None:
    await chain(client, "d-low", "d-mid", "d-top")
    whole = {"who": "d-low", "d-low": 1, "d-mid": 1, "d-top": 1}
    alone = {"who": "d-low", "d-low": 1}
    await reader.reads("d-low", whole)
    async with reader.watch("d-low") as low, reader.watch("d-mid") as mid:
        await low.until(whole)
        await mid.until({"who": "d-mid", "d-mid": 1, "d-top": 1})
        etag = (await reader.ask("d-low")).headers["etag"]
        before = await client.status("d-low")
        await client.delete("d-mid")
        [delta] = await low.until(alone)
        assert {each["op"] for each in delta.data["changes"]} == {"remove"}
        assert [each.name for each in await mid.until(None)] == ["deleted"]
        moved = await reader.ask("d-low", f"If-None-Match: {etag}")
        assert (moved.status, json.loads(moved.body)["data"]) == (200, alone)
        for key, status in (("d-mid", 404), ("d-top", 404), ("d-low", 200), ("who", 200)):
            assert (await reader.ask(f"d-low/keys/{key}")).status == status, key
        assert (await reader.ask("d-mid")).status == 404
        assert await client.status("d-low") == before

        # Made again, with other content, and at first without what was behind it.
        await client.apply("d-mid", data={"d-mid": 2})
        await low.until({**alone, "d-mid": 2})
        assert [each.name for each in await mid.until({"d-mid": 2})] == ["snapshot"]
        await client.apply("d-mid", data={"d-mid": 2}, fallback={"name": "d-top"})
        await low.until({**alone, "d-mid": 2, "d-top": 1})
        await mid.until({"d-mid": 2, "who": "d-top", "d-top": 1})
    assert await reader.data("d-low") == {**alone, "d-mid": 2, "d-top": 1}
    assert await client.status("d-low") == before


async def test_each_registry_of_a_chain_picks_its_own_variant_for_one_target(reader: Reader, client: Client) -> None:
    def spec(n: int, seed: str, **more: Any) -> dict[str, Any]:
        return {"data": {seed: n}, "rollout": {**HALF, "seed": seed}, **more}

    seeds = {"g-low": "below", "g-top": "above"}
    await client.apply("g-top", **spec(1, "above"))
    await client.apply("g-low", **spec(1, "below", fallback={"name": "g-top"}))
    await client.ready("g-top")
    await client.ready("g-low")
    names = [f"pod-{number}" for number in range(100)]
    places = {
        ins: next(name for name in names if tuple(bucket(seed, name) < 5000 for seed in seeds.values()) == ins)
        for ins in product((True, False), repeat=2)
    }
    stables = {"below": 1, "above": 1}
    await reader.reads("g-low", stables)
    async with AsyncExitStack() as stack:
        streams = {
            ins: await stack.enter_async_context(reader.watch("g-low", f"?target={name}"))
            for ins, name in places.items()
        }
        for stream in streams.values():
            await stream.until(stables)
        for registry, seed, more in (("g-top", "above", {}), ("g-low", "below", {"fallback": {"name": "g-top"}})):
            await client.apply(registry, **spec(2, seed, **more))
            await client.until(registry, lambda s: said(s, Ready=("False", "Paused")))
        gets = {ins: {"below": 1 + ins[0], "above": 1 + ins[1]} for ins in places}
        etags = set()
        for ins, name in places.items():
            await reader.reads(f"g-low?target={name}", gets[ins])
            etags.add((await reader.ask(f"g-low?target={name}")).headers["etag"])
            if gets[ins] != stables:
                await streams[ins].until(gets[ins])
        assert len(etags) == 4
        await reader.reads("g-low", stables)
        # Taken back above, it is gone for those who had it, and for nobody else.
        await client.command("g-top", "abort", "2:-:a")
        for ins, name in places.items():
            await reader.reads(f"g-low?target={name}", {**gets[ins], "above": 1})
            if ins[1]:
                await streams[ins].until({**gets[ins], "above": 1})
        await client.command("g-low", "promote", "2:0:p")
        for ins, name in places.items():
            await reader.reads(f"g-low?target={name}", {"below": 2, "above": 1})
            if not ins[0]:
                await streams[ins].until({"below": 2, "above": 1})
            assert streams[ins].data == {"below": 2, "above": 1}


async def test_only_who_would_close_a_ring_is_refused_even_over_a_deletion(reader: Reader, client: Client) -> None:
    await chain(client, "r-low", "r-mid", "r-top")
    whole = {"who": "r-low", "r-low": 1, "r-mid": 1, "r-top": 1}
    await client.apply("r-top", data={"who": "r-top", "r-top": 1}, fallback={"name": "r-low"})
    refused = await client.steady("r-top", Stalled=("True", "InvalidSpec"))
    assert "r-top -> r-low -> r-mid -> r-top" in condition(refused, "Stalled")["message"]
    assert "fallback" not in refused
    for name in ("r-low", "r-mid"):
        assert said(await client.status(name), Ready=("True", "RolloutComplete"))
    await reader.reads("r-low", whole)
    # Without the one between there is no ring: it is accepted, and then r-mid would be the one that closes it.
    await client.delete("r-mid")
    assert (await client.ready("r-top"))["fallback"] == {"name": "r-low"}
    await reader.reads("r-top", {"who": "r-top", "r-top": 1, "r-low": 1})
    await client.apply("r-mid", data={"r-mid": 2}, fallback={"name": "r-top"})
    closing = await client.steady("r-mid", Stalled=("True", "InvalidSpec"))
    assert "r-mid -> r-top -> r-low -> r-mid" in condition(closing, "Stalled")["message"]
    for name in ("r-low", "r-top"):
        assert said(await client.status(name), Ready=("True", "RolloutComplete"))
    # Opened by a hand, it heals by itself.
    await client.apply("r-top", data={"who": "r-top", "r-top": 1})
    await client.ready("r-mid")
    await reader.reads("r-low", {"who": "r-low", "r-low": 1, "r-mid": 2, "r-top": 1})
