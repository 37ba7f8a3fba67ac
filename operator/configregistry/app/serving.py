"""The half that serves: objects -> state -> responses, over HTTP.

It must never write anything to the API server but the reviews of who asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from configregistry.app.following import Following
from configregistry.clock import Clock
from configregistry.errors import UsageError
from configregistry.kube.client import Api
from configregistry.kube.failures import NotFound
from configregistry.kube.objects import RevisionObject, decode_revision
from configregistry.kube.paths import REVISIONS
from configregistry.kube.reviews import ApiReviews
from configregistry.serve import App, HttpServer, HttpServerFailed, Hydrator, Loop, Service, serve_http
from configregistry.serve.auth import KubernetesGuard, Streams, Times
from configregistry.serve.consistency import PublishedCheck
from configregistry.serve.consumers import Consumers
from configregistry.serve.hotkeys import HotKeys, HotLimits, Lag
from configregistry.serve.traced import TracedApp
from configregistry.serve.wire import TlsFiles
from configregistry.serve.wire.certificates import NoCertificate
from configregistry.settings import Settings
from configregistry.telemetry import tracing
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

LINGER: Final = 1.0
"""Seconds that are answered behind /readyz saying no: a Service's endpoints follow some time later."""
END: Final = 1.5
"""Seconds that requests under way and streams have at the end."""
PUBLISHED: Final = 30.0
"""Seconds that the start waits at most for what was listed to be published."""


class Serving:
    """Wired from what is followed; listens from `open` on."""

    def __init__(self, settings: Settings, api: Api, following: Following, clock: Clock, metrics: Metrics) -> None:
        self._settings = settings
        self._api = api
        self._metrics = metrics
        self._loop = Loop(self._fetch)
        self._following = following
        self._hydrator = Hydrator(
            following.registries.store,
            following.revisions.store,
            metrics=metrics,
            clock=clock,
            ask=self._loop.ask,
            wake=self._loop.wake,
        )
        self._loop.drive(self._hydrator)
        following.registries.subscribe(self._hydrator.registry_changed)
        following.revisions.subscribe(self._hydrator.revision_changed)
        following.registries.subscribe_rewound(self._loop.rewound)
        self._lag = Lag(clock.monotonic, lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        hot = HotKeys(clock.monotonic, HotLimits(), lag=self._lag, metrics=metrics) if settings.hot_keys else None
        self._service = Service(
            self._hydrator, clock=clock, metrics=metrics, hot_keys=hot, staleness=following.staleness
        )
        metrics.count_consumers(self._service.consumers.counts)
        times = Times(grace=settings.auth_grace)
        kubernetes = settings.auth == "kubernetes"
        self._guard = KubernetesGuard(ApiReviews(api), clock, metrics, times=times) if kubernetes else None
        self._streams = Streams(self._guard) if self._guard is not None else None
        self._server: HttpServer | None = None

    @property
    def consumers(self) -> Consumers:
        """What consumers reported to this process."""
        return self._service.consumers

    def published(self) -> PublishedCheck:
        """Make what tells whether this process serves what it should."""
        return PublishedCheck(self._hydrator, self._following.registries.store)

    @property
    def ready(self) -> Mapping[str, Callable[[], str | None]]:
        """What readiness waits for beside the lists."""
        return {"hydrate": self._hydrator.waits}

    async def open(self) -> None:
        """Listen."""
        settings = self._settings
        if settings.hot_keys:
            self._lag.start()
        app = App(
            self._service.routes,
            self._metrics,
            self._following.staleness,
            guard=self._guard,
            streams=self._streams,
            stale_after=settings.stale_after,
        )
        with listening("--port", settings.host, settings.port):
            self._server = await serve_http(
                TracedApp(app) if tracing.on() else app,
                settings.host,
                settings.port,
                tls=_tls(settings),
                observer=self._metrics,
                admit=app.admit,
                state=self._hydrator.snapshot,
            )
        _log.info(
            "serving",
            address=f"{'https' if settings.tls_key else 'http'}://{settings.host}:{self._server.port}",
            auth=settings.auth,
            cluster=self._api.host,
            namespaces=list(settings.namespaces) or "all",
        )

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until the end."""
        assert self._server is not None
        parts = [self._server.wait(), self._service.watches.run()]
        return parts if self._streams is None else [*parts, self._streams.run()]

    def begin(self) -> None:
        """Everything has been listed: publish. Not earlier, since only now absence means something."""
        self._hydrator.begin()

    async def filled(self) -> None:
        """Wait for all that was listed to be published, for as long as that is likely."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISHED):
                while self._hydrator.waits() is not None:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)

    async def settle(self) -> None:
        """Nothing of this half comes later."""

    async def drain(self) -> None:
        """Answer what is held, and go on answering while those who ask learn that this replica ends."""
        self._service.waits.drain()
        self._service.consumers.news.drain()
        await asyncio.sleep(LINGER)

    async def close(self) -> None:
        """End the listener, then what fills the memory."""
        if self._server is not None:
            await self._server.stop(END)
        if self._guard is not None:
            await self._guard.close()
        await self._loop.close()

    async def _fetch(self, namespace: str, name: str) -> RevisionObject | None:
        try:
            return decode_revision(await self._api.get(REVISIONS.path(namespace, name)))
        except NotFound:
            return None


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(Path(settings.tls_certificate), Path(settings.tls_key))


@contextmanager
def listening(option: str, host: str, port: int) -> Iterator[None]:
    """Say what to do where nobody can listen."""
    try:
        yield
    except (OSError, HttpServerFailed) as error:
        cause = error.__cause__ if isinstance(error, HttpServerFailed) else error
        if isinstance(cause, NoCertificate):
            raise UsageError(
                f"--tls-certificate, --tls-key: {cause}: expected PEM files that belong together"
            ) from error
        told = f"cannot listen on {host}:{port} ({cause}): end what listens there, or choose another with {option}"
        raise UsageError(told) from error
