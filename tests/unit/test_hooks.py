"""What hooks are asked and told, when, and what their answers come to, in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.posting_world import (
    HANGS,
    KEY,
    META,
    NEW,
    NO,
    OTHER,
    STABLE,
    STARTED,
    YES,
    Told,
    World,
    ended,
    ended_as,
    queued,
    says,
    spec,
    steady,
)

from configregistry.clock import timestamp
from configregistry.errors import FieldError
from configregistry.health import UnansweredError
from configregistry.model.conditions import READY
from configregistry.model.content import Content
from configregistry.model.spec import Spec
from configregistry.model.status import Canary, Status
from configregistry.reconcile.hooks import Hooks, examine
from configregistry.reconcile.telling import EVENT_EVERY, LAST_AGAIN, REPLACED
from configregistry.rollout.machine import decide
from configregistry.rollout.observation import HookState, Observation, VersionInfo
from configregistry.rollout.plan import plan_of

ALLOWED, PENDING, VETOED = HookState.ALLOWED, HookState.PENDING, HookState.VETOED
WARM_URL, GATE_URL, LOG_URL, CHAT_URL = "http://warm/", "http://gate/", "http://log/", "http://chat/"
WARM: dict[str, Any] = {"name": "warm", "when": "PreRollout", "url": WARM_URL}
GATE: dict[str, Any] = {"name": "gate", "when": "PreRollout", "url": GATE_URL}
LOG: dict[str, Any] = {"name": "log", "when": "PostRollout", "url": LOG_URL}
CHAT: dict[str, Any] = {"name": "chat", "when": "Rollback", "url": CHAT_URL}
PRE = spec(hooks=[LOG, WARM])
BOTH = spec(hooks=[WARM, GATE])
TOLD = spec(hooks=[LOG, CHAT, WARM])
NONE = spec()
DEADLINE = 100.0
SCHEMAS = Path(__file__).parents[2] / "docs" / "spec"


class Hooking(World):
    """A controller that has hooks; `restart` is another process."""

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        self.hooks = Hooks(self, self.time, self.queue, self.tell, sleep=self.time.sleep, jitter=lambda: 1.0)

    def before(self, of: Spec, status: Status, content: str = NEW, deadline: float = DEADLINE) -> HookState:
        return self.said(of, status, content, deadline)[0]

    def said(self, of: Spec, status: Status, content: str = NEW, deadline: float = DEADLINE) -> tuple[HookState, str]:
        return self.hooks.before(KEY, META, of, status, content, deadline)

    def told(self, status: Status, of: Spec = TOLD) -> bool:
        return self.hooks.told(KEY, META, of, status)


@pytest.fixture
async def world() -> AsyncIterator[Hooking]:
    made = Hooking()
    yield made
    await made.hooks.close()
    assert ended()


# Before a rollout

VETO = ended_as("Cancelled")
NOT_ASKED: dict[str, tuple[Spec, Status, str, HookState]] = {
    "no hooks": (NONE, queued(), NEW, ALLOWED),
    "no hooks of the kind": (spec(hooks=[LOG, CHAT]), queued(), NEW, ALLOWED),
    "no hooks, but a veto before": (NONE, VETO, NEW, ALLOWED),
    "no hooks and no content": (NONE, steady(), "", ALLOWED),
    "no candidate yet": (PRE, steady(), NEW, PENDING),
    "no candidate yet, and nothing ever": (PRE, Status(), NEW, PENDING),
    "no content": (PRE, queued(), "", PENDING),
    "the candidate is another": (PRE, queued(OTHER), NEW, PENDING),
    "another is out": (PRE, queued(OTHER, begun=True), NEW, PENDING),
    "it has begun": (PRE, queued(begun=True), NEW, ALLOWED),
    "paused": (spec(hooks=[WARM], rollout={"paused": True}), queued(), NEW, PENDING),
    "vetoed, says the status": (PRE, VETO, NEW, VETOED),
    "vetoed, and another candidate is out": (PRE, replace(queued(OTHER), last_outcome=VETO.last_outcome), NEW, VETOED),
    "another content was vetoed": (PRE, VETO, OTHER, PENDING),
    "cancelled by a person": (PRE, ended_as("Cancelled", "User"), NEW, PENDING),
    "completed": (PRE, ended_as("Completed"), NEW, PENDING),
    "aborted": (PRE, ended_as("Aborted", "User"), NEW, PENDING),
    "superseded": (PRE, ended_as("Superseded", "User"), NEW, PENDING),
}


@pytest.mark.parametrize("case", NOT_ASKED)
async def test_nobody_is_asked(world: Hooking, case: str) -> None:
    of, status, content, expected = NOT_ASKED[case]
    for _ in range(3):
        assert world.before(of, status, content) is expected
        await world.time.advance(300)
    assert (world.asked, world.changed) == ([], [])


ANSWERS: dict[str, tuple[Told, HookState]] = {
    "yes": (YES, ALLOWED),
    "nothing": (says(), ALLOWED),
    "204": (says(status=204), ALLOWED),
    "blanks": (says(b" \r\n"), ALLOWED),
    "an object": (says({"ok": False}), ALLOWED),
    "words without a no": (says({"message": "not sure"}), ALLOWED),
    "no": (NO, VETOED),
    "no without words": (says({"allowed": False}), VETOED),
    "no with 500": (says({"allowed": False}, 500), PENDING),
    "yes with 500": (says({"allowed": True}, 500), PENDING),
    "a redirect": (says({"allowed": True}, 303), PENDING),
    "text": (says(b"ok"), PENDING),
    "a list": (says([False]), PENDING),
    "null": (says(b"null"), PENDING),
    "no as text": (says({"allowed": "false"}), PENDING),
    "no as null": (says({"allowed": None}), PENDING),
    "no as 0": (says({"allowed": 0}), PENDING),
    "no connection": (UnansweredError("no connection"), PENDING),
    "silence": (HANGS, PENDING),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer(world: Hooking, case: str) -> None:
    told, expected = ANSWERS[case]
    world.answers[WARM_URL] = [told]
    assert world.before(PRE, queued()) is PENDING
    await world.time.advance(10)
    assert world.before(PRE, queued()) is expected
    await world.time.advance(80)
    assert world.before(PRE, queued()) is expected
    # One that is silent is asked again, until the deadline; one that spoke is not.
    assert (len(world.asked) > 1) is (expected is PENDING)
    await world.time.advance(10)
    assert world.before(PRE, queued()) is (VETOED if expected is PENDING else expected)


async def test_a_veto_names_the_hook_and_says_why(world: Hooking) -> None:
    world.answers[WARM_URL] = [NO]
    world.before(PRE, queued())
    await world.time.advance()
    assert world.said(PRE, queued()) == (VETOED, "spec.hooks[1] (warm): no and no")
    # Once it is in the status it is told from there, by whatever process.
    assert world.said(PRE, VETO) == (VETOED, "it Cancelled")
    world.restart()
    assert world.said(PRE, VETO) == (VETOED, "it Cancelled")


async def test_all_are_asked_at_once_and_one_no_is_enough(world: Hooking) -> None:
    world.answers = {WARM_URL: [HANGS], GATE_URL: [3.0, NO]}
    world.before(BOTH, queued())
    await world.time.advance()
    assert world.at_once == 2
    await world.time.advance(3)
    assert world.said(BOTH, queued()) == (VETOED, "spec.hooks[1] (gate): no and no")


async def test_the_deadline_is_the_candidates_wake_and_then_a_veto(world: Hooking) -> None:
    world.answers = {WARM_URL: [says(status=500)], GATE_URL: [YES]}
    await world.time.advance(7)
    world.before(BOTH, queued())
    await world.time.advance(1)
    assert world.said(BOTH, queued()) == (PENDING, "waits for spec.hooks[0] (warm)")
    world.changed.clear()
    await world.time.advance(DEADLINE - 1)
    assert world.changed == [(KEY, 7 + DEADLINE)]
    last = "no answer within progressDeadline (1m40s); last: got status 500, expected 2xx"
    assert world.said(BOTH, queued()) == (VETOED, f"spec.hooks[0] (warm): {last}")


async def test_an_edited_deadline_counts_from_when_it_was_asked(world: Hooking) -> None:
    world.answers[WARM_URL] = [HANGS]
    world.before(PRE, queued())
    await world.time.advance(20)
    assert world.before(PRE, queued(), deadline=30) is PENDING
    await world.time.advance(10)
    assert world.changed == [(KEY, 30)]
    assert world.before(PRE, queued(), deadline=60) is PENDING
    await world.time.advance(30)
    assert world.changed == [(KEY, 30), (KEY, 60)]
    assert world.before(PRE, queued(), deadline=60) is VETOED


async def test_a_pause_asks_nobody_and_begins_the_deadline_anew(world: Hooking) -> None:
    paused = spec(hooks=[WARM, GATE], rollout={"paused": True})
    world.answers = {WARM_URL: [HANGS], GATE_URL: [YES]}
    world.before(BOTH, queued())
    await world.time.advance(50)
    assert world.before(paused, queued()) is PENDING
    asked = len(world.asked)
    await world.time.advance(500)
    assert len(world.asked) == asked
    assert world.before(BOTH, queued()) is PENDING
    await world.time.advance(DEADLINE - 1)
    assert world.before(BOTH, queued()) is PENDING
    world.answers[WARM_URL] = [YES]
    await world.time.advance(50)
    assert world.before(BOTH, queued()) is ALLOWED
    assert len(world.times(GATE_URL)) == 1
    assert len({each.json["id"] for each in world.to(WARM_URL)}) == 1


async def test_a_veto_stays_until_hooks_or_content_are_edited(world: Hooking) -> None:
    world.answers[WARM_URL] = [NO, YES]
    world.before(PRE, queued())
    await world.time.advance()
    assert world.before(PRE, queued()) is VETOED
    for _ in range(3):
        assert world.before(PRE, VETO) is VETOED
        await world.time.advance(1000)
    # Neither other hooks nor other fields matter.
    assert world.before(spec(hooks=[WARM, CHAT], revisionHistoryLimit=3), VETO) is VETOED
    assert world.before(PRE, VETO, OTHER) is PENDING
    assert world.before(PRE, VETO) is VETOED
    edited = spec(hooks=[{**WARM, "timeoutSeconds": 6}])
    assert world.before(edited, VETO) is PENDING
    again = queued(started="2030-01-01T00:10:00Z")
    again = replace(again, last_outcome=VETO.last_outcome)
    assert world.before(edited, again) is PENDING
    await world.time.advance()
    assert world.before(edited, again) is ALLOWED


async def test_hooks_that_are_edited_while_their_veto_is_written_are_asked_again(world: Hooking) -> None:
    world.answers[WARM_URL] = [NO]
    world.before(PRE, queued())
    await world.time.advance()
    assert world.before(PRE, queued()) is VETOED
    assert world.before(spec(hooks=[{**WARM, "timeoutSeconds": 6}]), VETO) is PENDING


async def test_a_veto_in_the_status_is_one_of_the_hooks_of_now(world: Hooking) -> None:
    assert world.before(PRE, VETO) is VETOED
    assert world.before(spec(hooks=[{**WARM, "timeoutSeconds": 6}]), VETO) is PENDING
    assert world.before(PRE, VETO) is VETOED
    world.restart()
    assert world.before(spec(hooks=[{**WARM, "timeoutSeconds": 6}]), VETO) is VETOED


async def test_an_edited_hook_is_asked_and_the_others_keep_their_answer(world: Hooking) -> None:
    world.answers = {WARM_URL: [HANGS], GATE_URL: [YES], "http://mended/": [YES]}
    world.before(BOTH, queued())
    await world.time.advance(1)
    mended = spec(hooks=[{**WARM, "url": "http://mended/"}, GATE])
    assert world.before(mended, queued()) is PENDING
    await world.time.advance(1)
    assert world.before(mended, queued()) is ALLOWED
    await world.time.advance(100)
    assert [len(world.times(url)) for url in (WARM_URL, GATE_URL, "http://mended/")] == [1, 1, 1]


async def test_the_id_is_of_the_candidate_and_the_hook_over_tries_and_restarts(world: Hooking) -> None:
    world.answers = {WARM_URL: [HANGS], GATE_URL: [HANGS]}
    world.before(BOTH, queued())
    await world.time.advance(20)
    await world.hooks.close()
    world.restart()
    world.before(BOTH, queued())
    await world.time.advance(20)
    bodies = {each.body for each in world.to(WARM_URL)}
    assert len(world.times(WARM_URL)) > 2
    assert len(bodies) == 1
    for status in (queued(started="2030-01-01T00:00:01Z"), queued(version=9), queued(OTHER)):
        world.before(BOTH, status, status.canary.hash if status.canary else "")
        await world.time.advance()
    assert len({each.json["id"] for each in world.asked}) == 4 * 2


async def test_a_candidate_that_is_gone_is_asked_about_no_more(world: Hooking) -> None:
    world.answers[WARM_URL] = [says(status=500)]
    for status in (steady(), queued(begun=True), queued(OTHER)):
        world.before(PRE, queued())
        await world.time.advance()
        world.before(PRE, status)
        asked = len(world.asked)
        await world.time.advance(200)
        assert len(world.asked) == asked
        assert ended()


async def test_a_failing_hook_is_told_of_in_an_event_and_then_rarely(world: Hooking) -> None:
    world.answers[WARM_URL] = [says(status=500)]
    world.before(PRE, queued(), deadline=1e9)
    await world.time.advance(EVENT_EVERY - 60)
    (note,) = world.notes
    assert (note.type, note.reason) == ("Warning", "HookFailed")
    assert note.message == "hook warm (PreRollout): got status 500, expected 2xx; it is tried again"
    await world.time.advance(120)
    assert world.notes == [note, note]


# After a rollout


def over(result: str, trigger: str = "System", **more: Any) -> Status:
    return ended_as(result, trigger, hooks="Pending", **more)


@pytest.mark.parametrize(
    ("hooks", "expected"),
    [
        ([], set()),
        ([WARM], set()),
        ([LOG], {"Completed"}),
        ([CHAT], {"RolledBack", "Aborted"}),
        ([LOG, CHAT], {"Completed", "RolledBack", "Aborted"}),
    ],
)
def test_tells(hooks: list[dict[str, Any]], expected: set[str]) -> None:
    assert Hooks.tells(spec(hooks=hooks)) == expected


TELLS = {"Completed": [LOG_URL], "RolledBack": [CHAT_URL], "Aborted": [CHAT_URL], "Superseded": [], "Cancelled": []}


@pytest.mark.parametrize("result", TELLS)
async def test_who_is_told_of_what(world: Hooking, result: str) -> None:
    status = over(result)
    nobody = not TELLS[result]
    assert world.told(status) is nobody
    await world.time.advance()
    assert [each.url for each in world.asked] == TELLS[result]
    assert world.told(status)
    assert world.changed == [(KEY, 0.0)] * (not nobody)
    await world.time.advance(1000)
    assert world.told(status)
    assert len(world.asked) == len(TELLS[result])


@pytest.mark.parametrize("status", [steady(), Status(), ended_as("Completed"), ended_as("Completed", hooks="Told")])
async def test_nothing_is_told_that_is_not_pending(world: Hooking, status: Status) -> None:
    assert not world.told(status)
    await world.time.advance(10)
    assert world.asked == []


async def test_it_is_told_ever_more_rarely_until_2xx_whatever_the_body(world: Hooking) -> None:
    world.answers[LOG_URL] = [UnansweredError("no"), HANGS, *[says({"allowed": False}, 500)] * 11, says(b"thanks")]
    status = over("Completed")
    while not world.told(status):
        await world.time.advance(1)
        assert world.time.now < 5000
    times = world.times(LOG_URL)
    assert len(times) == 14
    assert [round(b - a) for a, b in pairwise(times)] == [1, 7, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]
    assert max(b - a for a, b in pairwise(times)) == LAST_AGAIN
    assert len({each.body for each in world.asked}) == 1
    assert len(world.notes) == 1


async def test_all_are_told_at_once_and_who_was_told_is_not_told_again(world: Hooking) -> None:
    second = {**CHAT, "name": "second", "url": "http://second/"}
    of, status = spec(hooks=[CHAT, second]), over("RolledBack", "Check")
    world.answers = {CHAT_URL: [HANGS], "http://second/": [YES]}
    world.told(status, of)
    await world.time.advance()
    assert not world.told(status, of)
    assert len(world.times("http://second/")) == 1
    world.answers[CHAT_URL] = [YES]
    await world.time.advance(30)
    assert world.told(status, of)
    assert len(world.times("http://second/")) == 1
    assert world.asked[0].json["id"] != world.asked[1].json["id"]


async def test_the_same_is_told_after_a_restart(world: Hooking) -> None:
    world.answers[LOG_URL] = [HANGS]
    world.told(over("Completed"))
    await world.time.advance(60)
    await world.hooks.close()
    await world.time.advance(1000)
    world.restart()
    world.answers[LOG_URL] = [YES]
    world.told(over("Completed"))
    await world.time.advance()
    assert world.told(over("Completed"))
    assert len({each.body for each in world.asked}) == 1


async def test_an_edit_tells_the_hook_of_now_and_a_removed_one_no_more(world: Hooking) -> None:
    status = over("Completed")
    world.answers = {LOG_URL: [says(status=500)], "http://mended/": [YES]}
    world.told(status)
    await world.time.advance()
    mended = spec(hooks=[{**LOG, "url": "http://mended/"}])
    assert not world.told(status, mended)
    await world.time.advance(100)
    assert world.told(status, mended)
    assert (len(world.times(LOG_URL)), len(world.times("http://mended/"))) == (1, 1)
    assert world.asked[0].json["id"] == world.asked[1].json["id"]
    world.restart()
    world.told(status)
    await world.time.advance()
    assert world.told(status, NONE)
    await world.time.advance()
    assert ended()


async def test_a_replaced_outcome_is_told_for_a_while(world: Hooking) -> None:
    world.answers = {LOG_URL: [says(status=500)], CHAT_URL: [YES]}
    world.told(over("Completed"))
    await world.time.advance(100)
    newer = over("RolledBack", "Check", content=OTHER, version=9, at="2030-01-01T00:01:00Z")
    world.told(newer)
    await world.time.advance()
    assert world.told(newer)  # the older one holds nothing up
    assert not world.told(ended_as("RolledBack", "Check", hooks="Told", content=OTHER, version=9))
    before = len(world.times(LOG_URL))
    await world.time.advance(REPLACED - 1)
    assert len(world.times(LOG_URL)) > before
    await world.time.advance(LAST_AGAIN + 1)
    after = len(world.times(LOG_URL))
    await world.time.advance(10 * REPLACED)
    assert len(world.times(LOG_URL)) == after
    assert ended()
    world.told(newer)


async def test_an_outcome_replaced_by_one_that_nobody_is_told_of_is_told_for_a_while_too(world: Hooking) -> None:
    world.answers[LOG_URL] = [says(status=500)]
    world.told(over("Completed"))
    await world.time.advance(1)
    assert not world.told(ended_as("Cancelled", content=OTHER, version=9))
    await world.time.advance(REPLACED + LAST_AGAIN)
    assert max(world.times(LOG_URL)) > REPLACED / 2
    assert ended()


async def test_a_replaced_outcome_is_not_told_to_a_hook_that_is_removed(world: Hooking) -> None:
    world.answers = {LOG_URL: [says(status=500)], CHAT_URL: [YES]}
    world.told(over("Completed"))
    await world.time.advance(1)
    newer = over("RolledBack", "Check", content=OTHER, version=9, at="2030-01-01T00:01:00Z")
    world.told(newer)
    await world.time.advance(10)
    assert world.at_once == 0
    world.told(newer, spec(hooks=[CHAT]))
    asked = len(world.asked)
    await world.time.advance(300)
    assert len(world.asked) == asked


async def test_many_replaced_outcomes_are_bounded(world: Hooking) -> None:
    world.answers[LOG_URL] = [HANGS]
    for number in range(100):
        world.told(over("Completed", version=number, at=f"2030-01-01T00:00:{number % 60:02d}Z"))
    await world.time.advance()
    assert world.at_once == 33
    world.hooks.forget(KEY)
    await world.time.advance()
    assert world.at_once == 0
    assert ended()


async def test_a_url_that_is_none_is_a_failure_like_another(world: Hooking) -> None:
    of = spec(hooks=[{**LOG, "url": "http://h/{{nothing}}"}])
    assert not world.told(over("Completed"), of)
    await world.time.advance(10)
    assert not world.told(over("Completed"), of)
    assert "'nothing'" in world.notes[0].message


# With the machine


CONTENT = Content(NEW, b'{"a":1}', 1)


class Rolled(Hooking):
    """One registry, decided about by the real machine, its status written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.status = replace(steady(), uid="uid-1")
        self.writes = 0

    def decide(self, of: Spec) -> None:
        for _ in range(20):
            plan = plan_of(of.rollout)
            hook, message = self.said(of, self.status, NEW, plan.progress_deadline)
            observation = Observation(
                uid="uid-1",
                generation=1,
                plan=plan,
                content=CONTENT,
                problem=None,
                versions={7: VersionInfo(7, STABLE, 1), 8: VersionInfo(8, NEW, 1)},
                now=self.time.wall(),
                hook=hook,
                hook_message=message,
                tells=Hooks.tells(of),
                told=self.told(self.status, of),
            )
            decision = decide(self.status, observation)
            if not decision.changed:
                return
            self.status = decision.status
            self.writes += 1
        raise AssertionError("goes round in circles")

    @property
    def to_be_told(self) -> str:
        assert self.status.last_outcome is not None
        return self.status.last_outcome.hooks

    @property
    def ready(self) -> str:
        return next(each.reason for each in self.status.conditions if each.type == READY)


SCRIPTS: list[Told] = [YES, NO, says(), says(b"?"), says(status=500), HANGS, 2.0]
EDITS = st.sampled_from(["wait", "touch", "pause", "unpause", "remove", "add", "kill"])


def let_out(world: World, canary: Canary) -> bool:
    """Whether the hook was asked about this very candidate, and its last word was no no."""
    about = [given for asked, given in world.given if asked.json["at"] == canary.started_at and asked.url == WARM_URL]
    return bool(about) and about[-1] in (YES, says())


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=6).map(lambda script: [*script, YES]),
    edits=st.lists(EDITS, max_size=12),
)
async def test_whatever_happens_no_candidate_begins_that_a_hook_has_not_let_out(
    answers: list[Told], edits: list[str]
) -> None:
    world = Rolled()
    world.answers = {WARM_URL: answers, LOG_URL: [says(status=500), YES]}
    warm = dict(WARM)
    rollout: dict[str, Any] = {"steps": [{"setWeight": 10}, {"pause": {}}], "progressDeadline": "20s"}
    there = True
    # In the end nothing stands in its way, and it begins.
    for edit in [*edits, "unpause", "add", "calm", "touch", "wait"]:
        if edit == "touch":
            warm["timeoutSeconds"] = warm.get("timeoutSeconds", 5) % 30 + 1
        elif edit in ("pause", "unpause"):
            rollout["paused"] = edit == "pause"
        elif edit in ("remove", "add"):
            there = edit == "add"
        elif edit == "kill":
            await world.hooks.close()
            world.restart()
        elif edit == "calm":
            world.answers[WARM_URL] = [YES]
        of = spec(hooks=[*([warm] if there else []), LOG], rollout=rollout)
        for _ in range(5):
            before = world.status
            world.decide(of)
            out = begun(world.status)
            if there and out is not None and begun(before) is None:
                assert let_out(world, out)
            # Stable is served all along, and the content is never rejected for a veto.
            assert world.status.stable == before.stable
            assert not world.status.rejected_hashes
            await world.time.advance(7)
    assert begun(world.status) is not None
    await world.hooks.close()
    assert ended()


def begun(status: Status) -> Canary | None:
    """The candidate, if it has begun."""
    return status.canary if status.canary is not None and status.canary.step_started_at else None


async def test_a_veto_is_a_row_of_the_conditions_and_an_edit_begins_again() -> None:
    world = Rolled()
    world.answers[WARM_URL] = [NO, YES]
    of = spec(hooks=[WARM, LOG])
    world.decide(of)
    assert world.status.canary is not None
    await world.time.advance()
    world.decide(of)
    assert world.ready == "HookVetoed"
    vetoed = world.status
    assert vetoed.canary is None
    message = next(each.message for each in vetoed.conditions if each.type == READY)
    assert message == "spec.hooks[0] (warm): no and no; change the content or a PreRollout hook"
    assert world.writes == 2  # it is the candidate; it is vetoed
    await world.hooks.close()
    world.restart()
    world.decide(of)
    assert world.status == vetoed  # another process writes nothing
    edited = spec(hooks=[{**WARM, "timeoutSeconds": 6}, LOG])
    world.decide(edited)
    await world.time.advance()
    world.decide(edited)
    assert world.status.stable is not None
    assert world.status.stable.hash == NEW
    assert world.to_be_told == "Pending"
    await world.time.advance()
    world.decide(edited)
    assert world.to_be_told == "Told"
    await world.hooks.close()


# What is sent


def conforms(message: Any) -> None:
    """What the schema says, and nothing that it does not tell of."""
    schema = json.loads((SCHEMAS / "hook-event.schema.json").read_text())
    jsonschema_rs.validate(schema, message)
    assert set(message) <= set(schema["properties"])
    for part, fields in (("registry", None), ("outcome", None), *[(each, "version") for each in ("version", "stable")]):
        known = schema["$defs"][fields] if fields else schema["properties"][part]
        assert set(message.get(part, {})) <= set(known["properties"])


async def test_what_is_sent_before_is_what_the_schema_says(world: Hooking) -> None:
    url = "http://h/{{namespace}}/{{registry}}/{{version}}?h={{hash}}&s={{stableVersion}}"
    world.before(spec(hooks=[{**WARM, "url": url}]), queued())
    await world.time.advance()
    (asked,) = world.asked
    assert asked.url == f"http://h/shop/checkout/8?h={NEW}&s=7"
    assert asked.headers["X-ConfigRegistry-Delivery"] == asked.json["id"]
    assert asked.json == {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "HookEvent",
        "id": asked.json["id"],
        "hook": "warm",
        "when": "PreRollout",
        "at": STARTED,
        "registry": {"namespace": "shop", "name": "checkout", "uid": "uid-1"},
        "version": {"number": 8, "hash": NEW},
        "stable": {"number": 7, "hash": STABLE},
        "previous": {"number": 5, "hash": OTHER},
    }
    conforms(asked.json)


@pytest.mark.parametrize("result", ["Completed", "RolledBack", "Aborted"])
async def test_what_is_sent_after_is_what_the_schema_says(world: Hooking, result: str) -> None:
    at = timestamp(world.time.wall())
    world.told(over(result, "Check", message="errors: 0.09", at=at))
    await world.time.advance()
    (asked,) = world.asked
    outcome = {"result": result, "trigger": "Check", "message": "errors: 0.09", "at": at}
    assert (asked.json["outcome"], asked.json["at"]) == (outcome, at)
    assert asked.json["when"] == ("PostRollout" if result == "Completed" else "Rollback")
    conforms(asked.json)


@pytest.mark.parametrize("url", ["http://h/{{nothing}}", "http://h/{{hash", "http://:80/", "ftp://h/"])
def test_what_could_never_be_asked_is_refused(url: str) -> None:
    with pytest.raises(FieldError) as refused:
        examine(spec(hooks=[LOG, {**WARM, "url": url}]))
    assert refused.value.field == "spec.hooks[1].url"


def test_what_can_be_asked_is_not_refused() -> None:
    examine(spec())
    examine(spec(hooks=[{**WARM, "url": "https://u:p@h/{{version}}/{{stableVersion}}/{{hash}}"}]))
