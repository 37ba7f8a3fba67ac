"""Every way of applying leaves spec to whoever applies it and status to the controller, and starts nothing twice.

With the real kubectl, and with Flux's own library: server-side and client-side apply, edit, replace, patch, annotate.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.gitops import FluxError, flux_apply
from tests.gitops.flux import MANAGER as FLUX
from tests.integration.running import Client, Operator, candidate, condition, said, stable

pytestmark = [pytest.mark.xdist_group("gitops"), pytest.mark.usefixtures("operator")]

STANDS: Final[dict[str, Any]] = {"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]}
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
COMMAND: Final = "configregistry.dev/command-promote"


class Kubectl:
    """kubectl in the namespace of the tests."""

    def __init__(self, cluster: KubeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    async def __call__(self, *arguments: str, manifest: Any = None, check: bool = True) -> tuple[int, str]:
        """Run it; gives the exit code and all that it said."""
        text = None if manifest is None else json.dumps(manifest)
        given = (*arguments, f"--namespace={self.namespace}")
        ended = await asyncio.to_thread(self.cluster.kubectl, *given, input=text, check=check)
        return ended.returncode, ended.stdout + ended.stderr

    async def flux(self, manifest: dict[str, Any], *, wait: float = 0) -> str:
        """Apply as Flux does."""
        metadata = {**manifest["metadata"], "namespace": self.namespace}
        return await asyncio.to_thread(
            flux_apply, self.cluster.kubeconfig, {**manifest, "metadata": metadata}, wait=wait
        )


@pytest.fixture
def kubectl(crd: KubeCluster, place: str) -> Kubectl:
    return Kubectl(crd, place)


def registry(name: str, size: Any, *, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {"data": {"size": size}, **spec},
    }


async def read(client: Client, name: str) -> dict[str, Any]:
    found = await client.get(name)
    assert found is not None
    return found


def owners(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What each (manager, subresource) owns."""
    return {
        (each["manager"], each.get("subresource", "")): each["fieldsV1"] for each in found["metadata"]["managedFields"]
    }


def assert_fields_have_one_owner(found: dict[str, Any], applier: str) -> None:
    """The controller owns status, all of it and nothing else; the applier owns spec and no status."""
    by_owner = owners(found)
    with_status = {owner for owner, fields in by_owner.items() if "f:status" in fields}
    assert len(with_status) == 1, by_owner
    (controller,) = with_status
    assert controller[1] == "status"
    assert set(by_owner[controller]) == {"f:status"}
    assert {owner[0] for owner, fields in by_owner.items() if "f:spec" in fields} == {applier}


def missing(applied: Any, stored: Any, path: str = "") -> list[str]:
    """Where what is stored is not what was applied: what a GitOps tool would call drift. Defaults may be added."""
    if isinstance(applied, dict) and isinstance(stored, dict):
        return [each for key in applied for each in missing(applied[key], stored.get(key), f"{path}.{key}")]
    if isinstance(applied, list) and isinstance(stored, list) and len(applied) == len(stored):
        pairs = enumerate(zip(applied, stored, strict=True))
        return [each for i, (one, other) in pairs for each in missing(one, other, f"{path}[{i}]")]
    return [] if applied == stored else [f"{path}: applied {applied!r}, stored {stored!r}"]


@pytest.mark.parametrize("mode", ["server-side", "client-side"])
async def test_applying_twice_is_applying_once(client: Client, kubectl: Kubectl, mode: str) -> None:
    apply = ("apply", "--filename=-", *(["--server-side"] if mode == "server-side" else []))
    wanted = registry(f"twice-{mode}", 1, rollout=STANDS, metadata={"labels": {"team": "shop"}})
    name = wanted["metadata"]["name"]
    await kubectl(*apply, manifest=wanted)
    await client.ready(name)
    before = await read(client, name)
    await kubectl(*apply, manifest=wanted)
    after = await read(client, name)
    assert after == before
    assert_fields_have_one_owner(after, "kubectl" if mode == "server-side" else "kubectl-client-side-apply")
    assert missing(wanted, after) == []
    assert (await kubectl("diff", "--filename=-", *apply[2:], manifest=wanted))[0] == 0
    # An edit is one generation and one candidate; what is left out of the manifest goes away.
    edited = registry(name, 2, rollout=STANDS)
    await kubectl(*apply, manifest=edited)
    await client.until(name, lambda s: candidate(s, 2, 10))
    await kubectl(*apply, manifest=edited)
    found = await read(client, name)
    assert found["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert "labels" not in found["metadata"]
    await kubectl(*apply, manifest=registry(name, 2))
    await client.until(name, lambda s: stable(s, 2))
    assert "rollout" not in (await read(client, name))["spec"]
    assert sorted(await client.revisions(name)) == [1, 2]


async def test_client_side_apply_keeps_a_copy_and_therefore_has_a_limit(client: Client, kubectl: Kubectl) -> None:
    large = registry("large", "x" * 270_000)
    code, said_ = await kubectl("apply", "--filename=-", manifest=large, check=False)
    assert code != 0
    assert "metadata.annotations: Too long: may not be more than 262144 bytes" in said_
    await kubectl("apply", "--server-side", "--filename=-", manifest=large)
    await client.ready("large")
    assert LAST_APPLIED not in (await read(client, "large"))["metadata"].get("annotations", {})
    # The copy is metadata: going over to server-side apply, and away with it, is no change of content.
    small = registry("small", 1, rollout=STANDS)
    await kubectl("apply", "--filename=-", manifest=small)
    await client.ready("small")
    before = await read(client, "small")
    copied = json.loads(before["metadata"]["annotations"][LAST_APPLIED])
    assert copied["spec"] == small["spec"]
    await kubectl("apply", "--server-side", "--filename=-", manifest=small)
    moved = await read(client, "small")
    assert_fields_have_one_owner(moved, "kubectl")
    await kubectl("annotate", "creg/small", f"{LAST_APPLIED}-")
    after = await read(client, "small")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["status"] == before["status"]
    # What the manifest then leaves out goes away: nobody else was left as its owner.
    await kubectl("apply", "--server-side", "--filename=-", manifest=registry("small", 1))
    assert "rollout" not in (await read(client, "small"))["spec"]


async def test_kubectl_edit(client: Client, kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor that changes spec and, as nobody should, status."""
    program = tmp_path / "editor.py"
    program.write_text(
        "import sys, yaml\n"
        "with open(sys.argv[1]) as file: found = yaml.safe_load(file)\n"
        "found['spec']['data']['size'] = 2\n"
        "found['status']['stable']['version'] = 77\n"
        "found['status']['conditions'] = []\n"
        "with open(sys.argv[1], 'w') as file: yaml.safe_dump(found, file)\n"
    )
    monkeypatch.setenv("KUBE_EDITOR", shlex.join([sys.executable, str(program)]))
    await kubectl("apply", "--server-side", "--filename=-", manifest=registry("edited", 1, rollout=STANDS))
    before = await client.ready("edited")
    await kubectl("edit", "creg/edited")
    waiting = await client.until("edited", lambda s: candidate(s, 2, 10))
    assert waiting["stable"] == before["stable"]
    found = await read(client, "edited")
    assert found["metadata"]["generation"] == 2
    assert missing(registry("edited", 2, rollout=STANDS), found) == []


async def test_kubectl_replace_and_an_export_that_is_applied_again(client: Client, kubectl: Kubectl) -> None:
    wanted = registry("exported", 1, rollout=STANDS)
    await kubectl("apply", "--server-side", "--filename=-", manifest=wanted)
    await client.ready("exported")
    await kubectl("apply", "--server-side", "--filename=-", manifest=registry("exported", 2, rollout=STANDS))
    await client.until("exported", lambda s: candidate(s, 2, 10))
    await client.command("exported", "promote", "2:0:once")
    await client.until("exported", lambda s: candidate(s, 2, 50) and said(s, Ready=("False", "Paused")))
    before = await read(client, "exported")
    export = json.loads((await kubectl("get", "creg/exported", "--output=json"))[1])
    export["status"] |= {"revision": 999, "stable": {"version": 9, "hash": "0" * 16}, "conditions": []}
    for key in ("resourceVersion", "managedFields", "uid", "generation", "creationTimestamp"):
        export["metadata"].pop(key, None)
    await kubectl("replace", "--filename=-", manifest=export)
    await kubectl("apply", "--filename=-", manifest=export)
    await kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", manifest=export)
    # Replaced by what knows no annotations: the command is gone from the object, and stays done.
    await kubectl("replace", "--filename=-", manifest=registry("exported", 2, rollout=STANDS))
    found = await read(client, "exported")
    assert COMMAND not in found["metadata"].get("annotations", {})
    assert found["metadata"]["generation"] == before["metadata"]["generation"]
    assert found["status"] == before["status"]
    # Under another name it is another registry: nothing of the status comes with it.
    export["metadata"]["name"] = "restored"
    await kubectl("apply", "--server-side", "--filename=-", manifest=export)
    restored = await client.ready("restored")
    assert (restored["stable"]["version"], restored["revision"]) == (1, 1)
    assert restored["commands"]["promote"]["result"] == "Ignored"


async def test_kubectl_patch_changes_what_it_names(client: Client, kubectl: Kubectl) -> None:
    wanted = registry("patched", 1)
    wanted["spec"]["data"] |= {"keep": {"deep": [1, None]}, "drop": True}
    await kubectl("apply", "--server-side", "--filename=-", manifest=wanted)
    await client.ready("patched")
    await kubectl("patch", "creg/patched", "--type=merge", '--patch={"spec":{"data":{"size":2,"drop":null}}}')
    await client.until("patched", lambda s: stable(s, 2))
    assert (await read(client, "patched"))["spec"]["data"] == {"size": 2, "keep": {"deep": [1, None]}}
    patch = '[{"op":"replace","path":"/spec/data/size","value":3},{"op":"add","path":"/status/revision","value":99}]'
    await kubectl("patch", "creg/patched", "--type=json", f"--patch={patch}")
    after = await client.until("patched", lambda s: stable(s, 3))
    assert after["revision"] == 5  # two for each version that replaces another


async def test_a_gitops_tool_that_applies_all_the_time_disturbs_no_rollout(
    client: Client, kubectl: Kubectl, operator: Operator
) -> None:
    """By Flux's library, and by one that writes each time (server-side apply with force, as Argo CD's selfHeal)."""
    steps = [step for weight in (10, 30, 60) for step in ({"setWeight": weight}, {"pause": {"duration": "2s"}})]
    labels = {
        "labels": {"app.kubernetes.io/instance": "shop"},
        "annotations": {"argocd.argoproj.io/tracking-id": "shop"},
    }
    wanted = registry("steered", 1, rollout={"steps": steps, "bake": "1s"}, metadata=labels)
    assert await kubectl.flux(wanted) == "created"
    await client.ready("steered")
    wanted["spec"]["data"]["size"] = 2
    force = ("apply", "--server-side", "--force-conflicts", f"--field-manager={FLUX}", "--filename=-")
    applied: list[str] = []
    async with client.history("steered") as history:
        applied.append(await kubectl.flux(wanted))
        while not stable(await client.status("steered"), 2):
            applied.append(await kubectl.flux(wanted))
            labelled = {**wanted, "metadata": {**wanted["metadata"], "labels": flux_labels(kubectl, wanted)}}
            await kubectl(*force, manifest=labelled)
    assert applied[0] == "configured"
    assert set(applied[1:]) == {"unchanged"}, applied
    weights = [place[2] for place in history.places if place[1] == 2]
    assert weights == sorted(weights), history.places
    assert {10, 30, 60, 100} <= set(weights)
    starts = {each.status["canary"]["startedAt"] for each in history.seen if each.status.get("canary")}
    assert len(starts) == 1
    history.check()
    found = await read(client, "steered")
    assert found["metadata"]["generation"] == 2
    assert_fields_have_one_owner(found, FLUX)
    assert missing(wanted, found) == []
    assert (await kubectl("diff", *force[1:], manifest=labelled))[0] == 0
    revisions = await client.revisions("steered")
    assert sorted(revisions) == [1, 2]
    # What tools track their own objects by is not handed on to the versions: they would prune them.
    for each in revisions.values():
        assert not {key for key in each["metadata"]["labels"] if not key.startswith("configregistry.dev/")}
        assert "argocd.argoproj.io/tracking-id" not in each["metadata"].get("annotations", {})


def flux_labels(kubectl: Kubectl, wanted: dict[str, Any]) -> dict[str, str]:
    """The labels of a manifest with those by which Flux prunes."""
    prefix = "kustomize.toolkit.fluxcd.io"
    owner = {f"{prefix}/name": "tests", f"{prefix}/namespace": kubectl.namespace}
    return {**wanted["metadata"]["labels"], **owner}


async def test_labels_of_a_tool_start_nothing(client: Client, kubectl: Kubectl) -> None:
    await kubectl.flux(registry("labelled", 1, rollout=STANDS))
    before = await client.ready("labelled")
    relabelled = registry("labelled", 1, rollout=STANDS, metadata={"labels": {"release": "2"}})
    assert await kubectl.flux(relabelled) == "configured"
    found = await read(client, "labelled")
    assert found["metadata"]["labels"]["release"] == "2"
    assert found["metadata"]["generation"] == 1
    assert found["status"] == before
    # What the tool prunes is gone with its versions, and what comes back under the name is new.
    await kubectl("delete", "creg", "--selector=release=2", "--wait")
    await kubectl.flux(registry("labelled", 5))
    again = await client.ready("labelled")
    assert (again["stable"]["version"], again["revision"]) == (1, 1)


@pytest.mark.parametrize(
    ("manager", "annotations"),
    [("kubectl-annotate", {}), ("kubectl-annotate", {"kustomize.toolkit.fluxcd.io/ssa": "Merge"}), ("on-call", {})],
    ids=["kubectl", "kubectl-and-merge", "on-call"],
)
async def test_a_command_acts_once_beside_flux(
    client: Client, kubectl: Kubectl, manager: str, annotations: dict[str, str]
) -> None:
    """Flux takes away what a manager called kubectl... wrote; the command is done, and is not done again."""
    name = f"commanded-by-{manager}{len(annotations)}"
    wanted = registry(name, 1, rollout=STANDS, metadata={"annotations": annotations})
    await kubectl.flux(wanted)
    await client.ready(name)
    wanted["spec"]["data"]["size"] = 2
    await kubectl.flux(wanted)
    await client.until(name, lambda s: candidate(s, 2, 10) and said(s, Ready=("False", "Paused")))
    given = [] if manager == "kubectl-annotate" else [f"--field-manager={manager}"]
    await kubectl("annotate", f"creg/{name}", "--overwrite", f"{COMMAND}=2:0:a", *given)
    await client.until(name, lambda s: candidate(s, 2, 50) and said(s, Ready=("False", "Paused")))
    before = await client.status(name)
    assert before["commands"]["promote"]["result"] == "Done"
    took_away = manager.startswith("kubectl") and not annotations
    assert await kubectl.flux(wanted) == ("configured" if took_away else "unchanged")
    assert await kubectl.flux(wanted) == "unchanged"
    found = await read(client, name)
    assert found["metadata"].get("annotations", {}).get(COMMAND) == (None if took_away else "2:0:a")
    # The same token once more is known; the next one acts.
    await kubectl("annotate", f"creg/{name}", "--overwrite", f"{COMMAND}=2:0:a", "--field-manager=on-call")
    await kubectl.flux(wanted)
    assert await client.status(name) == before
    await kubectl("annotate", f"creg/{name}", "--overwrite", f"{COMMAND}=2:2:b", "--field-manager=on-call")
    await client.until(name, lambda s: stable(s, 2))


async def test_a_pin_beside_flux(client: Client, kubectl: Kubectl) -> None:
    """As docs/gitops.md says: kept when another manager made it, gone when kubectl did, Git's when Git names it."""
    for n in (1, 2):
        await kubectl.flux(registry("pins", n))
        await client.until("pins", lambda s, n=n: stable(s, n))  # type: ignore[misc]
    wanted = registry("pins", 2)
    pin = ("patch", "creg/pins", "--type=merge")
    await kubectl(*pin, '--patch={"spec":{"pinnedVersion":1}}', "--field-manager=on-call")
    await client.steady("pins", Ready=("True", "Pinned"))
    assert await kubectl.flux(wanted) == "unchanged"
    assert said(await client.status("pins"), Ready=("True", "Pinned"))
    await kubectl(*pin, '--patch={"spec":{"pinnedVersion":null}}', "--field-manager=on-call")
    await client.steady("pins", Stalled=("True", "Aborted"))
    await client.command("pins", "retry", "2:-:again")
    await client.until("pins", lambda s: stable(s, 2))
    await kubectl(*pin, '--patch={"spec":{"pinnedVersion":1}}')
    await client.steady("pins", Ready=("True", "Pinned"))
    assert await kubectl.flux(wanted) == "configured"
    assert (await read(client, "pins"))["spec"].get("pinnedVersion") is None
    owned = registry("pins", 2, pinnedVersion=None)
    await kubectl.flux(owned)
    await kubectl(*pin, '--patch={"spec":{"pinnedVersion":1}}', "--field-manager=on-call")
    assert await kubectl.flux(owned) == "configured"
    assert (await read(client, "pins"))["spec"].get("pinnedVersion") is None


async def test_defaults_and_values_are_no_drift(client: Client, kubectl: Kubectl) -> None:
    """Every example of the docs, applied as GitOps tools do, is stored as it was written, and a diff shows nothing."""
    texts = [path.read_text() for path in sorted((REPOSITORY / "docs" / "examples").glob("*.yaml"))]
    documents = [each for text in texts for each in yaml.safe_load_all(text) if each["kind"] == "ConfigRegistry"]
    odd = registry("odd-values", 1.0)
    odd["spec"]["data"] |= {
        "exp": 1e3,
        "big": 2**53 - 1,
        "deep": {"nothing": None, "list": [None, {}, []]},
        "text": "1",
    }
    for number, document in enumerate((*documents, odd)):
        document["metadata"]["name"] = f"drift-{number}"
        assert await kubectl.flux(document) == "created"
        assert missing(document, await read(client, f"drift-{number}")) == [], document
        assert await kubectl.flux(document) == "unchanged", document


async def test_flux_waits_for_the_end_of_a_rollout_and_fails_fast(client: Client, kubectl: Kubectl) -> None:
    """`wait: true`: by its library, with its poller."""
    bad = {"name": "alive", "interval": "100ms", "http": {"url": "http://127.0.0.1:9/"}, "consecutiveErrorLimit": 0}
    steps = [{"setWeight": 10}, {"pause": {"duration": "1s"}}]
    await kubectl.flux(registry("awaited", 1, rollout={"steps": steps}), wait=60)
    await kubectl.flux(registry("awaited", 2, rollout={"steps": steps}), wait=60)
    assert stable(await client.status("awaited"), 2)
    with pytest.raises(FluxError, match=r"stalled resources.*awaited status: 'Failed'"):
        await kubectl.flux(registry("awaited", 3, rollout={"steps": steps, "checks": [bad]}), wait=60)
    assert said(await client.status("awaited"), Stalled=("True", "RolledBack"))
    # A revert of the commit: nothing to roll out, and the tool is content at once.
    await kubectl.flux(registry("awaited", 2, rollout={"steps": steps}), wait=60)
    reverted = await client.status("awaited")
    assert stable(reverted, 2)
    assert condition(reverted, "Ready")["status"] == "True"
