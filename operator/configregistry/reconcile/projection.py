"""The ConfigMap of spec.project: kept equal to the stable version, for pods that mount files.

    nothing of that name               -> made, owned by the registry
    ours, and not what it should be    -> changed, if it is still as it was read
    ours, and immutable                -> deleted and made anew: it can be changed in no other way
    of a deleted registry of this name -> deleted and made anew, as its versions are
    anybody else's                     -> left alone: ProjectionConflict

It comes after the decision and never holds one up. While the watch tells of the very object that was last seen
to be right, nothing is asked and nothing is written.

It must never write what the candidate holds, a source of dataFrom, or an object that it has not just read.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from configregistry import failpoints
from configregistry.errors import FieldError
from configregistry.kube.configmaps import ConfigMapObject, Wanted, holds
from configregistry.kube.failures import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from configregistry.kube.objects import Key, Meta, MetaObject, OwnerReference, RegistryObject, RevisionObject
from configregistry.kube.payload import DamagedVersion
from configregistry.model.content import members
from configregistry.model.names import GROUP, KIND, LABEL_HASH, LABEL_REGISTRY
from configregistry.model.spec import Spec
from configregistry.model.status import Stable
from configregistry.reconcile.sources import sources_of

ANNOTATION_VERSION: Final = f"{GROUP}/version"
"""On a projected ConfigMap: the number of the version that it holds."""
ANNOTATION_LEFT_OUT: Final = f"{GROUP}/left-out"
"""On a projected ConfigMap: how many keys stand in config.json alone."""
WHOLE: Final = "config.json"
"""The key that holds the whole version. It wins over a key of the registry that is called so."""
FIELD: Final = "spec.project.configMap"

MAX_STORED: Final = 1_500_000
"""Bytes that may go to etcd, which takes 1.5 MiB. (A ConfigMap's own limit, 1 MiB of values, cannot be reached:
config.json has 512 KiB at most, and the values of its keys are shorter than it is.)"""
_PER_KEY: Final = 20
"""Bytes around a key: each name is stored twice, in data and in managedFields."""
_BESIDE: Final = 4096
"""For the rest of the metadata."""
ATTEMPTS: Final = 5
"""Of one pass against other writers; each lost race is another's progress."""

_log = structlog.get_logger(__name__)


class ConfigMaps(Protocol):
    """What is asked of the API server, and written. All of it raises `ApiError`."""

    async def whole_configmap(self, namespace: str, name: str) -> ConfigMapObject | None:
        """Read a ConfigMap now; None: 404."""
        ...

    async def create_configmap(self, owner: Meta, name: str, wanted: Wanted) -> Meta:
        """Make one that the registry owns. Raises `AlreadyExists`."""
        ...

    async def change_configmap(self, found: ConfigMapObject, wanted: Wanted) -> Meta:
        """Change the one that was read. Raises `Conflict` where it has changed since."""
        ...

    async def remove_configmap(self, meta: Meta) -> None:
        """Delete the one that was read. Raises `Conflict` where it has changed since."""
        ...

    async def fresh_registry(self, key: Key) -> RegistryObject | None:
        """Read a registry now; None: 404."""
        ...


class Projected(NamedTuple):
    """What is known of a projection: which object, in which state, holds which version.

    `trouble`: why it does not, where the API server refuses it; then nothing else counts but the name.
    """

    name: str
    version: int
    hash: str
    uid: str = ""
    resource_version: str = ""
    trouble: str = ""

    def still(self, spec: Spec, stable: Stable, present: MetaObject | None) -> bool:
        """Whether the watch tells of the very object that was seen to be right."""
        if spec.project is None or present is None:
            return False
        return self == _seen(Projected(spec.project.config_map, stable.version, stable.hash), present.meta)


def examine_projection(spec: Spec) -> None:
    """Raise `FieldError` for a target that is a source: each write would be a change of content."""
    if spec.project is not None and spec.project.config_map in sources_of(spec):
        raise FieldError(FIELD, spec.project.config_map, "expected a ConfigMap that is not one of spec.dataFrom")


def conflict(key: Key, uid: str, spec: Spec, present: MetaObject | None, last: Projected | None = None) -> str:
    """Say why the ConfigMap that spec.project names cannot be kept; empty: it can, or there is none.

    `present`: what a watch knows of it. `last`: what `Projector.project` gave.
    """
    if spec.project is None:
        return ""
    name = spec.project.config_map
    if present is not None and not present.meta.owned_by(uid) and not _of_namesake(present.meta, key[1]):
        owner = _controller(present.meta)
        whose = f"it belongs to {owner.kind} {owner.name}" if owner else "it belongs to no registry"
        expected = f"expected a ConfigMap that this registry made, or none: {whose}, and is left as it is"
        return str(FieldError(FIELD, name, expected))
    return last.trouble if last is not None and last.name == name else ""


def wanted_of(registry: str, stable: Stable, json: bytes) -> Wanted:
    """What the ConfigMap holds: `json` is the canonical JSON of the stable version."""
    keys = members(json)
    data = {name: _text(raw) for name, raw in keys.items() if "/" not in name}
    data[WHOLE] = json.decode()
    if _BESIDE + sum(2 * len(name) + len(text.encode()) + _PER_KEY for name, text in data.items()) > MAX_STORED:
        # All of them or none: a file that is missing looks like a setting that nobody made.
        data = {WHOLE: data[WHOLE]}
    annotations = {
        ANNOTATION_VERSION: str(stable.version),
        LABEL_HASH: stable.hash,
        ANNOTATION_LEFT_OUT: str(len(keys) - (len(data) - 1)),
    }
    return Wanted({LABEL_REGISTRY: registry}, annotations, data)


class Projector:
    """Keeps projections."""

    def __init__(self, cluster: ConfigMaps) -> None:
        self._cluster = cluster

    async def project(
        self,
        owner: Meta,
        spec: Spec,
        stable: Stable,
        revision: RevisionObject,
        present: MetaObject | None,
        last: Projected | None,
    ) -> Projected | None:
        """Make the ConfigMap hold the stable version, `revision`; gives what is to be remembered as `last`.

        `present`: what a watch knows of it. None: there is nothing to keep, or it is not ours, or it is going;
        what changes that is told by the watch. Raises `ApiError`: try again.
        """
        if spec.project is None or spec.project.config_map in sources_of(spec):
            return None
        aim = Projected(spec.project.config_map, stable.version, stable.hash)
        if last is not None and last.still(spec, stable, present):
            return last
        if conflict(owner.key, owner.uid, spec, present):
            return None
        try:
            if revision.hash != stable.hash:
                raise DamagedVersion(f"version {stable.version} is {revision.hash}; expected {stable.hash}")  # noqa: TRY301
            wanted = wanted_of(owner.name, stable, revision.content())
            kept = await self._keep(owner, aim.name, wanted)
        except (Forbidden, Invalid, DamagedVersion) as error:
            # Nobody but a person can help, and conditions are where a person looks. What was told first is told
            # on: a text that differs each time would be a status write, and so another try, each time.
            if last is not None and last.trouble and last._replace(trouble="") == aim:
                return last
            return aim._replace(trouble=f"{FIELD}: {aim.name!r}: cannot be kept: {error}")
        return _seen(aim, kept) if kept is not None else None

    async def _keep(self, owner: Meta, name: str, wanted: Wanted) -> Meta | None:
        """Make it so; None: it is not ours, or it is going."""
        for _attempt in range(ATTEMPTS):
            found = await self._cluster.whole_configmap(owner.namespace, name)
            failpoints.reach("projection.read.after")
            try:
                if found is None:
                    made = await self._cluster.create_configmap(owner, name, wanted)
                    failpoints.reach("projection.create.after")
                    _tell(owner, name, wanted, "made")
                    return made
                meta = found.meta
                if meta.terminating:
                    return None
                ours = meta.owned_by(owner.uid)
                if ours and holds(found, wanted):
                    return meta
                if ours and not found.immutable:
                    changed = await self._cluster.change_configmap(found, wanted)
                    failpoints.reach("projection.change.after")
                    _tell(owner, name, wanted, "changed")
                    return changed
                if not ours and not await self._left_over(owner, meta):
                    return None
                await self._cluster.remove_configmap(meta)
                failpoints.reach("projection.remove.after")
                _tell(owner, name, wanted, "deleted, to be made anew")
            except (AlreadyExists, Conflict, NotFound):
                continue  # somebody was faster: see what there is now
        raise Conflict(f"ConfigMap {owner.namespace}/{name} changes faster than it can be kept")

    async def _left_over(self, owner: Meta, meta: Meta) -> bool:
        """Whether it was a registry's of this name that is gone. Which of the two is, the API server says."""
        if not _of_namesake(meta, owner.name):
            return False
        registry = await self._cluster.fresh_registry(owner.key)
        failpoints.reach("projection.owner.after")
        return registry is not None and registry.meta.uid == owner.uid and not registry.meta.terminating


def _seen(aim: Projected, meta: Meta) -> Projected:
    return aim._replace(uid=meta.uid, resource_version=meta.resource_version)


def _controller(meta: Meta) -> OwnerReference | None:
    return next((each for each in meta.owner_references if each.controller), None)


def _of_namesake(meta: Meta, registry: str) -> bool:
    owner = _controller(meta)
    if owner is None or (owner.kind, owner.name) != (KIND, registry):
        return False
    return owner.api_version.startswith(f"{GROUP}/")


def _text(raw: bytes) -> str:
    """A value as a file holds it: a string as it is, anything else as its JSON."""
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode()


def _tell(owner: Meta, name: str, wanted: Wanted, what: str) -> None:
    about = {"namespace": owner.namespace, "registry": owner.name, "version": wanted.annotations[ANNOTATION_VERSION]}
    _log.info("projection written", **about, configmap=name, result=what)
