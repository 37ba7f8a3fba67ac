"""Commands: how annotations are read, and each verb in each phase, the cases made from the table."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.rollout_world import World, bring, check, hash_of, rolling, served, steps

from configregistry.model.names import COMMAND_PREFIX
from configregistry.model.status import encode_status
from configregistry.rollout.commands import commands_of
from configregistry.rollout.observation import Command, HookState, Verb, Verdict
from configregistry.rollout.table import TABLE, Event, Phase

EVENTS = {
    Verb.ABORT: Event.ABORT,
    Verb.PAUSE: Event.PAUSE,
    Verb.PROMOTE_FULL: Event.PROMOTE_FULL,
    Verb.PROMOTE: Event.PROMOTE,
    Verb.RESUME: Event.RESUME,
    Verb.RETRY: Event.RETRY,
}
CASES = [(phase, verb) for phase in Phase for verb in Verb]
HAVE_CANDIDATE = [phase for phase in Phase if phase not in (Phase.EMPTY, Phase.STEADY)]


def ids(case: object) -> str:
    return str(getattr(case, "value", case))


@pytest.mark.parametrize(("phase", "verb"), CASES, ids=ids)
def test_each_verb_in_each_phase(phase: Phase, verb: Verb) -> None:
    world = bring(World(), phase)
    if verb is Verb.RETRY:
        reject_three(world)
    before = world.status
    allowed = TABLE[phase].get(EVENTS[verb])
    world.command(verb, version=3 if verb is Verb.RETRY else None)
    token = world.commands[verb].token
    decision = world.once()
    record = world.status.commands[verb.value]
    has_candidate = before.canary is not None or verb is Verb.RETRY
    assert record.token == token
    if allowed is None or not has_candidate:
        assert record.result == "Ignored"
        assert [note.reason for note in decision.notes] == ["CommandIgnored"]
        assert (world.status.canary, world.status.stable) == (before.canary, before.stable)
        assert world.status.revision == before.revision
    else:
        assert record.result == "Done"
        assert world.phase in allowed
        assert "CommandIgnored" not in [note.reason for note in decision.notes]
    after = world.status
    world.settle()
    world.command(verb, version=3 if verb is Verb.RETRY else None, token=token)
    world.settle()
    assert world.status.commands == after.commands, "a token acts once"


def reject_three(world: World) -> None:
    """Content that was aborted long ago, by a status that says so."""
    other = rolling(10, "1h", label="three")
    other.command(Verb.ABORT)
    other.settle()
    rejected = [entry.__class__(3, hash_of("three"), "Aborted") for entry in other.status.rejected]
    world.status = replace(world.status, rejected=tuple(rejected), rejected_hashes=(hash_of("three"),))


@pytest.mark.parametrize("phase", HAVE_CANDIDATE, ids=ids)
@pytest.mark.parametrize("verb", [verb for verb in Verb if verb is not Verb.RETRY], ids=ids)
def test_a_command_acts_on_the_version_that_it_names(phase: Phase, verb: Verb) -> None:
    world = bring(World(), phase)
    before = world.status
    world.command(verb, version=7)
    world.once()
    assert world.status.commands[verb.value].result == "Ignored"
    assert (world.status.canary, world.status.revision) == (before.canary, before.revision)


@pytest.mark.parametrize("phase", [phase for phase in Phase if Event.PROMOTE in TABLE[phase]], ids=ids)
def test_promote_needs_the_step_that_was_seen(phase: Phase) -> None:
    for step in ("9", "-", ""):
        world = bring(World(), phase)
        before = world.status.canary
        world.command(Verb.PROMOTE, step=step)
        world.once()
        assert world.status.commands["promote"].result == "Ignored"
        assert world.status.canary == before


@pytest.mark.parametrize("verb", [Verb.ABORT, Verb.PAUSE, Verb.PROMOTE_FULL], ids=ids)
def test_for_others_the_step_does_not_matter(verb: Verb) -> None:
    world = bring(World(), Phase.STEPPING)
    world.command(verb, step="-")
    world.once()
    assert world.status.commands[verb.value].result == "Done"


def test_two_clicks_do_not_skip_a_step() -> None:
    world = rolling(5, "1h", 20, "1h", 50, "1h")
    world.command(Verb.PROMOTE, step="0")
    world.settle()
    assert world.canary.current_step_index == 2
    world.command(Verb.PROMOTE, step="0")
    world.settle()
    assert world.canary.current_step_index == 2
    assert world.told()[-1] == "CommandIgnored"


def test_promote_in_the_last_stage_ends_the_time_and_not_the_checks() -> None:
    world = rolling(100, None, checks=[check()])
    assert world.at(Phase.WAITING)
    world.command(Verb.PROMOTE)
    world.settle()
    assert (world.phase, world.canary.promoted) == (Phase.STEPPING, True)
    world.command(Verb.PROMOTE)
    world.settle()
    assert world.status.commands["promote"].result == "Ignored"
    world.probe(Verdict.PASS)
    world.settle()
    assert world.at(Phase.STEADY)
    assert world.status.stable is not None
    assert world.status.stable.version == 2


def test_promote_in_the_bake_ends_it_once_checks_passed() -> None:
    world = rolling(bake="1h", checks=[check()])
    world.command(Verb.PROMOTE)
    world.settle()
    assert world.at(Phase.BAKING)
    world.probe(Verdict.PASS)
    world.settle()
    assert world.at(Phase.STEADY)


def test_the_deadline_runs_from_a_promote_in_the_bake() -> None:
    world = rolling(bake="1h", checks=[check()], progress_deadline="10s")
    world.run(5, passing=False)
    world.command(Verb.PROMOTE)
    world.settle()
    world.run(9, passing=False)
    assert world.at(Phase.BAKING)
    world.run(1, passing=False)
    assert world.at(Phase.STEADY)
    assert world.status.rejected[0].reason == "CheckFailed"


def test_abort_of_a_failed_candidate_rejects_it_once() -> None:
    world = bring(World(), Phase.FAILED)
    world.command(Verb.ABORT)
    world.settle()
    assert [(entry.version, entry.reason) for entry in world.status.rejected] == [(2, "Aborted")]
    assert world.status.rejected_hashes == (hash_of("two"),)


def test_promote_while_paused_goes_on_paused() -> None:
    world = bring(World(), Phase.PAUSED)
    world.command(Verb.PROMOTE)
    world.settle()
    assert (world.phase, world.canary.weight) == (Phase.PAUSED, 50)


@pytest.mark.parametrize("phase", [Phase.STEPPING, Phase.WAITING, Phase.PAUSED, Phase.FROZEN, Phase.BAKING], ids=ids)
def test_promote_of_steps_that_were_edited_is_ignored(phase: Phase) -> None:
    """It names a step of the old ones; acting in the new ones would skip their first."""
    world = bring(World(), phase)
    world.edit(steps=steps(1, "1h", 2, "1h", 3, "1h"))
    world.command(Verb.PROMOTE)
    world.once()
    assert world.status.commands["promote"].result == "Ignored"
    world.commands.clear()
    if phase is Phase.PAUSED:
        world.command(Verb.RESUME)
    world.edit(paused=False)
    world.settle()
    assert (world.canary.weight, world.canary.current_step_index) == (1, 0)


def test_promote_full_says_that_checks_were_skipped() -> None:
    world = bring(World(), Phase.STEPPING)
    world.notes.clear()
    world.command(Verb.PROMOTE_FULL)
    world.settle()
    note = next(note for note in world.notes if note.reason == "RolloutCompleted")
    assert "checks skipped" in note.message
    assert world.status.last_outcome is not None
    assert (world.status.last_outcome.result, world.status.last_outcome.trigger) == ("Completed", "User")


def test_promote_full_after_a_failure_is_a_persons_word() -> None:
    world = bring(World(), Phase.FAILED)
    world.command(Verb.PROMOTE_FULL)
    world.settle()
    assert world.status.stable is not None
    assert world.status.stable.hash == hash_of("two")
    assert not world.status.rejected_hashes


def test_resume_lifts_only_a_commands_pause() -> None:
    world = bring(World(), Phase.FROZEN)
    world.command(Verb.RESUME)
    world.settle()
    assert (world.phase, world.status.commands["resume"].result) == (Phase.FROZEN, "Ignored")
    world = bring(World(), Phase.PAUSED)
    world.edit(paused=True)
    world.settle()
    world.command(Verb.RESUME)
    world.settle()
    assert world.at(Phase.FROZEN)


def test_resume_in_a_stage_that_waits_waits_again() -> None:
    world = bring(World(), Phase.WAITING)
    for verb in (Verb.PAUSE, Verb.RESUME):
        world.command(verb)
        world.settle()
    assert world.at(Phase.WAITING)


def test_resume_after_a_failure_clears_the_counters() -> None:
    world = rolling(10, "1h", checks=[check(failure_limit=1)], on_failure="Pause")
    world.probe(Verdict.FAIL)
    world.probe(Verdict.FAIL)
    world.settle()
    assert world.at(Phase.FAILED)
    world.command(Verb.RESUME)
    world.settle()
    assert (world.phase, world.canary.failure) == (Phase.STEPPING, "")
    world.probe(Verdict.FAIL)
    world.settle()
    assert world.at(Phase.STEPPING)
    assert world.canary.checks[0].failed == 1


def test_resume_after_a_missed_deadline_starts_it_anew() -> None:
    """Else it would fail again in the same moment."""
    world = rolling(10, "5s", 50, checks=[check()], on_failure="Pause", progress_deadline="1m")
    world.run(70, passing=False)
    assert world.at(Phase.FAILED)
    world.command(Verb.RESUME)
    world.settle()
    assert world.at(Phase.STEPPING)
    world.run(50, passing=False)
    assert world.at(Phase.STEPPING)
    world.run(15, passing=False)
    assert world.at(Phase.FAILED)


def test_pause_keeps_the_elapsed_time() -> None:
    world = rolling(10, "30s", 50, "1h")
    world.run(20)
    world.command(Verb.PAUSE)
    world.settle()
    assert world.canary.paused is not None
    assert (world.canary.paused.by, world.canary.paused.token) == ("Command", world.commands[Verb.PAUSE].token)
    world.run(100)
    assert world.canary.weight == 10
    world.command(Verb.RESUME)
    world.settle()
    world.run(9)
    assert world.canary.weight == 10
    world.run(1)
    assert world.canary.weight == 50


def test_abort_goes_back_and_rejects() -> None:
    world = bring(World(), Phase.STEPPING)
    world.command(Verb.ABORT)
    world.settle()
    assert [(entry.version, entry.reason) for entry in world.status.rejected] == [(2, "Aborted")]
    assert world.at(Phase.STEADY)
    world.run(60)
    assert world.at(Phase.STEADY)


def test_retry_lets_content_start_again() -> None:
    world = bring(World(), Phase.STEPPING)
    world.command(Verb.ABORT)
    world.settle()
    world.command(Verb.RETRY, version=2)
    world.settle()
    assert (world.canary.version, world.canary.weight) == (2, 10)
    assert not world.status.rejected
    assert not world.status.rejected_hashes


@pytest.mark.parametrize("version", [1, 3, 77])
def test_retry_of_what_is_not_rejected_is_ignored(version: int) -> None:
    world = bring(World(), Phase.STEPPING)
    world.command(Verb.ABORT)
    world.settle()
    world.command(Verb.RETRY, version=version)
    world.settle()
    assert world.status.commands["retry"].result == "Ignored"
    assert world.status.rejected_hashes


def test_retry_of_version_0_is_of_content_rejected_so_long_ago_that_nobody_knows_its_number() -> None:
    world = served(asked="old")
    world.status = replace(world.status, rejected_hashes=(hash_of("old"),))
    world.settle()
    assert next(each for each in world.status.conditions if each.type == "Ready").reason == "RolledBack"
    world.command(Verb.RETRY, version=0)
    world.settle()
    assert world.status.stable is not None
    assert world.status.stable.hash == hash_of("old")


def test_the_order_of_several_new_ones() -> None:
    world = bring(World(), Phase.STEPPING)
    for verb in (Verb.PROMOTE, Verb.RESUME, Verb.PAUSE):
        world.command(verb)
    world.settle()
    assert [note.reason for note in world.notes if note.reason in ("RolloutPaused", "RolloutResumed")] == [
        "RolloutPaused",
        "RolloutResumed",
    ]
    assert world.status.commands["promote"].result == "Done"
    world = bring(World(), Phase.STEPPING)
    for verb in (Verb.RESUME, Verb.PROMOTE, Verb.PROMOTE_FULL, Verb.PAUSE, Verb.ABORT):
        world.command(verb)
    world.settle()
    done = {verb for verb, record in world.status.commands.items() if record.result == "Done"}
    assert done == {"abort"}


def test_commands_are_refused_while_there_is_no_plan() -> None:
    """A process that never saw a valid spec.rollout: it cannot go on, but it can end."""
    for verb, result in ((Verb.PROMOTE, "Ignored"), (Verb.ABORT, "Done"), (Verb.PROMOTE_FULL, "Done")):
        world = bring(World(), Phase.STEPPING)
        world.restart()
        world.rollout = world.rollout.__class__(bake="broken")
        world.command(verb)
        world.once()
        assert world.status.commands[verb.value].result == result
    world = bring(World(), Phase.FAILED)
    world.restart()
    world.rollout = world.rollout.__class__(bake="broken")
    world.command(Verb.RESUME)
    world.once()
    assert world.status.commands["resume"].result == "Ignored"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8:2:abc", (8, "2", "abc")),
        ("8:-:abc", (8, "-", "abc")),
        ("8::abc", (8, "", "abc")),
        ("8:2:a:b", (8, "2", "a:b")),
        ("8:2:", (None, "", "8:2:")),
        ("8:2", (None, "", "8:2")),
        ("8", (None, "", "8")),
        ("x:2:abc", (None, "", "abc")),
        ("-1:2:abc", (None, "", "abc")),
        ("\u0663:2:abc", (None, "", "abc")),
        (":2:abc", (None, "", "abc")),
        ("9" * 17 + ":2:abc", (None, "", "abc")),
        ("8:" + "2" * 64 + ":abc", (None, "", "abc")),
        ("8:2:" + "t" * 253, (8, "2", "t" * 253)),
    ],
)
def test_an_annotation_is_read(text: str, expected: tuple[int | None, str, str]) -> None:
    assert commands_of({f"{COMMAND_PREFIX}pause": text, "other": "8:2:x"}) == (Command(Verb.PAUSE, *expected),)


def test_annotations_come_in_the_order_in_which_they_act() -> None:
    texts = {COMMAND_PREFIX + verb.value: f"1:0:{verb.value}" for verb in reversed(Verb)}
    assert [command.verb for command in commands_of(texts)] == list(Verb)
    assert commands_of({COMMAND_PREFIX + "explode": "1:0:x", COMMAND_PREFIX + "abort": ""}) == ()


@pytest.mark.parametrize("text", ["9" * 6000 + ":0:x", "2:0:" + "t" * 200_000, "t" * 200_000, "2:" + "s" * 9999 + ":x"])
def test_an_absurd_annotation_never_makes_a_status_that_the_api_server_refuses(text: str) -> None:
    world = bring(World(), Phase.STEPPING)
    (world.commands[Verb.ABORT],) = commands_of({COMMAND_PREFIX + "abort": text})
    world.settle()
    record = world.status.commands["abort"]
    assert record.result == "Ignored"
    assert len(record.token) <= 253
    assert len(record.step) <= 63
    assert len(encode_status(world.status)) < 10_000
    (again,) = commands_of({COMMAND_PREFIX + "abort": text})
    assert again.token == record.token
    (other,) = commands_of({COMMAND_PREFIX + "abort": text + "y"})
    assert other.token != record.token or len(text) < 10_000


def test_a_queued_candidate_can_be_aborted() -> None:
    world = rolling(10, "1h", hook=HookState.PENDING)
    world.command(Verb.ABORT)
    world.settle()
    assert world.status.rejected_hashes == (hash_of("two"),)


def test_two_clicks_in_a_last_stage_with_a_pause_do_not_end_the_bake() -> None:
    world = rolling(100, "1h", bake="1h")
    seen = str(world.canary.current_step_index)
    for _ in range(2):
        world.command(Verb.PROMOTE, step=seen)
        world.settle()
    assert world.at(Phase.BAKING)
    assert world.canary.current_step_index == world.canary.steps
    assert world.status.commands["promote"].result == "Ignored"
