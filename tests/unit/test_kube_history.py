"""Which versions may go, and what marks tell when the status is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from configregistry.clock import timestamp
from configregistry.kube.history import (
    CLAIM_HOLDS,
    MARK_AGAIN,
    REVISION_LEAP,
    Mark,
    due_marks,
    mark_of,
    prunable,
    recover,
)
from configregistry.kube.objects import Meta, OwnerReference, RevisionObject
from configregistry.model.names import ANNOTATION_CLAIMED, ANNOTATION_VERDICT
from configregistry.model.status import Canary, Previous, Rejected, Stable, Status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def version(
    number: int,
    mark: Mark | str | None = None,
    *,
    uid: str = "u",
    claimed: str = "",
    going: str = "",
) -> RevisionObject:
    annotations = {}
    if mark is not None:
        annotations[ANNOTATION_VERDICT] = mark if isinstance(mark, str) else mark.encode()
    if claimed:
        annotations[ANNOTATION_CLAIMED] = claimed
    owner = OwnerReference("configregistry.dev/v1alpha1", "ConfigRegistry", "r", uid, controller=True)
    meta = Meta(f"r-{number}", annotations=annotations, owner_references=(owner,), deletion_timestamp=going)
    return RevisionObject(meta, number, hash_of(number), keys=number)


def hash_of(number: int) -> str:
    return f"{number:016x}"


def status(
    stable: int | None = None,
    canary: int | None = None,
    previous: int | None = None,
    revision: int = 1,
) -> Status:
    return Status(
        uid="u",
        stable=None if stable is None else Stable(stable, hash_of(stable)),
        canary=None if canary is None else Canary(canary, hash_of(canary)),
        previous=None if previous is None else Previous(previous, hash_of(previous)),
        revision=revision,
    )


def gone(
    numbers: range | list[int],
    of: Status,
    limit: int,
    pinned: int | None = None,
    reported: tuple[int, ...] = (),
) -> list[int]:
    versions = [version(number) for number in numbers]
    return [each.number for each in prunable(versions, of, limit, pinned, reported, NOW)]


def test_the_oldest_go_until_the_limit_is_left_beside_stable_and_candidate() -> None:
    assert gone(range(1, 9), status(stable=8), 3) == [1, 2, 3, 4]
    assert gone(range(1, 9), status(stable=7, canary=8), 3) == [1, 2, 3]
    assert gone(range(1, 9), status(stable=8), 10) == []
    assert gone(range(1, 9), status(stable=8), 0) == [1, 2, 3, 4, 5, 6, 7]


def test_what_may_be_named_never_goes() -> None:
    of = status(stable=2, canary=3, previous=1)
    assert gone(range(1, 9), of, 0) == [4, 5, 6, 7]
    assert gone(range(1, 9), of, 0, pinned=5) == [4, 6, 7]
    assert gone(range(1, 9), of, 0, reported=(4, 6)) == [5, 7]


def test_what_may_not_go_counts_towards_the_limit() -> None:
    # Left beside stable 8: 1 (previous), 2 and 3 (reported); the limit of 4 leaves room for one.
    of = status(stable=8, previous=1)
    assert gone(range(1, 9), of, 4, reported=(2, 3)) == [4, 5, 6]


def test_nothing_goes_while_the_status_names_no_stable_version() -> None:
    assert gone(range(1, 9), status(), 0) == []
    assert gone([], status(stable=1), 0) == []


def test_versions_of_another_registry_of_that_name_and_those_that_are_going_are_left_alone() -> None:
    versions = [
        version(1, uid="other"),
        version(2, going="2026"),
        version(3),
        version(4),
        version(5),
    ]
    found = prunable(versions, status(stable=4), 0, None, (), NOW)
    assert [each.number for each in found] == [3]


def test_a_version_claimed_lately_stays() -> None:
    late = timestamp(NOW - CLAIM_HOLDS + timedelta(seconds=1)) + " 1a2b"
    early = timestamp(NOW - CLAIM_HOLDS) + " 1a2b"
    versions = [
        version(1, claimed=late),
        version(2, claimed=early),
        version(3, claimed="?"),
        version(4),
    ]
    found = prunable(versions, status(stable=4), 0, None, (), NOW)
    assert [each.number for each in found] == [2, 3]


@given(
    st.sets(st.integers(1, 30)),
    st.integers(1, 30),
    st.none() | st.integers(1, 30),
    st.none() | st.integers(1, 30),
    st.none() | st.integers(1, 30),
    st.sets(st.integers(1, 30)),
    st.integers(0, 30),
)
def test_pruning_removes_nothing_named_and_no_more_than_the_surplus(
    numbers: set[int],
    stable: int,
    canary: int | None,
    previous: int | None,
    pinned: int | None,
    reported: set[int],
    limit: int,
) -> None:
    removed = set(gone(sorted(numbers), status(stable, canary, previous), limit, pinned, tuple(reported)))
    named = {stable, canary, previous, pinned, max(numbers, default=0), *reported}
    assert removed <= numbers - named
    left = numbers - removed - {stable, canary}
    if removed:
        assert len(left) >= limit
    assert len(left) <= max(limit, len(left & named))


def test_a_lost_status_is_made_again_from_the_marks() -> None:
    versions = [
        version(1, Mark(served=2)),
        version(2, Mark(served=9)),
        version(3, Mark(served=14, rejected="Unpinned", at="t")),
        version(4, Mark(rejected="CheckFailed", message="errors 4 % > 3 %")),
        version(5),
        version(9, Mark(served=99), uid="other"),
    ]
    found = recover(versions, "u")
    assert found.uid == "u"
    assert found.stable == Stable(2, hash_of(2), keys=2)
    assert found.previous == Previous(1, hash_of(1))
    assert found.revision == 14 + REVISION_LEAP
    assert found.last_version == 5
    assert found.rejected_hashes == (hash_of(3), hash_of(4))
    assert found.rejected[1] == Rejected(4, hash_of(4), "CheckFailed", "errors 4 % > 3 %")
    assert found.rejection(hash_of(3)) == Rejected(3, hash_of(3), "Unpinned", at="t")


def test_without_marks_nothing_is_stable() -> None:
    found = recover([version(1), version(2, "garbage")], "u")
    assert found == Status(uid="u", last_version=2)
    assert recover([], "u") == Status(uid="u")


def test_a_mark_that_cannot_be_read_is_none() -> None:
    for text in ("", "[]", '{"served":"x"}', "{"):
        assert mark_of(version(1, text)) == Mark()


def test_marks_are_due_where_they_differ_from_the_status() -> None:
    of = Status(
        uid="u",
        stable=Stable(2, hash_of(2)),
        revision=20,
        rejected=(Rejected(3, hash_of(3), "CheckFailed", "m" * 5000, "t"),),
        rejected_hashes=(hash_of(3), hash_of(4)),
    )
    versions = [
        version(1, Mark(served=5, rejected="Unpinned")),  # retried since
        version(2),
        version(3, Mark(served=7)),
        version(4, Mark(rejected="Aborted")),  # told no more in full, still rejected
        version(5),
    ]
    due = {each.number: mark for each, mark in due_marks(versions, of)}
    assert due == {
        1: Mark(served=5),
        2: Mark(served=20),
        3: Mark(served=7, rejected="CheckFailed", message="m" * 1024, at="t"),
    }


def test_the_stable_version_is_marked_anew_before_revision_outruns_the_leap() -> None:
    versions = [version(1, Mark(served=10))]
    assert due_marks(versions, status(stable=1, revision=10 + MARK_AGAIN - 1)) == []
    later = status(stable=1, revision=10 + MARK_AGAIN)
    assert [mark for _each, mark in due_marks(versions, later)] == [Mark(served=10 + MARK_AGAIN)]
    assert MARK_AGAIN < REVISION_LEAP


@given(st.data())
def test_whatever_was_decided_the_marks_tell_it(data: st.DataObject) -> None:
    """Decide at random, marking after each decision; then lose the status."""
    versions = {number: version(number) for number in range(1, 6)}
    revision = 0
    of = status()
    for _ in range(data.draw(st.integers(1, 12))):
        revision += data.draw(st.integers(1, 3))
        number = data.draw(st.integers(1, 5))
        others = tuple(each for each in of.rejected if each.version != number)
        if data.draw(st.booleans()) or of.stable is None or of.stable.version == number:
            of = Status(uid="u", stable=Stable(number, hash_of(number)), rejected=others)
        else:
            entry = Rejected(number, hash_of(number), "CheckFailed")
            of = Status(uid="u", stable=of.stable, rejected=(*others, entry))
        hashes = tuple(entry.hash for entry in of.rejected)
        of = Status(
            uid="u",
            stable=of.stable,
            rejected=of.rejected,
            rejected_hashes=hashes,
            revision=revision,
        )
        for each, mark in due_marks(versions.values(), of):
            versions[each.number] = version(each.number, mark)
    found = recover(versions.values(), "u")
    assert of.stable is not None
    assert found.stable is not None
    assert found.stable.version == of.stable.version
    assert set(found.rejected_hashes) == set(of.rejected_hashes)
    assert found.revision > of.revision
