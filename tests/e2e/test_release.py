"""The whole product as people use it: `helm install` on a real node, and then everything that happens in production.

One release for all of them, in the order in which they stand: those that break things come last, and each begins by
awaiting that all pods are ready. Registries are in a namespace of their own for each.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from tests.cluster import WithPods, wait_for
from tests.integration.running import Client, condition

from configregistry.kube.paths import REGISTRIES
from configregistry.rollout.buckets import bucket

from .conftest import Images
from .fleet import account, consumers, make, token
from .fleet import client as client_pod
from .release import NAMESPACE, Release, installed

WITHIN = 120.0
FLEET = 6
STEPS = [{"setWeight": 50}, {"pause": {"duration": "5s"}}, {"setWeight": 100}, {"pause": {"duration": "1s"}}]
MANY = 1_000
STREAMS = 200


@pytest.fixture(scope="module")
def installed_release(node: WithPods, images: Images) -> Iterator[Release]:
    with installed(node, images.product) as found:
        yield found


@pytest.fixture
def release(installed_release: Release) -> Release:
    installed_release.ready()
    return installed_release


@pytest.fixture
async def team(release: Release, namespace: str) -> AsyncIterator[Client]:
    """A person of a team, in a namespace of theirs."""
    async with Client.of(release.node, namespace) as found:
        yield found


def path(team: Client, registry: str = "checkout") -> str:
    return f"/v1/namespaces/{team.namespace}/registries/{registry}"


def observed(release: Release, team: Client, bearer: str) -> dict[str, tuple[int, str]]:
    """Each consumer's version and how it goes with that, as all replicas know it together."""
    listed = release.get(f"{path(team)}/consumers", bearer).body["consumers"]
    return {each["id"]: (each["observed"]["version"], each["observed"]["status"]) for each in listed}


def names(release: Release, team: Client) -> set[str]:
    """The consumers' pods."""
    shown = release.node.kubectl("get", "pods", f"--namespace={team.namespace}", "--output=name").stdout
    return {each.removeprefix("pod/") for each in shown.split()}


async def fleet(release: Release, team: Client) -> str:
    """Consumers of checkout; gives a token by which one sees them."""
    make(release.node, team.namespace, *consumers("checkout", release.inside + path(team), release.image, FLEET))
    told = ("rollout", "status", f"--namespace={team.namespace}", "deployment/checkout-consumer")
    await asyncio.to_thread(release.node.kubectl, *told, f"--timeout={WITHIN:g}s", timeout=WITHIN + 10)
    return token(release.node, team.namespace, "checkout")


async def all_have(release: Release, team: Client, bearer: str, version: int, number: int = FLEET) -> None:
    """Wait until so many consumers work with a version."""

    def counted() -> bool:
        return [each for each, _status in observed(release, team, bearer).values()].count(version) == number

    await asyncio.to_thread(wait_for, counted, f"{number} consumers with version {version}", timeout=WITHIN)


@contextmanager
def reading(release: Release, team: Client, images: Images) -> Iterator[dict[str, Any]]:
    """A pod reads all the time; what it counted is in what is yielded, at the end."""
    make(release.node, team.namespace, *account("checkout"))
    bearer = token(release.node, team.namespace, "checkout")
    head = f"Authorization: Bearer {bearer}"
    # By its address: what is counted here are reads, and not what a busy machine's DNS server does.
    url = f"{release.address()}{path(team)}/keys/edit"
    make(
        release.node,
        team.namespace,
        client_pod("reader", images.client, "load", "-every", "20ms", "-fresh", "-header", head, url),
    )
    release.node.kubectl(
        "wait", f"--namespace={team.namespace}", "pod/reader", "--for=condition=Ready", "--timeout=60s", timeout=70
    )
    counted: dict[str, Any] = {}
    yield counted
    release.node.kill_container(team.namespace, "reader", signum=signal.SIGTERM)
    ended = ("wait", f"--namespace={team.namespace}", "pod/reader", "--for=jsonpath={.status.phase}=Succeeded")
    release.node.kubectl(*ended, "--timeout=60s", timeout=70)
    lines = release.node.pod_logs(team.namespace, "reader").splitlines()
    counted.update(json.loads(lines[-1]), lines=lines[:-1])


async def test_a_first_registry(release: Release, team: Client) -> None:
    """What the README begins with, on a bare cluster."""
    await team.apply("checkout", data={"greeting": "hello", "limits": {"items": 20}})
    await team.ready("checkout")
    make(release.node, team.namespace, *account("checkout"))
    bearer = token(release.node, team.namespace, "checkout")
    answer = release.get(path(team), bearer)
    assert (answer.code, answer.body["data"]) == (200, {"greeting": "hello", "limits": {"items": 20}})
    assert answer.headers["x-configregistry-version"] == "1"
    assert len(release.pods("controller")) == len(release.pods("serve")) == 2
    assert release.leader() in release.pods("controller")
    told = release.helm.run("test", "configregistry", f"--namespace={NAMESPACE}", "--timeout=2m").stdout
    assert "Succeeded" in told


async def test_a_consumer_reads_its_own_registry_and_is_refused_its_neighbours(release: Release, team: Client) -> None:
    await team.apply("checkout", data={"a": 1})
    await team.apply("payment", data={"secret": "of another team"})
    await team.ready("checkout")
    await team.ready("payment")
    make(release.node, team.namespace, *account("checkout"))
    bearer = token(release.node, team.namespace, "checkout")
    assert release.get(path(team), bearer).code == 200
    refused = release.get(path(team, "payment"), bearer)
    assert (refused.code, refused.body["title"]) == (403, "Forbidden")
    assert "secret" not in json.dumps(refused.body)
    assert release.get(path(team)).code == 401
    assert release.get(path(team).rpartition("/")[0], bearer).code == 403
    elsewhere = release.get("/v1/namespaces/default/registries/checkout", bearer)
    assert elsewhere.code == 403, "that there is none is not said to those who may not know"
    assert release.get(path(team), "not-a-token").code == 401


async def test_a_gray_rollout_among_pods(release: Release, team: Client) -> None:
    await team.apply("checkout", data={"edit": 1})
    await team.ready("checkout")
    bearer = await fleet(release, team)
    await all_have(release, team, bearer, 1)
    rollout = {
        "steps": [{"setWeight": 50}, {"pause": {}}],
        "checks": [{"name": "consumers", "noData": "Wait", "interval": "1s", "consumers": {}}],
    }
    await team.apply("checkout", data={"edit": 2}, rollout=rollout)
    status = await team.until("checkout", lambda s: s.get("canary", {}).get("weight") == 50)
    seed = status["canary"]["seed"]
    chosen = {pod for pod in names(release, team) if bucket(seed, pod) < 50 * 100}

    def as_chosen() -> bool:
        found = observed(release, team, bearer)
        return len(found) == FLEET and {pod for pod, (version, _) in found.items() if version == 2} == chosen

    await asyncio.to_thread(wait_for, as_chosen, f"just {chosen} to have the candidate", timeout=WITHIN)
    await team.command("checkout", "promote", f"2:{(await team.status('checkout'))['canary']['currentStepIndex']}:go")
    await team.until("checkout", lambda s: s["stable"]["version"] == 2, within=WITHIN)
    await all_have(release, team, bearer, 2)


async def test_a_bad_version_goes_back_by_itself(release: Release, team: Client) -> None:
    await team.apply("checkout", data={"edit": 1})
    await team.ready("checkout")
    bearer = await fleet(release, team)
    await all_have(release, team, bearer, 1)
    check = {"name": "consumers", "interval": "1s", "noData": "Wait", "consumers": {"maxErrorPercent": 0}}
    rollout = {"steps": [{"setWeight": 90}, {"pause": {"duration": "1h"}}], "checks": [check]}
    await team.apply("checkout", data={"edit": 2, "breaks": True}, rollout=rollout)
    status = await team.until(
        "checkout", lambda s: s.get("lastOutcome", {}).get("result") == "RolledBack", within=WITHIN
    )
    assert status["lastOutcome"]["version"] == 2
    assert status["stable"]["version"] == 1
    assert [each["version"] for each in status["rejected"]] == [2]
    await all_have(release, team, bearer, 1)

    def well() -> bool:
        return {each for _, each in observed(release, team, bearer).values()} == {"ok"}

    await asyncio.to_thread(wait_for, well, "all consumers to be well again", timeout=WITHIN)
    events = await team.events("checkout")
    assert "RolledBack" in {each["reason"] for each in events} or any("rolled back" in each["note"] for each in events)
    audited = [each for each in release.logs("controller") if each["event"] == "audit"]
    assert any(each["namespace"] == team.namespace and "RolledBack" in str(each["what"]) for each in audited)


async def test_what_is_invalid_is_refused_with_a_clear_text(release: Release, team: Client) -> None:
    schema = {"type": "object", "properties": {"retries": {"type": "integer", "minimum": 0}}}
    spec = {"schema": schema, "data": {"retries": -1}}
    manifest = json.dumps(
        {"apiVersion": "configregistry.dev/v1alpha1", "kind": "ConfigRegistry", "metadata": {"name": "bad"}}
        | {"spec": spec}
    )
    told = ("apply", f"--namespace={team.namespace}", "--filename=-")

    def refused() -> str:
        # failurePolicy is Ignore: before the API server has met the certificate it lets everything in.
        ended = release.node.kubectl(*told, input=manifest, check=False)
        if not ended.returncode:
            release.node.kubectl("delete", "configregistry", "bad", f"--namespace={team.namespace}")
        return ended.stderr

    text = await asyncio.to_thread(wait_for, refused, "the webhook to refuse it")
    assert "admission webhook" in text
    assert "spec.data['retries']" in text
    assert "-1" in text
    assert await team.get("bad") is None


async def test_a_thousand_registries(release: Release, team: Client) -> None:
    before = release.restarts()
    waiting = iter(range(MANY))

    async def create() -> None:
        for number in waiting:
            body = {
                "apiVersion": "configregistry.dev/v1alpha1",
                "kind": "ConfigRegistry",
                "metadata": {"name": f"many-{number}"},
                "spec": {"data": {"number": number, "text": "x" * 400}},
            }
            await team.api.create(REGISTRIES.path(team.namespace), msgspec.json.encode(body))

    await asyncio.gather(*(create() for _ in range(8)))

    async def all_ready() -> bool:
        listed = json.loads(await team.api.list(REGISTRIES.path(team.namespace), seconds=30.0))["items"]
        ready = [each for each in listed if condition(each.get("status", {}), "Ready").get("status") == "True"]
        return len(ready) == MANY

    await team.wait(all_ready, lambda: f"{MANY} registries to be Ready", within=WITHIN)
    make(release.node, team.namespace, *account("many-999"))
    answer = release.get(path(team, "many-999"), token(release.node, team.namespace, "many-999"))
    assert answer.body["data"]["number"] == 999
    assert release.restarts() == before


async def test_a_namespace_that_is_deleted_in_the_middle_of_a_rollout(release: Release, team: Client) -> None:
    await team.apply("checkout", data={"edit": 1})
    await team.ready("checkout")
    await team.apply(
        "checkout", data={"edit": 2}, rollout={"steps": [{"setWeight": 10}, {"pause": {"duration": "2s"}}]}
    )
    await team.until("checkout", lambda s: s.get("canary", {}).get("weight") == 10)
    gone = ("delete", "namespace", team.namespace, f"--timeout={WITHIN:g}s")
    await asyncio.to_thread(release.node.kubectl, *gone, timeout=WITHIN + 10)
    assert set(release.restarts().values()) == {0}
    ours = [each for each in release.logs("controller") if each.get("namespace") == team.namespace]
    assert [each for each in ours if each["level"] == "error"] == []


async def test_the_leading_pod_is_killed_in_the_middle_of_a_step(
    release: Release, disturbable: WithPods, team: Client
) -> None:
    await team.apply("checkout", data={"edit": 1})
    await team.ready("checkout")
    await team.apply("checkout", data={"edit": 2}, rollout={"steps": STEPS})
    before = await team.until("checkout", lambda s: s.get("canary", {}).get("weight") == 50)
    async with team.history("checkout") as history:
        leader = release.leader()
        disturbable.kill_container(NAMESPACE, leader)
        status = await team.until("checkout", lambda s: s["stable"]["version"] == 2, within=WITHIN)
    history.check()
    assert list(dict.fromkeys(place[2] for place in history.places)) == [50, 100, None]
    assert status["leaderEpoch"] > before["leaderEpoch"]
    assert release.leader() not in {"", leader}


async def test_a_serving_pod_is_killed_with_200_streams_open(
    release: Release, disturbable: WithPods, team: Client, images: Images
) -> None:
    await team.apply("checkout", data={"edit": 1})
    await team.ready("checkout")
    make(disturbable, team.namespace, *account("checkout"))
    bearer = token(disturbable, team.namespace, "checkout")
    head, url = f"Authorization: Bearer {bearer}", f"{release.inside}{path(team)}/watch"
    told = ("streams", "-count", str(STREAMS), "-header", head, url)
    make(disturbable, team.namespace, client_pod("watchers", images.client, *told))

    def open_streams() -> float:
        return sum(release.series("serve", "configregistry_watchers").values())

    await asyncio.to_thread(wait_for, lambda: open_streams() == STREAMS, f"{STREAMS} streams", timeout=WITHIN)
    fullest = max(release.series("serve", "configregistry_watchers").items(), key=lambda each: each[1])
    assert fullest[1] > 0
    disturbable.kill_container(NAMESPACE, fullest[0])
    await team.apply("checkout", data={"edit": 2})
    await team.ready("checkout")
    await asyncio.to_thread(wait_for, lambda: open_streams() == STREAMS, "all streams again", timeout=WITHIN)
    disturbable.kill_container(team.namespace, "watchers", signum=signal.SIGTERM)
    ended = ("wait", f"--namespace={team.namespace}", "pod/watchers", "--for=jsonpath={.status.phase}=Succeeded")
    await asyncio.to_thread(disturbable.kubectl, *ended, "--timeout=60s", timeout=70)
    counted = json.loads(disturbable.pod_logs(team.namespace, "watchers").splitlines()[-1])
    assert fullest[1] <= counted["broken"] < 5 * STREAMS, "those of the killed one, and few tries while it was gone"


@pytest.mark.parametrize("restart", ["restart_kubelet", "restart_api_server"])
async def test_what_keeps_the_pods_is_restarted_in_the_middle_of_a_rollout(
    release: Release, disturbable: WithPods, team: Client, images: Images, restart: str
) -> None:
    await team.apply("checkout", data={"edit": 1})
    await team.ready("checkout")
    before = release.restarts()
    with reading(release, team, images) as counted:
        await team.apply("checkout", data={"edit": 2}, rollout={"steps": STEPS})
        await team.until("checkout", lambda s: s.get("canary", {}).get("weight") == 50)
        await asyncio.to_thread(getattr(disturbable, restart))
        await team.until("checkout", lambda s: s["stable"]["version"] == 2, within=WITHIN)
        await asyncio.to_thread(release.ready)
    assert counted["failed"] == 0, counted
    assert {json.loads(each)["value"] for each in counted["bodies"]} <= {1, 2}
    assert release.restarts() == before


async def test_the_release_is_upgraded_in_the_middle_of_a_rollout(
    release: Release, team: Client, images: Images, upgraded_image: str
) -> None:
    """No read fails, the rollout goes on where it was, and nobody who is steady begins one."""
    await team.apply("steady", data={"edit": 1})
    await team.apply("checkout", data={"edit": 1})
    steady = await team.ready("steady")
    await team.ready("checkout")
    old = set(release.pods("serve")) | set(release.pods("controller"))
    with reading(release, team, images) as counted:
        await team.apply("checkout", data={"edit": 2}, rollout={"steps": [{"setWeight": 50}, {"pause": {}}]})
        await team.until("checkout", lambda s: s.get("canary", {}).get("paused") is not None)
        async with team.history("checkout") as history:
            await asyncio.to_thread(release.upgrade, upgraded_image)
            assert not old & (set(release.pods("serve")) | set(release.pods("controller")))
            await asyncio.to_thread(release.rollback)
            status = await team.status("checkout")
            index = status["canary"]["currentStepIndex"]
            await team.command("checkout", "promote", f"2:{index}:go")
            await team.until("checkout", lambda s: s["stable"]["version"] == 2, within=WITHIN)
        history.check()
        assert list(dict.fromkeys(place[1] for place in history.places)) == [2, None]
    assert counted["failed"] == 0, counted
    now = await team.status("steady")
    assert (now["revision"], now["lastVersion"]) == (steady["revision"], steady["lastVersion"])
