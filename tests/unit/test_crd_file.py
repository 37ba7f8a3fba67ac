"""What the CRD's file and its document promise, as far as no API server is needed."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
import yaml

from configregistry.model import conditions, durations, names, spec, status

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
CRD_FILE: Final = ROOT / "crds/configregistries.yaml"
DOCUMENT: Final = ROOT / "docs/spec/configregistry.md"
CRD: Final[dict[str, Any]] = yaml.safe_load(CRD_FILE.read_text())
(VERSION,) = CRD["spec"]["versions"]
SCHEMA: Final[dict[str, Any]] = VERSION["schema"]["openAPIV3Schema"]
WORDS: Final = {"string": "strings", "integer": "integers", "object": "objects", "hash": "hashes"}


def walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each schema below this one, items and values of maps included."""
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from walk(below, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}.<verb>")


EVERYTHING: Final = dict(walk(SCHEMA, ""))
FIELDS: Final = {path: schema for path, schema in EVERYTHING.items() if path and not path.endswith(("[]", ".<verb>"))}


def parent_of(path: str) -> dict[str, Any]:
    return EVERYTHING[path.rpartition(".")[0]]


def is_required(path: str) -> bool:
    return path.rpartition(".")[2] in parent_of(path).get("required", ())


def kind(schema: dict[str, Any]) -> str:
    """The type as the document calls it."""
    pattern = schema.get("pattern", "")
    if schema["type"] == "string":
        if pattern.startswith("^https"):
            return "URL"
        if "h)?(" in pattern:
            return "duration"
        if "[0-9a-f]{16}" in pattern:
            return "hash"
        return "time" if "T[0-9" in pattern or schema.get("format") == "date-time" else "string"
    if schema["type"] == "array":
        return f"list of {WORDS[kind(schema['items'])]}"
    if "additionalProperties" in schema:
        return "map"
    return f"{schema['type']}{' or null' if schema.get('nullable') else ''}"


def span(low: int | None, high: int, unit: str = "") -> str:
    return (f"{high}" if low is None else f"{low} to {high}") + unit


def limits(schema: dict[str, Any]) -> str:
    """The limits as the document words them."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if kind(schema) == "duration":
        rules = " ".join(rule["rule"] for rule in schema["x-kubernetes-validations"])
        (highest,) = re.findall(r"<= duration\('(\w+)'\)", rules)
        lowest = re.findall(r">(=?) duration\('(\w+)'\)", rules) or [("=", "0s")]
        inclusive, low = lowest[0]
        return f"{low} to {highest}" if inclusive else f"more than {low}, at most {highest}"
    if "maxItems" in schema:
        each = limits(schema["items"]) if schema["items"]["type"] != "object" else ""
        return span(schema.get("minItems"), schema["maxItems"], " items") + (each and f", each {each}")
    if "maxLength" in schema:
        return span(schema.get("minLength"), schema["maxLength"], " characters")
    if "maxProperties" in schema:
        return span(None, schema["maxProperties"], " keys")
    if "maximum" in schema:
        return span(schema["minimum"], schema["maximum"])
    return ""


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
            path = prefix + cells[0].strip("`")
            assert path not in rows, f"{path} is documented twice"
            rows[path] = cells[1:]
    return rows


def yaml_blocks() -> list[Any]:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [each for block in blocks for each in yaml.safe_load_all(block)]


def paths_in(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the path of each field of the CRD that this example sets."""
    if isinstance(value, dict):
        for name, below in value.items():
            if name in schema.get("properties", {}):
                yield f"{path}.{name}"
                yield from paths_in(below, schema["properties"][name], f"{path}.{name}")
            elif schema.get("additionalProperties", {}).get("type") == "object":
                yield from paths_in(below, schema["additionalProperties"], f"{path}.<verb>")
    if isinstance(value, list):
        for each in value:
            yield from paths_in(each, schema["items"], f"{path}[]")


def test_names_are_those_of_the_contract() -> None:
    spec_ = CRD["spec"]
    assert CRD["metadata"]["name"] == f"{names.PLURAL}.{names.GROUP}"
    assert (spec_["group"], VERSION["name"], spec_["scope"]) == (names.GROUP, names.VERSION, "Namespaced")
    assert (spec_["names"]["kind"], spec_["names"]["plural"]) == (names.KIND, names.PLURAL)
    assert spec_["names"]["shortNames"] == ["creg"]
    assert VERSION["subresources"] == {"status": {}}


def test_printer_columns() -> None:
    columns = [(each["name"], each.get("priority", 0)) for each in VERSION["additionalPrinterColumns"]]
    shown = ["Ready", "Stable", "Canary", "Weight", "Step", "Message", "Unused", "Age"]
    assert columns == [(name, int(name in ("Message", "Unused"))) for name in shown]


@pytest.mark.parametrize("path", EVERYTHING)
def test_everything_is_described(path: str) -> None:
    if path == "metadata":
        pytest.skip("the API server allows no description there")
    text = EVERYTHING[path].get("description", "")
    assert text.endswith("."), f"{path}: {text!r}"


@pytest.mark.parametrize("path", EVERYTHING)
def test_everything_is_bounded(path: str) -> None:
    schema = EVERYTHING[path]
    wanted = {"string": "maxLength", "array": "maxItems"}.get(schema.get("type", ""))
    if "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields"):
        wanted = "maxProperties" if schema.get("type") == "object" else None
    assert wanted is None or "enum" in schema or wanted in schema, f"{path} lacks {wanted}"
    if schema.get("type") == "array":
        assert "x-kubernetes-list-type" in schema, f"{path}: who owns an item of it?"


@pytest.mark.parametrize("path", FIELDS)
def test_a_default_is_told_in_the_description(path: str) -> None:
    default = FIELDS[path].get("default")
    if default is not None:
        value = default if isinstance(default, str) else json.dumps(default)
        assert f"Default: {value}" in FIELDS[path]["description"]


def test_every_rule_has_a_message() -> None:
    for path, schema in EVERYTHING.items():
        for rule in schema.get("x-kubernetes-validations", ()):
            assert "expected" in rule.get("messageExpression", rule.get("message", "")), path


def test_status_asks_for_nothing() -> None:
    for path, schema in EVERYTHING.items():
        if path.startswith("status") and path != "status.conditions[]":
            assert "required" not in schema, path


def test_the_file_can_be_a_helm_template() -> None:
    assert "{{" not in CRD_FILE.read_text()


def test_every_field_is_documented_and_nothing_else() -> None:
    assert set(document_rows()) == set(FIELDS)


@pytest.mark.parametrize("path", FIELDS)
def test_the_document_tells_type_default_and_limits(path: str) -> None:
    schema, row = FIELDS[path], document_rows()[path]
    assert row[0] == kind(schema)
    assert row[-1].endswith("."), "a meaning is a sentence"
    if path.startswith("status."):
        return
    default, limit = row[1:3]
    assert limit == limits(schema)
    if is_required(path):
        assert default == "required"
    elif "default" in schema:
        value = schema["default"]
        assert default == f"`{value if isinstance(value, str) else json.dumps(value)}`"
    else:
        assert "`" not in default
        assert default != "required"


def test_the_examples_show_every_field() -> None:
    shown = {path for each in yaml_blocks() for path in paths_in(each, SCHEMA, "")}
    assert {f".{path}" for path in FIELDS} - shown == set()


def test_the_reasons_of_the_document_are_those_of_the_controller() -> None:
    table = DOCUMENT.read_text().partition("## Conditions")[2]
    told = set(re.findall(r"(?:True|False|Unknown|/(?! Unknown)) ([A-Z]\w+)", table))
    known = {value for name, value in vars(conditions).items() if name.isupper() and isinstance(value, str)}
    assert told | set(conditions.TYPES) | {"NoCandidate"} == known


@pytest.mark.parametrize(
    "path",
    [path for path in FIELDS if path.startswith("spec.") and "default" in FIELDS[path]],
)
def test_the_controller_has_the_same_default(path: str) -> None:
    *parents, name = path.removeprefix("spec.").replace("[]", "").split(".")
    model: Any = spec.Spec
    for parent in parents:
        (field,) = (each for each in msgspec.structs.fields(model) if each.encode_name == parent)
        model = next(
            each
            for each in (field.type, *getattr(field.type, "__args__", ()))
            if isinstance(each, type) and issubclass(each, msgspec.Struct)
        )
    (field,) = (each for each in msgspec.structs.fields(model) if each.encode_name == name)
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    assert default == FIELDS[path]["default"]


@pytest.mark.parametrize("example", [each for each in yaml_blocks() if each.get("kind") == names.KIND])
def test_the_controller_reads_the_examples(example: dict[str, Any]) -> None:
    assert spec.parse_spec(json.dumps(example["spec"]).encode()).data == example["spec"].get("data", {})


def test_the_controller_writes_nothing_that_the_schema_lacks() -> None:
    (example,) = (each["status"] for each in yaml_blocks() if "status" in each)
    written = json.loads(status.encode_status(status.parse_status(json.dumps(example).encode())))
    assert written == example


def test_durations_of_the_schema_are_read_by_the_controller() -> None:
    pattern = re.compile(FIELDS["spec.rollout.progressDeadline"]["pattern"])
    for text in ("500ms", "30s", "5m", "1h30m", "0s", "2h0m10s5ms"):
        assert pattern.search(text), text
        assert pattern.search(durations.format_duration(durations.parse_duration(text)))
    for text in ("5", "1.5s", "1d", "-5m", "5m1h", "5 m", "m"):
        assert not pattern.search(text), text
