"""The plain reference for the persistent version: dicts and sorted lists, nothing shared or clever.

It must never import from the product: what it says is what the product is measured against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class PlainVersion:
    """A copy of everything, each time."""

    def __init__(self, content: Mapping[Any, bytes], parent: PlainVersion | None = None) -> None:
        self._content = dict(content)
        before = {} if parent is None else parent._content
        touched = [] if parent is None else sorted(before.keys() | self._content.keys())
        self.changes = tuple(
            (key, before.get(key), self._content.get(key))
            for key in touched
            if before.get(key) != self._content.get(key)
        )
        self.size = sum(len(key.encode("utf-8", "surrogatepass")) + len(value) for key, value in self._content.items())

    @classmethod
    def derive(
        cls, parent: PlainVersion | None, number: int, digest: str, content: Mapping[Any, bytes]
    ) -> PlainVersion:
        del number, digest
        return cls(content, parent)

    def get(self, key: Any) -> bytes | None:
        return self._content.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._content

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._content)

    def content(self) -> dict[Any, bytes]:
        return dict(self.scan())

    def scan(
        self, *, prefix: str = "", start: Any = None, end: Any = None, after: Any = None
    ) -> Iterator[tuple[Any, bytes]]:
        for key, value in sorted(self._content.items()):
            if (
                (not prefix or key.startswith(prefix))
                and (start is None or key >= start)
                and (end is None or key < end)
                and (after is None or key > after)
            ):
                yield key, value
