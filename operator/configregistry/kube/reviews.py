"""Who somebody is, and what they may do, as the API server says: TokenReview and SubjectAccessReview.

Why: whoever may read which registry is decided where it is decided for everything else in a cluster, by its own
authenticators and authorisers (RBAC), with no list of ours beside them.

It must never remember an answer, never judge by itself, and never let a token into a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.failures import Unavailable
from configregistry.kube.paths import REGISTRIES, SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS

S = TypeVar("S")


class Identity(NamedTuple):
    """Somebody, as authorisers want to hear of them. Equal ones have the same rights."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Sorted by name."""


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class _Token(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] = ()


class _Access(msgspec.Struct, frozen=True, rename="camel"):
    allowed: bool = False
    denied: bool = False
    evaluation_error: str = ""


class _TokenAnswer(msgspec.Struct, frozen=True):
    status: _Token


class _AccessAnswer(msgspec.Struct, frozen=True):
    status: _Access


_TOKENS: Final = msgspec.json.Decoder(_TokenAnswer)
_ACCESSES: Final = msgspec.json.Decoder(_AccessAnswer)


class ApiReviews:
    """Asks an API server. Its credentials must be allowed to create both kinds of reviews."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def token(self, token: str, audiences: Sequence[str] = ()) -> Identity | None:
        """Give who has this token; None: nobody, or it is meant for none of the audiences.

        Without audiences it must be meant for the API server itself. Raises `ApiError` where that cannot be said.
        """
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status = _decoded(_TOKENS, await self._api.create(TOKEN_REVIEWS.path(), msgspec.json.encode(body))).status
        if not status.authenticated or not status.user.username:
            return None
        # An authenticator that knows nothing of audiences passes over them, and then names none.
        if audiences and not set(audiences) & set(status.audiences):
            return None
        user = status.user
        return Identity(user.username, user.uid, user.groups, tuple(sorted(user.extra.items())))

    async def access(self, who: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:
        """Say whether somebody may do this to a virtual subresource of configregistries.

        An empty name means all of the namespace, an empty namespace all of the cluster. Raises `ApiError` where that
        cannot be said.
        """
        attributes = {
            "verb": verb,
            "group": REGISTRIES.group,
            "version": REGISTRIES.version,
            "resource": REGISTRIES.plural,
            "subresource": subresource,
            "namespace": namespace,
            "name": name,
        }
        spec: dict[str, Any] = {"user": who.user, "uid": who.uid, "groups": who.groups, "extra": dict(who.extra)}
        spec["resourceAttributes"] = attributes
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        raw = await self._api.create(SUBJECT_ACCESS_REVIEWS.path(), msgspec.json.encode(body))
        status = _decoded(_ACCESSES, raw).status
        if status.evaluation_error and not status.allowed and not status.denied:
            # Nobody has said no: an authoriser could not be asked. The API server itself answers 500 then.
            raise Unavailable(f"an authoriser failed: {status.evaluation_error}", reason="EvaluationError")
        return status.allowed and not status.denied


def _decoded(decoder: msgspec.json.Decoder[S], raw: bytes) -> S:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unavailable(f"a review's answer is not readable: {error}") from error
