"""Whether what is served is what was decided and recorded: told by its own hash, computed anew.

Everything else that is checked compares objects with the API server's; this compares what was made of them. The
content that readers get was checked when it came, and then lies in memory for months.

It must never take away what is served: content that turned out to be damaged is replaced once it has been had
again from its ControllerRevision, with its hash checked, and not before.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple

from configregistry.kube.objects import Key
from configregistry.kube.pace import Pace
from configregistry.model.canonical import canonical
from configregistry.serve.hydrate import Hydrator
from configregistry.state import Registry, Version

DAMAGED: Final = "the content of version {} in memory is not what was recorded"
PART: Final = 64
"""Keys that are hashed in one go."""
STEP: Final = 0.1
SETTLED: Final = 100
"""So many steps a repair may take: a flush, or a GET by name."""


class Astray(NamedTuple):
    """A registry of which something else was served than should be. `repaired`: no longer."""

    namespace: str
    registry: str
    what: str
    repaired: bool


class PublishedCheck:
    """Of all that a hydrator has published."""

    def __init__(
        self,
        hydrator: Hydrator,
        followed: Mapping[Key, object],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hydrator = hydrator
        self._followed = followed
        self._sleep = sleep
        self.pace = Pace(sleep)

    async def run(self) -> list[Astray]:
        """Check once, and have put right what is not as it should be."""
        hydrator = self._hydrator
        if not hydrator.ready:
            return []
        snapshot = hydrator.snapshot()
        odd: dict[Key, str] = {}
        self.pace.begin()
        followed = list(self._followed)
        left = ((namespace, registry.name) for namespace, registry in snapshot)
        for key in chain(followed, (key for key in left if key not in self._followed)):
            what = hydrator.astray(key)
            if what is not None:
                odd[key] = what
                hydrator.again(key)
            await self.pace.breathe()
            damaged = await self._damaged(key)
            if damaged is not None:
                registry, number = damaged
                odd[key] = DAMAGED.format(number)
                hydrator.again(key, registry.uid)
        return [Astray(*key, what, repaired=await self._mended(key)) for key, what in odd.items()]

    async def _damaged(self, key: Key) -> tuple[Registry, int] | None:
        registry = self._hydrator.snapshot().registry(*key)
        if registry is None:
            return None
        for version in registry.versions.values():
            verdict = False
            for so_far in hashed(version):
                verdict = so_far
                await self.pace.breathe()
            if not verdict:
                now = self._hydrator.snapshot().registry(*key)
                # Perhaps nobody is given it any more.
                if now is not None and now.versions.get(version.number) is version:
                    return registry, version.number
        return None

    async def _mended(self, key: Key) -> bool:
        for _ in range(SETTLED):
            if self._hydrator.settled(key) and self._hydrator.astray(key) is None:
                return True
            await self._sleep(STEP)
        return False


def hashed(version: Version, part: int = PART) -> Iterator[bool]:
    """Compute a version's hash in parts: False while there is more to do, at last whether it is the version's own.

    As `model.canonical.join_object` and `content_hash` would say it at once; keys are ASCII.
    """
    digest = hashlib.sha256(b"{")
    if len(version.index) != len(version.data):
        yield False
        return
    comma = b""
    for done, key in enumerate(version.index, 1):
        value = version.data.get(key)
        if value is None:
            yield False
            return
        digest.update(b"%b%b:%b" % (comma, canonical(key), value))
        comma = b","
        if done % part == 0:
            yield False
    digest.update(b"}")
    yield digest.hexdigest()[:16] == version.hash
