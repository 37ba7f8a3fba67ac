"""`ConfigRegistry.spec` as types. The CRD has already refused most bad specs; this refuses the rest.

The same types read a spec from the API server and from a file (`lint`), so a spec that lacks the
defaults that the API server fills in reads the same here.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec
import msgspec.structs

from configregistry.errors import FieldError


class _Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A part of the spec: immutable, camelCase on the wire."""


class ConfigMapRef(_Part, frozen=True):
    """Which ConfigMap of the same namespace, and whether it may be absent."""

    name: str
    optional: bool = False


class DataFrom(_Part, frozen=True):
    """One source that is merged under `data`, shallowly by top-level key."""

    config_map_ref: ConfigMapRef
    format: Literal["Auto", "String"] = "Auto"
    prefix: str = ""


class NameRef(_Part, frozen=True):
    """Another object by name: a ConfigRegistry of the same namespace, or a RolloutPolicy."""

    name: str


class Validator(_Part, frozen=True):
    """An HTTP endpoint that says whether content may become a version."""

    name: str
    url: str
    timeout_seconds: int = 5


class Hook(_Part, frozen=True):
    """An HTTP endpoint that is told of a rollout; only PreRollout may veto."""

    name: str
    when: Literal["PreRollout", "PostRollout", "Rollback"]
    url: str
    timeout_seconds: int = 5


class Pause(_Part, frozen=True):
    """A wait after a weight; without a duration it waits for `promote`."""

    duration: str | None = None


class Step(_Part, frozen=True):
    """Either a weight or a pause (the CRD refuses both and neither)."""

    set_weight: int | None = None
    pause: Pause | None = None


class MatchRule(_Part, frozen=True):
    """Consumers that get the candidate whatever the weight: those whose attribute has one of the values."""

    attribute: str
    values: tuple[str, ...]


class PrometheusCheck(_Part, frozen=True):
    """An instant query."""

    address: str
    query: str


class HttpCheck(_Part, frozen=True):
    """A GET whose status is compared."""

    url: str
    expected_status: tuple[int, ...] = (200,)
    timeout_seconds: int = 2


class ConsumersCheck(_Part, frozen=True):
    """The share of reporting consumers that reported an error."""

    max_error_percent: float = 3
    min_reporting: int = 2


class WorkloadCheck(_Part, frozen=True):
    """A workload whose pods must stay available and not restart."""

    kind: Literal["Deployment", "StatefulSet", "DaemonSet"]
    name: str


class Check(_Part, frozen=True):
    """What is asked while a candidate is out; exactly one of the four kinds."""

    name: str
    interval: str = "10s"
    initial_delay: str = "0s"
    failure_limit: int = 0
    consecutive_error_limit: int = 4
    no_data: Literal["Wait", "Fail", "Pass"] = "Wait"
    max: float | None = None
    min: float | None = None
    prometheus: PrometheusCheck | None = None
    http: HttpCheck | None = None
    consumers: ConsumersCheck | None = None
    workload: WorkloadCheck | None = None


class RolloutSpec(_Part, frozen=True):
    """How a new version goes out. What is None (or empty) a RolloutPolicy may say, and else `plan_of`."""

    preset: str | None = None
    steps: tuple[Step, ...] = ()
    bake: str | None = None
    match: tuple[MatchRule, ...] = ()
    seed: str = ""
    checks: tuple[Check, ...] = ()
    on_failure: Literal["Rollback", "Pause"] | None = None
    progress_deadline: str | None = None
    paused: bool = False
    policy_ref: NameRef | None = None


class Project(_Part, frozen=True):
    """A ConfigMap that is kept equal to the stable version."""

    config_map: str


class Spec(_Part, frozen=True):
    """The intent of one registry."""

    data: dict[str, Any] = {}
    data_from: tuple[DataFrom, ...] = ()
    fallback: NameRef | None = None
    schema: dict[str, Any] | None = None
    validators: tuple[Validator, ...] = ()
    depends_on: tuple[NameRef, ...] = ()
    hooks: tuple[Hook, ...] = ()
    rollout: RolloutSpec = RolloutSpec()
    pinned_version: int | None = None
    revision_history_limit: int = 10
    project: Project | None = None


def parse_spec(raw: bytes) -> Spec:
    """The spec that JSON bytes hold. Raises `FieldError` naming the field where they do not fit."""
    try:
        return msgspec.json.decode(raw, type=Spec)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$")
        raise FieldError(f"spec{path.rstrip('`')}", None, expected) from error
    except (ValueError, RecursionError) as error:
        raise FieldError("spec", None, f"not readable as JSON: {error}") from error


def encode(part: object) -> bytes:
    """Compact JSON of any part of the spec, equal for equal parts; what their hashes are taken of.

    What has its default value is left out, so that a field which a newer operator knows changes no hash:
    an upgrade must start no rollout again.
    """
    return msgspec.json.encode(_told(part), order="sorted")


def _told(part: object) -> object:
    if isinstance(part, tuple):
        return [_told(item) for item in part]
    if isinstance(part, msgspec.Struct):
        values = ((field, getattr(part, field.name)) for field in _fields(type(part)))
        return {field.encode_name: _told(value) for field, value in values if value != field.default}
    return part


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)
