"""A consistency check against a watch that is late in every way, and one that loses events.

The API server, the watch and time are fakes: what comes when is Hypothesis's. Whatever the order, an audit finds
nothing where every event comes in the end, and never lets pass what does not come at all.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from configregistry.kube.cache import Cache
from configregistry.kube.client import Api
from configregistry.kube.consistency import STEPS, StoreCheck
from configregistry.kube.failures import NotFound
from configregistry.kube.objects import Key, RegistryObject, decode_registry
from configregistry.kube.paths import METADATA, METADATA_LIST, REGISTRIES
from configregistry.kube.reflector import Reflector, Source

NAMES = ("a", "b", "c", "d")
LONGEST = STEPS // 2
"""An open watch has said something of what it has to say after so many steps."""


class Truth:
    """The API server's objects, what a watch has still to tell of them, and a reflector that hears it. All fakes."""

    def __init__(self, random: Random, losing: frozenset[int]) -> None:
        self.random = random
        self.losing = losing
        """Which of the events, counted, never come."""
        self.version = 10
        self.objects: dict[str, dict[str, Any]] = {}
        self.coming: deque[tuple[int, str, dict[str, Any]]] = deque()
        self.events = 0
        self.cache = Cache("fake", decode_registry, lambda _reason: None)
        self.store: Mapping[Key, RegistryObject] = self.cache.store
        self.unreadable = self.cache.unreadable
        self.synced = asyncio.Event()
        self.synced.set()
        self.watching = True
        self.lists = 1
        self.position = 10
        self.due = False
        self.waited = 0
        self.calm = False
        self.looks = 0

    # What a reflector has.

    @property
    def source(self) -> Source[RegistryObject]:
        return Source("/list", {}, decode_registry, METADATA_LIST, METADATA)

    def relist(self) -> None:
        self.due = True

    # What an API client has.

    async def list(self, _path: str, params: Mapping[str, str], **_: Any) -> bytes:
        self.happen()
        token = params.get("continue", "")
        if not token:
            self.snapshot = (self.version, [json.dumps(self.objects[name]) for name in sorted(self.objects)])
        version, items = self.snapshot
        start, limit = int(token or 0), int(params["limit"])
        more = str(start + limit) if start + limit < len(items) else ""
        meta = json.dumps({"resourceVersion": str(version), "continue": more})
        return f'{{"metadata":{meta},"items":[{",".join(items[start : start + limit])}]}}'.encode()

    async def get(self, path: str, **_: Any) -> bytes:
        self.happen()
        found = self.objects.get(path.rpartition("/")[2])
        if found is None:
            raise NotFound("absent")
        answer = json.dumps(found).encode()
        self.happen()
        return answer

    async def sleep(self, _seconds: float) -> None:
        self.happen()
        self.waited += 1
        if self.due and self.random.random() < 0.5:
            self.listed()
        if not self.watching and self.random.random() < 0.5:
            self.watching = True
        if self.watching and self.waited >= LONGEST:
            self.deliver()

    def timer(self) -> float:
        """Every look at it takes a millisecond."""
        self.looks += 1
        return self.looks / 1000

    # What happens.

    def happen(self) -> None:
        """Some of it, at any moment at which anything is awaited."""
        for _ in range(self.random.randrange(4)):
            move = self.random.random()
            if move < 0.4 and not self.calm:
                self.change()
            elif move < 0.8:
                self.deliver()
            elif move < 0.85:
                self.watching = False
            elif move < 0.9 and not self.coming and self.watching:
                self.position = self.version  # a bookmark

    def change(self) -> None:
        name = self.random.choice(NAMES)
        self.version += 1
        found = self.objects.get(name)
        if found is not None and self.random.random() < 0.3:
            self.coming.append((self.version, "DELETED", self.objects.pop(name)))
            return
        uid = found["metadata"]["uid"] if found else f"uid-{self.version}"
        meta = {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": str(self.version)}
        self.objects[name] = {"metadata": meta, "spec": {"v": self.version}}
        self.coming.append((self.version, "MODIFIED", self.objects[name]))

    def deliver(self) -> None:
        if not self.coming or not self.watching:
            return
        version, kind, found = self.coming.popleft()
        self.waited = 0
        self.events += 1
        if self.events in self.losing:
            return
        self.position = version
        read = decode_registry(json.dumps(found).encode())
        if kind == "DELETED":
            self.cache.remove(read.meta.key)
        else:
            self.cache.put(read)

    def listed(self) -> None:
        self.coming.clear()
        self.cache.replace(decode_registry(json.dumps(found).encode()) for found in self.objects.values())
        self.position = self.version
        self.due, self.lists = False, self.lists + 1

    @property
    def equal(self) -> bool:
        held = {key[1]: each.meta.resource_version for key, each in self.store.items()}
        return held == {name: found["metadata"]["resourceVersion"] for name, found in self.objects.items()}

    def audit(self) -> StoreCheck[RegistryObject]:
        reflector = cast("Reflector[RegistryObject]", self)
        return StoreCheck(
            cast("Api", self), reflector, REGISTRIES, sleep=self.sleep, timer=self.timer, silent=1.0, page=2
        )


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_what_comes_late_is_never_a_difference(random: Random) -> None:
    async def run() -> None:
        truth = Truth(random, frozenset())
        audit = truth.audit()
        for _ in range(5):
            assert await audit.run(0.1) == []
        assert truth.lists == 1

    asyncio.run(run())


@given(random=st.randoms(use_true_random=False), losing=st.sets(st.integers(1, 30), min_size=1))
@settings(max_examples=150, deadline=None)
def test_what_never_comes_is_put_right(random: Random, losing: set[int]) -> None:
    async def run() -> None:
        truth = Truth(random, frozenset(losing))
        audit = truth.audit()
        for _ in range(3):
            await audit.run(0.1)
        truth.calm = True
        while truth.coming:
            await truth.sleep(0.0)
        for _ in range(3):  # one may end while the watch is closed
            found = await audit.run(0.1)
            if truth.equal:
                break
            assert all(each.repaired for each in found)
        assert truth.equal
        assert await audit.run(0.1) == []

    asyncio.run(run())
