"""`ConfigRegistry.status` as types: the whole state of the rollout machine, and what serve follows.

What a restart would forget is a defect, so nothing that decides anything lives elsewhere.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from configregistry.model.conditions import Condition
from configregistry.model.spec import MatchRule, NameRef

MAX_REJECTED: Final = 10
"""How many rejections are told in full."""
MAX_REJECTED_HASHES: Final = 1000
"""How many rejected hashes are remembered."""


class _Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A part of the status: immutable, camelCase on the wire, absent where it has nothing to say."""


class Stable(_Part, frozen=True, omit_defaults=False):
    """The version that everybody gets who does not get the candidate."""

    version: int
    hash: str
    since: str = ""
    keys: int = 0


class Previous(_Part, frozen=True):
    """The version that was stable before: where `rollback` goes."""

    version: int
    hash: str


class Paused(_Part, frozen=True):
    """Why the candidate waits for a person."""

    by: Literal["Command", "Spec", "Step"]
    token: str = ""


class CheckState(_Part, frozen=True, omit_defaults=False):
    """The counters of one check for the present candidate. `passed` is per stage, the others since it started."""

    name: str
    hash: str = ""
    passed: int = 0
    failed: int = 0
    errors: int = 0
    consecutive_errors: int = 0
    last_value: str = ""
    last_at: str = ""
    message: str = ""


class Canary(_Part, frozen=True, omit_defaults=False):
    """The candidate and how far it has come.

    `currentStepIndex` is the place, in the steps as written (a preset's as it stands for), of the
    setWeight whose stage is running; it equals `steps` in the final 100 % that was added to them, and in a bake
    that follows the last one.
    `stepStartedAt` is empty while the candidate waits at weight 0 for its first step. `promoted` says that
    a promote ended the pauses of the last stage (or the bake), which then only waits for its checks.
    """

    version: int
    hash: str
    weight: int = 0
    current_step_index: int = 0
    steps: int = 0
    steps_hash: str = ""
    started_at: str = ""
    step_started_at: str = ""
    elapsed: str = "0s"
    baking: bool = False
    promoted: bool = False
    seed: str = ""
    match: tuple[MatchRule, ...] = ()
    paused: Paused | None = None
    failed: bool = False
    failure: str = ""
    pre_rollout_done: bool = False
    checks: tuple[CheckState, ...] = ()


class Rejected(_Part, frozen=True, omit_defaults=False):
    """A version that is not served again until somebody says retry."""

    version: int
    hash: str
    reason: str
    message: str = ""
    at: str = ""


class Outcome(_Part, frozen=True, omit_defaults=False):
    """How the latest rollout ended.

    `hooks` says whether the PostRollout or Rollback hooks have been told of it; empty where there were none
    to tell when it ended.
    """

    version: int
    result: str
    trigger: str
    hash: str = ""
    message: str = ""
    at: str = ""
    hooks: Literal["", "Pending", "Told"] = ""


class CommandRecord(_Part, frozen=True, omit_defaults=False):
    """The last command of a verb: its token acts once."""

    token: str
    result: str
    version: int = 0
    step: str = ""
    at: str = ""


class Status(_Part, frozen=True):
    """All of it."""

    uid: str = ""
    observed_generation: int = 0
    stable: Stable | None = None
    previous: Previous | None = None
    canary: Canary | None = None
    revision: int = 0
    last_version: int = 0
    fallback: NameRef | None = None
    rejected: tuple[Rejected, ...] = ()
    rejected_hashes: tuple[str, ...] = ()
    last_outcome: Outcome | None = None
    commands: dict[str, CommandRecord] = {}
    leader_epoch: int = 0
    last_read_at: str = ""
    """The latest day on which somebody read the registry, as far as a controller has heard."""
    unused: bool = False
    """Nobody has read it for so long that it may be deleted."""
    conditions: tuple[Condition, ...] = ()

    def rejection(self, content_hash: str) -> Rejected | None:
        """Why `content_hash` is rejected: told in full, or in short where the telling was dropped."""
        if content_hash not in self.rejected_hashes:
            return None
        for entry in self.rejected:
            if entry.hash == content_hash:
                return entry
        return Rejected(version=0, hash=content_hash, reason="CheckFailed", message="rejected long ago")


def parse_status(raw: bytes) -> Status:
    """The status in JSON bytes. One that a hand made unreadable is told as `ValueError`."""
    return msgspec.json.decode(raw, type=Status)


def encode_status(status: Status) -> bytes:
    """JSON of a status. What is None is left out: the API server refuses a null where an object may stand."""
    document = msgspec.to_builtins(status)
    canary = document.get("canary")
    if canary and canary["paused"] is None:
        del canary["paused"]
    return msgspec.json.encode(document)
