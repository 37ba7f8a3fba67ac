"""`configregistry run` as a person meets it: what it says when it cannot work, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.cluster import Cluster, KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.standing import REPOSITORY
from tests.integration.between import Between, Call
from tests.integration.running import Client, Operator, running

pytestmark = pytest.mark.xdist_group("run-command")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CONFIGREGISTRY_", "KUBERNETES_")) and name != "KUBECONFIG"
    }
    kept["PYTHONPATH"] = str(REPOSITORY / "operator")
    return subprocess.run(
        [sys.executable, "-m", "configregistry", "run", *arguments],
        env={**kept, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def test_a_failpoint_that_does_not_exist_is_refused() -> None:
    ended = run(CONFIGREGISTRY_FAILPOINTS="act.status.aftr=kill")
    assert ended.returncode == 2
    assert "act.status.after" in last_line(ended)


@pytest.fixture
def held() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def kubeconfig(path: Path, **cluster: Any) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(config))
    return path


def test_no_cluster_is_configured(tmp_path: Path) -> None:
    ended = run(HOME=str(tmp_path))
    assert ended.returncode == 2
    assert "no cluster is configured" in last_line(ended)
    assert "--kubeconfig" in last_line(ended)


def test_a_kubeconfig_that_does_not_exist(tmp_path: Path) -> None:
    ended = run(f"--kubeconfig={tmp_path}/none")
    assert (ended.returncode, "names no file that exists" in last_line(ended)) == (2, True), ended.stderr


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "clusters: 5", "\x00"], ids=["json", "list", "type", "binary"])
def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    ended = run(f"--kubeconfig={path}")
    assert ended.returncode == 2, ended.stderr
    assert str(path) in ended.stderr
    last_line(ended)


def test_a_context_that_does_not_exist(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", server=f"http://{LOOPBACK}:1")
    ended = run(f"--kubeconfig={path}", "--context=nowhere")
    assert (ended.returncode, "nowhere" in last_line(ended)) == (2, True), ended.stderr


def test_no_api_server_answers(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", server=f"http://{LOOPBACK}:{pick_ports(1)[0]}")
    ended = run(f"--kubeconfig={path}")
    assert ended.returncode == 2, ended.stderr
    assert "no API server answers at" in last_line(ended)


def test_missing_rights_are_all_named(crd: KubeCluster, namespace: str) -> None:
    nobody = crd.user_kubeconfig("nobody-at-all")
    ended = run(f"--kubeconfig={nobody}", f"--namespace={namespace}")
    assert ended.returncode == 2, ended.stderr
    for right in ("list configregistries.configregistry.dev", "create controllerrevisions.apps", "get configmaps"):
        assert right in last_line(ended)
    assert f"in namespace {namespace}" in last_line(ended)
    cluster_wide = run(f"--kubeconfig={nobody}")
    assert "in all namespaces" in last_line(cluster_wide)


def test_a_cluster_without_the_crd_is_told_how_to_get_it(cluster: KubeCluster) -> None:
    """In a cluster of its own: one that has a CRD taken away and given back sends no events for minutes."""
    if not cluster.owned:
        pytest.skip("needs the programs of a cluster of our own")
    with Cluster() as bare:
        ended = run(f"--kubeconfig={bare.kubeconfig}")
    assert ended.returncode == 2, ended.stderr
    assert "kubectl apply --server-side -f crds/" in last_line(ended)


@pytest.mark.parametrize("option", ["--port", "--probe-port"])
def test_a_port_that_is_taken(crd: KubeCluster, namespace: str, held: int, option: str) -> None:
    others = {"--port": "--probe-port", "--probe-port": "--port"}
    ended = run(f"--kubeconfig={crd.kubeconfig}", f"--namespace={namespace}", f"{option}={held}", f"{others[option]}=0")
    assert ended.returncode == 2, ended.stderr
    assert f"cannot listen on {LOOPBACK}:{held}" in last_line(ended)
    assert option in last_line(ended)


def test_options_from_the_environment_and_wrong_ones() -> None:
    ended = run(CONFIGREGISTRY_PORT="seventy")
    assert (ended.returncode, "CONFIGREGISTRY_PORT" in ended.stderr or "--port" in ended.stderr) == (2, True)
    assert run("--namespace=No Such").returncode == 2
    assert run("--namespace=").returncode == 2
    assert run("--no-such-option").returncode == 2


async def test_settings_come_from_the_environment(crd: KubeCluster, namespace: str, tmp_path: Path) -> None:
    port, probe_port = pick_ports(2)
    environment = {
        "CONFIGREGISTRY_KUBECONFIG": str(crd.kubeconfig),
        "CONFIGREGISTRY_NAMESPACES": f"{namespace} other",
        "CONFIGREGISTRY_PORT": str(port),
        "CONFIGREGISTRY_PROBE_PORT": str(probe_port),
        "CONFIGREGISTRY_ENV": "testing",
    }
    operator = Operator((), tmp_path, environment, port, probe_port)
    # Flags of the helper name the same ports; everything else is the environment's.
    try:
        operator.start()
        serving = next(line for line in operator.lines if line["event"] == "serving")
        assert serving["namespaces"] == [namespace, "other"]
    finally:
        operator.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_within_five_seconds_with_everything_under_way(
    crd: KubeCluster, namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Requests held open, a probe that is not answered, watches, and an API server that answers no more."""
    probed, stuck = asyncio.Event(), asyncio.Event()

    async def never(_request: web.Request) -> web.Response:
        probed.set()
        await stuck.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/healthz", never)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    check = {
        "name": "alive",
        "http": {"url": f"http://{LOOPBACK}:{runner.addresses[0][1]}/healthz", "timeoutSeconds": 30},
    }
    rollout = {"steps": [{"setWeight": 10}, {"pause": {}}], "checks": [check]}
    between = Between()
    writing = asyncio.Event()

    async def hold(call: Call) -> bool:
        if call.writes("events"):
            writing.set()
            await stuck.wait()
        return False

    between.before = hold
    async with (
        between.listening(crd.kubeconfig, tmp_path) as config,
        Client.of(crd, namespace) as client,
        aiohttp.ClientSession() as session,
    ):
        with running(crd, namespace, tmp_path, kubeconfig=config, start=False) as operator:
            operator.start(ready=False)
            await asyncio.to_thread(operator.await_ready)
            await client.apply("busy", data={"n": 1}, rollout=rollout)
            await client.ready("busy")
            await client.apply("busy", data={"n": 2}, rollout=rollout)
            await asyncio.wait_for(probed.wait(), 30)
            await asyncio.wait_for(writing.wait(), 30)
            address = f"http://{LOOPBACK}:{operator.port}/v1/namespaces/{namespace}/registries/busy"
            async with session.get(address) as answer:
                assert answer.status == 200
            _reader, half = await asyncio.open_connection(LOOPBACK, operator.port)
            half.write(b"GET /v1/namespaces/x HTTP/1.1\r\n")
            await half.drain()
            began = time.monotonic()
            operator.send(number)
            code = await asyncio.to_thread(operator.ended, 30)
            assert time.monotonic() - began < 5
            assert code == 0
            assert "Traceback" not in operator.log, operator.log
            half.close()
            with suppress(ConnectionError):
                await half.wait_closed()
            stuck.set()
    await runner.cleanup()


async def test_it_ends_while_it_still_waits_for_the_api_server(tmp_path: Path) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(silent, LOOPBACK, 0)
    path = kubeconfig(tmp_path / "config", server=f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
    operator = Operator((f"--kubeconfig={path}",), tmp_path).start(ready=False)
    try:
        await asyncio.wait_for(asked.wait(), 30)
        operator.send(signal.SIGTERM)
        assert await asyncio.to_thread(operator.ended, 5) == 0
        assert "Traceback" not in operator.log, operator.log
    finally:
        operator.kill()
        ended.set()
        server.close()
        await server.wait_closed()
