"""Kubernetes Events, told in the background: what repeats within a window counts up a series.

Why a queue: an Event is for people who look later, and an API server that is slow for Events must
not be slow for rollbacks.

It must never block, raise into or slow down whoever tells, and never grow: what does not fit, or
cannot be delivered after some attempts, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from configregistry import failpoints
from configregistry.clock import Clock, SystemClock
from configregistry.kube.backoff import Backoff
from configregistry.kube.client import Api
from configregistry.kube.failures import AlreadyExists, ApiError, NotFound, Throttled, Unavailable
from configregistry.kube.objects import Meta
from configregistry.kube.paths import EVENTS
from configregistry.model.names import API_VERSION, GROUP, KIND
from configregistry.rollout.observation import Note

CONTROLLER: Final = f"{GROUP}/controller"
WINDOW: Final = 600.0
"""Seconds since its last occurrence within which the same event goes on as a series."""
CAPACITY: Final = 1000
"""Different events that may wait; and series that are remembered."""
ATTEMPTS: Final = 4
MAX_NOTE: Final = 1024
"""Bytes, by the API."""
MAX_WORD: Final = 128

_log = structlog.get_logger(__name__)


class _Key(NamedTuple):
    """What makes two events the same."""

    namespace: str
    name: str
    uid: str
    note: Note


class _Waiting(NamedTuple):
    """An event not yet delivered: how often it occurred, when last, and about which state."""

    times: int
    at: datetime
    resource_version: str


class _Series(NamedTuple):
    """A delivered event: its object's name, how often it occurred, monotonic time of the last."""

    event: str
    times: int
    seen: float


class Recorder:
    """Tells events of registries; `run` it in a task."""

    def __init__(
        self,
        api: Api,
        *,
        instance: str,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.dropped = 0
        self._api = api
        self._instance = instance[:MAX_WORD] or "unknown"
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._sleep = sleep
        self._waiting: dict[_Key, _Waiting] = {}
        self._series: dict[_Key, _Series] = {}
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def tell(self, regarding: Meta, note: Note) -> None:
        """Queue an event about a registry; returns at once, whatever happens to it."""
        text = note.message.encode()[:MAX_NOTE].decode(errors="ignore")
        note = Note(note.type, note.reason[:MAX_WORD], text)
        key = _Key(regarding.namespace, regarding.name, regarding.uid, note)
        known = self._waiting.get(key)
        if known is None and len(self._waiting) >= CAPACITY:
            self.dropped += 1
            return
        count = 1 + (known.times if known else 0)
        self._waiting[key] = _Waiting(count, self._clock.wall(), regarding.resource_version)
        self._idle.clear()
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._woken.wait()
            while self._waiting:
                key = next(iter(self._waiting))
                failpoints.about(key.name)
                failpoints.reach("events.woken")
                await self._deliver(key, self._waiting.pop(key))
            self._woken.clear()
            self._idle.set()

    async def drain(self, seconds: float = 2.0) -> None:
        """Wait until all is delivered, at most so long; what is left then counts as dropped."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    async def _deliver(self, key: _Key, waiting: _Waiting) -> None:
        backoff = Backoff(0.5, jitter=self._jitter)
        event = f"{key.name}.{secrets.token_hex(8)}"
        for _attempt in range(ATTEMPTS):
            try:
                await self._send(key, waiting, event)
            except (Unavailable, Throttled) as error:
                failure: ApiError = error
                await self._sleep(backoff.next(error.retry_after))
            except ApiError as error:
                failure = error
                break
            except Exception:  # noqa: BLE001 - logged; the next event is another matter
                self.dropped += 1
                _log.exception("event not told", namespace=key.namespace, registry=key.name, reason=key.note.reason)
                return
            else:
                return
        self.dropped += 1
        # Not the note: it may quote values of the configuration.
        told = {"namespace": key.namespace, "registry": key.name, "reason": key.note.reason}
        _log.warning("event not told", **told, error=str(failure))

    async def _send(self, key: _Key, waiting: _Waiting, event: str) -> None:
        now = self._clock.monotonic()
        known = self._series.get(key)
        if known is not None and now - known.seen < WINDOW:
            count = known.times + waiting.times
            series = {"count": count, "lastObservedTime": _micro(waiting.at)}
            path = EVENTS.path(key.namespace, known.event)
            try:
                failpoints.reach("events.again.before")
                await self._api.patch(path, msgspec.json.encode({"series": series}))
                failpoints.reach("events.again.after")
            except NotFound:
                pass  # it expired: begin anew
            else:
                self._remember(key, _Series(known.event, count, now))
                return
        try:
            body = self._event(key, waiting, event)
            failpoints.reach("events.new.before")
            await self._api.create(EVENTS.path(key.namespace), msgspec.json.encode(body))
            failpoints.reach("events.new.after")
        except AlreadyExists:
            pass  # the attempt before had come through
        self._remember(key, _Series(event, waiting.times, now))

    def _remember(self, key: _Key, series: _Series) -> None:
        self._series.pop(key, None)
        self._series[key] = series
        while len(self._series) > CAPACITY:
            del self._series[next(iter(self._series))]

    def _event(self, key: _Key, waiting: _Waiting, event: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event, "namespace": key.namespace},
            "eventTime": _micro(waiting.at),
            "type": key.note.type,
            "reason": key.note.reason,
            "action": key.note.reason,
            "note": key.note.message,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": key.namespace,
                "name": key.name,
                "uid": key.uid,
                "resourceVersion": waiting.resource_version,
            },
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
        }
        if waiting.times > 1:
            body["series"] = {"count": waiting.times, "lastObservedTime": _micro(waiting.at)}
        return body


def _micro(moment: datetime) -> str:
    """`metav1.MicroTime`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
