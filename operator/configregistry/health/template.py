"""`{{name}}` in queries and URLs, so that one spec asks about whichever version is the candidate.

A value goes in encoded for its surroundings, so that no value can change what is asked. It must
never guess: an unknown name, or braces that close nothing, are a `FieldError` and not left as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from configregistry.errors import FieldError
from configregistry.health.question import Subject

_VALUES: Final[dict[str, Callable[[Subject], str]]] = {
    "namespace": lambda subject: subject.namespace,
    "registry": lambda subject: subject.registry,
    "version": lambda subject: str(subject.version),
    "hash": lambda subject: subject.hash,
    "stableVersion": lambda subject: str(subject.stable_version or ""),
}

NAMES: Final = tuple(_VALUES)
"""The names that may stand between the braces."""

_PLACE: Final = re.compile(r"\{\{(?:\s*(\w+)\s*\}\})?")
"""Two opening braces, with what should follow them: group 1 is missing where it does not."""

_UNSAFE_IN_STRING: Final = re.compile(r"[\x00-\x1f\x7f\"'`\\]")


def render_url(text: str, subject: Subject, field: str) -> str:
    """A URL with its values percent-encoded whole, slashes too: each stays one part."""
    return _render(text, subject, field, lambda value: quote(value, safe=""))


def render_promql(text: str, subject: Subject, field: str) -> str:
    """A query with its values escaped for a string literal in double or single quotes."""
    return _render(text, subject, field, _escaped)


def _render(text: str, subject: Subject, field: str, encode: Callable[[str], str]) -> str:
    def value(place: re.Match[str]) -> str:
        name = place[1]
        if name not in _VALUES:
            shown = text[place.start() : place.start() + 40] if name is None else name
            raise FieldError(field, shown, f"expected one of {', '.join(NAMES)} in double braces")
        return encode(_VALUES[name](subject))

    return _PLACE.sub(value, text)


def _escaped(value: str) -> str:
    # \xNN, and not \" or \': those are each an error in a literal of the other quotes.
    return _UNSAFE_IN_STRING.sub(lambda unsafe: f"\\x{ord(unsafe[0]):02x}", value)
