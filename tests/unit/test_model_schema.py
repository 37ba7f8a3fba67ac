"""A schema that may take for ever is compared in a process that can be ended."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.schemas import doubling

from configregistry.errors import FieldError
from configregistry.model import schema

REFERS: dict[str, Any] = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}


@pytest.mark.parametrize(
    ("asked", "costly"),
    [
        ({"type": "object", "required": ["a"]}, False),
        ({"properties": {"a": {"pattern": "^(a+)+$"}}}, False),
        (REFERS, True),
        ({"allOf": [{"$dynamicRef": "#x"}]}, True),
        ({"anyOf": [{}], "unevaluatedProperties": False}, True),
        ({"items": {"unevaluatedItems": False}}, True),
    ],
)
def test_which_may_take_for_ever(asked: dict[str, Any], costly: bool) -> None:
    assert schema.is_costly(asked) == costly


async def test_apart_it_says_the_same() -> None:
    await schema.check_apart(REFERS, {"a": 1})
    for asked, data in ((REFERS, {"a": "x"}), ({"$ref": "#/nowhere"}, {}), ({"$ref": "http://127.0.0.1:9/x"}, {})):
        with pytest.raises(FieldError) as here:
            schema.check(asked, data)
        with pytest.raises(FieldError) as there:
            await schema.check_apart(asked, data)
        assert (there.value.field, there.value.expected) == (here.value.field, here.value.expected)


async def test_it_is_ended_and_holds_nobody_up_meanwhile() -> None:
    worst = 0.0

    async def others() -> None:
        nonlocal worst
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - before)

    looking = asyncio.create_task(others())
    with pytest.raises(FieldError, match=r"spec\.schema: expected one that is compared with the data in 2 s"):
        await schema.check_apart(doubling(60), {}, within=2.0)
    looking.cancel()
    assert worst < 1.0, "the loop went on all the time"
