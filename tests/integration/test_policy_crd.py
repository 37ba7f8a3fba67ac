"""The CRD of RolloutPolicy on a real API server: what it takes, what it keeps, what it refuses."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.integration.crd_cases import DROP, Bad, weights
from tests.integration.running import wait
from tests.integration.test_crd import CONNECT, GROUP_VERSION, RefusalError, lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.base import KubeCluster

ROOT: Final = Path(__file__).parents[2]
CRD_FILE: Final = ROOT / "crds/rolloutpolicies.yaml"
DOCUMENT: Final = ROOT / "docs/spec/rolloutpolicy.md"
CRD_NAME: Final = "rolloutpolicies.configregistry.dev"
TEXTS: Final = (
    *re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL),
    (ROOT / "docs/examples/policy.yaml").read_text(),
)
POLICIES: Final[list[dict[str, Any]]] = [
    each for text in TEXTS for each in yaml.safe_load_all(text) if each["kind"] == "RolloutPolicy"
]
GOOD: Final = POLICIES[0]
STEPS: Final = "spec.defaults.steps"
CHECK: Final = "spec.checks[0]"
OWN_CHECK: Final = "spec.defaults.checks[0]"
HTTP: Final = {"name": "a", "http": {"url": "http://h"}}
FULL: Final = [{"name": f"n{index}", "consumers": {}} for index in range(16)]
TOO_LARGE: Final = {
    "AllAtOnce": 99,
    "Linear50PercentEvery30Seconds": 49,
    "Linear20PercentEvery6Minutes": 19,
    "Canary10Percent20Minutes": 39,
}
"""Presets, each with the highest limit that it is beyond."""

BAD: Final = [
    Bad("name in capitals", "metadata.name", "Production", "should match"),
    Bad("name of 64 characters", "metadata.name", "a" * 64, "may not be more than 63"),
    Bad("no spec", "spec", DROP, "Required value"),
    # defaults
    Bad("unknown preset", "spec.defaults", {"preset": "Fast"}, "AllAtOnce", "spec.defaults.preset"),
    Bad("preset and steps", "spec.defaults.preset", "Linear20PercentEvery6Minutes", "and 8 steps"),
    Bad("no steps", STEPS, [], "at least 1 item"),
    Bad("weights decrease", STEPS, weights(25, 50, 40, 60, 80), "weights must never decrease"),
    Bad("step with both", f"{STEPS}[0].pause", {}, "expected exactly one, got both", f"{STEPS}[0]"),
    Bad("pause of no time", f"{STEPS}[1].pause.duration", "0s", "more than 0s and at most 720h, got"),
    Bad("bake of a year", "spec.defaults.bake", "8760h", '0s to 720h, got "8760h"'),
    Bad("unknown onFailure", "spec.defaults.onFailure", "Ignore", '"Rollback", "Pause"'),
    Bad("no deadline", "spec.defaults.progressDeadline", "0s", "more than 0s"),
    # checks, by the rules of a registry's
    *(
        bad
        for check in (CHECK, OWN_CHECK)
        for bad in (
            Bad(f"{check} of no kind", check, {"name": "errors"}, "expected exactly one"),
            Bad(f"{check} of two kinds", f"{check}.consumers", {}, "got several", check),
            Bad(f"{check} never", f"{check}.interval", "0s", '100ms to 24h, got "0s"'),
            Bad(f"{check} without a name", f"{check}.name", DROP, "Required value"),
            Bad(f"{check} limited", check, {**HTTP, "max": 1}, "none here", f"{check}.max"),
        )
    ),
    Bad("query with an unknown template", f"{CHECK}.prometheus.query", "up{v='{{tag}}'}", "unknown template: expected"),
    Bad("URL with an unknown template", f"{OWN_CHECK}.http.url", "http://{{pod}}/", "unknown template: expected"),
    Bad("two checks of a name", "spec.checks[1].name", "errors", "Duplicate value", "spec.checks[1]"),
    Bad("17 checks", "spec.checks", [*FULL, {"name": "last", "consumers": {}}], "at most 16 items"),
    Bad("17 default checks", "spec.defaults.checks", [*FULL, {"name": "last", "consumers": {}}], "at most 16 items"),
    # limits
    Bad("shortest bake of a year", "spec.limits.minBake", "8760h", '0s to 720h, got "8760h"'),
    Bad("shortest bake of a number", "spec.limits.minBake", 600, "must be of type string"),
    Bad("no step at all", "spec", {"limits": {"maxStep": 0}}, "greater than or equal to 1", "spec.limits.maxStep"),
    Bad("more than everybody", "spec.limits.maxStep", 101, "less than or equal to 100"),
    Bad("half a percent", "spec.limits.maxStep", 0.5, "must be of type integer"),
    # defaults that break the limits of the same policy
    Bad("first step too large", STEPS, weights(30, 50, 75), "at most 25 percent more at a time", STEPS),
    Bad("step in between too large", STEPS, weights(25, 51, 75), "from 0 to 100, got [25, 51, 75]", STEPS),
    Bad("last step too large", STEPS, weights(25, 50, 74), "got [25, 50, 74]", STEPS),
    Bad("a limit below the steps", "spec.limits.maxStep", 24, "at most 24 percent more", STEPS),
    Bad("steps of pauses alone", STEPS, [{"pause": {}}], "got []", STEPS),
    *(
        Bad(
            f"{preset} above {limit}",
            "spec",
            {"defaults": {"preset": preset}, "limits": {"maxStep": limit}},
            f'at most {limit} percent more at a time (limits.maxStep), got "{preset}"',
            "spec.defaults.preset",
        )
        for preset, limit in TOO_LARGE.items()
    ),
]

FINE: Final[dict[str, dict[str, Any]]] = {
    "nothing": {},
    "limits alone": {"limits": {"maxStep": 1, "minBake": "0s"}},
    "preset just within": {"defaults": {"preset": "Canary10Percent20Minutes"}, "limits": {"maxStep": 40}},
    "a shorter bake is raised": {"defaults": {"bake": "1m"}, "limits": {"minBake": "10m"}},
    "weights that stay": {"defaults": {"steps": weights(0, 50, 50, 100)}, "limits": {"maxStep": 50}},
    "as many as there may be": {
        "defaults": {"steps": weights(*range(1, 101)), "checks": FULL},
        "checks": FULL,
        "limits": {"maxStep": 1},
    },
}


class PolicyApi:
    """RolloutPolicies as raw objects; nothing is kept."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def try_out(self, policy: dict[str, Any]) -> dict[str, Any]:
        """Ask whether it would be accepted; gives what would be kept."""
        method, url, headers, sent, _ = self._api.param_serialize(
            "POST",
            f"/apis/{GROUP_VERSION}/rolloutpolicies",
            query_params=[("fieldValidation", "Strict"), ("dryRun", "All")],
            header_params={"Content-Type": "application/json", "Accept": "application/json"},
            body=policy,
            auth_settings=["BearerToken"],
        )
        answer = self._api.call_api(method, url, headers, sent)
        said: dict[str, Any] = json.loads(answer.read())
        if answer.status >= 400:
            raise RefusalError(said)
        return said


@pytest.fixture(scope="module")
def known(crd: KubeCluster) -> dict[str, Any]:
    """The CRD as the API server has it, established and served."""
    wait(
        lambda: crd.kubectl("get", "rolloutpolicies", check=False).returncode == 0,
        lambda: f"{CRD_NAME} to be served",
    )
    found: dict[str, Any] = json.loads(crd.kubectl("get", "crd", CRD_NAME, "-o", "json").stdout)
    return found


@pytest.fixture(scope="module")
def policies(crd: KubeCluster, known: dict[str, Any]) -> Iterator[PolicyApi]:
    assert known
    with CONNECT(config_file=str(crd.kubeconfig)) as api:
        yield PolicyApi(api)


def named(policy: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of it under a name that no other test has."""
    found = copy.deepcopy(policy)
    found["metadata"]["name"] = name
    return found


def test_the_crd_is_accepted_whole(known: dict[str, Any]) -> None:
    states = {each["type"]: each["status"] for each in known["status"]["conditions"]}
    assert states["Established"] == "True"
    assert "NonStructuralSchema" not in states
    assert lost(yaml.safe_load(CRD_FILE.read_text())["spec"], known["spec"]) == []


@pytest.mark.parametrize("example", POLICIES, ids=lambda each: each["metadata"]["name"])
def test_an_example_is_kept_as_written(policies: PolicyApi, example: dict[str, Any]) -> None:
    assert lost(example["spec"], policies.try_out(named(example, "tried-out"))["spec"]) == []


@pytest.mark.parametrize("spec", FINE.values(), ids=FINE)
def test_what_is_fine_is_taken_and_nothing_is_made_up(policies: PolicyApi, spec: dict[str, Any]) -> None:
    kept = policies.try_out({**named(GOOD, "fine"), "spec": spec})["spec"]
    assert lost(spec, kept) == []
    assert set(kept) == set(spec)
    assert set(kept.get("defaults", ())) == set(spec.get("defaults", ()))
    assert kept.get("limits") == spec.get("limits")


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_policy_is_refused(policies: PolicyApi, bad: Bad) -> None:
    with pytest.raises(RefusalError) as refused:
        policies.try_out(bad.registry(named(GOOD, "bad")))
    assert list(refused.value.causes) == [bad.expected_field]
    assert bad.says in refused.value.causes[bad.expected_field]


def test_the_cases_differ_and_their_origin_is_good(policies: PolicyApi) -> None:
    policies.try_out(named(GOOD, "good"))
    assert len({bad.name for bad in BAD}) == len(BAD)


@pytest.mark.parametrize("path", ["spec.default", "spec.limits.maxBake", "spec.defaults.match", "spec.defaults.paused"])
def test_an_unknown_field_is_refused(policies: PolicyApi, path: str) -> None:
    with pytest.raises(RefusalError, match=f'unknown field "{re.escape(path)}"'):
        policies.try_out(Bad("", path, [], "").registry(named(GOOD, "unknown")))


@pytest.mark.parametrize("path", ["", ".defaults", ".defaults.checks", ".limits"])
def test_explain_has_a_text_for_each_field(crd: KubeCluster, known: dict[str, Any], path: str) -> None:
    schema = known["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for name in path.split(".")[1:]:
        schema = schema["properties"][name]
        schema = schema.get("items", schema)
    text = " ".join(crd.kubectl("explain", f"rolloutpolicy.spec{path}").stdout.split())
    for name, field in schema["properties"].items():
        told = rf" {name} <[^>]+>( -required-)?( enum: [^.]+?)? {re.escape(field['description'])}"
        assert re.search(told, text), name


def test_the_printed_columns_tell_the_limits(crd: KubeCluster, known: dict[str, Any]) -> None:
    assert known
    shown = named(GOOD, "shown-" + known["metadata"]["uid"][:8])
    crd.kubectl("apply", "-f", "-", input=json.dumps(shown))
    try:
        head, line = crd.kubectl("get", "crpol", shown["metadata"]["name"]).stdout.splitlines()
    finally:
        crd.kubectl("delete", "crpol", shown["metadata"]["name"])
    assert re.split(r"\s{2,}", head.strip()) == ["NAME", "MIN BAKE", "MAX STEP", "AGE"]
    assert re.split(r"\s{2,}", line)[1:3] == ["10m", "25"]
