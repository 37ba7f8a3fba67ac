"""Pruning asks who still runs with an old version; it waits while that cannot be known. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Self, cast

import pytest
from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, Process, VirtualLoop

from configregistry.kube.paths import REGISTRIES, REVISIONS
from configregistry.reconcile import Collector
from configregistry.reconcile.reconciler import TIDY_RETRY

STABLE, PREVIOUS = 5, 4


class Told:
    """In place of a collector: the versions that consumers run with are those that a test says."""

    def __init__(self, versions: Collection[int] | None) -> None:
        self.versions = versions
        self.asked: set[tuple[str, str, str]] = set()

    def subscribe(self, _news: object) -> Callable[[], None]:
        return lambda: None

    subscribe_reads = subscribe

    def last_read(self, *_owner: str) -> float | None:
        return None

    def reported(self, *owner: str) -> Collection[int] | None:
        self.asked.add(cast("tuple[str, str, str]", owner))
        return self.versions


def spec(n: int, limit: int) -> dict[str, Any]:
    return {"data": {"n": n}, "revisionHistoryLimit": limit}


class World:
    """A registry at its fifth version."""

    def __init__(self, told: Told | None, limit: int = 0) -> None:
        self.api = FakeApi()
        self.told = told
        self.limit = limit
        self.process: Process | None = None

    async def reach(self) -> None:
        self.api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec(1, self.limit)})
        self.process = Process(self.api, Checks(), 0.0, cast("Collector", self.told))
        for n in range(1, STABLE + 1):
            if n > 1:
                self.api.edit(REGISTRY, spec=spec(n, self.limit))
            while self.api.status.stable is None or self.api.status.stable.version != n:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)

    async def __aenter__(self) -> Self:
        await self.reach()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        await self.process.kill()

    def versions(self) -> set[int]:
        return set(self.api.versions())

    def deletes(self) -> int:
        return sum(each.startswith("DELETE") for each in self.api.requests)

    def reads(self) -> int:
        return len(self.api.requests)


def played(main: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("reported", "limit", "left"),
    [
        ((), 0, {PREVIOUS, STABLE}),
        ({1}, 0, {1, PREVIOUS, STABLE}),
        ({2, 3}, 0, {2, 3, PREVIOUS, STABLE}),
        ({1, 99}, 0, {1, PREVIOUS, STABLE}),
        ({STABLE}, 0, {PREVIOUS, STABLE}),
        ((), 2, {3, PREVIOUS, STABLE}),
        ({1}, 2, {1, PREVIOUS, STABLE}),
        (None, 0, {1, 2, 3, PREVIOUS, STABLE}),
        ((), 10, {1, 2, 3, PREVIOUS, STABLE}),
    ],
)
def test_what_is_left(reported: Collection[int] | None, limit: int, left: set[int]) -> None:
    async def main() -> None:
        told = Told(reported)
        async with World(told, limit) as world:
            assert world.versions() == left
            uid = world.api.objects[REGISTRY]["metadata"]["uid"]
            assert told.asked <= {(SPACE, NAME, uid)}
            assert bool(told.asked) == (limit < 4)

    played(main())


def test_without_replicas_there_is_nobody_to_ask() -> None:
    async def main() -> None:
        async with World(None) as world:
            assert world.versions() == {PREVIOUS, STABLE}

    played(main())


@pytest.mark.parametrize("before", [None, {1, 2, 3}, {2}])
def test_what_had_to_stay_goes_later_by_itself(before: set[int] | None) -> None:
    async def main() -> None:
        told = Told(before)
        async with World(told) as world:
            assert world.versions() == {*(before if before is not None else {1, 2, 3}), PREVIOUS, STABLE}
            reads = world.reads()
            await asyncio.sleep(TIDY_RETRY * 3)
            assert world.reads() == reads, "to wait costs the API server nothing"
            told.versions = ()
            await asyncio.sleep(TIDY_RETRY + 1)
            assert world.versions() == {PREVIOUS, STABLE}
            assert REVISIONS.path(SPACE, f"{NAME}-{STABLE}") in world.api.objects

    played(main())


def test_with_nothing_too_old_nobody_looks_again() -> None:
    async def main() -> None:
        told = Told(None)
        async with World(told, limit=10) as world:
            await asyncio.sleep(TIDY_RETRY * 10)
            assert not told.asked
            assert world.deletes() == 0

    played(main())
