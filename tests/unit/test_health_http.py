"""Checks of kind http, against an app on loopback that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.servers.app import AppServer

from configregistry.clock import SystemClock
from configregistry.health import (
    Finding,
    Means,
    Outbound,
    Question,
    RolloutKey,
    Runner,
    StageKey,
    Subject,
)
from configregistry.health.http_check import probe, timeout
from configregistry.model.spec import Check, HttpCheck
from configregistry.rollout.observation import Verdict
from configregistry.rollout.plan import CheckPlan

SUBJECT = Subject("shop", "checkout", 8, "9d3c1a2b4e5f6071", 7)
STAGE = StageKey(0, False, "")


@pytest.fixture
async def means() -> AsyncIterator[Means]:
    outbound = Outbound(allow_local=True)
    yield Means(outbound)
    await outbound.close()


async def ask(means: Means, url: str, *expected: int, within: float = 5.0) -> Finding:
    check = Check("c", http=HttpCheck(url, expected or (200,)))
    return await probe(Question(check, SUBJECT, STAGE, within), means)


@pytest.mark.parametrize(
    ("status", "expected", "finding"),
    [
        (200, (200,), Finding(Verdict.PASS, "200")),
        (204, (200, 204), Finding(Verdict.PASS, "204")),
        (503, (503,), Finding(Verdict.PASS, "503")),
        (500, (200,), Finding(Verdict.FAIL, "500", "got status 500, expected 200")),
        (200, (204, 202), Finding(Verdict.FAIL, "200", "got status 200, expected 204 or 202")),
        (404, (200,), Finding(Verdict.FAIL, "404", "got status 404, expected 200")),
    ],
)
async def test_the_status_decides(means: Means, status: int, expected: tuple[int, ...], finding: Finding) -> None:
    with AppServer() as app:
        app.health = status
        assert await ask(means, f"http://{app.address}/healthz", *expected) == finding


async def test_the_url_is_rendered(means: Means) -> None:
    with AppServer() as app:
        await ask(means, f"http://{app.address}/{{{{namespace}}}}/{{{{ registry }}}}?v={{{{version}}}}")
    assert app.asked == ["/shop/checkout?v=8"]


async def test_a_service_that_refuses_connections_is_an_error(means: Means) -> None:
    with AppServer() as app:
        url = f"http://{app.address}/healthz"
        assert (await ask(means, url)).verdict is Verdict.PASS
        app.stop()
        finding = await ask(means, url)
        assert (finding.verdict, finding.value) == (Verdict.ERROR, "")
        assert finding.message.startswith(f"{url}: no connection: ")
        app.start()
        assert (await ask(means, url)).verdict is Verdict.PASS


async def serve(respond: bytes) -> asyncio.Server:
    """A server that sends this whatever it is asked, and then nothing more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(respond)
        await reader.read()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def url_of(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("sent", "verdict"),
    [
        (b"", Verdict.ERROR),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", Verdict.ERROR),
        (b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nx", Verdict.FAIL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", Verdict.PASS),
    ],
    ids=["nothing", "half of what is expected", "half of what is not", "all"],
)
async def test_what_does_not_arrive_in_time(means: Means, sent: bytes, verdict: Verdict) -> None:
    async with await serve(sent) as server:
        finding = await ask(means, url_of(server), within=0.3)
    assert finding.verdict is verdict
    if verdict is Verdict.ERROR:
        assert finding.message.endswith("no whole answer in 0.3 s")


async def test_a_redirect_to_another_host_fails_unless_it_is_expected(means: Means) -> None:
    async with await serve(
        b"HTTP/1.1 302 X\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"
    ) as server:
        assert await ask(means, url_of(server)) == Finding(
            Verdict.FAIL,
            "302",
            "got status 302, expected 200 (a redirect to another host is not followed)",
        )
        assert await ask(means, url_of(server), 302) == Finding(Verdict.PASS, "302")


async def test_a_redirect_that_is_expected_is_not_followed(means: Means) -> None:
    with AppServer() as app:
        redirect = f"HTTP/1.1 302 X\r\nLocation: http://{app.address}/healthz\r\n"
        async with await serve(f"{redirect}Content-Length: 0\r\n\r\n".encode()) as server:
            assert await ask(means, url_of(server)) == Finding(Verdict.PASS, "200")
            assert await ask(means, url_of(server), 302) == Finding(Verdict.PASS, "302")


async def test_inside_a_cluster_this_host_is_refused() -> None:
    outbound = Outbound(allow_local=False)
    with AppServer() as app:
        finding = await ask(Means(outbound), f"http://{app.address}/healthz")
    await outbound.close()
    assert finding.verdict is Verdict.ERROR
    assert "address 127.0.0.1 refused (loopback)" in finding.message


def test_the_timeout_is_the_one_of_the_spec() -> None:
    assert timeout(Check("c", http=HttpCheck("http://h/", timeout_seconds=7))) == 7.0


async def test_two_hundred_checks_that_hang_delay_no_other_one() -> None:
    """Real sockets, real time: another's probes come when due, and its failure is told."""
    asked, told = 0, asyncio.Event()
    all_hang = asyncio.Event()
    healthy = RolloutKey("shop", "healthy", "u", 8, "h")

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        if asked == 200:
            all_hang.set()
        await reader.read()
        writer.close()

    def plan(name: str, url: str) -> CheckPlan:
        return CheckPlan(Check(name, http=HttpCheck(url, timeout_seconds=30)), name, 0.1, 0.0)

    outbound = Outbound(allow_local=True)
    runner = Runner(Means(outbound), SystemClock(), lambda key: told.set() if key == healthy else None)
    async with await asyncio.start_server(hang, "127.0.0.1", 0, backlog=512) as server:
        for registry in range(20):
            checks = tuple(plan(f"c{n}", url_of(server)) for n in range(10))
            runner.watch(RolloutKey("shop", f"r{registry}", "u", 8, "h"), checks, SUBJECT, STAGE, 0)
        async with asyncio.timeout(20):
            await all_hang.wait()
        with AppServer() as app:
            runner.watch(healthy, (plan("alive", f"http://{app.address}/healthz"),), SUBJECT, STAGE, 0)
            async with asyncio.timeout(2):
                await told.wait()
            assert runner.report(healthy)[0].passed
            told.clear()
            app.health = 500
            async with asyncio.timeout(2):
                await told.wait()
            assert runner.report(healthy)[0].unsaved[-1].verdict is Verdict.FAIL
        assert asked == 200
        await runner.close()
        await outbound.close()
