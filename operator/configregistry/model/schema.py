"""JSON Schema (2020-12) over the merged object. Never fetches anything: a `$ref` to elsewhere is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import jsonschema_rs

from configregistry.errors import FieldError

_SHOWN: Final = 200


def check(schema: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Raise `FieldError` where `merged` breaks `schema`, or where `schema` is none."""
    try:
        validator = jsonschema_rs.Draft202012Validator(dict(schema), retriever=_refuse)
    except (jsonschema_rs.ValidationError, ValueError, RecursionError) as refusal:
        message = getattr(refusal, "message", str(refusal))
        raise FieldError("spec.schema", None, f"expected a JSON Schema 2020-12: {_brief(message)}") from None
    try:
        error = next(validator.iter_errors(dict(merged)), None)
    except (ValueError, RecursionError) as refusal:
        raise FieldError("spec.data", None, f"cannot be compared with spec.schema: {refusal}") from None
    if error is not None:
        place = "".join(f"[{part!r}]" for part in error.instance_path)
        raise FieldError(f"spec.data{place}", None, f"does not fit spec.schema: {_brief(error.message)}")


def _brief(message: str) -> str:
    """A message that quotes a large value, without the middle of it."""
    return message if len(message) <= 2 * _SHOWN else f"{message[:_SHOWN]} ... {message[-_SHOWN:]}"


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"$ref to {uri!r} is not followed; put the schema inline")
