"""What the CRD's file of RolloutPolicy and its document promise, as far as no API server is needed."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml
from tests.unit.test_crd_file import SCHEMA as REGISTRY
from tests.unit.test_crd_file import kind, limits, walk

from configregistry.model import names, policy, spec
from configregistry.rollout.plan import PRESETS, plan_of
from configregistry.rollout.policy import examine

ROOT: Final = Path(__file__).parents[2]
CRD_FILE: Final = ROOT / "crds/rolloutpolicies.yaml"
DOCUMENT: Final = ROOT / "docs/spec/rolloutpolicy.md"
EXAMPLES: Final = sorted((ROOT / "docs/examples").glob("policy*.yaml"))
CRD: Final[dict[str, Any]] = yaml.safe_load(CRD_FILE.read_text())
(VERSION,) = CRD["spec"]["versions"]
SCHEMA: Final[dict[str, Any]] = VERSION["schema"]["openAPIV3Schema"]
EVERYTHING: Final = dict(walk(SCHEMA, ""))
ELSEWHERE: Final = re.compile(r"\.(steps|checks)\[\]")
"""What the document of ConfigRegistry tells."""
FIELDS: Final = {
    path: schema
    for path, schema in EVERYTHING.items()
    if path and not path.endswith("[]") and not ELSEWHERE.search(path)
}
SPEC: Final[dict[str, Any]] = SCHEMA["properties"]["spec"]["properties"]
DEFAULTS: Final[dict[str, Any]] = SPEC["defaults"]["properties"]
ROLLOUT: Final[dict[str, Any]] = REGISTRY["properties"]["spec"]["properties"]["rollout"]["properties"]


@cache
def document_rows() -> dict[str, list[str]]:
    """Each documented path, with the other cells of its row."""
    rows: dict[str, list[str]] = {}
    prefix, in_fields = "", False
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("#"):
            heading = re.search(r"`(.+)`", line)
            prefix = f"{heading[1]}." if heading else ""
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            in_fields = False
        elif cells[0] == "Field":
            in_fields = True
        elif in_fields and not cells[0].startswith("---"):
            rows[prefix + cells[0].strip("`")] = cells[1:]
    return rows


def policies() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    texts = [*blocks, *(path.read_text() for path in EXAMPLES)]
    found = [each for text in texts for each in yaml.safe_load_all(text)]
    return [each for each in found if each["kind"] == names.POLICY_KIND]


def without_words(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its own description: what it says it is for differs."""
    return {name: value for name, value in schema.items() if name != "description"}


def test_names_are_those_of_the_contract() -> None:
    told = CRD["spec"]
    assert CRD["metadata"]["name"] == f"{names.POLICY_PLURAL}.{names.GROUP}"
    assert (told["group"], VERSION["name"], told["scope"]) == (names.GROUP, names.VERSION, "Cluster")
    assert (told["names"]["kind"], told["names"]["plural"]) == (names.POLICY_KIND, names.POLICY_PLURAL)
    assert told["names"]["shortNames"] == ["crpol"]
    assert "subresources" not in VERSION
    assert names.LABEL_POLICY in SCHEMA["description"]
    assert names.LABEL_POLICY in DOCUMENT.read_text()


def test_printer_columns() -> None:
    assert [each["name"] for each in VERSION["additionalPrinterColumns"]] == ["Min Bake", "Max Step", "Age"]


def test_steps_and_checks_are_those_of_a_registry() -> None:
    assert DEFAULTS["steps"] == ROLLOUT["steps"]
    assert DEFAULTS["checks"]["items"] == SPEC["checks"]["items"] == ROLLOUT["checks"]["items"]


@pytest.mark.parametrize("name", ["preset", "bake", "checks", "onFailure", "progressDeadline"])
def test_a_default_is_bounded_like_what_it_stands_for(name: str) -> None:
    assert without_words(DEFAULTS[name]) == without_words(ROLLOUT[name])


def test_the_mandatory_checks_are_a_list_like_the_others() -> None:
    assert without_words(SPEC["checks"]) == without_words(ROLLOUT["checks"])
    assert without_words(SPEC["limits"]["properties"]["minBake"]) == without_words(ROLLOUT["bake"])


def test_the_status_of_a_registry_has_room_for_the_checks_of_all() -> None:
    """One that it has no room for would make every status write fail, and so hold up a rollback."""
    room = REGISTRY["properties"]["status"]["properties"]["canary"]["properties"]["checks"]["maxItems"]
    most = ROLLOUT["checks"]["maxItems"] + DEFAULTS["checks"]["maxItems"] + 2 * SPEC["checks"]["maxItems"]
    assert room >= most
    assert f"At most {most} checks" in DOCUMENT.read_text()


def test_the_presets_largest_steps_are_those_of_the_plan() -> None:
    """The rule that refuses a default preset beyond maxStep, and the document, list them."""
    (rule,) = (
        each["rule"] for each in SCHEMA["properties"]["spec"]["x-kubernetes-validations"] if "'All" in each["rule"]
    )
    told = {name: int(most) for name, most in re.findall(r"'(\w+)':\s*(\d+)", rule)}
    plans = {name: plan_of(spec.RolloutSpec(preset=name)) for name in PRESETS}
    weights = {name: [0, *(stage.weight for stage in plan.stages)] for name, plan in plans.items()}
    largest = {name: max(b - a for a, b in itertools.pairwise(each)) for name, each in weights.items()}
    assert told == largest
    text = " ".join(DOCUMENT.read_text().split())
    assert all(f"`{name}` {most}" in text for name, most in largest.items())


@pytest.mark.parametrize("path", EVERYTHING)
def test_everything_is_described_and_bounded(path: str) -> None:
    schema = EVERYTHING[path]
    assert path == "metadata" or schema.get("description", "").endswith("."), path
    wanted = {"string": "maxLength", "array": "maxItems"}.get(schema.get("type", ""))
    assert wanted is None or "enum" in schema or wanted in schema, f"{path} lacks {wanted}"
    if schema.get("type") == "array":
        assert "x-kubernetes-list-type" in schema, f"{path}: who owns an item of it?"


def test_every_rule_has_a_message() -> None:
    for path, schema in EVERYTHING.items():
        for rule in schema.get("x-kubernetes-validations", ()):
            assert "expected" in rule.get("messageExpression", rule.get("message", "")), path


def test_the_file_can_be_a_helm_template() -> None:
    assert "{{" not in CRD_FILE.read_text()


def test_every_field_is_documented_and_nothing_else() -> None:
    assert set(document_rows()) == set(FIELDS)


@pytest.mark.parametrize("path", FIELDS)
def test_the_document_tells_type_and_limits(path: str) -> None:
    schema, row = FIELDS[path], document_rows()[path]
    parent, _, name = path.rpartition(".")
    assert row[0] == kind(schema)
    assert row[2] == limits(schema)
    assert (row[1] == "required") == (name in EVERYTHING[parent].get("required", ()))
    assert row[-1].endswith("."), "a meaning is a sentence"


@pytest.mark.parametrize("path", FIELDS)
def test_the_examples_show_every_field(path: str) -> None:
    def has(value: Any, parts: list[str]) -> bool:
        if not parts:
            return True
        if isinstance(value, list):
            return any(has(each, parts) for each in value)
        return isinstance(value, dict) and parts[0] in value and has(value[parts[0]], parts[1:])

    assert any(has(each, path.replace("[]", "").split(".")) for each in policies())


@pytest.mark.parametrize("example", policies(), ids=lambda each: each["metadata"]["name"])
def test_the_controller_can_follow_the_examples(example: dict[str, Any]) -> None:
    read = policy.parse_policy(example["metadata"]["name"], json.dumps(example["spec"]).encode())
    examine(read)
    told = json.loads(msgspec.json.encode(read.limits))
    assert {name: value for name, value in told.items() if value is not None} == example["spec"].get("limits", {})


def test_the_controller_knows_every_field_of_the_schema() -> None:
    for model, schema in ((policy.Defaults, SPEC["defaults"]), (policy.Limits, SPEC["limits"])):
        known = {field.encode_name: field for field in msgspec.structs.fields(model)}
        assert set(known) == set(schema["properties"])
        assert not any(field.default for field in known.values()), "what is unsaid must be seen to be"
    assert set(SPEC) == {"defaults", "checks", "limits"}
