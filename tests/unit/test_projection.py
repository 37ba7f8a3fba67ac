"""spec.project: what the ConfigMap holds, whose it may be, and what it costs. The API server is a fake.

`Maps` is one: ConfigMaps in memory with UIDs, resourceVersions and the refusals of the real one, which no test
can make lose a race at a given request. What the real one does: tests/integration/test_projection.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.errors import FieldError
from configregistry.kube import payload
from configregistry.kube.configmaps import ConfigMapObject, Wanted
from configregistry.kube.failures import AlreadyExists, ApiError, Conflict, Forbidden, NotFound, Unavailable
from configregistry.kube.objects import Meta, MetaObject, OwnerReference, RegistryObject, RevisionObject
from configregistry.model.content import build
from configregistry.model.names import KEY_PATTERN, MAX_CONTENT_BYTES
from configregistry.model.spec import Spec, parse_spec
from configregistry.model.status import Stable
from configregistry.reconcile import projection
from configregistry.reconcile.projection import (
    MAX_STORED,
    WHOLE,
    Projected,
    Projector,
    conflict,
    examine_projection,
    wanted_of,
)

SPACE: Final = "shop"
OWNER: Final = Meta("checkout", SPACE, "uid-1")
SPEC: Final = Spec(project=parse_spec(b'{"project":{"configMap":"files"}}').project)
CONFIGMAP_KEY: Final = re.compile(r"(?!\.\.)(?!\.$)[-._a-zA-Z0-9]{1,253}")
"""What the API server takes as a key of a ConfigMap."""


def owner_of(uid: str, name: str = "checkout", kind: str = "ConfigRegistry") -> OwnerReference:
    return OwnerReference("configregistry.dev/v1alpha1", kind, name, uid, controller=True)


class Maps:
    """The fake."""

    def __init__(self) -> None:
        self.version = 100
        self.there: dict[str, ConfigMapObject] = {}
        self.registry = RegistryObject(OWNER, b"{}")
        self.asked: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        """What somebody else does right before the next request of this kind."""
        self.failure: ApiError | None = None

    def put(self, **parts: Any) -> ConfigMapObject:
        """What anybody may do."""
        self.version += 1
        uid = f"cm-{self.version}"
        new = ConfigMapObject(Meta("files", SPACE, uid), {})
        found = self.there.get("files", new)._replace(**parts)
        stored = msgspec.structs.replace(found.meta, resource_version=str(self.version))
        self.there["files"] = found._replace(meta=stored)
        return self.there["files"]

    def drop(self) -> None:
        self.there.pop("files", None)

    @property
    def present(self) -> MetaObject | None:
        """What a watch that is not behind knows."""
        found = self.there.get("files")
        return MetaObject(found.meta) if found else None

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.before.pop(what, lambda: None)()
        if self.failure is not None and what != "get":
            raise self.failure

    def _same(self, meta: Meta) -> None:
        found = self.there.get(meta.name)
        if found is None:
            raise NotFound(meta.name)
        if (found.meta.uid, found.meta.resource_version) != (meta.uid, meta.resource_version):
            raise Conflict(meta.name)

    async def whole_configmap(self, namespace: str, name: str) -> ConfigMapObject | None:
        self._ask("get")
        return self.there.get(name)

    async def create_configmap(self, owner: Meta, name: str, wanted: Wanted) -> Meta:
        self._ask("create")
        if name in self.there:
            raise AlreadyExists(name)
        meta = Meta(name, SPACE, f"cm-{self.version}", owner_references=(owner_of(owner.uid, owner.name),))
        return self._hold(ConfigMapObject(meta, {}), wanted)

    async def change_configmap(self, found: ConfigMapObject, wanted: Wanted) -> Meta:
        self._ask("change")
        self._same(found.meta)
        assert not found.immutable, "the API server would refuse this"
        return self._hold(found, wanted)

    def _hold(self, found: ConfigMapObject, wanted: Wanted) -> Meta:
        labels, annotations = ({**found.meta.labels}, {**found.meta.annotations})
        meta = msgspec.structs.replace(
            found.meta, labels=labels | dict(wanted.labels), annotations=annotations | dict(wanted.annotations)
        )
        return self.put(meta=meta, data=dict(wanted.data), binary=False).meta

    async def remove_configmap(self, meta: Meta) -> None:
        self._ask("remove")
        self._same(meta)
        if self.there["files"].meta.annotations.get("finalizer"):
            self.put(meta=msgspec.structs.replace(meta, deletion_timestamp="2030-01-01T00:00:00Z"))
        else:
            self.drop()

    async def fresh_registry(self, key: tuple[str, str]) -> RegistryObject | None:
        self._ask("registry")
        return self.registry


class World:
    """A registry whose stable version is to be kept in a ConfigMap."""

    def __init__(self) -> None:
        self.maps = Maps()
        self.projector = Projector(self.maps)
        self.last: Projected | None = None
        self.serve(1, {"a": 1, "b": "two"})

    def serve(self, number: int, data: dict[str, Any]) -> None:
        content = build(data)
        self.stable = Stable(number, content.hash, "", content.keys)
        self.revision = RevisionObject(Meta("v", SPACE), number, content.hash, payload=payload.encode(content.json))
        self.wanted = wanted_of(OWNER.name, self.stable, content.json)

    async def look(self, spec: Spec = SPEC, present: MetaObject | type | None = object) -> list[str]:
        """One pass; gives what it asked of the API server."""
        self.maps.asked.clear()
        there = self.maps.present if present is object else present
        assert there is None or isinstance(there, MetaObject)
        self.last = await self.projector.project(OWNER, spec, self.stable, self.revision, there, self.last)
        return list(self.maps.asked)

    @property
    def right(self) -> bool:
        found = self.maps.there.get("files")
        return found is not None and found.data == self.wanted.data and found.meta.owned_by(OWNER.uid)


@pytest.fixture
def world() -> World:
    return World()


async def test_nothing_is_asked_while_nothing_changed(world: World) -> None:
    assert await world.look() == ["get", "create"]
    assert world.right
    for _ in range(3):
        assert await world.look() == []
    # What a restart forgets costs one read.
    world.last = None
    assert await world.look() == ["get"]
    assert await world.look() == []
    # A change of the version costs a read and a write; of anything else of the object, a read.
    world.serve(2, {"a": 2})
    assert await world.look() == ["get", "change"]
    assert await world.look() == []
    found = world.maps.there["files"]
    world.maps.put(meta=msgspec.structs.replace(found.meta, labels={**found.meta.labels, "team": "x"}))
    assert await world.look() == ["get"]
    assert await world.look() == []
    assert world.maps.there["files"].meta.labels["team"] == "x"


@pytest.mark.parametrize(
    "edit",
    [{"data": {"a": "1"}}, {"data": {"a": "1", "b": "two", "c": "3"}}, {"data": {}}, {"binary": True}],
    ids=str,
)
async def test_drift_is_repaired_in_place(world: World, edit: Any) -> None:
    await world.look()
    before = world.maps.put(**edit)
    assert await world.look() == ["get", "change"]
    assert world.right
    assert world.maps.there["files"].meta.uid == before.meta.uid
    assert not world.maps.there["files"].binary


async def test_drift_while_nobody_ran_is_found(world: World) -> None:
    await world.look()
    world.maps.put(data={"a": "9"})
    world.last = None
    assert await world.look() == ["get", "change"]
    assert world.right


async def test_what_cannot_be_changed_is_made_anew(world: World) -> None:
    await world.look()
    old = world.maps.put(immutable=True).meta.uid
    assert await world.look() == ["get", "remove", "get", "create"]
    assert world.right
    assert world.maps.there["files"].meta.uid != old
    assert not world.maps.there["files"].immutable


async def test_one_that_is_going_is_waited_for(world: World) -> None:
    await world.look()
    meta = world.maps.there["files"].meta
    world.maps.put(immutable=True, meta=msgspec.structs.replace(meta, annotations={"finalizer": "x"}))
    assert await world.look() == ["get", "remove", "get"]
    assert world.last is None
    assert await world.look() == ["get"]
    world.maps.drop()
    assert await world.look() == ["get", "create"]
    assert world.right


FOREIGN = [
    ((), "it belongs to no registry"),
    ((owner_of("uid-2", "basket"),), "it belongs to ConfigRegistry basket"),
    ((owner_of("uid-1", kind="Deployment"),), "it belongs to Deployment checkout"),
    ((OwnerReference("apps/v1", "ConfigRegistry", "checkout", "uid-0", controller=True),), "ConfigRegistry checkout"),
    ((OwnerReference("configregistry.dev/v1alpha1", "ConfigRegistry", "checkout", "uid-1"),), "belongs to no registry"),
]


@pytest.mark.parametrize(("owners", "told"), FOREIGN)
async def test_somebody_elses_is_never_written(world: World, owners: Any, told: str) -> None:
    theirs = world.maps.put(meta=Meta("files", SPACE, "cm", owner_references=owners), data={"a": "theirs"})
    assert told in conflict(OWNER.key, OWNER.uid, SPEC, world.maps.present)
    assert await world.look() == []
    # A watch that is behind, or has not told yet.
    for behind in (None, MetaObject(Meta("files", SPACE, "cm-0", "1", owner_references=(owner_of("uid-1"),)))):
        assert await world.look(present=behind) == ["get"]
        assert world.last is None
    # It comes between the read and the write.
    world.maps.drop()
    world.maps.before["create"] = lambda: world.maps.there.update(files=theirs)
    assert await world.look() == ["get", "create", "get"]
    assert world.maps.there["files"] == theirs


async def test_who_is_faster_is_not_overwritten(world: World) -> None:
    await world.look()
    for request in ("change", "remove"):
        world.maps.put(data={"a": "drift"}, immutable=request == "remove")
        theirs = ConfigMapObject(Meta("files", SPACE, "other", "7"), {"a": "theirs"})
        world.maps.before[request] = lambda theirs=theirs: world.maps.there.update(files=theirs)  # type: ignore[misc]
        assert await world.look() == ["get", request, "get"]
        assert world.maps.there["files"] == theirs
        world.maps.drop()
        await world.look()
        assert world.right
    # An edit by a hand meanwhile is read, and then undone.
    world.maps.put(data={"a": "drift"})
    world.maps.before["change"] = lambda: world.maps.put(data={"a": "again"})
    assert await world.look() == ["get", "change", "get", "change"]
    assert world.right


async def test_what_changes_without_end_is_given_up_for_now(world: World) -> None:
    await world.look()

    def edit() -> None:
        world.maps.put(data={"a": "drift"})
        world.maps.before["change"] = edit

    edit()
    with pytest.raises(Conflict, match="faster than it can be kept"):
        await world.look()
    world.maps.before.clear()
    await world.look()
    assert world.right


async def test_a_namesakes_is_taken_over_by_who_is_alive(world: World) -> None:
    def left() -> None:
        world.maps.put(meta=Meta("files", SPACE, "cm", owner_references=(owner_of("uid-0"),)))

    left()
    assert not conflict(OWNER.key, OWNER.uid, SPEC, world.maps.present)
    assert await world.look() == ["get", "registry", "remove", "get", "create"]
    assert world.right
    # This process may be the one that has not heard yet.
    world.maps.drop()
    left()
    alive = world.maps.there["files"]
    for now in ("uid-0", "uid-9"):
        world.maps.registry = RegistryObject(Meta("checkout", SPACE, now), b"{}")
        assert await world.look() == ["get", "registry"]
    world.maps.registry = RegistryObject(msgspec.structs.replace(OWNER, deletion_timestamp="2030"), b"{}")
    assert await world.look() == ["get", "registry"]
    assert world.maps.there["files"] == alive


async def test_a_source_is_never_written(world: World) -> None:
    spec = parse_spec(b'{"project":{"configMap":"files"},"dataFrom":[{"configMapRef":{"name":"files"}}]}')
    with pytest.raises(FieldError, match=r"'files': expected a ConfigMap that is not one of spec\.dataFrom"):
        examine_projection(spec)
    assert await world.look(spec) == []
    examine_projection(SPEC)
    examine_projection(Spec())
    assert await world.look(Spec()) == []


async def test_what_the_api_server_refuses_is_told_and_tried_again(world: World) -> None:
    world.maps.failure = Forbidden("POST …: 403 exceeded quota")
    await world.look()
    assert world.last is not None
    assert "'files': cannot be kept: POST …: 403 exceeded quota" in world.last.trouble
    assert conflict(OWNER.key, OWNER.uid, SPEC, None, world.last) == world.last.trouble
    # The same failure in other words is no news; another version's is.
    first, world.maps.failure = world.last, Forbidden("POST …: 403 denied, request 4711")
    await world.look()
    assert world.last == first
    world.serve(2, {"a": 2})
    await world.look()
    assert "4711" in world.last.trouble
    other = parse_spec(b'{"project":{"configMap":"other"}}')
    assert conflict(OWNER.key, OWNER.uid, other, None, world.last) == ""
    assert conflict(OWNER.key, OWNER.uid, Spec(), None, world.last) == ""
    world.maps.failure = None
    assert await world.look() == ["get", "create"]
    assert conflict(OWNER.key, OWNER.uid, SPEC, world.maps.present, world.last) == ""
    # No answer says nothing: tried again, and what was known is still known.
    known, world.maps.failure = world.last, Unavailable("nobody answered")
    world.maps.put(data={})
    with pytest.raises(Unavailable):
        await world.look()
    assert world.last == known


async def test_only_the_content_that_was_decided_on_is_written(world: World) -> None:
    world.revision = RevisionObject(Meta("v", SPACE), 1, "0" * 16, payload=world.revision.payload)
    assert await world.look() == []
    assert world.last is not None
    assert "expected" in world.last.trouble


KEYS = st.from_regex(KEY_PATTERN, fullmatch=True)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(KEYS | st.just(WHOLE), VALUES, max_size=8))
def test_every_key_without_a_slash_is_a_file(data: dict[str, Any]) -> None:
    content = build(data)
    wanted = wanted_of("checkout", Stable(3, content.hash, "", content.keys), content.json)
    assert wanted.data[WHOLE].encode() == content.json
    names = {key for key in data if "/" not in key and key != WHOLE}
    assert wanted.data.keys() == names | {WHOLE}
    assert all(CONFIGMAP_KEY.fullmatch(key) for key in wanted.data)
    for key in names:
        text = wanted.data[key]
        assert text == data[key] if isinstance(data[key], str) else msgspec.json.decode(text) == data[key]
    assert wanted.annotations == {
        "configregistry.dev/version": "3",
        "configregistry.dev/hash": content.hash,
        "configregistry.dev/left-out": str(len(data) - len(names)),
    }


def stored(wanted: Wanted) -> int:
    """Bytes that etcd gets at the least: data, and the names once more in managedFields."""
    return sum(2 * len(key) + len(text.encode()) + 16 for key, text in wanted.data.items())


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        ({f"k{n}": "x" * 500 for n in range(1000)}, True),
        ({"k": "ü" * (MAX_CONTENT_BYTES // 2 - 20)}, True),
        ({"k": "\x01" * (MAX_CONTENT_BYTES // 6 - 10)}, True),
        ({f"k{n}": 1 for n in range(20_000)}, True),
        ({f"feature-{n:05}-key": 1 for n in range(20_000)}, False),
        ({f"{n:05}{'k' * 240}": 1 for n in range(2_000)}, False),
    ],
    ids=["long values", "one value", "escapes", "short names", "flags", "long names"],
)
def test_all_files_or_the_whole_alone_and_it_always_fits(data: dict[str, Any], whole: bool) -> None:
    content = build(data)
    wanted = wanted_of("checkout", Stable(1, content.hash, "", content.keys), content.json)
    assert (len(wanted.data) > 1) is whole
    assert stored(wanted) <= MAX_STORED
    assert sum(len(text.encode()) for text in wanted.data.values()) <= 1024 * 1024
    assert wanted.annotations[projection.ANNOTATION_LEFT_OUT] == ("0" if whole else str(len(data)))
