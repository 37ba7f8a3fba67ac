"""Workloads and their pods as the API server has them now: what checks of kind `workload` look at.

Read when it is asked for; nothing of it is watched. It must never judge.
"""

from __future__ import annotations

from typing import NamedTuple


class Container(NamedTuple):
    """One container of a pod. Times are RFC 3339, empty where there is none."""

    name: str
    restarts: int
    started_at: str
    """Of the run that is going on."""
    ended_at: str
    """Of the run before it."""
    reason: str
    """Why the run before it ended, or why none is going on."""


class Pod(NamedTuple):
    """One pod that the workload's selector selects and that it (or its ReplicaSet) owns."""

    name: str
    uid: str
    created_at: str
    terminating: bool
    containers: tuple[Container, ...]


class Workload(NamedTuple):
    """A Deployment, StatefulSet or DaemonSet. `max_unavailable` is in pods, as its strategy says."""

    uid: str
    desired: int
    available: int
    max_unavailable: int
    pods: tuple[Pod, ...]
