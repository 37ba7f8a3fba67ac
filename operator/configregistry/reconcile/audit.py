"""Makes the audit record of a decision, of what was, what is, and what was noted of it. Pure, but for `Ledger`.

Who, in this order: of a command and of an edit the manager that changed the object last (managedFields); of what
came of an object that the registry follows, `source`; of all that time, checks, hooks and repairs decide,
`operator`. What is stored only so that nothing is lost by a restart (elapsed time, counters) is no decision.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from configregistry.kube.objects import Meta, RegistryObject
from configregistry.model import conditions
from configregistry.model.status import Status, encode_status, parse_status
from configregistry.reconcile.memory import Key
from configregistry.rollout.machine import gives
from configregistry.rollout.observation import Note
from configregistry.telemetry import audit, tracing
from configregistry.telemetry.audit import OPERATOR, SOURCE, UNKNOWN, Record, Trigger

TARGETS_CHANGED: Final = "TargetsChanged"
FALLBACK_CHANGED: Final = "FallbackChanged"
STATUS_RESTORED: Final = "StatusRestored"

_WHAT: Final = (
    "RolledBack", "RolloutCompleted", "Superseded", "Cancelled", "RolloutStarted", "CheckFailed", "RolloutPaused",
    "RolloutResumed", "StepAdvanced", "CommandIgnored", "InvalidSpec",
)  # fmt: skip
"""Of several notes the one that says most, first."""
_WAITED: Final = frozenset(
    {conditions.WAITING_FOR_DEPENDENCY, conditions.SOURCE_NOT_FOUND, conditions.VALIDATOR_UNAVAILABLE}
)
"""What an edit may have waited for after it was seen."""
_UNANSWERED: Final = 1024
"""Registries of which decisions without an answer are remembered."""


def audited(
    meta: Meta, before: Status, after: Status, notes: tuple[Note, ...], *, follows: bool, found: Status | None = None
) -> Record | None:
    """The record of a decision; None: nothing was decided, only stored.

    `follows`: content may come of other objects. `found`: what a hand had put in place of `before`.
    """
    if not notes and gives(before) == gives(after) and found is None:
        return None
    what = _what(before, after, notes)
    command = _command(before, after)
    trigger = _trigger(meta, before, after, what, command, follows=follows)
    editor = meta.editor or UNKNOWN
    trace = tracing.parse(meta.annotations.get(tracing.ANNOTATION, ""))
    return Record(
        namespace=meta.namespace,
        registry=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        who={"User": editor, "Source": SOURCE}.get(trigger, OPERATOR),
        trigger=trigger,
        what=what,
        before=_given(before if found is None else found),
        after=_given(after),
        why=_why(after, what, notes),
        command=command,
        trace_id=trace.trace_id if trace else "",
    )


def _what(before: Status, after: Status, notes: tuple[Note, ...]) -> str:
    reasons = {note.reason for note in notes}
    for reason in _WHAT:
        if reason in reasons:
            return reason
    if notes:
        return notes[0].reason
    if before.fallback != after.fallback:
        return FALLBACK_CHANGED
    return TARGETS_CHANGED if gives(before) != gives(after) else STATUS_RESTORED


def _command(before: Status, after: Status) -> str:
    """The command that this write notes."""
    new = (f"{verb} {each.token}" for verb, each in after.commands.items() if before.commands.get(verb) != each)
    return next(new, "")


def _trigger(meta: Meta, before: Status, after: Status, what: str, command: str, *, follows: bool) -> Trigger:
    if command:
        return "User"
    outcome = after.last_outcome if after.last_outcome != before.last_outcome else None
    if what in ("RolledBack", "CheckFailed"):
        return "Check"
    if not _intended(before, after, what, outcome.trigger if outcome else ""):
        return "System"
    waited = any(each.reason in _WAITED for each in before.conditions if each.type == conditions.RECONCILING)
    if follows and meta.generation == before.observed_generation and not waited:
        return "Source"
    return "User"


def _intended(before: Status, after: Status, what: str, outcome: str) -> bool:
    """Whether what the registry is asked to be has changed; else time, a hook or a repair decided."""
    was, now = before.canary, after.canary
    if what == "RolloutPaused":
        return now is not None and now.paused is not None and now.paused.by == "Spec"
    if what == "StepAdvanced":  # the steps were edited
        return was is not None and now is not None and was.steps_hash not in ("", now.steps_hash)
    if what in ("RolloutCompleted", "Cancelled"):
        return outcome == "User" or before.stable is None or was is None
    return what != STATUS_RESTORED


def _given(status: Status) -> dict[str, str | int]:
    """What a status gives, and how it waits."""
    canary = status.canary
    told = {
        "stable": status.stable.version if status.stable else 0,
        "canary": canary.version if canary else 0,
        "weight": canary.weight if canary else None,
        "step": canary.current_step_index if canary else None,
        "paused": canary.paused.by if canary and canary.paused else None,
        "fallback": status.fallback.name if status.fallback else None,
        "revision": status.revision,
    }
    return {name: value for name, value in told.items() if value is not None}


def _why(after: Status, what: str, notes: tuple[Note, ...]) -> str:
    """The sentence of the event. Of a spec that is refused only where: the rest may quote a value."""
    for note in notes:
        if note.reason == what:
            refused = f"{note.message.partition(': ')[0]} is refused: the condition Stalled says why"
            return refused if what == "InvalidSpec" else note.message
    if what == FALLBACK_CHANGED:
        return f"spec.fallback is {after.fallback.name if after.fallback else 'none'}"
    if what == TARGETS_CHANGED:
        return "spec.rollout.match or spec.rollout.seed was edited: others get the candidate"
    return "the status was changed by another hand, and is put back"


class _Unanswered(NamedTuple):
    """A write whose answer was lost: on which resourceVersion, what, and what to say if it was accepted."""

    base: str
    status: Status
    record: Record


class Ledger:
    """Tells records, each once: at once where the write was answered, else when it is seen that it was accepted.

    What a process that is killed between the write and the line does not tell is lost.
    """

    def __init__(self) -> None:
        self._unanswered: OrderedDict[Key, tuple[_Unanswered, ...]] = OrderedDict()

    def accepted(self, key: Key, record: Record | None) -> None:
        """A write was accepted; what was tried before it on the same resourceVersion cannot be any more."""
        self._unanswered.pop(key, None)
        if record is not None:
            audit.tell(record)

    def unanswered(self, base: str, status: Status, record: Record | None) -> None:
        """Nobody knows yet whether it was."""
        if record is None:
            return
        key = (record.namespace, record.registry)
        known = tuple(each for each in self._unanswered.pop(key, ()) if each.base == base)
        self._unanswered[key] = (*known, _Unanswered(base, parse_status(encode_status(status)), record))
        if len(self._unanswered) > _UNANSWERED:
            self._unanswered.popitem(last=False)

    def settle(self, found: RegistryObject) -> None:
        """See what became of writes without an answer, by what the API server holds now."""
        waiting = self._unanswered.get(found.meta.key)
        if waiting is None or waiting[0].base == found.meta.resource_version:
            return
        del self._unanswered[found.meta.key]
        for each in waiting:
            if each.record.uid == found.meta.uid and found.status and _same(found.status, each.status):
                audit.tell(each.record)
                return


def _same(raw: bytes, status: Status) -> bool:
    try:
        return parse_status(raw) == status
    except ValueError:
        return False
