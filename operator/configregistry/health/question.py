"""What is asked, of whom, and what comes back: the words that the probers and the runner share.

It exists so that a kind of check is one function from a `Question` to a `Finding`. It must never do
I/O, and never know the kinds of checks or the reconciler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

from configregistry.health.outbound import Outbound
from configregistry.kube.workloads import Workload
from configregistry.model.reports import Report
from configregistry.model.spec import Check
from configregistry.model.status import Canary
from configregistry.rollout.observation import Verdict


class RolloutKey(NamedTuple):
    """One candidate of one registry: another version or hash is another rollout.

    Namespace and name are there for whoever queues the registry; `uid` tells namesakes apart.
    """

    namespace: str
    registry: str
    uid: str
    version: int
    hash: str


class StageKey(NamedTuple):
    """One stage of a candidate. `step_started_at` is in it because steps may be begun again."""

    step: int
    baking: bool
    step_started_at: str

    @classmethod
    def of(cls, canary: Canary) -> StageKey:
        """The stage that a status names."""
        return cls(canary.current_step_index, canary.baking, canary.step_started_at)


class Subject(NamedTuple):
    """Whom a check is about: the values of the template names."""

    namespace: str
    registry: str
    version: int
    hash: str
    stable_version: int | None


class Memory:
    """What a probe of one check leaves for the next one: the kind of check alone knows what it is.

    It belongs to one check of one candidate and goes with it: with the candidate, with an edit of the check, and
    with the process. Nothing else has to bound it or to forget it. What a new leader lacks may only make its
    verdict come later.
    """

    def __init__(self) -> None:
        self.kept: object = None


class Question(NamedTuple):
    """One probe to make. `timeout`, in seconds, is for all of it.

    `elapsed`: seconds that the stage has run, by monotonic clocks alone; perhaps fewer than it has, never more,
    so that nothing from before the stage is taken for a part of it. `uid`: of the registry. `asked` and `wall`:
    when, by the monotonic and by the wall clock. `memory` None: of no check that is probed again.
    """

    check: Check
    subject: Subject
    stage: StageKey
    timeout: float
    elapsed: float = 0.0
    uid: str = ""
    asked: float = 0.0
    wall: datetime | None = None
    memory: Memory | None = None


class Finding(NamedTuple):
    """What a prober says: the verdict, the value as text (empty: none), a sentence if needed."""

    verdict: Verdict
    value: str = ""
    message: str = ""


class Known(NamedTuple):
    """What is known of a registry's consumers, from all serve replicas.

    `consumers`: those that live, their ages as of now. `errors`: by replica, why it did not answer when all were
    asked last; unless it is empty there may be more consumers. `age`: seconds since then.
    """

    consumers: tuple[Report, ...]
    errors: Mapping[str, str]
    age: float


class Reports(Protocol):
    """Who knows the consumers."""

    async def known(self, namespace: str, registry: str, uid: str) -> Known:
        """The consumers of one registry; waits until all replicas have been asked for the first time."""
        ...


class Workloads(Protocol):
    """Who knows workloads and their pods: `kube.workloads` in this program."""

    async def look(self, namespace: str, kind: str, name: str, *, fresh: bool) -> Workload | None:
        """The workload with its pods, as the API server has them now; None: there is none.

        `fresh`: the pods too are not to be older than the question; else they may be by as much as a watch is
        behind. Raises `ConfigRegistryError`.
        """
        ...


class Means(NamedTuple):
    """What probers ask with. A kind that needs more (the cluster) adds a field."""

    outbound: Outbound
    reports: Reports | None = None
    """None: this program knows of no replicas."""
    workloads: Workloads | None = None
    """None: this program may not look at workloads."""


Prober = Callable[[Question, Means], Awaitable[Finding]]
"""Makes one probe. What it raises is an Error verdict; it must let itself be cancelled."""
