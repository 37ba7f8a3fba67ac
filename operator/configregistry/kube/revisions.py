"""The version store: each version is a ControllerRevision, immutable, owned by its registry.

Its name is `<registry>-<number>`, and being a name it is the fence: of two writers that take the
same number one is told AlreadyExists. Worked example, two leaders A and B with other content each:

    A: list -> 1..7        B: list -> 1..7
    A: create checkout-8   B: create checkout-8 -> AlreadyExists
                           B: list -> 1..8, none has B's hash -> create checkout-9

With equal content B finds 8 by its hash in the second list, and 8 it is for both.

It must never change content, never delete without the UID and resourceVersion that were seen, and
never take away another kind's object that has the name by chance. Every read in here is by quorum.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from configregistry.clock import Clock, SystemClock, timestamp
from configregistry.errors import FieldError
from configregistry.kube import payload
from configregistry.kube.client import JSON, Api
from configregistry.kube.envelopes import decode_page
from configregistry.kube.failures import AlreadyExists, Conflict, NotFound
from configregistry.kube.history import (
    Mark,
    due_marks,
    mark_of,
    prunable,
    recover,
    versions_of,
)
from configregistry.kube.objects import (
    Meta,
    RevisionObject,
    decode_registry,
    decode_revision,
    registry_owner,
)
from configregistry.kube.paths import METADATA, METADATA_LIST, REGISTRIES, REVISIONS
from configregistry.model.content import Content
from configregistry.model.names import (
    ANNOTATION_CLAIMED,
    ANNOTATION_KEYS,
    ANNOTATION_PARENT,
    ANNOTATION_VERDICT,
    GROUP,
    KIND,
    LABEL_HASH,
    LABEL_REGISTRY,
    version_name,
)
from configregistry.model.spec import parse_spec
from configregistry.model.status import parse_status
from configregistry.rollout.observation import VersionInfo

__all__ = [
    "Mark",
    "claim",
    "due_marks",
    "list_versions",
    "mark",
    "mark_of",
    "prunable",
    "prune",
    "record",
    "recover",
    "restore",
    "versions_of",
]

ATTEMPTS: Final = 20
"""Of a record or an annotation against other writers; each lost race is another's progress."""
_PAGE: Final = 50

_log = structlog.get_logger(__name__)


async def list_versions(api: Api, namespace: str, registry: str, *, contents: bool = True) -> list[RevisionObject]:
    """Read the versions of every registry that has or had this name; `contents=False` is cheap."""
    found: list[RevisionObject] = []
    params = {"labelSelector": f"{LABEL_REGISTRY}={registry}", "limit": str(_PAGE)}
    while True:
        accept = JSON if contents else METADATA_LIST
        page = decode_page(await api.list(REVISIONS.path(namespace), params, accept=accept))
        found.extend(decode_revision(item) for item in page.items)
        if not page.continue_token:
            return found
        params["continue"] = page.continue_token


async def record(
    api: Api,
    owner: Meta,
    content: Content,
    *,
    parent: int,
    last_version: int,
    existing: Sequence[RevisionObject] | None = None,
) -> VersionInfo:
    """Make content a version, or find (and claim) the version that it is already.

    `existing` is what a quorum list has just given, where there is one. After an `Unavailable`
    whose outcome is unknown simply call it again: it finds what it created.
    """
    for _attempt in range(ATTEMPTS):
        if existing is None:
            existing = await list_versions(api, owner.namespace, owner.name, contents=False)
        seen, existing = existing, None
        own = versions_of(seen, owner.uid)
        known = await _reuse(api, own, content.hash)
        if known is not None:
            return known
        number = 1 + max([last_version, *(each.number for each in own)])
        annotations = {ANNOTATION_KEYS: str(content.keys)}
        if parent:
            annotations[ANNOTATION_PARENT] = str(parent)
        data = payload.encode(content.json)
        try:
            await _create(api, owner, number, content.hash, annotations, data)
        except AlreadyExists:
            if not await _make_way(api, owner, number):
                last_version = max([number, *(each.number for each in seen)])
        else:
            return VersionInfo(number, content.hash, content.keys)
    raise Conflict(f"{owner.namespace}/{owner.name}: no free number after {ATTEMPTS} attempts")


async def restore(api: Api, owner: Meta, revision: RevisionObject) -> None:
    """Make a version again that a hand deleted, under its number, from the object that was kept.

    Raises `AlreadyExists` if something else has its name, `DamagedVersion` if the copy is none.
    """
    payload.decode(revision.payload, revision.hash)
    mine = (ANNOTATION_KEYS, ANNOTATION_PARENT, ANNOTATION_VERDICT, ANNOTATION_CLAIMED)
    kept = {name: text for name, text in revision.meta.annotations.items() if name in mine}
    path = REVISIONS.path(owner.namespace, version_name(owner.name, revision.number))
    for _attempt in range(ATTEMPTS):
        try:
            await _create(api, owner, revision.number, revision.hash, kept, revision.payload)
        except AlreadyExists:
            try:
                found = decode_revision(await api.get(path))
            except NotFound:
                continue
            if found.meta.owned_by(owner.uid) and not found.meta.terminating:
                if found.hash == revision.hash:
                    return
                raise
            if not await _make_way(api, owner, revision.number):
                raise
        else:
            return
    raise Conflict(f"{path}: not restored")


async def claim(api: Api, revision: RevisionObject, *, clock: Clock | None = None) -> RevisionObject:
    """Touch an old version before status names it. Raises `NotFound` if it is gone or going.

    The touch changes its resourceVersion: a pruner that saw it before cannot delete it. And it is
    respected for `history.CLAIM_HOLDS`: one that sees it, but an older status, does not want to.
    """
    now = timestamp((clock or SystemClock()).wall())
    # Unlike any before: a patch that changes nothing would not change the resourceVersion.
    return await _annotate(api, revision, ANNOTATION_CLAIMED, f"{now} {secrets.token_hex(4)}")


async def mark(api: Api, revision: RevisionObject, verdict: Mark) -> RevisionObject:
    """Copy the decision about a version to it. Raises `NotFound` if it is gone or going."""
    return await _annotate(api, revision, ANNOTATION_VERDICT, verdict.encode())


async def prune(api: Api, owner: Meta, *, reported: Collection[int] = (), clock: Clock | None = None) -> list[int]:
    """Delete the versions that may go, by what the API server says now; gives their numbers.

    The versions are read before the registry: one that is claimed between has another
    resourceVersion when it comes to deleting it, and stays.
    """
    versions = await list_versions(api, owner.namespace, owner.name, contents=False)
    found = decode_registry(await api.get(REGISTRIES.path(owner.namespace, owner.name)))
    if found.meta.uid != owner.uid or found.meta.terminating or not found.status:
        return []
    try:
        spec, status = parse_spec(found.spec), parse_status(found.status)
    except (FieldError, ValueError):
        return []  # what they name is not known
    if status.uid != owner.uid:
        return []
    gone = []
    now = (clock or SystemClock()).wall()
    limit = spec.revision_history_limit
    for each in prunable(versions, status, limit, spec.pinned_version, reported, now):
        path = REVISIONS.path(owner.namespace, each.meta.name)
        try:
            await api.delete(path, uid=each.meta.uid, resource_version=each.meta.resource_version)
        except (NotFound, Conflict):
            continue
        gone.append(each.number)
    return gone


async def _reuse(api: Api, own: Sequence[RevisionObject], wanted: str) -> VersionInfo | None:
    for each in own:
        if each.hash == wanted and not each.meta.terminating:
            try:
                await claim(api, each)
            except NotFound:
                continue  # pruned since the list
            return VersionInfo(each.number, each.hash, each.keys)
    return None


async def _create(
    api: Api, owner: Meta, number: int, content_hash: str, annotations: dict[str, str], data: bytes
) -> None:
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": version_name(owner.name, number),
            "namespace": owner.namespace,
            "labels": {LABEL_REGISTRY: owner.name, LABEL_HASH: content_hash},
            "annotations": annotations,
            "ownerReferences": [registry_owner(owner)],
        },
        "data": msgspec.Raw(data),
        "revision": number,
    }
    await api.create(REVISIONS.path(owner.namespace), msgspec.json.encode(body))


async def _make_way(api: Api, owner: Meta, number: int) -> bool:
    """After AlreadyExists: whether to try again; False: the name is taken for good."""
    path = REVISIONS.path(owner.namespace, version_name(owner.name, number))
    try:
        found = decode_revision(await api.get(path, accept=METADATA))
    except NotFound:
        return True
    if found.meta.owned_by(owner.uid):
        return found.number == number
    if found.meta.terminating or not _of_namesake(found.meta, owner):
        return False
    # Whose turn is over: the registry of that version, or the one that this process still knows?
    registry = decode_registry(await api.get(REGISTRIES.path(owner.namespace, owner.name)))
    if registry.meta.uid != owner.uid:
        raise Conflict(f"{owner.namespace}/{owner.name} is another object by now")
    about = {"namespace": owner.namespace, "registry": owner.name, "version": found.number}
    _log.info("version of a deleted namesake removed", **about)
    with suppress(NotFound, Conflict):  # somebody was faster
        await api.delete(path, uid=found.meta.uid)
    return True


def _of_namesake(meta: Meta, owner: Meta) -> bool:
    return any(
        each.kind == KIND and each.api_version.startswith(f"{GROUP}/") and each.name == owner.name and each.controller
        for each in meta.owner_references
    )


async def _annotate(api: Api, revision: RevisionObject, name: str, text: str) -> RevisionObject:
    meta = revision.meta
    path = REVISIONS.path(meta.namespace, meta.name)
    for _attempt in range(ATTEMPTS):
        metadata = {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "annotations": {name: text},
        }
        body = msgspec.json.encode({"metadata": metadata})
        try:
            if not meta.terminating:
                return decode_revision(await api.patch(path, body, accept=METADATA))
        except Conflict:
            pass
        fresh = decode_revision(await api.get(path, accept=METADATA)).meta
        if fresh.uid != meta.uid or fresh.terminating:
            raise NotFound(f"version {meta.namespace}/{meta.name} is gone")
        meta = fresh
    raise Conflict(f"{meta.namespace}/{meta.name} changes faster than it can be annotated")
