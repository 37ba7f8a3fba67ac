"""What Flux and Argo CD make of a registry over time, and of what is not a registry with a status.

Each state by itself is in test_conditions_table.py; applying is in test_apply_modes.py.
"""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import yaml
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.gitops import Judgement, Judges, flux_apply
from tests.integration import gitops_docs
from tests.integration.running import Client, candidate, said, stable, wait

pytestmark = [pytest.mark.xdist_group("gitops")]

POLICY_CRD: Final = REPOSITORY / "crds" / "rolloutpolicies.yaml"
POLICIES: Final = REPOSITORY / "docs" / "examples" / "policy.yaml"


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(lua=gitops_docs.lua(), exprs=gitops_docs.exprs())


def verdicts(found: Judgement) -> tuple[str, str, str]:
    assert found.flux is not None
    assert found.argo is not None
    return found.kstatus.status, found.flux.status, found.argo.status


def registry(**status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 4},
        "spec": {"data": {"a": 1}},
        "status": status,
    }


def ready(generation: int) -> dict[str, Any]:
    conditions = {
        "Available": "True",
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Healthy": "Unknown",
    }
    return {
        "observedGeneration": generation,
        "conditions": [
            {"type": kind, "status": value, "reason": "R", "message": "m", "observedGeneration": generation}
            for kind, value in conditions.items()
        ],
    }


def test_a_policy_is_current_as_soon_as_it_is_applied(crd: KubeCluster, place: str) -> None:
    """It has no status. Argo CD is given no script for it, and has no health for what it has no script for."""
    crd.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={POLICY_CRD}")
    established = ("wait", "--for=condition=Established", "crd/rolloutpolicies.configregistry.dev", "--timeout=30s")
    wait(lambda: crd.kubectl(*established, check=False).returncode == 0, lambda: "the CRD to be established")
    policy = next(yaml.safe_load_all(POLICIES.read_text()))
    policy["metadata"]["name"] = place
    try:
        assert flux_apply(crd.kubeconfig, policy, wait=30) == "created"
        assert flux_apply(crd.kubeconfig, policy, wait=30) == "unchanged"
        stored = json.loads(crd.kubectl("get", "rolloutpolicy", place, "--output=json").stdout)
    finally:
        crd.kubectl("delete", "rolloutpolicy", place, "--ignore-not-found")
    assert "status" not in stored
    (found,) = Judges().ask(stored)
    assert found.kstatus.status == "Current"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ready(4), ("Current", "Current", "Healthy")),
        (ready(3), ("InProgress", "InProgress", "Progressing")),
        ({"observedGeneration": 0}, ("InProgress", "InProgress", "Progressing")),
        ({"observedGeneration": 4, "conditions": ready(4)["conditions"][4:]}, ("Current", "InProgress", "Progressing")),
    ],
    ids=["ready", "of the generation before", "not seen yet", "no verdict"],
)
def test_a_verdict_is_of_this_generation(judges: Judges, status: dict[str, Any], expected: tuple[str, ...]) -> None:
    (found,) = judges.ask(registry(**status))
    assert verdicts(found) == expected


def test_the_script_bears_a_registry_without_status() -> None:
    bare = registry()
    del bare["status"]
    (found,) = Judges(lua=gitops_docs.lua()).ask(bare)
    assert found.argo is not None
    assert found.argo.status == "Progressing"


async def test_what_no_controller_has_seen_is_in_progress(crd: KubeCluster, judges: Judges) -> None:
    """kstatus takes an object without observedGeneration for Current: the CRD's default is what prevents that."""
    namespace = crd.create_namespace()
    try:
        async with Client.of(crd, namespace) as client:
            await client.apply("unseen", data={"a": 1})
            (found,) = judges.ask(await client.get("unseen") or {})
    finally:
        crd.delete_namespace(namespace)
    assert verdicts(found) == ("InProgress", "InProgress", "Progressing")


@pytest.mark.usefixtures("operator")
async def test_at_no_moment_of_a_rollout_does_a_tool_take_it_for_done(client: Client, judges: Judges) -> None:
    """Every status that the API server accepts is judged, as one that polls at an unlucky moment would."""
    steps = [{"setWeight": 10}, {"pause": {"duration": "300ms"}}, {"setWeight": 50}, {"pause": {"duration": "300ms"}}]
    rollout = {"steps": steps, "bake": "300ms"}
    await client.apply("judged", data={"n": 1}, rollout=rollout)
    await client.ready("judged")
    async with client.history("judged") as history:
        applied = await client.apply("judged", data={"n": 2}, rollout=rollout)
        done = await client.ready("judged")
        await client.wait(lambda: _seen(history.seen, done), lambda: "the last status to be seen")
    at_each = [{**applied, "status": each.status} for each in history.seen]
    told = [verdicts(each) for each in judges.ask(applied, *at_each)]
    assert told[-1] == ("Current", "Current", "Healthy")
    assert set(told[:-1]) == {("InProgress", "InProgress", "Progressing")}, told
    assert len(told) >= 5


async def _seen(seen: list[Any], last: dict[str, Any]) -> bool:
    return bool(seen) and seen[-1].status == last


@pytest.mark.usefixtures("operator")
async def test_a_failure_that_git_mends_goes_from_failed_to_current(client: Client, judges: Judges) -> None:
    bad = {"name": "alive", "interval": "100ms", "http": {"url": "http://127.0.0.1:9/"}, "consecutiveErrorLimit": 0}
    rollout = {"steps": [{"setWeight": 10}, {"pause": {}}]}

    async def judged() -> tuple[str, str, str]:
        (found,) = judges.ask(await client.get("mended") or {})
        return verdicts(found)

    await client.apply("mended", data={"n": 1}, rollout=rollout)
    await client.ready("mended")
    await client.apply("mended", data={"n": 2}, rollout={**rollout, "checks": [bad]})
    await client.steady("mended", Stalled=("True", "RolledBack"))
    assert await judged() == ("Failed", "Failed", "Degraded")
    await client.apply("mended", data={"n": 3}, rollout=rollout)
    await client.until("mended", lambda s: candidate(s, 3, 10) and said(s, Ready=("False", "Paused")))
    assert await judged() == ("InProgress", "Current", "Suspended")
    await client.apply("mended", data={"n": 1}, rollout=rollout)
    await client.until("mended", lambda s: stable(s, 1))
    assert await judged() == ("Current", "Current", "Healthy")


def test_a_script_that_argo_cd_could_not_run_is_told() -> None:
    """The judge is one: what Argo CD has no library for, what runs on, what is no verdict."""
    for lua in (
        "return {status = string.lower('HEALTHY')}",
        "while true do end",
        "return 'Healthy'",
        "return {status='Good'}",
    ):
        with pytest.raises(ValueError, match="lua: "):
            Judges(lua=lua).ask(registry())
