"""One stream: whom it is of, and where it is.

It is either catching up by itself (it has just come, or does not take what it is sent as quickly as it could have
it), or it follows: then it is in a group.

Nothing here may decide what is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from configregistry.kube.objects import Key
from configregistry.rollout.buckets import PER_PERCENT, Candidate, bucket, matches
from configregistry.serve.responses import Sink
from configregistry.serve.view import Consumer
from configregistry.serve.watch.standing import Standing

if TYPE_CHECKING:
    from configregistry.serve.watch.groups import Group

PATIENCE: Final = 2
"""Of its beats that a stream waits for a registry that its client has seen and this replica has never heard of."""
_ALL: Final = 100
_MAX_KNOWN: Final = 8


class Who:
    """A consumer that remembers, for each rollout, from which weight on it gets the candidate."""

    __slots__ = ("_consumer", "_known")

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._known: dict[str, tuple[object, int]] | None = None

    @property
    def target(self) -> str | None:
        """A workload identity."""
        return self._consumer.target

    def get(self, name: str, /) -> str | None:
        """Give an attribute, or None."""
        return self._consumer.get(name)

    def gets(self, candidate: Candidate) -> bool:
        """Tell what `gets_candidate` does; the hash is computed once for each seed."""
        known = self._known.get(candidate.seed) if self._known is not None else None
        if known is None or known[0] != candidate.match:
            if self._known is None or len(self._known) >= _MAX_KNOWN:
                self._known = {}
            known = self._known[candidate.seed] = (candidate.match, self._least(candidate))
        return candidate.weight >= known[1]

    def _least(self, candidate: Candidate) -> int:
        if matches(candidate, self._consumer):
            return 0
        target = self._consumer.target
        return bucket(candidate.seed, target) // PER_PERCENT + 1 if target else _ALL


class Keeper(Protocol):
    """What a stream calls. `Watches` is one."""

    def resumed(self, watcher: Watcher) -> None:
        """The client has taken what was pending."""
        ...

    def drain(self, watcher: Watcher) -> None:
        """Say goodbye."""
        ...

    def forget(self, watcher: Watcher) -> None:
        """The client is gone."""
        ...


class Watcher:
    """One stream, as the server's `Feed`."""

    __slots__ = ("__weakref__", "_keeper", "group", "keys", "patience", "pending", "sink", "slot", "standings", "who")

    def __init__(
        self, keeper: Keeper, sink: Sink, who: Who, keys: tuple[Key, ...], standings: list[Standing], slot: int
    ) -> None:
        self._keeper = keeper
        self.sink = sink
        self.who = who
        self.keys = keys
        self.standings: list[Standing] | None = standings
        """Where it is while it catches up; None: where its group is, or it has ended."""
        self.group: Group | None = None
        self.slot = slot
        """At which beats it is looked at."""
        self.patience = PATIENCE
        self.pending = 0
        """What was pending at the last beat while it did not follow."""

    def resumed(self) -> None:
        """Go on catching up."""
        self._keeper.resumed(self)

    def drain(self) -> None:
        """Say goodbye and end."""
        self._keeper.drain(self)

    def closed(self) -> None:
        """Forget it."""
        self._keeper.forget(self)
