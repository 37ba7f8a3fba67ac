"""Answers that were encoded once, kept beside the registry that they were made from.

The cache holds its registries weakly: when a publication replaces one and the last reader lets go,
its answers are freed with it, and nothing has to be invalidated. All of it together is bounded by
bytes; over the bound everything is dropped, because what is asked for often is back at once and
remembering who was used last would cost each read more than that.

Only the event loop's thread may use it. It must never keep a registry or a snapshot alive.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final
from weakref import WeakKeyDictionary, ref

from configregistry.serve.responses import Answer
from configregistry.state import Namespace, Registry

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_LISTS: Final = 64
_OVERHEAD: Final = 1024
"""What one answer costs beside its bytes: headers, ETag, keys."""


class Entries:
    """The answers of one registry. Dies with it, and gives its bytes back to the cache."""

    __slots__ = ("_cache", "answers", "size")

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.answers: dict[Hashable, Answer] = {}
        self.size = 0

    def keep(self, key: Hashable, answer: Answer) -> Answer:
        """Remember an answer for as long as the registry is there and there is room."""
        size = answer.size + _OVERHEAD
        if self._cache.room(size):
            self.answers[key] = answer
            self.size += size
            self._cache.size += size
            answer.found.lasting = answer.unchanged.lasting = self._cache.lasting
        return answer

    def __del__(self) -> None:
        self._cache.size -= self.size


class Cache:
    """All answers of this process."""

    def __init__(self, max_bytes: int = MAX_BYTES, *, lasting: bool = True) -> None:
        """`lasting`: the server may give an answer again without asking for it (`Response.lasting`)."""
        self.size = 0
        self.lasting = lasting
        self._max_bytes = max_bytes
        self._registries: WeakKeyDictionary[Registry, Entries] = WeakKeyDictionary()
        self._lists: dict[str, tuple[ref[Namespace], Answer]] = {}

    def of(self, registry: Registry) -> Entries:
        """Give the answers of a registry as it is published at present."""
        entries = self._registries.get(registry)
        if entries is None:
            entries = self._registries[registry] = Entries(self)
        return entries

    def room(self, size: int) -> bool:
        """Make room, by dropping everything if need be. False: larger than all of it."""
        if size > self._max_bytes:
            return False
        if self.size + size > self._max_bytes:
            for entries in self._registries.values():
                entries.answers.clear()
                self.size -= entries.size
                entries.size = 0
        return True

    def listing(self, name: str, namespace: Namespace) -> Answer | None:
        """Give the encoded list of a namespace, if it is of this very state of it."""
        held = self._lists.get(name)
        return held[1] if held is not None and held[0]() is namespace else None

    def keep_listing(self, name: str, namespace: Namespace, answer: Answer) -> Answer:
        """Remember the list of a namespace until it changes."""
        if len(self._lists) >= MAX_LISTS:
            self._lists.clear()
        self._lists[name] = (ref(namespace), answer)
        return answer
