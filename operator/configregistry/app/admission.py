"""The admission webhook, wired: a listener, its certificate, kopf in a thread of its own, and who judges.

It answers from the first moment on, before anything is listed: by the rules alone then. It must never hold up
the start or the end of the program: what goes wrong here is for failurePolicy (docs/adr/0009).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import kopf
import structlog

from configregistry.admission.across import View
from configregistry.admission.certificates import service_names
from configregistry.admission.limits import Limits
from configregistry.admission.review import Reviewer, to_loop
from configregistry.admission.rotation import InCluster, Rotation
from configregistry.admission.tls import Files, Tls
from configregistry.app.following import Following
from configregistry.app.serving import listening
from configregistry.clock import Clock
from configregistry.handlers import settings as kopf_settings
from configregistry.handlers import webhook
from configregistry.handlers.thread import KopfThread
from configregistry.health import Known
from configregistry.kube.client import Api
from configregistry.kube.namespaces import is_going
from configregistry.reconcile import EXAMINERS, Collector, Named, policies_of
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

YOUNG: Final = 300.0
"""Seconds after the start in which consumers of the process before may not have reported again."""
BEHIND: Final = 60.0
"""Seconds without a watch after which what is not in memory is not called absent."""


class Admission:
    """Listens from `open` on."""

    def __init__(
        self,
        settings: Settings,
        api: Api,
        following: Following,
        collector: Collector | None,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._api = api
        self._following = following
        self._named = Named()
        following.registries.subscribe(self._named.changed)
        self._collector = collector
        self._clock = clock
        self._parts: list[Coroutine[Any, Any, None]] = []
        self._listener: socket.socket | None = None
        self._kopf: KopfThread | None = None

    async def open(self) -> None:
        """Listen; until there is a certificate nobody gets through."""
        settings, tls = self._settings, Tls(self._metrics.certified)
        if settings.webhook_certificate is not None and settings.webhook_key is not None:
            files = Files(Path(settings.webhook_certificate), Path(settings.webhook_key), tls.use)
            self._parts.append(files.run())
        else:
            namespace, _, secret = settings.webhook_secret.partition("/")
            objects = InCluster(self._api, namespace, secret, settings.webhook_configuration)
            self._parts.append(Rotation(objects, _names(settings), tls.use, self._clock).run())
        with listening("--webhook-port", settings.webhook_host, settings.webhook_port):
            family = socket.AF_INET6 if ":" in settings.webhook_host else socket.AF_INET
            self._listener = socket.create_server((settings.webhook_host, settings.webhook_port), family=family)
        server = webhook.Server(self._listener, tls.context)
        login = kopf_settings.login_with(settings.kubeconfig, settings.context)
        review = self._reviewer().review

        def register(registry: kopf.OperatorRegistry) -> None:
            kopf_settings.register(registry, login)
            webhook.register(registry, server, review)

        self._kopf = KopfThread(register, name="kopf-admission")
        self._kopf.start()
        _log.info(
            "the admission webhook listens",
            address=f"https://{settings.webhook_host}:{settings.webhook_port}{webhook.PATH}",
        )

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until the end."""
        return self._parts

    def drain(self) -> None:
        """The end is near."""
        if self._kopf is not None:
            self._kopf.ask_to_stop()

    async def close(self) -> None:
        """End the listener."""
        if self._kopf is not None:
            await self._kopf.stop()
        if self._listener is not None:
            self._listener.close()

    def _reviewer(self) -> Reviewer:
        following, namespaces = self._following, self._settings.namespaces

        def current(namespace: str) -> bool:
            looked_after = not namespaces or namespace in namespaces
            return looked_after and following.waits() is None and following.staleness() <= BEHIND

        async def going(namespace: str) -> bool:
            return await is_going(self._api, namespace)

        view = View(
            current,
            following.registries.store.get,
            following.revisions.store.get,
            following.configmaps.store.get,
            self._named.by,
        )
        collector, begun = self._collector, self._clock.monotonic()

        async def consumers(namespace: str, name: str, uid: str) -> Known:
            assert collector is not None
            known = await collector.known(namespace, name, uid)
            if self._settings.serves and not known.consumers and self._clock.monotonic() - begun < YOUNG:
                # What was reported to the process before this one went with it.
                return known._replace(errors={**known.errors, "this process, just started,": "consumers report again"})
            return known

        return Reviewer(
            view,
            to_loop(asyncio.get_running_loop()),
            consumers=consumers if collector is not None else None,
            going=going,
            examiners=EXAMINERS,
            reviewed=self._metrics.reviewed,
            policies=Limits(policies_of(self._api, following.policies.store, following.namespaces.store)),
        )


def _names(settings: Settings) -> tuple[str, ...]:
    """What the certificate is for: the Service, and an address that is one machine's."""
    namespace, _, service = settings.webhook_service.partition("/")
    names = service_names(namespace, service) if service else ()
    with suppress(ValueError):
        # API servers call a Service by its name, and the address of one pod is no other pod's.
        if not names and not ip_address(settings.webhook_host).is_unspecified:
            names = (*names, settings.webhook_host)
    return names
