"""What a request says beside its path: who asks, and which version it wants to see.

Everything unknown, repeated or unreadable is refused with the parameter's name: a misspelt
`?verison=` that silently gave another version would be worse than an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal
from urllib.parse import unquote_plus

from configregistry.serve.responses import (
    ATTRIBUTE_HEADER,
    TARGET_HEADER,
    Request,
    bad_parameter,
)

Selector = Literal["stable", "canary"] | int
"""An explicit `?version=`."""

ATTRIBUTE: Final = "attr."
MAX_TARGET: Final = 1024
"""Characters of a target or of an attribute's value: it names a workload, it carries nothing."""
_MAX_NUMBER: Final = 2**31


class Params:
    """The query of one request, and the headers that say the same; the query wins."""

    __slots__ = ("_query", "_repeated", "_request")

    def __init__(self, request: Request, *, repeated: Collection[str] = ()) -> None:
        self._request = request
        self._repeated: dict[str, list[str]] = {name: [] for name in repeated}
        self._query: dict[str, str] = _parse(request.query, self._repeated) if request.query else {}

    def allow(self, names: Collection[str]) -> None:
        """Refuse every parameter but these, `target` and `attr.NAME`."""
        for name, value in self._query.items():
            if name == "target" or (name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE)):
                if len(value) > MAX_TARGET:
                    raise bad_parameter(name, f"expected at most {MAX_TARGET} characters")
            elif name not in names:
                expected = ", ".join(["target", "attr.NAME", *sorted(names)])
                raise bad_parameter(name, f"unknown parameter; expected {expected}")

    @property
    def target(self) -> str | None:
        """Who asks: a workload identity."""
        if self._query and (target := self._query.get("target")) is not None:
            return target
        return self._request.header(TARGET_HEADER)

    def get(self, name: str, /) -> str | None:
        """Give an attribute of who asks. Header names know no case, so there it is not compared."""
        value = self._query.get(ATTRIBUTE + name) if self._query else None
        return self._request.header(ATTRIBUTE_HEADER + name.lower()) if value is None else value

    @property
    def version(self) -> Selector | None:
        """The version that is asked for explicitly."""
        text = self._query.get("version")
        return None if text is None else read_selector(text)

    def text(self, name: str, longest: int) -> str | None:
        """Give a parameter as it stands, of at most so many characters."""
        text = self._query.get(name)
        if text is not None and len(text) > longest:
            raise bad_parameter(name, f"expected at most {longest} characters")
        return text

    def every(self, name: str) -> list[str]:
        """Give all values of a parameter that may be repeated, in order."""
        return self._repeated[name]

    def number(self, name: str, default: int, highest: int) -> int:
        """Give a whole number from 1 on."""
        text = self._query.get(name)
        if text is None:
            return default
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(highest)) else 0
        if not 0 < number <= highest:
            raise bad_parameter(name, f"expected a whole number from 1 to {highest}")
        return number

    def flag(self, name: str) -> bool:
        """Give a parameter that is either there or not; `=false` and `=0` are not."""
        text = self._query.get(name)
        if text is None or text in ("false", "0"):
            return False
        if text in ("", "true", "1"):
            return True
        raise bad_parameter(name, "expected no value, true or false")


def read_selector(text: str) -> Selector:
    """Read which version is meant. Raises `Problem`."""
    if text in ("stable", "canary"):
        return "stable" if text == "stable" else "canary"
    if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_NUMBER)):
        number = int(text)
        if 0 < number < _MAX_NUMBER:
            return number
    raise bad_parameter("version", "expected stable, canary or a version's number")


def _parse(query: str, repeated: Mapping[str, list[str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in query.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        try:
            name, value = _decode(name), _decode(value)
        except UnicodeDecodeError:
            raise bad_parameter(name, "expected percent-encoded UTF-8") from None
        if name in repeated:
            repeated[name].append(value)
            continue
        if name in values:
            raise bad_parameter(name, "given more than once")
        values[name] = value
    return values


def _decode(text: str) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text
