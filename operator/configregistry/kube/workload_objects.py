"""What a check of a workload wants to know of it and of its pods, out of the objects that tell it.

The three kinds tell the same in fields of different names: beyond this module there is one `Workload`.
Pure: it must never ask, only read what came.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from configregistry.kube.strategies import Strategy, max_unavailable


class Container(NamedTuple):
    """One container of a pod. Times are RFC 3339, by the clock of the pod's node, empty where there is none."""

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
    """By the API server's clock."""
    terminating: bool
    containers: tuple[Container, ...]


class Workload(NamedTuple):
    """A Deployment, StatefulSet or DaemonSet. `max_unavailable` is in pods, as its strategy says."""

    uid: str
    desired: int
    available: int
    max_unavailable: int
    pods: tuple[Pod, ...]
    observed: bool = True
    """Whether its controller has seen the present spec; until then `available` is about an older one."""
    available_since: str = ""
    """When a Deployment's Available condition changed last. No moment to measure from, the clock is another one's:
    two that differ say that it changed in between."""


class _Requirement(msgspec.Struct, frozen=True):
    key: str
    operator: str
    values: tuple[str, ...] | None = None


class Selector(msgspec.Struct, frozen=True, rename="camel"):
    """A label selector as an object has it."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[_Requirement, ...] | None = None


_OPERATORS: Final = {
    "In": "{key} in ({values})",
    "NotIn": "{key} notin ({values})",
    "Exists": "{key}",
    "DoesNotExist": "!{key}",
}


def selector_of(selector: Selector) -> str:
    """A label selector as a URL has it."""
    labels = [f"{key}={value}" for key, value in (selector.match_labels or {}).items()]
    more = [
        _OPERATORS[each.operator].format(key=each.key, values=",".join(each.values or ()))
        for each in selector.match_expressions or ()
    ]
    return ",".join([*labels, *more])


class _Owner(msgspec.Struct, frozen=True):
    uid: str
    controller: bool = False


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    name: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    owner_references: tuple[_Owner, ...] | None = None

    @property
    def controller(self) -> str:
        """The UID of the one owner that made it."""
        return next((each.uid for each in self.owner_references or () if each.controller), "")


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    selector: Selector
    replicas: int = 1
    strategy: Strategy | None = None
    update_strategy: Strategy | None = None


class _Condition(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    last_transition_time: str = ""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    observed_generation: int = 0
    available_replicas: int = 0
    desired_number_scheduled: int = 0
    number_available: int = 0
    conditions: tuple[_Condition, ...] | None = None


class WorkloadObject(msgspec.Struct, frozen=True):
    """A workload of any of the three kinds; each has some of the fields."""

    metadata: _Metadata
    spec: _Spec
    status: _Status = _Status()


class OwnedObject(msgspec.Struct, frozen=True):
    """Anything of which only the owner is asked."""

    metadata: _Metadata


class _Running(msgspec.Struct, frozen=True, rename="camel"):
    started_at: str = ""


class _Ended(msgspec.Struct, frozen=True, rename="camel"):
    finished_at: str | None = None
    reason: str = ""


class _Waiting(msgspec.Struct, frozen=True):
    reason: str = ""


class _State(msgspec.Struct, frozen=True):
    running: _Running | None = None
    terminated: _Ended | None = None
    waiting: _Waiting | None = None


class _ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    restart_count: int = 0
    state: _State = _State()
    last_state: _State = _State()


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    container_statuses: tuple[_ContainerStatus, ...] | None = None
    init_container_statuses: tuple[_ContainerStatus, ...] | None = None


class _InitContainer(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    restart_policy: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    init_containers: tuple[_InitContainer, ...] | None = None


class PodObject(msgspec.Struct, frozen=True):
    """A Pod, without what nobody here asks for."""

    metadata: _Metadata
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


def numbers(kind: str, wire: WorkloadObject) -> tuple[int, int]:
    """How many pods are wanted, and how many are available."""
    if kind == "DaemonSet":
        return wire.status.desired_number_scheduled, wire.status.number_available
    return wire.spec.replicas, wire.status.available_replicas


def workload_of(kind: str, wire: WorkloadObject, pods: tuple[Pod, ...]) -> Workload:
    """A workload with these pods."""
    desired, available = numbers(kind, wire)
    conditions = wire.status.conditions or ()
    strategy = wire.spec.strategy or wire.spec.update_strategy or Strategy()
    return Workload(
        uid=wire.metadata.uid,
        desired=desired,
        available=available,
        max_unavailable=max_unavailable(kind, strategy, desired),
        pods=pods,
        observed=wire.status.observed_generation >= wire.metadata.generation,
        available_since=next((each.last_transition_time for each in conditions if each.type == "Available"), ""),
    )


def pod_of(wire: PodObject) -> Pod:
    """One pod."""
    # A sidecar is an init container that goes on running; the others end before the pod works.
    sidecars = {each.name for each in wire.spec.init_containers or () if each.restart_policy == "Always"}
    statuses = (
        *(wire.status.container_statuses or ()),
        *(each for each in wire.status.init_container_statuses or () if each.name in sidecars),
    )
    metadata = wire.metadata
    return Pod(
        metadata.name,
        metadata.uid,
        metadata.creation_timestamp,
        metadata.deletion_timestamp is not None,
        tuple(_container(each) for each in statuses),
    )


def _container(status: _ContainerStatus) -> Container:
    ended = status.state.terminated or status.last_state.terminated or _Ended()
    waiting = status.state.waiting.reason if status.state.waiting else ""
    return Container(
        status.name,
        status.restart_count,
        status.state.running.started_at if status.state.running else "",
        ended.finished_at or "",
        ended.reason or waiting,
    )
