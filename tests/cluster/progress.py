"""Show how far a long Go build has come, from what `go build -v` prints.

The first build takes minutes; without a sign of life people stop it. On a
terminal one line is redrawn; elsewhere (CI, a pipe) plain lines appear seldom
enough not to bury the log.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

_TERMINAL_INTERVAL = 1.0
_PLAIN_INTERVAL = 15.0
_KEPT_LINES = 40


class BuildProgress:
    """A context in which the lines of one build are counted, kept and shown."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """Describe what is being built, in a word or two."""
        self._what = what
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began = time.monotonic()
        self._compiled = 0
        self._downloaded = 0
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self.tail: deque[str] = deque(maxlen=_KEPT_LINES)

    def __enter__(self) -> Self:
        """Begin to show it."""
        self._show()
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state and leave the terminal on a line of its own."""
        self._ended.set()
        self._ticker.join()
        self._show()
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def read(self, lines: Iterable[str]) -> None:
        """Take in what the build prints, until it prints no more."""
        for line in lines:
            text = line.rstrip("\n")
            if text.startswith("go: downloading "):
                self._downloaded += 1
            elif text and " " not in text:  # -v prints bare import paths
                self._compiled += 1
            else:
                self.tail.append(text)

    def _tick(self) -> None:
        interval = _TERMINAL_INTERVAL if self._terminal else _PLAIN_INTERVAL
        while not self._ended.wait(interval):
            self._show()

    def _show(self) -> None:
        parts = [f"building {self._what}: {time.monotonic() - self._began:.0f} s"]
        if self._downloaded:
            parts.append(f"{self._downloaded} modules downloaded")
        parts.append(f"{self._compiled} packages compiled")
        line = ", ".join(parts)
        self._stream.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._stream.flush()
