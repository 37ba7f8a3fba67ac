"""The body of a heartbeat -> checked values, or a `Problem` that names the field.

Everything is bounded, since each consumer is kept in every replica and goes over the wire every 2 s:
10,000 consumers at the limits below are some 30 MB, ordinary ones 3.

It must never take a misspelt field for one that was left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from configregistry.model.names import is_key
from configregistry.model.reports import Observed
from configregistry.serve.responses import Problem, bad_parameter

MAX_TTL: Final = 86_400
"""Seconds. A consumer that crashed is listed for no longer than a day."""
MAX_LABELS: Final = 32
MAX_LABELS_TEXT: Final = 2048
MAX_LABEL: Final = 63
"""Characters of all names and values together."""
MAX_MESSAGE: Final = 1024
MAX_INSTANCE: Final = 253
_MAX_VERSION: Final = 2**31 - 1
_FIELDS: Final = frozenset({"ttlSeconds", "labels", "observed", "instance"})
_OBSERVED_FIELDS: Final = frozenset({"version", "status", "message"})


class Heartbeat(NamedTuple):
    """What a consumer says of itself."""

    ttl: float
    labels: dict[str, str]
    """In the order of their names."""
    observed: Observed | None
    says_observed: bool
    """False: nothing was said, so what it said before still holds."""
    instance: str


def read_heartbeat(body: bytes) -> Heartbeat:
    """Check a body. Raises `Problem` 400: InvalidTTL for the TTL, InvalidParameter for any other field."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_parameter("body", f"expected a JSON object ({error})") from None
    if not isinstance(said, dict):
        _refuse("body", "expected a JSON object", said)
    for name in said:
        if name not in _FIELDS:
            raise bad_parameter(name, f"unknown field; expected {', '.join(sorted(_FIELDS))}")
    return Heartbeat(
        _ttl(said.get("ttlSeconds")),
        _labels(said.get("labels")),
        _observed(said.get("observed")),
        "observed" in said,
        _text("instance", said.get("instance", ""), MAX_INSTANCE),
    )


def owner(user: str, instance: str) -> str:
    """Name who owns an id: the authenticated user, else the instance's own token. Opaque."""
    if user:
        return f"user:{user}"
    # Hashed: the token is what keeps others off, and owners go to other replicas.
    return f"instance:{hashlib.sha256(instance.encode()).hexdigest()[:16]}" if instance else ""


def checked_id(text: str) -> str:
    """Check a consumer's id: the grammar of keys."""
    if not is_key(text):
        told = "expected 1 to 253 characters: letters, digits and . _ / - between"
        raise bad_parameter("id", f"{told}, got {text[:300]!r}")
    return text


def _ttl(value: Any) -> float:
    # bool is an int to Python, not to JSON.
    if type(value) not in {int, float} or not 0 < value <= MAX_TTL:
        told = f"ttlSeconds: expected a number above 0, at most {MAX_TTL}, got {_shown(value)}"
        raise Problem(HTTPStatus.BAD_REQUEST, "InvalidTTL", told, field="ttlSeconds")
    return float(value)


def _labels(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse("labels", "expected an object of texts", value)
    if len(value) > MAX_LABELS:
        raise bad_parameter("labels", f"expected at most {MAX_LABELS}, got {len(value)}")
    for name, text in value.items():
        if not is_key(name):
            _refuse("labels", "expected names of letters, digits and . _ / - between", name)
        if not isinstance(text, str):
            _refuse(f"labels.{name}", "expected a text", text)
        if len(text) > MAX_LABEL:
            raise bad_parameter(f"labels.{name}", f"expected at most {MAX_LABEL} characters, got {len(text)}")
    if sum(len(name) + len(text) for name, text in value.items()) > MAX_LABELS_TEXT:
        raise bad_parameter("labels", f"expected at most {MAX_LABELS_TEXT} characters together")
    return dict(sorted(value.items()))


def _observed(value: Any) -> Observed | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        _refuse("observed", "expected an object", value)
    for name in value:
        if name not in _OBSERVED_FIELDS:
            raise bad_parameter(f"observed.{name}", "unknown field; expected version, status, message")
    version, status = value.get("version"), value.get("status")
    if type(version) is float and version.is_integer():
        version = int(version)  # 7.0 and 7 are the same number in JSON
    if type(version) is not int or not 0 < version <= _MAX_VERSION:
        _refuse("observed.version", "expected a version's number", version)
    if status not in ("ok", "error"):
        _refuse("observed.status", "expected ok or error", status)
    return Observed(version, status, _text("observed.message", value.get("message", ""), MAX_MESSAGE))


def _text(field: str, value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        _refuse(field, f"expected a text of at most {longest} characters", value)
    return value


def _refuse(field: str, expected: str, value: Any) -> NoReturn:
    raise bad_parameter(field, f"{expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """Show bad input, but not all of it."""
    if isinstance(value, Mapping):
        return "an object"
    shown = msgspec.json.encode(value).decode()
    return shown if len(shown) <= MAX_INSTANCE else shown[:MAX_INSTANCE] + "…"
