"""POSTs in the background, each tried again with a growing delay until it is answered.

It exists so that validators and hooks share one way of asking, and reconcile never waits for either.
It must never raise into whoever asks, never take a try that failed for an answer, and never have more
connections at once than its places: beside it checks are made, and a rollback may wait for one of those.

Places. Whoever asks for the first time waits for nobody who has failed: tries after a failure have
places of their own. So services that hang cost others no more than the time of one try, and that only
where more of them than there are places are asked for the first time at once.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import structlog

from configregistry import failpoints
from configregistry.clock import Clock
from configregistry.errors import ConfigRegistryError
from configregistry.health import Answer
from configregistry.kube.backoff import Backoff
from configregistry.model.conditions import cut
from configregistry.model.hook_messages import DELIVERY, Said
from configregistry.telemetry import tracing

AT_ONCE: Final = 256
"""First tries at once, at most: each may hold half a megabyte of content."""
_LEAST_AT_ONCE: Final = 32
_SHARE_OF_FILES: Final = 16
_AGAIN: Final = 4
"""Tries after a failure have this part of the places."""
_LONGEST_FAILURE: Final = 512

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Outbound(Protocol):
    """`health.Outbound`, as far as it is used here."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        within: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The whole answer. Raises `UnansweredError`."""
        ...


class Post(NamedTuple):
    """What to send, and where. `delivery` is its id, the same for each try."""

    url: str
    body: bytes
    delivery: str
    within: float
    span: str = "ask"
    about: Mapping[str, tracing.Value] = MappingProxyType({})
    """What a span of each try is called and says."""


@dataclass(eq=False, slots=True)
class Ask(Generic[_T]):
    """One thing that is being asked, or was: the answer, or why the last try had none."""

    make: Callable[[], Post]
    read: Callable[[bytes], _T]
    tried: Callable[[Ask[_T]], bool]
    since: float
    """Monotonic time at which it was first asked."""
    answer: _T | None = None
    failure: str = ""
    failures: int = 0
    task: asyncio.Task[None] | None = None


class Asker:
    """Asks with waits of `first`, 2 x `first`, ... up to `most` seconds between the tries, jittered."""

    def __init__(
        self,
        outbound: Outbound,
        clock: Clock,
        *,
        first: float,
        most: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        at_once: int | None = None,
    ) -> None:
        self._outbound = outbound
        self._clock = clock
        self._first = first
        self._most = most
        self._sleep = sleep
        self._jitter = jitter
        places = at_once or _places()
        self._new = asyncio.Semaphore(places)
        self._failed = asyncio.Semaphore(max(1, places // _AGAIN))
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def under_way(self) -> int:
        """How many are not answered yet."""
        return len(self._tasks)

    def ask(
        self, make: Callable[[], Post], read: Callable[[bytes], _T], tried: Callable[[Ask[_T]], bool], name: str
    ) -> Ask[_T]:
        """Ask until there is an answer that `read` takes (`ValueError`: it does not).

        `make` is called for each try, so that what is sent is in memory only meanwhile. `tried` hears of
        each try and says whether another one is worth while; it must only note and queue.
        """
        ask = Ask(make, read, tried, self._clock.monotonic())
        if not self._closed:
            ask.task = self._start(self._until_answered(ask), name)
        return ask

    def later(self, seconds: float, act: Callable[[], None], name: str) -> asyncio.Task[None]:
        """Call something once, after a time."""

        async def wait() -> None:
            await self._sleep(seconds)
            act()

        return self._start(wait(), name)

    def stop(self, ask: Ask[Any]) -> None:
        """Nobody waits for the answer any more."""
        if ask.task is not None:
            ask.task.cancel()

    async def close(self) -> None:
        """End everything, for good."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _until_answered(self, ask: Ask[_T]) -> None:
        backoff = Backoff(self._first, self._most, self._jitter)
        while True:
            failpoints.reach("asking.place.before")
            async with self._failed if ask.failures else self._new:
                try:
                    ask.answer = await self._once(ask)
                except (ConfigRegistryError, ValueError) as error:
                    ask.failure = cut(str(error), _LONGEST_FAILURE)
                except Exception as error:  # noqa: BLE001
                    # A defect of ours: its text may hold anything, so only the log gets it, and once.
                    told = f"asking raised {type(error).__name__}"
                    if ask.failure != told:
                        task = asyncio.current_task()
                        _log.exception("asking raised", asked=task.get_name() if task else "")
                    ask.failure = told
            if ask.answer is None:
                ask.failures += 1
            if not self._heard(ask) or ask.answer is not None:
                return
            failpoints.reach("asking.again.before")
            await self._sleep(backoff.next())

    async def _once(self, ask: Ask[_T]) -> _T:
        """One try. Raises `ConfigRegistryError` or `ValueError` where there is no answer."""
        post = ask.make()
        failpoints.reach("asking.send.before")
        with tracing.part(post.span, **post.about) as span:
            answer = await self._outbound.request(
                "POST",
                post.url,
                within=post.within,
                body=post.body,
                headers={"Content-Type": "application/json", "Accept": "application/json", DELIVERY: post.delivery},
            )
            span.set(status=answer.status)
            failpoints.reach("asking.send.after")
            if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                note = f" ({answer.note})" if answer.note else ""
                raise ValueError(f"got status {answer.status}, expected 2xx{note}")
            said = ask.read(answer.body)
            if isinstance(said, Said):
                span.set(verdict="Allowed" if said.allowed else "Refused")
            return said

    def _heard(self, ask: Ask[_T]) -> bool:
        """Tell of a try; an error there is not ours, and ends nothing."""
        try:
            return ask.tried(ask)
        except Exception:  # noqa: BLE001 - logged; the next try is another matter
            _log.exception("telling of a try failed")
            return True

    def _start(self, coroutine: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _places() -> int:
    """A part of the files that this process may open, which are for the API server, checks and clients too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return AT_ONCE
    return min(AT_ONCE, max(_LEAST_AT_ONCE, soft // _SHARE_OF_FILES))
