"""Checks of kind `workload`: whether pods restart, or are not there, while the candidate is out.

Fail: a container restarted, of a pod older than the stage; or fewer pods are available than the workload itself
puts up with (desired less maxUnavailable) for `UNAVAILABLE_FOR`. Pass: as many are available as desired. All else is
no data: a drain and an autoscaler's step pass, and nothing is told while they go on.

What is measured against, and why not clocks. Restarts are compared with the counts at the first look in the stage.
Times that containers carry are those of their nodes' clocks; they are asked only when that first look comes late
(a new leader, an initialDelay), and believed only where even a clock that is `SKEW` off leaves the restart in the
stage: a restart from before the stage never counts. One between the last look in a stage and the first in the next
counts there: the candidate was out. The seconds without enough pods are those of our own monotonic clock, from the
first look that found too few to the present one. Those that a leader before had counted are lost, so a change of
leader makes that verdict later, and never wrong. If a Deployment's own condition changed in between, there were
enough pods for a moment and it starts anew; of the others that is not known.

All of that is kept in the check's `Memory`: it ends with the candidate, and holds two numbers a container.

More pods than before, wanted by an autoscaler or by hand, may take their time (nodes have to be made for them): as
long as there are as many as were enough when there were last enough, none are missing. New ones that never come up
lack a Pass, and so the progressDeadline.

It must never take a look that could not be made for health, and never ask for one without a need.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, NamedTuple

from configregistry.clock import parse_timestamp
from configregistry.health.question import Finding, Means, Question, StageKey, Subject
from configregistry.kube.workloads import Container, Pod, Workload
from configregistry.model.spec import Check, WorkloadCheck
from configregistry.rollout.observation import Verdict

TIMEOUT: Final = 5.0
"""Seconds for the whole of one look."""
UNAVAILABLE_FOR: Final = 30.0
"""Seconds without enough pods that are a failure."""
SKEW: Final = 60.0
"""Seconds by which the clock of a node, of the API server or of this machine may be off."""
PROMPT: Final = 5.0
"""Seconds after the start of a stage within which a look is as good as one at its start."""

_AHEAD: Final = 2.0
"""Seconds in the future at which a time says only that its clock is wrong."""
_NAMED: Final = 3

_Counts = Mapping[str, Mapping[str, int]]
"""By pod (its UID) and container: restarts."""


class Seen(NamedTuple):
    """What one look leaves for the next."""

    stage: StageKey
    base: _Counts
    """Of the pods older than the stage: with more restarts than these a container has restarted in it."""
    latest: _Counts
    """The same, with those counted that have been told."""
    enough: int | None = None
    """How many available pods were enough when there were last enough; None: there never were."""
    short_since: float | None = None
    """Monotonic time of the first look in a row that found too few."""
    available_since: str = ""
    """Of the workload at the latest look that found too few."""


async def probe(question: Question, means: Means) -> Finding:
    """Look once."""
    if means.workloads is None:
        return Finding(Verdict.ERROR, "", "this program may not look at workloads")
    asked, memory = _asked(question.check), question.memory
    seen = memory.kept if memory is not None and isinstance(memory.kept, Seen) else None
    first = seen is None or seen.stage != question.stage
    workload = await means.workloads.look(question.subject.namespace, asked.kind, asked.name, fresh=first)
    if workload is None:
        place = f"{question.subject.namespace}/{asked.name}"
        return Finding(Verdict.ERROR, "", f"there is no {asked.kind} {place}, expected one")
    finding, left = judge(workload, seen, question)
    if memory is not None:
        memory.kept = left
    return finding


def judge(
    workload: Workload, seen: Seen | None, question: Question, within: float = UNAVAILABLE_FOR
) -> tuple[Finding, Seen]:
    """The verdict on one look after those before it, and what the next one has to know."""
    pods = [pod for pod in workload.pods if not pod.terminating]
    base = seen.base if seen is not None and seen.stage == question.stage else _base(pods, seen, question)
    restarted = [
        (pod, each, more)
        for pod in pods
        if pod.uid in base
        for each in pod.containers
        if (more := each.restarts - base[pod.uid].get(each.name, 0)) > 0
    ]
    left = Seen(
        question.stage,
        base,
        {pod.uid: _latest(pod, base[pod.uid]) for pod in pods if pod.uid in base},
        *((seen.enough, seen.short_since, seen.available_since) if seen is not None else ()),
    )
    finding, left = _availability(workload, left, question.asked, within)
    return (_restarts(restarted) if restarted else finding), left


def timeout(check: Check) -> float:  # noqa: ARG001 - one signature for all kinds
    """Seconds for the whole of one probe."""
    return TIMEOUT


def examine(check: Check, sample: Subject, field: str) -> None:
    """There is nothing that could not be asked: the workload may still come."""


def _asked(check: Check) -> WorkloadCheck:
    assert check.workload is not None
    return check.workload


def _availability(workload: Workload, seen: Seen, now: float, within: float) -> tuple[Finding, Seen]:
    available, desired = workload.available, workload.desired
    value = f"{available}/{desired}"
    told = f"{value} pods are available"
    if not workload.observed:
        return Finding(Verdict.NO_DATA, value, f"{told}, of a spec that its controller has not seen yet"), seen
    enough = max(0, desired - workload.max_unavailable)
    if available >= enough:
        seen = seen._replace(enough=enough, short_since=None)
        if desired == 0:
            return Finding(Verdict.NO_DATA, value, "no pods are wanted, so none can tell"), seen
        if available != desired:
            return Finding(Verdict.NO_DATA, value, told), seen
        return Finding(Verdict.PASS, value), seen
    needed = enough if seen.enough is None else min(enough, seen.enough)
    if available >= needed:
        return Finding(Verdict.NO_DATA, value, f"{told}, more are wanted than before"), seen._replace(short_since=None)
    since = seen.short_since
    if since is None or seen.available_since != workload.available_since:
        since = now
    seen = seen._replace(short_since=since, available_since=workload.available_since)
    told = f"{told} for {now - since:.0f} s, expected at least {needed}"
    if now - since < within:
        return Finding(Verdict.NO_DATA, value, f"{told} within {within:g} s"), seen
    return Finding(Verdict.FAIL, value, told), seen


def _restarts(restarted: list[tuple[Pod, Container, int]]) -> Finding:
    number = sum(more for _, _, more in restarted)
    value = "1 restart" if number == 1 else f"{number} restarts"
    told = "; ".join(
        f"pod {pod.name}, container {each.name}{f' ({each.reason})' if each.reason else ''}"
        for pod, each, _ in sorted(restarted)[:_NAMED]
    )
    more = f"; and {len(restarted) - _NAMED} more" if len(restarted) > _NAMED else ""
    return Finding(Verdict.FAIL, value, f"{value} since the step began, expected none: {told}{more}")


def _base(pods: list[Pod], seen: Seen | None, question: Question) -> _Counts:
    """What the restarts of a new stage are compared with."""
    known = seen.latest if seen is not None else {}
    return {
        pod.uid: known.get(pod.uid) or {each.name: _count(each, question) for each in pod.containers}
        for pod in pods
        if pod.uid in known or _older(pod, question)
    }


def _latest(pod: Pod, base: Mapping[str, int]) -> Mapping[str, int]:
    return {each.name: max(each.restarts, base.get(each.name, 0)) for each in pod.containers}


def _older(pod: Pod, question: Question) -> bool:
    """Whether a pod is older than the stage, for certain unless this look is prompt."""
    if question.elapsed <= PROMPT:
        return True
    age = _age(pod.created_at, question)
    return age is not None and age >= question.elapsed + SKEW


def _count(container: Container, question: Question) -> int:
    """The restarts of a container before the stage, as far as a first look can tell; rather too many."""
    since = _age(container.ended_at, question)
    in_stage = since is not None and -_AHEAD <= since <= question.elapsed - SKEW
    running = bool(container.started_at) or not container.ended_at
    if running:
        return container.restarts - 1 if in_stage and container.restarts else container.restarts
    # It is down: coming up will be counted as a restart, but it went down before the stage.
    return container.restarts if in_stage else container.restarts + 1


def _age(time: str, question: Question) -> float | None:
    """Seconds since a time of another clock; None where there is none."""
    moment = parse_timestamp(time)
    if moment is None or question.wall is None:
        return None
    return (question.wall - moment) / timedelta(seconds=1)
