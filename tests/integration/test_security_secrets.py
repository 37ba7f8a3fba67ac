"""Nothing that is secret shows where people and machines look: logs, events, status, metrics, what is served.

Each secret is a word of its own, put where users have them; then everything that the operator said is searched.
"""

from __future__ import annotations

import json
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.integration.operators import crd
from tests.integration.running import Client, Operator, condition, running, wait
from tests.servers.hooked import Hooked

from configregistry.kube.paths import Resource

__all__ = ["crd"]

SECRETS: Final = Resource("", "v1", "secrets")
REVISIONS: Final = Resource("apps", "v1", "controllerrevisions")
WORD: Final = "pssst"
"""Begins every secret of this suite."""


def secret(name: str) -> str:
    return f"{WORD}-{name}"


def url(address: str, name: str, path: str = "/") -> str:
    """With secrets in all the places in which a URL has them."""
    return f"http://user:{secret(name)}@{address}{path}?token={secret(name)}#{secret(name)}"


def basic_auth(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    with Hooked() as service:
        yield service


@pytest.fixture
async def person(crd: KubeCluster, namespace: str) -> AsyncIterator[Client]:
    async with Client.of(crd, namespace) as made:
        yield made


async def said_of_everything(operator: Operator, person: Client, names: list[str]) -> dict[str, str]:
    """All that people and machines can see, by where."""
    found = {"log": operator.log}
    for name in names:
        whole = await person.get(name)
        assert whole is not None
        found[f"status of {name}"] = json.dumps(whole.get("status", {}))
        added = {key: value for key, value in whole["metadata"].get("annotations", {}).items() if WORD in value}
        found[f"annotations of {name}"] = json.dumps(added)
        found[f"events of {name}"] = json.dumps(await person.events(name))
        for number, version in (await person.revisions(name)).items():
            found[f"version {number} of {name}"] = json.dumps(version["metadata"])
        found[f"read of {name}"] = read(operator.port, f"/v1/namespaces/{person.namespace}/registries/{name}/versions")
    for path in ("/metrics", "/livez", "/readyz"):
        found[path] = read(operator.probe_port, path)
    return found


def read(port: int, path: str) -> str:
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}")
    opened = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with opened(request, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


async def test_no_secret_shows(
    crd: KubeCluster, namespace: str, tmp_path: Path, person: Client, hooked: Hooked
) -> None:
    (closed,) = pick_ports(1)
    dead, alive = f"{LOOPBACK}:{closed}", hooked.address
    hooked.says(f"/refuses?token={secret('refusing')}", {"allowed": False, "message": "no"})
    hooked.says(f"/moves?token={secret('moved-http')}", status=302)
    token = tmp_path / "token"
    token.write_text(secret("replica-token"))
    options = (
        f"--replica=http://{dead}",
        f"--replica-token-file={token}",
        f"--webhook-port={pick_ports(1)[0]}",
        f"--webhook-secret={namespace}/webhook",
        "--webhook-configuration=there-is-none",
        "--log-level=debug",
    )

    def check(name: str, **kind: Any) -> dict[str, Any]:
        return {"name": name, "interval": "1s", "consecutiveErrorLimit": 1, **kind}

    def rollout(*checks: dict[str, Any]) -> dict[str, Any]:
        return {"steps": [{"setWeight": 50}, {"pause": {"duration": "30s"}}], "checks": list(checks)}

    asked = {
        "dead-check": rollout(check("dead", http={"url": url(dead, "dead-http")})),
        "bad-check": rollout(check("bad", http={"url": url(alive, "bad-http"), "expectedStatus": [418]})),
        "moved-check": rollout(check("moved", http={"url": url(alive, "moved-http", "/moves")})),
        "prometheus": rollout(check("prom", prometheus={"address": url(alive, "prometheus"), "query": "up"}, min=1)),
    }
    names = [*asked, "validators", "hooks"]
    # A controller alone, for only it asks replicas by HTTP; and `serve` beside it for what readers see.
    with (
        running(crd, namespace, tmp_path / "controller", *options, command="controller") as controller,
        running(crd, namespace, tmp_path / "serve", "--log-level=debug", command="serve") as serve,
    ):
        for name in (*asked, "hooks"):
            await person.apply(name, data={"a": 1})
        for name in (*asked, "hooks"):
            await person.ready(name)
        for name, plan in asked.items():
            await person.apply(name, data={"a": 2}, rollout=plan)
        await person.apply(
            "validators",
            data={"a": 1},
            validators=[
                {"name": "refuses", "url": url(alive, "refusing", "/refuses")},
                {"name": "dead", "url": url(dead, "dead-validator")},
            ],
        )
        await person.apply(
            "hooks",
            data={"a": 2},
            rollout={**rollout(), "progressDeadline": "2s"},
            hooks=[{"name": "dead", "when": "PreRollout", "url": url(dead, "dead-hook")}],
        )
        for name in asked:
            await person.until(name, lambda s: s.get("rejected"))
        await person.until("validators", lambda s: condition(s, "Stalled").get("status") == "True")
        await person.until("hooks", lambda s: condition(s, "Ready")["reason"] == "HookVetoed")
        wait(lambda: "replica" in controller.log, lambda: controller.log[-2000:])
        held = json.loads(await person.api.get(SECRETS.path(namespace, "webhook")))["data"]
        told = await said_of_everything(serve, person, names)
        told["log of the controller"] = controller.log
        for path in ("/metrics", "/livez", "/readyz"):
            told[f"{path} of the controller"] = read(controller.probe_port, path)

    shown = {where: text[max(0, text.find(WORD) - 200) :][:400] for where, text in told.items() if WORD in text}
    assert not shown
    # The services got theirs: what must not be shown is used all the same.
    login = basic_auth("user", secret("refusing"))
    assert (f"/refuses?token={secret('refusing')}", login) in {
        (each.path, each.headers.get("Authorization")) for each in hooked.sent
    }
    assert not [where for where, text in told.items() if login.split()[1] in text]
    # And of the certificate only what everybody may have.
    decoded = {name: b64decode(value).decode() for name, value in held.items()}
    keys = [text for text in decoded.values() if "PRIVATE KEY" in text]
    assert keys
    for where, text in told.items():
        assert "PRIVATE KEY" not in text, where
        for key in keys:
            assert not any(line in text for line in key.splitlines() if not line.startswith("-")), where
