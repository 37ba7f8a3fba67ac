"""What is compared of a status, what leads to other decisions though it is not compared, and what is left out.

Left out, and why:
- uid: the model's registry has none.
- every time (since, at, startedAt, stepStartedAt, lastTransitionTime, lastReadAt) and elapsed: of the wall.
- checks' counters: how often something is asked depends on time. They are part of the model's states all the same: a
  trip too early or too late is seen.
- messages: they quote counters and what a server said.
- unused, leaderEpoch, hooks: nothing here sets them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from configregistry.model import conditions
from configregistry.model.spec import Spec
from configregistry.model.status import Canary, Status
from configregistry.rollout.gates import stored_elapsed
from configregistry.rollout.observation import Command, VersionInfo

LONG: Final = 30.0
"""Seconds: longer than every pause that a history waits for, shorter than each that it does not."""
MIDDLE: Final = 0.5
"""Longer than a pause, shorter than a progressDeadline after it."""

Visible = tuple[tuple[str, object], ...]
Versions = tuple[VersionInfo, ...]


class Edit(NamedTuple):
    """What the object asks for from one edit on."""

    generation: int
    spec: Spec
    commands: tuple[Command, ...]


class State(NamedTuple):
    """One thing that may be so: the status, the recorded versions, and which edits have been seen."""

    status: Status
    versions: Versions = ()
    edit: int = 0
    source: int = 0


def visible(status: Status, *, healthy: bool = True) -> Visible:
    """What of a status is compared."""
    canary, outcome = status.canary, status.last_outcome
    return (
        ("stable", status.stable and (status.stable.version, status.stable.hash, status.stable.keys)),
        ("previous", status.previous and (status.previous.version, status.previous.hash)),
        ("canary", canary and _of_canary(canary)),
        ("revision", status.revision),
        ("lastVersion", status.last_version),
        ("fallback", status.fallback and status.fallback.name),
        ("rejected", tuple((each.version, each.hash, each.reason) for each in status.rejected)),
        ("rejectedHashes", status.rejected_hashes),
        ("lastOutcome", outcome and (outcome.version, outcome.hash, outcome.result, outcome.trigger)),
        (
            "commands",
            tuple(sorted((verb, each.token, each.result, each.version) for verb, each in status.commands.items())),
        ),
        ("observedGeneration", status.observed_generation),
        *(
            (each.type, (each.status, each.reason, each.observed_generation))
            for each in status.conditions
            if healthy or each.type != conditions.HEALTHY
        ),
    )


def _of_canary(canary: Canary) -> tuple[object, ...]:
    paused = canary.paused and (canary.paused.by, canary.paused.token)
    return (
        *(canary.version, canary.hash, canary.weight, canary.current_step_index, canary.steps, canary.steps_hash),
        *(canary.baking, canary.promoted, canary.seed, canary.match, paused, canary.failed, canary.pre_rollout_done),
        canary.step_started_at != "",
    )


def _hidden(status: Status) -> object:
    """What is not compared but leads to other decisions."""
    canary = status.canary
    return canary and (
        (stored_elapsed(canary) > 0, stored_elapsed(canary) > MIDDLE),
        tuple((each.name, each.hash, each.passed > 0, each.failed, each.consecutive_errors) for each in canary.checks),
    )


Key = tuple[Visible, object, Versions, int, int]


def key_of(state: State) -> Key:
    """Equal for states that lead to the same."""
    return visible(state.status), _hidden(state.status), *state[1:]
