"""Who names a registry: kept from a reflector's changes, one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configregistry.kube.objects import Meta, RegistryObject
from configregistry.reconcile.links import Named

SPACE = "shop"


class World:
    """Registries, and who names whom of them."""

    def __init__(self) -> None:
        self.named = Named()
        self.there: dict[tuple[str, str], RegistryObject] = {}

    def put(self, name: str, spec: Any, *, space: str = SPACE, status: bytes = b"") -> None:
        old = self.there.get((space, name))
        raw = spec if isinstance(spec, bytes) else json.dumps(spec).encode()
        new = self.there[space, name] = RegistryObject(Meta(name, space), raw, status)
        self.named.changed((space, name), old, new)

    def drop(self, name: str) -> None:
        self.named.changed((SPACE, name), self.there.pop((SPACE, name)), None)

    def by(self, name: str, space: str = SPACE) -> set[str]:
        found = self.named.by((space, name))
        assert {each for each, _ in found} <= {space}
        return {name for _, name in found}


def needs(*names: str, **more: Any) -> dict[str, Any]:
    return {"dependsOn": [{"name": name} for name in names], **more}


def test_dependencies_and_fallbacks_count_and_only_in_their_own_namespace() -> None:
    world = World()
    world.put("a", needs("x", "y"))
    world.put("b", {"fallback": {"name": "x"}})
    world.put("c", needs("x", fallback={"name": "x"}))
    world.put("d", needs("x"), space="other")
    world.put("e", {"data": {"x": "y"}})
    assert (world.by("x"), world.by("y"), world.by("a")) == ({"a", "b", "c"}, {"a"}, set())
    assert world.by("x", "other") == {"d"}


def test_an_edit_takes_back_what_it_does_not_say_any_more() -> None:
    world = World()
    world.put("a", needs("x", "y"))
    world.put("a", needs("y", "z"))
    assert (world.by("x"), world.by("y"), world.by("z")) == (set(), {"a"}, {"a"})
    world.put("a", {"data": {}})
    assert world.by("y") == world.by("z") == set()


def test_a_status_changes_nothing() -> None:
    world = World()
    world.put("a", needs("x"))
    world.put("a", needs("x"), status=b'{"revision":2}')
    assert world.by("x") == {"a"}


@pytest.mark.parametrize("spec", [b'{"dependsOn": "nonsense"}', b'{"fallback": {"name": 7}}', b'{"dependsOn": ['])
def test_what_cannot_be_read_names_nobody_and_breaks_nothing(spec: bytes) -> None:
    world = World()
    world.put("a", needs("x"))
    world.put("a", spec)
    assert world.by("x") == set()
    world.put("a", needs("x"))
    assert world.by("x") == {"a"}


def test_nothing_is_kept_of_what_is_gone_nor_of_who_was_only_asked_for() -> None:
    world = World()
    for number in range(10):
        world.put(f"r{number}", needs("x", f"r{number + 1}"))
    assert world.by("never") == set()
    for number in range(10):
        world.drop(f"r{number}")
    assert world.by("x") == set()
    assert not world.named._by
