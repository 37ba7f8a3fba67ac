"""The audit line: who, what, from, to, why, once for each decision that was accepted.

A logger of its own (`configregistry.audit`), so that whoever keeps such lines can route them by its name. The fields
are contract (docs/logs.md). It must never hold a value of a configuration, and never be written for what was only
wished: a decision that the API server refused has not happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import structlog

LOGGER: Final = "configregistry.audit"
EVENT: Final = "audit"

Trigger = Literal["User", "System", "Check", "Source"]
"""Why now: somebody edited or commanded; time, a hook or a repair; a check; a ConfigMap or policy that it follows."""

OPERATOR: Final = "operator"
"""Who, where nobody but this program decided."""
SOURCE: Final = "source"
"""Who, where an object that the registry follows was changed: who did that is in the API server's own audit log."""
UNKNOWN: Final = "unknown"
"""Who, where the object names no manager."""


class Record(NamedTuple):
    """One decision. `before` and `after` hold what is given: stable, canary, weight, paused, fallback, revision."""

    namespace: str
    registry: str
    uid: str
    generation: int
    who: str
    trigger: Trigger
    what: str
    before: Mapping[str, str | int]
    after: Mapping[str, str | int]
    why: str
    command: str = ""
    """`<verb> <token>`; empty: none."""
    trace_id: str = ""


_log = structlog.get_logger(LOGGER)


def tell(record: Record) -> None:
    """Write the line."""
    more = {name: value for name in ("command", "trace_id") if (value := getattr(record, name))}
    _log.info(
        EVENT,
        namespace=record.namespace,
        registry=record.registry,
        uid=record.uid,
        generation=record.generation,
        revision=record.after.get("revision", 0),
        who=record.who,
        trigger=record.trigger,
        what=record.what,
        why=record.why,
        **{"from": dict(record.before), "to": dict(record.after), **more},
    )
