"""What holds for every life of a registry, whatever was done to it; known without the machine.

Each status that the operator wrote is looked at once, beside the one before it. Statuses that a hand wrote are no
matter of the operator's: `hand` says where one stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configregistry.model.status import Status
from configregistry.rollout.plan import Stage

KINDS = ["Available", "Ready", "Reconciling", "Stalled", "Healthy"]


class Rules:
    """Of one registry, of one UID."""

    def __init__(self, contents: Mapping[str, Any], stages: Mapping[str, tuple[Stage, ...]]) -> None:
        self._contents = contents
        """By hash: all that the history ever asked for."""
        self._stages = stages
        """By stepsHash: all steps that it ever asked for."""
        self._last: Status | None = None
        self._acted: set[tuple[str, str]] = set()

    def hand(self, status: Status, *, lost: bool = False) -> None:
        """A hand wrote this while the operator was dead, so it is the truth; `lost`: with what had acted."""
        self._last = status
        if lost:
            self._acted.clear()

    def saw(self, after: Status) -> None:
        """The operator wrote this."""
        self._alone(after)
        before, self._last = self._last, after
        if before is None:
            return
        acted = self._commands(before, after)
        assert after.revision >= before.revision, "revision went back"
        if _given(before) != _given(after):
            assert after.revision > before.revision, "other content under the same revision"
        assert "retry" in acted or not set(before.rejected_hashes) - set(after.rejected_hashes), "forgot a rejection"
        self._course(before, after, acted)

    def _alone(self, status: Status) -> None:
        for part in (status.stable, status.canary):
            if part is not None:
                assert part.hash in self._contents, f"content {part.hash} was never asked for"
                assert part.hash not in status.rejected_hashes, f"rejected content {part.hash} is served"
        found = {each.type: each.status for each in status.conditions}
        assert list(found) == KINDS, found
        assert (found["Reconciling"], found["Stalled"]) != ("True", "True"), found
        assert (found["Ready"] == "True") == ("True" not in (found["Reconciling"], found["Stalled"])), found

    def _commands(self, before: Status, after: Status) -> set[str]:
        """The verbs that were done in this write."""
        new = {verb: each for verb, each in after.commands.items() if before.commands.get(verb) != each}
        assert len(new) <= 1, f"two commands in one write: {new}"
        for verb, each in new.items():
            assert (verb, each.token) not in self._acted, f"the token of {verb} {each.token} acted twice"
            self._acted.add((verb, each.token))
        return {verb for verb, each in new.items() if each.result == "Done"}

    def _course(self, before: Status, after: Status, acted: set[str]) -> None:
        old, new = before.canary, after.canary
        if old is None or new is None or (old.version, old.started_at) != (new.version, new.started_at):
            return
        if old.steps_hash != new.steps_hash or not old.step_started_at:
            return
        assert new.weight >= old.weight, "the weight went down"
        stages = self._stages[old.steps_hash]
        place = [stage.step for stage in stages].index(old.current_step_index) if not old.baking else len(stages) - 1
        if new.current_step_index == old.current_step_index and new.baking == old.baking:
            return
        if new.baking and not old.baking:
            # A last stage without pauses is a bake from its beginning.
            assert stages[place:] in (stages[-1:], stages[-2:]), "a step was skipped"
        else:
            assert new.current_step_index == stages[place + 1].step, "a step was skipped"
        if stages[place].waits and not old.promoted:
            assert "promote" in acted, "went on without promote"


def _given(status: Status) -> object:
    canary, stable = status.canary, status.stable
    return (
        stable and stable.hash,
        status.fallback,
        canary and (canary.hash, canary.weight, canary.match, canary.seed),
    )
