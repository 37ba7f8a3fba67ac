"""Commands: which annotation is new, and whether it fits what it names. Each token acts once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from configregistry.model.names import COMMAND_PREFIX
from configregistry.model.status import Status
from configregistry.rollout.observation import Command, Observation, Verb
from configregistry.rollout.table import TABLE, Event, Phase, phase_of

_EVENTS: Final = {
    Verb.ABORT: Event.ABORT,
    Verb.PAUSE: Event.PAUSE,
    Verb.PROMOTE_FULL: Event.PROMOTE_FULL,
    Verb.PROMOTE: Event.PROMOTE,
    Verb.RESUME: Event.RESUME,
    Verb.RETRY: Event.RETRY,
}


class Ordered(NamedTuple):
    """A new command: the event that it means, or why it is ignored."""

    command: Command
    event: Event
    ignored: str = ""


def commands_of(annotations: Mapping[str, str]) -> tuple[Command, ...]:
    """The commands that an object's annotations hold, in the order in which they act."""
    found = []
    for verb in Verb:
        text = annotations.get(COMMAND_PREFIX + verb.value)
        if text:
            version, _, rest = text.partition(":")
            step, _, token = rest.partition(":")
            number = int(version) if version.isascii() and version.isdigit() else None
            found.append(Command(verb, number if token else None, step, token or text))
    return tuple(found)


def next_command(status: Status, obs: Observation, *verbs: Verb) -> Ordered | None:
    """The first of `verbs` whose token has not acted yet."""
    for command in obs.commands:
        if command.verb not in verbs:
            continue
        seen = status.commands.get(command.verb.value)
        if seen is None or seen.token != command.token:
            event = _EVENTS[command.verb]
            return Ordered(command, event, _why_not(status, obs, command, event))
    return None


def _why_not(status: Status, obs: Observation, command: Command, event: Event) -> str:
    """Why a command does not fit; empty when it does."""
    if command.version is None:
        return "expected <version>:<step>:<token>"
    if event is Event.RETRY:
        return "" if _is_rejected(status, obs, command.version) else f"version {command.version} is not rejected"
    canary, phase = status.canary, phase_of(status)
    if canary is None or canary.version != command.version:
        present = f"version {canary.version}" if canary else "none"
        return f"version {command.version} is not the candidate (that is {present})"
    if event not in TABLE[phase]:
        return f"not in phase {phase.value}"
    if event is Event.PROMOTE and command.step != str(canary.current_step_index):
        return f"step {command.step} is not the current one ({canary.current_step_index})"
    if event is Event.PROMOTE and (canary.promoted or obs.plan is None):
        return "already promoted" if canary.promoted else "spec.rollout is invalid"
    if obs.plan is None and phase is not Phase.EMPTY and event in (Event.PROMOTE, Event.RESUME):
        return "spec.rollout is invalid"
    return ""


def _is_rejected(status: Status, obs: Observation, number: int) -> bool:
    if any(entry.version == number for entry in status.rejected):
        return True
    version = obs.versions.get(number)
    return version is not None and version.hash in status.rejected_hashes
