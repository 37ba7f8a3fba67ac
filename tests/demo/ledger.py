"""What was expected and what was seen: the demo's verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.demo.screen import Screen


@dataclass(frozen=True)
class Entry:
    """One expectation."""

    act: str
    expected: str
    met: bool
    seen: str


@dataclass
class Ledger:
    """All expectations, told as they are decided."""

    screen: Screen
    act: str = ""
    entries: list[Entry] = field(default_factory=list)

    def expect(self, expected: str, met: bool, seen: str = "") -> None:
        """Note an expectation and whether it was met."""
        self.entries.append(Entry(self.act, expected, met, seen))
        self.screen.verdict(expected, met, seen)

    def fail(self, expected: str, seen: str) -> None:
        """Note one that was not."""
        self.expect(expected, False, seen)

    @property
    def failed(self) -> list[Entry]:
        """Those that were not met."""
        return [entry for entry in self.entries if not entry.met]

    def rows(self) -> list[tuple[str, str, str, bool]]:
        """Give the summary: act, what was expected, what was seen, whether that is well."""
        rows, last = [], ""
        for entry in self.entries:
            rows.append((entry.act if entry.act != last else "", entry.expected, entry.seen, entry.met))
            last = entry.act
        return rows
