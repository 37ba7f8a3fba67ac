"""What the API server has right now, by resourceVersion: cheap enough to ask for everything.

It must never be read as the objects themselves: who finds a difference asks for that one object.
"""

from __future__ import annotations

from configregistry.kube.client import Api
from configregistry.kube.envelopes import decode_page
from configregistry.kube.objects import Key, decode_meta
from configregistry.kube.paths import METADATA_LIST, Resource
from configregistry.kube.reflector import LIST_SECONDS


async def resource_versions(api: Api, resource: Resource, namespace: str | None = None) -> dict[Key, str]:
    """The resourceVersion of each object of a namespace (None: of all). Raises `ApiError`.

    In one answer (see `reflector.WHOLE`): it is as true as by quorum, and pages would be dear.
    """
    page = decode_page(await api.list(resource.path(namespace), accept=METADATA_LIST, seconds=LIST_SECONDS))
    metas = (decode_meta(item).meta for item in page.items)
    return {meta.key: meta.resource_version for meta in metas}
