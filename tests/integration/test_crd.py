"""The CRD on a real API server: what it takes, what it keeps, what it refuses."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from kubernetes import config
from tests.integration.crd_cases import BAD, BAD_STATUS, UNKNOWN, Bad

if TYPE_CHECKING:
    from tests.cluster.base import KubeCluster

ROOT: Final = Path(__file__).parents[2]
CRD_FILE: Final = ROOT / "crds/configregistries.yaml"
DOCUMENT: Final = ROOT / "docs/spec/configregistry.md"
EXAMPLES: Final = sorted((ROOT / "docs/examples").glob("*.yaml"))
GROUP_VERSION: Final = "configregistry.dev/v1alpha1"
CRD_NAME: Final = "configregistries.configregistry.dev"


def documents_of(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


BLOCKS: Final = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
IN_DOCUMENT: Final = [each for block in BLOCKS for each in documents_of(block)]
REGISTRIES: Final = [
    each
    for each in (*IN_DOCUMENT, *(each for path in EXAMPLES for each in documents_of(path.read_text())))
    if each.get("kind") == "ConfigRegistry"
]
(STATUS,) = (each["status"] for each in IN_DOCUMENT if "status" in each)
(GOOD,) = (each for each in REGISTRIES if each["metadata"]["name"] == "everything")


CONNECT: Final[Any] = config.new_client_from_config
"""Of any type: it is untyped in the library."""


class RefusalError(Exception):
    """The API server's Status of a refusal."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(status["message"])
        self.causes: dict[str, str] = {}
        for cause in status.get("details", {}).get("causes", ()):
            if "not checked" not in cause["message"]:
                self.causes[cause["field"]] = self.causes.get(cause["field"], "") + cause["message"] + "\n"


class Registries:
    """The registries of one namespace (or its ConfigMaps), as raw objects."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def _request(self, method: str, path: str, body: object = None, kind: str = "json", **query: str) -> dict[str, Any]:
        method, url, headers, sent, _ = self._api.param_serialize(
            method,
            f"/apis/{GROUP_VERSION}/namespaces/{self._namespace}/configregistries{path}",
            query_params=list(query.items()),
            header_params={"Content-Type": f"application/{kind}", "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self._api.call_api(method, url, headers, sent)
        said: dict[str, Any] = json.loads(answer.read())
        if answer.status >= 400:
            raise RefusalError(said)
        return said

    def create(self, registry: dict[str, Any], **query: str) -> dict[str, Any]:
        return self._request("POST", "", registry, fieldValidation="Strict", **query)

    def try_out(self, registry: dict[str, Any]) -> None:
        """Ask whether it would be accepted, and keep nothing."""
        self.create(registry, dryRun="All")

    def apply(self, registry: dict[str, Any]) -> dict[str, Any]:
        """Apply it server-side."""
        path = f"/{registry['metadata']['name']}"
        query = {"fieldManager": "tests", "fieldValidation": "Strict"}
        return self._request("PATCH", path, json.dumps(registry), "apply-patch+yaml", **query)

    def read(self, name: str) -> dict[str, Any]:
        return self._request("GET", f"/{name}")

    def put_status(self, registry: dict[str, Any], **query: str) -> dict[str, Any]:
        path = f"/{registry['metadata']['name']}/status"
        return self._request("PUT", path, registry, fieldValidation="Strict", **query)

    def is_served(self) -> bool:
        try:
            self._request("GET", "")
        except (RefusalError, ValueError):  # "404 page not found" is not JSON
            return False
        return True


@pytest.fixture(scope="module")
def crd(cluster: KubeCluster) -> dict[str, Any]:
    """The CRD as the API server has it, established."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "crd", CRD_NAME, "-o", "json").stdout)
    return found


@pytest.fixture(scope="module")
def registries(cluster: KubeCluster, crd: dict[str, Any]) -> Iterator[Registries]:
    """One namespace and one connection for all tests of this file: most of them leave nothing behind."""
    assert crd
    with CONNECT(config_file=str(cluster.kubeconfig)) as api:
        namespace = cluster.create_namespace("crd")
        found = Registries(api, namespace)
        deadline = time.monotonic() + 30
        while not found.is_served():
            assert time.monotonic() < deadline, "established, but not served"
            time.sleep(0.05)
        yield found
        cluster.delete_namespace(namespace)


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Return the paths at which `kept` lacks or changes what was given; it may have more."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            each
            for name, value in given.items()
            for each in (lost(value, kept[name], f"{path}.{name}") if name in kept else [f"{path}.{name}"])
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [each for i, pair in enumerate(zip(given, kept, strict=True)) for each in lost(*pair, f"{path}[{i}]")]
    return [] if given == kept and type(given) is type(kept) else [f"{path}: {given!r} became {kept!r}"]


def test_the_crd_is_accepted_whole(crd: dict[str, Any]) -> None:
    states = {each["type"]: each["status"] for each in crd["status"]["conditions"]}
    assert states["Established"] == "True"
    assert states["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in states
    assert lost(yaml.safe_load(CRD_FILE.read_text())["spec"], crd["spec"]) == []


@pytest.mark.parametrize("example", REGISTRIES, ids=lambda each: each["metadata"]["name"])
def test_an_example_is_kept_as_written(registries: Registries, example: dict[str, Any]) -> None:
    registries.apply(example)
    kept = registries.read(example["metadata"]["name"])
    assert lost(example["spec"], kept["spec"]) == []
    assert kept["spec"]["revisionHistoryLimit"] == example["spec"].get("revisionHistoryLimit", 10)


def test_the_example_files_are_applied_by_kubectl(cluster: KubeCluster, crd: dict[str, Any], namespace: str) -> None:
    assert crd
    # Policies belong to the whole cluster, which may be somebody's: those are tried out in test_policy_crd.py.
    kinds = {path: [each["kind"] for each in documents_of(path.read_text())] for path in EXAMPLES}
    files = [f"--filename={path}" for path, found in kinds.items() if "RolloutPolicy" not in found]
    cluster.kubectl("apply", f"--namespace={namespace}", *files)
    shown = cluster.kubectl("get", "creg", f"--namespace={namespace}", "-o", "wide").stdout.splitlines()
    assert shown[0].split() == ["NAME", "READY", "STABLE", "CANARY", "WEIGHT", "STEP", "MESSAGE", "UNUSED", "AGE"]
    assert len(shown) == 1 + sum(found.count("ConfigRegistry") for found in kinds.values())


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_registry_is_refused(registries: Registries, bad: Bad) -> None:
    with pytest.raises(RefusalError) as refused:
        registries.try_out(bad.registry(GOOD))
    assert list(refused.value.causes) == [bad.expected_field]
    assert bad.says in refused.value.causes[bad.expected_field]


def test_the_cases_differ_and_their_origin_is_good(registries: Registries) -> None:
    registries.try_out({**GOOD, "metadata": {"name": "other"}})
    assert len({bad.name for bad in BAD}) == len(BAD) >= 60


@pytest.mark.parametrize(("path", "value"), UNKNOWN)
def test_an_unknown_field_is_refused(registries: Registries, path: str, value: object) -> None:
    with pytest.raises(RefusalError, match=f'unknown field "{re.escape(path)}"'):
        registries.try_out(Bad("", path, value, "").registry(GOOD))


@pytest.mark.parametrize("field", ["checks", "hooks", "validators", "dependsOn"])
def test_a_name_twice_is_refused_by_server_side_apply_too(registries: Registries, field: str) -> None:
    twice = copy.deepcopy(GOOD)
    where = twice["spec"]["rollout"] if field == "checks" else twice["spec"]
    where[field] = [where[field][0]] * 2
    with pytest.raises(RefusalError, match=rf'{field}.*duplicate.*name="{where[field][0]["name"]}"'):
        registries.apply(twice)


def test_a_status_is_kept_as_written(registries: Registries) -> None:
    found = registries.create({**GOOD, "metadata": {"name": "with-status"}})
    full = copy.deepcopy(STATUS)
    full["rejectedHashes"] = [f"{number:016x}" for number in range(1000)]
    full["rejected"] = full["rejected"] * 10
    full["canary"]["failure"] = "x" * 1024
    verbs = ("promote", "promote-full", "pause", "resume", "abort", "retry")
    full["commands"] = dict.fromkeys(verbs, full["commands"]["pause"])
    registries.put_status({**found, "status": full})
    kept = registries.read("with-status")
    assert kept["status"] == full
    # The controller's empty and first values.
    full["canary"] |= {"startedAt": "", "stepStartedAt": "", "elapsed": "0s", "seed": ""}
    full["canary"]["checks"][0] |= {"lastAt": "", "lastValue": "", "hash": ""}
    full["lastOutcome"] |= {"hash": "", "at": ""}
    full["stable"]["since"] = ""
    registries.put_status({**kept, "status": full})
    kept = registries.read("with-status")
    assert kept["status"] == full
    assert kept["metadata"]["generation"] == found["metadata"]["generation"]
    assert len(json.dumps(kept["metadata"]["managedFields"])) < 8_000
    registries.put_status({**kept, "status": {"observedGeneration": 1}})


@pytest.mark.parametrize("bad", BAD_STATUS, ids=lambda bad: bad.name)
def test_a_bad_status_is_refused(registries: Registries, bad: Bad) -> None:
    try:
        found = registries.create({**GOOD, "metadata": {"name": "bad-status"}})
    except RefusalError:  # made by the case before
        found = registries.read("bad-status")
    with pytest.raises(RefusalError) as refused:
        registries.put_status(bad.registry({**found, "status": STATUS}), dryRun="All")
    assert list(refused.value.causes) == [bad.expected_field]
    assert bad.says in refused.value.causes[bad.expected_field]


def test_the_printed_columns_tell_the_status(cluster: KubeCluster, namespace: str, registries: Registries) -> None:
    assert registries
    with CONNECT(config_file=str(cluster.kubeconfig)) as api:
        here = Registries(api, namespace)
        here.put_status({**here.create({**GOOD, "metadata": {"name": "shown"}}), "status": STATUS})
    (line,) = cluster.kubectl(
        "get", "creg", f"--namespace={namespace}", "-o", "wide", "--no-headers"
    ).stdout.splitlines()
    assert line.split()[:6] == ["shown", "False", "7", "8", "50", "2"]
    assert "version 8 waits at 50 percent for a person" in line


@pytest.mark.parametrize(
    "path", ["", ".rollout", ".rollout.steps", ".rollout.checks", ".rollout.checks.http", ".hooks", ".dataFrom"]
)
def test_explain_has_a_text_for_each_field(cluster: KubeCluster, crd: dict[str, Any], path: str) -> None:
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for name in path.split(".")[1:]:
        schema = schema["properties"][name]
        schema = schema.get("items", schema)
    text = " ".join(cluster.kubectl("explain", f"configregistry.spec{path}").stdout.split())
    for name, field in schema["properties"].items():
        told = rf" {name} <[^>]+>( -required-)?( enum: [^.]+?)? {re.escape(field['description'])}"
        assert re.search(told, text), name


def test_large_data_is_applied_server_side(registries: Registries) -> None:
    data = {f"group{index // 100}/key-{index:05}": "v" * 20 for index in range(14_000)}
    large = {**GOOD, "metadata": {"name": "large"}, "spec": {"data": data}}
    assert len(json.dumps(data)) > 590_000
    registries.apply(large)
    kept = registries.read("large")
    assert kept["spec"]["data"] == data
    assert len(json.dumps(kept["metadata"]["managedFields"])) < 1_000


def test_values_are_any_json(registries: Registries) -> None:
    data = {"t": True, "n": 1.5, "i": 2**53 + 1, "s": "", "l": [1, "a", None], "o": {"x": {"y": None}}, "e": {}}
    registries.apply({**GOOD, "metadata": {"name": "values"}, "spec": {"data": {**data, "gone": None}}})
    assert registries.read("values")["spec"]["data"] == data
