"""The OpenAPI document: valid, of exactly the routes that there are, with examples that fit their schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from tests.serve_fakes import World, body

from configregistry.serve.openapi import document

Json = dict[str, Any]
INTERNAL = "/internal/"
"""What replicas and controllers say to each other is no part of the API."""


def shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_it_tells_of_every_route_and_of_no_other() -> None:
    served = {(route.method, shape(route.pattern)) for route in World().service.routes.all}
    told = {(method, shape(path)) for method, path, _operation in operations()}
    assert {each for each in served if not each[1].startswith(INTERNAL)} == told


def test_it_is_given() -> None:
    answer = World().get("/openapi.json")
    assert answer.status == 200
    assert body(answer) == document()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_what_it_refers_to_is_there_and_used() -> None:
    whole = document()
    used = set(references(whole))
    for reference in used:
        at: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    there = {
        f"#/components/{kind}/{name}"
        for kind, names in whole["components"].items()
        for name in names
        if kind != "securitySchemes"
    }
    assert there == used


def examples() -> Iterator[Any]:
    for method, path, operation in operations():
        contents = {f"{code}": answer.get("content", {}) for code, answer in operation["responses"].items()}
        contents["request"] = operation.get("requestBody", {}).get("content", {})
        for what, content in contents.items():
            if "application/json" in content and "example" in content["application/json"]:
                yield pytest.param(content["application/json"], id=f"{method} {path} {what}")


@pytest.mark.parametrize("content", list(examples()))
def test_examples_fit(content: Json) -> None:
    schema = {**content["schema"], "components": document()["components"]}
    jsonschema_rs.validate(schema, content["example"])


def test_every_operation_says_what_and_how() -> None:
    names = [operation["operationId"] for _method, _path, operation in operations()]
    assert len(set(names)) == len(names)
    for method, path, operation in operations():
        assert operation["summary"], path
        places = set(re.findall(r"\{([^}]*)\}", path))
        given = {each["$ref"].rpartition("/")[2] for each in operation.get("parameters", []) if "$ref" in each}
        assert places <= given, (method, path)
