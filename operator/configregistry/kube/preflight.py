"""Whether the program can work at all, asked once at its start, and what to do if it cannot.

Why: the same failures later are retried for ever and show as silence.

It must never write anything, and never be asked again to judge a cluster that worked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
import structlog

from configregistry.kube.client import Api
from configregistry.kube.failures import (
    ApiError,
    Forbidden,
    MissingCrdError,
    NoClusterError,
    NotPermittedError,
    Unauthorized,
)
from configregistry.kube.paths import (
    ACCESS_REVIEWS,
    CONFIGMAPS,
    ENDPOINT_SLICES,
    EVENTS,
    LEASES,
    NAMESPACES,
    REGISTRIES,
    REVISIONS,
    ROLLOUT_POLICIES,
    SUBJECT_ACCESS_REVIEWS,
    TOKEN_REVIEWS,
    Resource,
)
from configregistry.model.names import GROUP, VERSION

_log = structlog.get_logger(__name__)


class Need(NamedTuple):
    """A right that the program cannot do without."""

    verb: str
    resource: Resource
    subresource: str = ""
    name: str = ""
    """Of the one object that it is for; empty: any."""

    def __str__(self) -> str:
        part = f"/{self.subresource}" if self.subresource else ""
        group = f".{self.resource.group}" if self.resource.group else ""
        return f"{self.verb} {self.resource.plural}{part}{group}" + (f" {self.name}" if self.name else "")


def _needs(resource: Resource, *verbs: str, subresource: str = "") -> tuple[Need, ...]:
    return tuple(Need(verb, resource, subresource) for verb in verbs)


SERVE_NEEDS: Final = (
    *_needs(REGISTRIES, "get", "list", "watch"),
    *_needs(REVISIONS, "get", "list", "watch"),
)
"""What a replica that only serves needs."""
REVIEW_NEEDS: Final = (*_needs(TOKEN_REVIEWS, "create"), *_needs(SUBJECT_ACCESS_REVIEWS, "create"))
"""What a replica needs besides, in the whole cluster, to know who asks."""
CONTROLLER_NEEDS: Final = (
    *SERVE_NEEDS,
    *_needs(REGISTRIES, "update", subresource="status"),
    *_needs(REVISIONS, "create", "patch", "delete"),
    *_needs(CONFIGMAPS, "get", "list", "watch"),
    *_needs(EVENTS, "create", "patch"),
)
"""What the controller needs in each namespace; its Lease is asked for where that is."""
POLICY_NEEDS: Final = _needs(ROLLOUT_POLICIES, "get", "list", "watch")
"""What the controller needs besides in the whole cluster; and see `namespace_needs`."""
ENDPOINT_NEEDS: Final = _needs(ENDPOINT_SLICES, "list")
"""What finding the replicas needs in the namespace of their Service."""


def namespace_needs(namespaces: Sequence[str]) -> tuple[Need, ...]:
    """What the controller needs to see which policies namespaces name; empty: all that there are."""
    verbs = ("get", "list", "watch")
    return tuple(Need(verb, NAMESPACES, name=name) for name in namespaces or ("",) for verb in verbs)


def lease_needs(name: str) -> tuple[Need, ...]:
    """What an election needs in the namespace of its Lease: of that one alone, which cannot be made by name."""
    return (Need("create", LEASES), Need("get", LEASES, name=name), Need("update", LEASES, name=name))


class _Review(msgspec.Struct, frozen=True):
    allowed: bool = False


class _ReviewAnswer(msgspec.Struct, frozen=True):
    status: _Review


async def preflight(
    api: Api,
    namespaces: Sequence[str] | None = None,
    needs: Sequence[Need] = CONTROLLER_NEEDS,
    kinds: Sequence[Resource] = (REGISTRIES,),
) -> tuple[str, ...]:
    """Check that the cluster answers, knows `kinds` of this API, and allows what is needed.

    `namespaces` None or empty: all of them. Gives those in which everything is allowed: one that was deleted, and
    its roles with it, must not keep the others from being looked after. Raises `NoClusterError`, `MissingCrdError`,
    or, where something is missing in each of them, `NotPermittedError`.
    """
    await _answers(api)
    await _knows(api, kinds)
    lacking = await _lacking(api, namespaces, needs)
    usable = tuple(name for name in namespaces or () if name not in lacking)
    if not usable:
        _raise_for(lacking)
    for place, rights in lacking.items():
        _log.error(
            "a namespace is not looked after: rights are missing there; give them, or name it no more, and start anew",
            namespace=place,
            missing=rights,
        )
    return usable


async def check_rights(api: Api, namespaces: Sequence[str] | None, needs: Sequence[Need]) -> None:
    """Raise `NotPermittedError` with all rights that are missing."""
    _raise_for(await _lacking(api, namespaces, needs))


async def _lacking(api: Api, namespaces: Sequence[str] | None, needs: Sequence[Need]) -> dict[str | None, list[str]]:
    """The rights that are missing in each of the places where some are."""
    places: Sequence[str | None] = namespaces or (None,)
    questions = [(place, need) for place in places for need in needs]
    allowed = await asyncio.gather(*(_may(api, place, need) for place, need in questions))
    lacking: dict[str | None, list[str]] = {}
    for (place, need), granted in zip(questions, allowed, strict=True):
        if not granted:
            lacking.setdefault(place, []).append(str(need))
    return lacking


def _raise_for(lacking: dict[str | None, list[str]]) -> None:
    if lacking:
        told = "; ".join(
            f"{', '.join(rights)} in {'all namespaces' if place is None else f'namespace {place}'}"
            for place, rights in lacking.items()
        )
        raise NotPermittedError(
            f"these credentials may not: {told}. Give them these rights (the chart does, docs/serving.md lists them), "
            "or name the namespaces in which they have them"
        )


async def _answers(api: Api) -> None:
    try:
        await api.get("/version")
    except Unauthorized as error:
        raise NoClusterError(
            f"the API server at {api.host} does not accept these credentials ({error.message}): "
            "log in again, or choose others with --kubeconfig or --context"
        ) from error
    except Forbidden:
        _log.debug("asking for the version is forbidden")  # it answers, and that was the question
    except ApiError as error:
        raise NoClusterError(
            f"no API server answers at {api.host} ({error.message}): "
            "start the cluster, or choose another with --kubeconfig or --context"
        ) from error


async def _knows(api: Api, kinds: Sequence[Resource]) -> None:
    path = f"/apis/{GROUP}/{VERSION}"
    try:
        found = msgspec.json.decode(await api.get(path), type=_Resources).resources
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise _missing(api, kinds[0]) from error
        if isinstance(error, Forbidden):
            return  # discovery is closed here; the rights tell the rest
        raise NoClusterError(f"the API server at {api.host} does not work: {error}") from error
    known = {each.name for each in found}
    for kind in kinds:
        if kind.plural not in known:
            raise _missing(api, kind)


async def _may(api: Api, namespace: str | None, need: Need) -> bool:
    attributes = {
        "verb": need.verb,
        "group": need.resource.group,
        "resource": need.resource.plural,
        "subresource": need.subresource,
        "name": need.name,
        "namespace": namespace or "",
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    try:
        raw = await api.create(ACCESS_REVIEWS.path(), msgspec.json.encode(body))
    except Forbidden as error:
        # Whoever is somebody may ask this: there are no credentials, or an exec plugin failed.
        raise NoClusterError(
            f"the API server at {api.host} does not know who this is ({error.message}): "
            "log in, or choose other credentials with --kubeconfig or --context"
        ) from error
    except ApiError as error:
        # Not being able to ask is no answer; what is really missing shows soon enough.
        _log.warning("rights could not be asked for", error=str(error))
        return True
    return msgspec.json.decode(raw, type=_ReviewAnswer).status.allowed


def _missing(api: Api, kind: Resource) -> MissingCrdError:
    return MissingCrdError(
        f"the cluster at {api.host} does not know {kind}/{VERSION}: install the "
        "configregistry-crds chart, or kubectl apply --server-side -f crds/"
    )


class _ApiResource(msgspec.Struct, frozen=True):
    name: str = ""


class _Resources(msgspec.Struct, frozen=True):
    resources: tuple[_ApiResource, ...] = ()
