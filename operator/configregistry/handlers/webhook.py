"""The admission webhook in kopf: its server, and one handler that names a review and hands it on.

kopf's own `WebhookServer` reads requests of 1 MiB at most, and a review of an UPDATE holds the object twice; it
listens only once its certificate files exist, and closes its port to load others. So this is a server by kopf's
protocol (`kopf.WebhookServerProtocol`), with one path for each handler:

    POST /validate/configregistries

kopf parses, compares, logs and remembers what it is shown, so it is shown an outline of each review; the bytes go
by a context variable from the server to the handler. It must never read, decide or write anything.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import kopf
from aiohttp import web

from configregistry.admission.request import UnreadableReview, outline
from configregistry.admission.review import Answer
from configregistry.model.names import GROUP, PLURAL, VERSION
from configregistry.telemetry import tracing

HANDLER: Final = PLURAL
PATH: Final = f"/validate/{HANDLER}"
"""Contract: the configuration names it."""
LARGEST: Final = 8 * 1024 * 1024
"""Bytes of a review: two objects of at most 1.5 MiB each, and room for what escapes add."""
KEEP_ALIVE: Final = 600.0
"""Seconds: longer than an API server keeps an idle connection, so that it never asks through one that just closed."""

Review = Callable[[bytes], Awaitable[Answer]]
"""Judges the bytes of an AdmissionReview; called in kopf's thread."""

_BYTES: ContextVar[bytes] = ContextVar("admission review")


class Server:
    """Listens for kopf on a socket that somebody else has bound, so that it can begin again on the same."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        self._listener = listener
        self._tls = tls

    async def __call__(self, ask: kopf.WebhookFn) -> AsyncIterator[kopf.WebhookClientConfig]:
        """Serve until closed; kopf's protocol."""

        async def answer(request: web.Request) -> web.Response:
            raw = await request.read()
            try:
                shown: Any = outline(raw)
            except UnreadableReview as error:
                raise web.HTTPBadRequest(text=str(error)) from None
            _BYTES.set(raw)
            # An API server that traces says so; kopf's tasks inherit it as they do the bytes.
            with tracing.joined(request.headers.get(tracing.HEADER, "")):
                return web.json_response(await ask(shown, webhook=HANDLER))

        app = web.Application(client_max_size=LARGEST)
        app.router.add_post(PATH, answer)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, keepalive_timeout=KEEP_ALIVE)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener.dup(), ssl_context=self._tls).start()
            host, port = self._listener.getsockname()[:2]
            yield kopf.WebhookClientConfig(url=f"https://{host}:{port}")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def register(registry: kopf.OperatorRegistry, server: Server, review: Review) -> None:
    """Register the server and the handler. Nothing is managed: the configuration is static (docs/adr/0009)."""

    @kopf.on.startup(registry=registry, id="admission")
    def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.admission.server = server
        settings.admission.managed = None
        logging.getLogger("kopf.objects").addFilter(_is_no_refusal)

    @kopf.on.validate(GROUP, VERSION, PLURAL, registry=registry, id=HANDLER, side_effects=False, ignore_failures=True)
    async def _validate(warnings: list[str], **_: Any) -> None:
        answer = await review(_BYTES.get())
        warnings.extend(answer.warnings)
        if not answer.allowed:
            raise kopf.AdmissionError(answer.message, code=answer.code)


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Kopf tells each refusal as an error of the handler; the reviewer has told it already, as what it is."""
    return not record.getMessage().startswith(f"Webhook {HANDLER!r} failed permanently")
