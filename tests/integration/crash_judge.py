"""Whether what was played with kills is what would have happened without.

`Ending` is what must be the same; `judge` compares, and checks what holds for a history on its own. Left out, because
it may differ: times, counters of checks that passed, and messages.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any, Final, NamedTuple

from tests.integration.crash_stories import CLAIMED, PAUSE, VERDICT, Play, made
from tests.integration.histories_rules import Rules
from tests.integration.running import place_of

from configregistry.model.spec import parse_spec
from configregistry.model.status import parse_status
from configregistry.rollout.plan import plan_of

AGAIN: Final = {"VersionRecorded", "VersionPruned", "HookFailed"}
"""Events that another life may tell once more: of what no status remembers that it was told."""
SLACK: Final = 0.1
"""Seconds by which a stage may seem shorter than it was: the watch tells of its beginning late."""


class Ending(NamedTuple):
    """What a story came to."""

    places: tuple[tuple[Any, ...], ...]
    """Where the rollout stood and under which revision, in order."""
    outcome: tuple[Any, ...]
    rejected: tuple[int, ...]
    commands: tuple[tuple[str, str, str], ...]
    conditions: tuple[tuple[str, str, str], ...]
    last_version: int
    hashes: tuple[tuple[int, str], ...]
    """Of all versions that status ever named."""
    made: str
    """The projected ConfigMap."""
    told: frozenset[tuple[str, int]]
    """Who was asked or told about which version."""


class Kept(NamedTuple):
    """What is there at the end, which kills may change in allowed ways."""

    ending: Ending
    versions: dict[int, dict[str, Any]]
    events: Counter[str]
    """How often each reason was told of."""


async def ending_of(play: Play) -> Kept:
    """Read what a play came to."""
    status = play.history.seen[-1].status
    outcome = status.get("lastOutcome") or {}
    places: list[tuple[Any, ...]] = []
    hashes: dict[int, str] = {}
    for seen in play.history.seen:
        place = (*place_of(seen.status), seen.status.get("revision", 0))
        if not places or places[-1] != place:
            places.append(place)
        for part in (seen.status.get("stable"), seen.status.get("canary")):
            if part and part.get("version"):
                assert hashes.setdefault(part["version"], part["hash"]) == part["hash"], "two contents of one number"
    events: Counter[str] = Counter()
    for event in await play.client.events(play.name):
        events[event["reason"]] += (event.get("series") or {}).get("count", 1)
    found = await made(play)
    ending = Ending(
        tuple(places),
        tuple(outcome.get(each) for each in ("result", "trigger", "version", "hooks")),
        tuple(each["version"] for each in status.get("rejected", ())),
        tuple(sorted((verb, each["token"], each["result"]) for verb, each in status.get("commands", {}).items())),
        tuple((each["type"], each["status"], each["reason"]) for each in status["conditions"]),
        status["lastVersion"],
        tuple(sorted(hashes.items())),
        json.dumps(found, sort_keys=True) if found else "",
        frozenset((by, number) for registry, by, number in play.around.told if registry == play.name),
    )
    return Kept(ending, await play.client.revisions(play.name), events)


def judge(play: Play, kept: Kept, reference: Kept, kills: int) -> None:
    """Raise where kills made a difference."""
    for name, one, other in zip(Ending._fields, kept.ending, reference.ending, strict=True):
        assert one == other, f"{name}: {one}\nwithout kills: {other}"
    play.history.check()
    _rules(play)
    _counts(play)
    _stays(play)
    _versions(kept, reference, kills)
    for reason, times in kept.events.items():
        # Told after a status was accepted, an event may be lost, and is never told again.
        most = reference.events[reason] + (kills if reason in AGAIN else 0)
        assert times <= most, f"event {reason} told {times} times; without kills {reference.events[reason]}"


def _rules(play: Play) -> None:
    """No step is skipped or repeated, no weight goes back, no command acts twice."""
    plans = [plan_of(parse_spec(json.dumps(spec).encode()).rollout) for spec in play.specs]
    statuses = [parse_status(json.dumps(seen.status).encode()) for seen in play.history.seen]
    hashes = {part.hash for each in statuses for part in (each.stable, each.canary) if part is not None}
    rules = Rules(dict.fromkeys(hashes), {plan.steps_hash: plan.stages for plan in plans})
    for status in statuses:
        rules.saw(status)


def _counts(play: Play) -> None:
    """Failures of a candidate are counted one at a time: none is lost or counted twice."""
    failed = [
        sum(each["failed"] for each in seen.status["canary"].get("checks", ()))
        for seen in play.history.seen
        if seen.status.get("canary")
    ]
    assert all(0 <= after - before <= 1 for before, after in pairwise(failed)), failed


def _stays(play: Play) -> None:
    """A stage that takes time takes it, whoever measured it."""
    if play.story != "good":
        return
    for weight, baking in ((20, False), (100, True)):
        took = 0.0
        for one, following in pairwise(play.history.seen):
            canary = one.status.get("canary") or {}
            if canary.get("stepStartedAt") and (canary["weight"], bool(canary.get("baking"))) == (weight, baking):
                took += following.at - one.at
        assert took >= PAUSE - SLACK, f"the stage at {weight} took {took:.2f} s of {PAUSE}"


def _versions(kept: Kept, reference: Kept, kills: int) -> None:
    """None is lost, none is there twice; one that was claimed when a kill was near may stay for longer."""
    for number, found in kept.versions.items():
        if number not in reference.versions:
            assert CLAIMED in found["metadata"].get("annotations", {}), f"version {number} was not pruned"
            assert kills, number
    assert not reference.versions.keys() - kept.versions.keys(), f"{sorted(kept.versions)}: a version is lost"
    hashes = [found["metadata"]["labels"]["configregistry.dev/hash"] for found in kept.versions.values()]
    assert len(set(hashes)) == len(hashes), f"content was recorded twice: {hashes}"
    for number, found in kept.versions.items():
        expected = reference.versions.get(number)
        if expected is not None:
            verdicts = [_verdict(each) for each in (found, expected)]
            assert verdicts[0] == verdicts[1], f"version {number} is marked {verdicts[0]}; without kills {verdicts[1]}"


def _verdict(found: dict[str, Any]) -> tuple[bool, str]:
    mark = json.loads(found["metadata"].get("annotations", {}).get(VERDICT, "{}"))
    return "served" in mark, mark.get("rejected", "")
