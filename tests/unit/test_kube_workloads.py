"""What is read of a workload and its pods, and how; the real API server is asked in tests/integration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from configregistry.kube.client import MAX_CONCURRENT, Api
from configregistry.kube.failures import Forbidden, NotFound, Unavailable
from configregistry.kube.strategies import RollingUpdate, Strategy, max_unavailable
from configregistry.kube.workload_objects import Selector, selector_of
from configregistry.kube.workloads import MAX_LOOKS, MAX_PODS, Container, KubeWorkloads, Pod, TooManyPodsError

NAMESPACE = "/api/v1/namespaces/shop/pods"
SETS = "/apis/apps/v1/namespaces/shop/replicasets"


def owned(uid: str, by: str | None, **metadata: Any) -> dict[str, Any]:
    owners = [{"uid": "somebody", "controller": False}]
    if by is not None:
        owners.append({"uid": by, "controller": True})
    return {"metadata": {"name": f"pod-{uid}", "uid": uid, "ownerReferences": owners, **metadata}}


def workload(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "checkout", "uid": "w", "generation": 4},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "checkout"}}, **spec},
        "status": {"observedGeneration": 4, "availableReplicas": 2},
    }


class Server:
    """A fake of the API server: answers by path, in pages; it has no rights and no selectors of its own."""

    def __init__(self, found: dict[str, Any] | None, sets: list[Any] = [], *pods: list[Any]) -> None:  # noqa: B006
        self.found = found
        self.pages: dict[str, tuple[list[Any], ...]] = {SETS: (sets,), NAMESPACE: pods or ([],)}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.refused = ""
        self.held: asyncio.Event | None = None

    async def get(self, path: str) -> bytes:
        self.asked.append((path, {}))
        if self.held is not None:
            await self.held.wait()
        if self.refused and path.endswith(self.refused):
            raise Forbidden("403 by somebody", status=403)
        if self.found is None:
            raise NotFound("404")
        return json.dumps(self.found).encode()

    async def list(self, path: str, params: Mapping[str, str], *, accept: str) -> bytes:
        self.asked.append((path, {**params, "accept": accept}))
        if self.refused and path.endswith(self.refused):
            raise Forbidden("403 by somebody", status=403)
        pages, number = self.pages[path], int(params.get("continue", "0"))
        more = str(number + 1) if number + 1 < len(pages) else ""
        return json.dumps({"metadata": {"resourceVersion": "7", "continue": more}, "items": pages[number]}).encode()


def params_of(server: Server, path: str) -> list[dict[str, str]]:
    return [params for asked, params in server.asked if asked == path]


def workloads(server: Server) -> KubeWorkloads:
    return KubeWorkloads(cast("Api", server))


ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%", "maxSurge": 1}}


async def test_a_deployment_is_told_with_the_pods_of_its_own_replica_sets() -> None:
    sets = [owned("rs-1", "w"), owned("rs-2", "w"), owned("rs-9", "other")]
    pods = [owned("a", "rs-1"), owned("b", "rs-2", deletionTimestamp="2026-01-01T00:00:00Z")]
    others = [owned("c", "rs-9"), owned("d", None), owned("e", "w")]
    server = Server(workload(strategy=ROLLING), sets, pods, others)
    found = await workloads(server).look("shop", "Deployment", "checkout", fresh=True)
    assert found is not None
    assert (found.uid, found.desired, found.available, found.max_unavailable) == ("w", 3, 2, 1)
    assert [(pod.uid, pod.terminating) for pod in found.pods] == [("a", False), ("b", True)]


@pytest.mark.parametrize(
    ("kind", "plural", "counts"),
    [
        ("StatefulSet", "statefulsets", {"availableReplicas": 2}),
        ("DaemonSet", "daemonsets", {"desiredNumberScheduled": 3, "numberAvailable": 2, "currentNumberScheduled": 9}),
    ],
)
async def test_the_others_own_their_pods_themselves(kind: str, plural: str, counts: dict[str, int]) -> None:
    body = workload(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}})
    body["status"] = {"observedGeneration": 4, **counts}
    server = Server(body, [], [owned("a", "w"), owned("b", "rs-1")])
    found = await workloads(server).look("shop", kind, "checkout", fresh=True)
    assert found is not None
    assert (found.desired, found.available, found.max_unavailable) == (3, 2, 2)
    assert [pod.uid for pod in found.pods] == ["a"]
    assert [path for path, _ in server.asked] == [f"/apis/apps/v1/namespaces/shop/{plural}/checkout", NAMESPACE]


@pytest.mark.parametrize(("observed", "seen"), [(3, False), (4, True), (5, True)])
async def test_whether_its_controller_has_seen_the_spec(observed: int, seen: bool) -> None:
    body = workload()
    body["status"]["observedGeneration"] = observed
    found = await workloads(Server(body)).look("shop", "StatefulSet", "checkout", fresh=True)
    assert found is not None
    assert found.observed is seen


async def test_a_status_that_nobody_has_written_yet() -> None:
    body = workload()
    del body["status"]
    found = await workloads(Server(body)).look("shop", "Deployment", "checkout", fresh=True)
    assert found is not None
    assert (found.observed, found.available, found.available_since) == (False, 0, "")


async def test_when_the_available_condition_changed() -> None:
    body = workload()
    body["status"]["conditions"] = [
        {"type": "Progressing", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Available", "lastTransitionTime": "2026-01-01T00:00:07Z"},
    ]
    found = await workloads(Server(body)).look("shop", "Deployment", "checkout", fresh=True)
    assert found is not None
    assert found.available_since == "2026-01-01T00:00:07Z"


async def test_one_that_does_not_exist() -> None:
    assert await workloads(Server(None)).look("shop", "Deployment", "checkout", fresh=True) is None


def status(name: str, restarts: int, state: dict[str, Any], last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "restartCount": restarts, "state": state, "lastState": last or {}}


RUNS = {"running": {"startedAt": "2026-01-01T00:00:09Z"}}
ENDED = {"terminated": {"finishedAt": "2026-01-01T00:00:05Z", "reason": "OOMKilled", "exitCode": 137}}
WAITS = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("told", "container"),
    [
        (status("c", 0, RUNS), Container("c", 0, "2026-01-01T00:00:09Z", "", "")),
        (status("c", 2, RUNS, ENDED), Container("c", 2, "2026-01-01T00:00:09Z", "2026-01-01T00:00:05Z", "OOMKilled")),
        (status("c", 2, WAITS, ENDED), Container("c", 2, "", "2026-01-01T00:00:05Z", "OOMKilled")),
        (status("c", 2, ENDED), Container("c", 2, "", "2026-01-01T00:00:05Z", "OOMKilled")),
        (status("c", 0, {"waiting": {"reason": "ImagePullBackOff"}}), Container("c", 0, "", "", "ImagePullBackOff")),
        (status("c", 1, {"terminated": {"finishedAt": None}}), Container("c", 1, "", "", "")),
        ({"name": "c"}, Container("c", 0, "", "", "")),
    ],
)
async def test_a_container(told: dict[str, Any], container: Container) -> None:
    pod = {**owned("a", "w", creationTimestamp="2026-01-01T00:00:00Z"), "status": {"containerStatuses": [told]}}
    found = await workloads(Server(workload(), [], [pod])).look("shop", "StatefulSet", "checkout", fresh=True)
    assert found is not None
    assert found.pods == (Pod("pod-a", "a", "2026-01-01T00:00:00Z", False, (container,)),)


async def test_sidecars_are_containers_and_other_init_containers_are_not() -> None:
    pod = {
        **owned("a", "w"),
        "spec": {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "migrate"}]},
        "status": {
            "containerStatuses": [status("app", 0, RUNS)],
            "initContainerStatuses": [status("proxy", 1, RUNS), status("migrate", 3, ENDED)],
        },
    }
    found = await workloads(Server(workload(), [], [pod])).look("shop", "StatefulSet", "checkout", fresh=True)
    assert found is not None
    assert [each.name for each in found.pods[0].containers] == ["app", "proxy"]


# How it asks


async def test_pods_come_from_the_cache_unless_they_have_to_be_fresh() -> None:
    server = Server(workload(), [], [owned("a", "w")], [owned("b", "w")])
    await workloads(server).look("shop", "Deployment", "checkout", fresh=False)
    cached = [*params_of(server, SETS), *params_of(server, NAMESPACE)]
    assert [params.get("resourceVersion") for params in cached] == ["0", "0", None]
    server.asked.clear()
    await workloads(server).look("shop", "Deployment", "checkout", fresh=True)
    assert not any("resourceVersion" in params for _, params in server.asked)
    [sets], [pods, more] = params_of(server, SETS), params_of(server, NAMESPACE)
    assert "PartialObjectMetadataList" in sets["accept"]
    assert {params["labelSelector"] for params in (sets, pods, more)} == {"app=checkout"}
    assert pods["fieldSelector"] == "status.phase!=Failed,status.phase!=Succeeded"
    assert more["continue"] == "1"


@pytest.mark.parametrize(
    ("kind", "refused", "told"),
    [
        ("Deployment", "/checkout", "no right to get deployments.apps in namespace shop, expected one"),
        ("DaemonSet", "/checkout", "no right to get daemonsets.apps in namespace shop, expected one"),
        ("Deployment", "/replicasets", "no right to list replicasets.apps in namespace shop, expected one"),
        ("StatefulSet", "/pods", "no right to list pods in namespace shop, expected one"),
    ],
)
async def test_a_right_that_is_lacking_is_named(kind: str, refused: str, told: str) -> None:
    server = Server(workload())
    server.refused = refused
    with pytest.raises(Forbidden, match=told):
        await workloads(server).look("shop", kind, "checkout", fresh=True)


async def test_more_pods_than_are_looked_at_are_refused_before_they_are_read() -> None:
    server = Server(workload(replicas=MAX_PODS + 1))
    with pytest.raises(TooManyPodsError, match="Deployment checkout has 1001 pods, expected at most 1000 to look at"):
        await workloads(server).look("shop", "Deployment", "checkout", fresh=True)
    assert len(server.asked) == 1


async def test_pods_beyond_what_is_desired_are_bounded_too() -> None:
    pages = [[owned(f"{page}-{n}", "w") for n in range(500)] for page in range(9)]
    server = Server(workload(), [], *pages)
    with pytest.raises(TooManyPodsError):
        await workloads(server).look("shop", "StatefulSet", "checkout", fresh=True)
    assert len(params_of(server, NAMESPACE)) < len(pages)


@pytest.mark.parametrize("odd", [{}, {"metadata": {"uid": "w"}}, {"metadata": {"uid": "w"}, "spec": {"selector": 1}}])
async def test_what_is_no_workload_is_an_error_and_not_none(odd: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="not a Deployment"):
        await workloads(Server(odd)).look("shop", "Deployment", "checkout", fresh=True)


async def test_what_is_no_pod_is_an_error() -> None:
    with pytest.raises(Unavailable, match="not pods"):
        await workloads(Server(workload(), [], [{"metadata": 1}])).look("shop", "StatefulSet", "checkout", fresh=True)


async def test_looks_leave_places_for_others() -> None:
    server = Server(workload())
    server.held = asyncio.Event()
    looks = workloads(server)
    tasks = [asyncio.create_task(looks.look("shop", "StatefulSet", "c", fresh=True)) for _ in range(3 * MAX_LOOKS)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(server.asked) == MAX_LOOKS
    assert 2 * MAX_LOOKS <= MAX_CONCURRENT / 2, "a look makes two requests at once"
    tasks[0].cancel()
    server.held.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in found) == len(tasks) - 1


# What an object says, read as Kubernetes reads it


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({"matchLabels": {"app": "a", "tier": "b"}}, "app=a,tier=b"),
        ({"matchExpressions": [{"key": "k", "operator": "In", "values": ["a", "b"]}]}, "k in (a,b)"),
        ({"matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["a"]}]}, "k notin (a)"),
        (
            {"matchLabels": {"a": ""}, "matchExpressions": [{"key": "x.y/k", "operator": "Exists"}]},
            "a=,x.y/k",
        ),
        ({"matchExpressions": [{"key": "k", "operator": "DoesNotExist", "values": None}]}, "!k"),
    ],
)
def test_a_selector(selector: dict[str, Any], text: str) -> None:
    assert selector_of(msgspec.convert(selector, Selector)) == text


@pytest.mark.parametrize(
    ("kind", "type_", "unavailable", "surge", "desired", "number"),
    [
        ("Deployment", "RollingUpdate", "25%", "25%", 3, 0),
        ("Deployment", "RollingUpdate", "25%", "25%", 8, 2),
        ("Deployment", "RollingUpdate", "25%", "25%", 7, 1),
        ("Deployment", "RollingUpdate", "25%", 0, 3, 1),
        ("Deployment", "RollingUpdate", "1%", "0%", 10, 1),
        ("Deployment", "RollingUpdate", 0, 1, 3, 0),
        ("Deployment", "RollingUpdate", 9, 1, 3, 3),
        ("Deployment", "RollingUpdate", "100%", 1, 3, 3),
        ("Deployment", "RollingUpdate", "25%", 0, 0, 0),
        ("Deployment", "Recreate", None, None, 3, 0),
        ("StatefulSet", "RollingUpdate", None, None, 3, 1),
        ("StatefulSet", "RollingUpdate", 2, None, 3, 2),
        ("StatefulSet", "RollingUpdate", "10%", None, 3, 1),
        ("StatefulSet", "RollingUpdate", "50%", None, 5, 2),
        ("StatefulSet", "RollingUpdate", 5, None, 3, 3),
        ("StatefulSet", "OnDelete", None, None, 3, 0),
        ("DaemonSet", "RollingUpdate", None, None, 3, 1),
        ("DaemonSet", "RollingUpdate", "10%", None, 3, 1),
        ("DaemonSet", "RollingUpdate", "50%", None, 5, 3),
        ("DaemonSet", "RollingUpdate", 0, 1, 5, 0),
        ("DaemonSet", "OnDelete", None, None, 5, 0),
    ],
)
def test_how_many_may_be_unavailable(
    kind: str, type_: str, unavailable: int | str | None, surge: int | str | None, desired: int, number: int
) -> None:
    given = None if unavailable is surge is None else RollingUpdate(unavailable, surge)
    assert max_unavailable(kind, Strategy(type_, given), desired) == number
