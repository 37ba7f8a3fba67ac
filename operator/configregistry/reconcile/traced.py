"""The spans of one pass: reconcile, and in it gather, decide, record, status write.

Told behind the decision and not before it: a pass that decides nothing, and one that only stores how much time has
gone by, leave no span, so that a rollout of hours is a trace that a person can read. It must never decide anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from configregistry.model.status import Status
from configregistry.reconcile.gather import Gathered
from configregistry.rollout.machine import gives
from configregistry.rollout.observation import Decision
from configregistry.telemetry import tracing


class Times(NamedTuple):
    """When a pass began, and when all had been read; by `tracing.now`."""

    began: int
    read: int


@contextmanager
def deciding(gathered: Gathered, decision: Decision, times: Times) -> Iterator[None]:
    """What is written within is part of a pass that has been gathered and decided."""
    # Times of 0: there was no collector yet when the pass began.
    if not times.read or not tracing.on() or not _decides(gathered, decision):
        yield
        return
    decided = tracing.now()
    meta, status = gathered.object.meta, decision.status
    about: dict[str, tracing.Value] = {"namespace": meta.namespace, "registry": meta.name, "revision": status.revision}
    named = status.canary or status.stable
    if named is not None:
        about["version"] = named.version
    if status.canary is not None:
        about["weight"] = status.canary.weight
    parent = tracing.of(meta.annotations)
    with tracing.span("reconcile", parent, times.began, generation=meta.generation, **about):
        tracing.past("gather", times.began, times.read, "", gathered.unread, **about)
        what = "Record" if decision.record else ",".join(note.reason for note in decision.notes)
        tracing.past("decide", times.read, decided, what=what, **about)
        yield


def _decides(gathered: Gathered, decision: Decision) -> bool:
    said = decision.record or bool(decision.notes) or gathered.belief.drifted
    return said or _told(decision.status) != _told(gathered.status)


def _told(status: Status) -> object:
    """What others are told: what is given, and the conditions without their words."""
    return gives(status), [(each.type, each.status, each.reason) for each in status.conditions]
