"""A stream of events over a socket that is read in the background: what has come is there to be looked at."""

from __future__ import annotations

import asyncio
import contextlib

from tests.serve_clients import Client
from tests.watch_clients import Event, parse


class Follower:
    """One connection with one stream."""

    def __init__(self, port: int, target: str, cursor: str = "") -> None:
        self.events: list[Event] = []
        self._client = Client(port)
        self._target = target
        self._headers = [f"Last-Event-ID: {cursor}"] if cursor else []
        self._came = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        rest = b""
        try:
            async with self._client as client:
                client.send(self._target, *self._headers)
                status, headers = await client.head()
                assert (status, headers["content-type"]) == (200, "text/event-stream")
                while data := await self._chunk():
                    whole, _, rest = (rest + data).rpartition(b"\n\n")
                    if whole:
                        self.events += parse(whole + b"\n\n")
                        self._came.set()
        finally:
            self._came.set()

    async def _chunk(self) -> bytes:
        """Give the next part, whenever that comes."""
        reader = self._client.reader
        return (await reader.readexactly(int(await reader.readline(), 16) + 2))[:-2]

    async def more(self) -> None:
        """Wait until something has come since this was called last; raises what ended the stream."""
        await self._came.wait()
        self._came.clear()
        if self._task.done():
            self._task.result()
            raise EOFError(self._target)

    async def close(self) -> None:
        """Go away, whatever is under way."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
