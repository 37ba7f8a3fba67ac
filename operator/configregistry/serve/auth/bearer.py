"""The Authorization header -> a token, and what it says about itself. Pure.

What a token says is not verified here, so it may only make things stricter or choose the question that the API
server is asked: its `exp` ends what is remembered of it, its `aud` says for whom it has to be valid.

It must never let a token into a message, a log or a `repr`.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import msgspec

from configregistry.serve.responses import Headers, Problem

MAX_TOKEN: Final = 8192
"""Characters. A ServiceAccount's token has some 1,000; one with many groups from an OIDC provider, a few thousand."""
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""RFC 6750, 2.1. It has no comma: a header that came twice is joined by one, and is refused."""
_JWT_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token. Only `digest` may outlive the request."""

    text: str = field(repr=False)
    digest: bytes = field(repr=False)
    """SHA-256."""
    audiences: frozenset[str] = frozenset()
    """Whom it says that it is for; empty where it says nothing readable."""
    expires: float | None = None
    """When it says that it ends, in seconds since the epoch."""


class _Claims(msgspec.Struct, frozen=True):
    aud: str | tuple[str, ...] = ()
    exp: float | None = None


_CLAIMS: Final = msgspec.json.Decoder(_Claims)


def read(header: str | None) -> Token:
    """Give the token of an Authorization header. Raises `Problem` (401)."""
    if header is None:
        raise unauthenticated("a bearer token is needed: Authorization: Bearer TOKEN")
    scheme, _, text = header.partition(" ")
    text = text.strip(" ")
    if scheme.lower() != "bearer":
        raise unauthenticated("expected the scheme Bearer in Authorization")
    if len(text) > MAX_TOKEN:
        raise unauthenticated(f"the token has more than {MAX_TOKEN} characters", invalid=True)
    if not _B64TOKEN.fullmatch(text):
        raise unauthenticated("expected exactly one bearer token, as RFC 6750 has it", invalid=True)
    claims = _claims(text)
    audiences = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
    return Token(text, hashlib.sha256(text.encode("ascii")).digest(), frozenset(audiences), claims.exp)


def unauthenticated(detail: str, *, invalid: bool = False) -> Problem:
    """Say that nobody knows who asks; `invalid` where a token was given (RFC 6750, 3.1)."""
    challenge = 'Bearer error="invalid_token"' if invalid else "Bearer"
    headers: Headers = [("www-authenticate", challenge)]
    return Problem(HTTPStatus.UNAUTHORIZED, "Unauthenticated", detail, headers=headers)


def _claims(text: str) -> _Claims:
    """Read a JWT's payload; anything else says nothing about itself."""
    parts = text.split(".")
    if len(parts) != _JWT_PARTS:
        return _Claims()
    payload = parts[1]
    try:
        return _CLAIMS.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):  # msgspec's errors and binascii's are ValueErrors
        return _Claims()
