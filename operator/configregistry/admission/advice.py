"""What is legal and likely wrong in a spec: one sentence each, with what to do about it.

A table of small functions, in the order in which they are told. Pure. It must never warn of what is right in
an ordinary registry: a warning that shows at every apply is one that nobody reads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.model.canonical import MAX_SAFE_INTEGER
from configregistry.model.durations import format_duration
from configregistry.model.names import MAX_CONTENT_BYTES
from configregistry.model.spec import RolloutSpec, Spec
from configregistry.rollout.plan import EVERYBODY, Plan

NEARLY: Final = 0.9
"""Share of the greatest size from which it is told."""
NAMED: Final = 3
"""Keys that one sentence names."""

_OF_CANDIDATE: Final = re.compile(r"\{\{\s*(version|hash)\s*\}\}")
_SECRET_KEY: Final = re.compile(
    r"(?:.*[._/-])?(?:password|passwd|secret|api[._-]?key|access[._-]?key|private[._-]?key|(?:access|auth|api)[._-]?token)",
    re.IGNORECASE,
)
_LAST: Final = frozenset("dtynDTYN")
"""Last letters of what `_SECRET_KEY` matches."""
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]*[1-9])?")


class _Asked(NamedTuple):
    """What the advice is about. `plan` None: the rollout is refused anyway. `rollout`: with its policy, if known."""

    spec: Spec
    rollout: RolloutSpec
    plan: Plan | None
    policy_known: bool


def advice(spec: Spec, rollout: RolloutSpec, plan: Plan | None, *, policy_known: bool = True) -> Iterator[str]:
    """All that is to be warned of."""
    asked = _Asked(spec, rollout, plan, policy_known)
    for judge in _ALL:
        yield from judge(asked)


def _empty(asked: _Asked) -> Iterator[str]:
    if not asked.spec.data and not asked.spec.data_from and asked.spec.pinned_version is None:
        yield "spec.data: no keys, so consumers will read an empty registry: put the keys under spec.data"


def _nulls(asked: _Asked) -> Iterator[str]:
    # The API server drops these before the webhook sees them; `lint` does see them.
    keys = [key for key, value in asked.spec.data.items() if value is None]
    if keys:
        yield f"spec.data: {_named(keys)}: the API server drops a key that is null: leave it out, or give it a value"


def _similar(asked: _Asked) -> Iterator[str]:
    if len({key.lower() for key in asked.spec.data}) == len(asked.spec.data):
        return
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for key in asked.spec.data:
        alike[key.lower()].append(key)
    for keys in alike.values():
        if len(keys) > 1:
            yield f"spec.data: {_named(keys)} differ in case only: keep one of them, or name them apart"


def _texts(asked: _Asked) -> Iterator[str]:
    keys = [
        key
        for key, value in asked.spec.data.items()
        if isinstance(value, str) and _reads_as_other(value) and not _is_string_by_schema(asked.spec, key)
    ]
    if keys:
        yield (
            f"spec.data: {_named(keys)}: a string that reads as a number or boolean: remove the quotes, "
            "or say `type: string` in spec.schema"
        )


def _reads_as_other(text: str) -> bool:
    if text in {"true", "false"}:
        return True
    if not text or text[0] not in "-0123456789":
        return False
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) <= MAX_SAFE_INTEGER


def _is_string_by_schema(spec: Spec, key: str) -> bool:
    properties = (spec.schema or {}).get("properties")
    said = properties.get(key) if isinstance(properties, dict) else None
    return isinstance(said, dict) and bool({"type", "enum", "const", "pattern"} & said.keys())


def _secrets(asked: _Asked) -> Iterator[str]:
    keys = [key for key, value in asked.spec.data.items() if _is_secret(key, value)]
    if keys:
        yield (
            f"spec.data: {_named(keys)}: looks like a secret, and whoever may read the registry or its versions "
            "reads it: keep it in a Secret, and only its name here"
        )


def _is_secret(key: str, value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    # 20,000 keys are looked at in each review: what cannot match is not matched.
    if key[-1] in _LAST and _SECRET_KEY.fullmatch(key) is not None:
        return True
    return "PRIVATE KEY-----" in value and _PRIVATE_KEY.search(value) is not None


def _large(asked: _Asked) -> Iterator[str]:
    if not asked.spec.data:
        return
    # Compact, which is canonical but for the order and some numbers: near enough for "nearly".
    size = len(msgspec.json.encode(asked.spec.data))
    if NEARLY * MAX_CONTENT_BYTES < size <= MAX_CONTENT_BYTES:
        yield (
            f"spec.data: {size:,} of at most {MAX_CONTENT_BYTES:,} bytes: split the registry, and join the parts "
            "with spec.fallback"
        )


def _twice(asked: _Asked) -> Iterator[str]:
    seen: dict[tuple[str, str], int] = {}
    for index, source in enumerate(asked.spec.data_from):
        place = (source.config_map_ref.name, source.prefix)
        if place in seen:
            yield (
                f"spec.dataFrom[{index}]: ConfigMap {place[0]!r} is in [{seen[place]}] already, which this one "
                "overrides whole: remove one of them, or give one a prefix"
            )
        seen[place] = index


def _unwatched(asked: _Asked) -> Iterator[str]:
    plan = asked.plan
    if plan is None or plan.checks or not asked.policy_known:
        return
    if len(plan.stages) > 1 or plan.bake:
        yield "spec.rollout: steps or bake without checks: nothing takes a bad version back by itself: add checks"
    elif not plan.roll_back:
        yield "spec.rollout.onFailure: Pause has no effect without checks: add checks"


def _short_lived(asked: _Asked) -> Iterator[str]:
    plan = asked.plan
    if plan is None or not plan.checks or not asked.policy_known:
        return
    if len(plan.stages) == 1 and not plan.bake:
        yield (
            "spec.rollout.checks: without steps and bake everybody has the new version before a check is made, and "
            "one pass of each ends the rollout: add steps, or a bake"
        )


def _late(asked: _Asked) -> Iterator[str]:
    plan = asked.plan
    if plan is None or not plan.checks:
        return
    first = plan.stages[0]
    whole = sum(stage.pause for stage in plan.stages) + plan.bake
    unattended = not any(stage.waits for stage in plan.stages)
    for index, check in enumerate(plan.checks):
        field = f"spec.rollout.checks[{index}]"
        delay = check.initial_delay
        if not first.waits and delay >= first.pause + plan.progress_deadline:
            yield (
                f"{field}.initialDelay: {check.spec.initial_delay}: the first stage ends in failure before that, "
                f"{format_duration(first.pause + plan.progress_deadline)} after the start: shorten it, or lengthen "
                "the first pause or progressDeadline"
            )
        elif unattended and delay and delay > whole:
            yield (
                f"{field}.initialDelay: {check.spec.initial_delay}: longer than the whole rollout "
                f"({format_duration(whole)}), whose first stage waits for it: shorten it"
            )


def _rare(asked: _Asked) -> Iterator[str]:
    plan = asked.plan
    if plan is None:
        return
    for index, check in enumerate(plan.checks):
        field = f"spec.rollout.checks[{index}].interval"
        if plan.bake and check.interval > plan.bake:
            yield (
                f"{field}: {check.spec.interval}: longer than the bake ({format_duration(plan.bake)}), in which it is "
                "made once only: shorten it, or lengthen the bake"
            )
            continue
        short = [stage for stage in plan.stages if stage.pause and not stage.waits and check.interval > stage.pause]
        if short:
            yield (
                f"{field}: {check.spec.interval}: longer than the stage at {short[0].weight} percent "
                f"({format_duration(short[0].pause)}), in which it is made once only: shorten it, or lengthen the pause"
            )


def _blind(asked: _Asked) -> Iterator[str]:
    for index, check in enumerate(asked.rollout.checks):
        if check.prometheus is not None and not _OF_CANDIDATE.search(check.prometheus.query):
            yield (
                f"spec.rollout.checks[{index}].prometheus.query: names neither {{{{version}}}} nor {{{{hash}}}}, so a "
                "bad candidate hides among those who have the old version: select by one of them"
            )


def _unsaid(asked: _Asked) -> Iterator[str]:
    checks = asked.rollout.checks
    if checks and all(check.no_data == "Pass" for check in checks):
        yield (
            "spec.rollout.checks: noData is Pass in each, so a query that finds nothing passes for ever: have one "
            "with Wait or Fail"
        )


def _unattended(asked: _Asked) -> Iterator[str]:
    plan = asked.plan
    if plan is None or plan.roll_back or not plan.checks or any(stage.waits for stage in plan.stages):
        return
    yield (
        "spec.rollout.onFailure: Pause: a failed candidate stays with its consumers until somebody acts, and no step "
        "waits for anybody: use Rollback, or alert on Stalled CheckFailed"
    )


def _last_pause(asked: _Asked) -> Iterator[str]:
    plan = asked.plan
    steps = asked.rollout.steps
    if plan is not None and steps and plan.stages[-1].waits and plan.stages[-1].weight == EVERYBODY:
        yield (
            "spec.rollout.steps: the last pause has no duration: with everybody on it the version is not stable "
            "until somebody says promote: use bake instead"
        )


def _named(keys: list[str]) -> str:
    told = ", ".join(repr(key[:40]) for key in keys[:NAMED])
    return told if len(keys) <= NAMED else f"{told} and {len(keys) - NAMED} more"


_ALL: Final = (
    _empty,
    _nulls,
    _similar,
    _texts,
    _secrets,
    _large,
    _twice,
    _unwatched,
    _short_lived,
    _late,
    _rare,
    _blind,
    _unsaid,
    _unattended,
    _last_pause,
)
