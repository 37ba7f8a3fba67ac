"""One resource of one namespace (or of all) in memory, kept equal to the API server's, for good.

How it goes, for one object `a` whose deletion a watch loses:

    list  -> {a@5, b@6}, at 7      store a, b; on_change(a), on_change(b); synced
    watch from 7: MODIFIED b@9     on_change(b@6 -> b@9)
    watch breaks                   memory stays as it is and is served; again from 9, after a wait
    410: 9 is too old              list -> {b@12}, at 14; compared with memory: on_change(a -> None)

What is known to be true, and since when: `staleness()` is 0 while a watch is open. What ends one
whose server is gone: the kernel, if nobody answers its keep-alive (15 s); else, where something in
between answers, silence. A quiet watch is silent too (bookmarks come once a minute, and on a quiet
cluster not even that: 120 s were measured), so the server is asked to end each watch after a
minute: an end on time is its word that all was told. Beyond that (`Timeouts.idle`) it is silence.
Once a watch has ended, staleness counts from its end where the server ended it, and from its last
byte where silence did: nobody can say what happened since.

When etcd is restored from a backup, resourceVersions go back, and a watch from one that is not there
yet is accepted and tells nothing until the new history has grown past it (kubernetes#107457). So where
a watch did not end on time, the server is asked how far it is before it is watched again. Lists that
are older than what is known may come from a server that is merely behind; what `timeline` believes is
followed, said once, and told to who asked (`subscribe_rewound`). A list that is not older, but has an
object in an older state, needs no second look: no one history has both.

It must never end, whatever the server answers; never drop an object because of an error; never go
back to an older state because one answer was older; never let a subscriber's failure or one
unreadable object stop the rest. It knows nothing of what the objects mean.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
import structlog

from configregistry.clock import Clock, SystemClock
from configregistry.kube.backoff import Backoff
from configregistry.kube.cache import Cache, OnChange, Unreadable
from configregistry.kube.client import JSON, Api
from configregistry.kube.envelopes import decode_event, decode_page
from configregistry.kube.failures import (
    BROKEN,
    NO_CONNECTION,
    OLDER,
    TIMEOUT,
    ApiError,
    Gone,
    Unavailable,
    from_event,
)
from configregistry.kube.objects import HasMeta, Key
from configregistry.kube.paths import METADATA, METADATA_LIST
from configregistry.kube.timeline import Timeline, number

T = TypeVar("T", bound=HasMeta)

WATCH_SECONDS: Final = 60
"""After at most so long the server ends a watch; less than `Timeouts.idle`. See above."""
PAGE: Final = 500
WHOLE: Final = 0
"""No pages: the API server then lists custom resources from its watch cache, as true as by quorum
but at a sixth of its own cost (10,000 of 3 KiB: 0.9 s of processor against 5.8 s). The whole answer
is held in memory for a moment, so this is for what has small objects."""
SLICE: Final = 200
"""Objects of a list that are decoded in one go: a whole list of 10,000 takes 0.1 s, and readers wait for that."""
LIST_SECONDS: Final = 30.0
"""For one page: it may hold hundreds of large objects."""
FRESH_START: Final = 3
"""So many refusals in a row without an event between them, and everything is listed again."""
SHORT: Final = 1.0
"""A watch that ends sooner without a word counts as a failure."""

_log = structlog.get_logger(__name__)


class Source(NamedTuple, Generic[T]):
    """What a reflector reads, for whoever reads the same to compare."""

    path: str
    params: Mapping[str, str]
    decode: Callable[[bytes | msgspec.Raw], T]
    accept_list: str
    accept: str


class Reflector(Generic[T]):
    """Keeps one resource; `run` it in a task.

    `store` and `unreadable` are read-only for everybody else. `errors` counts failures by reason.
    `synced` is set once the first list is in the store.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        decode: Callable[[bytes | msgspec.Raw], T],
        *,
        name: str,
        params: Mapping[str, str] | None = None,
        metadata_only: bool = False,
        page: int = PAGE,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.synced = asyncio.Event()
        self.errors: Counter[str] = Counter()
        self._cache = Cache(name, decode, self._count)
        self.store: Mapping[Key, T] = self._cache.store
        self.unreadable: Mapping[Key, Unreadable] = self._cache.unreadable
        self._api = api
        self._path = path
        self._params = dict(params or {})
        self._accept_list, self._accept = (METADATA_LIST, METADATA) if metadata_only else (JSON, JSON)
        self._page = self._full_page = page
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._sleep = sleep
        self._backoff = Backoff(jitter=jitter)
        self._refusals = 0
        self._version = ""
        """Where to go on watching; empty: list first."""
        self._timeline = Timeline()
        self._on_time = True
        """How the last watch ended."""
        self._rewinds = 0
        self._rewound: list[Callable[[], None]] = []
        self._lists = 0
        self._due = False
        """A list is asked for, whatever the watch says."""
        self._scope = asyncio.timeout(None)
        """Of the present watch: a way to end it from outside."""
        self._watching = False
        self._heard = 0.0
        self._contact: float | None = None

    def subscribe(self, on_change: OnChange[T]) -> Callable[[], None]:
        """Call `on_change(key, old, new)` for each change from now on; what is returned ends that.

        It is called synchronously, in order, after the store has changed; a deletion has `new`
        None. What is in the store already is not told again.
        """
        return self._cache.subscribe(on_change)

    def subscribe_rewound(self, told: Callable[[], None]) -> None:
        """Call `told` whenever what is known turned out to be of a history that the API server has left.

        It is called before the store is made equal to what there is now: from then on objects may be older.
        """
        self._rewound.append(told)

    @property
    def rewinds(self) -> int:
        """How often the API server went back to an older state for good."""
        return self._rewinds

    @property
    def watching(self) -> bool:
        """Whether a watch is open, so that changes arrive as they happen."""
        return self._watching

    @property
    def last_contact(self) -> float | None:
        """Monotonic time up to which the store is known to be true; None before the first list."""
        return self._clock.monotonic() if self._watching else self._contact

    def staleness(self) -> float | None:
        """Seconds since the store was last known to be true; None before the first list."""
        if self._watching:
            return 0.0
        return None if self._contact is None else self._clock.monotonic() - self._contact

    @property
    def source(self) -> Source[T]:
        """What it reads."""
        params = MappingProxyType(self._params)
        return Source(self._path, params, self._cache.decode, self._accept_list, self._accept)

    @property
    def position(self) -> int:
        """Everything up to here (a resourceVersion) was told and is in the store; 0: that is not known."""
        return number(self._version)

    @property
    def lists(self) -> int:
        """How many lists have gone into the store."""
        return self._lists

    def relist(self) -> None:
        """List anew and make the store equal to that: somebody found that it is not what it should be.

        What is in the store stays until the list is there.
        """
        if not self._due:
            self._due = True
            if self._watching:
                self._scope.reschedule(0)

    async def run(self) -> None:
        """List and watch, until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                elif self._due:
                    await self._list_again()
                elif not self._on_time:
                    await self._look()
                async with asyncio.timeout(None) as self._scope:
                    await self._watch()
            except TimeoutError as error:
                if not self._scope.expired():
                    await self._failed(error)
            except Exception as error:  # noqa: BLE001 - it never ends; see above
                await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        reason = getattr(error, "reason", "") or type(error).__name__
        self._count(reason)
        if reason not in {NO_CONNECTION, TIMEOUT}:
            self._refusals += 1
        expected = isinstance(error, ApiError)
        if isinstance(error, Gone) or not expected or self._refusals >= FRESH_START:
            self._version = ""
        wait = self._backoff.next(getattr(error, "retry_after", None))
        failures = self._backoff.failures
        # The 1st, 2nd, 4th, 8th ...: an outage of hours is told some ten times.
        if failures & (failures - 1) == 0:
            _log.warning(
                "does not follow the API server",
                resource=self.name,
                error=str(error),
                reason=reason,
                failures=failures,
                exc_info=None if expected else error,
            )
        await self._sleep(wait)

    async def _list(self) -> None:
        """Read all pages, then make the store equal to them."""
        read: list[T | tuple[Key, Unreadable] | None] = []
        token = ""
        while True:
            limit = str(self._page) if self._page else ""
            params = {**self._params, "limit": limit, "continue": token}
            try:
                raw = await self._api.list(
                    self._path,
                    {name: value for name, value in params.items() if value},
                    accept=self._accept_list,
                    seconds=LIST_SECONDS,
                )
            except Unavailable as error:
                if error.reason == TIMEOUT:  # perhaps the page is too much; the limit is per list
                    self._page = max(1, self._page // 2) if self._page else PAGE
                raise
            page = decode_page(raw)
            read += await self._decoded(page.items)
            token = page.continue_token
            if not token:
                break
        if not self._timeline.believes(page.resource_version, self._clock.monotonic()):
            raise self._older(page.resource_version)
        if self._full_page:
            self._page = min(self._full_page, self._page * 2)
        if self._timeline.went_back or self._cache.goes_back(read):
            self._rewind(page.resource_version)
        self._cache.replace(read)
        self._lists += 1
        self._due = False
        self._version = page.resource_version
        self._timeline.begin(page.resource_version)
        self._contact = self._clock.monotonic()
        if not self.synced.is_set():
            self.synced.set()
            _log.info("in memory", resource=self.name, objects=len(self.store))

    async def _decoded(self, items: Sequence[msgspec.Raw]) -> list[T | tuple[Key, Unreadable] | None]:
        """Decode a page; 10,000 objects in one go would hold the loop for 100 ms."""
        read = []
        for done, item in enumerate(items, 1):
            read.append(self._cache.read(item))
            if done % SLICE == 0:
                await asyncio.sleep(0)
        return read

    async def _list_again(self) -> None:
        """As was asked for; where it is refused, what a watch tells is worth more, and the next try comes behind it."""
        try:
            await self._list()
        except ApiError as error:
            if error.reason == OLDER:
                raise
            self._count(error.reason)

    async def _look(self) -> None:
        """Ask how far the server is: one that was restored would accept a watch from where this store stands."""
        params = {**self._params, "limit": "1"}
        page = decode_page(await self._api.list(self._path, params, accept=METADATA_LIST))
        if self._timeline.is_older(page.resource_version):
            self._version = ""
            raise self._older(page.resource_version)

    def _older(self, version: str) -> Unavailable:
        return Unavailable(f"it is at {version}, but {self._timeline.newest} is known", reason=OLDER)

    def _rewind(self, version: str) -> None:
        """Another history begins."""
        self._rewinds += 1
        _log.error(
            "the API server went back in time: was etcd restored from a backup? What it has now is followed",
            resource=self.name,
            known=self._timeline.newest,
            now=version,
        )
        for told in self._rewound:
            try:
                told()
            except Exception:  # noqa: BLE001 - as for changes: the store must follow all the same
                self._count("Subscriber")
                _log.exception("a subscriber failed", resource=self.name)

    async def _watch(self) -> None:
        """Follow events from where the store stands, until the watch ends or breaks."""
        seconds = WATCH_SECONDS * (0.75 + 0.25 * self._jitter())
        params = {
            **self._params,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(seconds)),
        }
        self._on_time = False
        async with self._api.watch(self._path, params, accept=self._accept) as lines:
            opened = self._heard = self._clock.monotonic()
            before = self._version
            self._watching = True
            silence = False
            try:
                async for line in lines:
                    self._heard = self._clock.monotonic()
                    self._take(line)
            except Unavailable as error:
                silence = error.reason == TIMEOUT
                raise
            finally:
                self._watching = False
                self._contact = self._heard if silence else self._clock.monotonic()
        if self._version == before and self._contact - opened < SHORT:
            raise Unavailable(f"the watch of {self.name} ended at once", reason=BROKEN)
        self._on_time = self._contact - opened >= int(seconds) - SHORT
        self._progress()

    def _take(self, line: bytes) -> None:
        """Apply one event."""
        try:
            event = decode_event(line)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"an event that is not one: {error}", reason=BROKEN) from error
        if event.type == "ERROR":
            raise from_event(bytes(event.object), what=f"WATCH {self._path}")
        version = event.resource_version
        if number(version) < number(self._version):
            known, self._version = self._version, ""
            raise Unavailable(f"an event at {version}, but {known} is known", reason=OLDER)
        if event.type != "BOOKMARK":
            read = self._cache.read(event.object)
            if read is None:
                return
            if event.type == "DELETED":
                self._cache.remove(read[0] if isinstance(read, tuple) else read.meta.key)
            else:
                self._cache.put(read)
        if version != self._version:
            self._version = version
            self._timeline.told(version)
            self._progress()

    def _progress(self) -> None:
        self._backoff.reset()
        self._refusals = 0

    def _count(self, reason: str) -> None:
        self.errors[reason] += 1
