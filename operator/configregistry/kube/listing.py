"""What the API server has right now, by resourceVersion: cheap enough to ask for everything.

It must never be read as the objects themselves: who finds a difference asks for that one object.
"""

from __future__ import annotations

from typing import Final

from configregistry.kube.client import Api
from configregistry.kube.envelopes import decode_page
from configregistry.kube.objects import Key, decode_meta
from configregistry.kube.paths import METADATA_LIST, Resource

PAGE: Final = 500
"""Objects of one answer: some 0.5 MB of metadata."""


async def resource_versions(api: Api, resource: Resource, namespace: str | None = None) -> dict[Key, str]:
    """The resourceVersion of each object of a namespace (None: of all), by quorum. Raises `ApiError`."""
    found: dict[Key, str] = {}
    params = {"limit": str(PAGE)}
    while True:
        page = decode_page(await api.list(resource.path(namespace), params, accept=METADATA_LIST))
        for item in page.items:
            meta = decode_meta(item).meta
            found[meta.key] = meta.resource_version
        if not page.continue_token:
            return found
        params = {**params, "continue": page.continue_token}
