"""The transition table as a mermaid state diagram, for the documents: `python -m configregistry.rollout.diagram`.

Drawn from `TABLE` alone, so that it cannot say anything else than what the machine does. What holds in
(almost) every phase is told once, beside the drawing, or nobody could read it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from configregistry.rollout.table import CHECKED, TABLE, Event, Phase

_QUIET: Final = frozenset({Event.RETRY, Event.FALLBACK, Event.RETARGET})
"""Events that leave each phase as it is, wherever they may happen."""
_ALONE: Final = (Phase.EMPTY, Phase.STEADY)
_CANDIDATE: Final = tuple(phase for phase in Phase if phase not in _ALONE)
_OUT: Final = tuple(phase for phase in _CANDIDATE if phase in CHECKED)


def mermaid() -> str:
    """The diagram's text."""
    of_all = _common(_CANDIDATE)
    of_out = {event: target for event, target in _common(_OUT).items() if event not in of_all}
    drawn = _QUIET | {Event.SUPERSEDE} | of_all.keys()
    inner = [phase for phase in _CANDIDATE if phase not in _OUT]
    return "\n".join(
        [
            "stateDiagram-v2",
            "    [*] --> Empty",
            "    state Candidate {",
            *(f"        {phase.value}" for phase in inner),
            *_arrows(inner, inner, drawn, 2),
            "        state Out {",
            *_arrows(_OUT, _OUT, drawn | of_out.keys(), 3),
            "        }",
            "    }",
            # What crosses a border stands outside: mermaid puts a state where it is first named.
            *_arrows(inner, _OUT, drawn, 1),
            *_arrows(_ALONE, Phase, drawn, 1),
            *_arrows(_OUT, (*_ALONE, *inner), drawn | of_out.keys(), 1),
            *_arrows(inner, _ALONE, drawn, 1),
            *_from_group("Out", of_out),
            *_from_group("Candidate", of_all),
            "",
        ]
    )


def _common(group: Iterable[Phase]) -> dict[Event, Phase]:
    """Events that lead from each phase of a group to one and the same other phase: one arrow from the group."""
    found = {}
    for event in Event:
        reached = {target for phase in group for target in TABLE[phase].get(event, (phase,))}
        if len(reached) == 1 and not reached & set(group):
            found[event] = reached.pop()
    return found


def _arrows(sources: Iterable[Phase], targets: Iterable[Phase], drawn: AbstractSet[Event], depth: int) -> list[str]:
    lines = []
    for source in sources:
        for target in targets:
            events = {event for event, reached in TABLE[source].items() if target in reached} - drawn
            if events:
                lines.append(f"{'    ' * depth}{source.value} --> {target.value}: {_label(events)}")
    return lines


def _from_group(name: str, common: dict[Event, Phase]) -> list[str]:
    return [
        f"    {name} --> {target.value}: {_label({event for event in common if common[event] is target})}"
        for target in Phase
        if target in common.values()
    ]


def _label(events: AbstractSet[Event]) -> str:
    return "<br/>".join(event.value for event in Event if event in events)


def quiet() -> str:
    """The sentence about the events that are not drawn."""
    missing = [phase.value for phase in _CANDIDATE if Event.RETARGET not in TABLE[phase]]
    assert all(Event.SUPERSEDE in TABLE[phase] for phase in _CANDIDATE)
    assert all(TABLE[phase][Event.PIN] == {Phase.STEADY} for phase in Phase)
    assert all({Event.RETRY, Event.FALLBACK} <= TABLE[phase].keys() for phase in Phase)
    return (
        f"Not drawn, for they change no phase: {Event.RETRY.value} and {Event.FALLBACK.value} (always), "
        f"{Event.RETARGET.value} (with a candidate, unless it is {' or '.join(missing)}). "
        f"With a candidate, {Event.SUPERSEDE.value} ends it and starts another one as from Steady. "
        f"{Event.PIN.value} leads to Steady from Empty and Steady too.\n"
    )


MEANING: Final[dict[Phase, str]] = {
    Phase.EMPTY: "nothing has ever been served.",
    Phase.STEADY: "one version for everybody.",
    Phase.QUEUED: "a candidate is named, at weight 0, and waits for `spec.rollout.paused` or a PreRollout hook.",
    Phase.STEPPING: "a stage runs: first its pauses, then its checks.",
    Phase.WAITING: "a pause without duration was reached; `promote` goes on.",
    Phase.PAUSED: "by a `pause` command; `resume` goes on.",
    Phase.FROZEN: "by `spec.rollout.paused`.",
    Phase.BAKING: "at 100 %, still watched, still able to go back.",
    Phase.FAILED: "a check went over its limit, and `onFailure` is `Pause`.",
}
"""The phases as the documents tell them."""


if __name__ == "__main__":
    sys.stdout.write(mermaid())
