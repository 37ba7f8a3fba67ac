"""Every route, asked by everybody: what a token is good for, as a real API server judges it.

The table says what each right opens. A route that is new is in none of its columns, and this fails until it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from tests.cluster import KubeCluster
from tests.integration.test_auth import Served, served
from tests.serve_fakes import World

from configregistry.model.reports import EXCHANGE_PATH, NEWS_PATH
from configregistry.serve.routes import Routes

__all__ = ["served"]

RIGHTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "get-data": ("get", "configregistries/data", "checkout"),
    "list-data": ("list", "configregistries/data", ""),
    "get-consumers": ("get", "configregistries/consumers", "checkout"),
    "update-consumers": ("update", "configregistries/consumers", "checkout"),
    "get-object": ("get", "configregistries", "checkout"),
    "get-status": ("get", "configregistries/status", "checkout"),
    "watch-data": ("watch", "configregistries/data", "checkout"),
    "update-data": ("update", "configregistries/data", "checkout"),
}
"""By name: a verb, a resource, and the one object that it is for (empty: any). The last four open nothing here."""
OPENS: Final[Mapping[str, str]] = {
    "GET /v1/namespaces/{namespace}/registries": "list-data",
    "GET /v1/namespaces/{namespace}/registries/{name}": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/keys": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/keys/{key*}": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/versions": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/versions/{version}": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/versions/{from}/diff/{to}": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/watch": "get-data",
    "GET /v1/watch": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/consumers": "get-consumers",
    "GET /v1/namespaces/{namespace}/registries/{name}/consumers/{consumer*}": "get-consumers",
    "PUT /v1/namespaces/{namespace}/registries/{name}/consumers/{consumer*}": "update-consumers",
    "DELETE /v1/namespaces/{namespace}/registries/{name}/consumers/{consumer*}": "update-consumers",
    f"POST {EXCHANGE_PATH}": "",
    f"GET {NEWS_PATH}": "",
    "POST /v1/namespaces/{namespace}/registries/{name}/ofrep/v1/evaluate/flags": "get-data",
    "POST /v1/namespaces/{namespace}/registries/{name}/ofrep/v1/evaluate/flags/{key*}": "get-data",
    "GET /v1/namespaces/{namespace}/registries/{name}/ofrep/v1/events": "get-data",
    "POST /ofrep/v1/evaluate/flags": "anybody",
    "POST /ofrep/v1/evaluate/flags/{key*}": "get-data",
    "GET /openapi.json": "anybody",
}
"""By route: the right that opens it. "anybody" tells nothing of any registry; "" is a controller's alone."""


def objects(name: str, verb: str, resource: str, only: str) -> list[dict[str, Any]]:
    """A ServiceAccount with one right."""
    rule = {"apiGroups": ["configregistry.dev"], "resources": [resource], "verbs": [verb]}
    if only:
        rule["resourceNames"] = [only]
    meta = {"metadata": {"name": name}}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", **meta}
    refers = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", **meta},
        {**rbac, "kind": "Role", "rules": [rule]},
        {**rbac, "kind": "RoleBinding", **refers, "subjects": [{"kind": "ServiceAccount", "name": name}]},
    ]


def url(served: Served, pattern: str, registry: str, namespace: str = "") -> str:
    namespace = namespace or served.namespace
    values = {"namespace": namespace, "name": registry, "version": "1", "from": "1", "to": "1", "consumer*": "pod"}
    values["key*"] = f"{namespace}/{registry}/a" if pattern.startswith("/ofrep") else "a"
    path = pattern
    for place, value in values.items():
        path = path.replace("{" + place + "}", value)
    if pattern == "/v1/watch":
        path += f"?registry={namespace}/{registry}"
    base = served.url.partition("/v1/")[0]
    return base + path


async def ask(served: Served, route: str, registry: str, token: str | None, namespace: str = "") -> int:
    """The status; of a stream no more is read than that."""
    method, _, pattern = route.partition(" ")
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    body = {"context": {"targetingKey": "pod"}} if "ofrep" in pattern else {"version": 1}
    content = json.dumps(body) if method in {"POST", "PUT"} else None
    if content is not None:
        headers["content-type"] = "application/json"
    target = url(served, pattern, registry, namespace)
    async with served.client.stream(method, target, headers=headers, content=content) as reply:
        return reply.status_code


@pytest.fixture
def tokens(cluster: KubeCluster, served: Served) -> dict[str, str]:
    items = [each for name, right in RIGHTS.items() for each in objects(name, *right)]
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster.kubectl("apply", "--server-side", f"--namespace={served.namespace}", "-f", "-", input=whole)
    return {name: served.token(name) for name in RIGHTS}


def test_every_route_is_in_the_table() -> None:
    found: Routes = World().service.routes
    assert {f"{route.method} {route.pattern}" for route in found.all} == set(OPENS)


async def test_a_token_opens_its_own_routes_and_no_other(served: Served, tokens: dict[str, str]) -> None:
    opened: dict[str, set[str]] = {route: set() for route in OPENS}
    for route in OPENS:
        for name, token in tokens.items():
            status = await ask(served, route, "checkout", token)
            assert status not in {401, 500, 503}, (route, name, status)
            if status != 403:
                opened[route].add(name)
    expected = {route: set(tokens) if right == "anybody" else {right} - {""} for route, right in OPENS.items()}
    assert opened == expected

    # Nobody, somebody whose token is not for this, and the same rights where they are not given.
    strangers = [None, "nonsense", served.token("get-data", "--audience=vault")]
    for route, right in OPENS.items():
        for stranger in strangers:
            status = await ask(served, route, "checkout", stranger)
            # What tells nothing is public, and does not look at tokens.
            assert (status == 401) == (right != "anybody"), (route, status)
        if right in {"anybody", "list-data", ""}:
            continue
        assert await ask(served, route, "neighbour", tokens[right]) == 403, route
        assert await ask(served, route, "checkout", tokens[right], namespace="elsewhere") == 403, route
