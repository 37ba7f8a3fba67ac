"""Who follows whom, and rings: of what the watches hold, as plain objects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configregistry.kube.objects import Meta, RegistryObject
from configregistry.model.spec import Spec, parse_spec
from configregistry.reconcile import links

SPACE = "shop"


class World:
    """Registries by name: their specs and what they have accepted."""

    def __init__(self, **specs: dict[str, Any]) -> None:
        self.specs = {name: {"data": {"deep": [[[1]]]}, **spec} for name, spec in specs.items()}

    def of(self, key: tuple[str, str]) -> RegistryObject | None:
        spec = self.specs.get(key[1]) if key[0] == SPACE else None
        if spec is None:
            return None
        status = {"fallback": spec["fallback"]} if "fallback" in spec else {}
        return RegistryObject(Meta(key[1], SPACE), json.dumps(spec).encode(), json.dumps(status).encode())

    def spec(self, name: str) -> Spec:
        return parse_spec(json.dumps(self.specs[name]).encode())

    def followed(self, name: str) -> set[str]:
        found = links.followed(SPACE, self.spec(name), self.of)
        assert {space for _, space, _ in found} <= {SPACE}
        return {f"{kind} {each}" for kind, _, each in found}

    def ring(self, name: str) -> str:
        problem = links.cycle((SPACE, name), self.spec(name), self.of)
        return problem.message.partition("cycle: ")[2] if problem else ""


def needs(*names: str, **more: Any) -> dict[str, Any]:
    return {"dependsOn": [{"name": name} for name in names], **more}


def test_all_that_may_change_what_becomes_of_a_spec_is_followed() -> None:
    world = World(
        a=needs("b", "c", fallback={"name": "f"}, project={"configMap": "files"}),
        b=needs("d", "gone"),
        c=needs("d"),
        d={},
        f={"fallback": {"name": "g"}, **needs("other")},
        sources={"dataFrom": [{"configMapRef": {"name": "x"}}, {"configMapRef": {"name": "y", "optional": True}}]},
        plain={},
    )
    assert world.followed("a") == {f"registry {each}" for each in ("b", "c", "d", "gone", "f", "g")} | {
        "configmap files"
    }
    assert world.followed("sources") == {"configmap x", "configmap y"}
    assert world.followed("plain") == set()


def test_each_member_of_a_ring_follows_all_of_it_and_says_so() -> None:
    world = World(a=needs("b"), b=needs("x", "c"), c=needs("a"), x={}, beside=needs("a"))
    assert [world.ring(name) for name in "abc"] == ["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"]
    assert world.ring("beside") == ""
    for name in ("a", "b", "c", "beside"):
        assert {"registry a", "registry b", "registry c"} <= world.followed(name)
    world.specs["c"] = {}
    assert [world.ring(name) for name in ("a", "b", "c", "beside")] == ["", "", "", ""]


@pytest.mark.parametrize("spec", [{"dependsOn": "nonsense"}, {"dependsOn": [{"name": 7}]}, {"data": {"x": None}}])
def test_what_cannot_be_read_is_followed_and_leads_no_further(spec: dict[str, Any]) -> None:
    world = World(a=needs("b"), b=spec)
    assert world.followed("a") == {"registry b"}
    assert world.ring("a") == ""


def test_a_long_way_is_looked_at_once_and_an_endless_one_not_for_ever() -> None:
    wide = World(
        **{f"r{level}-{n}": needs(*(f"r{level + 1}-{m}" for m in range(8))) for level in range(8) for n in range(8)}
    )
    assert len(wide.followed("r0-0")) == 64
    long = World(**{f"r{n}": needs(f"r{n + 1}") for n in range(2 * links.FARTHEST)})
    assert len(long.followed("r0")) == links.FARTHEST
