"""Lets a request in, or says why not: a bearer token by TokenReview, each need by SubjectAccessReview.

A decision that counts is found by one look into a dict. That dict holds headers as they came, tokens and all, and is
emptied every ten seconds of use; what outlives that is keyed by the token's SHA-256.

It must never answer from an older review than `known.Times` allows, and never log or tell a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Final, Protocol, TypeVar

from configregistry.clock import Clock
from configregistry.kube.reviews import Identity
from configregistry.serve.auth import bearer
from configregistry.serve.auth.asking import Asking, NotAnswered
from configregistry.serve.auth.bearer import Token
from configregistry.serve.auth.known import Answer, Found, Known, Times
from configregistry.serve.responses import Problem, Request, unavailable
from configregistry.serve.routes import Need
from configregistry.telemetry.metrics import Metrics

T = TypeVar("T")

AUDIENCE: Final = "configregistry"
"""Whom a token may be issued for, so that it is of no use with the API server."""
MAX_TOKENS: Final = 16_384
MAX_RIGHTS: Final = 65_536
MAX_PASSES: Final = 16_384
"""What is remembered at most: measured 17 MB, 29 MB and, with a token of 900 characters for each, 21 MB."""


class Reviews(Protocol):
    """Whoever knows. Both raise `ApiError` where there is no answer."""

    async def token(self, token: str, audiences: tuple[str, ...]) -> Identity | None:
        """Give who has this token, meant for one of the audiences (none: the API server's own); None: nobody."""
        ...

    async def access(self, who: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:
        """Say whether somebody may do this to configregistries."""
        ...


class KubernetesGuard:
    """A `Guard` that asks the API server. Made, used and closed in the event loop's thread.

    A token counts if it is meant for one of `audiences`, or (with `api_audience`) for the API server itself.
    """

    def __init__(
        self,
        reviews: Reviews,
        clock: Clock,
        metrics: Metrics | None = None,
        *,
        audiences: tuple[str, ...] = (AUDIENCE,),
        api_audience: bool = True,
        times: Times = Times(),  # noqa: B008 - immutable
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reviews = reviews
        self._clock = clock
        self._now = clock.monotonic
        self._metrics = metrics
        self._audiences = audiences
        self._api_audience = api_audience
        self._times = times
        asking = Asking(self._now)
        self._tokens: Known[bytes, Identity | None] = Known(asking, times, self._now, MAX_TOKENS, sleep)
        self._rights: Known[tuple[Identity, Need], bool] = Known(asking, times, self._now, MAX_RIGHTS, sleep)
        self._passes: dict[str | None, dict[tuple[Need, ...], tuple[str, float]]] = {}
        self._count = 0
        self._emptied = -inf

    def check(self, request: Request, needs: tuple[Need, ...]) -> str | Awaitable[str]:
        """Give the user, at once where that is known; an empty one where nothing is needed.

        Raises `Problem`: 401 Unauthenticated, 403 Forbidden, 503 AuthenticationUnavailable. A stream asks again
        with its own request from time to time: a token that ended and a right that was taken are refused then.
        """
        header = request.header("authorization")
        passes = self._passes.get(header)
        if passes is not None:
            found = passes.get(needs)
            if found is not None and self._now() < found[1]:
                return found[0]
        if not needs:
            return ""
        return self._check(header, needs)

    async def close(self) -> None:
        """Ask nothing more."""
        await self._tokens.close()
        await self._rights.close()

    def _check(self, header: str | None, needs: tuple[Need, ...]) -> str | Awaitable[str]:
        token = bearer.read(header)
        who = self._tokens.find(token.digest, partial(self._token, token))
        if not isinstance(who, Found):
            return self._when_known(header, needs, who)
        return self._may(header, needs, who)

    async def _when_known(
        self, header: str | None, needs: tuple[Need, ...], who: Awaitable[Found[Identity | None]]
    ) -> str:
        user = self._may(header, needs, await _told(who))
        return user if isinstance(user, str) else await user

    def _may(self, header: str | None, needs: tuple[Need, ...], who: Found[Identity | None]) -> str | Awaitable[str]:
        identity = who.value
        if identity is None:
            detail = "the token does not count here: it has expired, was revoked, or is meant for another audience"
            raise bearer.unauthenticated(detail, invalid=True)
        rights = [self._rights.find((identity, need), partial(self._access, identity, need)) for need in needs]
        known = [each for each in rights if isinstance(each, Found)]
        if len(known) == len(rights):
            return self._decide(header, needs, identity.user, who.until, known)
        return self._when_decided(header, needs, identity.user, who.until, rights)

    async def _when_decided(
        self,
        header: str | None,
        needs: tuple[Need, ...],
        user: str,
        until: float,
        rights: list[Found[bool] | Awaitable[Found[bool]]],
    ) -> str:
        known = await asyncio.gather(*(_told(each) for each in rights))
        return self._decide(header, needs, user, until, known)

    def _decide(
        self, header: str | None, needs: tuple[Need, ...], user: str, until: float, rights: list[Found[bool]]
    ) -> str:
        for need, right in zip(needs, rights, strict=True):
            if not right.value:
                raise _forbidden(user, need)
        self._pass(header, needs, user, min(until, *(right.until for right in rights)))
        return user

    def _pass(self, header: str | None, needs: tuple[Need, ...], user: str, until: float) -> None:
        """Remember a decision for as long as nobody has to look again."""
        now = self._now()
        if self._count >= MAX_PASSES or now >= self._emptied + self._times.fresh:
            self._passes.clear()
            self._count, self._emptied = 0, now
        self._passes.setdefault(header, {})[needs] = user, until
        self._count += 1

    async def _token(self, token: Token) -> Answer[Identity | None]:
        named = tuple(each for each in self._audiences if each in token.audiences)
        if not named and not self._api_audience:
            return Answer(None, good=False)
        ends = inf
        if token.expires is not None:
            ends = self._now() + token.expires - self._clock.wall().timestamp()
        who = await self._counted("token", self._reviews.token(token.text, named))
        return Answer(who, who is not None, ends)

    async def _access(self, who: Identity, need: Need) -> Answer[bool]:
        allowed = await self._counted("access", self._reviews.access(who, *need))
        return Answer(allowed, allowed)

    async def _counted(self, review: str, answer: Awaitable[T]) -> T:
        result = "failed"
        try:
            found = await answer
            result = "allowed" if found else "refused"
        finally:
            if self._metrics is not None:
                self._metrics.reviews.labels(review, result).inc()
        return found


async def _told(found: Found[T] | Awaitable[Found[T]]) -> Found[T]:
    """Wait for an answer; that there is none is said to the client, as something that passes."""
    try:
        return found if isinstance(found, Found) else await found
    except NotAnswered:
        detail = "the API server, which knows who may do what, does not answer at present"
        raise unavailable("AuthenticationUnavailable", detail) from None


def _forbidden(user: str, need: Need) -> Problem:
    place = (
        f"{need.namespace}/{need.name}"
        if need.name
        else f"namespace {need.namespace}"
        if need.namespace
        else "any namespace"
    )
    detail = f"{user} may not {need.verb} configregistries/{need.subresource} of {place}"
    return Problem(HTTPStatus.FORBIDDEN, "Forbidden", detail)
