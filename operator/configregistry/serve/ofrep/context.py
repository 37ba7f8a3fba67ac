"""Who asks, as OFREP has it: `{"context": {"targetingKey": …, "region": …}}`.

A body without a context is one of nobody in particular: SDKs send that when the application gave
none. Members that no match rule names are not looked at, whatever they are.

It must never say more of a consumer than the consumer did.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.model.canonical import canonical
from configregistry.serve.params import MAX_TARGET
from configregistry.serve.responses import Problem

TARGETING_KEY: Final = "targetingKey"


class Context(NamedTuple):
    """A `view.Consumer`."""

    target: str | None
    members: dict[str, Any]

    def get(self, name: str, /) -> str | None:
        """Give an attribute as text: of a number or a boolean its canonical JSON; of anything else there is none."""
        value = self.members.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            try:
                return canonical(value).decode()
            except ValueError:  # an integer beyond 2^53: other readers of JSON would not agree on it
                return None
        return None


class _Body(msgspec.Struct):
    context: Any = msgspec.UNSET


_decode: Final = msgspec.json.Decoder(_Body).decode
_NOBODY: Final = Context(None, {})


def read_context(body: bytes) -> Context:
    """Give who asks. Raises `Problem` ParseError or InvalidContext (400)."""
    try:
        context = _decode(body).context
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _bad("ParseError", "body", f"expected a JSON object with a context; {_why(error)}") from None
    if context is msgspec.UNSET:
        return _NOBODY
    if not isinstance(context, dict):
        raise _bad("InvalidContext", "context", f"expected an object, not {_text(context)}")
    target = context.get(TARGETING_KEY)
    if target is not None:
        field = f"context.{TARGETING_KEY}"
        if not isinstance(target, str):
            raise _bad("InvalidContext", field, f"expected a string, not {_text(target)}")
        if len(target) > MAX_TARGET:
            raise _bad("InvalidContext", field, f"expected at most {MAX_TARGET} characters, not {len(target)}")
    return Context(target, context)


def _bad(name: str, field: str, detail: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, name, f"{field}: {detail}", field=field)


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()[:80]
