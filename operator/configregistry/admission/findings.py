"""What is said of an object: refusals and warnings, short enough to be shown by kubectl.

It exists so that the webhook and `lint` say the same in the same form. It must never hold a value that may be
secret: sentences name fields and keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

MAX_WARNINGS: Final = 10
MAX_WARNING: Final = 256
"""Bytes of one: what is longer, or more than 4 KiB in all, the API server cuts off."""
MAX_ERRORS: Final = 20
MAX_ERROR: Final = 1024

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Findings(NamedTuple):
    """`errors`: why it is refused, each with its field. `warnings`: legal, but likely wrong, and what to do."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def plus(self, errors: Iterable[str] = (), warnings: Iterable[str] = ()) -> Findings:
        """These and others."""
        return Findings((*self.errors, *errors), (*self.warnings, *warnings))

    def shown(self) -> Findings:
        """The same as a terminal can take them: each once, cut, and not too many."""
        return Findings(
            _few(self.errors, MAX_ERRORS, MAX_ERROR, "errors"),
            _few(self.warnings, MAX_WARNINGS, MAX_WARNING, "warnings"),
        )

    def message(self) -> str:
        """The errors as one text: a line, or a list of lines."""
        if len(self.errors) == 1:
            return self.errors[0]
        return f"{len(self.errors)} errors:\n" + "\n".join(f"- {error}" for error in self.errors)


def _few(sentences: Iterable[str], many: int, length: int, noun: str) -> tuple[str, ...]:
    told = [_cut(_UNPRINTABLE.sub("?", sentence), length) for sentence in dict.fromkeys(sentences)]
    if len(told) <= many:
        return tuple(told)
    return (*told[: many - 1], f"and {len(told) - many + 1} more {noun}")


def _cut(text: str, length: int) -> str:
    raw = text.encode()
    return text if len(raw) <= length else raw[: length - 3].decode(errors="ignore") + "..."
