"""Whether the API server went back in time: how far it was known to be, against what it says now. Pure.

A list that is older than what was told before is one of two things: an answer of a server that is behind, which the
next answer corrects, or the truth since etcd was restored from a backup. Nothing in one answer tells them apart, so
time has to: what is said again and again, and by nobody contradicted, is true.

A restored server may also grow past what was known before anybody believed it. So once an older answer was given, the
next list that is believed begins another history, whatever it is: to think so in vain costs reading some things anew.

It must never take one older answer for the truth, nor wait for ever for the newer one.
"""

from __future__ import annotations

from typing import Final

OLDER_LISTS: Final = 3
OLDER_SECONDS: Final = 10.0
"""So many older lists in a row, over so long, are believed."""


class Timeline:
    """How far one resource is known to have come."""

    def __init__(self) -> None:
        self.newest = 0
        """The greatest resourceVersion that was told."""
        self.went_back = False
        """An older answer was given since the last list that was believed."""
        self._older = 0
        self._since = 0.0

    def told(self, version: str) -> None:
        """An event or a list that is believed stood at this resourceVersion."""
        self.newest = max(self.newest, number(version))

    def is_older(self, version: str) -> bool:
        """Whether an answer is older than something that was told before."""
        older = number(version) < self.newest
        self.went_back = self.went_back or older
        return older

    def believes(self, version: str, now: float) -> bool:
        """Whether a list is to be believed; one that is not older always is."""
        if not self.is_older(version):
            self._older = 0
            return True
        if not self._older:
            self._since = now
        self._older += 1
        return self._older >= OLDER_LISTS and now - self._since >= OLDER_SECONDS

    def begin(self, version: str) -> None:
        """What comes is counted from here, whatever was told before."""
        self.newest, self._older, self.went_back = number(version), 0, False


def number(version: str) -> int:
    """Order of a resourceVersion: they are comparable numbers (KEP-5504); 0 for anything else."""
    return int(version) if version.isascii() and version.isdigit() else 0
