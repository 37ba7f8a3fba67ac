"""Who wants to know when which registries change: long polls, waits for a revision, event streams.

A publication calls those alone who are interested in a registry that it changed, once each, whether
the registry exists or not: one may wait for a name that is not there yet.

It must never answer anything itself, and never keep anybody who has cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import structlog

from configregistry.kube.objects import Key
from configregistry.state import Snapshot

_log = structlog.get_logger(__name__)


class Interest:
    """One party's interest. Made by `Interests.listen`."""

    __slots__ = ("_all", "keys", "told")

    def __init__(self, interests: Interests, told: Callable[[], None]) -> None:
        self._all = interests
        self.told = told
        self.keys: frozenset[Key] = frozenset()

    def on(self, keys: Iterable[Key]) -> None:
        """Be interested in these from now on, and in no others."""
        self._all._move(self, frozenset(keys))  # noqa: SLF001 - two halves of one thing

    def cancel(self) -> None:
        """Be interested in nothing: nobody is told any more, not even by a publication under way."""
        self.on(())


class Interests:
    """All interests, by registry. All of it runs in the event loop's thread."""

    def __init__(self) -> None:
        self._by_key: dict[Key, dict[Interest, None]] = {}

    @property
    def keys(self) -> Collection[Key]:
        """The registries that somebody is interested in."""
        return self._by_key.keys()

    def listen(self, keys: Iterable[Key], told: Callable[[], None]) -> Interest:
        """Have `told` called right behind each publication that changes one of these.

        Listen before looking at what is there, or a change in between is missed.
        """
        interest = Interest(self, told)
        interest.on(keys)
        return interest

    def published(self, _before: Snapshot, _now: Snapshot, changed: Collection[Key]) -> None:
        """Tell those who are interested; subscribe this to the hydrator."""
        parties: dict[Interest, None] = {}
        for key in changed:
            parties.update(self._by_key.get(key, {}))
        for party in parties:
            if not party.keys.isdisjoint(changed):
                try:
                    party.told()
                except Exception:  # noqa: BLE001 - one party's defect is not another's
                    _log.exception("a party could not be told of a publication")

    def _move(self, interest: Interest, keys: frozenset[Key]) -> None:
        for key in interest.keys - keys:
            parties = self._by_key[key]
            del parties[interest]
            if not parties:
                del self._by_key[key]
        for key in keys - interest.keys:
            self._by_key.setdefault(key, {})[interest] = None
        interest.keys = keys
