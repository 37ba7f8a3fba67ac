"""What the feeds of a channel have in common: a heartbeat, an end, and that a defect costs one stream.

A channel has the streams of one registry that are told the same. It must never let one client, or one sink
that raises where it promised not to, keep the others from what they wait for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVarTuple

import structlog

from configregistry.serve.responses import Sink

COMMENT: Final = b":\n\n"
"""What says nothing but that the stream is alive."""

_Args = TypeVarTuple("_Args")

_log = structlog.get_logger(__name__)


class Channel(Protocol):
    """Whoever has the feeds."""

    def remove(self, feed: Any, /) -> None:
        """Have this one no more; again does nothing."""
        ...


class ChannelFeed(ABC):
    """One stream of a channel: a `Feed`, but for what it tells."""

    def __init__(self, channel: Channel, sink: Sink, cut_off: Callable[[str], None] = lambda _reason: None) -> None:
        """`cut_off` is told the reason of each stream that ends before its time."""
        self._leaves = channel
        self._sink = sink
        self._cut_off = cut_off
        self._stuck = False

    @abstractmethod
    def catch_up(self) -> None:
        """Tell what could not be told while the client did not take it."""

    def safely(self, act: Callable[[*_Args], None], *args: *_Args) -> None:
        """Do one of its acts; a sink that raises loses its stream, and its client comes back."""
        try:
            act(*args)
        except Exception:  # noqa: BLE001 - the others of the channel have to be told
            _log.exception("a stream could not be written to")
            self._cut_off("defect")
            self._leaves.remove(self)
            with suppress(Exception):
                self._sink.abort()

    def beat(self) -> None:
        """Show that the stream is alive; cut off a client that shows the contrary."""
        if not self._sink.pending:
            self._stuck = False
            self._sink.write(COMMENT)
        elif self._stuck:
            self._cut_off("slow-reader")
            self._sink.abort()
        else:
            self._stuck = True

    def resumed(self) -> None:
        """All that was pending has been taken."""
        self._stuck = False
        self.safely(self.catch_up)

    def drain(self) -> None:
        """This process is about to end."""
        self._sink.end()

    def closed(self) -> None:
        """The client is gone."""
        self._leaves.remove(self)
