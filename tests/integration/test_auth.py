"""Who may read what, as a real API server says it: ServiceAccounts, tokens, Roles; over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from tests.cluster import Cluster, KubeCluster
from tests.serve_clients import Client
from tests.serve_fakes import World

from configregistry.clock import SystemClock
from configregistry.kube.client import Api, connect
from configregistry.kube.reviews import ApiReviews
from configregistry.serve import serve_http
from configregistry.serve.app import App
from configregistry.serve.auth import KubernetesGuard, Times

HOST = "127.0.0.1"
TIMES = Times(fresh=1.0, ahead=0.7, refused=0.1, pause=0.05)
"""Sooner than in life, so that nothing takes ten seconds; `grace` and `patience` as they are."""
WITHIN = 60.0
READER = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "checkout-reader"},
    "rules": [
        {
            "apiGroups": ["configregistry.dev"],
            "resources": ["configregistries/data"],
            "resourceNames": ["checkout"],
            "verbs": ["get"],
        }
    ],
}
LISTER = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "lister"},
    "rules": [{"apiGroups": ["configregistry.dev"], "resources": ["configregistries/data"], "verbs": ["list"]}],
}
REVIEWER = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "rules": [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ],
}
"""All that a replica needs for authentication."""


class Served(NamedTuple):
    """A replica that asks who reads, and the cluster that it asks."""

    cluster: KubeCluster
    namespace: str
    url: str
    client: httpx.AsyncClient
    guard: KubernetesGuard

    def account(self, name: str, *roles: str) -> str:
        """Make a ServiceAccount with these roles; gives a token of it."""
        where = f"--namespace={self.namespace}"
        self.cluster.kubectl("create", "serviceaccount", name, where)
        for role in roles:
            subject = f"--serviceaccount={self.namespace}:{name}"
            self.cluster.kubectl("create", "rolebinding", f"{name}-{role}", f"--role={role}", subject, where)
        return self.token(name)

    def token(self, name: str, *options: str) -> str:
        made = self.cluster.kubectl("create", "token", name, f"--namespace={self.namespace}", *options)
        return made.stdout.strip()

    async def get(self, token: str | None, path: str = "/checkout", **headers: str) -> httpx.Response:
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return await self.client.get(self.url + path, headers=headers)

    async def until(self, token: str, status: int, path: str = "/checkout") -> None:
        deadline = time.monotonic() + WITHIN
        while (reply := await self.get(token, path)).status_code != status:
            assert time.monotonic() < deadline, (reply.status_code, reply.text)
            await asyncio.sleep(0.02)


@pytest.fixture
async def served(cluster: KubeCluster, namespace: str) -> AsyncIterator[Served]:
    for role in (READER, LISTER):
        cluster.kubectl("apply", "--server-side", f"--namespace={namespace}", "-f", "-", input=json.dumps(role))
    async with serving(cluster, namespace, cluster.kubeconfig) as made:
        yield made


def serving(cluster: KubeCluster, namespace: str, kubeconfig: Path, **settings: Any) -> Any:
    return _Serving(cluster, namespace, kubeconfig, settings)


class _Serving:
    def __init__(self, cluster: KubeCluster, namespace: str, kubeconfig: Path, settings: dict[str, Any]) -> None:
        self._arguments = cluster, namespace, kubeconfig, settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Served:
        cluster, namespace, kubeconfig, settings = self._arguments
        world = World()
        for name in ("checkout", "neighbour"):
            world.serve(name, {"a": name}, namespace=namespace)
        api = await self._stack.enter_async_context(await connect(str(kubeconfig)))
        guard = KubernetesGuard(ApiReviews(api), SystemClock(), world.metrics, times=TIMES, **settings)
        self._stack.push_async_callback(guard.close)
        app = App(world.service.routes, world.metrics, lambda: 0.0, guard=guard)
        server = await serve_http(app, HOST, 0)
        self._stack.push_async_callback(server.stop)
        client = httpx.AsyncClient(trust_env=False, timeout=30)
        await self._stack.enter_async_context(client)
        url = f"http://{HOST}:{server.port}/v1/namespaces/{namespace}/registries"
        return Served(cluster, namespace, url, client, guard)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def test_a_consumer_reads_its_own_registry_and_no_other(served: Served) -> None:
    token = served.account("reader", "checkout-reader")
    own = await served.get(token)
    assert (own.status_code, own.json()["data"]) == (200, {"a": "checkout"})
    assert (await served.get(token, "/checkout/keys/a")).status_code == 200
    other = await served.get(token, "/neighbour")
    assert other.status_code == 403
    assert other.headers["content-type"] == "application/problem+json"
    assert other.json()["type"].endswith("/Forbidden")
    who = f"system:serviceaccount:{served.namespace}:reader"
    assert other.json()["detail"] == f"{who} may not get configregistries/data of {served.namespace}/neighbour"
    assert (await served.get(token, "")).status_code == 403
    elsewhere = served.url.replace(served.namespace, "elsewhere")
    reply = await served.client.get(f"{elsewhere}/checkout", headers={"authorization": f"bearer {token}"})
    assert reply.status_code == 403


async def test_list_is_another_right_than_get(served: Served) -> None:
    token = served.account("lister", "lister")
    listed = await served.get(token, "")
    assert [each["name"] for each in listed.json()["registries"]] == ["checkout", "neighbour"]
    assert (await served.get(token)).status_code == 403


async def test_who_is_nobody(served: Served) -> None:
    served.account("reader", "checkout-reader")
    missing = await served.get(None)
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert missing.json()["type"].endswith("/Unauthenticated")
    good = served.token("reader")
    for bad in ("nonsense", good[:-8] + "AAAAAAAA", good + "=", served.token("reader", "--audience=vault")):
        reply = await served.get(bad)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
        assert bad not in reply.text
    twice = [("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")]
    assert (await served.client.get(f"{served.url}/checkout", headers=twice)).status_code == 401


async def test_http_2_and_any_case(served: Served) -> None:
    token = served.account("reader", "checkout-reader")
    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False) as client:
        for header in ({"Authorization": f"bearer {token}"}, {"AUTHORIZATION": f"BEARER {token}"}):
            reply = await client.get(f"{served.url}/checkout", headers=header)
            assert (reply.http_version, reply.status_code) == ("HTTP/2", 200)
        assert (await client.get(f"{served.url}/checkout")).status_code == 401


async def test_a_token_for_us_is_of_no_use_with_the_api_server(served: Served) -> None:
    served.account("reader", "checkout-reader")
    ours = served.token("reader", "--audience=configregistry")
    assert (await served.get(ours)).status_code == 200
    async with await connect(str(served.cluster.kubeconfig)) as api:
        reviews = ApiReviews(api)
        assert await reviews.token(ours) is None
        who = await reviews.token(ours, ["configregistry", "vault"])
        assert who is not None
        assert who.user.endswith(":reader")
        assert dict(who.extra)  # the token's own id: authorisers are told all of it
        assert await reviews.token(ours, ["vault"]) is None
    async with serving(
        served.cluster, served.namespace, served.cluster.kubeconfig, api_audience=False
    ) as strict:  # fmt: skip
        assert (await strict.get(ours)).status_code == 200
        assert (await strict.get(served.token("reader"))).status_code == 401


async def test_a_right_that_is_taken_and_given(served: Served) -> None:
    token = served.account("reader", "checkout-reader")
    assert (await served.get(token)).status_code == 200
    where = f"--namespace={served.namespace}"
    served.cluster.kubectl("delete", "rolebinding", "reader-checkout-reader", where)
    await served.until(token, 403)
    subject = f"--serviceaccount={served.namespace}:reader"
    served.cluster.kubectl("create", "rolebinding", "again", "--role=checkout-reader", subject, where)
    await served.until(token, 200)
    served.cluster.kubectl("delete", "serviceaccount", "reader", where)
    await served.until(token, 401)


def signed(cluster: Cluster, token: str, **claims: Any) -> str:
    """The same token with other claims, signed with the cluster's own key: the API server gives none below 10 min."""
    head, payload, _ = token.split(".")

    def plain(part: str) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=="))
        return decoded

    def packed(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    assert plain(head)["alg"] == "ES256"
    text = f"{head}.{packed(json.dumps(plain(payload) | claims).encode())}"
    key = cluster.directory / "pki" / "service-account.key"
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    der = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    # SEQUENCE { INTEGER r, INTEGER s }; a JWT has both as 32 bytes each (RFC 7518, 3.4).
    r, s = der[4 : 4 + der[3]], der[6 + der[3] :]
    return f"{text}.{packed(b''.join(int.from_bytes(each).to_bytes(32) for each in (r, s)))}"


LEEWAY = 60
"""Seconds for which Kubernetes takes a ServiceAccount's token beyond its end (go-jose's default)."""


async def test_a_token_that_expires_while_it_is_used(own_cluster: Cluster, served: Served) -> None:
    token = served.account("reader", "checkout-reader")
    now = int(time.time())
    short = signed(own_cluster, token, iat=now - 600, nbf=now - 600, exp=now + 3 - LEEWAY)
    assert (await served.get(short)).status_code == 200
    await served.until(short, 401)
    assert (await served.get(token)).status_code == 200


async def test_an_api_server_that_goes_away_while_a_thousand_clients_read(
    own_cluster: Cluster, served: Served
) -> None:  # fmt: skip
    served.account("reader", "checkout-reader")
    path = f"/api/v1/namespaces/{served.namespace}/serviceaccounts/reader/token"
    async with await connect(str(own_cluster.kubeconfig)) as api:
        tokens = [await request_token(api, path) for _ in range(100)]
        stranger = await request_token(api, path)
    codes: Counter[int] = Counter()
    stop = asyncio.Event()

    url = urlsplit(served.url)
    assert url.port is not None
    port, target = url.port, f"{url.path}/checkout"

    async def read(token: str) -> None:
        async with Client(port) as client:
            while not stop.is_set():
                client.send(target, f"Authorization: Bearer {token}")
                codes[(await client.receive()).status] += 1
                await asyncio.sleep(1)

    def done() -> int:
        return codes.total()

    readers = [asyncio.create_task(read(tokens[number % len(tokens)])) for number in range(1000)]
    try:
        await reached(lambda: done() >= 1000)
        await asyncio.to_thread(own_cluster.stop_component, "kube-apiserver")
        try:
            # Long enough that everything remembered is older than it may be while there are answers.
            await asyncio.sleep(2 * TIMES.fresh)
            before = done()
            await reached(lambda: done() >= before + 2000)
            assert (await served.get(stranger)).status_code == 503
            assert (await served.get(tokens[0], "/neighbour")).status_code == 503
        finally:
            await asyncio.to_thread(own_cluster.start_component, "kube-apiserver")
        before = done()
        await reached(lambda: done() >= before + 2000)
        await served.until(stranger, 200)
    finally:
        stop.set()
        await asyncio.gather(*readers)
    assert set(codes) == {200}
    own_cluster.kubectl("delete", "rolebinding", "reader-checkout-reader", f"--namespace={served.namespace}")
    await served.until(tokens[0], 403)


async def request_token(api: Api, path: str) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    found = msgspec.json.decode(await api.create(path, msgspec.json.encode(body)))
    return str(found["status"]["token"])


async def reached(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture
def reviewer(cluster: KubeCluster, namespace: str) -> Iterator[str]:
    """A ClusterRole with the rights to ask."""
    name = f"reviewer-{namespace}"
    role = REVIEWER | {"metadata": {"name": name}}
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(role))
    yield name
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", name, "--ignore-not-found")


async def test_what_a_replica_needs_for_it(served: Served, reviewer: str) -> None:
    token = served.account("reader", "checkout-reader")
    served.account("replica")
    kubeconfig = served.cluster.service_account_kubeconfig(served.namespace, "replica")
    async with serving(served.cluster, served.namespace, kubeconfig) as replica:
        assert (await replica.get(token)).status_code == 503
        subject = f"--serviceaccount={served.namespace}:replica"
        served.cluster.kubectl("create", "clusterrolebinding", reviewer, f"--clusterrole={reviewer}", subject)
        await replica.until(token, 200)
        assert (await replica.get(token, "/neighbour")).status_code == 403
