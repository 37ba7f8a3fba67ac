"""A registry's versions: what is held, what is forgotten, and that the family stays connected."""

from __future__ import annotations

import pytest

from configregistry.state import (
    Canary,
    Change,
    Match,
    Registry,
    UnknownVersion,
    VersionDiffers,
    compare,
    registry,
)


def content(number: int) -> dict[str, bytes]:
    """Each version differs from each other one by two keys."""
    return {f"key-{key:03}": b"0" for key in range(50)} | {f"only-{number}": b"1"}


def recorded(*numbers: int, limit: int = 100) -> Registry:
    made = Registry("checkout", "uid-1", history_limit=limit)
    for number in numbers:
        made = made.record(number, f"h{number}", content(number))
    return made


def difference(before: int, after: int) -> tuple[Change, ...]:
    gone, new = Change(f"only-{before}", b"1", None), Change(f"only-{after}", None, b"1")
    return tuple(sorted([gone, new]))


def test_recording_twice_changes_nothing() -> None:
    held = recorded(1)
    assert held.record(1, "h1", content(1)) is held


def test_a_number_names_content_for_ever() -> None:
    with pytest.raises(VersionDiffers, match="version 1 is h1, not other"):
        recorded(1).record(1, "other", content(2))


def test_a_version_derives_from_its_parent_or_else_from_the_nearest() -> None:
    held = recorded(1, 10).record(12, "h12", content(12), parent=1)
    assert held.versions[12].parent == 1
    assert held.record(9, "h9", content(9), parent=8).versions[9].parent == 10
    assert held.record(2, "h2", content(2)).versions[2].parent == 1


def test_versions_come_in_any_order_and_are_listed_by_number() -> None:
    held = recorded(7, 3, 12, 1)
    assert list(held.versions) == [1, 3, 7, 12]
    assert held.diff(held.versions[1], held.versions[12]) == difference(1, 12)


def test_decide_names_versions_that_are_held() -> None:
    held = recorded(1, 2)
    canary = Canary(held.versions[2], 50, "seed", (Match("region", ("eu",)),))
    decided = held.decide(revision=4, stable=1, canary=canary, fallback="defaults")
    assert decided.stable is decided.versions[1]
    assert decided.canary == canary
    assert (decided.revision, decided.fallback) == (4, "defaults")
    assert (held.revision, held.stable, held.canary, held.fallback) == (0, None, None, None)


@pytest.mark.parametrize("which", ["stable", "canary"])
def test_decide_refuses_what_is_not_held(which: str) -> None:
    canary = Canary(recorded(9).versions[9], 5, "seed") if which == "canary" else None
    with pytest.raises(UnknownVersion, match="checkout: version 9 is not held"):
        recorded(1).decide(revision=1, stable=1 if canary else 9, canary=canary)


def test_before_the_first_decision_nothing_is_forgotten() -> None:
    assert len(recorded(*range(1, 9), limit=2).versions) == 8


def test_history_is_bounded_and_the_named_are_kept() -> None:
    held = recorded(*range(1, 9), limit=2)
    held = held.decide(revision=1, stable=1, canary=Canary(held.versions[3], 5, "seed"))
    assert list(held.versions) == [1, 3, 7, 8]
    held = held.record(9, "h9", content(9))
    assert list(held.versions) == [1, 3, 8, 9]
    assert held.canary is not None
    assert held.canary.version is held.versions[3]
    assert held.stable is held.versions[1]


def test_an_empty_version_is_named_like_any_other() -> None:
    held = recorded(*range(2, 7), limit=2).record(1, "h1", {}).record(0, "h0", {})
    canary = Canary(held.versions[0], 5, "seed")
    assert list(held.decide(revision=1, stable=1, canary=canary).versions) == [0, 1, 5, 6]


def test_an_old_version_recorded_again_is_kept_until_the_decision() -> None:
    held = recorded(*range(4, 9), limit=2).decide(revision=1, stable=4)
    held = held.record(1, "h1", content(1))
    assert list(held.versions) == [1, 4, 7, 8]
    assert list(held.decide(revision=2, stable=1).versions) == [1, 7, 8]
    assert list(held.decide(revision=2, stable=8).versions) == [4, 7, 8]


def test_forget() -> None:
    held = recorded(1, 2, 3, 4)
    held = held.decide(revision=1, stable=1, canary=Canary(held.versions[2], 5, "seed"))
    assert list(held.forget(3).versions) == [1, 2, 4]
    assert held.forget(1) is held
    assert held.forget(2) is held
    assert held.forget(99) is held


def test_what_remains_after_forgetting_is_connected() -> None:
    held = recorded(1)
    for child in (2, 3, 4):
        held = held.record(child, f"h{child}", content(child), parent=1)
    held = held.record(5, "h5", content(5), parent=3).record(6, "h6", content(6), parent=5)
    held = held.decide(revision=1, stable=6)
    for number in (5, 1, 3):
        held = held.forget(number)
        roots = [version for version in held.versions.values() if version.parent is None]
        assert len(roots) == 1
        assert roots[0].changes == ()
        for version in held.versions.values():
            if version.parent is not None:
                parent = held.versions[version.parent]
                assert version.changes == compare(parent.content(), version.content())
        assert held.stable is held.versions[6]


class TestDiff:
    def test_is_found_without_looking_at_the_content(self, monkeypatch: pytest.MonkeyPatch) -> None:
        held = recorded(1, 2, 3)
        held = held.record(4, "h4", content(4), parent=1).record(5, "h5", content(5), parent=4)
        monkeypatch.setattr(registry, "compare", None)
        for before in held.versions.values():
            assert held.diff(before, before) == ()
            for after in held.versions.values():
                if before is not after:
                    expected = difference(before.number, after.number)
                    assert held.diff(before, after) == expected

    def test_of_versions_read_before_others_were_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        old = recorded(1, 2, 3, 4).decide(revision=1, stable=4)
        new = old.forget(2).forget(3)
        monkeypatch.setattr(registry, "compare", None)
        assert new.versions[4] is not old.versions[4]
        assert new.diff(old.versions[1], old.versions[4]) == difference(1, 4)

    def test_of_a_stranger_with_itself_looks_at_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stranger = recorded(9).versions[9]
        monkeypatch.setattr(registry, "compare", None)
        assert recorded(1).diff(stranger, stranger) == ()

    def test_with_a_stranger_looks_at_everything(self) -> None:
        held, other = recorded(1, 2), recorded(8, 9)
        assert held.diff(held.versions[1], other.versions[9]) == difference(1, 9)
        namesake = Registry("checkout", "uid-2").record(1, "h7", content(7))
        assert held.diff(namesake.versions[1], held.versions[2]) == difference(7, 2)

    def test_of_two_families_put_together_by_hand(self) -> None:
        both = {**recorded(1, 2).versions, **recorded(8, 9).versions}
        held = Registry("checkout", "uid-1", versions=both)
        assert held.diff(held.versions[2], held.versions[9]) == difference(2, 9)
