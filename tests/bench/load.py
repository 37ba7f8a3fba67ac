"""Load for an HTTP server: wrk, which asks as fast as it is answered, and readers who come at a fixed rate.

The two answer other questions. wrk finds the throughput; its latencies are those of a server that
is always full. The readers come when they come, whether the server has time or not, so a pause of
the server counts for each of them, as it does for real clients.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.servers.debian import find_program

CONNECTIONS = 16
"""Of wrk."""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Measured(NamedTuple):
    """What wrk tells; latencies in seconds."""

    rate: float
    p50: float
    p99: float


def wrk(url: str, seconds: float, headers: Mapping[str, str] | None = None) -> Measured:
    """Run wrk; a header's `_` stands for `-`. Raises when the server answered anything but well."""
    program = find_program("wrk", "/usr/bin/wrk", ["wrk", "libluajit-5.1-2"])
    given = [part for name, value in (headers or {}).items() for part in ("-H", f"{name.replace('_', '-')}: {value}")]
    told = subprocess.run(
        [program.path, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", *given, url],
        env={**os.environ, **program.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"wrk: {told}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None, told
    return Measured(float(rate[1]), *(_latency(told, share) for share in ("50%", "99%")))


def _latency(told: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s|m)\b", told)
    assert found is not None, told
    return float(found[1]) * _UNITS[found[2]]


def readers(url: str, rate: float, seconds: float, connections: int = 4) -> list[float]:
    """Read at this rate in total; gives the seconds from when each read was due to its answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    place = (parts.hostname, parts.port)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    begin = time.perf_counter() + 0.05
    period = connections / rate
    found: list[list[float]] = [[] for _ in range(connections)]
    failures: list[BaseException] = []

    def read(number: int) -> None:
        try:
            with socket.create_connection(place, timeout=30) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                due = begin + period * number / connections
                while due < begin + seconds:
                    wait = due - time.perf_counter()
                    if wait > 0:
                        time.sleep(wait)
                    connection.sendall(request)
                    _answered(connection)
                    found[number].append(time.perf_counter() - due)
                    due += period
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            failures.append(error)

    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    if failures:
        raise failures[0]
    return [latency for each in found for latency in each]


def _answered(connection: socket.socket) -> None:
    answer = connection.recv(65_536)
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _more(connection)
    head = answer[:end].lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"answered {answer[:200]!r}")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None, head
    while len(answer) < end + 4 + int(length[1]):
        answer += _more(connection)


def _more(connection: socket.socket) -> bytes:
    more = connection.recv(65_536)
    if not more:
        raise RuntimeError("the server ended the connection")
    return more
