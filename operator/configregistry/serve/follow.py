"""The edge of hydration: events become flushes in the event loop, unknown content becomes GETs.

Marks of one turn of the loop are worked off together, in slices, so that reads go on between them.
What a status names and no watch has brought is asked for by name: not at once (the two watches
race, and the content is nearly always only some milliseconds late), then again and again, ever more
rarely, until it is here or nobody names it any more.

It must never take an error of such a GET for an answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from configregistry.kube.objects import Key, RevisionObject
from configregistry.model.names import version_name
from configregistry.serve.hydrate import Hydrator

FIRST_ASK: Final = 0.2
"""Seconds that the watch is given before somebody asks by name."""
LAST_ASK: Final = 30.0
"""Seconds between two questions at most."""
RELENT: Final = 60.0
"""Seconds that a controller has, after a restore of etcd, to raise what went back: to lead again and be told of it."""
CONCURRENT: Final = 8
"""GETs at once: a replica must not flood an API server that has just come back."""

Fetch = Callable[[str, str], Awaitable[RevisionObject | None]]
"""GET a ControllerRevision by namespace and name: None is 404; anything else raises."""

_log = structlog.get_logger(__name__)


class Loop:
    """Flushes a hydrator in the running event loop, and asks its questions."""

    def __init__(self, fetch: Fetch, *, first: float = FIRST_ASK, last: float = LAST_ASK) -> None:
        self._fetch = fetch
        self._first = first
        self._last = last
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._asking: set[asyncio.Task[None]] = set()
        self._hydrator: Hydrator | None = None
        self._woken = False
        self._closed = False

    def drive(self, hydrator: Hydrator) -> None:
        """Take the hydrator that `wake` and `ask` were given to."""
        self._hydrator = hydrator

    def wake(self) -> None:
        """Have what is marked worked off soon."""
        if not self._woken and not self._closed:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._flush)

    def ask(self, key: Key, uid: str, number: int) -> None:
        """Ask for content by name until it is here or no longer wanted."""
        if not self._closed:
            task = asyncio.create_task(self._ask(key, uid, number), name=f"ask {key} {number}")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def rewound(self) -> None:
        """The API server went back to an older state for good: some time later it is followed there."""
        if not self._closed:
            asyncio.get_running_loop().call_later(RELENT, self._relent)

    async def close(self) -> None:
        """Stop asking and flushing."""
        self._closed = True
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _flush(self) -> None:
        self._woken = False
        if self._hydrator is not None and not self._closed and self._hydrator.flush():
            self.wake()

    def _relent(self) -> None:
        if self._hydrator is not None and not self._closed:
            self._hydrator.relent()

    async def _ask(self, key: Key, uid: str, number: int) -> None:
        hydrator = self._hydrator
        if hydrator is None:
            return
        namespace, name = key
        pause = self._first
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            pause = min(2 * pause, self._last)
            if not hydrator.lacks(key, uid, number):
                return
            try:
                async with self._slots:
                    found = await self._fetch(namespace, version_name(name, number))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not an answer
                _log.warning(
                    "content could not be asked for",
                    namespace=namespace,
                    registry=name,
                    version=number,
                    error=str(error),
                )
                continue
            hydrator.answered(key, uid, number, found)
