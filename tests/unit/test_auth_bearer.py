"""The Authorization header: what is a token, and what it may say of itself."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.serve.auth import bearer
from configregistry.serve.responses import Problem


def jwt(**claims: Any) -> str:
    """A token as a ServiceAccount has it; nobody checks the signature here."""
    parts = ({"alg": "RS256"}, claims)
    head, payload = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{payload}.c2lnbmF0dXJl"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("text", ["abc", "a-b._~+/9==", "x" * bearer.MAX_TOKEN, jwt(exp=1)])
def test_a_token(scheme: str, text: str) -> None:
    token = bearer.read(f"{scheme} {text}")
    assert token.text == text
    assert token.digest == hashlib.sha256(text.encode()).digest()
    assert text not in repr(token)


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (None, "Bearer"),
        ("", "Bearer"),
        ("Basic dXNlcjpwYXNz", "Bearer"),
        ("Bearer", 'Bearer error="invalid_token"'),
        ("Bearer ", 'Bearer error="invalid_token"'),
        ("Bearer a, Bearer b", 'Bearer error="invalid_token"'),
        ("Bearer a,b", 'Bearer error="invalid_token"'),
        ("Bearer a b", 'Bearer error="invalid_token"'),
        ("Bearer a\tb", 'Bearer error="invalid_token"'),
        ("Bearer grün", 'Bearer error="invalid_token"'),
        ("Bearer =", 'Bearer error="invalid_token"'),
        ("Bearer abc\n", 'Bearer error="invalid_token"'),
        ("Bearer " + "x" * (bearer.MAX_TOKEN + 1), 'Bearer error="invalid_token"'),
    ],
)
def test_no_token(header: str | None, challenge: str) -> None:
    with pytest.raises(Problem) as raised:
        bearer.read(header)
    assert (raised.value.status, raised.value.name) == (401, "Unauthenticated")
    assert raised.value.headers == [("www-authenticate", challenge)]


@pytest.mark.parametrize(
    ("text", "audiences", "expires"),
    [
        (jwt(aud="configregistry", exp=1700000000), {"configregistry"}, 1700000000),
        (jwt(aud=["a", "b"], exp=1.5), {"a", "b"}, 1.5),
        (jwt(sub="somebody"), set(), None),
        (jwt(exp="soon"), set(), None),
        (jwt(aud=[1]), set(), None),
        ("opaque", set(), None),
        ("a.b", set(), None),
        ("a.!.c".replace("!", "~"), set(), None),
        ("a." + base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".c", set(), None),
        ("a." + base64.urlsafe_b64encode(b"\xff\xfe{").decode().rstrip("=") + ".c", set(), None),
    ],
)
def test_what_a_token_says_of_itself(text: str, audiences: set[str], expires: float | None) -> None:
    token = bearer.read(f"Bearer {text}")
    assert (set(token.audiences), token.expires) == (audiences, expires)


@given(st.one_of(st.text(), st.text("abcXYZ019._-~+/=", min_size=1).map("Bearer {}".format)))
def test_whatever_comes_is_a_token_or_a_problem(header: str) -> None:
    with suppress(Problem):
        assert bearer.read(header).text == header.partition(" ")[2].strip(" ")
