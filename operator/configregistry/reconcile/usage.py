"""Whether a registry is used: what of it is stored, and when it has to be looked at again for that alone.

Stored is the day of the latest read, not its moment: one status write a day for a registry that is read, none for
one that is not. Each registry has a moment of the day of its own, by its UID, so that 10,000 of them are spread over
the day, and a restart of the controller writes nothing at once. Replicas tell ages (`model.reads`); the wall clock
only names the day.

It must never say of a registry that it is unused while somebody who may have served a read has not been heard, nor
take a read back: days only grow, whatever the clock does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import isfinite
from typing import Final

from configregistry.clock import Clock, parse_timestamp, timestamp
from configregistry.kube.objects import Meta
from configregistry.model.status import Status
from configregistry.reconcile.memory import Key
from configregistry.rollout.observation import Usage

UNUSED_AFTER: Final = 90 * 86_400.0
"""Seconds without a read after which a registry is unused, unless a setting says otherwise."""
LastRead = Callable[[str, str, str], float | None]
"""Gives seconds since a registry (namespace, name, UID) was read, as the collector's `last_read` does."""
_DAY: Final = timedelta(days=1)


def usage(status: Status, uid: str, created: datetime, age: float | None, now: datetime, limit: float) -> Usage:
    """What is known of who reads a registry.

    `age`: seconds since the latest read that the replicas know of, infinite where they know of none; None: they
    cannot say. A day that is over counts to its end, since nobody knows when in it the registry was read.
    """
    if age is None:
        return Usage()
    read = now - timedelta(seconds=age) if isfinite(age) else None
    unread_since = max([_known(status, created), *([read] if read else [])])
    unused = (now - unread_since).total_seconds() > limit
    day = timestamp(_midnight(read)) if read is not None else ""
    # That it was read on the day on which it was made need not be said.
    due = status.unused or (day > timestamp(_midnight(created)) and now >= _moment(_midnight(now), uid))
    return Usage(day if due and day > status.last_read_at else "", unused)


def look_in(status: Status, uid: str, created: datetime, now: datetime, limit: float) -> float:
    """Seconds until time alone may change what is known: the registry's moment of the day, or when it may be unused."""
    today = _moment(_midnight(now), uid)
    moments = [today if today > now else _moment(_midnight(now) + _DAY, uid)]
    if not status.unused:
        # Registries that were made or read on one day do not become unused in one moment.
        over = _known(status, created) + timedelta(seconds=limit + _share(uid) * min(limit / 90, _DAY.total_seconds()))
        moments += [over] if over > now else []
    return (min(moments) - now).total_seconds()


class Readers:
    """Who reads which registry, for those who gather and who wake: the pure part with a clock, and who is unused."""

    def __init__(self, last_read: LastRead, clock: Clock, limit: float = UNUSED_AFTER) -> None:
        self._last_read = last_read
        self._clock = clock
        self._limit = limit
        self._unused: set[Key] = set()

    def __len__(self) -> int:
        """Give how many registries are unused, for the gauge."""
        return len(self._unused)

    def usage(self, meta: Meta, status: Status) -> Usage:
        """What is to be observed of a registry."""
        now = self._clock.wall()
        age = self._last_read(meta.namespace, meta.name, meta.uid)
        return usage(status, meta.uid, _created(meta, now), age, now, self._limit)

    def look_in(self, meta: Meta, status: Status) -> float:
        """Seconds after which a steady registry is to be looked at again; remembers whether it is unused."""
        (self._unused.add if status.unused else self._unused.discard)((meta.namespace, meta.name))
        now = self._clock.wall()
        return look_in(status, meta.uid, _created(meta, now), now, self._limit)

    def among(self, read: Iterable[Key]) -> list[Key]:
        """Give those of a round's reads that are to be looked at now: what was unused is not, from now on."""
        return [key for key in read if key in self._unused]

    def forget(self, key: Key) -> None:
        """A registry is gone."""
        self._unused.discard(key)


def _created(meta: Meta, now: datetime) -> datetime:
    return parse_timestamp(meta.creation_timestamp) or now


def _known(status: Status, created: datetime) -> datetime:
    """The latest moment at which it may have been read, by what is stored."""
    stored = parse_timestamp(status.last_read_at)
    return created if stored is None else max(created, stored + _DAY)


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _moment(midnight: datetime, uid: str) -> datetime:
    """When on that day a registry is looked at."""
    return midnight + _share(uid) * _DAY


def _share(uid: str) -> float:
    """A part of the day, the same for each process and each day."""
    return int.from_bytes(sha256(uid.encode()).digest()[:4], "big") / 2**32
