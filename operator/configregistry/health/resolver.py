"""Names to addresses, so that a name server that does not answer holds up nobody else's look-ups.

asyncio looks names up in its default thread pool, of a handful of threads, which the whole process
shares: a few names of a dead zone would stop all others. Here each look-up has a thread of its own,
a daemon, so that one that hangs does not hold up the end of the process either. It must never judge
addresses: that is done where one is connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_LOOKUPS: Final = 256
"""Look-ups at one time. aiohttp asks once for all that wait for one name, so these are as many
names."""


class Resolver(AbstractResolver):
    """The system's resolver, in threads."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name; OSError when it has none."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(found: list[ResolveResult] | Exception) -> None:
            self._free.release()
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
        await self._free.acquire()
        try:
            threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            self._free.release()
            raise OSError(None, str(error)) from error
        return await result

    async def close(self) -> None:
        """Nothing is held."""


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
