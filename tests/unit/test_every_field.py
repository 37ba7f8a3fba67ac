"""No field of the CRD's spec lacks an example in the docs, or a test of its effect on the real API server.

`SHOWN` says for each field which test shows what it does. The table is held by three rules: it has exactly the fields
of the CRD; each test that it names exists; and that test's file speaks of the field by its name. What a test proves is
for its reader to judge; that there is one, and where, is judged here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pytest
import yaml
from tests.unit.test_crd_file import FIELDS, ROOT

INTEGRATION: Final = ROOT / "tests" / "integration"
EXAMPLES: Final = ROOT / "docs" / "examples"

FEATURES, CHECKS, EFFECTS = "test_reconcile_features", "test_check_edges", "test_field_effects"
CONSUMERS, HOOKS, ROWS = "test_consumers_check", "test_validators_and_hooks", "conditions_rows"

SHOWN: Final = {
    "data": f"{FEATURES}::test_a_configmap_is_followed_and_its_change_rolls_out",
    "dataFrom": f"{FEATURES}::test_a_configmap_is_followed_and_its_change_rolls_out",
    "dataFrom[].configMapRef": f"{FEATURES}::test_a_source_that_goes_away_holds_what_is_served",
    "dataFrom[].configMapRef.name": f"{FEATURES}::test_a_source_that_goes_away_holds_what_is_served",
    "dataFrom[].configMapRef.optional": f"{FEATURES}::test_a_configmap_is_followed_and_its_change_rolls_out",
    "dataFrom[].format": f"{FEATURES}::test_a_configmap_is_followed_and_its_change_rolls_out",
    "dataFrom[].prefix": f"{FEATURES}::test_a_configmap_is_followed_and_its_change_rolls_out",
    "fallback": f"{FEATURES}::test_a_fallback_that_closes_a_ring_is_refused_and_nobody_elses",
    "fallback.name": f"{FEATURES}::test_a_fallback_that_closes_a_ring_is_refused_and_nobody_elses",
    "schema": f"{FEATURES}::test_a_schema_is_kept",
    "validators": f"{HOOKS}::test_a_validator_refuses_and_what_was_served_stays",
    "validators[].name": f"{HOOKS}::test_a_validator_refuses_and_what_was_served_stays",
    "validators[].url": f"{HOOKS}::test_a_validator_refuses_and_what_was_served_stays",
    "validators[].timeoutSeconds": f"{HOOKS}::test_a_validator_that_does_not_answer_holds_one_registry_only",
    "dependsOn": f"{FEATURES}::test_a_dependency_holds_the_start_and_no_more",
    "dependsOn[].name": f"{FEATURES}::test_a_dependency_holds_the_start_and_no_more",
    "hooks": f"{HOOKS}::test_a_veto_ends_the_candidate_and_editing_the_hooks_asks_again",
    "hooks[].name": f"{HOOKS}::test_a_veto_ends_the_candidate_and_editing_the_hooks_asks_again",
    "hooks[].when": f"{HOOKS}::test_a_rollback_waits_for_no_hook_and_tells_it_all_the_same",
    "hooks[].url": f"{HOOKS}::test_a_veto_ends_the_candidate_and_editing_the_hooks_asks_again",
    "hooks[].timeoutSeconds": f"{HOOKS}::test_a_hook_that_never_answers_is_a_veto_after_the_deadline",
    "rollout": f"{FEATURES}::test_events_tell_the_story_once",
    "rollout.preset": f"{EFFECTS}::test_a_preset_is_its_steps_and_its_bake",
    "rollout.steps": f"{FEATURES}::test_events_tell_the_story_once",
    "rollout.steps[].setWeight": f"{FEATURES}::test_events_tell_the_story_once",
    "rollout.steps[].pause": f"{FEATURES}::test_promote_goes_one_step_and_a_second_click_none",
    "rollout.steps[].pause.duration": f"{FEATURES}::test_pause_and_resume",
    "rollout.bake": f"{ROWS}::baking",
    "rollout.match": f"{EFFECTS}::test_match_goes_before_weight_and_the_seed_decides_who_is_first",
    "rollout.match[].attribute": f"{EFFECTS}::test_match_goes_before_weight_and_the_seed_decides_who_is_first",
    "rollout.match[].values": f"{EFFECTS}::test_match_goes_before_weight_and_the_seed_decides_who_is_first",
    "rollout.seed": f"{EFFECTS}::test_match_goes_before_weight_and_the_seed_decides_who_is_first",
    "rollout.checks": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].name": f"{FEATURES}::test_a_failed_check_rolls_back_tells_why_and_is_not_tried_again",
    "rollout.checks[].interval": f"{EFFECTS}::test_the_interval_is_from_one_measurement_to_the_next",
    "rollout.checks[].initialDelay": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].failureLimit": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].consecutiveErrorLimit": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].noData": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].min": f"{EFFECTS}::test_the_lowest_good_value",
    "rollout.checks[].max": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].prometheus": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].prometheus.address": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].prometheus.query": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].http": f"{FEATURES}::test_a_failed_check_rolls_back_tells_why_and_is_not_tried_again",
    "rollout.checks[].http.url": f"{FEATURES}::test_a_failed_check_rolls_back_tells_why_and_is_not_tried_again",
    "rollout.checks[].http.expectedStatus": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.checks[].http.timeoutSeconds": f"{CHECKS}::test_checks_that_hang_delay_nobodys_rollback",
    "rollout.checks[].consumers": f"{CONSUMERS}::test_error_reports_roll_back_and_say_who",
    "rollout.checks[].consumers.maxErrorPercent": f"{CONSUMERS}::test_error_reports_roll_back_and_say_who",
    "rollout.checks[].consumers.minReporting": f"{CONSUMERS}::test_too_few_wait_and_more_go_on",
    "rollout.checks[].workload": "test_workload_check::test_pods_that_restart_take_a_version_back",
    "rollout.checks[].workload.kind": "test_workload_check::test_the_other_kinds",
    "rollout.checks[].workload.name": "test_workload_check::test_pods_that_restart_take_a_version_back",
    "rollout.onFailure": f"{ROWS}::failed_and_held",
    "rollout.progressDeadline": f"{CHECKS}::test_what_a_check_comes_to",
    "rollout.policyRef": "test_policies::test_a_policy_that_is_missing_holds_what_is_new_until_it_comes",
    "rollout.policyRef.name": "test_policies::test_a_policy_that_is_missing_holds_what_is_new_until_it_comes",
    "rollout.paused": f"{ROWS}::waits_by_spec",
    "pinnedVersion": f"{FEATURES}::test_pin_and_unpin",
    "revisionHistoryLimit": f"{FEATURES}::test_old_versions_are_pruned_but_not_what_is_needed",
    "project": "test_projection::test_it_holds_the_stable_version_and_never_the_candidate",
    "project.configMap": "test_projection::test_it_holds_the_stable_version_and_never_the_candidate",
}
"""Field of spec -> the test that shows what it does. A case of the conditions table is named by its function in
conditions_rows, which test_conditions_table runs."""

SPEC_FIELDS: Final = [path.removeprefix("spec.") for path in FIELDS if path.startswith("spec.")]


@cache
def functions(module: str) -> frozenset[str]:
    tree = ast.parse(text(module))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


@cache
def text(module: str) -> str:
    return (INTEGRATION / f"{module}.py").read_text()


@cache
def exemplified() -> frozenset[str]:
    """The fields that an example of the docs sets."""
    texts = [path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))]
    documents = [each for one in texts for each in yaml.safe_load_all(one)]
    return frozenset(path for each in documents if each["kind"] == "ConfigRegistry" for path in walk(each["spec"], ""))


def walk(value: Any, path: str) -> Iterator[str]:
    yield path.removeprefix(".")
    if isinstance(value, dict):
        for key, below in value.items():
            yield from walk(below, f"{path}.{key}")
    if isinstance(value, list):
        for below in value:
            yield from walk(below, f"{path}[]")


def test_the_table_has_exactly_the_fields_of_the_crd() -> None:
    assert set(SHOWN) == set(SPEC_FIELDS)


@pytest.mark.parametrize("field", SPEC_FIELDS)
def test_a_field_has_an_example_and_a_test(field: str) -> None:
    assert field in exemplified(), f"spec.{field}: expected an example in docs/examples"
    module, _, name = SHOWN[field].partition("::")
    assert name in functions(module), f"spec.{field}: expected {name} in tests/integration/{module}.py"
    assert field.rpartition(".")[2].removesuffix("[]") in text(module), f"spec.{field}: {module} does not speak of it"
