"""Specs, schemas, durations and error texts: what is read, and how it is told when it cannot be."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configregistry.errors import ConfigRegistryError, FieldError, UsageError
from configregistry.model import schema
from configregistry.model.conditions import MAX_MESSAGE, Condition, cut
from configregistry.model.durations import format_duration, parse_duration
from configregistry.model.spec import (
    ConsumersCheck,
    DataFrom,
    MatchRule,
    NameRef,
    Pause,
    RolloutSpec,
    Spec,
    Step,
    encode,
    parse_spec,
)
from configregistry.model.status import (
    Canary,
    CommandRecord,
    Outcome,
    Paused,
    Previous,
    Rejected,
    Stable,
    Status,
    encode_status,
    parse_status,
)

# --- durations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("0s", 0), ("1h1m1s1ms", 3661.001), ("90m", 5400),
     ("1m500ms", 60.5), ("720h", 2_592_000), ("007s", 7)],
)  # fmt: skip
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "5", "s", "1.5s", "-1s", "1s ", "1S", "1d", "30s5m", "1s1s", "1ms1s", "1 s", "\u0663s", "1s\n",
             "9999999999s"],
)  # fmt: skip
def test_a_duration_that_is_refused(text: str) -> None:
    with pytest.raises(FieldError) as raised:
        parse_duration(text, "spec.rollout.bake")
    assert str(raised.value) == f"spec.rollout.bake: {text!r}: expected a duration such as 500ms, 30s, 5m or 1h30m"


@given(st.integers(0, 10**12))
@example(59_999)
@example(3_600_000)
def test_a_duration_survives_being_written(millis: int) -> None:
    text = format_duration(millis / 1000)
    assert round(parse_duration(text) * 1000) == millis
    assert format_duration(parse_duration(text)) == text


@given(st.floats(-1e6, 1e9))
def test_a_measured_time_is_kept_to_the_millisecond(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(max(0.0, seconds), abs=0.000_51)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (-5, "0s"), (0.0004, "0s"), (12, "12s"), (5400, "1h30m")])
def test_how_a_duration_is_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


# --- specs -------------------------------------------------------------------------------------------------------


def test_an_empty_spec_has_the_defaults_of_the_documents() -> None:
    spec = parse_spec(b"{}")
    assert spec == Spec()
    rollout = spec.rollout
    assert (rollout.on_failure, rollout.progress_deadline, rollout.paused, rollout.seed) == (
        None,
        None,
        False,
        "",
    )
    assert (rollout.preset, rollout.steps, rollout.bake) == (None, (), None)
    assert (spec.pinned_version, spec.revision_history_limit) == (None, 10)
    one = parse_spec(b'{"rollout": {"checks": [{"name": "c", "consumers": {}}]}}').rollout.checks[0]
    assert (one.interval, one.initial_delay, one.failure_limit, one.consecutive_error_limit, one.no_data) == (
        "10s", "0s", 0, 4, "Wait",
    )  # fmt: skip
    assert one.consumers == ConsumersCheck(3, 2)


def test_a_whole_spec() -> None:
    raw = b"""{"data": {"a": {"b": null}}, "dataFrom": [{"configMapRef": {"name": "base", "optional": true}}],
      "fallback": {"name": "defaults"}, "pinnedVersion": null, "unknown": 1,
      "rollout": {"steps": [{"setWeight": 5}, {"pause": {}}, {"pause": {"duration": "2m"}}],
                  "match": [{"attribute": "region", "values": ["eu"]}]}}"""
    spec = parse_spec(raw)
    assert spec.data == {"a": {"b": None}}
    assert (spec.data_from[0].config_map_ref.optional, spec.data_from[0].format) == (True, "Auto")
    assert spec.fallback == NameRef("defaults")
    assert spec.rollout.steps == (Step(5), Step(pause=Pause()), Step(pause=Pause("2m")))
    assert spec.rollout.match == (MatchRule("region", ("eu",)),)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"[]", "spec: Expected `object`, got `array`"),
        (b"{", "spec: not readable as JSON: "),
        (b'{"data": {"a": "\xff"}}', "spec: not readable as JSON: "),
        (b'{"data": {"a": ' + b"[" * 9000 + b"]" * 9000 + b"}}", "spec: not readable as JSON: "),
        (b'{"data": 5}', "spec.data: Expected `object`, got `int`"),
        (b'{"dataFrom": [{"configMapRef": {}}]}', "spec.dataFrom[0].configMapRef: Object missing required field"),
        (b'{"dataFrom": [{"configMapRef": {"name": "a"}, "format": "Yaml"}]}', "spec.dataFrom[0].format: Invalid enum"),
        (b'{"rollout": {"steps": [{"setWeight": "5"}]}}', "spec.rollout.steps[0].setWeight: Expected `int | null`"),
        (b'{"rollout": {"checks": [{}]}}', "spec.rollout.checks[0]: Object missing required field `name`"),
        (b'{"rollout": {"onFailure": "Explode"}}', "spec.rollout.onFailure: Invalid enum value 'Explode'"),
        (b'{"pinnedVersion": 1.5}', "spec.pinnedVersion: Expected `int | null`, got `float`"),
        (b'{"data": {"a": 1e999}}', "spec.data[...]: Number out of range"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_the_field(raw: bytes, text: str) -> None:
    with pytest.raises(FieldError) as raised:
        parse_spec(raw)
    assert str(raised.value).startswith(text)


def test_encoding_is_equal_for_equal_parts_and_leaves_out_defaults() -> None:
    bare, filled = (
        b'{"configMapRef": {"name": "a"}}',
        b'{"prefix": "", "format": "Auto", "configMapRef": {"name": "a"}}',
    )
    one, other = (parse_spec(b'{"dataFrom": [' + raw + b"]}").data_from for raw in (bare, filled))
    assert encode(one) == encode(other) == b'[{"configMapRef":{"name":"a"}}]'
    assert encode(RolloutSpec()) == b"{}"
    assert encode(DataFrom(one[0].config_map_ref, prefix="p")) == b'{"configMapRef":{"name":"a"},"prefix":"p"}'
    assert encode((Step(0), Step(pause=Pause()))) == b'[{"setWeight":0},{"pause":{}}]'


# --- schemas -----------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "required": ["timeout.ms"],
    "properties": {"timeout.ms": {"type": "integer", "minimum": 100}, "hosts": {"items": {"type": "string"}}},
}


def told(spec_schema: dict[str, Any], merged: dict[str, Any]) -> str:
    with pytest.raises(FieldError) as raised:
        schema.check(spec_schema, merged)
    return str(raised.value)


def test_content_that_fits() -> None:
    schema.check(SCHEMA, {"timeout.ms": 100, "hosts": ["a"]})
    schema.check({}, {"anything": [1]})


@pytest.mark.parametrize(
    ("merged", "text"),
    [
        ({}, 'spec.data: does not fit spec.schema: "timeout.ms" is a required property'),
        ({"timeout.ms": 1}, "spec.data['timeout.ms']: does not fit spec.schema: 1 is less than the minimum of 100"),
        (
            {"timeout.ms": 100, "hosts": ["a", 5]},
            "spec.data['hosts'][1]: does not fit spec.schema: 5 is not of type \"string\"",
        ),
    ],
)
def test_content_that_does_not_fit_is_told_with_its_path(merged: dict[str, Any], text: str) -> None:
    assert told(SCHEMA, merged) == text


@pytest.mark.parametrize(
    "bad",
    [{"type": "nope"}, {"properties": {"a": {"pattern": "("}}}, {"required": "a"}, {"minimum": "x"},
     {"properties": {"a": {"multipleOf": 0}}}],
)  # fmt: skip
def test_a_bad_schema(bad: dict[str, Any]) -> None:
    assert told(bad, {"a": 1}).startswith("spec.schema: expected a JSON Schema 2020-12: ")


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1/x", "https://json.schemastore.org/package", "file:///etc/hostname"]
)
def test_a_schema_is_never_fetched(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"somebody connects: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    text = told({"properties": {"a": {"$ref": uri}}}, {"a": 1})
    assert text.startswith("spec.schema: ")
    assert "is not followed; put the schema inline" in text


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"$defs": {"n": {"type": "object", "additionalProperties": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    schema.check(tree, {"a": {"b": {}}})
    assert told(tree, {"a": {"b": 1}}).startswith("spec.data['a']['b']: ")
    schema.check({"$ref": "#"}, {"a": 1})


def test_what_is_too_deep_for_the_library_is_refused_and_not_a_crash() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    assert told({"properties": {"a": {"const": 1}}}, {"a": value}).startswith("spec.data: cannot be compared")
    assert told({"properties": {"a": {"const": value}}}, {"a": 1}).startswith("spec.schema: expected a JSON Schema")


def test_a_large_value_is_not_quoted_whole() -> None:
    text = told({"properties": {"a": {"type": "integer"}}}, {"a": "x" * 100_000})
    assert len(text) < 600
    assert text.endswith('x" is not of type "integer"')


# --- errors, status ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FieldError("spec.a", None, "expected b"), "spec.a: expected b"),
        (FieldError("spec.a", "x", "expected b"), "spec.a: 'x': expected b"),
        (FieldError("spec.a", "", "expected b"), "spec.a: '': expected b"),
        (FieldError("spec.a", 0, "expected b"), "spec.a: 0: expected b"),
        (FieldError("spec.a", "y" * 200, "expected b"), "spec.a: '" + "y" * 79 + "...: expected b"),
    ],
)
def test_the_text_of_an_error(error: FieldError, text: str) -> None:
    assert str(error) == text
    assert isinstance(error, ConfigRegistryError)
    assert (error.exit_code, UsageError.exit_code) == (1, 2)


def test_cut() -> None:
    assert cut("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE
    assert cut("x" * (MAX_MESSAGE + 1)) == "x" * (MAX_MESSAGE - 3) + "..."
    assert cut("abcdef", 5) == "ab..."


def test_a_status_survives_the_wire() -> None:
    status = Status(
        uid="u",
        observed_generation=4,
        stable=Stable(7, "9d3c1a2b4e5f6071", "2026-01-05T09:00:00Z", 42),
        previous=Previous(5, "h"),
        canary=Canary(8, "h", 50, match=(MatchRule("region", ("eu",)),), paused=Paused("Command", "t")),
        revision=31,
        fallback=NameRef("defaults"),
        rejected=(Rejected(6, "h", "Aborted"),),
        rejected_hashes=("h",),
        last_outcome=Outcome(7, "Completed", "System"),
        commands={"promote-full": CommandRecord("t", "Done")},
        conditions=(Condition("Ready", "True", "RolloutComplete"),),
    )
    raw = encode_status(status)
    assert parse_status(raw) == status
    assert b'"observedGeneration":4' in raw
    assert b'"promote-full"' in raw
    assert parse_status(b"{}") == Status()


def test_a_status_holds_no_null() -> None:
    """The API server refuses one where an object may stand."""
    assert b"null" not in encode_status(Status(canary=Canary(8, "h")))
    assert b"null" not in encode_status(Status())


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b'{"canary": 5}', b'{"stable": {"version": "x"}}'])
def test_an_unreadable_status_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_status(raw)
