"""What all connections of one server share: the handler, the bounds, the time, who is there.

Time is looked at twice a second for all of them together: what a connection waits for has a deadline, and those that
have one are in `timed`. A stream has none, so that ten thousand idle ones cost nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from configregistry.serve.responses import Feed, Handle, Reply, Request, defect
from configregistry.serve.wire import encode
from configregistry.serve.wire.lasting import Lasting
from configregistry.serve.wire.limits import Limits
from configregistry.serve.wire.parse import Admit, Incoming

TICK: Final = 0.5
"""Seconds between two looks at what is overdue: how late a limit of `Limits` may be noticed."""
MEMO_REQUESTS: Final = 1024
MEMO_BYTES: Final = 2048
"""Of one head that is remembered."""
MAX_WAITING: Final = 64 * 1024
"""Bytes of one client that may wait for what came before them; then no more are read."""
LINGER: Final = 2.0
"""Seconds that a client is listened to after it was told to go: else the kernel might throw away what it was told."""
_RESET: Final = struct.pack("ii", 1, 0)

_DATE: Final = len("HTTP/1.1 200 OK\r\ndate: ")
NOBODY: Final = Request("", "", "", lambda _name: None)
"""The request that a refusal answers when there is none yet."""

_log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Is told how many connections there are. `telemetry.metrics.Metrics` is one."""

    def connected(self, change: int) -> None:
        """One more (1) or one less (-1)."""
        ...

    def connection_refused(self, reason: str) -> None:
        """One that was over a limit: `connections` or `peer`."""
        ...

    def repeated(self, code: int, number: int) -> None:
        """So many requests were answered with this status and what was answered before."""
        ...


class Connection(Protocol):
    """One client, in either version of HTTP, as the server sees it."""

    deadline: float
    """When `overdue` is called, in the loop's time, while it is in `Shared.timed`."""

    def overdue(self, now: float) -> None:
        """End it, or say when to look again."""
        ...

    def drain(self) -> None:
        """Let what is under way finish, and then end."""
        ...

    def abort(self) -> None:
        """End it now."""
        ...


class Shared:
    """Belongs to the event loop's thread, as all connections do."""

    def __init__(
        self,
        handle: Handle,
        limits: Limits,
        observer: Observer | None,
        admit: Admit | None = None,
        state: Callable[[], object] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.handle = handle
        self.limits = limits
        self.admit = admit
        self.lasting = Lasting(state, observer) if state is not None else None
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.timed: set[Connection] = set()
        self.memo: dict[bytes, Incoming] = {}
        self.starts: dict[int, bytes] = {}
        """Status line and date, by status; of this second."""
        self.idle_until = 0.0
        self.draining = False
        self._framed: tuple[bytes, bytes] = (b"", b"")
        self._observer = observer
        self._room = limits.room()
        self._peers: dict[str, int] = {}
        self._wall = wall
        self._second = 0
        self._timer: asyncio.TimerHandle | None = None
        self.emptied = asyncio.Event()
        self.tick()

    def tick(self) -> None:
        """Look at the time, and at whoever is overdue. Whatever one of them does, the others are looked at again."""
        self._timer = self.loop.call_later(TICK, self.tick)
        now = self.loop.time()
        self.idle_until = now + self.limits.idle_seconds
        self._framed = (b"", b"")
        if self.lasting is not None:
            self.lasting.forget()
        if int(self._wall()) != self._second:
            self._second = int(self._wall())
            self.starts.clear()
        for connection in [each for each in self.timed if each.deadline <= now]:
            try:
                connection.overdue(now)
            except Exception:  # noqa: BLE001 - a defect of one connection shall not end the limits of all
                _log.exception("a connection met a defect", connection=type(connection).__name__)
                self.timed.discard(connection)
                with suppress(Exception):
                    connection.abort()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self.lasting is not None:
            self.lasting.forget()

    def enter(self, connection: Connection, peer: str) -> str | None:
        """Count a connection in. Gives why there is no room for it, if there is none; it is counted all the same."""
        at_peer = self._peers[peer] = self._peers.get(peer, 0) + 1
        self.connections.add(connection)
        self.emptied.clear()
        reason = None
        if len(self.connections) > self._room:
            reason = "connections"
        elif 0 < self.limits.peer_connections < at_peer:
            reason = "peer"
        if self._observer is not None:
            self._observer.connected(1)
            if reason is not None:
                self._observer.connection_refused(reason)
        return reason

    @property
    def crowded(self) -> bool:
        """Whether there are so many over the limit that no more of them are even told."""
        return len(self.connections) > self._room + 128

    def leave(self, connection: Connection, peer: str) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        self.timed.discard(connection)
        left = self._peers.get(peer, 0) - 1
        if left > 0:
            self._peers[peer] = left
        else:
            self._peers.pop(peer, None)
        if self._observer is not None:
            self._observer.connected(-1)
        if not self.connections:
            self.emptied.set()

    def swap(self, old: Connection, new: Connection) -> None:
        """Have another object speak for the same connection."""
        self.connections.discard(old)
        self.timed.discard(old)
        self.connections.add(new)
        self.timed.add(new)

    def start(self, status: int) -> bytes:
        """Give the status line and the date."""
        found = self.starts.get(status)
        if found is None:
            found = self.starts[status] = encode.start(status, self._wall())
        return found

    @property
    def date(self) -> str:
        """The date as a header has it."""
        return self.start(200).decode("ascii")[_DATE:-2]

    def remember(self, data: bytes, incoming: Incoming) -> None:
        """Know these bytes again."""
        if len(data) <= MEMO_BYTES:
            if len(self.memo) >= MEMO_REQUESTS:
                self.memo.clear()
            self.memo[data] = incoming

    def chunk(self, data: bytes) -> bytes:
        """Frame a part of a stream; once for all streams that are given the very same bytes in a row."""
        of, framed = self._framed
        if of is not data:
            framed = encode.chunk(data)
            self._framed = (data, framed)
        return framed

    def ask(self, request: Request) -> Reply | Awaitable[Reply]:
        """Have the request answered, whatever happens."""
        try:
            return self.handle(request)
        except Exception as error:  # noqa: BLE001 - a handler never raises, and one that does shall not end a client
            return defect(request, error)


def settled(task: asyncio.Future[Reply], request: Request) -> Reply:
    """Give what an awaited reply came to."""
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    return defect(request, error) if error is not None else task.result()


def tell(feed: Feed, what: str) -> bool:
    """Call one of a feed's methods. A feed that raises has a defect; gives False then."""
    try:
        getattr(feed, what)()
    except Exception:  # noqa: BLE001 - whatever it is, others go on
        _log.exception("a stream met a defect", feed=type(feed).__name__, call=what)
        return False
    return True


def reset(transport: asyncio.Transport) -> None:
    """End a connection, and have the kernel forget what it holds for it: a slow reader's bytes may be megabytes."""
    held = transport.get_extra_info("socket")
    if held is not None:
        with suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
