"""The content of a ConfigMap, read when it is needed, and written where it is ours; watches keep only metadata.

It must never take anything but a 404 of the API server for "absent", and never change or delete anything but
the very object, in the very state, that was read: each write names its UID and its resourceVersion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.failures import NOT_KUBERNETES, NotFound, Unavailable
from configregistry.kube.objects import Meta, decode_meta, registry_owner
from configregistry.kube.paths import CONFIGMAPS, METADATA


class ConfigMapData(NamedTuple):
    """The `data` of a ConfigMap (`binaryData` is not read), and at which resourceVersion."""

    data: Mapping[str, str]
    resource_version: str


class ConfigMapObject(NamedTuple):
    """A whole ConfigMap, for who wants to change it. Of `binaryData` only that there is some."""

    meta: Meta
    data: Mapping[str, str]
    binary: bool = False
    immutable: bool = False


class Wanted(NamedTuple):
    """What a ConfigMap of ours is to hold; labels and annotations beside these are left as they are."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    data: Mapping[str, str]


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Wire(msgspec.Struct, frozen=True):
    metadata: _Meta
    data: dict[str, str] | None = None


class _WireWhole(msgspec.Struct, frozen=True, rename="camel"):
    data: dict[str, str] | None = None
    binary_data: dict[str, msgspec.Raw] | None = None
    immutable: bool | None = None


_DECODER: Final = msgspec.json.Decoder(_Wire)
_WHOLE: Final = msgspec.json.Decoder(_WireWhole)


async def read_configmap(api: Api, namespace: str, name: str) -> ConfigMapData | None:
    """Read one; None: it does not exist. Every other failure raises `ApiError`."""
    path = CONFIGMAPS.path(namespace, name)
    try:
        raw = await api.get(path)
    except NotFound:
        return None
    try:
        wire = _DECODER.decode(raw)
    except msgspec.MsgspecError as error:
        raise _no_configmap(path, error) from error
    return ConfigMapData(wire.data or {}, wire.metadata.resource_version)


async def read_whole(api: Api, namespace: str, name: str) -> ConfigMapObject | None:
    """Read one with all that a write has to know; None: it does not exist."""
    path = CONFIGMAPS.path(namespace, name)
    try:
        raw = await api.get(path)
    except NotFound:
        return None
    try:
        meta, wire = decode_meta(raw).meta, _WHOLE.decode(raw)
    except msgspec.MsgspecError as error:
        raise _no_configmap(path, error) from error
    return ConfigMapObject(meta, wire.data or {}, bool(wire.binary_data), bool(wire.immutable))


async def create(api: Api, owner: Meta, name: str, wanted: Wanted) -> Meta:
    """Make one that a registry owns; gives its metadata. Raises `AlreadyExists`, whoever's that is."""
    metadata = {
        "name": name,
        "namespace": owner.namespace,
        "labels": wanted.labels,
        "annotations": wanted.annotations,
        "ownerReferences": [registry_owner(owner)],
    }
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": wanted.data}
    return decode_meta(await api.create(CONFIGMAPS.path(owner.namespace), msgspec.json.encode(body))).meta


async def change(api: Api, found: ConfigMapObject, wanted: Wanted) -> Meta:
    """Make the one that was read hold this and no other data; gives its metadata.

    Raises `Conflict` where it has changed since, `NotFound` where it is gone. A merge patch, because a PUT
    would have to repeat what others wrote at it.
    """
    meta = found.meta
    data: dict[str, str | None] = {key: None for key in found.data if key not in wanted.data}
    data |= {key: text for key, text in wanted.data.items() if found.data.get(key) != text}
    body: dict[str, Any] = {
        "metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "labels": wanted.labels,
            "annotations": wanted.annotations,
        },
        "data": data,
    }
    if found.binary:
        body["binaryData"] = None
    path = CONFIGMAPS.path(meta.namespace, meta.name)
    return decode_meta(await api.patch(path, msgspec.json.encode(body), accept=METADATA)).meta


async def remove(api: Api, meta: Meta) -> None:
    """Delete the one that was read. Raises `Conflict` where it has changed since, `NotFound` where it is gone."""
    path = CONFIGMAPS.path(meta.namespace, meta.name)
    await api.delete(path, uid=meta.uid, resource_version=meta.resource_version)


def holds(found: ConfigMapObject, wanted: Wanted) -> bool:
    """Whether it is what it should be. One that cannot be changed is not: nobody's pods would hear of the next."""
    parts = ((found.meta.labels, wanted.labels), (found.meta.annotations, wanted.annotations))
    named = all(there.get(name) == text for there, part in parts for name, text in part.items())
    return named and found.data == wanted.data and not found.binary and not found.immutable


def _no_configmap(path: str, error: Exception) -> Unavailable:
    return Unavailable(f"GET {path}: not a ConfigMap: {error}", reason=NOT_KUBERNETES)
