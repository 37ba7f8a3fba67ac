"""Where the API server keeps what: the one place that spells URL paths.

It must never be given a path that somebody else has put together.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote

from configregistry.model.names import GROUP, PLURAL, POLICY_PLURAL, VERSION

METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""Accept header of a GET or a watch whose contents are not wanted."""
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""Accept header of a list whose contents are not wanted."""


class Resource(NamedTuple):
    """A kind of objects: its group (empty: core), version and plural."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of an object, or of all of them in a namespace, or (None) of all there are."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        if not all(part and part not in {".", ".."} for part in parts):
            raise ValueError(f"no path for an empty or relative name: {parts}")
        return "/" + "/".join(quote(part, safe="") for part in parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


REGISTRIES: Final = Resource(GROUP, VERSION, PLURAL)
ROLLOUT_POLICIES: Final = Resource(GROUP, VERSION, POLICY_PLURAL)
REVISIONS: Final = Resource("apps", "v1", "controllerrevisions")
CONFIGMAPS: Final = Resource("", "v1", "configmaps")
NAMESPACES: Final = Resource("", "v1", "namespaces")
EVENTS: Final = Resource("events.k8s.io", "v1", "events")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
SUBJECT_ACCESS_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")
