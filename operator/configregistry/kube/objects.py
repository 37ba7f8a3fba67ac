"""What is kept of an object: its metadata as values, the rest as bytes, parsed when asked for.

Why: a parsed 2 KB object takes 20 KB of Python; 10,000 of them must fit in tens of megabytes. So
spec, status and payload are copies of their JSON (`msgspec.Raw` would keep the whole page alive),
and managedFields and kubectl's copy of the whole object are not kept at all.

It must never judge content: an odd spec is still an object. What has no readable metadata raises
`msgspec.DecodeError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import msgspec

from configregistry.kube import payload, shallow
from configregistry.model.names import (
    ANNOTATION_KEYS,
    ANNOTATION_PARENT,
    API_VERSION,
    KIND,
    LABEL_HASH,
    LABEL_REGISTRY,
)

W = TypeVar("W", bound=msgspec.Struct)
Key = tuple[str, str]
"""Namespace and name."""

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_MAX_DIGITS: Final = 18
_NOT_KEPT: Final = "kubectl.kubernetes.io/last-applied-configuration"


class OwnerReference(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Who an object belongs to."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(msgspec.Struct, frozen=True, gc=False):
    """Metadata, without what nobody here asks for."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: Mapping[str, str] = _NOTHING
    annotations: Mapping[str, str] = _NOTHING
    owner_references: tuple[OwnerReference, ...] = ()
    editor: str = ""
    """The field manager that changed the object (not only a subresource of it) last: who."""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return (self.namespace, self.name)

    @property
    def terminating(self) -> bool:
        """Whether the object is being deleted."""
        return bool(self.deletion_timestamp)

    def owned_by(self, uid: str) -> bool:
        """Whether the ConfigRegistry of this UID controls the object."""
        return any(owner.uid == uid and owner.kind == KIND and owner.controller for owner in self.owner_references)


class HasMeta(Protocol):
    """Anything that a reflector can keep."""

    @property
    def meta(self) -> Meta:
        """Its metadata."""
        ...


class MetaObject(msgspec.Struct, frozen=True, gc=False):
    """An object of which only the metadata is kept, such as a ConfigMap that is watched."""

    meta: Meta


class RegistryObject(msgspec.Struct, frozen=True, gc=False):
    """A ConfigRegistry. `spec` and `status` are JSON; `status` is empty where there is none yet.

    `rest` is JSON of what `meta` lacks of what others write into metadata; empty where that is nothing.
    """

    meta: Meta
    spec: bytes
    status: bytes = b""
    rest: bytes = b""

    def metadata(self) -> dict[str, Any]:
        """Give what others wrote into its metadata, for a write of its status.

        The API server leaves metadata as it is then, but not who owns it: a PUT that leaves out a label takes it
        from its field manager, and later a GitOps tool that drops the label from its manifest does not remove it,
        nor does `kubectl apply --server-side` take over what was applied on the client's side.
        """
        rest: dict[str, Any] = msgspec.json.decode(self.rest) if self.rest else {}
        annotations = {**self.meta.annotations, **rest.pop("annotations", {})}
        return {"labels": dict(self.meta.labels), "annotations": annotations, **rest}


class PolicyObject(msgspec.Struct, frozen=True, gc=False):
    """A RolloutPolicy. `spec` is JSON."""

    meta: Meta
    spec: bytes


class RevisionObject(msgspec.Struct, frozen=True, gc=False):
    """A ControllerRevision. `payload` is its `data` as JSON; empty where only metadata was read.

    `number` is the one in its name, which is the fence; 0 where the name has none, or where the
    `revision` field says otherwise: such an object is not a version.
    """

    meta: Meta
    number: int
    hash: str = ""
    parent: int | None = None
    keys: int = 0
    payload: bytes = b""

    @property
    def registry(self) -> str:
        """Name of the registry that it is a version of."""
        return self.meta.labels.get(LABEL_REGISTRY, "")

    @property
    def owner_uid(self) -> str:
        """UID of the registry that it is a version of; empty where it has no such owner."""
        owners = (each for each in self.meta.owner_references if each.kind == KIND)
        return next((each.uid for each in owners if each.controller), "")

    def content(self) -> bytes:
        """Give its canonical JSON. Raises `DamagedVersion`, a `ValueError`, if it is not whole."""
        return payload.decode(self.payload, self.hash)


def decode_registry(raw: bytes | msgspec.Raw) -> RegistryObject:
    """Decode a ConfigRegistry."""
    wire = _decode(_REGISTRY, _WireRegistry, raw)
    rest = _rest(wire.metadata)
    return RegistryObject(_meta(wire.metadata), bytes(wire.spec), bytes(wire.status), rest)


def decode_served(raw: bytes | msgspec.Raw) -> RegistryObject:
    """Decode a ConfigRegistry for a replica that only serves: without its spec, which is half of its size."""
    wire = _decode(_REGISTRY, _WireRegistry, raw)
    return RegistryObject(_meta(wire.metadata), b"{}", bytes(wire.status))


def decode_policy(raw: bytes | msgspec.Raw) -> PolicyObject:
    """Decode a RolloutPolicy."""
    wire = _decode(_POLICY, _WirePolicy, raw)
    return PolicyObject(_meta(wire.metadata), bytes(wire.spec))


def decode_revision(raw: bytes | msgspec.Raw) -> RevisionObject:
    """Decode a ControllerRevision, whole or as PartialObjectMetadata."""
    wire = _decode(_REVISION, _WireRevision, raw)
    meta = _meta(wire.metadata)
    number = version_number(meta)
    return RevisionObject(
        meta,
        number if wire.revision in {None, number} else 0,
        meta.labels.get(LABEL_HASH, ""),
        _natural(meta.annotations.get(ANNOTATION_PARENT, "")) or None,
        _natural(meta.annotations.get(ANNOTATION_KEYS, "")),
        bytes(wire.data),
    )


def decode_meta(raw: bytes | msgspec.Raw) -> MetaObject:
    """Decode the metadata of any object."""
    return MetaObject(_meta(_decode(_ANY, _WireAny, raw).metadata))


def version_number(meta: Meta) -> int:
    """Give the number in the name of a version, 0 where it is not the name of one."""
    prefix = meta.labels.get(LABEL_REGISTRY, "") + "-"
    text = meta.name.removeprefix(prefix)
    return _natural(text) if text != meta.name and not text.startswith("0") else 0


def registry_owner(owner: Meta) -> dict[str, Any]:
    """Give the ownerReference that ties an object to its ConfigRegistry."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


class _Manager(msgspec.Struct, frozen=True):
    manager: str = ""
    time: str | None = None
    subresource: str = ""


class _WireMeta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[msgspec.Raw, ...] | None = None
    finalizers: tuple[str, ...] | None = None
    managed_fields: tuple[_Manager, ...] | None = None


class _WireAny(msgspec.Struct, frozen=True):
    metadata: _WireMeta


class _WireRegistry(msgspec.Struct, frozen=True):
    metadata: _WireMeta
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"")


class _WirePolicy(msgspec.Struct, frozen=True):
    metadata: _WireMeta
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class _WireRevision(msgspec.Struct, frozen=True):
    metadata: _WireMeta
    revision: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


_ANY: Final = msgspec.json.Decoder(_WireAny)
_REGISTRY: Final = msgspec.json.Decoder(_WireRegistry)
_POLICY: Final = msgspec.json.Decoder(_WirePolicy)
_REVISION: Final = msgspec.json.Decoder(_WireRevision)
_OWNER: Final = msgspec.json.Decoder(OwnerReference)
_META: Final = msgspec.json.Decoder(_WireMeta)


def _decode(decoder: msgspec.json.Decoder[W], kind: type[W], raw: bytes | msgspec.Raw) -> W:
    try:
        return decoder.decode(raw)
    except RecursionError:
        values: dict[str, Any] = {}
        for name, part in shallow.members(bytes(raw)).items():
            if name == "metadata":
                values[name] = _META.decode(part)
            elif name in kind.__struct_fields__:
                values[name] = int(part) if name == "revision" else msgspec.Raw(part)
        if "metadata" not in values:
            raise msgspec.DecodeError("an object without metadata") from None
        return kind(**values)


def _rest(wire: _WireMeta) -> bytes:
    copied = (wire.annotations or {}).get(_NOT_KEPT)
    found = {
        "annotations": {_NOT_KEPT: copied} if copied else None,
        "finalizers": wire.finalizers,
        "ownerReferences": wire.owner_references,
    }
    told = {name: value for name, value in found.items() if value}
    return msgspec.json.encode(told) if told else b""


def _meta(wire: _WireMeta) -> Meta:
    annotations = wire.annotations
    if annotations:
        annotations.pop(_NOT_KEPT, None)
    return Meta(
        wire.name,
        wire.namespace,
        wire.uid,
        wire.resource_version,
        wire.generation,
        wire.creation_timestamp or "",
        wire.deletion_timestamp or "",
        wire.labels or _NOTHING,
        annotations or _NOTHING,
        tuple(_OWNER.decode(each) for each in wire.owner_references or ()),
        _editor(wire.managed_fields or ()),
    )


def _editor(managers: tuple[_Manager, ...]) -> str:
    # Times are whole seconds: of several in the same one the last in the list counts.
    whole = sorted((each for each in managers if not each.subresource), key=lambda each: each.time or "")
    return whole[-1].manager if whole else ""


def _natural(text: str) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if digits else 0
