"""Commands: which annotation is new, and whether it fits what it names. Each token acts once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from configregistry.model.names import COMMAND_PREFIX
from configregistry.model.status import Status
from configregistry.rollout import gates
from configregistry.rollout.observation import Command, Observation, Verb
from configregistry.rollout.table import TABLE, Event, phase_of

_EVENTS: Final = {
    Verb.ABORT: Event.ABORT,
    Verb.PAUSE: Event.PAUSE,
    Verb.PROMOTE_FULL: Event.PROMOTE_FULL,
    Verb.PROMOTE: Event.PROMOTE,
    Verb.RESUME: Event.RESUME,
    Verb.RETRY: Event.RETRY,
}

_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_LONGEST_STEP: Final = 63
_LONGEST_TOKEN: Final = 253
"""As the CRD has them for status.commands: a longer one would make every write of the status fail."""


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
            token = token or text
            readable = _NUMBER.fullmatch(version) and token is not text and len(step) <= _LONGEST_STEP
            if len(token) > _LONGEST_TOKEN:
                readable, token = None, hashlib.sha256(token.encode()).hexdigest()
            found.append(Command(verb, int(version), step, token) if readable else Command(verb, None, "", token))
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
        return "" if rejected_as(status, obs, command.version) else f"version {command.version} is not rejected"
    canary, phase = status.canary, phase_of(status)
    if canary is None or canary.version != command.version:
        present = f"version {canary.version}" if canary else "none"
        return f"version {command.version} is not the candidate (that is {present})"
    if event not in TABLE[phase]:
        return f"not in phase {phase.value}"
    if event is Event.PROMOTE and command.step != str(canary.current_step_index):
        return f"step {command.step} is not the current one ({canary.current_step_index})"
    if event in (Event.PROMOTE, Event.RESUME) and obs.plan is None:
        return "spec.rollout is invalid"
    if event is Event.PROMOTE and obs.plan is not None and gates.off_course(canary, obs.plan):
        return "the steps were edited, and start again"
    if event is Event.PROMOTE and canary.promoted:
        return "already promoted"
    return ""


def rejected_as(status: Status, obs: Observation, number: int | None) -> frozenset[str]:
    """The rejected hashes that a retry of a version means.

    0 is the content that the spec asks for: its number is not known when it was rejected so long ago that
    the telling of it is dropped and its version pruned.
    """
    meant = {entry.hash for entry in status.rejected if entry.version == number}
    meant |= {version.hash for version in obs.versions.values() if version.number == number}
    if number == 0 and obs.content is not None:
        meant.add(obs.content.hash)
    return frozenset(meant.intersection(status.rejected_hashes))
