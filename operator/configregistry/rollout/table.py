"""The transition table: which event may happen in which phase, and where it may lead.

The one place that says so. `machine` refuses whatever is not here, commands are ignored by looking here,
and the diagram of the docs is drawn from here. After h11's `_state.py`: tables, not nests of ifs.
"""

from __future__ import annotations

import enum
from typing import Final

from configregistry.model.status import Status


class Phase(enum.Enum):
    """Where a registry stands; derived from its status alone, so a restart cannot forget it."""

    EMPTY = "Empty"
    """Nothing has ever been served."""
    STEADY = "Steady"
    """One version for everybody."""
    QUEUED = "Queued"
    """A candidate is named, at weight 0, and waits for spec.rollout.paused or a PreRollout hook."""
    STEPPING = "Stepping"
    """A stage runs: its pauses, then its checks."""
    WAITING = "Waiting"
    """A pause without duration was reached."""
    PAUSED = "Paused"
    """By a pause command."""
    FROZEN = "Frozen"
    """By spec.rollout.paused."""
    BAKING = "Baking"
    """At 100 %, still able to go back."""
    FAILED = "Failed"
    """A check went over its limit with onFailure: Pause."""


class Event(enum.Enum):
    """What may happen to a registry."""

    TRIP = "check over its limit"
    HOLD = "check over its limit, onFailure Pause"
    ABORT = "abort"
    PIN = "pinnedVersion"
    PAUSE = "pause"
    PROMOTE_FULL = "promote-full"
    PROMOTE = "promote"
    RESUME = "resume"
    RETRY = "retry"
    FREEZE = "spec paused"
    THAW = "spec unpaused"
    CANCEL = "content is stable again"
    SUPERSEDE = "other content"
    FIRST = "first content"
    START = "new content"
    VETO = "hook vetoed"
    BEGIN = "may begin"
    RESTEP = "steps edited"
    RETARGET = "match or seed edited"
    WAIT = "pause without end"
    ADVANCE = "stage over"
    BAKE = "last stage over"
    COMPLETE = "all over"
    FALLBACK = "fallback edited"


_E, _P = Event, Phase
_BEGUN: Final = frozenset({_P.STEPPING, _P.BAKING})
_STARTED: Final = _BEGUN | {_P.QUEUED}
_ENDED: Final = frozenset({_P.STEADY})
_ENDINGS: Final = {_E.ABORT: _ENDED, _E.PIN: _ENDED, _E.CANCEL: _ENDED, _E.SUPERSEDE: _STARTED}
_OUT: Final = {**_ENDINGS, _E.TRIP: _ENDED, _E.HOLD: frozenset({_P.FAILED}), _E.PROMOTE_FULL: _ENDED}
_HALTS: Final = {_E.PAUSE: frozenset({_P.PAUSED}), _E.FREEZE: frozenset({_P.FROZEN})}


def _stays(phase: Phase, *events: Event) -> dict[Event, frozenset[Phase]]:
    return {event: frozenset({phase}) for event in (_E.RETRY, _E.FALLBACK, *events)}


TABLE: Final[dict[Phase, dict[Event, frozenset[Phase]]]] = {
    _P.EMPTY: _stays(_P.EMPTY) | {_E.FIRST: _ENDED, _E.PIN: _ENDED},
    _P.STEADY: _stays(_P.STEADY, _E.PIN) | {_E.START: _STARTED},
    _P.QUEUED: _stays(_P.QUEUED, _E.FREEZE, _E.THAW) | _ENDINGS | {_E.BEGIN: _BEGUN, _E.VETO: _ENDED},
    _P.STEPPING: _stays(_P.STEPPING, _E.RETARGET)
    | _OUT
    | _HALTS
    | {
        _E.PROMOTE: _BEGUN,
        _E.RESTEP: _BEGUN,
        _E.WAIT: frozenset({_P.WAITING}),
        _E.ADVANCE: _BEGUN,
        _E.BAKE: frozenset({_P.BAKING}),
        _E.COMPLETE: _ENDED,
    },
    _P.WAITING: _stays(_P.WAITING, _E.RETARGET) | _OUT | _HALTS | {_E.PROMOTE: _BEGUN, _E.RESTEP: _BEGUN},
    _P.PAUSED: _stays(_P.PAUSED, _E.RETARGET, _E.PROMOTE) | _OUT | {_E.RESUME: _BEGUN},
    _P.FROZEN: _stays(_P.FROZEN, _E.RETARGET, _E.PROMOTE) | _OUT | {_E.PAUSE: frozenset({_P.PAUSED}), _E.THAW: _BEGUN},
    _P.BAKING: _stays(_P.BAKING, _E.RETARGET, _E.PROMOTE) | _OUT | _HALTS | {_E.RESTEP: _BEGUN, _E.COMPLETE: _ENDED},
    _P.FAILED: _stays(_P.FAILED) | _ENDINGS | {_E.TRIP: _ENDED, _E.PROMOTE_FULL: _ENDED, _E.RESUME: _BEGUN},
}

RUNNING: Final = _BEGUN
"""The phases in which a stage's time passes."""
CHECKED: Final = frozenset(phase for phase, row in TABLE.items() if _E.HOLD in row)
"""The phases in which checks are made."""


def phase_of(status: Status) -> Phase:
    """The phase that a status is in."""
    canary = status.canary
    if canary is None:
        return Phase.EMPTY if status.stable is None else Phase.STEADY
    if not canary.step_started_at:
        return Phase.QUEUED
    if canary.failed:
        return Phase.FAILED
    if canary.paused is not None:
        return {"Command": Phase.PAUSED, "Spec": Phase.FROZEN, "Step": Phase.WAITING}[canary.paused.by]
    return Phase.BAKING if canary.baking else Phase.STEPPING
