"""Names to addresses, so that a name server that does not answer holds up nobody else's look-ups.

asyncio looks names up in its default thread pool, of a handful of threads, which the whole process
shares: a few names of a dead zone would stop all others. Here each look-up has a thread of its own,
a daemon, so that one that hangs does not hold up the end of the process either. Their number is
bounded, and a look-up cannot be given up: the C library goes on for half a minute after the check
that wanted it has long ended. So that names of dead zones do not use up the places, those that take
long have places of their own: a look-up moves there when it takes long, and the next one of that
name waits there, until one of it is quick again. It must never judge addresses: that is done where
one is connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import OrderedDict
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_LOOKUPS: Final = 256
"""Look-ups at one time of names that were not slow. aiohttp asks once for all that wait for one
name, so these are as many names."""
MAX_SLOW: Final = 256
"""Look-ups at one time of names that were."""
SLOW: Final = 1.0
"""Seconds after which a look-up is a slow one: a name server that lost one packet is asked again
only after 5."""

_REMEMBERED: Final = 10_000


class _LookUp:
    """One thread, and which of the places it has."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self.places = places
        self.slow = self.ended = False

    def end(self) -> None:
        """Give back the place that it has by now."""
        self.ended = True
        self.places.release()


class Resolver(AbstractResolver):
    """The system's resolver, in threads."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_LOOKUPS)
        self._free_for_slow = asyncio.Semaphore(MAX_SLOW)
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._moving: set[asyncio.Task[None]] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name; OSError when it has none."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[ResolveResult]] = loop.create_future()
        looking = _LookUp(self._free_for_slow if host in self._slow else self._free)

        def settle(found: list[ResolveResult] | Exception) -> None:
            looking.end()
            timer.cancel()
            if not looking.slow:
                self._slow.pop(host, None)
            if result.done():
                return
            if isinstance(found, Exception):
                result.set_exception(found)
            else:
                result.set_result(found)

        def look_up() -> None:
            found: list[ResolveResult] | Exception
            try:
                found = _look_up(host, port, family)
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                found = error
            with contextlib.suppress(RuntimeError):  # the loop ended before the look-up
                loop.call_soon_threadsafe(settle, found)

        # Released by the thread and not by who waits: giving up does not end a look-up.
        await looking.places.acquire()
        timer = loop.call_later(SLOW, self._is_slow, host, looking)
        try:
            threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            timer.cancel()
            looking.end()
            raise OSError(None, str(error)) from error
        return await result

    async def close(self) -> None:
        """Let go of those that still wait for another place."""
        for task in tuple(self._moving):
            task.cancel()
        await asyncio.gather(*self._moving, return_exceptions=True)

    def _is_slow(self, host: str, looking: _LookUp) -> None:
        looking.slow = True
        self._slow[host] = None
        self._slow.move_to_end(host)
        if len(self._slow) > _REMEMBERED:
            self._slow.popitem(last=False)
        if looking.places is self._free:
            task = asyncio.create_task(self._move(looking), name=f"slow look-up of {host}")
            self._moving.add(task)
            task.add_done_callback(self._moving.discard)

    async def _move(self, looking: _LookUp) -> None:
        """Give the place back for quick ones as soon as there is one for a slow one."""
        await self._free_for_slow.acquire()
        if looking.ended:
            self._free_for_slow.release()
            return
        looking.places = self._free_for_slow
        self._free.release()


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=_with_scope(*address),
            port=port,
            family=kind,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, proto, _, address in found
    ]


def _with_scope(ip: object, _port: object, _flow: object = 0, scope: object = 0) -> str:
    """An address as text; a link-local one of IPv6 means nothing without its interface."""
    return f"{str(ip).partition('%')[0]}%{scope}" if scope else str(ip)
