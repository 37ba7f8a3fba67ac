"""What this process remembers of a registry beside the status: measurements, copies, nothing that decides.

Losing all of it (a restart) must lose no decision: time since the last save is measured again, checks
must pass again, content is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from configregistry.health import RolloutKey
from configregistry.kube.objects import RegistryObject, RevisionObject
from configregistry.model.content import Content
from configregistry.model.policy import Policy
from configregistry.model.status import Status
from configregistry.reconcile.projection import Projected
from configregistry.rollout.observation import Problem, VersionInfo
from configregistry.rollout.plan import Plan

Key = tuple[str, str]
"""Namespace and name of a registry."""


class Attempt(NamedTuple):
    """A status write of unknown outcome: on which resourceVersion, and the probes that it counts."""

    base: str
    status: Status
    rollout: RolloutKey | None
    counts: Mapping[str, int]


class Recorded(NamedTuple):
    """A version that this process recorded, and the monotonic time at which it was known to be there."""

    info: VersionInfo
    at: float


@dataclass
class Memory:
    """Of one registry, of one UID."""

    uid: str
    latest: RegistryObject | None = None
    """What a write or a GET gave back, while that is newer than what the reflector has."""
    doubted: bool = False
    """A write failed: the API server is asked what there is before anything else is decided."""
    attempts: tuple[Attempt, ...] = ()
    """Writes without an answer, on one resourceVersion: until that has moved on, each may still come."""
    written: Status | None = None
    """The status as this process knows it. One that differs was changed by a hand, and is put back."""
    saved_at: float | None = None
    """Monotonic time up to which `written` has counted the present stage's time."""
    rollout: RolloutKey | None = None
    """The candidate whose checks are being made."""
    plan: Plan | None = None
    """The last valid plan: a candidate is still checked while spec.rollout is broken."""
    policies: tuple[Policy, ...] = ()
    """Those that it was made under: they hold while nobody can read them."""
    content_key: tuple[object, ...] = ()
    content: Content | Problem | None = None
    """What the spec last came to, and of which spec and sources. Without its JSON once it is recorded."""
    recorded: dict[int, Recorded] = field(default_factory=dict)
    """Versions recorded by this process that the reflector has not seen yet."""
    resumed: str = ""
    """The stage (its stepStartedAt) that stood still after a failed check: a resume counts from itself."""
    drops: bool = False
    """The API server does not keep what is told of the usage: its CRD is older than this program."""
    project_delay: float = 0.0
    project_after: float = 0.0
    """Seconds between tries of a projection that is refused, and the monotonic time of the next."""
    projected: Projected | None = None
    """What the ConfigMap of spec.project was last seen to hold."""
    held: dict[int, RevisionObject] = field(default_factory=dict)
    """The versions that status names, from which one that a hand deleted is made again."""


class Memories:
    """The memories of all registries; one of another UID is another registry."""

    def __init__(self) -> None:
        self._of: dict[Key, Memory] = {}

    def of(self, key: Key, uid: str) -> Memory:
        """The memory of a registry, new and empty for a new UID."""
        memory = self._of.get(key)
        if memory is None or memory.uid != uid:
            memory = self._of[key] = Memory(uid)
        return memory

    def doubt(self, key: Key, uid: str) -> None:
        """What a watch has told of a registry is behind: have it asked for."""
        self.of(key, uid).doubted = True

    def rewound(self) -> None:
        """The API server went back in time: nothing that was read from it or written to it is there for certain."""
        for memory in self._of.values():
            memory.latest, memory.attempts, memory.doubted = None, (), True
            memory.written, memory.saved_at = None, None
            memory.content_key, memory.content = (), None
            memory.projected = None
            memory.recorded.clear()
            memory.held = {}

    def replaced(self, key: Key, uid: str) -> Memory | None:
        """Forget the memory of another UID of this name; gives it."""
        memory = self._of.get(key)
        return self._of.pop(key) if memory is not None and memory.uid != uid else None

    def forget(self, key: Key) -> Memory | None:
        """The registry is gone; gives what was remembered of it."""
        return self._of.pop(key, None)
