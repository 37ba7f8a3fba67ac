"""Differences between memory and a scripted API server (a fake), and what is only a change under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs
from tests.serve_fakes import World, body, digest, revision, status_of
from tests.unit.test_kube_fake_api import PATH, SERVER, FakeApi, Fault, answer, hang, refuse, serving, until
from tests.watch_clients import Client

from configregistry.app.consistency import Consistency
from configregistry.app.followed import Followed
from configregistry.kube import drift
from configregistry.kube.access import Access, no_token
from configregistry.kube.cache import Unreadable
from configregistry.kube.client import Api, Timeouts
from configregistry.kube.consistency import LARGE, MOST, Found, StoreCheck
from configregistry.kube.failures import ApiError
from configregistry.kube.objects import Meta, RegistryObject, RevisionObject, decode_registry
from configregistry.kube.paths import REGISTRIES
from configregistry.kube.reflector import Reflector
from configregistry.serve.consistency import PublishedCheck, hashed
from configregistry.state import Version
from configregistry.telemetry.metrics import Metrics


class WholeApi(FakeApi):
    """The fake of lists and watches, which can also be asked for one object."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []
        self.get_faults: deque[Fault] = deque()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == PATH:
            return await super().handle(request)
        name = request.path.rpartition("/")[2]
        self.gets.append(name)
        if self.get_faults:
            response = await self.get_faults.popleft()(request)
            assert response is not None
            return response
        found = self.objects.get(name)
        return answer(404, "NotFound") if found is None else web.json_response(found, headers=SERVER)


class Watched:
    """A running reflector on a fake, its audit, and faults that a test makes in its memory."""

    def __init__(self, fake: WholeApi, api: Api) -> None:
        self.fake = fake
        self.api = api
        self.reflector = Reflector(api, PATH, decode_registry, name="registries", jitter=lambda: 1.0)
        self.memory: dict[Any, RegistryObject] = self.reflector._cache._objects
        """What no program may touch: here a fault is made, as a lost event or a flipped bit would make it."""
        self.audit = StoreCheck(api, self.reflector, REGISTRIES, silent=0.2, page=2)

    async def check(self) -> list[tuple[str, str, bool]]:
        return [(found.name, found.what, found.repaired) for found in await self.audit.run(0.0)]

    @property
    def names(self) -> dict[str, int]:
        return {key[1]: int(held.meta.resource_version) for key, held in self.memory.items()}


@asynccontextmanager
async def watched(*names: str) -> AsyncIterator[Watched]:
    fake = WholeApi()
    for name in names:
        fake.put(name)
    async with serving(fake.handle) as url, Api(Access(url, no_token), timeouts=Timeouts(10.0, 10.0, 30.0)) as api:
        it = Watched(fake, api)
        task = asyncio.create_task(it.reflector.run())
        try:
            await until(lambda: it.reflector.watching and fake.open)
            yield it
        finally:
            task.cancel()
            await asyncio.wait([task])
            fake.cut()


def silently(fake: FakeApi, change: Any) -> None:
    """A change of which the open watch is told nothing: something in between swallowed the event."""
    kept, fake.open = fake.open, []
    change()
    fake.open = kept


async def test_equal_memory_costs_a_list_and_no_question() -> None:
    async with watched(*"abcde") as it:
        assert await it.check() == []
        assert it.fake.gets == []
        assert len(it.fake.lists) == 1 + 3


@pytest.mark.parametrize("quiet", [True, False])
async def test_a_deletion_that_was_swallowed(quiet: bool) -> None:
    async with watched("a", "b", "c") as it:
        silently(it.fake, lambda: it.fake.delete("b"))
        if not quiet:  # the watch goes on, beyond the event that it did not tell
            it.fake.put("c")
            await until(lambda: it.names["c"] == 105)
        told: list[Any] = []
        it.reflector.subscribe(lambda key, _old, new: told.append((key[1], new)))
        assert await it.check() == [("b", drift.DELETED, True)]
        assert told == [("b", None)]
        assert await it.check() == []


async def test_a_change_that_was_swallowed() -> None:
    async with watched("a", "b") as it:
        silently(it.fake, lambda: it.fake.put("a"))
        assert await it.check() == [("a", drift.OLDER, True)]
        assert it.names == {"a": 103, "b": 102}


async def test_a_creation_that_was_swallowed() -> None:
    async with watched("a") as it:
        silently(it.fake, lambda: it.fake.put("b"))
        assert await it.check() == [("b", drift.MISSED, True)]


async def test_what_seems_odd_twice_is_found_once() -> None:
    async with watched("a") as it:
        silently(it.fake, lambda: it.fake.put("a"))
        held = it.memory["shop", "a"]

        async def damaged() -> list[drift.Suspect]:
            return [drift.Suspect(("shop", "a"), held)]

        it.audit._damaged = damaged  # type: ignore[method-assign]
        assert await it.check() == [("a", drift.OLDER, True)]


async def test_an_object_that_was_made_anew_unseen() -> None:
    async with watched("a") as it:

        def anew() -> None:
            it.fake.delete("a")
            it.fake.put("a", uid="another")

        silently(it.fake, anew)
        assert await it.check() == [("a", drift.RECREATED, True)]


async def test_content_that_changed_in_memory_alone() -> None:
    async with watched("a", "b") as it:
        held = it.memory["shop", "a"]
        it.memory["shop", "a"] = msgspec.structs.replace(held, status=b'{"revision":7}')
        assert await it.check() == [("a", drift.ALTERED, True)]
        assert it.memory["shop", "a"] == held


async def test_of_many_differences_some_are_looked_at_and_all_are_gone() -> None:
    async with watched("a") as it:
        silently(it.fake, lambda: [it.fake.put(f"n{n}") for n in range(MOST + 20)])
        found = await it.check()
        assert len(found) == MOST
        assert all(repaired for _name, _what, repaired in found)
        assert len(it.memory) == 1 + MOST + 20


async def test_a_watch_that_is_late_is_waited_for() -> None:
    """Its events come while the check waits: nothing was lost."""
    async with watched("a", "b") as it:
        kept, it.fake.open = it.fake.open, []
        it.fake.put("a")
        it.fake.delete("b")
        it.fake.open = kept
        check = asyncio.create_task(it.check())
        await until(lambda: len(it.fake.gets) >= 2)
        for _version, line in it.fake.log[-2:]:
            it.fake.send(line)
        assert await check == []
        assert len(it.fake.lists) == 2


async def test_a_deletion_behind_the_list_is_no_difference() -> None:
    """Memory is ahead of the list, and the object goes before it is asked for."""
    async with watched("a", "b") as it:
        changed = asyncio.Event()

        async def late(_request: Any) -> web.StreamResponse:
            """The list is as of before; memory hears of a change of `a`, and of its deletion hears nothing yet."""
            listed = await it.fake._list({})
            it.fake.put("a")
            await until(lambda: it.names["a"] == 103)
            silently(it.fake, lambda: it.fake.delete("a"))
            changed.set()
            return listed

        it.fake.list_faults.append(late)
        assert await it.check() == []
        assert changed.is_set()


async def test_a_watch_that_is_closed_settles_nothing() -> None:
    async with watched("a") as it:
        it.fake.watch_faults.append(hang)
        it.fake.cut()
        await until(lambda: not it.reflector.watching)
        it.fake.put("b")
        assert await it.check() == []
        assert it.names == {"a": 101}


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
async def test_an_error_changes_nothing(code: int) -> None:
    async with watched("a") as it:
        silently(it.fake, lambda: it.fake.delete("a"))
        it.fake.list_faults.append(refuse(code, "Reason"))
        with pytest.raises(ApiError):
            await it.check()
        it.fake.get_faults.append(refuse(code, "Reason"))
        with pytest.raises(ApiError):
            await it.check()
        assert it.names == {"a": 101}
        assert len(it.fake.lists) == 3


async def test_what_cannot_be_read_is_left_as_it_is() -> None:
    def decode(raw: Any) -> RegistryObject:
        found = decode_registry(raw)
        if b"poison" in found.spec:
            raise ValueError("cannot be read")
        return found

    async with watched("a") as it:
        it.reflector._cache.decode = decode  # type: ignore[misc]
        it.audit = StoreCheck(it.api, it.reflector, REGISTRIES, silent=0.2)
        it.fake.put("a", {"poison": 1})
        await until(lambda: bool(it.reflector.unreadable))
        assert await it.check() == []
        assert it.names == {"a": 101}


async def test_relist_without_a_watch_lists_once_it_can() -> None:
    async with watched("a") as it:
        it.fake.forever = refuse(503, "ServiceUnavailable")
        it.fake.cut()
        await until(lambda: not it.reflector.watching)
        it.reflector.relist()
        it.reflector.relist()
        before = it.reflector.lists
        it.fake.forever = None
        await until(lambda: it.reflector.watching)
        assert it.reflector.lists == before + 1


async def test_relist_ends_the_watch_each_time_and_is_no_failure() -> None:
    async with watched("a") as it:
        for lists in (2, 3, 4):
            it.reflector.relist()
            await until(lambda lists=lists: it.reflector.lists == lists and it.reflector.watching)  # type: ignore[misc]
        assert not it.reflector.errors
        assert it.names == {"a": 101}


def test_positions() -> None:
    assert drift.settled(10, 10, quiet=False)
    assert not drift.settled(10, 9, quiet=False)
    assert drift.settled(10, 9, quiet=True)
    assert not drift.settled(0, 9, quiet=False)


# What is published


def published(world: World) -> PublishedCheck:
    async def turn(_seconds: float) -> None:
        world.flush()

    return PublishedCheck(world.hydrator, world.registries, sleep=turn)


def damage(version: Version, key: str, value: bytes) -> None:
    """A fault that no code of the program can make: what is served is altered in memory."""
    object.__setattr__(version, "data", version.data.set(key, value))


async def test_served_content_that_is_damaged_is_had_again() -> None:
    world = World()
    world.serve(data={"a": 1, "b": [2]}, canary={"version": 2}, canary_data={"a": 1, "b": [3]})
    world.serve("other", {"x": 1})
    assert await published(world).run() == []
    version = world.published("shop", "checkout").stable
    assert version is not None
    damage(version, "a", b"7")
    assert body(world.get("/v1/namespaces/shop/registries/checkout/keys/a"))["value"] == 7
    found = await published(world).run()
    assert [(each.registry, each.repaired) for each in found] == [("checkout", True)]
    assert found[0].what == "the content of version 1 in memory is not what was recorded"
    assert body(world.get("/v1/namespaces/shop/registries/checkout/keys/a"))["value"] == 1
    canary = world.published("shop", "checkout").canary
    assert canary is not None
    assert canary.version.get("b") == b"[3]"
    assert await published(world).run() == []


async def test_damaged_content_is_served_on_until_there_is_other() -> None:
    world = World()
    world.serve(data={"a": 1})
    version = world.published("shop", "checkout").stable
    assert version is not None
    damage(version, "a", b"7")
    kept = world.revisions["shop", "checkout-1"]
    world.revisions["shop", "checkout-1"] = msgspec.structs.replace(kept, payload=b'{"data":{"a":8}}')
    found = await published(world).run()
    assert [each.repaired for each in found] == [False]
    assert body(world.get("/v1/namespaces/shop/registries/checkout"))["data"] == {"a": 7}
    assert world.asked == [(("shop", "checkout"), "uid-checkout", 1)]
    world.hydrator.answered(("shop", "checkout"), "uid-checkout", 1, kept)
    world.flush()
    assert body(world.get("/v1/namespaces/shop/registries/checkout"))["data"] == {"a": 1}
    assert await published(world).run() == []


async def test_a_turn_that_was_never_taken() -> None:
    """Each as if the mark, or the listener's call, had been lost."""
    world = World()
    for name in ("changed", "gone", "same"):
        world.serve(name, {"a": 1})
    world.record(("shop", "changed"), 2, revision("uid-changed", {"a": 2}))
    world.flush()
    raw = msgspec.json.encode(status_of(2, 2, {"a": 2}))
    world.registries["shop", "changed"] = RegistryObject(Meta("changed", "shop", "uid-changed", "99"), b"{}", raw)
    del world.registries["shop", "gone"]
    world.registries["shop", "new"] = RegistryObject(Meta("new", "shop", "uid-new", "99"), b"{}", b"")
    found = {each.registry: (each.what, each.repaired) for each in await published(world).run()}
    assert found == {
        "changed": ("another decision is served than its status says", True),
        "gone": ("it was deleted, and is still served", True),
        "new": ("it is not served", True),
    }
    assert body(world.get("/v1/namespaces/shop/registries/changed"))["data"] == {"a": 2}


async def test_what_is_under_way_or_refused_is_no_difference() -> None:
    world = World()
    world.serve("waits", {"a": 1})
    world.serve("back", {"a": 1}, revision_number=5)
    world.put(("shop", "waits"), "uid-waits", status_of(2, 9, {"a": 9}))
    world.put(("shop", "back"), "uid-back", status_of(4, 1, {"a": 1}))
    world.flush()
    world.put(("shop", "marked"), "uid-marked", None)
    audit = published(world)
    assert world.hydrator.astray(("shop", "marked")) is None
    assert await audit.run() == []


def test_hashes_in_parts_are_those_of_whole_content() -> None:
    content = {f"k{n}": str(n).encode() for n in range(1000)}
    data = {key: int(value) for key, value in content.items()}
    for part in (1, 7, 1000, 5000):
        version = Version.derive(None, 1, digest(data), content)
        assert list(hashed(version, part))[-1]
        assert list(hashed(Version.derive(None, 1, digest({}), {}), part)) == [True]
        damage(version, "k17", b"0")
        assert not list(hashed(version, part))[-1]
    lost = Version.derive(None, 1, digest(data), content)
    object.__setattr__(lost, "data", lost.data.remove("k17").set("k-17", b"17"))
    assert list(hashed(lost))[-1] is False
    object.__setattr__(lost, "data", lost.data.remove("k-17"))
    assert list(hashed(lost)) == [False]


# What is said and counted


class Fixed:
    """In an audit's place: gives what a test wants to be found."""

    def __init__(self, *found: Any) -> None:
        self.found = list(found)
        self.read = 0

    async def run(self, _pause: float = 0.0) -> list[Any]:
        if self.found and isinstance(self.found[0], Exception):
            raise self.found[0]
        return self.found


def consistency(*found: Any, **options: Any) -> tuple[Consistency, Metrics]:
    metrics = Metrics()
    made = Consistency(None, (), None, metrics, **options)  # type: ignore[arg-type]
    made._audits = [Fixed(*found), Fixed()]  # type: ignore[list-item]
    return made, metrics


def counted(metrics: Metrics) -> dict[str, float]:
    """Each counter that is not 0, by what a person sees."""
    lines = metrics.expose("")[1].decode().splitlines()
    names = ("configregistry_consistency_checks_total", "configregistry_drift_repairs_total")
    found = (line.rpartition(" ") for line in lines if line.startswith(names))
    return {name.removeprefix("configregistry_"): float(value) for name, _, value in found if float(value)}


async def test_what_was_found_is_counted_and_said_once() -> None:
    made, metrics = consistency(
        Found("configregistries", "shop", "a", "a", drift.OLDER, repaired=True),
        Found("controllerrevisions.apps", "shop", "b-1", "b", drift.DELETED, repaired=False),
    )
    with capture_logs() as logs:
        await made.check()
    told = [(line["log_level"], line.get("registry"), line.get("differed")) for line in logs if "differed" in line]
    assert told == [("warning", "a", drift.OLDER), ("error", "b", drift.DELETED)]
    assert [line["done"] for line in logs if "done" in line] == [
        "listed again",
        "nothing yet: tried again at the next check",
    ]
    assert counted(metrics) == {'consistency_checks_total{result="differs"}': 1, "drift_repairs_total": 1}


async def test_a_check_that_cannot_be_made_is_said_rarely_and_ends_nothing() -> None:
    made, metrics = consistency(RuntimeError("away"))
    with capture_logs() as logs:
        for _ in range(8):
            assert await made.check() == []
    assert len([line for line in logs if line["log_level"] == "warning"]) == 4
    assert counted(metrics) == {'consistency_checks_total{result="failed"}': 8}


async def test_nobody_checks_at_the_same_time_as_its_neighbours_and_0_means_never() -> None:
    slept: list[float] = []
    jitters = iter([0.5, 0.0, 1.0, 0.5])

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    made, metrics = consistency(interval=100.0, jitter=lambda: next(jitters), sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await made.run()
    assert slept == [50.0, 80.0, pytest.approx(120.0), 100.0]
    assert counted(metrics) == {'consistency_checks_total{result="same"}': 3}
    never, metrics = consistency(interval=0.0)
    task = asyncio.create_task(never.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    assert counted(metrics) == {}


async def test_each_reflector_is_checked() -> None:
    followed = Followed(None, REGISTRIES, decode_registry, ("a", "b"))  # type: ignore[arg-type]
    metrics = Metrics()
    made = Consistency(None, (followed,), None, metrics)  # type: ignore[arg-type]
    assert [audit.reflector for audit in made._audits] == list(followed.reflectors)
    assert await made.check() == []
    assert counted(metrics) == {'consistency_checks_total{result="failed"}': 1}  # nothing is listed, nothing compared


async def test_large_objects_are_asked_for_a_few_at_a_time() -> None:
    async with watched(*(f"n{n}" for n in range(32))) as it:
        it.fake.objects["n0"]["spec"] = {"large": "x" * LARGE}
        audit = StoreCheck(it.api, it.reflector, REGISTRIES, silent=0.2, page=8)
        it.fake.lists.clear()
        await audit.run(0.0)
        assert [int(query["limit"]) for query in it.fake.lists][:4] == [8, 4, 8, 8]


def test_what_is_no_suspect() -> None:
    held = RegistryObject(Meta("a", "shop", "uid", "5"), b"{}")
    told = RegistryObject(Meta("a", "shop", "uid", "7"), b"{}")
    assert drift.suspects([told], {held.meta.key: held}, {}, whole=True) == [drift.Suspect(held.meta.key, held)]
    poor = {held.meta.key: Unreadable("7", "cannot be read")}
    assert drift.suspects([told], {held.meta.key: held}, poor, whole=True) == []
    assert drift.left_over(held.meta.key, held, set(), 5) == drift.Suspect(held.meta.key, held)
    assert drift.left_over(held.meta.key, held, set(), 4) is None  # made since
    assert drift.left_over(held.meta.key, held, {held.meta.key}, 5) is None


def test_a_version_without_content_is_compared_by_its_labels() -> None:
    held = RevisionObject(Meta("a-1", "shop", labels={"configregistry.dev/registry": "a"}), 1, "h", payload=b"x")
    assert drift.bare(held) == RevisionObject(held.meta, 1, "h")
    other = Meta("a", "shop")
    assert drift.bare(RegistryObject(other, b"{}")) == RegistryObject(other, b"{}")


async def test_who_watches_is_not_disturbed_by_a_repair() -> None:
    world, client = World(), Client()
    world.serve(data={"a": 1, "b": 2})
    client.connect(world)
    client.poll()
    version = world.published("shop", "checkout").stable
    assert version is not None
    damage(version, "a", b"7")
    with capture_logs() as logs:
        assert [each.repaired for each in await published(world).run()] == [True]
    assert not [line for line in logs if line["log_level"] == "error"]
    assert [event.name for event in client.poll() if event.name in {"deleted", "snapshot"}] == []
    world.serve(data={"a": 2, "b": 2}, version=2, revision_number=2)
    client.poll()
    assert client.has["shop/checkout"] == {"a": 2, "b": 2}
