"""TLS: the same server behind it, and certificates that change."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster.certs import Certificate, make_certificates
from tests.serve_clients import HOST, Client, Counted, Streams, serving, until

from configregistry.serve.responses import Request, Response
from configregistry.serve.wire import HttpServerFailed, Limits, TlsFiles

LARGE = b"x" * 16_000_000


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    names = ("one", "two")
    make_certificates(directory, [Certificate(name, name, hosts=[HOST]) for name in names])
    return directory


@pytest.fixture
def files(pairs: Path, tmp_path: Path) -> TlsFiles:
    use(pairs, tmp_path, "one")
    return TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")


def use(pairs: Path, place: Path, name: str, *ends: str) -> None:
    """Put a pair, or half of it, where the server looks; as one step, like the kubelet."""
    for end in ends or ("crt", "key"):
        new = place / "new"
        new.write_bytes((pairs / f"{name}.{end}").read_bytes())
        new.replace(place / f"tls.{end}")


def trusting(pairs: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=pairs / "ca.crt")


def echo(request: Request) -> Response:
    return Response(200, [], json.dumps([request.path, len(request.body)]).encode())


def name(client: Client) -> Any:
    subject = client.writer.get_extra_info("peercert")["subject"]
    return dict(pair for part in subject for pair in part)["commonName"]


async def test_both_versions_of_http(pairs: Path, files: TlsFiles) -> None:
    async with serving(echo, tls=files) as server:
        for http2, told in ((True, "HTTP/2"), (False, "HTTP/1.1")):
            async with httpx.AsyncClient(verify=trusting(pairs), trust_env=False, http2=http2) as client:
                reply = await client.put(f"https://{HOST}:{server.port}/a", content=b"x" * 60_000)
                assert (reply.http_version, reply.json()) == (told, ["/a", 60_000])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_streams_and_large_answers(pairs: Path, files: TlsFiles, version: ssl.TLSVersion) -> None:
    streams = Streams(b"first")

    def handle(request: Request) -> Any:
        return streams(request) if request.path == "/stream" else Response(200, [], LARGE)

    context = trusting(pairs)
    context.minimum_version = context.maximum_version = version
    async with serving(handle, tls=files) as server, Client(server.port, tls=context) as client:
        assert (await client.get("/large")).body == LARGE
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send("/large")
        client.writer.write(b"HEAD /small HTTP/1.1\r\nHost: x\r\n\r\n" * 6000)
        await until(lambda: next(iter(server._shared.connections))._resting)  # type: ignore[union-attr]
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.receive()).body == LARGE
        for _ in range(6000):
            assert (await client.receive("HEAD")).status == 200
        client.send("/stream")
        client.send("/large")
        await client.head()
        assert await client.chunk() == b"first"
        feed = streams.feeds[0]
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        written = 0
        while feed.sink.pending < 2_000_000:
            feed.sink.write(b"%09d;" % written * 1000)
            written += 1
            await asyncio.sleep(0)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(written):
            assert await client.chunk() == b"%09d;" % number * 1000
        await feed.until("resumed")
        feed.sink.end()
        assert await client.chunk() == b""
        assert (await client.receive()).body == LARGE
        client.send("/stream")
        await client.head()
        client.writer.close()
        await streams.feeds[1].until("closed")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_that_breaks_tls_while_it_has_a_stream_ends_its_own(
    pairs: Path, files: TlsFiles, version: ssl.TLSVersion
) -> None:
    streams, context = Streams(), trusting(pairs)
    context.minimum_version = context.maximum_version = version
    async with (
        serving(streams, tls=files) as server,
        Client(server.port, tls=context) as bad,
        Client(server.port, tls=context) as good,
    ):
        for client in (bad, good):
            client.send("/stream")
            await client.head()
        broken, other = streams.feeds
        bad.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while broken.sink.pending < 1_000_000:
            broken.sink.write(b"x" * 100_000)
        raw = socket.socket(fileno=os.dup(bad.writer.get_extra_info("socket").fileno()))
        with raw:
            raw.send(b"\x17\x03\x03\x00\x20" + b"g" * 32)
        number = 0
        while "closed" not in broken.told:
            for feed in streams.feeds:
                feed.sink.write(b"%d" % number)
            assert await good.chunk() == b"%d" % number
            number += 1
        broken.sink.write(b"more")
        assert other.told == []
        assert broken.told == ["closed"]


async def test_older_versions_are_not_spoken(pairs: Path, files: TlsFiles) -> None:
    context = trusting(pairs)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(echo, tls=files) as server:
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(HOST, server.port, ssl=context)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", b""])
async def test_a_client_that_speaks_no_tls_or_never_finishes_its_handshake(files: TlsFiles, sent: bytes) -> None:
    counted = Counted()
    async with serving(echo, tls=files, limits=Limits(head_seconds=0.3), observer=counted) as server:
        async with Client(server.port) as client:
            client.writer.write(sent)
            assert b"HTTP" not in await client.ended()
        await until(lambda: counted.most == 1 and counted.open == 0)


async def test_tls_by_the_byte(pairs: Path, files: TlsFiles) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(pairs).wrap_bio(incoming, outgoing, server_hostname=HOST)
    async with serving(echo, tls=files) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)

        async def through(step: Any) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    data = outgoing.read()
                    for at in range(len(data)):
                        writer.write(data[at : at + 1])
                        await asyncio.sleep(0)
                    incoming.write(await reader.read(1))

        await through(tls.do_handshake)
        tls.write(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        told = b""
        while not told.endswith(b"]"):
            told += await through(lambda: tls.read(1000))
        assert told.endswith(b'["/a", 0]')
        writer.transport.abort()


async def test_what_is_refused_is_told_over_tls_too(pairs: Path, files: TlsFiles) -> None:
    context, limits = trusting(pairs), Limits(connections=1)
    async with serving(echo, tls=files, limits=limits) as server, Client(server.port, tls=context) as client:
        async with Client(server.port, tls=context) as other:
            assert (await other.receive()).status == 503
        client.send("/", "Content-Length: 99999999", method="PUT", body=b"x" * 3_000_000)
        assert (await client.receive()).status == 413


async def test_a_new_certificate_is_for_new_connections(
    pairs: Path, files: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configregistry.serve.wire.server.CERTIFICATES_EVERY", 0.02)
    context = trusting(pairs)
    streams = Streams()

    def handle(request: Request) -> Any:
        return streams(request) if request.path == "/stream" else echo(request)

    async with (
        serving(handle, tls=files) as server,
        Client(server.port, tls=context) as old,
        Client(server.port, tls=context) as stream,
    ):
        stream.send("/stream")
        await stream.head()

        async def present() -> Any:
            async with Client(server.port, tls=context) as client:
                assert (await client.get("/")).status == 200
                return name(client)

        async def looked_at() -> None:
            seen = server._certificates._seen  # type: ignore[union-attr]
            await until(lambda: server._certificates._seen != seen)  # type: ignore[union-attr]

        assert await present() == "one"
        use(pairs, tmp_path, "two", "crt")  # half of it: the key is still that of the first
        await looked_at()
        assert await present() == "one"
        use(pairs, tmp_path, "two", "key")
        await looked_at()
        assert await present() == "two"
        (tmp_path / "tls.crt").unlink()
        await looked_at()
        assert await present() == "two"
        use(pairs, tmp_path, "one")
        await looked_at()
        os.utime(tmp_path / "tls.key")
        await looked_at()
        assert await present() == "one"
        assert (await old.get("/")).status == 200
        assert name(old) == "one"
        streams.feeds[0].sink.write(b"still")
        assert await stream.chunk() == b"still"


@pytest.mark.parametrize("how", ["missing", "no pair", "garbage"])
async def test_no_certificate_at_the_start_is_said(pairs: Path, files: TlsFiles, how: str, tmp_path: Path) -> None:
    match how:
        case "missing":
            files.key.unlink()
        case "no pair":
            use(pairs, tmp_path, "two", "key")
        case _:
            files.certificate.write_bytes(b"garbage")
    with pytest.raises(HttpServerFailed, match=r"tls\.crt"):
        async with serving(echo, tls=files):
            pass


async def test_draining(pairs: Path, files: TlsFiles) -> None:
    streams = Streams()
    context = trusting(pairs)

    def handle(request: Request) -> Any:
        return streams(request) if request.path == "/stream" else echo(request)

    async with serving(handle, tls=files) as server, Client(server.port, tls=context) as idle:
        await idle.get("/")
        async with Client(server.port, tls=context) as stream:
            stream.send("/stream")
            await stream.head()
            stopping = asyncio.create_task(server.stop(60.0))
            assert await idle.ended() == b""
            assert [await stream.chunk(), await stream.chunk()] == [b"bye", b""]
            assert await stream.ended() == b""
            await asyncio.wait_for(stopping, 10)
