"""Consumers as JSON. What a consumer said is encoded once for each change, ages for each answer.

Ages change all the time, so ETags are weak and do not cover them: equal ETags mean that the same
consumers say the same, in every replica.

It must never show who owns an id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from configregistry.serve.consumers.roster import Entry, Roster

FRESH: Final = 1.0
"""Seconds that an encoded list is given again, as long as nothing but ages has changed."""

_text = msgspec.json.encode
_by_id = attrgetter("id")


def said(entry: Entry) -> bytes:
    """Give what a consumer says, but for ages: an object without its end."""
    if entry.told is None:
        whole = entry.ttl.is_integer()
        document = {
            "id": entry.id,
            "ttlSeconds": int(entry.ttl) if whole else entry.ttl,
            "labels": entry.labels,
            "observed": entry.observed,
        }
        entry.told = _text(document)[:-1]
    return entry.told


def one(entry: Entry, now: float) -> bytes:
    """Give one consumer."""
    observed = b"null" if entry.observed is None else b"%.3f" % max(0.0, now - entry.observed_at)
    return b'%b,"ageSeconds":%.3f,"registeredAgeSeconds":%.3f,"observedAgeSeconds":%b}' % (
        said(entry),
        max(0.0, now - entry.heard),
        max(0.0, now - entry.registered),
        observed,
    )


def etag(*parts: bytes) -> str:
    """Name what consumers say."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f'W/"{digest.hexdigest()[:24]}"'


@dataclass(slots=True)
class _Kept:
    """What was made of a roster."""

    changes: int = -1
    etag: str = ""
    entries: list[Entry] = field(default_factory=list)
    made: float = 0.0
    body: bytes = b""


class Lists:
    """Whole lists, in the order of ids. Kept as long as their rosters are."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Roster, _Kept] = WeakKeyDictionary()

    def etag(self, roster: Roster) -> str:
        """Name what all consumers of a registry say."""
        return self._current(roster).etag

    def body(self, roster: Roster, now: float, list_age: float | None) -> bytes:
        """Give all consumers of a registry. `list_age`: of what is known from other replicas, in seconds."""
        kept = self._current(roster)
        if not kept.body or now - kept.made > FRESH:
            head = _text(
                {
                    "namespace": roster.namespace,
                    "registry": roster.name,
                    "listAgeSeconds": None if list_age is None else round(list_age, 3),
                }
            )
            kept.body = b'%b,"consumers":[%b]}' % (head[:-1], b",".join([one(entry, now) for entry in kept.entries]))
            kept.made = now
        return kept.body

    def _current(self, roster: Roster) -> _Kept:
        kept = self._kept.get(roster)
        if kept is None or kept.changes != roster.changes:
            entries = sorted(roster.entries.values(), key=_by_id)
            name = etag(roster.uid.encode(), *map(said, entries))
            kept = self._kept[roster] = _Kept(roster.changes, name, entries)
        return kept
