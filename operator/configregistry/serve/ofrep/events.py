"""Event streams of OFREP: they tell a provider to evaluate its flags again, never what came out.

All streams of one registry hang on one channel, which is told by publications of that registry and of
its fallbacks. A stream carries no context (an EventSource sends no body), so it is told of each change
that might concern it, and who is not concerned gets a 304.

    id: <state>
    data: {"type":"refetchEvaluation","etag":"<state>"}

The state names what each registry of the chain gives. A stream that comes back with the state of now as
its Last-Event-ID is told nothing; any other is told at once, because providers open their stream some
time after they have evaluated, and may have missed what happened in between. A provider hands the
`etag` back as `?flagConfigEtag=`, by which a replica that is behind knows that it is.

A notice says "now", so one is enough for a client that has not taken the last one: nothing is ever
queued for it. A client that takes nothing for two heartbeats is cut off. A sink that raises where it promised
not to costs its own stream alone.

It must never take a registry that is not there for an error: an EventSource never comes back from one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final, Protocol
from urllib.parse import quote

import msgspec
import structlog

from configregistry.kube.objects import Key
from configregistry.serve.feeds import COMMENT, ChannelFeed
from configregistry.serve.interest import Interests
from configregistry.serve.responses import Feed, Sink, Stream
from configregistry.serve.view import Source, concerned
from configregistry.state import Registry, Snapshot

HEARTBEAT: Final = 15.0
"""Seconds between two comments: fewer than proxies wait before they take a connection for dead."""
AT_ONCE: Final = 256
"""Streams that are written to in one turn of the event loop: reads go on between the turns."""

_HEADERS: Final = [
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),  # nginx holds back what it takes for a page
]
_MAX_STATE: Final = 4096
_NUMBER: Final = re.compile(r"[0-9]{1,19}")

Sleep = Callable[[float], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Is told what happens to streams. `telemetry.metrics.Metrics` is one."""

    def watching(self, change: int) -> None:
        """Tell that there is one stream more (1) or less (-1)."""
        ...

    def cut_off(self, reason: str) -> None:
        """Count a stream that was ended before its time."""
        ...


def state(at: Snapshot, keys: tuple[Key, ...]) -> str:
    """Name what these registries give, in one line of ASCII; of one that does not exist nothing but its name."""
    return ",".join(_part(name, at.registry(namespace, name)) for namespace, name in keys)


def _part(name: str, registry: Registry | None) -> str:
    name = _shown(name)
    if registry is None:
        return name
    stable = registry.stable.number if registry.stable is not None else 0
    canary = registry.canary.version.number if registry.canary is not None else 0
    return f"{name}:{registry.uid}:{registry.revision}:{stable}:{canary}"


def _shown(name: str) -> str:
    """Give a name such that nothing in it ends a field: it may be any that a client has put into the path."""
    return quote(name, safe="", errors="surrogatepass")


def behind(at: Snapshot, namespace: str, name: str, told: str) -> bool:
    """Tell whether a state is of a later revision than what is here. What is no state is never later."""
    names = {_shown(key[1]): key[1] for key in concerned(at, namespace, name)}
    for part in told[:_MAX_STATE].split(","):
        fields = part.split(":")
        if len(fields) == 5 and fields[0] in names and _NUMBER.fullmatch(fields[2]):  # noqa: PLR2004
            registry = at.registry(namespace, names[fields[0]])
            if registry is not None and registry.uid == fields[1] and registry.revision < int(fields[2]):
                return True
    return False


class Events:
    """All event streams of this process, by registry. Belongs to the event loop's thread."""

    def __init__(
        self,
        source: Source,
        interests: Interests,
        observer: Observer,
        *,
        sleep: Sleep = asyncio.sleep,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self.source = source
        self.interests = interests
        self.observer = observer
        self.sleep = sleep
        self.heartbeat = heartbeat
        self._channels: dict[tuple[str, str], _Channel] = {}

    def __len__(self) -> int:
        """Give the number of open streams."""
        return sum(len(channel.feeds) for channel in self._channels.values())

    def stream(self, namespace: str, name: str, last: str | None) -> Stream:
        """Give a stream that goes on from the state `last`, if the client named one."""
        return Stream(200, _HEADERS, lambda sink: self._open(namespace, name, sink, last))

    def _open(self, namespace: str, name: str, sink: Sink, last: str | None) -> Feed:
        channel = self._channels.get((namespace, name))
        if channel is None:
            channel = self._channels[namespace, name] = _Channel(self, namespace, name)
        return channel.add(sink, last)

    def left(self, channel: _Channel) -> None:
        """Forget a channel that nobody listens to."""
        if self._channels.get((channel.namespace, channel.name)) is channel:
            del self._channels[channel.namespace, channel.name]


class _Channel:
    """The streams of one registry. There from the first to the last of them."""

    def __init__(self, events: Events, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self.feeds: dict[_Feed, None] = {}
        self.state = ""
        self.notice = b""
        self._events = events
        self._waiting: dict[_Feed, None] = {}
        """Streams that are to be told, in later turns of the event loop."""
        self._interest = events.interests.listen((), self._published)
        self._look()
        self._beating = asyncio.get_running_loop().create_task(self._beat(), name=f"ofrep {namespace}/{name}")

    def add(self, sink: Sink, last: str | None) -> _Feed:
        feed = _Feed(self, sink, self._events.observer)
        self.feeds[feed] = None
        self._events.observer.watching(1)
        feed.safely(feed.begin, last)
        return feed

    def remove(self, feed: _Feed) -> None:
        if feed not in self.feeds:
            return
        del self.feeds[feed]
        self._waiting.pop(feed, None)
        self._events.observer.watching(-1)
        if not self.feeds:
            self._interest.cancel()
            self._beating.cancel()
            self._events.left(self)

    def _published(self) -> None:
        if self._look():
            idle = not self._waiting
            self._waiting = dict.fromkeys(self.feeds)
            if idle and self._waiting:
                self._tell_some()

    def _look(self) -> bool:
        """Take up the state of now; tell whether it is another."""
        at = self._events.source.snapshot()
        keys = concerned(at, self.namespace, self.name)
        self._interest.on(keys)
        found = state(at, keys)
        if found == self.state:
            return False
        self.state = found
        self.notice = b'id: %b\ndata: {"type":"refetchEvaluation","etag":%b}\n\n' % (
            found.encode(),
            msgspec.json.encode(found),
        )
        return True

    def _tell_some(self) -> None:
        for feed in list(islice(self._waiting, AT_ONCE)):
            if feed in self._waiting:
                del self._waiting[feed]
                feed.safely(feed.tell)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._tell_some)

    async def _beat(self) -> None:
        while True:
            await self._events.sleep(self._events.heartbeat)
            for number, feed in enumerate(list(self.feeds), 1):
                if feed in self.feeds:
                    feed.safely(feed.beat)
                if not number % AT_ONCE:
                    await asyncio.sleep(0)


class _Feed(ChannelFeed):
    """One stream. What is written to a sink that is closed meanwhile goes nowhere."""

    def __init__(self, channel: _Channel, sink: Sink, observer: Observer) -> None:
        super().__init__(channel, sink, observer.cut_off)
        self.told: str | None = None
        self._channel = channel

    def begin(self, last: str | None) -> None:
        """Show that the stream is open; tell of the present state who does not name it."""
        self._sink.write(COMMENT)
        if last == self._channel.state:
            self.told = last
        else:
            self.tell()

    def tell(self) -> None:
        """Tell of the present state, once; later, if the client has not taken what came before."""
        if self.told != self._channel.state and not self._sink.pending:
            self.told = self._channel.state
            self._sink.write(self._channel.notice)

    def catch_up(self) -> None:
        """Tell of the present state."""
        self.tell()
