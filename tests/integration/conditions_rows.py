"""The rows of the conditions table (docs/spec/configregistry.md), and how a registry is brought into each.

A row has several cases where the table has alternatives. Each case ends in a state that stands still, so that tools
can read it at their own pace. What a case expects is written here by hand from the table: it must never be derived
from the code that writes conditions.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, Self

from tests.integration.running import Client, Status, said, stable
from tests.servers import AppServer

Mark = tuple[str, str]
T, F, U = "True", "False", "Unknown"

IDLE: Final = (F, "Idle")
SERVED: Final = (T, "VersionServed")
NOTHING_SERVED: Final = (F, "NoVersion")
PASSING: Final = (T, "ChecksPassing")
FAILED: Final = (F, "CheckFailed")
NO_DATA: Final = (U, "NoData")
NO_CANDIDATE: Final = (U, "NoCandidate")


class Says(NamedTuple):
    """What a row of the table says, and what tools make of it."""

    ready: Mark
    reconciling: Mark
    stalled: Mark
    kstatus: str
    argo: str

    @classmethod
    def good(cls, reason: str) -> Says:
        """Everybody gets what the spec asks for."""
        return cls((T, reason), IDLE, IDLE, "Current", "Healthy")

    @classmethod
    def waits(cls, ready: str, reconciling: str | None = None, argo: str = "Progressing") -> Says:
        """Something is under way, or waits."""
        return cls((F, ready), (T, reconciling or ready), IDLE, "InProgress", argo)

    @classmethod
    def stalls(cls, reason: str) -> Says:
        """Nothing happens until a person changes something."""
        return cls((F, reason), IDLE, (T, reason), "Failed", "Degraded")


ROLLING: Final = "RolloutInProgress"


class Helpers:
    """Servers that the cases ask: an app that is well, one that is not, one that answers POSTs by its path."""

    def __init__(self) -> None:
        self.well = AppServer()
        self.ill = AppServer()
        self.ill.health = 500
        self.asked = _Answering()

    def __enter__(self) -> Self:
        for each in (self.well, self.ill, self.asked):
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.well, self.ill, self.asked):
            each.stop()


class _Answering:
    """A validator and a hook in one: /yes allows, /no refuses, everything else is a 503."""

    def __init__(self) -> None:
        self._server: ThreadingHTTPServer | None = None

    def url(self, path: str) -> str:
        """The address of a path."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/{path}"

    def start(self) -> None:
        """Listen."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = {"/yes": b'{"allowed": true}', "/no": b'{"allowed": false, "message": "not on Fridays"}'}
                found = body.get(self.path, b"")
                self.send_response(200 if found else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class Place(NamedTuple):
    """Where a case is brought about: a registry of this name, and who may be asked."""

    client: Client
    helpers: Helpers
    name: str

    def check(self, app: AppServer, **more: Any) -> list[dict[str, Any]]:
        """One check that asks this app."""
        return [{"name": "alive", "interval": "100ms", "http": {"url": f"http://{app.address}/healthz"}, **more}]

    async def apply(self, number: int, **spec: Any) -> None:
        """Ask for the content with this number."""
        await self.client.apply(self.name, data={"n": number}, **spec)

    async def first(self, **spec: Any) -> None:
        """Version 1 is served."""
        await self.apply(1, **spec)
        await self.client.ready(self.name)

    async def roll(self, *, first: dict[str, Any] | None = None, **rollout: Any) -> None:
        """Version 2 is rolled out over version 1."""
        await self.first(**(first or {}))
        await self.apply(2, rollout=rollout)

    async def until(self, met: Callable[[Status], object]) -> Status:
        """Wait for a status."""
        return await self.client.until(self.name, met)


Bring = Callable[[Place], Awaitable[None]]
LONG: Final[list[dict[str, Any]]] = [{"setWeight": 10}, {"pause": {"duration": "1h"}}, {"setWeight": 50}]
STANDS: Final[list[dict[str, Any]]] = [{"setWeight": 10}, {"pause": {}}]


async def steady(p: Place) -> None:
    await p.first()


async def steady_after_a_pass(p: Place) -> None:
    await p.roll(checks=p.check(p.helpers.well))


async def steady_after_a_failure(p: Place) -> None:
    await rolled_back(p)
    await p.until(lambda s: said(s, Stalled=(T, "RolledBack")))
    await p.apply(1)


async def pinned(p: Place) -> None:
    await p.first()
    await p.apply(2)
    await p.until(lambda s: stable(s, 2))
    await p.apply(2, pinnedVersion=1)


async def step_running(p: Place) -> None:
    await p.roll(steps=LONG, checks=p.check(p.helpers.well))


async def step_running_unmeasured(p: Place) -> None:
    await p.roll(steps=LONG, checks=p.check(p.helpers.well, initialDelay="1h"))


async def checks_pending(p: Place) -> None:
    await p.roll(steps=[{"setWeight": 10}, {"setWeight": 50}], checks=p.check(p.helpers.well, initialDelay="1h"))


async def hook_silent(p: Place) -> None:
    await p.first()
    await p.apply(2, hooks=hooks(p, "silent"))


async def waits_by_step(p: Place) -> None:
    await p.roll(steps=STANDS)


async def waits_by_step_passing(p: Place) -> None:
    await p.roll(steps=STANDS, checks=p.check(p.helpers.well))


async def waits_by_command(p: Place) -> None:
    await p.roll(steps=LONG)
    await p.until(lambda s: (s.get("canary") or {}).get("weight") == 10)
    await p.client.command(p.name, "pause", "2:-:night")


async def waits_by_spec(p: Place) -> None:
    await p.roll(steps=LONG, paused=True)


async def baking(p: Place) -> None:
    await p.roll(bake="1h")


async def baking_passing(p: Place) -> None:
    await p.roll(bake="1h", checks=p.check(p.helpers.well))


async def rolled_back(p: Place) -> None:
    await p.roll(steps=LONG, checks=p.check(p.helpers.ill, failureLimit=0))


async def aborted(p: Place) -> None:
    await p.roll(steps=STANDS)
    await p.until(lambda s: (s.get("canary") or {}).get("weight") == 10)
    await p.client.command(p.name, "abort", "2:-:no")


async def unpinned(p: Place) -> None:
    await pinned(p)
    await p.until(lambda s: said(s, Ready=(T, "Pinned")))
    await p.apply(2)


async def failed_and_held(p: Place) -> None:
    await p.roll(steps=LONG, checks=p.check(p.helpers.ill), onFailure="Pause")


async def dependency_first(p: Place) -> None:
    await p.apply(1, dependsOn=[{"name": f"{p.name}-base"}])


async def dependency_later(p: Place) -> None:
    await p.first()
    await p.apply(2, dependsOn=[{"name": f"{p.name}-base"}])


async def source_first(p: Place) -> None:
    await p.apply(1, dataFrom=[{"configMapRef": {"name": f"{p.name}-base"}}])


async def source_later(p: Place) -> None:
    await p.client.configmap(f"{p.name}-base", {"a": "1"})
    await p.first(dataFrom=[{"configMapRef": {"name": f"{p.name}-base"}}])
    await p.client.configmap(f"{p.name}-base", None)


def validators(p: Place, path: str) -> list[dict[str, Any]]:
    return [{"name": "limits", "url": p.helpers.asked.url(path)}]


async def validator_first(p: Place) -> None:
    await p.apply(1, validators=validators(p, "silent"))


async def validator_later(p: Place) -> None:
    await p.first()
    await p.apply(2, validators=validators(p, "silent"))


async def validator_refuses(p: Place) -> None:
    await p.first()
    await p.apply(2, validators=validators(p, "no"))


def hooks(p: Place, path: str) -> list[dict[str, Any]]:
    return [{"name": "warm", "when": "PreRollout", "url": p.helpers.asked.url(path)}]


async def vetoed(p: Place) -> None:
    await p.first()
    await p.apply(2, hooks=hooks(p, "no"))


async def projection(p: Place) -> None:
    await p.client.configmap(f"{p.name}-target", {"somebody": "else"})
    await p.first()
    await p.apply(1, project={"configMap": f"{p.name}-target"})


async def invalid_first(p: Place) -> None:
    await p.client.apply(p.name, data={"a b": 1})


async def invalid_later(p: Place) -> None:
    await p.first()
    await p.client.apply(p.name, data={"a b": 1})


async def pinned_to_nothing(p: Place) -> None:
    await p.first()
    await p.apply(1, pinnedVersion=99)


class Case(NamedTuple):
    """One way to be in a row."""

    row: str
    """As the table of the docs calls it."""
    bring: Bring
    says: Says
    available: Mark = SERVED
    healthy: Mark = NO_CANDIDATE


STEADY, PIN, RUNS, PERSON, BAKES = "steady", "pinned", "rolling out", "waiting for a person", "baking"
DEPENDS, SOURCE = "waiting for a dependency", "a ConfigMap of `dataFrom` is gone, not optional"
VALIDATOR, VETO = "a validator does not answer", "a PreRollout hook said no"

CASES: Final = (
    Case(STEADY, steady, Says.good("RolloutComplete")),
    Case(STEADY, steady_after_a_pass, Says.good("RolloutComplete"), healthy=PASSING),
    Case(STEADY, steady_after_a_failure, Says.good("RolloutComplete"), healthy=FAILED),
    Case(PIN, pinned, Says.good("Pinned")),
    Case(RUNS, step_running, Says.waits(ROLLING, "StepRunning"), healthy=PASSING),
    Case(RUNS, step_running_unmeasured, Says.waits(ROLLING, "StepRunning"), healthy=NO_DATA),
    Case(RUNS, checks_pending, Says.waits(ROLLING, "ChecksPending"), healthy=NO_DATA),
    Case(RUNS, hook_silent, Says.waits(ROLLING, "StepRunning"), healthy=NO_DATA),
    Case(PERSON, waits_by_step, Says.waits("Paused", argo="Suspended"), healthy=NO_DATA),
    Case(PERSON, waits_by_step_passing, Says.waits("Paused", argo="Suspended"), healthy=PASSING),
    Case(PERSON, waits_by_command, Says.waits("Paused", argo="Suspended"), healthy=NO_DATA),
    Case(PERSON, waits_by_spec, Says.waits("Paused", argo="Suspended"), healthy=NO_DATA),
    Case(BAKES, baking, Says.waits("Baking"), healthy=NO_DATA),
    Case(BAKES, baking_passing, Says.waits("Baking"), healthy=PASSING),
    Case("rolled back", rolled_back, Says.stalls("RolledBack"), healthy=FAILED),
    Case("aborted", aborted, Says.stalls("Aborted"), healthy=NO_CANDIDATE),
    Case("aborted", unpinned, Says.stalls("Aborted"), healthy=NO_CANDIDATE),
    Case("failed with `onFailure: Pause`", failed_and_held, Says.stalls("CheckFailed"), healthy=FAILED),
    Case(DEPENDS, dependency_first, Says.waits("DependencyNotReady", "WaitingForDependency"), NOTHING_SERVED),
    Case(DEPENDS, dependency_later, Says.waits("DependencyNotReady", "WaitingForDependency")),
    Case(SOURCE, source_first, Says.waits("SourceNotFound"), NOTHING_SERVED),
    Case(SOURCE, source_later, Says.waits("SourceNotFound")),
    Case(VALIDATOR, validator_first, Says.waits("ValidatorUnavailable"), NOTHING_SERVED),
    Case(VALIDATOR, validator_later, Says.waits("ValidatorUnavailable")),
    Case(VETO, vetoed, Says.stalls("HookVetoed")),
    Case("the projected ConfigMap is somebody else's", projection, Says.stalls("ProjectionConflict")),
    Case("invalid, first version", invalid_first, Says.stalls("InvalidSpec"), NOTHING_SERVED),
    Case("invalid, later", invalid_later, Says.stalls("InvalidSpec")),
    Case("invalid, later", validator_refuses, Says.stalls("InvalidSpec")),
    Case("invalid, later", pinned_to_nothing, Says.stalls("InvalidSpec")),
)


def id_of(case: Case) -> str:
    """A case's name, which is its registry's too."""
    return str(case.bring.__name__).replace("_", "-")
