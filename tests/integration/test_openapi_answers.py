"""What is answered over a socket is what /openapi.json says, whatever is asked: no 5xx, nothing undocumented.

Requests are made up by schemathesis from the document, right and wrong ones.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from tests.cluster.ports import LOOPBACK
from tests.serve_fakes import World

from configregistry.serve import serve_http
from configregistry.serve.openapi import document
from configregistry.serve.openapi.parts import DURATION

DATA = {"timeout.ms": 2500, "feature.new-basket": True, "a/b": {"c": [1, None, "ä"]}}


async def serve(world: World, started: threading.Event, stop: asyncio.Event, port: list[int]) -> None:
    """A replica in a loop of its own: schemathesis blocks the one of the test."""
    server = await serve_http(world.app, LOOPBACK, 0)
    port.append(server.port)
    started.set()
    await stop.wait()
    await server.stop()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    started, stop, port = threading.Event(), asyncio.Event(), list[int]()

    def run() -> None:
        asyncio.set_event_loop(loop)
        world = World()
        world.serve("defaults", {"timeout.ms": 1, "only.here": "x"})
        canary = {"version": 8, "weight": 50, "match": [{"attribute": "region", "values": ["eu-test"]}]}
        world.serve(
            data=DATA, version=7, revision_number=31, canary=canary, canary_data={"a": 1}, fallback="defaults"
        )  # fmt: skip
        loop.run_until_complete(serve(world, started, stop, port))

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://{LOOPBACK}:{port[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="module")
def api(address: str) -> Any:
    too_long = {"expected-statuses": [400, 401, 403, 404, 405, 409, 410, 413, 414, 429, 431]}
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": too_long}})
    return schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)


REAL = {"namespace": "shop", "name": "checkout", "key": "timeout.ms", "version": "7", "from": "stable", "to": "8"}
STREAMS = {"watchRegistry", "watchRegistries", "followFlags", "streamFlagChanges"}
"""These do not end; tests/integration/test_watch_sockets.py follows them."""
OPERATIONS = [
    pytest.param(path, method, id=operation["operationId"])
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
    if operation["operationId"] not in STREAMS
]
PLAIN = {"readOpenApi": "takes nothing that could be wrong", "evaluateFlagsOfAll": "is always refused"}
MAX_REVISION = 10**18 - 1


def known_and_short(case: Any, *, real: bool) -> None:
    """Ask for no revision that is not there (503 is then the right answer), and wait for nothing."""
    real = real and "name" in case.path_parameters
    for values, name in ((case.query, "minRevision"), (case.headers, "X-ConfigRegistry-Revision")):
        if values and str(values.get(name, "")).isdigit() and int(values[name]) <= MAX_REVISION:
            values[name] = str(min(int(values[name]), 31) if real else 0)
    for name, value in list((case.query or {}).items()):
        if value is None or value in ([], {}):
            # No trace of it would be left in the request, and what is to be refused would be right.
            case.query[name] = "not.what.was.expected"
    if case.query and re.fullmatch(DURATION, str(case.query.get("wait", "no"))):
        case.query["wait"] = "1ms"


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_documented(api: Any, path: str, method: str, mode: GenerationMode) -> None:
    name = document()["paths"][path][method]["operationId"]
    if name in PLAIN and (mode is GenerationMode.NEGATIVE or name != "readOpenApi"):
        pytest.skip(PLAIN[name])

    @hypothesis.given(case=api[path][method].as_strategy(generation_mode=mode), real=st.booleans())
    @hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    def holds(case: Any, real: bool) -> None:
        if real:  # what is made up exists nowhere
            case.path_parameters.update({name: REAL[name] for name in case.path_parameters if name in REAL})
        known_and_short(case, real=real)
        if mode is GenerationMode.POSITIVE and case.query:
            case.query.pop("continue", None)  # no page gave it
        case.call_and_validate()

    holds()
