"""`RolloutPolicy.spec` as types: what a platform team says about the rollouts of many registries.

It exists apart from `spec` because nothing of it is a registry's own: `rollout.policy` says what becomes of a
registry's spec.rollout under it. It must never hold a default of its own, or what a policy leaves unsaid could
not be told from what it says.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from configregistry.errors import FieldError
from configregistry.model.spec import Check, Step


class _Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A part of the policy: immutable, camelCase on the wire."""


class Defaults(_Part, frozen=True):
    """What holds where a registry says nothing. `preset` and `steps` are one thing."""

    preset: str | None = None
    steps: tuple[Step, ...] = ()
    bake: str | None = None
    checks: tuple[Check, ...] = ()
    on_failure: Literal["Rollback", "Pause"] | None = None
    progress_deadline: str | None = None


class Limits(_Part, frozen=True):
    """What holds whatever a registry says. `max_step` is in percent of the consumers."""

    min_bake: str | None = None
    max_step: int | None = None


class Policy(msgspec.Struct, frozen=True):
    """One policy. `checks` are mandatory."""

    name: str
    defaults: Defaults
    checks: tuple[Check, ...]
    limits: Limits


class _Spec(_Part, frozen=True):
    defaults: Defaults = Defaults()
    checks: tuple[Check, ...] = ()
    limits: Limits = Limits()


_SPEC: Final = msgspec.json.Decoder(_Spec)


def parse_policy(name: str, raw: bytes) -> Policy:
    """The policy whose spec JSON bytes hold. Raises `FieldError` naming the field where they do not fit."""
    try:
        spec = _SPEC.decode(raw)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$")
        raise FieldError(f"spec{path.rstrip('`')}", None, expected) from error
    except (ValueError, RecursionError) as error:
        raise FieldError("spec", None, f"not readable as JSON: {error}") from error
    return Policy(name, spec.defaults, spec.checks, spec.limits)
