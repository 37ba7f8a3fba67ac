"""What is counted goes on from what was known, when a registry's status is that of a backup."""

from __future__ import annotations

from msgspec.structs import replace

from configregistry.kube.objects import Meta, RegistryObject
from configregistry.model.status import Stable, Status, encode_status
from configregistry.reconcile.floors import Floors

KEY = ("shop", "checkout")
KNOWN = Status(uid="u", revision=7, stable=Stable(3, "c" * 16), last_version=3)
RESTORED = Status(uid="u", revision=4, stable=Stable(2, "b" * 16), last_version=2)


def floors(*known: Status) -> Floors:
    kept = Floors()
    for status in known:
        kept.keep([RegistryObject(Meta(KEY[1], KEY[0], "u", "9"), b"{}", encode_status(status))])
    return kept


def test_a_decision_of_a_backup_holds_under_a_revision_that_nobody_has_met() -> None:
    assert floors(KNOWN).raised(KEY, "u", RESTORED) == replace(RESTORED, revision=8, last_version=3)


def test_the_greatest_that_was_known_counts() -> None:
    assert floors(KNOWN, RESTORED).raised(KEY, "u", RESTORED).revision == 8
    assert floors(RESTORED, KNOWN).raised(KEY, "u", RESTORED).last_version == 3


def test_what_did_not_go_back_stays_as_it_is() -> None:
    later = replace(KNOWN, revision=8)
    for status in (KNOWN, later):
        assert floors(KNOWN).raised(KEY, "u", status) is status
    assert Floors().raised(KEY, "u", RESTORED) is RESTORED
    assert floors(KNOWN).raised(KEY, "another", RESTORED) is RESTORED


def test_the_same_numbers_for_other_content_are_another_decision() -> None:
    other = replace(KNOWN, stable=Stable(3, "d" * 16))
    assert floors(KNOWN).raised(KEY, "u", other).revision == 8


def test_a_status_that_cannot_be_read_is_not_known() -> None:
    kept = Floors()
    kept.keep([RegistryObject(Meta(KEY[1], KEY[0], "u", "9"), b"{}", b"{")])
    assert kept.raised(KEY, "u", RESTORED) is RESTORED
