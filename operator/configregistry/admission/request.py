"""An AdmissionReview as values: who is to be what, and whether anybody has to look at it.

Objects come as bytes and stay so until something of them is wanted: one of 590 KB, twice in one review, is
mostly not looked at. It must never judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.errors import ConfigRegistryError
from configregistry.kube.objects import Meta, RegistryObject, decode_registry
from configregistry.model.names import API_VERSION, KIND

DELETE: Final = "DELETE"
UPDATE: Final = "UPDATE"


class UnreadableReview(ConfigRegistryError):  # noqa: N818
    """The bytes are no AdmissionReview."""


class Request(NamedTuple):
    """What is asked. `new` is None where something is deleted, `old` where something is created."""

    uid: str
    operation: str
    subresource: str
    namespace: str
    name: str
    user: str
    new: RegistryObject | None
    old: RegistryObject | None

    @property
    def unread(self) -> bool:
        """Whether there is nothing to judge: a subresource, an object that goes, or one whose spec stays."""
        if self.subresource:
            return True
        if self.operation == DELETE:
            return False
        if self.new is None or self.new.meta.terminating:
            return True
        # Both are written by one encoder of the API server, which sorts: equal specs are equal bytes.
        return self.operation == UPDATE and self.old is not None and self.old.spec == self.new.spec


class _Kind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Resource(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    resource: str = ""


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    operation: str
    resource: _Resource
    kind: _Kind = _Kind()
    sub_resource: str = ""
    namespace: str = ""
    name: str = ""
    user_info: _User = _User()
    dry_run: bool = False
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    request: _Request
    api_version: str = "admission.k8s.io/v1"
    kind: str = "AdmissionReview"


_DECODER: Final = msgspec.json.Decoder(_Review)
_NULL: Final = b"null"


def read(raw: bytes) -> Request:
    """Take a review apart. Raises `UnreadableReview`."""
    try:
        review = _DECODER.decode(raw).request
        new, old = _registry(review.object), _registry(review.old_object)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableReview(f"not an AdmissionReview of a {KIND}: {error}") from None
    meta = (new or old or _NOBODY).meta
    return Request(
        review.uid,
        review.operation,
        review.sub_resource,
        review.namespace or meta.namespace,
        review.name or meta.name,
        review.user_info.username,
        new,
        old,
    )


def outline(raw: bytes) -> dict[str, Any]:
    """The review without what its objects hold, for a router that would parse, compare and remember them whole.

    Without the UID too: kopf remembers each UID that it is shown until it sees its object deleted, and it watches
    none here. Raises `UnreadableReview`.
    """
    try:
        review = _DECODER.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableReview(f"not an AdmissionReview: {error}") from None
    request = review.request
    shown: Mapping[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": request.name, "namespace": request.namespace},
    }
    resource = request.resource
    return {
        "apiVersion": review.api_version,
        "kind": review.kind,
        "request": {
            "uid": request.uid,
            "kind": {"group": request.kind.group, "version": request.kind.version, "kind": request.kind.kind},
            "resource": {"group": resource.group, "version": resource.version, "resource": resource.resource},
            "subResource": request.sub_resource or None,
            "operation": request.operation,
            "userInfo": {"username": request.user_info.username},
            "name": request.name,
            "namespace": request.namespace,
            "dryRun": request.dry_run,
            "object": shown if bytes(request.object) != _NULL else None,
            "oldObject": shown if bytes(request.old_object) != _NULL else None,
        },
    }


def _registry(raw: msgspec.Raw) -> RegistryObject | None:
    return None if bytes(raw) == _NULL else decode_registry(raw)


_NOBODY: Final = RegistryObject(Meta(""), b"{}")
