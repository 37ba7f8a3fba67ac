"""Which registries were read when: how a replica states it, and how the leader remembers it.

Ages, as everywhere in the exchange (`reports`): no clock of one machine is compared with another's. Of several
statements about one registry the latest read counts, so they may be repeated, come late or come twice.

With the registry's UID: what was read of a namesake says nothing about it.

Nothing here may ask a clock, nor decide for how long a registry has to be unread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

KEEP: Final = 2 * 86_400.0
"""Seconds after which the leader forgets a read: by then its day is in the status, or the registry is gone."""
_SAME: Final = 1.0
"""Seconds by which two statements about one read may differ: what calls take on their way."""


class Read(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A registry was read. An array on the wire: there may be one for each registry that there is."""

    namespace: str
    registry: str
    uid: str
    age: float
    """Seconds since the latest read that was noted."""


class Owner(NamedTuple):
    """A registry of one life."""

    namespace: str
    registry: str
    uid: str


class LastReads:
    """What the leader has heard."""

    def __init__(self) -> None:
        self._at: dict[Owner, float] = {}

    def __len__(self) -> int:
        return len(self._at)

    def told(self, reads: Iterable[Read], asked: float) -> list[Owner]:
        """Take a replica's statement; `asked`: when it was asked, monotonic. Gives those with a read that is new."""
        new = []
        for read in reads:
            owner, at = Owner(read.namespace, read.registry, read.uid), asked - read.age
            before = self._at.get(owner)
            if before is None or at > before + _SAME:
                self._at[owner] = at
                new.append(owner)
        return new

    def age(self, owner: Owner, now: float) -> float | None:
        """Seconds since the latest read that was heard of; None: of none."""
        at = self._at.get(owner)
        return None if at is None else max(0.0, now - at)

    def forget(self, now: float) -> None:
        """Drop what is older than `KEEP`."""
        self._at = {owner: at for owner, at in self._at.items() if now - at <= KEEP}
