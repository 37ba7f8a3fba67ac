"""Streams of who comes and goes: Server-Sent Events of one registry's consumers.

    event: snapshot     the whole list, as GET gives it: at first, and whenever the stream cannot go on otherwise
    event: joined       a consumer that was not there
    event: changed      one that says something new (a heartbeat alone is nothing new)
    event: left         {"id", "reason": Unregistered | Expired}
    event: deleted      the registry is gone; the stream ends

No event has an `id`: whoever comes back begins with a snapshot. Nothing is buffered for a client that
does not keep up: it is told nothing more until it has taken all that is under way, and then gets a
snapshot; one that takes nothing for two heartbeats is cut off. A sink that raises where it promised not to
costs its own stream alone.

It must never keep a roster that nobody listens to.
"""

from __future__ import annotations

from typing import Final

import msgspec

from configregistry.kube.objects import Key
from configregistry.model.reports import Reason
from configregistry.serve.consumers import encoded
from configregistry.serve.consumers.known import Consumers
from configregistry.serve.consumers.roster import Entry, Roster
from configregistry.serve.feeds import ChannelFeed
from configregistry.serve.responses import Feed, Headers, Sink, Stream
from configregistry.serve.waits import Timer

HEARTBEAT: Final = 15.0
"""Seconds between two comments: fewer than proxies wait before they take a connection for dead."""
MAX_PENDING: Final = 256 * 1024
"""Bytes that a client may be behind before it is told nothing more."""

_HEADERS: Final = [
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
    ("vary", "accept"),
    ("x-accel-buffering", "no"),  # nginx holds back what it takes for a page
]


class Streams:
    """All streams of this process, by registry. Belongs to the event loop's thread."""

    def __init__(self, consumers: Consumers, lists: encoded.Lists) -> None:
        self.consumers = consumers
        self.lists = lists
        self._channels: dict[Key, _Channel] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """Give the number of open streams."""
        return sum(len(channel.feeds) for channel in self._channels.values())

    def stream(self, roster: Roster, headers: Headers) -> Stream:
        """Give a stream of a registry's consumers."""
        return Stream(200, [*_HEADERS, *headers], lambda sink: self._open(roster, sink))

    def left(self, channel: _Channel) -> None:
        """Forget a channel that nobody listens to."""
        self._channels = {key: each for key, each in self._channels.items() if each is not channel}
        if not self._channels and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _open(self, roster: Roster, sink: Sink) -> Feed:
        key = (roster.namespace, roster.name)
        channel = self._channels.get(key)
        if channel is None or channel.roster is not roster:
            channel = self._channels[key] = _Channel(self, roster)
        if self._timer is None:
            self._timer = self.consumers.later(HEARTBEAT, self._beat)
        return channel.add(sink)

    def _beat(self) -> None:
        self._timer = self.consumers.later(HEARTBEAT, self._beat)
        for channel in list(self._channels.values()):
            for feed in list(channel.feeds):
                feed.safely(feed.beat)


class _Channel:
    """The streams of one registry. There from the first to the last of them."""

    def __init__(self, streams: Streams, roster: Roster) -> None:
        self.roster = roster
        self.feeds: dict[_Feed, None] = {}
        self._streams = streams
        self._frames: list[bytes] = []
        """Of this turn of the event loop: what changes together is written together."""
        roster.listeners.append(self)

    def add(self, sink: Sink) -> _Feed:
        feed = _Feed(self, sink)
        self.feeds[feed] = None
        feed.safely(feed.catch_up)
        return feed

    def remove(self, feed: _Feed) -> None:
        self.feeds.pop(feed, None)
        if not self.feeds:
            if self in self.roster.listeners:
                self.roster.listeners.remove(self)
            self._streams.left(self)

    def snapshot(self) -> bytes:
        """Give all; what led to it is told before, to those that it is no news to as well."""
        consumers = self._streams.consumers
        consumers.settle()
        self._flush()
        return _frame(b"snapshot", self._streams.lists.body(self.roster, consumers.now(), consumers.list_age))

    # What the roster tells.

    def joined(self, entry: Entry) -> None:
        self._say(b"joined", encoded.one(entry, self._streams.consumers.now()))

    def changed(self, entry: Entry) -> None:
        self._say(b"changed", encoded.one(entry, self._streams.consumers.now()))

    def left(self, name: str, reason: Reason) -> None:
        self._say(b"left", msgspec.json.encode({"id": name, "reason": reason}))

    def replaced(self, roster: Roster | None) -> None:
        self._flush()
        if roster is None:
            frame = _frame(b"deleted", b"{}")
            for feed in list(self.feeds):
                feed.safely(feed.end, frame)
            return
        self.roster = roster
        self._write(self.snapshot())

    def _say(self, event: bytes, data: bytes) -> None:
        if not self._frames:
            self._streams.consumers.later(0.0, self._flush)
        self._frames.append(_frame(event, data))

    def _flush(self) -> None:
        frames, self._frames = b"".join(self._frames), []
        if frames:
            self._write(frames)

    def _write(self, frames: bytes) -> None:
        for feed in list(self.feeds):
            feed.safely(feed.write, frames)


class _Feed(ChannelFeed):
    """One stream."""

    def __init__(self, channel: _Channel, sink: Sink) -> None:
        super().__init__(channel, sink)
        self._channel = channel
        self._behind = True
        """Told nothing until it gets a snapshot."""

    def catch_up(self) -> None:
        """Tell all that there is, if it has not been told."""
        if self._behind:
            frame = self._channel.snapshot()
            self._behind = False
            self._sink.write(frame)

    def write(self, frames: bytes) -> None:
        """Tell it, unless it does not keep up."""
        if self._sink.pending > MAX_PENDING:
            self._behind = True
        elif not self._behind:
            self._sink.write(frames)

    def end(self, frame: bytes) -> None:
        """Say the last thing."""
        self.write(frame)
        self._sink.end()


def _frame(event: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event, data)
