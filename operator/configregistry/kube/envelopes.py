"""What objects come in: pages of a list, and the events of a watch. The objects are left undecoded.

It must never let one object decide whether the others can be had.
"""

from __future__ import annotations

from typing import Final

import msgspec

from configregistry.kube import shallow


class ListPage(msgspec.Struct, frozen=True):
    """One page of a list: its objects undecoded, where it stands, and how to go on."""

    items: tuple[msgspec.Raw, ...]
    resource_version: str
    continue_token: str


class Event(msgspec.Struct, frozen=True):
    """One event of a watch. An ERROR has no resourceVersion."""

    type: str
    resource_version: str
    object: msgspec.Raw


def decode_page(raw: bytes) -> ListPage:
    """Decode a list of any kind, its items left as they are."""
    try:
        page = _PAGE.decode(raw)
    except RecursionError:
        parts = shallow.members(raw)
        items = tuple(msgspec.Raw(item) for item in shallow.elements(parts.get("items", b"[]")))
        page = _WirePage(_PAGE_META.decode(parts.get("metadata", b"")), items)
    return ListPage(page.items or (), page.metadata.resource_version, page.metadata.continue_ or "")


def decode_event(line: bytes) -> Event:
    """Decode an event of a watch, its object left as it is."""
    try:
        wire = _EVENT.decode(line)
        versioned = wire.object
    except RecursionError:
        parts = shallow.members(line)
        found = parts.get("object", b"")
        wire = _WireEvent(_TEXT.decode(parts.get("type", b"")), msgspec.Raw(found))
        metadata = shallow.members(found).get("metadata", b"")
        versioned = msgspec.Raw(b'{"metadata":' + metadata + b"}")
    version = "" if wire.type == "ERROR" else _VERSIONED.decode(versioned).metadata.resource_version
    return Event(wire.type, version, wire.object)


class _WireEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _Version


class _WirePageMeta(msgspec.Struct, frozen=True, rename={"continue_": "continue"}):
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_: str | None = None


class _WirePage(msgspec.Struct, frozen=True):
    metadata: _WirePageMeta
    items: tuple[msgspec.Raw, ...] | None = None


_PAGE: Final = msgspec.json.Decoder(_WirePage)
_PAGE_META: Final = msgspec.json.Decoder(_WirePageMeta)
_EVENT: Final = msgspec.json.Decoder(_WireEvent)
_VERSIONED: Final = msgspec.json.Decoder(_Versioned)
_TEXT: Final = msgspec.json.Decoder(str)
