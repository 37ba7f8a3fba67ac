"""kube/ against a real API server: races, preconditions, byte-exact content, restarts, rights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.cluster import KubeCluster, wait_for

from configregistry.kube import history, revisions
from configregistry.kube.client import Api, connect
from configregistry.kube.configmaps import read_configmap
from configregistry.kube.envelopes import decode_page
from configregistry.kube.events import Recorder
from configregistry.kube.failures import (
    AlreadyExists,
    Conflict,
    Invalid,
    MissingCrdError,
    NoClusterError,
    NotFound,
    NotPermittedError,
)
from configregistry.kube.history import Mark
from configregistry.kube.objects import (
    Meta,
    RegistryObject,
    RevisionObject,
    decode_meta,
    decode_registry,
    decode_revision,
)
from configregistry.kube.paths import CONFIGMAPS, EVENTS, METADATA, REGISTRIES, REVISIONS
from configregistry.kube.payload import DamagedVersion
from configregistry.kube.preflight import SERVE_NEEDS, lease_needs, preflight
from configregistry.kube.reflector import Reflector
from configregistry.kube.revisions import claim, list_versions, mark, prune, record, restore
from configregistry.kube.status import write_status
from configregistry.model.content import Content, build
from configregistry.model.names import LABEL_REGISTRY
from configregistry.model.status import Stable, Status
from configregistry.rollout.observation import Note, VersionInfo

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="module")
def registries(cluster: KubeCluster) -> KubeCluster:
    """A cluster that knows ConfigRegistry."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "configregistries.configregistry.dev")
    return cluster


@pytest_asyncio.fixture
async def api(registries: KubeCluster) -> AsyncIterator[Api]:
    async with await connect(str(registries.kubeconfig)) as connected:
        yield connected


@pytest_asyncio.fixture
async def owner(api: Api, namespace: str) -> Meta:
    return (await create_registry(api, namespace)).meta


async def create_registry(api: Api, namespace: str, **spec: Any) -> RegistryObject:
    body = {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": "checkout"},
        "spec": {"data": {"a": 1}} | spec,
    }
    return decode_registry(await api.create(REGISTRIES.path(namespace), msgspec.json.encode(body)))


async def stored(api: Api, owner: Meta, number: int) -> RevisionObject:
    path = REVISIONS.path(owner.namespace, f"{owner.name}-{number}")
    return decode_revision(await api.get(path))


async def recorded(api: Api, owner: Meta, count: int) -> list[VersionInfo]:
    return [await record(api, owner, some(n), parent=n, last_version=n) for n in range(count)]


def some(number: int) -> Content:
    return build({"n": number})


async def until(true: Any, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


# Recording.


async def test_equal_content_is_recorded_once_whoever_records_it(api: Api, owner: Meta) -> None:
    infos = await asyncio.gather(*(record(api, owner, some(1), parent=0, last_version=0) for _ in range(8)))
    assert set(infos) == {VersionInfo(1, some(1).hash, 1)}
    assert [each.number for each in await list_versions(api, owner.namespace, owner.name)] == [1]


async def test_writers_at_once_get_a_number_each(api: Api, owner: Meta) -> None:
    infos = await asyncio.gather(*(record(api, owner, some(n), parent=0, last_version=0) for n in range(8)))
    assert sorted(info.number for info in infos) == list(range(1, 9))
    found = await list_versions(api, owner.namespace, owner.name)
    assert {each.number: each.hash for each in found} == {info.number: info.hash for info in infos}
    assert all(each.content() == some(infos.index(i)).json for each in found for i in infos if i.hash == each.hash)


async def test_a_number_follows_the_highest_ever_used(api: Api, owner: Meta) -> None:
    info = await record(api, owner, some(1), parent=3, last_version=41)
    assert info.number == 42
    found = await stored(api, owner, 42)
    assert (found.parent, found.keys, found.registry) == (3, 1, "checkout")
    assert found.owner_uid == owner.uid
    # A list that was read before another one wrote:
    late = await record(api, owner, some(2), parent=0, last_version=0, existing=[])
    assert late.number == 1
    again = await record(api, owner, some(3), parent=0, last_version=41, existing=[])
    assert again.number == 43


async def test_content_that_was_recorded_before_is_claimed(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 3)
    before = await stored(api, owner, 1)
    info = await record(api, owner, some(0), parent=3, last_version=3)
    assert info == VersionInfo(1, some(0).hash, 1)
    after = await stored(api, owner, 1)
    assert after.meta.resource_version != before.meta.resource_version
    assert "configregistry.dev/claimed" in after.meta.annotations


async def test_versions_of_a_deleted_namesake_make_way(api: Api, owner: Meta) -> None:
    dead = msgspec.structs.replace(owner, uid="00000000-0000-0000-0000-000000000000")
    await record(api, dead, some(1), parent=0, last_version=0)
    info = await record(api, owner, some(1), parent=0, last_version=0)
    assert info.number == 1
    assert (await stored(api, owner, 1)).owner_uid == owner.uid


async def test_one_who_knows_only_a_dead_namesake_takes_nothing_away(api: Api, owner: Meta) -> None:
    await record(api, owner, some(1), parent=0, last_version=0)
    dead = msgspec.structs.replace(owner, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict, match="another object"):
        await record(api, dead, some(2), parent=0, last_version=0)
    assert (await stored(api, owner, 1)).hash == some(1).hash


async def test_an_object_of_somebody_else_keeps_its_name(api: Api, owner: Meta) -> None:
    body = {"metadata": {"name": "checkout-1"}, "data": {"mine": True}, "revision": 1}
    await api.create(REVISIONS.path(owner.namespace), msgspec.json.encode(body))
    info = await record(api, owner, some(1), parent=0, last_version=0)
    assert info.number == 2
    assert (await stored(api, owner, 1)).payload == b'{"mine":true}'


@pytest.mark.parametrize(
    "data",
    [
        {"k": {"null": None, "list": [None], "deep": {"x": None}}},
        {
            "k": 1.0,
            "i": 2**53 - 1,
            "n": -(2**53) + 1,
            "f": 5e-324,
            "e": 1e21,
            "h": 1.7e308,
            "z": -0.0,
        },
        {"k": '<script>&\u2028\u2029\\u003c\x00\x7f\U0001f600é"\\'},
        {"k": {"apiVersion": "v1", "kind": "Pod", "metadata": None}},
        {},
    ],
)
async def test_content_is_kept_to_the_byte_also_when_it_is_annotated(
    api: Api, owner: Meta, data: dict[str, Any]
) -> None:
    content = build(data)
    await record(api, owner, content, parent=0, last_version=0)
    found = await stored(api, owner, 1)
    assert found.content() == content.json
    await claim(api, found)
    await mark(api, found, Mark(served=3))
    assert (await stored(api, owner, 1)).content() == content.json


async def test_512_kib_are_kept_to_the_byte(api: Api, owner: Meta) -> None:
    content = build({f"key.{n}": secrets.token_hex(253) for n in range(1000)})
    assert 500_000 < len(content.json) <= 512 * 1024
    await record(api, owner, content, parent=0, last_version=0)
    found = await stored(api, owner, 1)
    assert found.content() == content.json
    assert len(found.payload) < 400_000
    await mark(api, found, Mark(served=1))
    [listed] = await list_versions(api, owner.namespace, owner.name, contents=False)
    assert (listed.number, listed.hash, listed.payload) == (1, content.hash, b"")


async def test_content_is_immutable_and_a_swapped_object_is_seen(api: Api, owner: Meta) -> None:
    await record(api, owner, some(1), parent=0, last_version=0)
    path = REVISIONS.path(owner.namespace, "checkout-1")
    with pytest.raises(Invalid):
        await api.patch(path, b'{"data":{"data":{"n":2}}}')
    raw = json.loads(await api.get(path))
    await api.delete(path)
    raw["data"] = {"data": {"n": 2}}
    del raw["metadata"]["resourceVersion"]
    await api.create(REVISIONS.path(owner.namespace), json.dumps(raw).encode())
    with pytest.raises(DamagedVersion, match="recorded as"):
        (await stored(api, owner, 1)).content()


async def test_a_version_deleted_by_hand_is_made_again_under_its_number(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 2)
    before = await mark(api, await stored(api, owner, 1), Mark(served=7))
    held = await stored(api, owner, 1)
    await api.delete(REVISIONS.path(owner.namespace, "checkout-1"))
    await asyncio.gather(restore(api, owner, held), restore(api, owner, held))
    after = await stored(api, owner, 1)
    assert after.content() == held.content()
    assert history.mark_of(after) == history.mark_of(before) == Mark(served=7)
    assert after.meta.uid != held.meta.uid
    with pytest.raises(AlreadyExists):
        await restore(api, owner, msgspec.structs.replace(await stored(api, owner, 2), number=1))
    with pytest.raises(DamagedVersion):
        await restore(api, owner, before)  # it has only metadata


# Pruning, claims, marks.


async def served(api: Api, owner: Meta, stable: int, limit: int) -> RegistryObject:
    path = REGISTRIES.path(owner.namespace, owner.name)
    body = json.dumps({"spec": {"revisionHistoryLimit": limit}}).encode()
    found = decode_registry(await api.patch(path, body))
    status = Status(uid=owner.uid, stable=Stable(stable, "0" * 16), revision=9, last_version=stable)
    return await write_status(api, found, status)


async def test_pruning_leaves_the_limit_and_what_is_reported(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 6)
    assert await prune(api, owner) == []  # no status yet: nothing is known
    await served(api, owner, 6, 1)
    assert await prune(api, owner, reported={2}) == [1, 3, 4, 5]
    left = await list_versions(api, owner.namespace, owner.name, contents=False)
    assert sorted(each.number for each in left) == [2, 6]


async def test_a_claim_and_a_pruner_cannot_cross(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 4)
    await served(api, owner, 4, 0)

    class Crossing:
        """The API, with a claim between the pruner's list and its deletions."""

        def __getattr__(self, name: str) -> Any:
            return getattr(api, name)

        async def delete(self, path: str, **conditions: Any) -> bytes:
            if path.endswith("-2"):
                await claim(api, await stored(api, owner, 2))
            return await api.delete(path, **conditions)

    assert await prune(Crossing(), owner) == [1, 3]  # type: ignore[arg-type]
    # Claimed a moment ago, with the status not yet written:
    assert await prune(api, owner) == []
    gone = msgspec.structs.replace(await stored(api, owner, 2), meta=Meta("checkout-1", owner.namespace, "u"))
    with pytest.raises(NotFound):
        await claim(api, gone)


async def test_a_namesake_is_never_pruned_by_another_status(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 3)
    await served(api, owner, 3, 0)
    assert await prune(api, msgspec.structs.replace(owner, uid="other")) == []


async def test_an_annotation_gets_through_though_the_object_was_changed(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 1)
    old = await stored(api, owner, 1)
    first, second = await asyncio.gather(mark(api, old, Mark(served=1)), claim(api, old))
    found = await stored(api, owner, 1)
    assert history.mark_of(found) == Mark(served=1)
    assert "configregistry.dev/claimed" in found.meta.annotations
    assert first.payload == second.payload == b""


async def test_a_status_lost_is_made_again_from_what_the_cluster_holds(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 3)
    found = await list_versions(api, owner.namespace, owner.name)
    status = Status(uid=owner.uid, stable=Stable(2, some(1).hash), revision=12)
    for each, verdict in history.due_marks(found, status):
        await mark(api, each, verdict)
    again = revisions.recover(await list_versions(api, owner.namespace, owner.name), owner.uid)
    assert again.stable == Stable(2, some(1).hash, keys=1)
    assert again.revision > 12
    assert again.last_version == 3


# Status.


async def test_a_status_is_written_once_on_one_state(api: Api, namespace: str) -> None:
    found = await create_registry(api, namespace)
    status = Status(uid=found.meta.uid, stable=Stable(1, "0" * 16), revision=1)
    written = await write_status(api, found, status)
    assert json.loads(written.status)["revision"] == 1
    assert written.spec == found.spec
    assert written.meta.generation == found.meta.generation
    with pytest.raises(Conflict):
        await write_status(api, found, status)
    other = msgspec.structs.replace(written.meta, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict):
        await write_status(api, msgspec.structs.replace(written, meta=other), status)
    await api.delete(REGISTRIES.path(namespace, "checkout"))
    with pytest.raises(NotFound):
        await write_status(api, written, status)


# Events and ConfigMaps.


async def test_events_are_taken_and_count(api: Api, owner: Meta) -> None:
    recorder = Recorder(api, instance="test")
    task = asyncio.create_task(recorder.run())
    for _ in range(3):
        recorder.tell(owner, Note("Warning", "RolledBack", "errors 4 % > 3 %"))
        await recorder.drain()
    task.cancel()
    assert recorder.dropped == 0
    [event] = json.loads(await api.list(EVENTS.path(owner.namespace)))["items"]
    assert event["series"]["count"] == 3
    assert event["regarding"]["uid"] == owner.uid


async def test_a_configmap_is_read_or_absent(api: Api, namespace: str) -> None:
    assert await read_configmap(api, namespace, "base") is None
    body = b'{"metadata":{"name":"base"},"data":{"a":"1"},"binaryData":{"b":"AA=="}}'
    await api.create(CONFIGMAPS.path(namespace), body)
    found = await read_configmap(api, namespace, "base")
    assert found is not None
    assert found.data == {"a": "1"}
    raw = await api.get(CONFIGMAPS.path(namespace, "base"), accept=METADATA)
    assert found.resource_version == decode_meta(raw).meta.resource_version


# The reflector.


@contextlib.asynccontextmanager
async def following(*reflectors: Reflector[Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run()) for each in reflectors]
    try:
        for each in reflectors:
            await asyncio.wait_for(each.synced.wait(), 30)
        yield
    finally:
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_an_object_nested_too_deep_blinds_nobody(api: Api, namespace: str) -> None:
    reflector = Reflector(api, REGISTRIES.path(namespace), decode_registry, name="registries")
    deep = b"[" * 5000 + b"]" * 5000
    body = b'{"apiVersion":"configregistry.dev/v1alpha1","kind":"ConfigRegistry",'
    body += b'"metadata":{"name":"%b"},"spec":{"data":{"a":%b}}}'
    await api.create(REGISTRIES.path(namespace), body % (b"listed", deep))
    async with following(reflector):
        await api.create(REGISTRIES.path(namespace), body % (b"watched", deep))
        await create_registry(api, namespace)
        await until(lambda: len(reflector.store) == 3)
    assert not reflector.errors


async def test_everything_is_seen_through_a_restart_of_the_api_server(
    own_cluster: KubeCluster, api: Api, namespace: str
) -> None:
    changes: list[tuple[str, bool]] = []
    reflector = Reflector(api, CONFIGMAPS.path(namespace), decode_meta, name="configmaps", metadata_only=True)
    versions = Reflector(
        api,
        REVISIONS.path(),
        decode_revision,
        name="versions",
        params={"labelSelector": LABEL_REGISTRY},
        page=50,
    )
    reflector.subscribe(lambda key, _old, new: changes.append((key[1], new is not None)))

    def named() -> set[str]:
        return {name for _ns, name in reflector.store} - {"kube-root-ca.crt"}

    async def create(name: str) -> None:
        await api.create(CONFIGMAPS.path(namespace), b'{"metadata":{"name":"%b"}}' % name.encode())

    for name in ("a", "b"):
        await create(name)
    async with following(reflector, versions):
        await until(lambda: reflector.watching)
        assert named() == {"a", "b"}
        assert reflector.staleness() == 0
        await asyncio.to_thread(own_cluster.kill_component, "kube-apiserver")
        await until(lambda: not reflector.watching)
        await until(lambda: (reflector.staleness() or 0) > 0.5)
        assert named() == {"a", "b"}  # silence changes nothing
        await asyncio.to_thread(own_cluster.start_component, "kube-apiserver")
        async with await connect(str(own_cluster.kubeconfig)) as other:
            await other.delete(CONFIGMAPS.path(namespace, "a"))
            await create("c")
        await until(lambda: named() == {"b", "c"} and reflector.watching)
        assert reflector.staleness() == 0
        await until(lambda: versions.watching)
        owner = (await create_registry(api, namespace)).meta
        await record(api, owner, some(1), parent=0, last_version=0)
        await until(lambda: (namespace, "checkout-1") in versions.store)
    assert ("a", False) in changes
    assert changes.count(("b", True)) == 1


async def test_a_page_at_a_time_gives_all(api: Api, owner: Meta) -> None:
    await recorded(api, owner, 7)
    reflector = Reflector(api, REVISIONS.path(owner.namespace), decode_revision, name="v", page=2)
    page = decode_page(await api.list(REVISIONS.path(owner.namespace), {"limit": "2"}))
    assert page.continue_token
    async with following(reflector):
        assert sorted(each.number for each in reflector.store.values()) == list(range(1, 8))


# Preflight.


async def test_rights_that_are_missing_are_named(registries: KubeCluster, namespace: str) -> None:
    kubeconfig = registries.user_kubeconfig("reader")
    registries.kubectl(
        "create", "role", "reader", f"--namespace={namespace}", "--verb=get,list",
        "--resource=configregistries.configregistry.dev,controllerrevisions.apps",
    )  # fmt: skip
    registries.kubectl(
        "create",
        "rolebinding",
        "reader",
        f"--namespace={namespace}",
        "--role=reader",
        "--user=reader",
    )
    # The authorizer learns of a new binding by a watch of its own.
    asked = (
        "auth",
        "can-i",
        "get",
        "configregistries.configregistry.dev",
        f"--namespace={namespace}",
    )

    def granted() -> bool:
        return not registries.kubectl(*asked, check=False, kubeconfig=kubeconfig).returncode

    await asyncio.to_thread(wait_for, granted, "the new role binding")
    async with await connect(str(kubeconfig)) as limited:
        with pytest.raises(NotPermittedError) as caught:
            await preflight(limited, [namespace], SERVE_NEEDS)
        assert (
            "may not: watch configregistries.configregistry.dev, watch controllerrevisions.apps "
            f"in namespace {namespace}." in str(caught.value)
        )
        elsewhere = registries.create_namespace()
        granted_there = ("--resource=configregistries.configregistry.dev", "--resource=controllerrevisions.apps")
        verbs = "--verb=get,list,watch"
        place = f"--namespace={elsewhere}"
        registries.kubectl("create", "role", "all", verbs, *granted_there, place)
        registries.kubectl("create", "rolebinding", "all", "--role=all", "--user=reader", place)

        async def usable() -> tuple[str, ...]:
            with suppress(NotPermittedError):
                return await preflight(limited, [namespace, elsewhere], SERVE_NEEDS)
            return ()

        async with asyncio.timeout(30):  # as above
            while not (found := await usable()):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)
        assert found == (elsewhere,)
        registries.delete_namespace(elsewhere)
        with pytest.raises(NotPermittedError, match=r"get leases\.coordination\.k8s\.io"):
            await preflight(limited, [namespace], lease_needs("configregistry"))
    async with await connect(str(registries.kubeconfig)) as admin:
        await preflight(admin)


async def test_credentials_of_nobody_are_told(registries: KubeCluster, tmp_path: Path) -> None:
    """As after an exec plugin that failed: the request goes out without any credentials."""
    config = json.loads(registries.kubeconfig.read_text())
    config["users"] = [{"name": each["name"], "user": {}} for each in config["users"]]
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    async with await connect(str(path)) as nobody:
        with pytest.raises(NoClusterError, match="log in"):
            await preflight(nobody)


async def test_a_cluster_without_the_crd_says_how_to_install_it(
    registries: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configregistry.kube.preflight.VERSION", "v9")
    async with await connect(str(registries.kubeconfig)) as admin:
        with pytest.raises(MissingCrdError, match="kubectl apply --server-side -f crds/"):
            await preflight(admin)
