"""The five conditions, and a documented constant for each reason that one may carry.

Their meaning is kstatus's: Reconciling and Stalled are abnormal-true, Ready sums up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

AVAILABLE: Final = "Available"
"""A version is being served."""
READY: Final = "Ready"
"""What the spec asks for is what everybody gets, and nothing is under way."""
RECONCILING: Final = "Reconciling"
"""Something is under way and will go on by itself, or by a person's promote or resume."""
STALLED: Final = "Stalled"
"""Nothing will change until a person changes something."""
HEALTHY: Final = "Healthy"
"""The verdict of the checks on the present candidate, or the last one that was."""
TYPES: Final = (AVAILABLE, READY, RECONCILING, STALLED, HEALTHY)

VERSION_SERVED: Final = "VersionServed"
NO_VERSION: Final = "NoVersion"
"""Nothing has ever been served."""
ROLLOUT_COMPLETE: Final = "RolloutComplete"
PINNED: Final = "Pinned"
"""spec.pinnedVersion is what everybody gets."""
IDLE: Final = "Idle"
ROLLOUT_IN_PROGRESS: Final = "RolloutInProgress"
STEP_RUNNING: Final = "StepRunning"
"""A step's pause is running."""
CHECKS_PENDING: Final = "ChecksPending"
"""The step's pauses are over; a check still lacks a Pass in it."""
PAUSED: Final = "Paused"
"""Waits for a person: a pause without duration, a pause command, or spec.rollout.paused."""
BAKING: Final = "Baking"
"""At 100 %, still watched, still able to go back."""
ROLLED_BACK: Final = "RolledBack"
CHECK_FAILED: Final = "CheckFailed"
ABORTED: Final = "Aborted"
DEPENDENCY_NOT_READY: Final = "DependencyNotReady"
WAITING_FOR_DEPENDENCY: Final = "WaitingForDependency"
SOURCE_NOT_FOUND: Final = "SourceNotFound"
"""A ConfigMap of spec.dataFrom that is not optional does not exist."""
VALIDATOR_UNAVAILABLE: Final = "ValidatorUnavailable"
HOOK_VETOED: Final = "HookVetoed"
PROJECTION_CONFLICT: Final = "ProjectionConflict"
INVALID_SPEC: Final = "InvalidSpec"
CHECKS_PASSING: Final = "ChecksPassing"
NO_DATA: Final = "NoData"
NO_CANDIDATE: Final = "NoCandidate"

Truth = Literal["True", "False", "Unknown"]


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """A `metav1.Condition`."""

    type: str
    status: Truth
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


def standing(conditions: Iterable[Condition]) -> str:
    """Where a registry stands, in one word: why it is stalled, else what is under way, else Ready's reason."""
    by_type = {condition.type: condition for condition in conditions}
    for kind in (STALLED, RECONCILING):
        if kind in by_type and by_type[kind].status == "True":
            return by_type[kind].reason
    return by_type[READY].reason if READY in by_type else ""


MAX_MESSAGE: Final = 1024
"""Longer texts are cut: a status is read by people, and the CRD refuses one whose texts are too long."""


def cut(text: str, most: int = MAX_MESSAGE) -> str:
    """A text that fits into a status. One that did not would make each write of it fail, a rollback too."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
