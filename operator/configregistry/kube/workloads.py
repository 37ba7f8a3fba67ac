"""Workloads and their pods as the API server has them now: what checks of kind `workload` look at.

Read when it is asked for; nothing of it is watched: a watch of all pods of a cluster costs more than the few
looks at the few workloads that are checked, and only while a rollout is under way.

The workload is read by quorum: a Pass speaks of the present stage, so it must not rest on numbers from before it.
Pods and ReplicaSets come from the API server's watch cache (resourceVersion 0), which costs etcd nothing: they say
only which containers restarted, and a cache that is behind tells that one look later. Where counts are taken that
later ones are compared with, that would be wrong (a restart from before would be taken for one since), and the
caller asks for `fresh` ones. ReplicaSets, which say only whose a pod is, come without their contents.

It must never judge, and never take more than half of the places that the client has for requests: the status
writes of rollbacks go through the same ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from configregistry.errors import ConfigRegistryError
from configregistry.kube.client import JSON, MAX_CONCURRENT, Api
from configregistry.kube.envelopes import decode_page
from configregistry.kube.failures import NOT_KUBERNETES, Forbidden, NotFound, Unavailable
from configregistry.kube.paths import METADATA_LIST, Resource
from configregistry.kube.workload_objects import (
    Container,
    OwnedObject,
    Pod,
    PodObject,
    Workload,
    WorkloadObject,
    numbers,
    pod_of,
    selector_of,
    workload_of,
)

__all__ = ["MAX_PODS", "Container", "KubeWorkloads", "Pod", "TooManyPodsError", "Workload"]

MAX_PODS: Final = 1_000
"""Pods of one workload that are looked at: some 8 MB of JSON. With more of them a look fails: one at some of them
only would let the others restart unseen."""
MAX_LOOKS: Final = MAX_CONCURRENT // 4
"""Looks at one time; each makes two requests at once at most."""

DEPLOYMENTS: Final = Resource("apps", "v1", "deployments")
REPLICA_SETS: Final = Resource("apps", "v1", "replicasets")
PODS: Final = Resource("", "v1", "pods")
KINDS: Final[Mapping[str, Resource]] = {
    "Deployment": DEPLOYMENTS,
    "StatefulSet": Resource("apps", "v1", "statefulsets"),
    "DaemonSet": Resource("apps", "v1", "daemonsets"),
}
"""Kind -> where it is kept."""

_PAGE: Final = 500
_CACHED: Final = {"resourceVersion": "0"}
_RUNNING: Final = {"fieldSelector": "status.phase!=Failed,status.phase!=Succeeded"}
"""Evicted pods stay for long, thousands of them, and nothing in them restarts."""

_T = TypeVar("_T")
_WORKLOAD: Final = msgspec.json.Decoder(WorkloadObject)
_OWNED: Final = msgspec.json.Decoder(OwnedObject)
_POD: Final = msgspec.json.Decoder(PodObject)


class TooManyPodsError(ConfigRegistryError):
    """A workload is larger than what is looked at."""


class KubeWorkloads:
    """Looks at workloads through the API server."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._places = asyncio.Semaphore(MAX_LOOKS)

    async def look(self, namespace: str, kind: str, name: str, *, fresh: bool) -> Workload | None:
        """The workload with its pods; None: there is none.

        `fresh`: the pods are read by quorum too. Raises `ApiError`, a `Forbidden` of which names the right that is
        lacking, and `TooManyPodsError`.
        """
        resource = KINDS[kind]
        async with self._places:
            try:
                raw = await self._get(resource, namespace, name)
            except NotFound:
                return None
            wire = _decoded(raw, _WORKLOAD, f"GET {resource.path(namespace, name)}: not a {kind}")
            desired, _ = numbers(kind, wire)
            if desired > MAX_PODS:
                raise _too_many(kind, name, desired)
            return workload_of(kind, wire, await self._pods(namespace, kind, name, wire, fresh=fresh))

    async def _pods(
        self, namespace: str, kind: str, name: str, wire: WorkloadObject, *, fresh: bool
    ) -> tuple[Pod, ...]:
        """The pods that are its own; others may carry the same labels."""
        params = {"labelSelector": selector_of(wire.spec.selector), **({} if fresh else _CACHED)}
        owners = {wire.metadata.uid}
        if kind == "Deployment":
            sets, found = await asyncio.gather(
                self._list(REPLICA_SETS, namespace, params, _OWNED, accept=METADATA_LIST),
                self._list(PODS, namespace, params | _RUNNING, _POD),
            )
            owners = {each.metadata.uid for each in sets if each.metadata.controller in owners}
        else:
            found = await self._list(PODS, namespace, params | _RUNNING, _POD)
        own = tuple(pod_of(each) for each in found if each.metadata.controller in owners)
        if len(own) > MAX_PODS:
            raise _too_many(kind, name, len(own))
        return own

    async def _get(self, resource: Resource, namespace: str, name: str) -> bytes:
        try:
            return await self._api.get(resource.path(namespace, name))
        except Forbidden as error:
            raise _lacking("get", resource, namespace) from error

    async def _list(
        self,
        resource: Resource,
        namespace: str,
        params: Mapping[str, str],
        decoder: msgspec.json.Decoder[_T],
        accept: str = JSON,
    ) -> list[_T]:
        """All pages. A cache gives everything in one, whatever the limit."""
        path = resource.path(namespace)
        asked = {**params, "limit": str(_PAGE)}
        found: list[_T] = []
        while True:
            try:
                page = decode_page(await self._api.list(path, asked, accept=accept))
            except Forbidden as error:
                raise _lacking("list", resource, namespace) from error
            found.extend(_decoded(item, decoder, f"LIST {path}: not {resource}") for item in page.items)
            if not page.continue_token or len(found) > 2 * MAX_PODS:
                return found
            # A page that goes on says itself of which moment it is.
            asked = {name: value for name, value in asked.items() if name != "resourceVersion"}
            asked["continue"] = page.continue_token


def _decoded(raw: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[_T], what: str) -> _T:
    try:
        return decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"{what}: {error}", reason=NOT_KUBERNETES) from error


def _lacking(verb: str, resource: Resource, namespace: str) -> Forbidden:
    return Forbidden(
        f"no right to {verb} {resource} in namespace {namespace}, expected one by the controller's role",
        status=403,
        reason="Forbidden",
    )


def _too_many(kind: str, name: str, number: int) -> TooManyPodsError:
    return TooManyPodsError(f"{kind} {name} has {number} pods, expected at most {MAX_PODS} to look at")
