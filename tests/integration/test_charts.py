"""The charts, by the real Helm: linted, rendered with many values, and every object taken by a real API server.

There is no node here, so no pod runs; that they would be let in under the level `restricted` is asked, too. What the
installed product does is for tests/e2e.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.helm import CHART, CRDS_CHART, Helm, HelmError
from tests.helm.foreign import foreign_crds
from tests.helm.pairs import Case, pairwise
from tests.integration.charts_cases import AXES, REFUSED, Values, values_of
from tests.verify.charts import UnusableError, check_charts

from configregistry.cli.main import cli
from configregistry.kube.client import Api, connect
from configregistry.kube.failures import ApiError
from configregistry.kube.paths import Resource

CASES = pairwise({axis: list(options) for axis, options in AXES.items()})
DEFAULT = CASES[0]
PLURALS = {"NetworkPolicy": "networkpolicies"}
CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "ValidatingWebhookConfiguration")
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm()


@pytest.fixture(scope="module")
def taking(cluster: KubeCluster) -> Iterator[str]:
    """A namespace that takes only pods of the level `restricted`, in a cluster that knows all kinds of objects."""
    files = [f"--filename={path}" for path in foreign_crds()]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", *files)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *files)
    name = cluster.create_namespace("charts")
    cluster.kubectl("label", "namespace", name, RESTRICTED)
    yield name
    cluster.delete_namespace(name)


def id_of(case: Case) -> str:
    return "-".join(option for axis, option in case.items() if option != next(iter(AXES[axis]))) or "default"


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def pods_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that would be made, without what must be there before them."""
    templates = [each["spec"]["template"] for each in of_kind(objects, "Deployment")]
    found = [*templates, *of_kind(objects, "Pod")]
    assert len(found) == 3
    for number, pod in enumerate(found):
        pod["spec"].pop("serviceAccountName", None)
        pod["metadata"] = {**pod["metadata"], "name": f"pod-{number}"}
    return [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in found]


async def dry_run(api: Api, namespace: str, objects: list[dict[str, Any]]) -> list[str]:
    """Have the API server say what it would refuse; fields that it does not know are errors."""

    async def refusal(wanted: dict[str, Any]) -> str | None:
        group, _, version = str(wanted["apiVersion"]).rpartition("/")
        kind = str(wanted["kind"])
        place = None if kind in CLUSTER_WIDE else wanted["metadata"].get("namespace", namespace)
        path = Resource(group, version, PLURALS.get(kind, f"{kind.lower()}s")).path(place)
        try:
            await api.create(f"{path}?dryRun=All&fieldValidation=Strict", json.dumps(wanted).encode())
        except ApiError as error:
            return f"{kind} {wanted['metadata']['name']}: {error}"
        return None

    return [told for told in await asyncio.gather(*map(refusal, objects)) if told is not None]


def parsed(arguments: list[str], file: Path) -> click.Context:
    """What the program's own command line makes of a container's arguments; files are taken to be there."""
    command = cli.commands[arguments[0]]
    there = [f"{each.partition('=')[0]}={file}" if "=/" in each else each for each in arguments[1:]]
    return command.make_context(arguments[0], there)


@pytest.mark.parametrize("chart", [CHART, CRDS_CHART], ids=lambda chart: chart.name)
def test_lint_has_nothing_to_say(helm: Helm, chart: Path) -> None:
    helm.run("lint", "--strict", chart)


@pytest.mark.parametrize("case", CASES, ids=id_of)
async def test_each_object_is_taken_by_a_real_api_server(
    cluster: KubeCluster, taking: str, helm: Helm, tmp_path: Path, case: Case
) -> None:
    objects = helm.template(values=values_of(case), namespace=taking)
    (file := tmp_path / "file").touch()
    for deployment in of_kind(objects, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert parsed(container["args"], file).params["probe_port"] == 8081
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels.items() >= deployment["spec"]["selector"]["matchLabels"].items()
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    made = [each for each in objects if each["kind"] != "Pod"]
    async with await connect(str(cluster.kubeconfig)) as api:
        assert not await dry_run(api, taking, [*made, *pods_of(objects)])


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=lambda each: each[:40] if isinstance(each, str) else "")
def test_what_cannot_be_meant_is_refused_with_its_name(helm: Helm, values: Values, said: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.template(values=values)
    assert said in str(refused.value)


def test_the_crds_chart_is_what_crds_says(helm: Helm) -> None:
    assert not check_charts(write=False), "run `make verify WRITE=1`"
    rendered = {each["metadata"]["name"]: each for each in helm.template(CRDS_CHART)}
    written = {path.name: yaml.safe_load(path.read_text()) for path in (REPOSITORY / "crds").glob("*.yaml")}
    assert rendered.keys() == {each["metadata"]["name"] for each in written.values()}
    for each in written.values():
        found = rendered[each["metadata"]["name"]]
        assert found["spec"] == each["spec"]
        assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crds_chart_is_made_of_crds_alone(tmp_path: Path) -> None:
    for folder in ("crds", "charts/configregistry-crds/templates"):
        (tmp_path / folder).mkdir(parents=True)
    crd, made = tmp_path / "crds" / "a.yaml", tmp_path / "charts/configregistry-crds/templates"
    crd.write_text("kind: X\nmetadata:\n  name: x\n")
    (made / "gone.yaml").write_text("of a CRD that is no more")
    assert len(check_charts(tmp_path, write=True)) == 2
    assert [path.name for path in made.iterdir()] == ["a.yaml"]
    assert not check_charts(tmp_path, write=False)
    for unusable in ("# {{ x }}\nmetadata:\n", "kind: X\n"):
        crd.write_text(unusable)
        with pytest.raises(UnusableError, match=r"a\.yaml: .*expected"):
            check_charts(tmp_path, write=False)


async def test_pods_that_are_less_than_restricted_would_be_refused(
    cluster: KubeCluster, taking: str, helm: Helm
) -> None:
    """The level is asked for indeed."""
    pods = pods_of(helm.template(values={"securityContext": {"capabilities": None}}, namespace=taking))
    async with await connect(str(cluster.kubeconfig)) as api:
        told = await dry_run(api, taking, pods)
    assert len(told) == 3
    assert all("violates PodSecurity" in each for each in told)


def test_a_token_is_only_where_it_is_needed(helm: Helm) -> None:
    objects = helm.template()
    assert all(each["automountServiceAccountToken"] is False for each in of_kind(objects, "ServiceAccount"))
    (test,) = of_kind(objects, "Pod")
    assert test["spec"]["automountServiceAccountToken"] is False
    # The controller asks replicas with a token that the API server would not take.
    controller = next(
        each for each in of_kind(objects, "Deployment") if each["metadata"]["name"].endswith("controller")
    )
    sources = [v["projected"]["sources"] for v in controller["spec"]["template"]["spec"]["volumes"] if "projected" in v]
    assert [each["serviceAccountToken"]["audience"] for (each,) in sources] == ["configregistry"]


def test_an_update_of_the_chart_alone_restarts_nothing(helm: Helm, tmp_path: Path) -> None:
    """And what changes the image does."""
    other = tmp_path / "configregistry"
    copied = [(path, other / path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()]
    for path, copy in copied:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (other / "Chart.yaml").write_text((CHART / "Chart.yaml").read_text().replace("\nversion: ", "\nversion: 9"))

    def templates(chart: Path, **values: Any) -> list[dict[str, Any]]:
        return [each["spec"]["template"] for each in of_kind(helm.template(chart, values=values), "Deployment")]

    assert templates(other) == templates(CHART)
    assert templates(CHART, image={"tag": "other"}) != templates(CHART)


def test_notes_tell_what_is_next(cluster: KubeCluster) -> None:
    helm = Helm.of(cluster)
    told = helm.run("install", "configregistry", CHART, "--namespace=shop", "--dry-run=client").stdout
    notes = told.partition("NOTES:")[2]
    # A dry run looks at nothing, so it finds no CRDs, and that is the first thing to be told.
    for said in ("helm install configregistry-crds", "helm test configregistry --namespace shop", "Bearer"):
        assert said in notes
    open_to_all = helm.run("install", "x", CHART, "--dry-run=client", values={"serve": {"auth": "none"}}).stdout
    assert "whoever reaches the Service reads every registry" in open_to_all


def test_rules_and_dashboard_come_through_as_they_are_written(helm: Helm) -> None:
    """Their braces are Prometheus's and Grafana's, and none of Helm's business."""
    objects = helm.template(values=AXES["told"]["all"])
    (rules,), files = of_kind(objects, "PrometheusRule"), CHART / "files"
    assert rules["spec"] == yaml.safe_load((files / "rules.yaml").read_text())
    (dashboard,) = of_kind(objects, "ConfigMap")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    (text,) = dashboard["data"].values()
    assert json.loads(text) == json.loads((files / "dashboard.json").read_text())
