"""One immutable version of a registry's content: key -> canonical JSON text, as bytes.

Bytes, because they are what HTTP sends, cannot be altered by a reader, and are never looked at by
the garbage collector. Versions of one registry share everything that is equal between them: a
version that changes ten keys of 100,000 costs about ten keys.

A version must never refer to another version: whoever keeps one alive would keep the whole history
alive. It knows its parent by number; `Registry` knows the family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyrsistent import PMap, pmap

from configregistry.state.changes import Changes, apply, compare
from configregistry.state.ordered import OrderedKeys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Version:
    """A version's content and its place in the family. Made by `derive` only."""

    number: int
    hash: str
    size: int
    """Bytes of all keys (UTF-8) and values, without JSON's punctuation between them."""
    data: PMap[str, bytes]
    index: OrderedKeys
    parent: int | None
    """The version that this one shares with and that `changes` counts from; None for a first one.

    Pruning moves both to the nearest version still held, so it need not be what a person edited.
    """
    changes: Changes
    """What differs from the parent, ordered by key; empty for a version without a parent."""

    @classmethod
    def derive(cls, parent: Version | None, number: int, digest: str, content: Mapping[str, bytes]) -> Version:
        """Make a version of whole content, sharing with `parent` whatever is equal in both.

        Looks at every key once (about 1 us each) but allocates for changed keys alone. Pure, so a
        caller with very large content may run it in another thread.
        """
        if parent is None:
            size = sum(_size(key, value) for key, value in content.items())
            return cls(number, digest, size, pmap(content), OrderedKeys.of(content), None, ())
        before = dict(parent.data.items())
        changes = compare(before, content)
        if 2 * len(changes) > len(content):
            apply(changes, before)
            data = pmap(before)  # mostly new: cheaper built at once, and sized for what it holds
        else:
            data = _changed(parent.data, changes)
        index = parent.index.update(
            [key for key, old, _new in changes if old is None],
            [key for key, _old, new in changes if new is None],
        )
        size = parent.size + sum(_size(key, new) - _size(key, old) for key, old, new in changes)
        return cls(number, digest, size, data, index, parent.number, changes)

    def get(self, key: str) -> bytes | None:
        """Give the key's value, or None when this version lacks it."""
        return self.data.get(key)

    def scan(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        end: str | None = None,
        after: str | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Give keys and values in the order of keys; the bounds are those of `OrderedKeys.scan`."""
        data = self.data
        keys = self.index.scan(prefix=prefix, start=start, end=end, after=after)
        return ((key, data[key]) for key in keys)

    def content(self) -> dict[str, bytes]:
        """Give all of it as a new dict in the order of keys: quicker than `scan` for the whole."""
        data = dict(self.data.items())
        return {key: data[key] for key in self.index}

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        """Say yes even when empty: `if registry.stable:` asks whether there is a version."""
        return True

    def __repr__(self) -> str:
        return f"<Version {self.number} {self.hash} of {len(self)} keys>"


def _changed(data: PMap[str, bytes], changes: Changes) -> PMap[str, bytes]:
    evolver = data.evolver()
    for key, _old, new in changes:
        if new is None:
            evolver.remove(key)
        else:
            evolver.set(key, new)
    return evolver.persistent()


def _size(key: str, value: bytes | None) -> int:
    # Half of a surrogate pair is a legal JSON string and a legal str, but not legal UTF-8.
    return 0 if value is None else len(key.encode("utf-8", "surrogatepass")) + len(value)
