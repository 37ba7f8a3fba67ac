"""Whole answers under the very bytes of their requests: the same question is not worked out twice.

A read costs some 17 us of which 8 are the loop and the system calls; this leaves little of the rest. Kept is only
what says of itself that it lasts (`Response.lasting`: it depends on the request and on what is published, on nothing
else), only while nothing is published, and never longer than `TICK`, so that who may read, how stale it is and the
date are looked at again.

It must never answer from a state that is over, and never keep anything of a request that brings content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

MAX_ANSWERS: Final = 4096
MAX_BYTES: Final = 16 * 1024 * 1024
MAX_REQUEST: Final = 2048
"""Bytes of a request that is known again."""


class Counted(Protocol):
    """Is told of answers that were given again."""

    def repeated(self, code: int, number: int) -> None:
        """So many requests were answered with this status."""
        ...


class _Answer:
    __slots__ = ("count", "status", "wire")

    def __init__(self, wire: bytes, status: int) -> None:
        self.wire = wire
        self.status = status
        self.count = 0


class Lasting:
    """All answers of one server that last. `state` gives another object once anything was published."""

    __slots__ = ("_answers", "_counted", "_of", "_size", "_state")

    def __init__(self, state: Callable[[], object], counted: Counted | None) -> None:
        self._state = state
        self._counted = counted
        self._answers: dict[bytes, _Answer] = {}
        self._of: object = None
        self._size = 0

    def find(self, data: bytes) -> bytes | None:
        """Give the answer to these bytes."""
        found = self._answers.get(data)
        if found is None or self._of is not self._state():
            return None
        found.count += 1
        return found.wire

    def keep(self, data: bytes, wire: bytes, status: int) -> None:
        """Know this answer until something is published, or `forget`."""
        state = self._state()
        if state is not self._of:
            self.forget()
            self._of = state
        if len(data) <= MAX_REQUEST and len(self._answers) < MAX_ANSWERS and self._size + len(wire) <= MAX_BYTES:
            self._answers[data] = _Answer(wire, status)
            self._size += len(wire)

    def forget(self) -> None:
        """Keep nothing, and tell how often what was kept was given."""
        if self._counted is not None:
            for answer in self._answers.values():
                if answer.count:
                    self._counted.repeated(answer.status, answer.count)
        self._answers.clear()
        self._of, self._size = None, 0
