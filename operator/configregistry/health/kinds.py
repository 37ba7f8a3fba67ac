"""The kinds of checks that this version can make: a table, one entry a kind.

It exists so that adding a kind is one entry and a module. It must never let a kind through that
is not in the table: a check that is not made would be one that cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from configregistry.errors import FieldError
from configregistry.health import consumers_check, http_check, prometheus_check
from configregistry.health.question import Prober, Subject
from configregistry.model.spec import Check

ALL_KINDS: Final = ("prometheus", "http", "consumers", "workload")
"""What a spec may name, as the fields of `Check`; more than what `PROBES` can make."""


class Kind(NamedTuple):
    """How to ask, how many seconds it may take, and what can be said before it is asked."""

    probe: Prober
    timeout: Callable[[Check], float]
    examine: Callable[[Check, Subject, str], None]


PROBES: Final[Mapping[str, Kind]] = {
    "consumers": Kind(consumers_check.probe, consumers_check.timeout, consumers_check.examine),
    "http": Kind(http_check.probe, http_check.timeout, http_check.examine),
    "prometheus": Kind(prometheus_check.probe, prometheus_check.timeout, prometheus_check.examine),
}
"""Kind -> how it is made."""

_SAMPLE: Final = Subject("namespace", "registry", 2, "0123456789abcdef", 1)


def kind_of(check: Check) -> str:
    """The kind of a check; the plan has made sure that there is exactly one."""
    return next(kind for kind in ALL_KINDS if getattr(check, kind) is not None)


def examine(check: Check, field: str) -> None:
    """Raise `FieldError` when this version could never make the check; `field` is its path."""
    kind = kind_of(check)
    if kind not in PROBES:
        expected = f"this version makes checks of kind {', '.join(sorted(PROBES))} only"
        raise FieldError(f"{field}.{kind}", None, expected)
    PROBES[kind].examine(check, _SAMPLE, field)


def unsupported(check: Check, field: str = "") -> str | None:
    """Why this version cannot make a check, as a sentence for InvalidSpec; None when it can."""
    try:
        examine(check, field or f"spec.rollout.checks[{check.name}]")
    except FieldError as error:
        return str(error)
    return None
