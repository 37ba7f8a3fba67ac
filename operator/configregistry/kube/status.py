"""The commit point: one PUT of the status, on the object that the decision was made on.

It must never write without resourceVersion and uid, never patch, and never try again by itself:
after a `Conflict` the decision has to be made anew.
"""

from __future__ import annotations

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.objects import RegistryObject, decode_registry
from configregistry.kube.paths import REGISTRIES
from configregistry.model.names import API_VERSION, KIND
from configregistry.model.status import Status, encode_status


async def write_status(api: Api, found: RegistryObject, status: Status) -> RegistryObject:
    """Write the status of the very object that was read; gives it as it is then.

    Raises `Conflict` if it has changed since or is another one of that name, `NotFound` if it is
    gone, and `Unavailable` with `outcome_unknown` where only reading again can tell.
    """
    meta = found.meta
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            **found.metadata(),
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "status": msgspec.Raw(encode_status(status)),
    }
    path = REGISTRIES.path(meta.namespace, meta.name, "status")
    return decode_registry(await api.replace(path, msgspec.json.encode(body)))
