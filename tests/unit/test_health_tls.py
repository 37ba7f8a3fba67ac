"""Whose certificates the guarded client takes: those that the system's authorities have signed, for that name, now.

The client runs in a process of its own, whose authorities are named in the environment (SSL_CERT_FILE), as a user
names a company's own ones. The certificates are made by openssl.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.cluster.standing import REPOSITORY

CLIENT = """
import asyncio, sys
from configregistry.health import Outbound, UnansweredError

async def main():
    client = Outbound(allow_local=True)
    for url in sys.argv[1:]:
        try:
            print((await client.request("GET", url, within=30)).status)
        except UnansweredError as error:
            print(error)
    await client.close()

asyncio.run(main())
"""

Maker = Callable[..., ssl.SSLContext]


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Maker]:
    """The file of an authority, and what makes a server's side of TLS with a certificate of it or of another one."""
    at = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=at, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for authority in ("ours", "another"):
        out = ("-keyout", f"{authority}.key", "-out", f"{authority}.crt", "-subj", f"/CN={authority}")
        openssl("req", "-x509", *key, *out, "-days", "2")

    def make(name: str, host: str = "IP:127.0.0.1", days: int = 2, by: str = "ours") -> ssl.SSLContext:
        (at / "names").write_text(f"subjectAltName={host}")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", f"{by}.crt", "-CAkey", f"{by}.key", "-CAcreateserial", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed, "-days", str(days))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(at / f"{name}.crt", at / f"{name}.key")
        return context

    return at / "ours.crt", make


async def test_which_certificates_are_accepted(maker: tuple[Path, Maker]) -> None:
    authority, make = maker
    contexts = [
        make("good"),
        make("stranger", by="another"),
        make("expired", days=-1),
        make("elsewhere", host="DNS:elsewhere.example"),
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")
        await reader.read()
        writer.close()

    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context))
            for context in contexts
        ]
        places = [f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/" for server in servers]
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CLIENT,
            *(f"{place}?token=secret" for place in places),
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "operator"), "SSL_CERT_FILE": str(authority)},
            stdout=subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            told, _ = await client.communicate()
    assert told.decode().splitlines() == [
        "204",
        f"{places[1]}: certificate not accepted: unable to get local issuer certificate",
        f"{places[2]}: certificate not accepted: certificate has expired",
        f"{places[3]}: certificate not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'.",
    ]
