"""Runs kopf in a thread and loop of its own, and starts it again when it ends by itself.

Of its own, because `kopf.operator()` cancels every task that is created in its loop after it, and because
its ends (some API errors end it) must not end serving.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

import kopf
import structlog

_log = structlog.get_logger(__name__)

FIRST_RESTART: Final = 0.5
LAST_RESTART: Final = 30.0
"""Seconds before kopf is started again, doubled up to the last."""
LONG: Final = 300.0
"""After so many seconds without an end, the next one counts as the first."""
STOP_WITHIN: Final = 2.0
"""Seconds that its thread is given to end; it is a daemon, so it cannot hold up the process."""
_POLL: Final = 0.02


class KopfThread:
    """kopf, supervised. `register` is called for each of its lives, in its thread, with a registry that is empty.

    What watches objects and what answers admission reviews are two of these: the first one's list of all objects
    would hold up the second, and an end of its watches would end it.
    """

    def __init__(
        self,
        register: Callable[[kopf.OperatorRegistry], None],
        namespaces: tuple[str, ...] = (),
        *,
        name: str = "kopf",
    ) -> None:
        self._register = register
        self._namespaces = namespaces
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have it end; returns at once."""
        self._stop.set()

    async def stop(self) -> None:
        """Ask it to end, and wait for it a while; one that was never started has ended."""
        self.ask_to_stop()
        deadline = time.monotonic() + STOP_WITHIN
        while self._thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread tells nobody
            await asyncio.sleep(_POLL)

    def _supervise(self) -> None:
        seconds = FIRST_RESTART
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                asyncio.run(self._operator())
            except BaseException:  # noqa: BLE001 - whatever ends it, it is started again
                _log.exception("kopf ended with an error", of=self._name)
            if time.monotonic() - started > LONG:
                seconds = FIRST_RESTART
            if self._stop.wait(seconds):
                return
            _log.warning("kopf ended and is started again", of=self._name, after=seconds)
            seconds = min(seconds * 2, LAST_RESTART)

    async def _operator(self) -> None:
        registry = kopf.OperatorRegistry()
        self._register(registry)
        await kopf.operator(
            registry=registry,
            namespaces=self._namespaces,
            clusterwide=not self._namespaces,
            standalone=True,
            stop_flag=self._stop,
        )
