"""What the machine is told and what it answers. Frozen; gathered whole before anything is decided."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from configregistry.model.content import Content
from configregistry.model.spec import NameRef
from configregistry.model.status import Status
from configregistry.rollout.plan import Plan


class Verdict(enum.Enum):
    """What one probe said."""

    PASS = "Pass"  # noqa: S105
    FAIL = "Fail"
    ERROR = "Error"
    """The question could not be asked."""
    NO_DATA = "NoData"
    """It was asked, and there is nothing to judge by. Never healthy."""


class Probe(NamedTuple):
    """One finished probe of a check: the verdict, the value as text (empty: none), a sentence, wall time."""

    verdict: Verdict
    value: str
    message: str
    at: str


class CheckReport(NamedTuple):
    """What the runner has to say of one check.

    `unsaved`: probes, oldest first, that no accepted status write has counted yet.
    `passed`: a Pass that was asked for in the present stage was seen by this process.
    """

    name: str
    unsaved: tuple[Probe, ...] = ()
    passed: bool = False


class VersionInfo(NamedTuple):
    """A recorded version."""

    number: int
    hash: str
    keys: int


class Verb(enum.Enum):
    """The commands, in the order in which several new ones act."""

    ABORT = "abort"
    PAUSE = "pause"
    PROMOTE_FULL = "promote-full"
    PROMOTE = "promote"
    RESUME = "resume"
    RETRY = "retry"


class Command(NamedTuple):
    """An annotation `<version>:<step>:<token>`. `version` is None where the text was unreadable."""

    verb: Verb
    version: int | None
    step: str
    token: str


class Problem(NamedTuple):
    """Why there is no content to roll out: a reason of the conditions table and a sentence."""

    reason: str
    message: str


class HookState(enum.Enum):
    """What the PreRollout hooks have said of the content."""

    ALLOWED = "Allowed"
    """All said yes, or there are none."""
    PENDING = "Pending"
    """Not asked yet, or no answer yet."""
    VETOED = "Vetoed"


class Usage(NamedTuple):
    """Whether anybody reads the registry. `last_read_at` as it is to be stored; empty: nothing new is known."""

    last_read_at: str = ""
    unused: bool | None = None
    """None: nobody can say."""


class Observation(NamedTuple):
    """Everything that a decision may depend on, beside the status.

    `content` is None where `problem` says why. `plan` is None where spec.rollout is itself invalid (then
    `problem` says so). `since_saved` is how many seconds this process has measured, on its monotonic
    clock, since the status that it decides on was accepted or first seen by it. `projection` is a
    conflict of spec.project's target.
    """

    uid: str
    generation: int
    plan: Plan | None
    content: Content | None
    problem: Problem | None
    versions: Mapping[int, VersionInfo]
    now: datetime
    since_saved: float = 0.0
    pinned: int | None = None
    reports: tuple[CheckReport, ...] = ()
    commands: tuple[Command, ...] = ()
    waiting_for: tuple[str, ...] = ()
    """Names of dependencies that are not ready."""
    hook: HookState = HookState.ALLOWED
    hook_message: str = ""
    fallback: NameRef | None = None
    projection: str = ""
    tells: frozenset[str] = frozenset()
    """The results of outcomes that hooks are to be told of."""
    told: bool = False
    """All hooks that were to be told of the status's lastOutcome have been."""
    usage: Usage = Usage()


class Note(NamedTuple):
    """A Kubernetes event to be told once the status that it speaks of is accepted."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Decision(NamedTuple):
    """What to do.

    `record`: the content has no version yet: record it, then ask again; nothing else is decided.
    `status`: to be written when it differs from what was observed (`changed`).
    `notes`: events of this very change.
    `wake_in`: seconds after which to ask again though nothing happened; None: never.
    """

    status: Status
    changed: bool = False
    notes: tuple[Note, ...] = ()
    record: bool = False
    wake_in: float | None = None
