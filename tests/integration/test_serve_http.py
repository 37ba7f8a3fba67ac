"""Serving over real sockets: what only a server can get wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from tests.serve_clients import HOST, PATIENCE, Client
from tests.serve_fakes import World, revision, status_of

from configregistry.serve import App, HttpServer, HttpServerFailed, Probes, serve_http
from configregistry.serve.responses import Reply, Response

KEY = ("shop", "checkout")
PATH = "/v1/namespaces/shop/registries/checkout"


class Server(NamedTuple):
    world: World
    http: HttpServer
    stale: list[float]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    world = World()
    stale = [0.0]
    app = App(world.service.routes, world.metrics, lambda: stale[0])
    http = await serve_http(app, HOST, 0)
    yield Server(world, http, stale)
    await http.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.http.port) as client:
        yield client


async def test_keep_alive_and_pipelining(server: Server, client: Client) -> None:
    server.world.serve("checkout", {"a": 1, "b/c": 2})
    for _ in range(3):
        assert json.loads((await client.get(f"{PATH}/keys/a")).body)["value"] == 1
    for key in ("a", "b/c", "none", "a"):
        client.send(f"{PATH}/keys/{key}?raw")
    replies = [await client.receive() for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 404, 200]
    assert [replies[0].body, replies[1].body, replies[3].body] == [b"1", b"2", b"1"]


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (f"{PATH}/keys/a%2Fb.c-d_e", 1),
        (f"{PATH}/keys/a/b.c-d_e", 1),
        (f"{PATH}/keys/%61/b%2Ec-d_e", 1),
        ("/v1/namespaces/%73hop/registries/che%63kout/keys/a/b.c-d_e", 1),
        (f"{PATH}/keys/a%252Fb.c-d_e", None),
        (f"{PATH}/keys/a/b.c-d_e/", None),
        (f"{PATH}/keys/a+b", None),
        (f"{PATH}/keys/%ff", None),
        (f"{PATH}/keys/%00", None),
        (f"{PATH}/keys/%E2%82%AC", None),
    ],
)
async def test_percent_encoding(server: Server, client: Client, target: Any, value: Any) -> None:
    server.world.serve("checkout", {"a/b.c-d_e": 1, "a b": 2})
    reply = await client.get(target)
    if value is None:
        assert reply.status == 404
        assert json.loads(reply.body)["type"].endswith("/KeyNotFound")
    else:
        assert json.loads(reply.body)["value"] == value


async def test_target_and_attributes_arrive(server: Server, client: Client) -> None:
    rules = [{"attribute": "Region", "values": ["eu west"]}]
    canary = {"version": 2, "weight": 0, "match": rules}
    server.world.serve("checkout", {"a": 1}, canary=canary, canary_data={"a": 2})
    for target, *headers in (
        (f"{PATH}?attr.Region=eu%20west",),
        (f"{PATH}?attr.Region=eu+west",),
        (f"{PATH}?attr%2ERegion=eu+west",),
        (PATH, "X-ConfigRegistry-Attr-Region: eu west"),
        (PATH, "x-CONFIGREGISTRY-attr-REGION: eu west"),
    ):
        reply = await client.get(target, *headers)
        assert json.loads(reply.body)["variant"] == "canary", target
        assert reply.headers["x-configregistry-version"] == "2"


async def test_attribute_names_that_are_no_header_names(server: Server, client: Client) -> None:
    rules = [{"attribute": name, "values": ["x"]} for name in ("a b", "ä", "x\r\ny: z", "")]
    canary = {"version": 2, "weight": 0, "match": rules}
    server.world.serve("checkout", {"a": 1}, canary=canary, canary_data={"a": 2})
    reply = await client.get(PATH)
    assert reply.status == 200
    assert reply.headers["vary"] == "x-configregistry-target"
    assert json.loads((await client.get(f"{PATH}?attr.%C3%A4=x")).body)["variant"] == "canary"


@pytest.mark.parametrize("target", [PATH, f"{PATH}/keys/a", f"{PATH}/keys/none", "/nothing"])
async def test_head_has_the_headers_of_get_and_no_body(server: Server, client: Client, target: Any) -> None:
    server.world.serve("checkout", {"a": "x" * 1000})
    got = await client.get(target)
    head = await client.get(target, method="HEAD")
    assert head.status == got.status
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    assert int(head.headers["content-length"]) == len(got.body)
    assert (await client.get(target)).status == got.status, "the connection goes on"


async def test_not_modified(server: Server, client: Client) -> None:
    server.world.serve("checkout", {"a": 1})
    etag = (await client.get(PATH)).headers["etag"]
    reply = await client.get(PATH, f'If-None-Match: W/"x", {etag}')
    assert (reply.status, reply.body) == (304, b"")
    assert reply.headers["etag"] == etag
    assert reply.headers["x-configregistry-version"] == "1"
    assert reply.headers["cache-control"] == "no-cache"
    server.world.serve("checkout", {"a": 2}, version=2, revision_number=2)
    assert (await client.get(PATH, f"If-None-Match: {etag}")).status == 200


async def test_a_post_is_refused_and_its_body_is_not_the_next_request(server: Server, client: Client) -> None:
    server.world.serve("checkout", {"a": 1})
    client.send(PATH, "Content-Length: 30", method="POST")
    client.writer.write(b"GET /v1/smuggled HTTP/1.1\r\n\r\n_")
    reply = await client.receive()
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert (await client.get(PATH)).status == 200


async def test_a_large_document(server: Server, client: Client) -> None:
    data = {f"key-{n:05}": "x" * 22 for n in range(14_000)}
    server.world.serve("checkout", data)
    reply = await client.get(PATH)
    assert len(reply.body) > 500_000
    assert json.loads(reply.body)["data"] == data


async def test_staleness_is_told(server: Server, client: Client) -> None:
    server.world.serve("checkout", {"a": 1})
    for target, status in ((PATH, 200), (f"{PATH}/keys/none", 404), ("/nothing", 404)):
        server.stale[0] = 5.0
        assert "x-configregistry-stale" not in (await client.get(target)).headers
        server.stale[0] = 123.9
        reply = await client.get(target)
        assert (reply.status, reply.headers["x-configregistry-stale"]) == (status, "123")
    etag = (await client.get(PATH)).headers["etag"]
    reply = await client.get(PATH, f"If-None-Match: {etag}")
    assert (reply.status, reply.headers["x-configregistry-stale"]) == (304, "123")
    sample = server.world.metrics.registry.get_sample_value
    assert sample("configregistry_stale_reads_total") == 5


async def test_a_defect_is_a_problem_document_and_is_logged_not_told(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.world.serve("checkout", {"a": 1})
    monkeypatch.setattr(server.world.hydrator, "snapshot", lambda: (_ for _ in ()).throw(RuntimeError("secret")))
    reply = await client.get(PATH)
    assert reply.status == 500
    assert json.loads(reply.body)["type"].endswith("/Internal")
    assert b"secret" not in reply.body


async def test_http_2(server: Server) -> None:
    """Prior knowledge, as a mesh speaks it: the preface is answered with SETTINGS."""
    async with Client(server.http.port) as client:
        client.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        frame = await asyncio.wait_for(client.reader.readexactly(9), 10)
        assert frame[3] == 4


async def test_no_read_is_torn_by_thousands_of_publications(server: Server) -> Any:  # noqa: C901
    """Each version says its number in every key; a mixture or an older revision would show."""
    world, publications, readers = server.world, 3000, 16

    def content(number: int) -> dict[str, int]:
        return {f"k{n}": number for n in range(5 + number % 3)}

    def put(revision_number: int) -> None:
        stable = revision_number // 2 + 1
        canary = {"version": stable + 1, "weight": 50} if revision_number % 2 else None
        for number in (stable, stable + 1):
            if ("shop", f"checkout-{number}") not in world.revisions:
                world.record(KEY, number, revision("u", content(number)))
        status = status_of(revision_number, stable, content(stable), canary, content(stable + 1))
        world.put(KEY, "u", status)
        world.flush()
        world.revisions.pop(("shop", f"checkout-{stable - 3}"), None)

    put(1)
    done = asyncio.Event()
    reads = [0] * readers

    async def read(which: int) -> None:
        latest = 0
        async with Client(server.http.port) as client:
            while not done.is_set():
                for target in (f"{PATH}?target=pod-{which}", f"{PATH}/keys/k1?target=pod-{which}"):
                    reply = await client.get(target)
                    assert reply.status == 200
                    answer = json.loads(reply.body)
                    if "data" in answer:
                        assert answer["data"] == content(answer["version"])
                    else:
                        assert answer["value"] == answer["version"]
                    expected = answer["revision"] // 2 + 1 + (answer["variant"] == "canary")
                    assert answer["version"] == expected
                    assert int(reply.headers["x-configregistry-version"]) == answer["version"]
                    assert int(reply.headers["x-configregistry-revision"]) == answer["revision"]
                    assert answer["revision"] >= latest
                    latest = answer["revision"]
                    reads[which] += 1

    async with asyncio.TaskGroup() as group:
        for which in range(readers):
            group.create_task(read(which))
        number = 1
        while number < publications or sum(reads) < publications / 10:
            number += 1
            put(number)
            await asyncio.sleep(0)
        # Publishing never waits for readers; each of them shall have seen the last state too.
        before = list(reads)
        while any(now < then + 2 for now, then in zip(reads, before, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        done.set()


async def test_stop_lets_requests_in_flight_finish() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> Reply:
        entered.set()
        await leave.wait()
        return Response(200, [], b"whole")

    http = await serve_http(lambda _request: slow(), HOST, 0)
    async with Client(http.port) as idle, Client(http.port) as client:
        client.send("/")
        await asyncio.wait_for(entered.wait(), 10)
        stopping = asyncio.create_task(http.stop(PATIENCE))
        # Idle connections are ended first: then it has surely begun to stop.
        assert await asyncio.wait_for(idle.reader.read(), 10) == b""
        leave.set()
        reply = await client.receive()
        assert (reply.body, reply.headers["connection"]) == (b"whole", "close")
        await asyncio.wait_for(stopping, 10)
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(HOST, http.port)


async def test_a_port_in_use_is_said() -> None:
    with socket.create_server((HOST, 0), reuse_port=True) as held:
        port = held.getsockname()[1]
        starting = serve_http(lambda _request: Response(200, [], b""), HOST, port)
        with pytest.raises(HttpServerFailed, match=str(port)):
            await starting


async def test_starting_leaves_logging_alone() -> None:
    root = logging.getLogger()
    stream = logging.StreamHandler()
    root.addHandler(stream)
    try:
        http = await serve_http(lambda _request: Response(200, [], b""), HOST, 0)
        await http.stop()
        assert stream in root.handlers
        assert not getattr(stream, "_closed", False)
    finally:
        root.removeHandler(stream)


async def test_reads_are_counted(server: Server, client: Client) -> None:
    server.world.serve("checkout", {"a": 1})
    await client.get(PATH)
    await client.get(PATH)
    await client.get("/nothing")
    sample = server.world.metrics.registry.get_sample_value
    assert sample("configregistry_reads_total", {"code": "200"}) == 2
    assert sample("configregistry_reads_total", {"code": "404"}) == 1
    assert sample("configregistry_read_duration_seconds_count") == 3


# The port of kubelet and Prometheus.


class Probed(NamedTuple):
    world: World
    probes: Probes
    waits: dict[str, str | None]


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    world = World()
    waits: dict[str, str | None] = {"hydrate": None, "watch": None}
    probes = Probes(
        world.metrics,
        {"hydrate": lambda: waits["hydrate"], "watch": lambda: waits["watch"]},
        host=HOST,
    )
    await probes.start()
    yield Probed(world, probes, waits)
    await probes.stop()


async def test_readyz(probed: Probed) -> None:
    async with Client(probed.probes.port) as client:
        assert (await client.get("/readyz")).body == b"ok"
        probed.waits["hydrate"] = "3 registries, of them shop/checkout"
        reply = await client.get("/readyz?verbose")
        assert reply.status == 503
        assert b"[-]hydrate waits: 3 registries, of them shop/checkout\n[+]watch ok\n" in reply.body
        assert (await client.get("/readyz")).status == 503
        assert (await client.get("/livez")).status == 200
        probed.waits["hydrate"] = None
        assert b"[+]hydrate ok" in (await client.get("/readyz?verbose")).body
        probed.probes.drain()
        assert (await client.get("/readyz")).status == 503
        assert (await client.get("/livez")).status == 200
        assert (await client.get("/other")).status == 404


async def test_metrics_in_both_formats(probed: Probed) -> None:
    probed.world.serve("checkout", {"a": 1})
    probed.world.metrics.read(200, 0.001)
    async with Client(probed.probes.port) as client:
        reply = await client.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in prometheus(reply.body.decode())}
        assert families["configregistry_reads"].samples[0].value == 1
        accept = "Accept: application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
        reply = await client.get("/metrics", accept)
        assert reply.headers["content-type"].startswith("application/openmetrics-text")
        families = {
            family.name: family
            for family in openmetrics(reply.body.decode())  # type: ignore[no-untyped-call]
        }
        assert families["registry_version_active"].samples[0].labels["registry"] == "checkout"
        assert families["registry_load_duration_seconds"].type == "histogram"
