"""The content of a ConfigMap, read when it is needed; watches keep only their metadata.

It must never take anything but a 404 of the API server for "absent".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.failures import NOT_KUBERNETES, NotFound, Unavailable
from configregistry.kube.paths import CONFIGMAPS


class ConfigMapData(NamedTuple):
    """The `data` of a ConfigMap (`binaryData` is not read), and at which resourceVersion."""

    data: Mapping[str, str]
    resource_version: str


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Wire(msgspec.Struct, frozen=True):
    metadata: _Meta
    data: dict[str, str] | None = None


_DECODER: Final = msgspec.json.Decoder(_Wire)


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
        raise Unavailable(f"GET {path}: not a ConfigMap: {error}", reason=NOT_KUBERNETES) from error
    return ConfigMapData(wire.data or {}, wire.metadata.resource_version)
