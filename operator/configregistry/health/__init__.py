"""Health: asks whether a candidate does well. `rollout.gates` decides what the answers mean.

    outbound = Outbound(allow_local=not in_cluster, trace=headers_of_the_present_trace)
    means = Means(outbound, reports, workloads)                # None: checks of that kind are Errors
    runner = Runner(means, clock, changed=queue_the_registry_of_a_key)

    # gather, before anything is recorded: a check that this version cannot make is InvalidSpec
    for index, check in enumerate(plan.checks):
        examine(check.spec, f"spec.rollout.checks[{index}]")   # FieldError; unsupported() -> text

    # at every reconcile of a candidate in a phase of table.CHECKED
    key = RolloutKey(namespace, name, uid, canary.version, canary.hash)
    subject = Subject(namespace, name, canary.version, canary.hash, stable_version)
    runner.watch(key, plan.checks, subject, StageKey.of(canary), seconds_since_started_at, seconds_in_stage)
    reports = runner.report(key)                               # -> Observation.reports
    # after an accepted status write, or when a read shows that one without an answer was accepted
    runner.saved(key, {report.name: len(report.unsaved) for report in reports})
    runner.watch(..., StageKey.of(new_canary), ...)            # at once, if it began a stage
    runner.forget(key)                                         # if the candidate is not CHECKED now

    await runner.close(); await outbound.close()               # leadership lost, or the end

- `report` speaks of the stage of the latest `watch`: a reconcile that did not watch first would take
  a Pass of the stage before for one of the present stage.
- `saved` speaks of the latest `report` of that key; in between there must be no other one.
- A check that reported a Fail or an Error is not probed again until `saved` counted it.
- Several candidates of one registry may be watched: a superseded one until its verdict is stored.
- A new kind is a module with `probe`, `timeout`, `examine`, one entry in `kinds.PROBES`, and, if it
  asks with something else than HTTP, a field in `Means`. What one probe has to know of those before
  it keeps in `Question.memory`.
"""

from __future__ import annotations

from configregistry.health.kinds import PROBES, Kind, examine, unsupported
from configregistry.health.outbound import Answer, Outbound, UnansweredError
from configregistry.health.question import (
    Finding,
    Known,
    Means,
    Memory,
    Question,
    Reports,
    RolloutKey,
    StageKey,
    Subject,
)
from configregistry.health.runner import Runner

__all__ = [
    "PROBES",
    "Answer",
    "Finding",
    "Kind",
    "Known",
    "Means",
    "Memory",
    "Outbound",
    "Question",
    "Reports",
    "RolloutKey",
    "Runner",
    "StageKey",
    "Subject",
    "UnansweredError",
    "examine",
    "unsupported",
]
