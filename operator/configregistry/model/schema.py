"""JSON Schema (2020-12) over the merged object. Never fetches anything: a `$ref` to elsewhere is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import jsonschema_rs

from configregistry.errors import FieldError


def check(schema: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Raise `FieldError` where `merged` breaks `schema`, or where `schema` is none."""
    try:
        validator = jsonschema_rs.Draft202012Validator(dict(schema), retriever=_refuse)
    except (jsonschema_rs.ValidationError, ValueError, RecursionError) as refusal:
        message = getattr(refusal, "message", str(refusal))
        raise FieldError("spec.schema", None, f"expected a JSON Schema 2020-12: {message}") from None
    for error in validator.iter_errors(dict(merged)):
        place = "".join(f"[{part!r}]" for part in error.instance_path)
        raise FieldError(f"spec.data{place}", None, f"does not fit spec.schema: {error.message}")


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"$ref to {uri!r} is not followed; put the schema inline")
