"""The search for deletions that were lost, beside objects that cannot be read. The API server is a scripted fake."""

from __future__ import annotations

from typing import Any

from tests.unit.test_consistency import Watched, silently, watched
from tests.unit.test_kube_fake_api import until

from configregistry.kube import drift
from configregistry.kube.consistency import StoreCheck
from configregistry.kube.objects import RegistryObject, decode_registry
from configregistry.kube.paths import REGISTRIES


def poison(it: Watched) -> None:
    """From now on what says so cannot be read, neither by the reflector nor by its check."""

    def decode(raw: Any) -> RegistryObject:
        if b"poison" in bytes(raw):
            raise ValueError("cannot be read")
        return decode_registry(raw)

    it.reflector._cache.decode = decode  # type: ignore[misc]
    it.audit = StoreCheck(it.api, it.reflector, REGISTRIES, silent=0.2, page=2)


async def test_one_unreadable_object_hides_no_lost_deletion() -> None:
    async with watched("a", "b", "c") as it:
        poison(it)
        it.fake.put("c", {"poison": 1})
        await until(lambda: bool(it.reflector.unreadable))
        silently(it.fake, lambda: it.fake.delete("b"))
        assert await it.check() == [("b", drift.DELETED, True)]
        assert it.names == {"a": 101, "c": 103}, "and is kept as it was"


async def test_one_whose_name_cannot_be_read_may_be_any_of_those_that_are_missing() -> None:
    async with watched("a", "b") as it:
        silently(it.fake, lambda: it.fake.delete("b"))
        it.fake.objects["nameless"] = {"metadata": {"namespace": "shop"}, "spec": {}}
        assert await it.check() == []
        assert it.names == {"a": 101, "b": 102}
        assert it.fake.gets == []
