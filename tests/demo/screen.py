"""How the demo speaks: coloured on a terminal, plain lines without control characters elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDEST = 120


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}
        # Decided here and not by rich, which FORCE_COLOR and its like would persuade otherwise.
        self.console = Console(force_terminal=self.live, highlight=False, soft_wrap=not self.live)
        if self.live and self.console.width > _WIDEST:
            self.console.width = _WIDEST
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def heading(self, text: str) -> None:
        """Begin an act."""
        self._out("")
        if self.live:
            self.console.rule(f"[bold]{escape(text)}", align="left", style="cyan")
        else:
            self._out(f"== {text} ==  (at {self.elapsed:.1f} s)")

    def say(self, text: str, style: str = "") -> None:
        """Tell something."""
        self._out(text, style)

    def command(self, text: str) -> None:
        """Show a command as a person would type it."""
        self._out(f"$ {text}", "bold")

    def output(self, text: str) -> None:
        """Show what a command printed."""
        for line in text.rstrip().splitlines():
            self._out(f"  {line}", "dim" if self.live else "")

    def changes(self, text: str) -> None:
        """Show a diff or a whole text."""
        for line in text.rstrip().splitlines():
            style = {"+": "green", "-": "red"}.get(line[:1], "")
            self._out(f"  {line}", style)

    def verdict(self, expected: str, met: bool, seen: str) -> None:
        """Tell whether an expectation was met."""
        mark = "ok    " if met else "FAILED"
        self._out(f"  {mark} {expected}{f': {seen}' if seen else ''}", "green" if met else "bold red")

    def table(self, rows: Iterable[tuple[str, str, str, bool]]) -> None:
        """Show the summary."""
        if not self.live:
            for act, expected, seen, met in rows:
                if act:
                    self._out(f"{act}:")
                self._out(f"  {'ok    ' if met else 'FAILED'} {expected}{f': {seen}' if seen else ''}")
            return
        table = Table(show_lines=False, expand=False)
        for name in ("act", "expected", "seen", ""):
            table.add_column(name, overflow="fold")
        for act, expected, seen, met in rows:
            if act and table.row_count:
                table.add_section()
            verdict = "[green]ok" if met else "[bold red]FAILED"
            table.add_row(escape(act), escape(expected), escape(seen), verdict)
        self.console.print(table)

    def _out(self, text: str, style: str = "") -> None:
        try:
            if self.live:
                self.console.print(text, style=style or None, markup=False, soft_wrap=True)
            else:
                print(text, flush=True)
        except OSError:  # a closed pipe (`| head`), a closed terminal
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            # Nobody is listening any more: end in good order, as if the terminal had said so.
            signal.raise_signal(signal.SIGHUP)
