"""The diagram says what the table says, and the generated parts of the documents are found and mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.verify.__main__ import BLOCKS, END, ROOT, Block, check, main

from configregistry.rollout import diagram
from configregistry.rollout.table import TABLE, Event, Phase


def test_every_phase_and_event_is_drawn_or_told() -> None:
    drawn = diagram.mermaid()
    assert all(phase.value in drawn for phase in Phase)
    assert set(diagram.MEANING) == set(Phase)
    assert all(event.value in drawn + diagram.quiet() for event in Event)


def test_every_arrow_is_in_the_table_and_every_change_of_phase_is_an_arrow() -> None:
    groups = {"Candidate": diagram._CANDIDATE, "Out": diagram._OUT}
    phases = {phase.value: (phase,) for phase in Phase}
    drawn = set()
    for line in diagram.mermaid().splitlines():
        source, arrow, rest = line.strip().partition(" --> ")
        if not arrow or source == "[*]":
            continue
        target, _, label = rest.partition(": ")
        for phase in groups.get(source) or phases[source]:
            for event in label.split("<br/>"):
                drawn.add((phase, Event(event), phases[target][0]))
    told = {(phase, event, target) for phase in Phase for event, targets in TABLE[phase].items() for target in targets}
    assert drawn <= told
    quiet = {Event.RETRY, Event.FALLBACK, Event.RETARGET, Event.SUPERSEDE}
    assert {(p, e, t) for p, e, t in told - drawn if e not in quiet} == {
        (Phase.EMPTY, Event.PIN, Phase.STEADY),
        (Phase.STEADY, Event.PIN, Phase.STEADY),
    }


def test_a_generated_part_is_checked_and_mended(tmp_path: Path) -> None:
    block = Block("a.md", "x", lambda: "new\n")
    file = tmp_path / "a.md"
    file.write_text(f"before\n{block.start}\nold\n{END}\nafter\n")
    (difference,) = check(tmp_path, [block], write=False)
    assert "-old" in difference
    assert "+new" in difference
    assert "old" in file.read_text()
    assert check(tmp_path, [block], write=True)
    assert file.read_text() == f"before\n{block.start}\nnew\n{END}\nafter\n"
    assert check(tmp_path, [block], write=False) == []


def test_a_missing_place_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "rollout.md").write_text("nothing generated here\n")
    assert main([], tmp_path) == 1
    assert "expected the lines <!-- generated:" in capsys.readouterr().err


def test_the_documents_are_up_to_date() -> None:
    assert check(ROOT, BLOCKS, write=False) == []
