"""What differs between two contents: lists of changed keys, and how such lists add up.

No persistent map of Python gives a structural diff, so each version remembers what it changed, and
the difference of two versions far apart is the sum of the lists along the way between them.

Every list here is minimal (each key once, old and new differ) and ordered by key; nothing here may
give one that is not, because watchers send these lists as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping


class Change(NamedTuple):
    """One key's change. `old` is None when the key is added, `new` when it is removed.

    A value is canonical JSON text, so an absent key (None) and a JSON null (b"null") stay apart.
    """

    key: str
    old: bytes | None
    new: bytes | None


Changes = tuple[Change, ...]


def compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Changes:
    """Find what differs by looking at every key: for contents that have no history in common."""
    changes = [Change(key, before.get(key), new) for key, new in after.items() if before.get(key) != new]
    if len(before) + _additions(changes) != len(after):
        changes += [Change(key, old, None) for key, old in before.items() if key not in after]
    return tuple(sorted(changes, key=_key))


def compose(*steps: Iterable[Change]) -> Changes:
    """Add up lists that follow one another; what is undone on the way drops out."""
    net: dict[str, tuple[bytes | None, bytes | None]] = {}
    for step in steps:
        for key, old, new in step:
            net[key] = (net[key][0] if key in net else old, new)
    return tuple(sorted((Change(key, old, new) for key, (old, new) in net.items() if old != new), key=_key))


def invert(changes: Iterable[Change]) -> Changes:
    """Give the way back."""
    return tuple(Change(key, new, old) for key, old, new in changes)


def apply(changes: Iterable[Change], content: MutableMapping[str, bytes]) -> None:
    """Make the changes in a plain, private dict."""
    for key, _old, new in changes:
        if new is None:
            del content[key]
        else:
            content[key] = new


def _additions(changes: Iterable[Change]) -> int:
    return sum(change.old is None for change in changes)


def _key(change: Change) -> str:
    return change.key
