"""JSON Schema (2020-12) over the merged object. Never fetches anything: a `$ref` to elsewhere is refused.

A small schema can be made that takes hours: each level of `allOf: [$ref next, $ref next]` doubles the time, and
the library holds the interpreter's lock meanwhile, so that no other thread runs either. What could be such a one
(`is_costly`) must be compared in a process of its own, which can be ended: `check_apart`.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import jsonschema_rs
import msgspec

from configregistry.errors import FieldError

_SHOWN: Final = 200
APART_WITHIN: Final = 10.0
"""Seconds for a comparison in a process of its own, the start of that process included."""
_COSTLY: Final = re.compile(rb'"(?:\$(?:dynamicRef|recursiveRef|ref)|unevaluated(?:Properties|Items))"')
"""Keywords without which the time grows only with schema times data."""


def is_costly(schema: Mapping[str, Any]) -> bool:
    """Whether nobody can say how long it takes."""
    return _COSTLY.search(msgspec.json.encode(schema)) is not None


def compiled(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Make it ready, which never takes long. Raises `FieldError` where it is none."""
    try:
        return jsonschema_rs.Draft202012Validator(dict(schema), retriever=_refuse)
    except (jsonschema_rs.ValidationError, ValueError, RecursionError) as refusal:
        message = getattr(refusal, "message", str(refusal))
        raise FieldError("spec.schema", None, f"expected a JSON Schema 2020-12: {_brief(message)}") from None


def check(schema: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Raise `FieldError` where `merged` breaks `schema`, or where `schema` is none."""
    validator = compiled(schema)
    try:
        error = next(validator.iter_errors(dict(merged)), None)
    except (ValueError, RecursionError) as refusal:
        raise FieldError("spec.data", None, f"cannot be compared with spec.schema: {refusal}") from None
    if error is not None:
        place = "".join(f"[{part!r}]" for part in error.instance_path)
        raise FieldError(f"spec.data{place}", None, f"does not fit spec.schema: {_brief(error.message)}")


async def check_apart(schema: Mapping[str, Any], merged: Mapping[str, Any], within: float = APART_WITHIN) -> None:
    """`check`, in a process that is ended when it takes longer than so many seconds. Raises `OSError` without one."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from {__name__} import answer; answer()",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # However this process found itself.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        async with asyncio.timeout(within):
            told, _ = await child.communicate(msgspec.json.encode((schema, merged)))
    except TimeoutError:
        raise FieldError("spec.schema", None, f"expected one that is compared with the data in {within:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    if not told:
        raise OSError(f"the process for spec.schema ended with {child.returncode}")
    refused = msgspec.json.decode(told, type=tuple[str, str] | None)
    if refused is not None:
        raise FieldError(refused[0], None, refused[1])


def answer() -> None:
    """The other process: schema and data come on its standard input, what is wrong goes to its output."""
    refused = None
    try:
        check(*msgspec.json.decode(sys.stdin.buffer.read()))
    except FieldError as error:
        refused = (error.field, error.expected)
    sys.stdout.buffer.write(msgspec.json.encode(refused))


def _brief(message: str) -> str:
    """A message that quotes a large value, without the middle of it."""
    return message if len(message) <= 2 * _SHOWN else f"{message[:_SHOWN]} ... {message[-_SHOWN:]}"


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"$ref to {uri!r} is not followed; put the schema inline")
