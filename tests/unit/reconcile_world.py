"""An API server that is a fake, and says so: in memory, in virtual time, failing at whichever request is named.

What is real is everything of reconcile, kube/revisions, the machine and the runner. A process can die at any
request, before or after it was carried out; the next one begins with what this fake has, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, TypeVar, cast

from configregistry.health import PROBES, Finding, Kind, Means, Outbound, Question, RolloutKey, Runner
from configregistry.health.question import Workloads
from configregistry.kube.client import Api
from configregistry.kube.connection import Timeouts
from configregistry.kube.events import Recorder
from configregistry.kube.failures import AlreadyExists, ApiError, Conflict, Forbidden, NotFound, Unavailable
from configregistry.kube.objects import (
    Meta,
    MetaObject,
    RegistryObject,
    decode_meta,
    decode_registry,
    decode_revision,
)
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES, REVISIONS
from configregistry.model.status import Status, parse_status
from configregistry.reconcile import Collector, Controller, Watched
from configregistry.reconcile.queue import FIRST_RETRY
from configregistry.rollout.observation import Note, Probe, Verdict
from configregistry.rollout.plan import CheckPlan
from configregistry.telemetry.metrics import Metrics

T = TypeVar("T")
SPACE: Final = "shop"
NAME: Final = "checkout"
LAG: Final = 0.02
"""Seconds by which a watch is behind."""
ANSWER: Final = 0.004
"""Seconds that a request takes."""
SLOW: Final = 3.0
"""Seconds that a slow one takes."""
HANG: Final = Timeouts().total
"""Seconds after which the client gives a request up that is not answered at all."""
LATE: Final = {"late": FIRST_RETRY + 2.5 * ANSWER, "later": 0.35}
"""Seconds after which a write without an answer is carried out: between the next GET and PUT, or after both."""
_BEGINNING: Final = datetime(2030, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time goes on only when nothing is ready to run, and then at once. No sockets, no threads."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        # Some time always passes: what waits for less than a float can tell would wait for ever.
        self._loop.now += max(1e-7, timeout)
        return super().select(0)


def played(main: Coroutine[Any, Any, T]) -> T:
    """What comes of it, in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


async def until(true: Callable[[], object], limit: float = 100.0, every: float = 0.01) -> float:
    """Seconds until something is true; infinite where it is not within the limit."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not true():
        if loop.time() - began > limit:
            return inf
        await asyncio.sleep(every)
    return loop.time() - began


class LoopClock:
    """The clock of a virtual loop; each process has an origin of its own, as `time.monotonic` has."""

    def __init__(self, origin: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._origin = origin

    def wall(self) -> datetime:
        return _BEGINNING + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time() - self._origin


@dataclass
class Fault:
    """What becomes of the request with number `at`."""

    kind: str
    at: int


class FakeApi:
    """Not an API server: as much of one as reconcile can see, with its rules of conflict.

    `ill(method, path)` names what is wrong with such requests: "" nothing, "slow", "hangs", "down" or
    "refused" (403).
    `drops`: fields of the status that its CRD does not know.
    """

    def __init__(
        self,
        fault: Fault | None = None,
        ill: Callable[[str, str], str] = lambda *_: "",
        drops: frozenset[str] = frozenset(),
    ) -> None:
        self.ill = ill
        self.drops = drops
        self.lag = LAG
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 100
        self.fault = fault
        self.requests: list[str] = []
        self.killed = asyncio.Event()
        self.statuses: list[tuple[float, Status]] = []
        self.watcher: Callable[[str, dict[str, Any] | None, dict[str, Any] | None], None] = lambda *_: None

    # What the operator calls.

    async def get(self, path: str, *, accept: str = "") -> bytes:
        return await self._request("GET", path, lambda: self._read(path))

    async def list(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = "", seconds: float | None = None
    ) -> bytes:
        wanted = (params or {}).get("labelSelector", "").rpartition("=")[2]

        def found() -> Any:
            items = [
                each
                for place, each in self.objects.items()
                if place.startswith(f"{path}/") and each["metadata"]["labels"].get(LABEL) == wanted
            ]
            return {"metadata": {"resourceVersion": str(self.version)}, "items": items}

        return await self._request("GET", path, found)

    async def create(self, path: str, body: bytes) -> bytes:
        return await self._request("POST", path, lambda: self.add(path, json.loads(body)))

    async def replace(self, path: str, body: bytes) -> bytes:
        return await self._request("PUT", path, lambda: self._put_status(path, json.loads(body)))

    async def patch(self, path: str, body: bytes, *, kind: str = "", accept: str = "") -> bytes:
        return await self._request("PATCH", path, lambda: self._merge(path, json.loads(body)))

    async def delete(self, path: str, *, uid: str | None = None, resource_version: str | None = None) -> bytes:
        return await self._request("DELETE", path, lambda: self.remove(path, uid, resource_version))

    async def _request(self, method: str, path: str, act: Callable[[], Any]) -> bytes:
        self.requests.append(f"{method} {path}")
        fault = self.fault if self.fault is not None and self.fault.at == len(self.requests) else None
        kind = fault.kind if fault else ""
        await asyncio.sleep(ANSWER)
        await self._suffer(self.ill(method, path), method)
        if kind == "kill-before":
            await self._die()
        if kind == "slow":
            await asyncio.sleep(SLOW)
        if kind in ("lost-before", "refused", *LATE):
            if kind in LATE and method != "GET":
                asyncio.get_running_loop().call_later(LATE[kind], self._late, act)
            raise Unavailable("a fault", outcome_unknown=kind != "refused" and method != "GET")
        if kind == "conflict":
            raise Conflict("a fault") if method in ("PUT", "PATCH") else Unavailable("a fault")
        found = act()
        if kind == "kill-after":
            await self._die()
        if kind == "lost-after":
            raise Unavailable("a fault", outcome_unknown=method != "GET")
        await asyncio.sleep(ANSWER)
        return json.dumps(found).encode()

    @staticmethod
    async def _suffer(ill: str, method: str) -> None:
        await asyncio.sleep({"slow": SLOW, "hangs": HANG}.get(ill, 0.0))
        if ill == "refused":
            raise Forbidden("403")
        if ill in ("hangs", "down"):
            raise Unavailable(ill, outcome_unknown=method != "GET")

    @staticmethod
    def _late(act: Callable[[], Any]) -> None:
        with suppress(ApiError):
            act()

    async def _die(self) -> None:
        self.killed.set()
        await asyncio.get_running_loop().create_future()

    # What there is.

    def add(self, path: str, made: dict[str, Any]) -> dict[str, Any]:
        place = f"{path}/{made['metadata']['name']}"
        if place in self.objects:
            raise AlreadyExists(place)
        meta = {"labels": {}, "annotations": {}, "namespace": SPACE, "generation": 1, **made["metadata"]}
        return self._store(place, {**made, "metadata": {**meta, "uid": f"uid-{self.version}"}})

    def edit(self, path: str, **parts: Any) -> None:
        """What a person does: another spec is another generation."""
        old = self._read(path)
        meta = {**old["metadata"], "generation": old["metadata"]["generation"] + ("spec" in parts)}
        meta["annotations"] = {**meta["annotations"], **parts.pop("annotations", {})}
        self._store(path, {**old, **parts, "metadata": meta})

    def remove(self, path: str, uid: str | None = None, version: str | None = None) -> dict[str, Any]:
        old = self._expect(path, {"uid": uid, "resourceVersion": version})
        del self.objects[path]
        self.version += 1
        self.watcher(path, old, None)
        return old

    def _read(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            raise NotFound(path)
        return self.objects[path]

    def _expect(self, path: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        found = self._read(path)
        for name in ("uid", "resourceVersion"):
            if wanted.get(name) not in (None, found["metadata"][name]):
                raise Conflict(f"{path}: {name}")
        return found

    def _put_status(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        place = path.removesuffix("/status")
        old = self._expect(place, body["metadata"])
        kept = {name: value for name, value in body["status"].items() if name not in self.drops}
        if self.drops and kept == old.get("status"):
            return old  # nothing has changed: no other resourceVersion, and no watch tells
        status = parse_status(json.dumps(kept).encode())
        self.statuses.append((asyncio.get_running_loop().time(), status))
        return self._store(place, {**old, "status": kept})

    def _merge(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body["metadata"]
        old = self._expect(path, wanted)
        meta = {**old["metadata"]}
        for part in ("labels", "annotations"):
            meta[part] = {**meta[part], **wanted.get(part, {})}
        new = {**old, "metadata": meta}
        if "data" in body:
            data = {**old.get("data", {}), **body["data"]}
            new["data"] = {name: text for name, text in data.items() if text is not None}
        return self._store(path, new)

    def _store(self, place: str, new: dict[str, Any]) -> dict[str, Any]:
        old = self.objects.get(place)
        self.version += 1
        stored = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self.version)}}
        self.objects[place] = stored
        self.watcher(place, old, stored)
        return stored

    # What a test asks.

    @property
    def status(self) -> Status:
        return self.status_of(NAME)

    def status_of(self, name: str) -> Status:
        return parse_status(json.dumps(self.objects[REGISTRIES.path(SPACE, name)].get("status", {})).encode())

    def versions(self) -> dict[int, str]:
        """Number -> hash."""
        prefix = REVISIONS.path(SPACE) + "/"
        found = [each for place, each in self.objects.items() if place.startswith(prefix)]
        return {each["revision"]: each["metadata"]["labels"]["configregistry.dev/hash"] for each in found}


Probed = Callable[[RolloutKey, CheckPlan, Probe], None]
LABEL: Final = "configregistry.dev/registry"
REGISTRY: Final = REGISTRIES.path(SPACE, NAME)


class Notes:
    """In place of the recorder of events."""

    def __init__(self) -> None:
        self.told: list[Note] = []

    def tell(self, _meta: Meta, note: Note) -> None:
        self.told.append(note)


@dataclass
class Checks:
    """What the one check says, and what was asked."""

    verdict: Verdict = Verdict.PASS
    made: list[Verdict] = field(default_factory=list)

    async def probe(self, _question: Question, _means: Means) -> Finding:
        await asyncio.sleep(0.01)
        self.made.append(self.verdict)
        return Finding(self.verdict, str(len(self.made)), "as told")


class Process:
    """One life of the operator."""

    def __init__(
        self,
        api: FakeApi,
        checks: Checks,
        origin: float,
        collector: Collector | None = None,
        outbound: Any = None,
        *,
        workloads: Workloads | None = None,
        workers: int = 2,
    ) -> None:
        self.notes = Notes()
        self._api = api
        self._loop = asyncio.get_running_loop()
        self._registries: dict[tuple[str, str], RegistryObject] = {}
        self._configmaps: dict[tuple[str, str], MetaObject] = {}
        self._kinds = {
            "http": Kind(checks.probe, lambda _check: 1.0, lambda _check, _subject, _field: None),
            "workload": PROBES["workload"],
        }
        self._means = Means(cast("Outbound", None), workloads=workloads)
        self._clock = clock = LoopClock(origin)
        here = MetaObject(Meta(SPACE))
        self._controller = Controller(
            cast("Api", api),
            Watched(self._registries, self._configmaps, {}, {here.meta.key: here}),
            cast("Recorder", self.notes),
            outbound,
            self._runner_of,
            clock,
            Metrics(env="", cluster=""),
            spread=lambda: 1.0,
            collector=collector,
        )
        self._alive = True
        for place, each in api.objects.items():
            self._take(place, None, each)
        api.watcher = self._watch
        self._controller.triggers.open(list(self._registries))
        self._tasks = [asyncio.ensure_future(self._controller.work()) for _ in range(workers)]

    def _runner_of(self, changed: Callable[[RolloutKey], None], probed: Probed) -> Runner:
        self._runner = Runner(self._means, self._clock, changed, probed=probed, kinds=self._kinds)
        return self._runner

    @property
    def checked(self) -> frozenset[RolloutKey]:
        """The candidates whose checks are made."""
        return self._runner.keys

    def _watch(self, place: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        self._loop.call_later(self._api.lag, self._take, place, old, new)

    def _take(self, place: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if not self._alive:
            return
        key = (SPACE, place.rpartition("/")[2])
        raw = {True: json.dumps(old).encode() if old else b"", False: json.dumps(new).encode() if new else b""}
        triggers = self._controller.triggers
        if place.startswith(REGISTRIES.path(SPACE)):
            before = self._registries.pop(key, None)
            after = decode_registry(raw[False]) if new else None
            if after is not None:
                self._registries[key] = after
            triggers.registry_changed(key, before, after)
        elif place.startswith(REVISIONS.path(SPACE)):
            triggers.revision_changed(
                key, decode_revision(raw[True]) if old else None, decode_revision(raw[False]) if new else None
            )
        elif place.startswith(CONFIGMAPS.path(SPACE)):
            had = self._configmaps.pop(key, None)
            has = decode_meta(raw[False]) if new else None
            if has is not None:
                self._configmaps[key] = has
            triggers.configmap_changed(key, had, has)

    async def kill(self) -> None:
        """Nothing of it runs or hears any more."""
        self._alive = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._controller.close()
