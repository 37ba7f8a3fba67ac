"""What the fields of a check do to a rollout, and whom a check that hangs delays: nobody.

With the real operator, API server and Prometheus, and real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from tests.cluster import KubeCluster
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.standing import REPOSITORY
from tests.integration.running import Client, Operator, candidate, running, stable
from tests.servers import AppServer, Prometheus

from configregistry.clock import parse_timestamp

pytestmark = pytest.mark.xdist_group("check-edges")

DEAD_ZONE = """
# A fake: the names of one zone hang, as with a name server that does not answer. The machine's own resolver cannot
# be pointed at such a server without being root. All else of the process is as it is.
import socket, threading
real = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    if isinstance(host, str) and host.endswith(".dead.example"):
        threading.Event().wait()
    return real(host, *arguments, **options)
socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture(scope="module")
def operator(crd: KubeCluster, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator that asks in vain for some names."""
    at = tmp_path_factory.mktemp("operator")
    (at / "sitecustomize.py").write_text(DEAD_ZONE)
    with running(crd, place, at, start=False) as made:
        made.environment["PYTHONPATH"] = f"{at}:{REPOSITORY / 'operator'}"
        made.start()
        yield made
        assert not [line for line in made.lines if "reconcile failed" in str(line.get("event"))]


# What the fields do


def http(url: str, *expected: int) -> dict[str, Any]:
    return {"http": {"url": url, **({"expectedStatus": list(expected)} if expected else {})}}


async def roll_out(client: Client, name: str, check: dict[str, Any]) -> None:
    """Version 2 of a registry goes out."""
    asked = {"name": "asked", "interval": "200ms", **check}
    deadline = "1s" if "waits" in name else "10m"
    rollout = {"steps": [{"setWeight": 50}], "progressDeadline": deadline, "checks": [asked]}
    await client.apply(name, data={"n": 1}, rollout=rollout)
    await client.ready(name)
    await client.apply(name, data={"n": 2}, rollout=rollout)


async def test_what_a_check_comes_to(
    operator: Operator, client: Client, app: AppServer, prometheus: Prometheus
) -> None:
    """By its fields, and by what its query gives: taken back with this message, or (empty) completed."""
    well, ill = f"http://{app.address}/healthz", f"http://{app.address}/not-found"
    gone = f"http://{LOOPBACK}:{pick_ports(1)[0]}/"
    two = 'label_replace(vector(1), "a", "1", "", "") or label_replace(vector(9), "a", "2", "", "")'

    def query(text: str, most: float = 5, **more: Any) -> dict[str, Any]:
        return {"max": most, "prometheus": {"address": prometheus.address, "query": text}, **more}

    cases: dict[str, tuple[dict[str, Any], str]] = {
        "well": (http(well), ""),
        "ill": (http(ill), "failed once, limit 0): got status 404, expected 200"),
        "expected": (http(ill, 500, 404), ""),
        "failures": ({**http(ill), "failureLimit": 2}, "failed 3 times, limit 2"),
        "errors": ({**http(gone), "consecutiveErrorLimit": 1}, "2 errors in a row, limit 1"),
        "late": ({**http(ill), "initialDelay": "3s"}, "got status 404"),
        "empty-waits": (query("nothing_of_this_name"), "no Pass within progressDeadline 1s"),
        "empty-fails": (query("nothing_of_this_name", noData="Fail"), "failed once, limit 0): no series"),
        "empty-passes": (query("nothing_of_this_name", noData="Pass"), ""),
        "nan-waits": (query("vector(0) / 0"), "no Pass within progressDeadline 1s"),
        "nan-fails": (query("vector(0) / 0", noData="Fail"), "every value is NaN"),
        "infinite": (query("vector(1) / 0"), "got +Inf, expected at most 5"),
        "several": (query(two), "got 9, expected at most 5 (the worst of 2 series)"),
        "several-well": (query(two, 9), ""),
        "scalar": (query("scalar(vector(6))"), "got 6, expected at most 5"),
        "matrix": (query("up[1m]", consecutiveErrorLimit=0), "the query gives a matrix, expected a scalar or a vector"),
        "string": (query('"text"', consecutiveErrorLimit=0), "the query gives a string"),
        "invalid": (query("sum(", consecutiveErrorLimit=0), "Prometheus: bad_data"),
        "templates": (http(f"http://{app.address}/{TEMPLATE}", 404), ""),
        "query": (query('label_replace(vector({{version}}), "r", "{{registry}}", "", "")', 1), "got 2, expected"),
    }
    late = asyncio.create_task(client.until("late", lambda status: candidate(status, 2)))
    await asyncio.gather(*(roll_out(client, name, check) for name, (check, _) in cases.items()))
    found = dict(zip(cases, await asyncio.gather(*(_ended(client, name) for name in cases)), strict=True))
    for name, (_, told) in cases.items():
        status = found[name]
        said = (status.get("rejected") or [{}])[0].get("message", "")
        assert stable(status, 1 if told else 2), (name, said)
        assert told in said, (name, said)
        assert bool(told) == bool(said), (name, said)
    began, over = ((await late)["canary"]["startedAt"], found["late"]["lastOutcome"]["at"])
    assert _seconds(began, over) >= 3 - 1  # both are in whole seconds
    hashed = found["templates"]["stable"]["hash"]
    assert f"/{client.namespace}/templates/2/{hashed}/1" in app.asked


TEMPLATE = "{{namespace}}/{{registry}}/{{version}}/{{hash}}/{{stableVersion}}"


def _seconds(one: str, other: str) -> float:
    began, ended = parse_timestamp(one), parse_timestamp(other)
    assert began is not None
    assert ended is not None
    return (ended - began).total_seconds()


async def _ended(client: Client, name: str) -> dict[str, Any]:
    return await client.until(name, lambda s: not s.get("canary") and (stable(s, 2) or bool(s.get("rejected"))))


# Whom a check that hangs delays

REGISTRIES, CHECKS = 14, 16
"""As many checks as one registry may have: 224 in all."""
ROUNDS = 3


class Hanging:
    """Takes connections and never answers."""

    def __init__(self) -> None:
        self.held = 0
        self.url = ""

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.held += 1
        with contextlib.suppress(OSError):
            await reader.read()
        self.held -= 1
        writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Hanging]:
        """Until the end of the block."""
        server = await asyncio.start_server(self._hold, LOOPBACK, 0, backlog=1024)
        self.url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()


async def _back_within(client: Client, names: list[str]) -> float:
    """Seconds from a service's failure to the accepted status write that takes its version back; the median."""
    taken = []
    for name in names:
        with AppServer() as app:
            # By a name: who looks names up in vain must not be in the way either.
            url = f"http://localhost:{app.address.rpartition(':')[2]}/healthz"
            check = {"name": "alive", "interval": "200ms", **http(url)}
            rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": [check]}
            await client.apply(name, data={"n": 1}, rollout=rollout)
            await client.ready(name)
            await client.apply(name, data={"n": 2}, rollout=rollout)
            await client.until(name, lambda s: candidate(s, 2, 50))
            await client.wait(lambda: _asked(app, 3), lambda: f"{app.asked} of three probes")
            async with client.history(name) as history:
                app.health, began = 500, time.monotonic()
                await client.until(name, lambda s: stable(s, 1))
                await client.wait(lambda: _has(history, 1), lambda: "the watch to have seen it")
            taken.append(next(each.at for each in history.seen if stable(each.status, 1)) - began)
    return median(taken)


async def _asked(app: AppServer, times: int) -> bool:
    return len(app.asked) >= times


async def _has(history: Any, version: int) -> bool:
    return any(stable(each.status, version) for each in history.seen)


async def test_checks_that_hang_delay_nobodys_rollback(operator: Operator, client: Client) -> None:
    """Over two hundred hang in connections, some dozens in look-ups of names, and one of another registry fails."""
    before = await _back_within(client, [f"before-{number}" for number in range(ROUNDS)])
    threads = _threads(operator)
    async with Hanging().listening() as hanging:
        # The time is told by the test: none of these comes to an end of its own while it is measured.
        slow = {"timeoutSeconds": 30, "expectedStatus": [200]}
        names = [f"hangs-{number}" for number in range(REGISTRIES)]
        in_vain = [f"in-vain-{number}" for number in range(3)]
        urls = {name: [f"{hanging.url}/{name}/{number}" for number in range(CHECKS)] for name in names} | {
            name: [f"http://{name}-{number}.dead.example/" for number in range(CHECKS)] for name in in_vain
        }

        def spec(name: str, n: int) -> dict[str, Any]:
            checks = [
                {"name": f"c{number}", "interval": "100ms", "consecutiveErrorLimit": 1000, "http": {"url": url, **slow}}
                for number, url in enumerate(urls[name])
            ]
            return {"data": {"n": n}, "rollout": {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": checks}}

        await asyncio.gather(*(client.apply(name, **spec(name, 1)) for name in urls))
        await asyncio.gather(*(client.ready(name) for name in urls))
        await asyncio.gather(*(client.apply(name, **spec(name, 2)) for name in urls))
        await client.wait(
            lambda: _all_hang(hanging, operator, threads), lambda: f"{hanging.held} hang, {_threads(operator)} threads"
        )
        after = await _back_within(client, [f"after-{number}" for number in range(ROUNDS)])
        assert hanging.held >= 200, "they are not held any more"
        for name in urls:
            assert candidate(await client.status(name), 2, 50)
    print(f"from failure to rollback: {before:.3f} s, beside checks that hang {after:.3f} s")
    assert after < 10 * before + 1, (before, after)


def _threads(operator: Operator) -> int:
    return len(list(Path(f"/proc/{operator.pid}/task").iterdir()))


async def _all_hang(hanging: Hanging, operator: Operator, threads: int) -> bool:
    return hanging.held >= REGISTRIES * CHECKS and _threads(operator) >= threads + 3 * CHECKS
