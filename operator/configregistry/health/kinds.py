"""The kinds of checks: a table, one entry a kind, by the name that its field has in `Check`.

It exists so that adding a kind is one entry and a module. It must never lack a kind that a spec may
name: a check that is not made would be one that cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from configregistry.errors import FieldError
from configregistry.health import consumers_check, http_check, prometheus_check, workload_check
from configregistry.health.question import Prober, Subject
from configregistry.model.spec import Check


class Kind(NamedTuple):
    """How to ask, how many seconds it may take, and what can be said before it is asked."""

    probe: Prober
    timeout: Callable[[Check], float]
    examine: Callable[[Check, Subject, str], None]


PROBES: Final[Mapping[str, Kind]] = {
    "consumers": Kind(consumers_check.probe, consumers_check.timeout, consumers_check.examine),
    "http": Kind(http_check.probe, http_check.timeout, http_check.examine),
    "prometheus": Kind(prometheus_check.probe, prometheus_check.timeout, prometheus_check.examine),
    "workload": Kind(workload_check.probe, workload_check.timeout, workload_check.examine),
}
"""Kind -> how it is made."""

_SAMPLE: Final = Subject("namespace", "registry", 2, "0123456789abcdef", 1)


def kind_of(check: Check) -> str:
    """The kind of a check; the plan has made sure that there is exactly one."""
    return next(kind for kind in PROBES if getattr(check, kind) is not None)


def examine(check: Check, field: str) -> None:
    """Raise `FieldError` when the check could never be made; `field` is its path."""
    PROBES[kind_of(check)].examine(check, _SAMPLE, field)


def unsupported(check: Check, field: str = "") -> str | None:
    """Why a check could never be made, as a sentence for InvalidSpec; None when it can."""
    try:
        examine(check, field or f"spec.rollout.checks[{check.name}]")
    except FieldError as error:
        return str(error)
    return None
