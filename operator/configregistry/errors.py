"""The errors that a person may read, each with an exit code. It must never import another part of the program."""

from __future__ import annotations

from typing import ClassVar

_SHOWN = 80


class ConfigRegistryError(Exception):
    """Base of all errors that end the program or refuse an input.

    `exit_code` is what the process ends with when nobody handles it: 1 refused or failed,
    2 wrong usage, 3 timeout (the command line's contract).
    """

    exit_code: ClassVar[int] = 1


class FieldError(ConfigRegistryError):
    """A bad input: which field, what stood there (None: not worth showing), what was expected.

    The text is the same wherever it shows (condition, event, HTTP problem, command line).
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field}: {expected}" if value is None else f"{field}: {_shown(value)}: {expected}")


class UsageError(ConfigRegistryError):
    """The program was called wrongly, or its surroundings are not set up."""

    exit_code = 2


def _shown(value: object) -> str:
    """A value as a message shows it: quoted, and cut where a whole one would fill the screen."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
