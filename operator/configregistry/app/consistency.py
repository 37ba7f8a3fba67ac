"""The consistency check: every so often memory is compared with the API server, and what differs is put right.

Why, where watches tell of everything: they do until one loses an event, and then nobody says so. Configuration that
is wrong in one replica of five is what users of such systems fear most.

Replicas that start together must not list together, so the first check comes after a random part of the interval,
and each interval is a little longer or shorter than the last.

It must never change anything because it could not be made, and never end: an error is said, and next time is soon.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import structlog

from configregistry.app.followed import Followed
from configregistry.kube.client import Api
from configregistry.kube.consistency import SILENT, Found, StoreCheck
from configregistry.kube.failures import ApiError
from configregistry.serve.consistency import Astray, PublishedCheck
from configregistry.telemetry.metrics import Metrics

INTERVAL: Final = 300.0
PAUSE: Final = 0.1
"""Seconds after each page: a check asks the API server for little at a time."""
PART: Final = 0.01
"""Of the interval, for such a pause at most."""
SHOWN: Final = 20
"""Differences of one check that are told one by one."""

_log = structlog.get_logger(__name__)


class Consistency:
    """Checks what is followed and, where this process serves, what is published."""

    def __init__(
        self,
        api: Api,
        following: Iterable[Followed[Any]],
        published: PublishedCheck | None,
        metrics: Metrics,
        *,
        interval: float = INTERVAL,
        silent: float = SILENT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._audits = [
            StoreCheck(api, reflector, followed.resource, sleep=sleep, silent=silent)
            for followed in following
            for reflector in followed.reflectors
        ]
        self._published = published
        self._metrics = metrics
        self._interval = interval
        self._sleep = sleep
        self._jitter = jitter
        self._failures = 0

    async def run(self) -> None:
        """Check for good; with an interval of 0, never."""
        await self._sleep(self._interval * self._jitter())
        while self._interval:
            await self.check()
            await self._sleep(self._interval * (0.8 + 0.4 * self._jitter()))
        await asyncio.Event().wait()

    async def check(self) -> list[Found | Astray]:
        """Check once; gives what was found."""
        began = time.monotonic()
        found: list[Found | Astray] = []
        failed: Exception | None = None
        for audit in self._audits:
            try:
                found += await audit.run(min(PAUSE, PART * self._interval))
            except Exception as error:  # noqa: BLE001 - the other kinds are checked all the same
                failed = error
        if self._published is not None:
            try:
                found += await self._published.run()
            except Exception as error:  # noqa: BLE001 - see above
                failed = error
        self._tell(found, failed, time.monotonic() - began)
        return found

    def _tell(self, found: list[Found | Astray], failed: Exception | None, seconds: float) -> None:
        for each in found[:SHOWN]:
            tell = _log.warning if each.repaired else _log.error
            tell(
                "memory was not what it should be",
                namespace=each.namespace,
                registry=each.registry,
                **({"resource": each.resource, "name": each.name} if isinstance(each, Found) else {}),
                differed=each.what,
                done=_done(each),
            )
        if len(found) > SHOWN:
            _log.warning("memory was not what it should be", more=len(found) - SHOWN)
        repaired = sum(each.repaired for each in found)
        if repaired:
            self._metrics.repaired(repaired)
        if failed is not None:
            self._fail(failed)
        else:
            self._failures = 0
        if repaired < len(found):
            self._metrics.consistency("differs")
        elif failed is not None:
            self._metrics.consistency("failed")
        else:
            self._metrics.consistency("repaired" if found else "same")
        _log.debug(
            "consistency check",
            seconds=round(seconds, 3),
            bytes=sum(audit.read for audit in self._audits),
            found=len(found),
            repaired=repaired,
        )

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        # The 1st, 2nd, 4th, 8th ...: an outage of a night is told a few times.
        if self._failures & (self._failures - 1) == 0:
            _log.warning(
                "memory could not be compared with the API server; nothing has changed",
                error=str(error),
                failures=self._failures,
                exc_info=None if isinstance(error, ApiError) else error,
            )


def _done(each: Found | Astray) -> str:
    if not each.repaired:
        return "nothing yet: tried again at the next check"
    return "listed again" if isinstance(each, Found) else "published anew"
