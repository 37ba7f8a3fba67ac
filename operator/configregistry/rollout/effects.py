"""Event -> effect, whole: what `machine` looks an event up in. Nothing else may call an effect."""

from __future__ import annotations

from typing import Final

from configregistry.rollout import course, endings
from configregistry.rollout.changes import Apply
from configregistry.rollout.table import Event

APPLY: Final[dict[Event, Apply]] = {
    Event.TRIP: endings.roll_back,
    Event.HOLD: course.hold,
    Event.ABORT: endings.abort,
    Event.PIN: endings.pin,
    Event.PAUSE: course.pause,
    Event.PROMOTE_FULL: endings.promote_full,
    Event.PROMOTE: course.promote,
    Event.RESUME: course.resume,
    Event.RETRY: course.retry,
    Event.FREEZE: course.freeze,
    Event.THAW: course.resume,
    Event.CANCEL: endings.cancel,
    Event.SUPERSEDE: course.supersede,
    Event.FIRST: endings.first,
    Event.START: course.start,
    Event.VETO: endings.veto,
    Event.BEGIN: course.begin,
    Event.RESTEP: course.restep,
    Event.RETARGET: course.retarget,
    Event.WAIT: course.wait,
    Event.ADVANCE: course.advance,
    Event.BAKE: course.bake,
    Event.COMPLETE: endings.complete,
    Event.FALLBACK: course.fallback,
}
