"""Checks of kind `consumers`: the percentage of consumers that say that the candidate does not work for them.

Counted are the consumers that live and whose latest word is about the candidate, said since the present
stage began; one that moved to another version since counts no more. `min` and `max` are percentages too: of
`max` and `maxErrorPercent` the lower holds. It must never take silence for health: fewer than `minReporting`
are no data, and while any replica is silent nobody knows who reported to it, so that is an Error.

From a report to a verdict: the replica has it at once, the leader within EXCHANGE_EVERY; an error that it
has not heard before has the check made then, all else comes with the check's interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from configregistry.health.question import Finding, Means, Question, Subject
from configregistry.model.reports import EXCHANGE_EVERY, Report
from configregistry.model.spec import Check, ConsumersCheck
from configregistry.rollout.observation import Verdict

TIMEOUT: Final = 2.5 * EXCHANGE_EVERY
"""Seconds: nobody is asked by a probe, but who has just become leader waits for its first list."""
STALE: Final = 5 * EXCHANGE_EVERY
"""Seconds after which a list says nothing about the present."""

_NAMED: Final = 3
_SHOWN: Final = 120


async def probe(question: Question, means: Means) -> Finding:
    """Look into the list of the latest round."""
    if means.reports is None:
        return Finding(Verdict.ERROR, "", "no replicas are known that consumers could report to")
    subject = question.subject
    known = await means.reports.known(subject.namespace, subject.registry, question.uid)
    if known.errors:
        return Finding(Verdict.ERROR, "", _silent(known.errors))
    if known.age > STALE:
        return Finding(Verdict.ERROR, "", f"the replicas were asked {known.age:.0f} s ago, expected at most {STALE:g}")
    return judge(question.check, known.consumers, subject.version, question.elapsed)


def judge(check: Check, consumers: Sequence[Report], version: int, elapsed: float) -> Finding:
    """The verdict on a version by reports of the last `elapsed` seconds."""
    asked = _asked(check)
    said = [
        (each, each.observed)
        for each in consumers
        if each.observed is not None
        and each.observed.version == version
        and each.observed_age is not None
        and each.observed_age <= elapsed
    ]
    if len(said) < asked.min_reporting:
        told = f"{_consumers(len(said))} reported on version {version} since the step began"
        return Finding(Verdict.NO_DATA, "", f"{told}, expected at least {asked.min_reporting}")
    broken = [(each.id, observed.message) for each, observed in said if observed.status == "error"]
    share = Fraction(100 * len(broken), len(said))
    value = f"{float(share):.3g} %"
    told = f"{len(broken)} of {_consumers(len(said))} ({value}) report an error"
    most = asked.max_error_percent if check.max is None else min(asked.max_error_percent, check.max)
    if share > _exact(most):
        return Finding(Verdict.FAIL, value, f"{told}, expected at most {most:.12g} %{_named(broken)}")
    if check.min is not None and share < _exact(check.min):
        return Finding(Verdict.FAIL, value, f"{told}, expected at least {check.min:.12g} %")
    return Finding(Verdict.PASS, value, told)


def timeout(check: Check) -> float:  # noqa: ARG001 - one signature for all kinds
    """Seconds for the whole of one probe."""
    return TIMEOUT


def examine(check: Check, sample: Subject, field: str) -> None:
    """There is nothing that could not be asked."""


def _asked(check: Check) -> ConsumersCheck:
    assert check.consumers is not None
    return check.consumers


def _exact(limit: float) -> Fraction:
    """A limit as it was written: 7 of 100 are not more than 7 %, nor 23 of 1000 more than 2.3 %."""
    return Fraction(repr(limit))


def _consumers(number: int) -> str:
    return "1 consumer" if number == 1 else f"{number} consumers"


def _silent(errors: Mapping[str, str]) -> str:
    told = "; ".join(f"{name}: {_cut(errors[name])}" for name in sorted(errors)[:_NAMED])
    return f"{'a replica does' if len(errors) == 1 else f'{len(errors)} replicas do'} not answer: {told}"


def _named(broken: list[tuple[str, str]]) -> str:
    """Some of those that report an error, with what they say; not who owns them, nor their labels."""
    told = "; ".join(f"{name}: {_cut(message) or 'no message'}" for name, message in sorted(broken)[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f": {told}{more}" if broken else ""


def _cut(text: str) -> str:
    """What others wrote, in one line."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
