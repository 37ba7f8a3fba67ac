"""The audit line of a write that the end of a term cut off: told once it is known, by whoever hears of it."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, Process, played, until
from tests.unit.test_audit import by, spec

from configregistry.app import deciding
from configregistry.app.following import Following
from configregistry.clock import SystemClock
from configregistry.kube.access import Access, no_token
from configregistry.kube.client import Api
from configregistry.kube.objects import RegistryObject, decode_registry
from configregistry.kube.paths import REGISTRIES
from configregistry.reconcile import Ledger, controller
from configregistry.settings import Settings
from configregistry.telemetry import audit
from configregistry.telemetry.audit import Record
from configregistry.telemetry.metrics import Metrics


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """All that is told."""
    found: list[Record] = []
    monkeypatch.setattr(audit, "tell", found.append)
    return found


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The one that the process keeps from term to term, as `Deciding` hands it to each."""
    kept = Ledger()
    for module in (controller, deciding):
        monkeypatch.setattr(module, "Ledger", lambda: kept)
    return kept


class Hanging(FakeApi):
    """Once it is asked to, it carries writes of a status out, or does not, and answers none."""

    silent = ""

    async def replace(self, path: str, body: bytes) -> bytes:
        if self.silent == "accepts":
            await super().replace(path, body)
        if self.silent:
            await asyncio.Event().wait()
        return await super().replace(path, body)


async def cut_off(told: list[Record], silent: str) -> Hanging:
    """A term that ends in the middle of its second decision."""
    api = Hanging()
    made = {"name": NAME, "managedFields": [{"manager": "kubectl", "time": "2030-01-01T00:00:00Z"}]}
    api.add(REGISTRIES.path(SPACE), {"metadata": made, "spec": spec(1)})
    process = Process(api, Checks(), 0.0)
    await until(lambda: bool(told))
    await asyncio.sleep(1)
    api.silent = silent
    by(api, "alice")
    api.edit(REGISTRY, spec=spec(2))
    await asyncio.sleep(1)
    await process.kill()
    assert api.status.revision == (2 if silent == "accepts" else 1)
    assert [each.after["revision"] for each in told] == [1]
    api.silent = ""
    return api


@pytest.mark.parametrize("silent", ["accepts", "loses"])
def test_the_next_term_tells_of_it_once_whatever_became_of_it(told: list[Record], ledger: Ledger, silent: str) -> None:
    async def life() -> None:
        api = await cut_off(told, silent)
        process = Process(api, Checks(), 0.0)
        await until(lambda: len(told) > 2)
        await process.kill()

    played(life())
    assert [(each.who, each.what, each.after["revision"]) for each in told[:2]] == [
        ("kubectl", "RolloutCompleted", 1),
        ("alice", "RolloutStarted", 2),
    ]
    assert 2 not in [each.after["revision"] for each in told[2:]]


@pytest.mark.parametrize(("silent", "lines"), [("accepts", ["alice"]), ("loses", [])])
def test_who_is_out_of_office_tells_of_it_as_soon_as_it_hears(
    told: list[Record], ledger: Ledger, silent: str, lines: list[str]
) -> None:
    """Another process may lead for days."""

    async def life() -> RegistryObject:
        api = await cut_off(told, silent)
        if silent == "loses":  # whoever leads by now writes something else
            api.edit(REGISTRY, status={**api.objects[REGISTRY]["status"], "revision": 2})
        return decode_registry(json.dumps(api.objects[REGISTRY]).encode())

    found = played(life())
    told.clear()
    asyncio.run(heard(found))
    assert [each.who for each in told] == lines


async def heard(found: RegistryObject) -> None:
    """A process that decides, as it is wired, but does not lead, is told of an object, twice."""
    async with Api(Access("http://127.0.0.1:9", no_token)) as api:
        following = Following(api, (), decide=True)
        half = deciding.Deciding(Settings(), api, following, SystemClock(), Metrics())
        (reflector,) = following.registries.reflectors
        for version in ("1000", "1001"):
            meta = msgspec.structs.replace(found.meta, resource_version=version)
            reflector._cache.put(msgspec.structs.replace(found, meta=meta))
        await half.close()


async def test_each_term_is_given_the_same_ledger() -> None:
    async with Api(Access("http://127.0.0.1:9", no_token)) as api:
        half = deciding.Deciding(Settings(), api, Following(api, (), decide=True), SystemClock(), Metrics())
        kept = []
        for _ in range(2):
            term = half._term()
            kept.append(term._controller._actor._ledger)
            await term.close()
        assert kept == [half._ledger] * 2
        await half.close()
