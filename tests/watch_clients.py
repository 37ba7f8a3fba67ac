"""Clients of watches without sockets: a sink that takes what it likes, and one that folds events into data."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from configregistry.serve.responses import Feed, Response, Stream
from tests.serve_fakes import World, request


class Event(NamedTuple):
    name: str
    id: str | None
    data: Any


def parse(raw: bytes) -> list[Event]:
    """As the EventSource of a browser does, for what is used of it; an event that is cut short is none."""
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        assert set(fields) <= {"event", "id", "data"}, fields
        if fields:
            events.append(Event(fields["event"], fields.get("id"), json.loads(fields["data"])))
    return events


class FakeSink:
    """A client's socket. With `room` it takes that many bytes; the rest is pending until `take`."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.taken = b""
        self.held = b""
        self.longest = 0
        self.largest = 0
        self.feed: Feed | None = None
        self.over = ""

    @property
    def pending(self) -> int:
        return len(self.held)

    @property
    def ended(self) -> bool:
        """Whether it was ended, and not aborted or lost."""
        return self.over == "ended"

    def write(self, data: bytes) -> None:
        if not self.over:
            self.held += data
            self.largest = max(self.largest, len(data))
            self._flow()

    def end(self) -> None:
        self._close("ended")

    def abort(self) -> None:
        self.held = b""
        self._close("aborted")

    def _flow(self) -> None:
        count = len(self.held) if self.room is None else min(self.room, len(self.held))
        self.taken, self.held = self.taken + self.held[:count], self.held[count:]
        if self.room is not None:
            self.room -= count
        self.longest = max(self.longest, len(self.held))

    def take(self, room: int | None = None) -> None:
        """Take so many bytes more, or all from now on."""
        waited = bool(self.held)
        self.room = room if room is None or self.room is None else self.room + room
        self._flow()
        if waited and not self.held and self.feed is not None and not self.over:
            self.feed.resumed()

    def _close(self, how: str) -> None:
        if not self.over:
            self.over = how
            if self.feed is not None:
                self.feed.closed()


class Client:
    """One consumer with its stream; what it has is what its events say."""

    def __init__(self, query: str = "", *, path: str = "/v1/namespaces/shop/registries/checkout/watch") -> None:
        self.path = path
        self.query = query
        self.cursor = ""
        self.sink = FakeSink()
        self.events: list[Event] = []
        self.read = 0
        self.has: dict[str, dict[str, Any] | None] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def connect(self, world: World, *, room: int | None = None, cursor: str | None = None) -> Response | Stream:
        self.disconnect()
        self.sink, self.events, self.read = FakeSink(room), [], 0
        if cursor is not None:
            self.cursor = cursor
        headers = {"last-event-id": self.cursor} if self.cursor else {}
        reply = world.app(request(self.path, self.query, headers=headers))
        assert isinstance(reply, Response | Stream)
        if isinstance(reply, Stream):
            self.sink.feed = reply.open(self.sink)
            if self.sink.over:
                self.sink.feed.closed()
        return reply

    def disconnect(self) -> None:
        """The client goes away; what it had not taken is lost."""
        if self.sink.feed is not None and not self.sink.over:
            self.sink.over = "lost"
            self.sink.feed.closed()

    def poll(self) -> list[Event]:
        """Fold what has come since, and give it."""
        everything = parse(self.sink.taken)
        new, self.events = everything[len(self.events) :], everything
        for event in new:
            self.fold(event)
        return new

    def peek(self) -> list[Event]:
        """Give all events that have come on this connection, folded or not."""
        return parse(self.sink.taken)

    def fold(self, event: Event) -> None:
        if event.id is not None:
            self.cursor = event.id
        name = f"{event.data['namespace']}/{event.data['registry']}" if "registry" in event.data else ""
        if event.name == "snapshot":
            self.has[name] = event.data["data"]
        elif event.name == "deleted":
            assert self.has.get(name) is not None
            self.has[name] = None
        elif event.name == "delta":
            self._apply(name, event.data)
        if event.name in ("snapshot", "delta"):
            self.about[name] = event.data

    def _apply(self, name: str, delta: dict[str, Any]) -> None:
        data = self.has[name]
        assert data is not None
        assert self.about[name].get("to", self.about[name].get("version")) == delta["from"]
        data = dict(data)
        for change in delta["changes"]:
            key = change["path"][1:].replace("~1", "/").replace("~0", "~")
            assert change["op"] == ("add" if key not in data else "replace" if "new" in change else "remove"), change
            if change["op"] != "add":
                assert data.pop(key) == change["old"]
            else:
                assert "old" not in change
            if "new" in change:
                data[key] = change["new"]
        self.has[name] = data
