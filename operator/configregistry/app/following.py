"""What is held of the API server's objects, for whoever decides and whoever serves.

It exists so that both halves, in one process, look at the same copy.
"""

from __future__ import annotations

from typing import Any

from configregistry.app.followed import Followed
from configregistry.kube.client import Api
from configregistry.kube.objects import decode_meta, decode_policy, decode_registry, decode_revision, decode_served
from configregistry.kube.paths import CONFIGMAPS, NAMESPACES, REGISTRIES, REVISIONS, ROLLOUT_POLICIES
from configregistry.kube.reflector import WHOLE
from configregistry.model.names import LABEL_REGISTRY


class Following:
    """Registries and versions; where somebody decides policies, and of ConfigMaps and namespaces the metadata."""

    def __init__(self, api: Api, namespaces: tuple[str, ...], *, decide: bool) -> None:
        decode = decode_registry if decide else decode_served
        self.registries = Followed(api, REGISTRIES, decode, namespaces, page=WHOLE)
        self.revisions = Followed(api, REVISIONS, decode_revision, namespaces, params={"labelSelector": LABEL_REGISTRY})
        self.all: tuple[Followed[Any], ...] = (self.registries, self.revisions)
        if decide:
            self.configmaps = Followed(api, CONFIGMAPS, decode_meta, namespaces, metadata_only=True)
            self.policies = Followed(api, ROLLOUT_POLICIES, decode_policy, ())
            self.namespaces = Followed(api, NAMESPACES, decode_meta, (), names=namespaces, metadata_only=True)
            self.all = (*self.all, self.configmaps, self.policies, self.namespaces)

    async def synced(self) -> None:
        """Wait for the first list of each."""
        for followed in self.all:
            await followed.synced()

    def staleness(self) -> float:
        """Seconds since what is served was last known to be true; 0 while the watches are open."""
        return max(self.registries.staleness(), self.revisions.staleness())

    def waits(self) -> str | None:
        """Say which first lists are lacking."""
        waiting = [name for followed in self.all for name in followed.unsynced()]
        return f"the first list of {', '.join(waiting)}" if waiting else None
