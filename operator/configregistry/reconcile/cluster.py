"""The API server as reconcile sees it: what the watches hold, what is asked anew, what is written.

The one adapter between reconcile and kube. It must never decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from configregistry.kube import configmaps as maps
from configregistry.kube import payload, revisions, status
from configregistry.kube.client import Api
from configregistry.kube.configmaps import ConfigMapData, read_configmap
from configregistry.kube.events import Recorder
from configregistry.kube.failures import NotFound
from configregistry.kube.history import due_marks, prunable
from configregistry.kube.objects import (
    Meta,
    MetaObject,
    PolicyObject,
    RegistryObject,
    RevisionObject,
    decode_meta,
    decode_policy,
    decode_registry,
)
from configregistry.kube.paths import METADATA, NAMESPACES, REGISTRIES, ROLLOUT_POLICIES
from configregistry.model.content import Content
from configregistry.model.names import ANNOTATION_KEYS, version_name
from configregistry.model.status import Status
from configregistry.reconcile.memory import Key
from configregistry.rollout.observation import Note, VersionInfo


class VersionIndex:
    """The versions of each registry, kept from the changes of a reflector of ControllerRevisions."""

    def __init__(self) -> None:
        self._of: dict[Key, dict[int, RevisionObject]] = {}

    def changed(self, key: Key, old: RevisionObject | None, new: RevisionObject | None) -> Key | None:
        """Take a change of the reflector; gives the registry that it belongs to."""
        found = new or old
        if found is None or not found.registry or not found.number:
            return None
        registry = (key[0], found.registry)
        if old is not None and old.registry != found.registry:
            self.changed(key, old, None)  # a hand gave it to another registry
        numbers = self._of.setdefault(registry, {})
        if new is not None:
            numbers[new.number] = new
        else:
            numbers.pop(found.number, None)
        if not numbers:
            del self._of[registry]
        return registry

    def of(self, registry: Key, uid: str) -> dict[int, RevisionObject]:
        """The versions that the registry of this UID owns."""
        return {number: each for number, each in self._of.get(registry, {}).items() if each.meta.owned_by(uid)}


class Cluster:
    """Reads and writes of reconcile. Everything that is awaited asks the API server and raises `ApiError`."""

    def __init__(
        self,
        api: Api,
        registries: Mapping[Key, RegistryObject],
        versions: VersionIndex,
        configmaps: Mapping[Key, MetaObject],
        recorder: Recorder,
        live: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._registries = registries
        self._versions = versions
        self._configmaps = configmaps
        self._recorder = recorder
        self.live = live
        """Tells whether what the watches hold of registries and versions is what there is now."""

    def registry(self, key: Key) -> RegistryObject | None:
        """The object as a watch last told it."""
        return self._registries.get(key)

    def revisions(self, key: Key, uid: str) -> Mapping[int, RevisionObject]:
        """The versions of one UID as a watch last told them."""
        return self._versions.of(key, uid)

    def configmap_versions(self, namespace: str, names: frozenset[str]) -> dict[str, str]:
        """The resourceVersions of those ConfigMaps that a watch knows of."""
        found = ((name, self._configmaps.get((namespace, name))) for name in names)
        return {name: each.meta.resource_version for name, each in found if each is not None}

    def configmap(self, key: Key) -> MetaObject | None:
        """The metadata of a ConfigMap as a watch last told it."""
        return self._configmaps.get(key)

    async def fresh_registry(self, key: Key) -> RegistryObject | None:
        """The object now; None: 404."""
        try:
            return decode_registry(await self._api.get(REGISTRIES.path(*key)))
        except NotFound:
            return None

    async def fresh_revisions(self, key: Key, uid: str) -> dict[int, RevisionObject]:
        """The versions of one UID now, without their content."""
        found = await revisions.list_versions(self._api, key[0], key[1], contents=False)
        return {each.number: each for each in found if each.meta.owned_by(uid)}

    async def record(self, owner: Meta, content: Content, parent: int, last: int) -> VersionInfo:
        """Make content a version, or find the one that it is already."""
        return await revisions.record(self._api, owner, content, parent=parent, last_version=last)

    async def restore(self, owner: Meta, revision: RevisionObject) -> None:
        """Make a version again that a hand deleted."""
        await revisions.restore(self._api, owner, revision)

    async def write_status(self, found: RegistryObject, new: Status) -> RegistryObject:
        """PUT a status on the resourceVersion that `found` was read at."""
        return await status.write_status(self._api, found, new)

    async def claim(self, revision: RevisionObject) -> None:
        """Touch an old version before status names it, so that pruning cannot take it."""
        await revisions.claim(self._api, revision)

    async def read_configmap(self, namespace: str, name: str) -> ConfigMapData | None:
        """A ConfigMap now; None: 404."""
        return await read_configmap(self._api, namespace, name)

    async def whole_configmap(self, namespace: str, name: str) -> maps.ConfigMapObject | None:
        """A ConfigMap now, with what a write has to know; None: 404."""
        return await maps.read_whole(self._api, namespace, name)

    async def create_configmap(self, owner: Meta, name: str, wanted: maps.Wanted) -> Meta:
        """Make a ConfigMap that the registry owns. Raises `AlreadyExists`."""
        return await maps.create(self._api, owner, name, wanted)

    async def change_configmap(self, found: maps.ConfigMapObject, wanted: maps.Wanted) -> Meta:
        """Change the ConfigMap that was read. Raises `Conflict` where it has changed since."""
        return await maps.change(self._api, found, wanted)

    async def remove_configmap(self, meta: Meta) -> None:
        """Delete the ConfigMap that was read. Raises `Conflict` where it has changed since."""
        await maps.remove(self._api, meta)

    async def mark(self, known: Status, versions: Mapping[int, RevisionObject]) -> None:
        """Copy the verdicts to the versions."""
        for revision, verdict in due_marks(versions.values(), known):
            await revisions.mark(self._api, revision, verdict)

    async def prune(
        self,
        owner: Meta,
        known: Status,
        versions: Mapping[int, RevisionObject],
        limit: int,
        pinned: int | None,
        now: datetime,
        reported: Callable[[], Collection[int] | None],
    ) -> list[int] | None:
        """Delete what is too old; gives the numbers.

        `reported` gives the versions that consumers run with, None while nobody can say. Gives None where
        something is too old and may not go yet, for one of these reasons.
        """

        # Memory says whether there may be something to do; `prune` asks the API server what there is.
        def old(kept: Collection[int]) -> list[RevisionObject]:
            return prunable(list(versions.values()), known, limit, pinned, kept, now)

        if not old(()):
            return []
        in_use = reported()
        if in_use is None or not old(in_use):
            return None
        return await revisions.prune(self._api, owner, reported=in_use)

    def tell(self, owner: Meta, notes: tuple[Note, ...]) -> None:
        """Queue events."""
        for note in notes:
            self._recorder.tell(owner, note)


async def fresh_policy(api: Api, name: str) -> PolicyObject | None:
    """A RolloutPolicy now; None: 404."""
    try:
        return decode_policy(await api.get(ROLLOUT_POLICIES.path(None, name)))
    except NotFound:
        return None


async def fresh_namespace(api: Api, name: str) -> MetaObject | None:
    """A Namespace's metadata now; None: 404."""
    try:
        return decode_meta(await api.get(NAMESPACES.path(None, name), accept=METADATA))
    except NotFound:
        return None


def remade(owner: Meta, number: int, content: Content) -> RevisionObject:
    """A version as it would be recorded; for one that was deleted while its content is known."""
    meta = Meta(version_name(owner.name, number), owner.namespace, annotations={ANNOTATION_KEYS: str(content.keys)})
    return RevisionObject(meta, number, content.hash, keys=content.keys, payload=payload.encode(content.json))
