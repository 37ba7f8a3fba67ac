"""Terms: while this process leads it has a Controller, and a new one for each term.

A new one, since what was remembered in the last term (checks, writes without an answer, what was asked and told) is
another leader's by now. What watches hold stays: whoever waits for its turn follows everything, and begins at once.

It must never let anything of a term write once that is over: each term's client is fenced by the election, and a
term has ended before the Lease is given up.
"""

from __future__ import annotations

import asyncio
import platform
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from configregistry.app.following import Following
from configregistry.kube.client import Api
from configregistry.kube.election import CREDIBLE, LASTS, Election
from configregistry.kube.failures import ApiError
from configregistry.kube.fence import UNANSWERED
from configregistry.kube.lease import Place
from configregistry.kube.listing import resource_versions
from configregistry.kube.objects import RegistryObject
from configregistry.kube.paths import REGISTRIES
from configregistry.settings import Settings
from configregistry.telemetry.metrics import Metrics

LEASE: Final = "configregistry"
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
IN_PEACE: Final = 1.0
"""Seconds that the last writes of a term have to be answered when the process ends."""
AGAIN: Final = 0.5
"""Seconds between two tries to list what there is at the beginning of a term."""
BEGIN_WITHIN: Final = 60.0
"""Seconds in which a term must have begun; else somebody else is let try."""
STALE: Final = 60.0
"""Seconds without a watch after which a process does not try to lead: it would decide on what was."""

_log = structlog.get_logger(__name__)

Key = tuple[str, str]


class Term(Protocol):
    """What decides during one term."""

    def begin(self, behind: Iterable[tuple[Key, str]]) -> None:
        """Decide from now on; `behind`: key and UID of what watches have not told of as it is."""
        ...

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until the end of the term; one that ends by itself is a defect."""
        ...

    async def shut(self, seconds: float) -> bool:
        """Write nothing any more; wait at most so long for what is under way. Gives whether all was answered."""
        ...

    async def close(self) -> None:
        """End it."""
        ...


class Terms:
    """Runs one term after the other; without an election a single one."""

    def __init__(
        self,
        election: Election | None,
        make: Callable[[], Term],
        behind: Callable[[], Awaitable[list[tuple[Key, str]]]],
        metrics: Metrics,
    ) -> None:
        """`behind` lists what watches have not told of as it is; raises `ApiError`."""
        self._election = election
        self._make = make
        self._behind = behind
        self._metrics = metrics
        self._ready = asyncio.Event()
        self._begun = asyncio.Event()
        self._quiet = True

    def open(self) -> None:
        """Everything has been listed: from now on this process may lead."""
        self._ready.set()

    async def looked(self) -> None:
        """Wait until the first term has begun, or is somebody else's."""
        if self._election is not None:
            await self._election.looked()
        if self._election is None or self._election.epoch:
            await self._begun.wait()

    async def run(self) -> None:
        """Lead whenever it is this process's turn, until cancelled."""
        await self._ready.wait()
        election = self._election
        if election is None:
            self._metrics.lead(True)
            await self._term(asyncio.get_running_loop().create_future(), behind=None)
            return
        self._metrics.lead(False)
        try:
            while True:
                epoch = await election.win()
                _log.info("leading", epoch=epoch, identity=election.identity)
                self._metrics.lead(True, epoch)
                reason = await self._term(election.keep(), self._behind)
                self._metrics.lead(False)
                _log.warning("not leading any more", epoch=epoch, reason=reason)
                if election.epoch:  # it could, but had nothing to decide on
                    await election.release()
                    await asyncio.sleep(LASTS)
                elif not self._quiet:  # its next term must not overtake what is still on its way
                    await asyncio.sleep(UNANSWERED)
        finally:
            self._metrics.lead(False)
            if self._quiet:
                await election.release()
            else:
                _log.warning("the lease runs out by itself: a write was not answered", epoch=election.epoch)

    async def _term(self, over: Awaitable[str], behind: Callable[[], Awaitable[list[tuple[Key, str]]]] | None) -> str:
        """One term, until `over` is; gives what that says."""
        ends = asyncio.ensure_future(over)
        begins = asyncio.create_task(self._listed(behind))
        term = None
        tasks: list[asyncio.Task[None]] = []
        try:
            begun, _ = await asyncio.wait((ends, begins), timeout=BEGIN_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if not begun:
                return f"what there is could not be listed within {BEGIN_WITHIN:g} s"
            if ends.done():
                return ends.result()
            term = self._make()
            tasks = [asyncio.create_task(part) for part in term.parts()]
            term.begin(begins.result())
            self._begun.set()
            done, _ = await asyncio.wait((ends, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ends}:
                task.result()
                raise AssertionError(f"{task} ended")
            return ends.result()
        finally:
            if term is not None:
                self._quiet = await term.shut(IN_PEACE)
            for each in (ends, begins, *tasks):
                each.cancel()
            await asyncio.gather(ends, begins, *tasks, return_exceptions=True)
            if term is not None:
                await term.close()

    async def _listed(self, behind: Callable[[], Awaitable[list[tuple[Key, str]]]] | None) -> list[tuple[Key, str]]:
        """List what there is, as often as it takes."""
        while behind is not None:
            try:
                return await behind()
            except (ApiError, msgspec.MsgspecError) as error:
                _log.warning("what there is cannot be listed", error=str(error))
                await asyncio.sleep(getattr(error, "retry_after", None) or AGAIN)
        return []


def identity() -> str:
    """A name that no other process has, nor this one after a restart."""
    return f"{platform.node()}_{uuid.uuid4()}"


def place(settings: Settings) -> Place:
    """Where the Lease is: as it was said, or in the pod's own namespace, or in the first that is looked after."""
    if settings.lease:
        namespace, _, name = settings.lease.partition("/")
        return Place(namespace, name)
    if settings.in_cluster and _OWN_NAMESPACE.is_file():
        return Place(_OWN_NAMESPACE.read_text(encoding="ascii").strip(), LEASE)
    return Place(settings.namespaces[0] if settings.namespaces else "default", LEASE)


def newest_epoch(following: Following) -> int:
    """The greatest epoch that any status names: a Lease that was deleted must not begin again at 1."""
    return max((_epoch(each) for each in following.registries.store.values()), default=0)


async def behind(api: Api, following: Following, namespaces: tuple[str, ...]) -> list[tuple[Key, str]]:
    """Key and UID of the registries that watches have not told of as they are, or that are gone. Raises `ApiError`.

    The leader before this one may have written a moment ago. What it wrote is no other hand's change, which
    would be put back.
    """
    found: list[tuple[Key, str]] = []
    for namespace in namespaces or (None,):
        # As it was before: what comes while it is listed is newer than the list.
        known = {key: each.meta for key, each in following.registries.store.items() if namespace in (None, key[0])}
        listed = await resource_versions(api, REGISTRIES, namespace)
        found += [(key, meta.uid) for key, meta in known.items() if listed.get(key) != meta.resource_version]
    return found


class _Signed(msgspec.Struct, frozen=True, rename="camel"):
    leader_epoch: int = 0


_SIGNED: Final = msgspec.json.Decoder(_Signed)


def _epoch(found: RegistryObject) -> int:
    try:
        epoch = _SIGNED.decode(found.status or b"{}").leader_epoch
    except (msgspec.MsgspecError, RecursionError):
        return 0  # a hand has made it unreadable; it is written anew
    return epoch if epoch <= CREDIBLE else 0
