"""The probes of one check that no accepted status write has counted yet.

It exists so that each probe is counted exactly once however reports, writes and stage changes
cross, in memory that does not grow while nothing can be written. Pure: it must never wait or look
at a clock.

What is reported is offered: it stays as it is until it is saved or reported anew, so that "the
first n were counted" means the same to both sides. What comes in meanwhile is kept apart. Probes
that count alike are one entry with a number; a NoData that waits counts nowhere, so only the
latest is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from configregistry.rollout.observation import Probe, Verdict

MAX_PASSES: Final = 10_000
"""Passes in one entry. Only an API server that is away for many minutes lets so many wait; the
number of passes is there to be read and decides nothing, so what is beyond is not counted."""

URGENT: Final = (Verdict.FAIL, Verdict.ERROR)
"""What is stored before the next probe."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Probes in a row that count alike. `void`: offered, but of a stage that is over."""

    probe: Probe
    counts_as: Verdict
    number: int = 1
    void: bool = False


class Unsaved:
    """What is offered, and what came after."""

    def __init__(self) -> None:
        self._offered: list[_Run] = []
        self._fresh: list[_Run] = []

    @property
    def urgent(self) -> bool:
        """Whether a Fail or an Error waits to be stored."""
        return any(run.counts_as in URGENT for run in (*self._offered, *self._fresh))

    def add(self, probe: Probe, counts_as: Verdict) -> None:
        """One more probe; `counts_as` is its verdict after the check's noData policy."""
        _append(self._fresh, _Run(probe, counts_as))

    def offer(self) -> tuple[Probe, ...]:
        """All of them, oldest first. An offer made before is withdrawn."""
        runs: list[_Run] = []
        for run in (*self._offered, *self._fresh):
            if not run.void:
                _append(runs, run)
        self._offered, self._fresh = runs, []
        return tuple(probe for run in runs for probe in (run.probe,) * run.number)

    def saved(self, number: int) -> None:
        """The first `number` of the offer were counted by an accepted status write."""
        left: list[_Run] = []
        for run in self._offered:
            taken = min(number, run.number)
            number -= taken
            if taken < run.number:
                left.append(replace(run, number=run.number - taken))
        self._offered = left

    def forget_passes(self) -> None:
        """The stage is over: its passes count nowhere any more, its failures and errors do."""
        self._offered = [run if run.counts_as in URGENT else replace(run, void=True) for run in self._offered]
        self._fresh = [run for run in self._fresh if run.counts_as in URGENT]


def _append(runs: list[_Run], run: _Run) -> None:
    """Add to the end, in as few entries as tell the same."""
    if runs and runs[-1].counts_as is Verdict.NO_DATA:
        runs.pop()
    last = runs[-1] if runs else None
    if last is not None and last.counts_as is run.counts_as is Verdict.PASS:
        runs[-1] = replace(run, number=min(MAX_PASSES, last.number + run.number))
    else:
        runs.append(run)
