"""kopf's settings: how it logs in, and that no error of the API server ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

import kopf

from configregistry.kube.access import load_configuration
from configregistry.model.names import GROUP

REQUEST_TIMEOUT: Final = 30
CONNECT_TIMEOUT: Final = 5
WATCH_SERVER_TIMEOUT: Final = 300
WATCH_CLIENT_TIMEOUT: Final = 330
"""Seconds. The server ends a watch before the client would, so that ends are orderly."""


CHUNK: Final = 250
"""Objects of one page of kopf's first list: it parses a page whole, some 20 KiB for each object."""


class EndlessBackoff:
    """Seconds between tries, for ever. kopf iterates it anew for each request, so it must be re-iterable."""

    def __iter__(self) -> Iterator[float]:
        """Start from the shortest."""
        seconds = 0.1
        while True:
            yield seconds
            seconds = min(seconds * 2, 30.0)


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: what changed is for reconcile to find, and kopf would copy each object whole to compare it."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:  # noqa: ARG002
        """Give nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        """Know nothing."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Write nothing."""


Login = Callable[[], Awaitable[kopf.ConnectionInfo]]
"""Reads the credentials, anew each time: kopf asks again when the API server refuses the old ones."""


def login_with(kubeconfig: str | None, context: str | None) -> Login:
    """The credentials of the rest of the program, for kopf's own client."""

    async def login() -> kopf.ConnectionInfo:
        configuration = await load_configuration(kubeconfig, context)
        token = await configuration.get_api_key_with_prefix("BearerToken", "authorization")
        return kopf.ConnectionInfo(
            server=str(configuration.host),
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            scheme="Bearer" if token else None,
            # A pod's account is "bearer TOKEN" there, a kubeconfig's "Bearer TOKEN".
            token=token.split()[-1] if token else None,
        )

    return login


def register(registry: kopf.OperatorRegistry, login: Login) -> None:
    """Register login and start-up."""

    @kopf.on.startup(registry=registry, id="settings")
    def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.networking.error_backoffs = EndlessBackoff()
        settings.networking.request_timeout = REQUEST_TIMEOUT
        settings.networking.connect_timeout = CONNECT_TIMEOUT
        settings.watching.server_timeout = WATCH_SERVER_TIMEOUT
        settings.watching.client_timeout = WATCH_CLIENT_TIMEOUT
        settings.watching.chunk_size = CHUNK
        settings.queueing.worker_limit = None
        settings.queueing.idle_timeout = 1
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.scanning.disabled = True
        settings.persistence.finalizer = f"{GROUP}/finalizer"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
        settings.persistence.diffbase_storage = NoDiffBase()

    @kopf.on.login(registry=registry, id="login")
    async def _login(**_: Any) -> kopf.ConnectionInfo:
        return await login()
