"""All that can be said of a spec by itself: what the CRD's rules cannot refuse, and what is likely wrong.

Pure, and needs no cluster: the webhook and `lint` use the same. What depends on ConfigMaps is left to the
controller; what depends on other objects is `review`'s.

It must never refuse what the controller would take: the controller decides, this only says it earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from configregistry.admission.advice import advice
from configregistry.admission.findings import Findings
from configregistry.admission.quick import is_surely_content
from configregistry.errors import FieldError
from configregistry.health import examine
from configregistry.model import content, schema
from configregistry.model.spec import RolloutSpec, Spec, parse_spec
from configregistry.rollout.plan import Plan, plan_of

Examiner = Callable[[Spec], None]
"""Raises `FieldError` for a spec that could never be followed; gives nothing."""

_SHOWN: Final = 20


def findings(raw: bytes, examiners: Sequence[Examiner] = ()) -> Findings:
    """What is to be said of a spec, given as JSON."""
    try:
        spec = parse_spec(raw)
    except FieldError as error:
        return Findings((str(error),))
    return judged(spec, examiners)


def judged(spec: Spec, examiners: Sequence[Examiner] = (), effective: RolloutSpec | None = None) -> Findings:
    """The same of one that is read. `effective`: what its RolloutPolicy makes of spec.rollout; None: not known."""
    rollout = spec.rollout if effective is None else effective
    plan, errors = _plan(rollout)
    errors += _checks(rollout) if plan is not None else []
    errors += [str(error) for error in (*_content(spec), *_examined(spec, examiners))]
    known = effective is not None or spec.rollout.policy_ref is None
    return Findings(tuple(dict.fromkeys(errors)), tuple(advice(spec, rollout, plan, policy_known=known)))


def _plan(rollout: RolloutSpec) -> tuple[Plan | None, list[str]]:
    try:
        return plan_of(rollout), []
    except FieldError as error:
        return None, [str(error)]


def _checks(rollout: RolloutSpec) -> list[str]:
    errors = []
    for index, check in enumerate(rollout.checks):
        try:
            examine(check, f"spec.rollout.checks[{index}]")
        except FieldError as error:
            errors.append(str(error))
    return errors


def _content(spec: Spec) -> Iterator[FieldError]:
    """`data` by itself: what dataFrom adds can make it larger, and never takes a key of it away."""
    if not is_surely_content(spec.data):
        try:
            content.build(spec.data)
        except FieldError as error:
            yield from _each_key(spec, error)
    if spec.schema is None:
        return
    # Comparing that may take for ever is left to the controller, which does it in a process of its own.
    costly = schema.is_costly(spec.schema)
    try:
        schema.compiled(spec.schema) if costly else schema.check(spec.schema, spec.data)
    except FieldError as error:
        # A key that the schema wants may be in a ConfigMap; that the schema itself is none depends on nobody.
        if not spec.data_from or error.field == "spec.schema":
            yield error


def _each_key(spec: Spec, first: FieldError) -> Iterator[FieldError]:
    """All that is wrong with keys and values, not only the first of it."""
    found = 0
    for key, value in spec.data.items():
        try:
            content.build({key: value})
        except FieldError as error:
            if error.field != "spec.data":
                found += 1
                yield error
        if found == _SHOWN:
            return
    if not found:
        yield first


def _examined(spec: Spec, examiners: Sequence[Examiner]) -> Iterator[FieldError]:
    for examiner in examiners:
        try:
            examiner(spec)
        except FieldError as error:
            yield error
