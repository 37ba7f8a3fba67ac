"""One resource in all namespaces that are looked after: one reflector for all of them, or one for each.

It exists so that an operator of a few namespaces needs no right outside of them. It knows nothing of what
the objects mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.objects import HasMeta
from configregistry.kube.paths import Resource
from configregistry.kube.reflector import Reflector

Key = tuple[str, str]
T = TypeVar("T", bound=HasMeta)


class Followed(Generic[T]):
    """The objects of a resource, in memory. `namespaces` empty: of the whole cluster."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        decode: Callable[[bytes | msgspec.Raw], T],
        namespaces: tuple[str, ...],
        **options: Any,
    ) -> None:
        places: tuple[str | None, ...] = namespaces or (None,)
        of = {
            place: Reflector(api, resource.path(place), decode, name=f"{resource} in {place or 'all'}", **options)
            for place in places
        }
        self.reflectors = tuple(of.values())
        self.store: Mapping[Key, T] = (
            of[None].store if None in of else _ByNamespace({place or "": each.store for place, each in of.items()})
        )

    def subscribe(self, on_change: Callable[[Key, T | None, T | None], None]) -> None:
        """Tell of each change from now on."""
        for each in self.reflectors:
            each.subscribe(on_change)

    async def synced(self) -> None:
        """Wait for the first list of each."""
        for each in self.reflectors:
            await each.synced.wait()

    def staleness(self) -> float:
        """Seconds since the last sign of the API server; 0 while the watches are open."""
        return max((each.staleness() or 0.0) for each in self.reflectors)

    def unsynced(self) -> list[str]:
        """Whose first list is not there yet."""
        return [each.name for each in self.reflectors if not each.synced.is_set()]


class _ByNamespace(Mapping[Key, T]):
    """The stores of some namespaces as one: a look-up costs the same however many there are."""

    def __init__(self, stores: Mapping[str, Mapping[Key, T]]) -> None:
        self._stores = stores

    def __getitem__(self, key: Key) -> T:
        return self._stores[key[0]][key]

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._stores.values())

    def __len__(self) -> int:
        return sum(map(len, self._stores.values()))
