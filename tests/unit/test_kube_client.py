"""The client, its credentials, Events and the preflight, against servers that are fakes."""

from __future__ import annotations

import asyncio
import json
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pytest
from aiohttp import web
from tests.unit.test_kube_fake_api import FakeTime, answer, hang, serving, until

from configregistry.kube import preflight
from configregistry.kube.access import Access, load_access, no_token
from configregistry.kube.client import MAX_CONCURRENT, Api, Timeouts, connect
from configregistry.kube.configmaps import read_configmap
from configregistry.kube.events import CAPACITY, WINDOW, Recorder
from configregistry.kube.failures import (
    MissingCrdError,
    NoClusterError,
    NotFound,
    NotPermittedError,
    Throttled,
    Unauthorized,
    Unavailable,
)
from configregistry.kube.objects import Meta
from configregistry.rollout.observation import Note

PATIENT = Timeouts(connect=30.0, total=30.0, idle=30.0)
QUICK = Timeouts(connect=30.0, total=0.3, idle=0.3)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def api_at(url: str, timeouts: Timeouts = PATIENT) -> Api:
    return Api(Access(url, no_token), timeouts=timeouts)


async def failure(handler: Handler, method: str = "get", timeouts: Timeouts = PATIENT) -> Unavailable:
    async with serving(handler) as url, api_at(url, timeouts) as api:
        with pytest.raises(Unavailable) as caught:
            await (api.get("/x") if method == "get" else getattr(api, method)("/x", b"{}"))
    return caught.value


async def abort(request: web.Request) -> web.StreamResponse:
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("method", ["get", "create", "replace", "patch"])
@pytest.mark.parametrize("fault", [abort, hang])
async def test_only_a_write_without_an_answer_has_an_unknown_outcome(method: str, fault: Handler) -> None:
    error = await failure(fault, method, QUICK if fault is hang else PATIENT)
    assert error.outcome_unknown == (method != "get")
    assert error.reason == ("Timeout" if fault is hang else "ConnectionBroken")
    assert error.status == 0


@pytest.mark.parametrize("method", ["create", "replace", "patch"])
async def test_no_write_is_ever_repeated(method: str) -> None:
    """aiohttp repeats a PUT when a connection that was used before breaks."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.method)
        return web.json_response({}) if request.method == "GET" else await abort(request)

    async with serving(handler) as url, api_at(url) as api:
        await api.get("/x")
        with pytest.raises(Unavailable) as caught:
            await getattr(api, method)("/x", b"{}")
    assert len(seen) == 2
    assert caught.value.outcome_unknown


async def test_a_server_that_is_not_there_has_done_nothing() -> None:
    async with serving(abort) as url:
        pass
    async with api_at(url) as api:
        for request in (api.get("/x"), api.create("/x", b"{}"), api.delete("/x")):
            with pytest.raises(Unavailable) as caught:
                await request
            assert caught.value.reason == "NoConnection"
            assert not caught.value.outcome_unknown


async def test_a_write_that_found_no_place_has_done_nothing() -> None:
    async with serving(abort) as url, api_at(url, QUICK) as api:
        for _ in range(MAX_CONCURRENT):
            await api._places.acquire()
        with pytest.raises(Unavailable) as caught:
            await api.create("/x", b"{}")
    assert caught.value.reason == "Timeout"
    assert not caught.value.outcome_unknown


async def test_the_lines_of_a_watch_and_one_that_is_cut_off() -> None:
    parts = [b"{1", b"}\n{2}\n\n", b"{3}\n{4"]

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(0)
        return response

    async def read(api: Api) -> AsyncIterator[bytes]:
        async with api.watch("/x", {}) as lines:
            async for line in lines:
                yield line

    async with serving(handler) as url, api_at(url) as api:
        seen = []
        with pytest.raises(Unavailable, match="cut off"):
            seen.extend([line async for line in read(api)])
        parts.append(b"}\n")
        assert [line async for line in read(api)] == [b"{1}", b"{2}", b"{3}", b"{4}"]
        longest = patch("configregistry.kube.client.MAX_LINE", 2)
        with longest, pytest.raises(Unavailable, match="beyond 2 bytes"):
            seen.extend([line async for line in read(api)])


async def test_a_body_that_never_ends_is_given_up() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    assert (await failure(drip, timeouts=QUICK)).reason == "Timeout"


async def test_a_redirect_is_not_followed() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    assert (await failure(handler)).status == 302
    assert seen == ["/x"]


async def test_deletion_says_which_object_it_means() -> None:
    bodies: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response({})

    async with serving(handler) as url, api_at(url) as api:
        await api.delete("/x", uid="u", resource_version="7")
        await api.delete("/x")
    assert bodies[0]["preconditions"] == {"uid": "u", "resourceVersion": "7"}
    assert bodies[1]["preconditions"] == {}


async def test_a_watch_that_is_refused_raises_before_any_line() -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return answer(429, "TooManyRequests", **{"Retry-After": "3"})

    async with serving(handler) as url, api_at(url) as api:
        with pytest.raises(Throttled) as caught:
            async with api.watch("/x", {}):
                pass
    assert caught.value.retry_after == 3


async def test_watches_leave_room_for_requests() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if "watch" in request.query:
            await hang(request)
        return response

    async with serving(handler) as url, api_at(url) as api, AsyncExitStack() as stack:
        for _ in range(120):
            await stack.enter_async_context(api.watch("/x", {}))
        await api.get("/y")


async def test_an_absent_configmap_is_only_what_an_api_server_calls_absent() -> None:
    answers: list[web.Response] = []

    async def handler(_request: web.Request) -> web.StreamResponse:
        return answers.pop()

    async with serving(handler) as url, api_at(url) as api:
        answers.append(answer(404, "NotFound"))
        assert await read_configmap(api, "shop", "a") is None
        answers.append(web.Response(status=404, text="404 page not found"))
        with pytest.raises(Unavailable):
            await read_configmap(api, "shop", "a")
        answers.append(web.Response(text="<html>welcome</html>"))
        with pytest.raises(Unavailable, match="not a ConfigMap"):
            await read_configmap(api, "shop", "a")
        answers.append(web.json_response({"metadata": {"resourceVersion": "7"}, "binaryData": {"x": ""}}))
        assert await read_configmap(api, "shop", "a") == ({}, "7")


# Credentials.


async def test_a_401_has_the_credentials_read_anew_once_for_all_who_wait() -> None:
    loads = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        good = request.headers.get("Authorization") == "Bearer new"
        return web.json_response({}) if good else answer(401, "Unauthorized")

    def access(url: str, token: str) -> Access:
        async def give() -> str:
            return token

        return Access(url, give)

    async with serving(handler) as url:

        async def reload() -> Access:
            nonlocal loads
            loads += 1
            await asyncio.sleep(0)
            return access(url, "Bearer new")

        async with Api(access(url, "Bearer old"), timeouts=PATIENT, reload=reload) as api:
            await asyncio.gather(*(api.create("/x", b"{}") for _ in range(5)))
        assert loads == 1

        async def useless() -> Access:
            nonlocal loads
            loads += 1
            return access(url, "Bearer old")

        async with Api(access(url, "Bearer old"), timeouts=PATIENT, reload=useless) as api:
            for _ in range(3):
                with pytest.raises(Unauthorized):
                    await api.get("/x")
        assert loads == 2


def kubeconfig(path: Path, url: str, user: dict[str, Any], **more: Any) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "k", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "k",
    }
    path.write_text(json.dumps(config | more))
    return path


async def test_an_exec_plugin_is_run_again_when_its_token_has_run_out(tmp_path: Path) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({}) if seen[-1] == "Bearer t2" else answer(401, "Unauthorized")

    counter = tmp_path / "count"
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib\n"
        f"count = pathlib.Path({str(counter)!r})\n"
        "n = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(n))\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',"
        " 'kind': 'ExecCredential', 'status': {'token': f't{n}'}}))\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    async with serving(handler) as url:
        path = kubeconfig(tmp_path / "config", url, user)
        async with await connect(str(path)) as api:
            await api.get("/x")
    assert seen == ["Bearer t1", "Bearer t2"]


async def test_without_a_cluster_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)

    async def told(path: str | None, context: str | None = None) -> str:
        with pytest.raises(NoClusterError, match="--kubeconfig") as caught:
            await connect(path, context)
        assert caught.value.exit_code == 2
        return str(caught.value)

    assert "no cluster is configured" in await told(None)
    missing = str(tmp_path / "nowhere")
    assert f"--kubeconfig names no file that exists ({missing})" in await told(missing)
    monkeypatch.setenv("KUBECONFIG", missing)
    assert f"KUBECONFIG names no file that exists ({missing})" in await told(None)
    monkeypatch.delenv("KUBECONFIG")
    good = kubeconfig(tmp_path / "good", "http://127.0.0.1:1", {})
    assert "object with name other" in await told(str(good), "other")
    bad = tmp_path / "bad"
    for text in ("", "- 1", "{", "clusters: 3\ncontexts: x\n", "\0"):
        bad.write_text(text)
        assert str(bad) in await told(str(bad))
    ca = kubeconfig(tmp_path / "ca", "https://127.0.0.1:1", {})
    text = ca.read_text().replace('"server"', '"certificate-authority-data": "eA==", "server"')
    ca.write_text(text)
    assert str(ca) in await told(str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert "the pod's service account" in await told(None)


async def test_a_named_file_wins_over_the_environment_and_that_over_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kubeconfig(tmp_path / "first", "http://127.0.0.1:1", {"token": "one"})
    second = kubeconfig(tmp_path / "second", "https://127.0.0.1:2", {"token": "two"})
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{second}")
    access = await load_access(str(first))
    assert (access.host, await access.token(), access.tls) == (
        "http://127.0.0.1:1",
        "Bearer one",
        None,
    )
    access = await load_access(None)
    assert (access.host, await access.token()) == ("https://127.0.0.1:2", "Bearer two")
    assert isinstance(access.tls, ssl.SSLContext)
    assert not access.trust_env


# Events.


class Told:
    """A stand-in for the Api that keeps Events; a fake."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.patched: list[tuple[str, Any]] = []
        self.failures: list[Exception] = []

    async def create(self, _path: str, body: bytes) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        self.created.append(json.loads(body))
        return b""

    async def patch(self, path: str, body: bytes) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        self.patched.append((path.rsplit("/", 1)[1], json.loads(body)))
        return b""


OWNER = Meta("checkout", "shop", "u", "7")
NOTE = Note("Warning", "RolledBack", "errors 4 % > 3 %")


class Telling:
    def __init__(self) -> None:
        self.api = Told()
        self.time = FakeTime()
        self.recorder = Recorder(
            self.api,  # type: ignore[arg-type]
            instance="pod",
            clock=self.time,
            jitter=lambda: 1.0,
            sleep=self.time.sleep,
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.recorder.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not self.task.done()
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_what_repeats_is_one_event_with_a_count() -> None:
    async with Telling() as it:
        it.recorder.tell(OWNER, NOTE)
        await it.recorder.drain()
        it.recorder.tell(OWNER, NOTE)
        it.recorder.tell(OWNER, NOTE)
        await it.recorder.drain()
        it.recorder.tell(OWNER, NOTE._replace(message="another"))
        await it.recorder.drain()
        first, other = it.api.created
        assert first["regarding"]["uid"] == "u"
        assert first["reportingController"] == "configregistry.dev/controller"
        assert "series" not in first
        assert other["note"] == "another"
        [(name, patch)] = it.api.patched
        assert name == first["metadata"]["name"]
        assert patch["series"]["count"] == 3
        it.time.pass_(WINDOW)
        it.recorder.tell(OWNER, NOTE)
        await it.recorder.drain()
        assert len(it.api.created) == 3


async def test_a_series_whose_event_expired_begins_anew() -> None:
    async with Telling() as it:
        it.recorder.tell(OWNER, NOTE)
        await it.recorder.drain()
        it.api.failures = [NotFound("gone")]
        it.recorder.tell(OWNER, NOTE)
        await it.recorder.drain()
        assert len(it.api.created) == 2


async def test_telling_never_fails_and_what_cannot_be_told_is_counted() -> None:
    async with Telling() as it:
        it.api.failures = [Unavailable("x"), Throttled("x", retry_after=5), Unavailable("x")]
        it.recorder.tell(OWNER, NOTE)
        await it.recorder.drain()
        assert len(it.api.created) == 1
        assert it.time.slept == [0.5, 5, 2.0]
        for failures in ([Unavailable("x")] * 4, [Unauthorized("x")], [RuntimeError("x")]):
            it.api.failures = list(failures)
            it.recorder.tell(OWNER, NOTE._replace(message=str(failures)))
            await it.recorder.drain()
        assert it.recorder.dropped == 3
        assert len(it.api.created) == 1


async def test_the_queue_is_bounded_and_an_end_does_not_wait() -> None:
    it = Telling()
    for number in range(CAPACITY + 5):
        it.recorder.tell(OWNER, NOTE._replace(message=str(number)))
    it.recorder.tell(OWNER, NOTE._replace(message="3"))
    assert it.recorder.dropped == 5
    await it.recorder.drain(0.01)
    assert it.recorder.dropped == 5 + CAPACITY


async def test_a_note_is_cut_at_a_character() -> None:
    async with Telling() as it:
        it.recorder.tell(OWNER, NOTE._replace(message="x" + "é" * 2000))
        await it.recorder.drain()
        assert it.api.created[0]["note"] == "x" + "é" * 511


# Preflight.


class Cluster:
    """What a preflight asks of a cluster; a fake."""

    def __init__(self, **answers: web.Response) -> None:
        self.answers = answers
        self.denied: set[tuple[str, str]] = set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return self.answers.get("version") or web.json_response({})
        if request.path == "/apis/configregistry.dev/v1alpha1":
            known = {"resources": [{"name": "configregistries"}]}
            return self.answers.get("known") or web.json_response(known)
        asked = (await request.json())["spec"]["resourceAttributes"]
        allowed = (asked["verb"], asked["resource"]) not in self.denied
        return self.answers.get("review") or web.json_response({"status": {"allowed": allowed}})

    async def check(self, *namespaces: str) -> None:
        async with serving(self) as url, Api(Access(url, no_token)) as api:
            await preflight.preflight(api, namespaces)


@pytest.mark.parametrize(
    ("answers", "kind", "text"),
    [
        ({"version": web.Response(status=503)}, NoClusterError, "no API server answers at http"),
        (
            {"version": answer(401, "Unauthorized")},
            NoClusterError,
            "does not accept these credentials",
        ),
        (
            {"known": web.Response(status=404, text="404 page not found")},
            MissingCrdError,
            "kubectl apply",
        ),
        ({"known": web.json_response({"resources": []})}, MissingCrdError, "server-side -f crds/"),
        ({"known": web.Response(status=500)}, NoClusterError, "does not work"),
        ({"review": answer(403, "Forbidden")}, NoClusterError, "does not know who this is"),
    ],
)
async def test_a_cluster_that_will_not_do_is_told_at_once(
    answers: dict[str, web.Response], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await Cluster(**answers).check()


async def test_all_missing_rights_are_told_together() -> None:
    cluster = Cluster()
    cluster.denied = {("watch", "configregistries"), ("create", "events")}
    with pytest.raises(NotPermittedError) as caught:
        await cluster.check("shop", "bank")
    lacking = "watch configregistries.configregistry.dev, create events.events.k8s.io"
    assert f"{lacking} in namespace shop; {lacking} in namespace bank" in str(caught.value)
    with pytest.raises(NotPermittedError, match="in all namespaces"):
        await cluster.check()


async def test_a_good_cluster_passes_even_if_it_does_not_let_itself_be_asked() -> None:
    await Cluster().check()
    forbidden = {name: answer(403, "Forbidden") for name in ("version",)}
    await Cluster(**forbidden).check()
    await Cluster(known=answer(403, "Forbidden")).check()


async def test_until_gives_up() -> None:
    with pytest.raises(TimeoutError):
        await until(lambda: False, 0.01)
