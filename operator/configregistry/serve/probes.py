"""The listener of kubelet and Prometheus: /livez, /readyz, /metrics, on a port of its own.

Another server than that of the reads, so that no number of readers or streams ever starves a probe.

It must never say that the process is unhealthy because the API server is away (a restart would lose
what is in memory), and never make the text of metrics in the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from aiohttp import web

from configregistry.telemetry.metrics import Metrics

Check = Callable[[], str | None]
"""Gives what it waits for in a few words, or None when it waits for nothing."""


class Probes:
    """Answers probes. `ready` holds checks by name; all of them must wait for nothing."""

    def __init__(
        self,
        metrics: Metrics,
        ready: Mapping[str, Check],
        live: Mapping[str, Check] | None = None,
        *,
        host: str = "",
        port: int = 0,
    ) -> None:
        self._metrics = metrics
        self._ready = dict(ready)
        self._live = dict(live or {})
        self._host = host or None
        self._port = port
        self._draining = False
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    def drain(self) -> None:
        """Have /readyz fail from now on: this process is about to end."""
        self._draining = True

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metricz)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._port = runner.addresses[0][1]
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _livez(self, request: web.Request) -> web.Response:
        return _told(request, self._live)

    async def _readyz(self, request: web.Request) -> web.Response:
        checks = self._ready
        if self._draining:
            checks = {**checks, "drain": lambda: "this process is ending"}
        return _told(request, checks)

    async def _metricz(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        content_type, pieces = await asyncio.to_thread(self._metrics.pieces, accept)
        headers = {"Content-Type": content_type, "Content-Length": str(sum(map(len, pieces)))}
        return web.Response(body=_each(pieces), headers=headers)


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _told(request: web.Request, checks: Mapping[str, Check]) -> web.Response:
    """As kube-apiserver tells it: `ok`, or each check in a line when asked to be verbose."""
    waits = {name: check() for name, check in checks.items()}
    status = 200 if not any(wait is not None for wait in waits.values()) else 503
    if status == 200 and "verbose" not in request.query:  # noqa: PLR2004
        return web.Response(text="ok")
    lines = [f"[+]{name} ok" if wait is None else f"[-]{name} waits: {wait}" for name, wait in waits.items()]
    lines.append("passed" if status == 200 else "failed")  # noqa: PLR2004
    return web.Response(status=status, text="\n".join(lines) + "\n")
