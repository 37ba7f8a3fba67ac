"""What is said of a spec by itself: refusals as the controller's, warnings that are rare and short."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cluster.standing import REPOSITORY

from configregistry.admission import rules
from configregistry.admission.findings import MAX_ERRORS, MAX_WARNING, MAX_WARNINGS, Findings
from configregistry.admission.quick import is_surely_content
from configregistry.errors import FieldError
from configregistry.model import content, schema
from configregistry.model.spec import Spec, parse_spec
from configregistry.reconcile import EXAMINERS
from configregistry.reconcile.sources import examine_checks
from configregistry.rollout.plan import plan_of

HTTP = {"http": {"url": "http://x/"}}
CHECK = {"name": "up", **HTTP}
STEPS = [{"setWeight": 10}, {"pause": {"duration": "1m"}}]


def of(**spec: Any) -> Findings:
    return rules.findings(json.dumps(spec).encode(), EXAMINERS)


def rollout(**fields: Any) -> Findings:
    return of(data={"a": 1}, rollout=fields)


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"data": {"_a": 1, "ok": 1, "b!": 2}}, ["spec.data['_a']", "spec.data['b!']"]),
        ({"data": {"a": {"b": [2**53]}}}, ["spec.data['a'].b[0]"]),
        ({"data": {"a": "x" * 600_000}}, ["spec.data: '600,008 bytes'"]),
        ({"data": {f"k{number}": 1 for number in range(20_001)}}, ["spec.data: '20001 keys'"]),
        ({"data": {"a": 1}, "schema": {"type": "nothing"}}, ["spec.schema"]),
        ({"data": {"a": 1}, "schema": {"$ref": "http://elsewhere/x"}}, ["spec.schema"]),
        ({"data": {"a": 1}, "schema": {"required": ["b"]}}, ["spec.data"]),
        ({"data": {"a": 1}, "schema": {"properties": {"a": {"type": "string"}}}}, ["spec.data['a']"]),
        ({"rollout": {"steps": [{"setWeight": 10, "pause": {}}]}}, ["spec.rollout.steps[0]"]),
        ({"rollout": {"checks": [{"name": "a"}]}}, ["spec.rollout.checks[0]"]),
        ({"rollout": {"checks": [CHECK, CHECK]}}, ["spec.rollout.checks"]),
        (
            {"rollout": {"checks": [{"name": "a", "http": {"url": "http://{{nobody}}/"}}]}},
            ["spec.rollout.checks[0].http"],
        ),
        (
            {"project": {"configMap": "c"}, "dataFrom": [{"configMapRef": {"name": "c"}}]},
            ["spec.project.configMap"],
        ),
        ({"data": {"_a": 1}, "rollout": {"bake": "soon"}}, ["spec.rollout.bake", "spec.data['_a']"]),
        ({"data": []}, ["spec.data"]),
    ],
)
def test_errors_name_their_fields(spec: dict[str, Any], fields: list[str]) -> None:
    errors = of(**spec).errors
    assert len(errors) == len(fields), errors
    assert all(error.startswith(field) for error, field in zip(errors, fields, strict=True)), errors


def test_what_dataFrom_may_bring_is_not_missed_here() -> None:  # noqa: N802
    source = [{"configMapRef": {"name": "base"}}]
    assert not of(data={"a": 1}, dataFrom=source, schema={"required": ["b"]}).errors
    assert of(data={"a": 1}, dataFrom=source, schema={"type": "nothing"}).errors
    assert of(data={"_a": 1}, dataFrom=source).errors


def test_examiners_of_other_rooms_are_asked_and_all_of_them() -> None:
    def one(spec: Spec) -> None:
        raise FieldError("spec.validators[0].url", None, f"one of {len(spec.data)}")

    def other(_spec: Spec) -> None:
        raise FieldError("spec.hooks[0].url", None, "other")

    found = rules.findings(b'{"data":{"a":1}}', (one, other))
    assert found.errors == ("spec.validators[0].url: one of 1", "spec.hooks[0].url: other")


@pytest.mark.parametrize(
    ("found", "warning"),
    [
        (of(), "spec.data: no keys"),
        (of(data={"a": None}), "spec.data: 'a': the API server drops a key that is null"),
        (of(data={"Time": 1, "time": 2}), "spec.data: 'Time', 'time' differ in case only"),
        (of(data={"a": "3000"}), "spec.data: 'a': a string that reads as a number"),
        (of(data={"a": "true"}), "spec.data: 'a': a string that reads as a number or boolean"),
        (of(data={"db.password": "hunter2"}), "spec.data: 'db.password': looks like a secret"),
        (of(data={"a": "-----BEGIN EC PRIVATE KEY-----"}), "spec.data: 'a': looks like a secret"),
        (of(data={"a": "x" * 500_000}), "spec.data: 500,008 of at most 524,288 bytes"),
        (
            of(dataFrom=[{"configMapRef": {"name": "b"}}, {"configMapRef": {"name": "b"}, "format": "String"}]),
            "spec.dataFrom[1]: ConfigMap 'b' is in [0] already",
        ),
        (rollout(steps=STEPS, bake="1m"), "spec.rollout: steps or bake without checks"),
        (rollout(preset="AllAtOnce"), "spec.rollout: steps or bake without checks"),
        (rollout(onFailure="Pause"), "spec.rollout.onFailure: Pause has no effect without checks"),
        (rollout(checks=[CHECK]), "spec.rollout.checks: without steps and bake"),
        (
            rollout(checks=[{**CHECK, "initialDelay": "11m"}], steps=STEPS, bake="1h"),
            "spec.rollout.checks[0].initialDelay: 11m: the first stage ends in failure before that, 11m after",
        ),
        (
            rollout(checks=[{**CHECK, "initialDelay": "5m"}], steps=STEPS, bake="1m"),
            "spec.rollout.checks[0].initialDelay: 5m: longer than the whole rollout (2m)",
        ),
        (
            rollout(checks=[{**CHECK, "interval": "2m"}], bake="1m"),
            "spec.rollout.checks[0].interval: 2m: longer than the bake (1m)",
        ),
        (
            rollout(checks=[{**CHECK, "interval": "2m"}], steps=STEPS, bake="10m"),
            "spec.rollout.checks[0].interval: 2m: longer than the stage at 10 percent (1m)",
        ),
        (
            rollout(checks=[{"name": "p", "max": 1, "prometheus": {"address": "http://p", "query": "up"}}], bake="1m"),
            "spec.rollout.checks[0].prometheus.query: names neither {{version}} nor {{hash}}",
        ),
        (rollout(checks=[{**CHECK, "noData": "Pass"}], bake="1m"), "spec.rollout.checks: noData is Pass in each"),
        (rollout(checks=[CHECK], bake="1m", onFailure="Pause"), "spec.rollout.onFailure: Pause: a failed candidate"),
        (
            rollout(checks=[CHECK], bake="1m", steps=[{"setWeight": 100}, {"pause": {}}]),
            "spec.rollout.steps: the last pause has no duration",
        ),
    ],
)
def test_warnings_say_what_and_what_to_do(found: Findings, warning: str) -> None:
    assert not found.errors
    (told,) = found.shown().warnings
    assert told.startswith(warning), told
    assert ": " in told[len(warning) :] or ", and" in told, "what to do"
    assert len(told.encode()) <= MAX_WARNING
    assert not told.endswith("..."), "whole"


@pytest.mark.parametrize(
    "spec",
    [
        {
            "data": {
                "version": "1.10",
                "zip": "01234",
                "id": "12345678901234567890",
                "x": "null",
                "e": "1e3",
                "y": "yes",
            }
        },
        {"data": {"a": "3000"}, "schema": {"properties": {"a": {"type": "string"}}}},
        {"data": {"token.ttl": 5, "password.minimum": 8, "secret.name": "db", "password": ""}},
        {"data": {"a": 1}, "rollout": {"policyRef": {"name": "strict"}, "steps": STEPS}},
        {"pinnedVersion": 3},
        {
            "data": {"a": 1},
            "rollout": {"steps": [*STEPS, {"pause": {}}], "bake": "1m", "onFailure": "Pause", "checks": [CHECK]},
        },
    ],
)
def test_what_is_right_is_not_warned_of(spec: dict[str, Any]) -> None:
    assert of(**spec) == Findings()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_good_advice(path: Any) -> None:
    for each in yaml.safe_load_all(path.read_text()):
        if each["kind"] == "ConfigRegistry":
            found = of(**each["spec"])
            unsupported = [error for error in found.errors if "this version makes checks of kind" not in error]
            assert not unsupported
            # An example shows one thing; that it would need checks, or somebody who acts, is said of it rightly.
            shown = ("steps or bake without checks", "onFailure: Pause: a failed candidate")
            assert all(any(each in warning for each in shown) for warning in found.warnings), found.warnings


def test_a_policy_is_known_or_nothing_is_said_of_what_it_may_add() -> None:
    spec = parse_spec(json.dumps({"data": {"a": 1}, "rollout": {"steps": STEPS}}).encode())
    assert rules.judged(spec, effective=spec.rollout).warnings
    checked = parse_spec(json.dumps({"rollout": {"steps": STEPS, "bake": "1m", "checks": [CHECK]}}).encode()).rollout
    assert not rules.judged(spec, effective=checked).warnings


def test_what_is_shown_is_short_clean_and_says_how_much_is_left_out() -> None:
    found = Findings(
        tuple(f"error {number}\n\x1b[31m" for number in range(30)), tuple(f"ü{number}" * 200 for number in range(30))
    ).shown()
    assert len(found.errors) == MAX_ERRORS
    assert found.errors[0] == "error 0??[31m"
    assert found.errors[-1] == "and 11 more errors"
    assert len(found.warnings) == MAX_WARNINGS
    assert all(len(each.encode()) <= MAX_WARNING for each in found.warnings)
    assert sum(len(each.encode()) for each in found.warnings) <= 4096
    assert Findings(("one",)).message() == "one"
    assert Findings(("one", "two")).message() == "2 errors:\n- one\n- two"


KEYS = st.sampled_from(["a", "b.c", "_x", "A", "-", "x" * 254])
VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1.5, 2**53 - 1, 2**53, -(2**60), 1e20, "", "7", "\ud800x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
SCHEMAS = st.sampled_from([None, {}, {"type": "nothing"}, {"required": ["a"]}, {"maxProperties": 1}])
ROLLOUTS = st.sampled_from(
    [
        {},
        {"steps": STEPS, "bake": "1m"},
        {"bake": "soon"},
        {"checks": [CHECK]},
        {"checks": [CHECK, CHECK]},
        {"checks": [{"name": "w", "http": {"url": "ftp://x"}}]},
        {"preset": "Nobody"},
    ]
)


@given(data=st.dictionaries(KEYS, VALUES, max_size=4), wanted=SCHEMAS, out=ROLLOUTS)
@settings(max_examples=200, deadline=None)
def test_it_refuses_what_the_controller_refuses_and_nothing_else(data: Any, wanted: Any, out: Any) -> None:
    raw = json.dumps({"data": data, "schema": wanted, "rollout": out}).encode()
    found = rules.findings(raw)
    first = _controller(raw)
    assert bool(found.errors) == (first is not None), (found, first)
    # What the condition will say is among what the webhook says.
    assert first is None or first in found.errors
    assert found.shown().message() or not found.errors


def _controller(raw: bytes) -> str | None:
    """The steps of reconcile.gather and reconcile.sources for a spec without dataFrom."""
    try:
        spec = parse_spec(raw)
        plan_of(spec.rollout)
        examine_checks(spec.rollout)
        content.build(spec.data)
        if spec.schema is not None:
            schema.check(spec.schema, spec.data)
    except FieldError as error:
        return str(error)
    return None


@given(
    data=st.dictionaries(KEYS, VALUES, max_size=4), filler=st.sampled_from([0, 1, 524_280, 524_281, 524_282, 600_000])
)
@settings(max_examples=200, deadline=None)
def test_a_quick_yes_is_a_yes(data: Any, filler: int) -> None:
    """At the very size, and about every value: nothing that would be refused is taken without being built."""
    whole = {**data, "a": "x" * filler} if filler else data
    try:
        content.build(whole)
    except FieldError:
        assert not is_surely_content(whole)


def test_most_content_is_told_quickly() -> None:
    data = {"a": "x", "b": 5, "c": 0.25, "d": {"max": 3, "of": ["y"]}, "e": None, "f": True}
    assert is_surely_content(data)
    assert is_surely_content({**data, "g": "x" * 524_000})
