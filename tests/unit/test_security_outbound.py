"""Attempts to have a process inside a cluster ask what is not the asker's: by address, name, redirect, or measure.

The server that must not be asked is a real one, on loopback. See also test_health_outbound.py, which has the rest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.test_health_outbound import Names, Request, Server, told

from configregistry.errors import FieldError
from configregistry.health import outbound
from configregistry.health.addresses import refusal
from configregistry.health.outbound import Answer, Outbound, UnansweredError


@pytest.fixture
async def guarded() -> AsyncIterator[Outbound]:
    made = Outbound(allow_local=False)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("100.100.100.200", "metadata service"),
        ("168.63.129.16", "metadata service"),
        ("192.0.0.192", "metadata service"),
        ("fd20:ce::254", "metadata service"),
        ("fd00:0ec2:0:0::0254", "metadata service"),
        ("::ffff:100.100.100.200", "metadata service"),
        ("64:ff9b::168.63.129.16", "metadata service"),
        ("::ffff:0:127.0.0.1", "loopback"),
        ("::ffff:0:169.254.169.254", "link-local"),
        ("2001:0:a9fe:a9fe::", "link-local"),
        ("2001:0:808:808::80ff:fffe", "loopback"),
        ("169.254.170.2", "link-local"),
    ],
)
def test_addresses_that_are_not_theirs_to_ask(address: str, reason: str) -> None:
    assert refusal(address) == reason


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0X7F.0.0.1",
        "017700000001",
        "0177.0.0.01",
        "127.0.1",
        "127.0.0.1.",
        "localhost.",
        "LOCALHOST",
        "user:password@127.0.0.1",
        "example.com@127.0.0.1",
        "example.com:80@127.0.0.1",
        "%31%32%37.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "\uff11\uff12\uff17.0.0.1",
        "loc\u00adalhost",
        "\uff4c\uff4f\uff43alhost",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[::ffff:0:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0000::0001]",
        "[::1%25lo]",
        "[::1%lo]",
    ],
)
async def test_no_way_of_writing_it_gets_there(guarded: Outbound, host: str) -> None:
    async with Server(told(200)) as server:
        with pytest.raises((UnansweredError, FieldError)) as error:
            await guarded.request("GET", f"http://{host}:{server.port}/", within=5)
        assert server.connections == 0
    assert "password" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1\\@a.invalid/", "http://a.invalid\\.127.0.0.1/", "http:/\\127.0.0.1"])
async def test_what_parsers_disagree_about(guarded: Outbound, url: str) -> None:
    with pytest.raises((UnansweredError, FieldError)):
        await guarded.request("GET", url, within=2)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file://localhost/etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "dict://127.0.0.1:11211/stats",
        "ftp://127.0.0.1/",
        "unix:///run/containerd/containerd.sock",
        "http+unix://%2Frun%2Fcontainerd.sock/",
        "ws://127.0.0.1/",
        "jar:http://127.0.0.1!/",
        "javascript:alert(1)",
        "//127.0.0.1/",
        "http:127.0.0.1",
    ],
)
async def test_only_http_is_spoken(guarded: Outbound, url: str) -> None:
    with pytest.raises(FieldError, match="expected a URL"):
        await guarded.request("GET", url, within=2)


async def test_one_bad_address_among_good_ones_is_never_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all addresses of a name each is judged by itself. On loopback, so the judgement is another one here."""
    monkeypatch.setattr(outbound, "refusal", lambda address: "bad" if address == "127.0.0.3" else None)
    client = Outbound(allow_local=False, resolver=Names("127.0.0.3", "127.0.0.1"))
    async with Server(told(200)) as server:
        for _ in range(5):
            answer = await client.request("GET", f"http://both.example:{server.port}/", within=5)
            assert answer.status == 200
    assert server.connections == 5
    await client.close()


async def test_a_name_that_moves_between_the_look_up_and_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged is what the socket is made for: another answer to another look-up comes too late for both."""
    asked = 0

    def rebinding(host: str, port: int, *_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        address = "127.0.0.3" if asked == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(outbound, "refusal", lambda address: "bad" if address == "127.0.0.1" else None)
    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    client = Outbound(allow_local=False)
    async with Server(told(200)) as server:
        for _ in range(4):
            with pytest.raises(UnansweredError):
                await client.request("GET", f"http://rebound.example:{server.port}/", within=5)
    assert server.connections == 0
    await client.close()


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "//169.254.169.254/",
        "http://[::1]/",
        "http://user:secret@127.0.0.2/",
        "http://127.0.0.1.example/",
        "http://2130706433/",
        "\\\\169.254.169.254/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_nowhere_else(status: int, location: str) -> None:
    """The one that answers is allowed here, for there is nobody else; where it points to is not asked at all."""
    client = Outbound(allow_local=True)
    seen: list[str] = []
    client._session._connector._resolve_host = _watching(client, seen)  # type: ignore[union-attr]
    async with Server(told(status, b"", f"Location: {location}")) as server:
        results = await asyncio.gather(client.request("GET", server.url, within=5), return_exceptions=True)
    assert isinstance(results[0], Answer | UnansweredError)
    assert "secret" not in str(results[0])
    assert set(seen) <= {"127.0.0.1"}
    await client.close()


def _watching(client: Outbound, seen: list[str]) -> Any:
    """The connector's own look-up, which notes for whom it was called."""
    connector: Any = client._session.connector
    resolve = connector._resolve_host

    async def noting(host: str, *arguments: Any, **options: Any) -> Any:
        seen.append(host)
        return await resolve(host, *arguments, **options)

    return noting


async def test_a_drip_ends_in_time_and_an_endless_answer_at_its_measure() -> None:
    client = Outbound(allow_local=True)
    sent = 0

    async def drip(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async def flood(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
        while True:
            writer.write(b"x" * 0x10000)
            sent += 0x10000
            await writer.drain()

    async with Server(drip) as dripping, Server(flood) as flooding:
        with pytest.raises(UnansweredError, match=r"no whole answer in 0\.2 s"):
            await client.request("GET", dripping.url, within=0.2)
        with pytest.raises(UnansweredError, match="longer than 1024 KiB"):
            await client.request("GET", flooding.url, within=10)
    assert sent < 64 * 1024 * 1024
    await client.close()
