"""Keys in order, so that a prefix or a range is read without looking at every key.

A hash map forgets order; sorting 20,000 keys for each page of a listing costs more than the page.
The keys are kept as sorted tuples ("chunks") of some 512 under one tuple that names each chunk's
first key: a search is two bisections, and a new version copies only the chunks that gained or lost
a key. A version that changes values alone shares the whole index with its parent.

It must never hold values, never change in place, and never order otherwise than by code point
(Python's own order of str), because page tokens are compared by that order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

CHUNK: Final = 512
"""Keys in a freshly cut chunk. Two neighbours always hold more than this together, and none holds
more than twice as many: so both the list of chunks and the cost of copying one stay small."""

_LAST_CODE_POINT: Final = "\U0010ffff"

Chunk = tuple[str, ...]


class OrderedKeys:
    """An immutable ordered set of keys. `update` gives a new one that shares untouched chunks."""

    __slots__ = ("_chunks", "_firsts", "_size")

    def __init__(self, chunks: tuple[Chunk, ...] = ()) -> None:
        """Take chunks that are already sorted; everybody else calls `of` or `update`."""
        self._chunks = chunks
        self._firsts = tuple(chunk[0] for chunk in chunks)
        self._size = sum(map(len, chunks))

    @classmethod
    def of(cls, keys: Iterable[str]) -> OrderedKeys:
        """Index distinct keys that come in any order."""
        return cls(tuple(_cut(sorted(keys))))

    def update(self, added: Collection[str], removed: Collection[str]) -> OrderedKeys:
        """Index these keys as well, and those no more, in O(chunks + touched keys).

        The caller knows what changed: no added key is present, every removed key is.
        """
        if not added and not removed:
            return self
        if not self._chunks:
            return OrderedKeys.of(added)
        gained: dict[int, list[str]] = {}
        lost: dict[int, set[str]] = {}
        for key in added:
            gained.setdefault(self._chunk_of(key), []).append(key)
        for key in removed:
            lost.setdefault(self._chunk_of(key), set()).add(key)
        chunks: list[Chunk] = []
        for number, chunk in enumerate(self._chunks):
            if number not in gained and number not in lost:
                _append(chunks, chunk)
                continue
            gone = lost.get(number, ())
            kept = [key for key in chunk if key not in gone]
            kept += gained.get(number, ())
            kept.sort()
            for piece in _cut(kept):
                _append(chunks, piece)
        return OrderedKeys(tuple(chunks))

    def scan(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        end: str | None = None,
        after: str | None = None,
    ) -> Iterator[str]:
        """Give the keys that begin with `prefix`, from `start` on, before `end`, after `after`.

        All bounds hold together. `after` is how a listing goes on from the last key of a page; it
        need not be a key that exists. Costs O(log n) to begin and O(1) for each key taken.
        """
        lowest, highest = (0, 0), (len(self._chunks), 0)
        if prefix:
            lowest = max(lowest, self._position(prefix))
            following = _first_after_prefix(prefix)
            if following is not None:
                highest = min(highest, self._position(following))
        if start is not None:
            lowest = max(lowest, self._position(start))
        if after is not None:
            lowest = max(lowest, self._position(after, past=True))
        if end is not None:
            highest = min(highest, self._position(end))
        return self._between(lowest, highest)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._chunks)

    def __len__(self) -> int:
        return self._size

    def _between(self, lowest: tuple[int, int], highest: tuple[int, int]) -> Iterator[str]:
        if lowest >= highest:
            return iter(())
        (first, offset), (last, limit) = lowest, highest
        if first == last:
            return iter(self._chunks[first][offset:limit])
        tail = self._chunks[last][:limit] if limit else ()
        whole = islice(self._chunks, first + 1, last)
        return chain(self._chunks[first][offset:], chain.from_iterable(whole), tail)

    def _chunk_of(self, key: str) -> int:
        """Name the chunk that holds the key, or would; keys before all others go to the first."""
        return max(bisect_right(self._firsts, key) - 1, 0)

    def _position(self, key: str, *, past: bool = False) -> tuple[int, int]:
        """Chunk and offset of the first key not below `key` (or, with `past`, above it)."""
        if not self._chunks:
            return (0, 0)
        number = self._chunk_of(key)
        bisect = bisect_right if past else bisect_left
        return (number, bisect(self._chunks[number], key))


def _cut(keys: list[str]) -> Iterator[Chunk]:
    """Cut sorted keys into even chunks, unless they fit into a single one of bearable size."""
    if len(keys) <= 2 * CHUNK:
        if keys:
            yield tuple(keys)
        return
    pieces = len(keys) // CHUNK
    for piece in range(pieces):
        yield tuple(keys[piece * len(keys) // pieces : (piece + 1) * len(keys) // pieces])


def _append(chunks: list[Chunk], chunk: Chunk) -> None:
    """Add a chunk; join it to the one before if both are small, or removals would leave dust."""
    if chunks and len(chunks[-1]) + len(chunk) <= CHUNK:
        chunks[-1] += chunk
    else:
        chunks.append(chunk)


def _first_after_prefix(prefix: str) -> str | None:
    """Give the smallest string above everything that begins with `prefix`, if there is one."""
    stem = prefix.rstrip(_LAST_CODE_POINT)
    return stem[:-1] + chr(ord(stem[-1]) + 1) if stem else None
