"""One resource in all namespaces that are looked after: one reflector for all of them, or one for each.

It exists so that an operator of a few namespaces needs no right outside of them; where objects belong to the
whole cluster, one reflector for each name does the same. It knows nothing of what the objects mean.
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

_NAMESPACE, _NAME = 0, 1


class Followed(Generic[T]):
    """The objects of a resource, in memory. `namespaces` and `names` empty: of the whole cluster."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        decode: Callable[[bytes | msgspec.Raw], T],
        namespaces: tuple[str, ...],
        *,
        names: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        if names:
            # A right to one name is enough to list and watch that one.
            of = {
                name: Reflector(
                    api,
                    resource.path(),
                    decode,
                    name=f"{resource} {name}",
                    params={"fieldSelector": f"metadata.name={name}"},
                    **options,
                )
                for name in names
            }
        else:
            of = {
                place or "": Reflector(
                    api, resource.path(place), decode, name=f"{resource} in {place or 'all'}", **options
                )
                for place in namespaces or (None,)
            }
        self.resource = resource
        self.reflectors = tuple(of.values())
        stores = {place: each.store for place, each in of.items()}
        self.store: Mapping[Key, T] = stores[""] if "" in stores else _Parts(stores, _NAME if names else _NAMESPACE)

    def subscribe(self, on_change: Callable[[Key, T | None, T | None], None]) -> Callable[[], None]:
        """Tell of each change from now on; what is returned ends that."""
        ends = [each.subscribe(on_change) for each in self.reflectors]

        def end() -> None:
            for each in ends:
                each()

        return end

    def subscribe_rewound(self, told: Callable[[], None]) -> None:
        """Tell whenever the API server has gone back to an older state for good."""
        for each in self.reflectors:
            each.subscribe_rewound(told)

    async def synced(self) -> None:
        """Wait for the first list of each."""
        for each in self.reflectors:
            await each.synced.wait()

    @property
    def watching(self) -> bool:
        """Whether changes arrive as they happen: every watch is open."""
        return all(each.watching for each in self.reflectors)

    def staleness(self) -> float:
        """Seconds since the last sign of the API server; 0 while the watches are open."""
        return max((each.staleness() or 0.0) for each in self.reflectors)

    def unsynced(self) -> list[str]:
        """Whose first list is not there yet."""
        return [each.name for each in self.reflectors if not each.synced.is_set()]


class _Parts(Mapping[Key, T]):
    """The stores of some namespaces (or names) as one: a look-up costs the same however many there are."""

    def __init__(self, stores: Mapping[str, Mapping[Key, T]], part: int) -> None:
        """`part`: the place in a key of what tells the stores apart."""
        self._stores = stores
        self._part = part

    def __getitem__(self, key: Key) -> T:
        return self._stores[key[self._part]][key]

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._stores.values())

    def __len__(self) -> int:
        return sum(map(len, self._stores.values()))
