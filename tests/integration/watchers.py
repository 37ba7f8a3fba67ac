"""Many consumers that watch one registry, each with a target of its own: what each was given, and when.

All connections are held by one thread, so that a test's event loop and a benchmark's clock are not what is measured.
Every event is noted with the time at which its bytes were here.
"""

from __future__ import annotations

import asyncio
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tests.cluster.ports import LOOPBACK

_EVENT: Final = re.compile(rb'event: (snapshot|delta)\n(?:id: [^\n]*\n)?data: \{[^\n]*?"(?:to|version)":(\d+)')
_POLL: Final = 0.002


class Given(NamedTuple):
    """A consumer was given a version."""

    at: float
    """Monotonic time."""
    watcher: int
    version: int


class Watchers:
    """Opened by `watching`."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self.targets = [f"pod-{number}" for number in range(count)]
        self.versions = [0] * count
        """What each has at present."""
        self.events: list[Given] = []
        self.ended: list[int] = []
        """Streams that the server has ended."""
        self._rest = [b""] * count
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._sockets: list[socket.socket] = []
        for number, target in enumerate(self.targets):
            opened = socket.create_connection((LOOPBACK, port), timeout=30)
            request = f"GET {path}?target={target} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAccept: text/event-stream\r\n\r\n"
            opened.sendall(request.encode())
            opened.setblocking(False)
            self._sockets.append(opened)
            self._selector.register(opened, selectors.EVENT_READ, number)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def at(self, version: int) -> list[int]:
        """The watchers that have this version."""
        return [number for number, each in enumerate(self.versions) if each == version]

    async def until(self, condition: Callable[[], object], what: str, within: float = 60.0) -> None:
        """Wait for something about what they have."""
        deadline = time.monotonic() + within
        while not condition():
            counted = {version: self.versions.count(version) for version in set(self.versions)}
            assert time.monotonic() < deadline, f"waited {within:g} s in vain for {what}: {counted}, {self.ended}"
            await asyncio.sleep(_POLL)

    def close(self) -> None:
        """End all."""
        self._stop.set()
        self._thread.join()
        for each in self._sockets:
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                self._take(key.data, key.fileobj)  # type: ignore[arg-type]

    def _take(self, number: int, stream: socket.socket) -> None:
        try:
            data = stream.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        now = time.monotonic()
        if not data:
            self._selector.unregister(stream)
            self.ended.append(number)
            return
        *events, self._rest[number] = (self._rest[number] + data).split(b"\n\n")
        for event in events:
            found = _EVENT.search(event)
            if found is not None:
                self.versions[number] = int(found[2])
                self.events.append(Given(now, number, int(found[2])))


@contextmanager
def watching(port: int, namespace: str, name: str, count: int) -> Iterator[Watchers]:
    """So many consumers watch a registry meanwhile."""
    watchers = Watchers(port, f"/v1/namespaces/{namespace}/registries/{name}/watch", count)
    try:
        yield watchers
    finally:
        watchers.close()
