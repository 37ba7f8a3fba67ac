"""Torn reads are searched for: whatever an answer says, all of it is of one publication.

Two registries, one the fallback of the other, are always published together and have the same versions, and all values
of a version are its number. So one look at an answer tells whether any part of it is of another state: all its values
are equal, they are the version that it names, and that is the one that its revision gives to its reader.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import pytest
from tests.serve_clients import Client, Received, serving
from tests.serve_fakes import World, revision, status_of
from tests.socket_clients import Follower
from tests.watch_clients import Client as Folded

from configregistry.rollout.buckets import bucket

NEAR, FAR = ("shop", "near"), ("shop", "far")
ROOT = "/v1/namespaces/shop/registries/near"
SEED = "s"
PUBLICATIONS = 3000
READERS = 24
WATCHERS = 8
KEYS = {NEAR: [f"k{n:02}" for n in range(0, 50, 2)], FAR: [f"k{n:02}" for n in range(1, 50, 2)]}
ALL = sorted(KEYS[NEAR] + KEYS[FAR])
VERSIONS = range(1, 9)


class Decision(NamedTuple):
    stable: int
    canary: int | None = None
    weight: int = 0

    def given(self, target: str) -> tuple[int, str]:
        if self.canary is not None and bucket(SEED, target) < self.weight * 100:
            return self.canary, "canary"
        return self.stable, "stable"


def decisions() -> Iterator[Decision]:
    """Grey releases that end well or are rolled back, and swaps, without end."""
    stable, number = 1, 0
    yield Decision(stable)
    while True:
        number += 1
        canary = (stable + number % 5) % len(VERSIONS) + 1
        if canary != stable:
            for weight in (0, 30, 70):
                yield Decision(stable, canary, weight)
            if number % 3 == 0:
                stable = canary
            yield Decision(stable)
        stable = (stable + 2) % len(VERSIONS) + 1
        yield Decision(stable)


class Pair:
    """Both registries, and what was decided at which revision."""

    def __init__(self) -> None:
        self.world = World()
        self.contents = {
            (key, version): dict.fromkeys(names, version) for key, names in KEYS.items() for version in VERSIONS
        }
        for (key, version), data in self.contents.items():
            self.world.record(key, version, revision(key[1], data))
        self.decided: list[Decision] = []
        self.coming = decisions()
        self.publish()

    def publish(self) -> None:
        decision = next(self.coming)
        self.decided.append(decision)
        canary = {"version": decision.canary, "weight": decision.weight, "seed": SEED} if decision.canary else None
        for key, fallback in ((NEAR, "far"), (FAR, None)):
            stable, candidate = (self.contents.get((key, n or 0)) for n in (decision.stable, decision.canary))
            number = len(self.decided)
            self.world.put(key, key[1], status_of(number, decision.stable, stable, canary, candidate, fallback))
        self.world.hydrator.flush(inf)

    def changes(self, target: str, first: int) -> list[int]:
        """Give the revisions, the first one included, at which a consumer is given something else."""
        given = [decision.given(target) for decision in self.decided[first - 1 :]]
        later = [n for n, (before, after) in enumerate(pairwise(given), first + 1) if before != after]
        return [first, *later]

    def check(self, target: str, number: int, version: int, variant: str, values: set[Any]) -> None:
        """Everything that an answer says is what one revision gives."""
        assert values == {version}, (number, version, values)
        assert (version, variant) == self.decided[number - 1].given(target)


class Reader:
    """A client that reads in all ways, one after the other."""

    def __init__(self, pair: Pair, number: int) -> None:
        self.pair = pair
        self.target = f"t{number}"
        self.last = 0
        self.read: Counter[str] = Counter()

    async def go_on(self, port: int, until: asyncio.Event, *, hold: bool) -> None:
        async with Client(port) as client:
            while not until.is_set():
                await self.whole(client, hold=hold)
                await self.pages(client)
                await self.flags(client)

    def judge(self, kind: str, answer: Received, values: list[Any], told: dict[str, Any]) -> None:
        assert answer.status == 200, answer
        version, number = (int(answer.headers[f"x-configregistry-{name}"]) for name in ("version", "revision"))
        assert told["version"] == version
        self.pair.check(self.target, number, version, told["variant"], set(values))
        assert told.get("revision", number) == number
        if kind != "page":
            assert number >= self.last
        self.last = max(number, self.last)
        self.read[kind] += 1

    async def whole(self, client: Client, *, hold: bool) -> None:
        answer = await client.get(f"{ROOT}?target={self.target}")
        told = json.loads(answer.body)
        assert list(told["data"]) == ALL
        self.judge("whole", answer, list(told["data"].values()), told)
        if hold:
            etag = answer.headers["etag"]
            answer = await client.get(f"{ROOT}?target={self.target}&wait=5m", f"If-None-Match: {etag}")
            assert answer.headers["etag"] != etag
            told = json.loads(answer.body)
            self.judge("held", answer, list(told["data"].values()), told)

    async def pages(self, client: Client) -> None:
        keys: list[str] = []
        first = None
        query = f"target={self.target}"
        while query:
            answer = await client.get(f"{ROOT}/keys?limit=20&{query}")
            told = json.loads(answer.body)
            about = {name: told[name] for name in ("version", "revision", "variant", "hash")}
            first = first or about
            assert about == first
            self.judge("keys" if not keys else "page", answer, [each["value"] for each in told["keys"]], told)
            keys += [each["key"] for each in told["keys"]]
            query = f"continue={told['continue']}" if "continue" in told else ""
        assert keys == ALL

    async def flags(self, client: Client) -> None:
        body = json.dumps({"context": {"targetingKey": self.target}}).encode()
        client.send(f"{ROOT}/ofrep/v1/evaluate/flags", f"Content-Length: {len(body)}", method="POST", body=body)
        answer = await client.receive()
        told = json.loads(answer.body)
        flags = told["flags"]
        assert [flag["key"] for flag in flags] == ALL
        (variant,) = {flag["variant"] for flag in flags}
        assert {flag["metadata"]["version"] for flag in flags} == {told["metadata"]["version"]}
        self.judge("flags", answer, [flag["value"] for flag in flags], {**told["metadata"], "variant": variant})


async def watched(pair: Pair, port: int, number: int, over: asyncio.Event) -> list[int]:
    """Follow a stream to the last publication, and give the revisions at which something came."""
    target = f"t{number}"
    follower, folded = Follower(port, f"{ROOT}/watch?target={target}"), Folded()
    revisions: list[int] = []
    checked = 0
    try:
        while not over.is_set() or pair.changes(target, 1)[-1] != revisions[-1]:
            await follower.more()
            for event in follower.events[checked:]:
                checked += 1
                if event.name == "progress":
                    continue
                assert event.name == ("delta" if revisions else "snapshot")
                folded.fold(event)
                data, told = folded.has["shop/near"], event.data
                assert data is not None
                assert sorted(data) == ALL
                version = told.get("to", told.get("version"))
                pair.check(target, told["revision"], version, told["variant"], set(data.values()))
                revisions.append(told["revision"])
    finally:
        await follower.close()
    assert revisions == pair.changes(target, revisions[0])
    return revisions


async def test_in_one_loop() -> None:
    """Readers, held reads and streams, with a publication whenever the loop turns."""
    pair = Pair()
    done, over = asyncio.Event(), asyncio.Event()
    readers = [Reader(pair, number) for number in range(READERS)]
    async with serving(pair.world.app, state=pair.world.hydrator.snapshot) as server, asyncio.TaskGroup() as group:
        tasks = [group.create_task(reader.go_on(server.port, done, hold=True)) for reader in readers]
        streams = [group.create_task(watched(pair, server.port, number, over)) for number in range(WATCHERS)]
        watches = pair.world.service.watches
        while watches.streams < WATCHERS or len(pair.decided) < PUBLICATIONS:
            pair.publish()
            await asyncio.sleep(0)
        done.set()
        while not all(task.done() for task in tasks):  # some are held until there is something new
            pair.publish()
            await asyncio.sleep(0)
        over.set()
        for _ in range(10):  # something new for everybody, so that each stream comes to its end
            pair.publish()
    read = sum((reader.read for reader in readers), Counter[str]())
    assert min(read[kind] for kind in ("whole", "held", "keys", "page", "flags")) >= READERS, read
    assert all(len(stream.result()) > PUBLICATIONS // 10 for stream in streams)


@pytest.fixture
def _restless() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_restless")
async def test_beside_another_thread() -> None:
    """The writer in a thread of its own (which it never is): publications fall between any two steps of a read."""
    pair = Pair()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def write() -> None:
        while len(pair.decided) < PUBLICATIONS and not stop.is_set():
            pair.publish()
        loop.call_soon_threadsafe(done.set)

    readers = [Reader(pair, number) for number in range(READERS + WATCHERS)]
    async with serving(pair.world.app, state=pair.world.hydrator.snapshot) as server:
        writer = asyncio.create_task(asyncio.to_thread(write))
        try:
            async with asyncio.TaskGroup() as group:
                for reader in readers:
                    group.create_task(reader.go_on(server.port, done, hold=False))
        finally:
            stop.set()
            await writer
    assert len(pair.decided) == PUBLICATIONS
    read = sum((reader.read for reader in readers), Counter[str]())
    assert min(read[kind] for kind in ("whole", "keys", "page", "flags")) >= len(readers), read
