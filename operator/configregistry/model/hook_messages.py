"""What is sent to validators and hooks, and what they answer: the JSON of docs/spec/*.schema.json as types.

A contract of its own, with the resource's apiVersion: fields may be added to it, none may change its
meaning. Pure. What is sent of one occasion must be the same bytes each time, and an answer that cannot be
read is a `ValueError`, never a yes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any, Final, Literal

import msgspec

from configregistry.model.conditions import cut
from configregistry.model.names import API_VERSION
from configregistry.model.status import Status

DELIVERY: Final = "X-ConfigRegistry-Delivery"
"""The header that holds the id too, for receivers that look at no body."""

When = Literal["PreRollout", "PostRollout", "Rollback"]

_LONGEST_SAID: Final = 512
_ID_DIGITS: Final = 32


class _Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A part of a message: immutable, camelCase on the wire, absent where there is nothing to say."""


class About(_Part, frozen=True, omit_defaults=False):
    """The registry. `uid` tells namesakes apart."""

    namespace: str
    name: str
    uid: str


class VersionRef(_Part, frozen=True):
    """A version; without a number it is not recorded yet."""

    hash: str
    number: int | None = None


class OutcomeRef(_Part, frozen=True, omit_defaults=False):
    """How a rollout ended: status.lastOutcome."""

    result: str
    trigger: str
    message: str
    at: str


class ValidationRequest(_Part, frozen=True, tag_field="kind", tag="ValidationRequest"):
    """May this content become a version? `data` is the whole merged object."""

    id: str
    validator: str
    registry: About
    version: VersionRef
    data: msgspec.Raw
    stable: VersionRef | None = None


class HookEvent(_Part, frozen=True, tag_field="kind", tag="HookEvent"):
    """Something has happened, or is about to; `at` is when, and not when it is told."""

    id: str
    hook: str
    when: When
    at: str
    registry: About
    version: VersionRef
    stable: VersionRef | None = None
    previous: VersionRef | None = None
    outcome: OutcomeRef | None = None


class Said(msgspec.Struct, frozen=True):
    """An answer."""

    allowed: bool
    message: str | None = None


class _Heard(msgspec.Struct, frozen=True):
    """A hook's answer, in which everything may be absent."""

    allowed: bool = True
    message: str | None = None


def encode_message(message: ValidationRequest | HookEvent) -> bytes:
    """The bytes to send."""
    # By hand, for Raw goes in as it is: apiVersion first, as people are used to.
    return b'{"apiVersion":%b,%b' % (msgspec.json.encode(API_VERSION), msgspec.json.encode(message)[1:])


def read_validation(body: bytes) -> Said:
    """A validator's answer: `allowed` must be there. Raises `ValueError` for anything else."""
    said = _decode(body, Said)
    return _clean(said.allowed, said.message)


def read_hook(body: bytes) -> Said:
    """A hook's answer: only an explicit `"allowed": false` is a no, an empty body is a yes."""
    heard = _decode(body, _Heard) if body.strip() else _Heard()
    return _clean(heard.allowed, heard.message)


def identity(*parts: object) -> str:
    """An id that is the same whenever it is made of the same parts, by whichever process."""
    # JSON, so that no part can be mistaken for two.
    told = msgspec.json.encode([str(part) for part in parts])
    return hashlib.sha256(told).hexdigest()[:_ID_DIGITS]


def refs(status: Status) -> tuple[VersionRef | None, VersionRef | None]:
    """The stable version and the one before it."""
    stable, previous = status.stable, status.previous
    return (
        VersionRef(stable.hash, stable.version) if stable else None,
        VersionRef(previous.hash, previous.version) if previous else None,
    )


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the answer could not be read: {_one_line(str(error))}") from None


def _clean(allowed: bool, message: str | None) -> Said:
    return Said(allowed, _one_line(message or ""))


def _one_line(text: str) -> str:
    """A stranger's text for conditions and events: one line without control characters, not too long."""
    shown = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text[: 4 * _LONGEST_SAID])
    return cut(" ".join(shown.split()), _LONGEST_SAID)
