"""Compares what a reflector holds with what the API server has, and has it put right.

Why: a watch that loses an event says nothing, and then memory is wrong for as long as the object does not
change again. How a difference is told from a change under way, for `a`, of which a DELETE was swallowed:

    list, in pages, as of 90      a is not in it, memory has a@17: a suspect, with that very object
    GET a                         404. The watch stands at 84
    until the watch has passed 90, or has stood open for SILENT without a word
                                  memory has got another a, or none: it was only late
    memory still has a@17: GET a  404 again: said, counted, and everything is listed anew

It must never change what is in memory by itself (a list of the reflector's does, which is compared as a whole and
may not be older), never take an error for an absence, and never hold the loop for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, NamedTuple, TypeVar

from configregistry.kube.cache import identity
from configregistry.kube.client import Api
from configregistry.kube.drift import Suspect, difference, left_over, settled, suspects
from configregistry.kube.envelopes import decode_page
from configregistry.kube.failures import NotFound, Unavailable
from configregistry.kube.objects import HasMeta, Key, RevisionObject
from configregistry.kube.pace import Pace
from configregistry.kube.paths import METADATA_LIST, Resource
from configregistry.kube.reflector import LIST_SECONDS, Reflector
from configregistry.kube.timeline import number

T = TypeVar("T", bound=HasMeta)

PAGE: Final = 100
"""Objects of one answer, unless they are large: an answer is decoded in one go."""
LARGE: Final = 512 * 1024
"""Bytes of an answer beyond which fewer objects are asked for at once."""
MOST: Final = 50
"""Suspects that are looked at in one check. Where there are more, one of them suffices to have all listed anew."""
SILENT: Final = 10.0
"""Seconds that an open watch may be silent about what it should tell."""
STEPS: Final = 20
"""Such a time is waited for in so many steps: while the process itself stood still, it heard nothing either."""
LATE: Final = 6
"""So many times that long a watch may be late; then it is left to the next check."""
LISTED: Final = 120.0
"""Seconds for the list that puts it right."""


class Found(NamedTuple):
    """A difference that stayed. `repaired`: it is gone now."""

    resource: str
    namespace: str
    name: str
    registry: str
    what: str
    repaired: bool


class StoreCheck(Generic[T]):
    """Of one reflector."""

    def __init__(
        self,
        api: Api,
        reflector: Reflector[T],
        resource: Resource,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        timer: Callable[[], float] = time.perf_counter,
        silent: float = SILENT,
        page: int = PAGE,
    ) -> None:
        self.reflector = reflector
        self._api = api
        self._resource = resource
        self._sleep = sleep
        self._step = silent / STEPS
        self._page = self._full_page = page
        self._source = reflector.source
        self._contents = resource.plural != "controllerrevisions"
        """Whether lists come as the reflector's do. Versions are many and large, and their label is their hash."""
        self.pace = Pace(sleep, timer=timer)
        self.read = 0
        """Bytes of answers so far."""

    async def run(self, pause: float) -> list[Found]:
        """Check once, with a pause after each page. Raises `ApiError`, and then nothing has changed."""
        if not self.reflector.synced.is_set():
            raise Unavailable(f"{self.reflector.name} has not been listed yet")
        odd, listed_at = await self._listed(pause)
        odd += await self._damaged()
        if not odd:
            return []
        odd = list({each.key: each for each in odd}.values())
        # Those of which memory is not ahead come first: of a list that takes its time most is ahead at its end.
        odd.sort(key=lambda each: each.held is not None and number(each.held.meta.resource_version) > listed_at)
        certain = await self._certain(odd[:MOST], listed_at)
        return await self._repair(certain) if certain else []

    async def _listed(self, pause: float) -> tuple[list[Suspect], int]:
        """Compare page by page; gives what seems odd, and where the list stands."""
        source, reflector = self._source, self.reflector
        accept = source.accept_list if self._contents else METADATA_LIST
        odd: list[Suspect] = []
        present: set[Key] = set()
        token, named = "", True
        while True:
            params = {**source.params, "limit": str(self._page), "continue": token}
            raw = await self._api.list(
                source.path,
                {name: value for name, value in params.items() if value},
                accept=accept,
                seconds=LIST_SECONDS,
            )
            self.read += len(raw)
            self._fit(len(raw))
            self.pace.begin()
            page = decode_page(raw)
            for item in page.items:
                try:
                    told = source.decode(item)
                except Exception:  # noqa: BLE001 - a decoder is the caller's; the reflector says what it cannot read
                    known = identity(item)
                    if known is None:
                        named = False
                    else:
                        present.add((known.namespace, known.name))
                else:
                    present.add(told.meta.key)
                    odd += suspects((told,), reflector.store, reflector.unreadable, whole=self._contents)
                await self.pace.breathe()
            token = page.continue_token
            if not token:
                break
            await self._sleep(pause)
        listed_at = number(page.resource_version)
        if named:  # else what could not be read may be any of those that are missing
            for key, held in list(reflector.store.items()):
                if (extra := left_over(key, held, present, listed_at)) is not None:
                    odd.append(extra)
                await self.pace.breathe()
        return odd, listed_at

    def _fit(self, size: int) -> None:
        """Ask for fewer objects at once where they are large, for more again where they are not."""
        if size > LARGE:
            self._page = max(1, self._page // 2)
        elif size < LARGE // 4:
            self._page = min(self._full_page, self._page * 2)

    async def _damaged(self) -> list[Suspect]:
        """Compute the hashes of versions anew."""
        found = []
        self.pace.begin()
        for key, held in list(self.reflector.store.items()):
            if isinstance(held, RevisionObject) and held.payload and not _whole(held):
                found.append(Suspect(key, held))
            await self.pace.breathe()
        return found

    async def _certain(self, odd: list[Suspect], listed_at: int) -> list[tuple[Suspect, T | None, str]]:
        """Leave those that differ still when the watch has had its chance."""
        target = listed_at
        asked = []
        for each in odd:
            told = await self._get(each.key)
            ahead = each.held is not None and number(each.held.meta.resource_version) > listed_at
            if told is None and ahead:
                continue  # deleted since the list: nothing says up to where the watch must have come
            if self._stays(each, told):
                asked.append(each)
                if told is not None:
                    target = max(target, number(told.meta.resource_version))
        if not asked or not await self._heard(target, asked):
            return []
        certain = []
        for each in asked:
            if not self._same(each):
                continue
            told = await self._get(each.key)
            # What changed since the watch was at its target has not had its chance.
            fresh = told is not None and number(told.meta.resource_version) > target
            what = difference(told, self._held(each.key))
            if self._same(each) and what is not None and not fresh:
                certain.append((each, told, what))
        return certain

    async def _heard(self, target: int, asked: list[Suspect]) -> bool:
        """Wait until the watch has told all up to `target`, or nothing at all for long; False: it is late."""
        reflector = self.reflector
        steps, before = 0, reflector.position
        for _ in range(LATE * STEPS):
            if not reflector.watching or reflector.position != before:
                steps, before = 0, reflector.position
            if settled(target, reflector.position, quiet=steps >= STEPS):
                return True
            if not any(self._same(each) for each in asked):
                return False
            await self._sleep(self._step)
            steps += 1
        return False

    async def _repair(self, certain: list[tuple[Suspect, T | None, str]]) -> list[Found]:
        """Have everything listed anew, and see what came of it."""
        reflector = self.reflector
        before = reflector.lists
        reflector.relist()
        for _ in range(max(1, int(LISTED / self._step))):
            if reflector.lists != before:
                break
            await self._sleep(self._step)
        return [self._found(each, told, what) for each, told, what in certain]

    def _found(self, each: Suspect, told: T | None, what: str) -> Found:
        one = told if told is not None else each.held
        registry = one.registry if isinstance(one, RevisionObject) else each.key[1]
        return Found(str(self._resource), *each.key, registry, what, repaired=not self._stays(each, told))

    async def _get(self, key: Key) -> T | None:
        """The object now; None: 404."""
        namespace, name = key
        path = self._resource.path(namespace or None, name)
        try:
            raw = await self._api.get(path, accept=self._source.accept)
        except NotFound:
            return None
        self.read += len(raw)
        return self._source.decode(raw)

    def _held(self, key: Key) -> T | None:
        return self.reflector.store.get(key)

    def _same(self, each: Suspect) -> bool:
        """Whether memory has not been told anything since."""
        return self._held(each.key) is each.held

    def _stays(self, each: Suspect, told: T | None) -> bool:
        return self._same(each) and difference(told, self._held(each.key)) is not None


def _whole(held: RevisionObject) -> bool:
    try:
        held.content()
    except ValueError:
        return False
    return True
