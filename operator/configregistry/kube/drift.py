"""How an object in memory differs from what the API server says of it. Pure.

Why apart from whoever asks: which differences mean something, and which are only a change under way,
is what a consistency check stands or falls with, and is worth testing without a server.

It must never call something a difference that a watch may still bring: that is `settled`'s question.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from configregistry.kube.cache import Unreadable
from configregistry.kube.objects import HasMeta, Key, RevisionObject, version_number
from configregistry.kube.timeline import number

T = TypeVar("T", bound=HasMeta)

MISSED: Final = "it is not in memory"
DELETED: Final = "it was deleted, and is still in memory"
RECREATED: Final = "it was deleted and made anew, and the former one is in memory"
OLDER: Final = "memory holds an older state"
NEWER: Final = "memory holds a newer state than the API server"
ALTERED: Final = "memory holds other content than the API server under one resourceVersion"


class Suspect(NamedTuple):
    """An object that seemed to differ. `held`: what memory had then, which is proof only as long as it stays."""

    key: Key
    held: HasMeta | None


def bare(found: T) -> T:
    """Leave of an object what a list of metadata tells of it."""
    if isinstance(found, RevisionObject):
        return msgspec.structs.replace(found, payload=b"", number=version_number(found.meta))
    return found


def difference(told: T | None, held: T | None) -> str | None:
    """Say how memory differs from what the API server told; None: not at all. A None is an absence."""
    if told is None or held is None:
        if told is held:
            return None
        return DELETED if told is None else MISSED
    if told.meta.uid != held.meta.uid:
        return RECREATED
    if told.meta.resource_version != held.meta.resource_version:
        older = number(held.meta.resource_version) < number(told.meta.resource_version)
        return OLDER if older else NEWER
    return None if told == held else ALTERED


def suspects(
    listed: Iterable[T], store: Mapping[Key, T], unreadable: Mapping[Key, Unreadable], *, whole: bool
) -> list[Suspect]:
    """Give what seems to differ of one page of a list. `whole`: its objects came with their contents."""
    found = []
    for told in listed:
        key = told.meta.key
        poor = unreadable.get(key)
        if poor is not None and poor.resource_version == told.meta.resource_version:
            continue  # what cannot be read is kept as it was, and was said
        held = store.get(key)
        if difference(told, held if whole or held is None else bare(held)) is not None:
            found.append(Suspect(key, held))
    return found


def left_over(key: Key, held: HasMeta, present: Container[Key], listed_at: int) -> Suspect | None:
    """Give what memory has and the whole list had not; what is newer than the list may well be."""
    old = key not in present and number(held.meta.resource_version) <= listed_at
    return Suspect(key, held) if old else None


def settled(target: int, position: int, *, quiet: bool) -> bool:
    """Tell whether the watch has had its chance to bring what was told at `target`.

    It has when it has passed that point (events come in their order), or when it stood open and said nothing
    for long (`quiet`): on a quiet cluster nothing moves it. One that moves, but is not there yet, is late.
    """
    return quiet or 0 < target <= position
