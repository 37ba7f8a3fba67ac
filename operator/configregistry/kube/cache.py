"""The objects that a reflector keeps, and who is told when one changes. No I/O.

Why apart from the reflector: what a list, an event or garbage does to memory is worth testing
without a server. A re-created object (same name, other UID) is told as a deletion and a creation,
also where the events between were lost.

It must never forget an object because another one, or its own newest state, cannot be read, and
never let a subscriber's failure keep the change from the store or from the other subscribers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
import structlog

from configregistry.kube.objects import HasMeta, Key
from configregistry.kube.timeline import number

T = TypeVar("T", bound=HasMeta)
OnChange = Callable[[Key, T | None, T | None], None]

_log = structlog.get_logger(__name__)


class Unreadable(NamedTuple):
    """An object that could not be decoded; the last readable one of that name, if any, is kept."""

    resource_version: str
    error: str


class Cache(Generic[T]):
    """`store` and `unreadable` are read-only for everybody else."""

    def __init__(
        self,
        name: str,
        decode: Callable[[bytes | msgspec.Raw], T],
        count: Callable[[str], None],
    ) -> None:
        self._name = name
        self.decode: Final = decode
        self._count = count
        self._objects: dict[Key, T] = {}
        self._unreadable: dict[Key, Unreadable] = {}
        self.store: Final[Mapping[Key, T]] = MappingProxyType(self._objects)
        self.unreadable: Final[Mapping[Key, Unreadable]] = MappingProxyType(self._unreadable)
        self._subscribers: list[OnChange[T]] = []

    def subscribe(self, on_change: OnChange[T]) -> Callable[[], None]:
        """Call `on_change` from now on; what is returned ends that."""
        self._subscribers.append(on_change)
        return lambda: self._subscribers.remove(on_change)

    def read(self, raw: bytes | msgspec.Raw) -> T | tuple[Key, Unreadable] | None:
        """Decode an object; where that fails, say which one it is, or None if even that fails."""
        try:
            return self.decode(raw)
        except Exception as error:  # noqa: BLE001 - a decoder is the caller's: anything may come
            self._count("Unreadable")
            found = identity(raw)
            if found is None:
                _log.error("an object without a name was left out", resource=self._name)
                return None
            key = (found.namespace, found.name)
            told = f"{type(error).__name__}: {error}"
            _log.error("object not readable", resource=self._name, key=key, error=told)
            return key, Unreadable(found.resource_version, told)

    def put(self, read: T | tuple[Key, Unreadable]) -> None:
        """Keep what was read, and tell who asked."""
        if isinstance(read, tuple):
            self._unreadable[read[0]] = read[1]
            return
        key = read.meta.key
        self._unreadable.pop(key, None)
        old = self._objects.get(key)
        if old is not None and old.meta.uid != read.meta.uid:
            self.remove(key)
            old = None
        if old != read:  # not only another resourceVersion: what was damaged here is mended by the next list
            self._objects[key] = read
            self._tell(key, old, read)

    def remove(self, key: Key) -> None:
        """Forget a deleted object, and tell who asked."""
        self._unreadable.pop(key, None)
        old = self._objects.pop(key, None)
        if old is not None:
            self._tell(key, old, None)

    def goes_back(self, all_read: Iterable[T | tuple[Key, Unreadable] | None]) -> bool:
        """Whether a list has an object in an older state than the one that is kept."""
        for each in all_read:
            if each is None or isinstance(each, tuple):
                continue
            kept = self._objects.get(each.meta.key)
            if kept is None or kept.meta.uid != each.meta.uid:
                continue
            if number(each.meta.resource_version) < number(kept.meta.resource_version):
                return True
        return False

    def replace(self, all_read: Iterable[T | tuple[Key, Unreadable] | None]) -> None:
        """Make the store equal to a whole list; differences are told, deletions first."""
        read = list(all_read)
        known = [each for each in read if each is not None]
        # An object without a name may be any of those that are missing: then none of them is.
        if len(known) == len(read):
            present = {each[0] if isinstance(each, tuple) else each.meta.key for each in known}
            for key in [*self._objects, *self._unreadable]:
                if key not in present:
                    self.remove(key)
        for each in known:
            self.put(each)

    def _tell(self, key: Key, old: T | None, new: T | None) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(key, old, new)
            except Exception:  # noqa: BLE001 - logged; the others must still be told
                self._count("Subscriber")
                _log.exception("a subscriber failed", resource=self._name, key=key)


def identity(raw: bytes | msgspec.Raw) -> _Name | None:
    """Which object it is, of one that cannot be decoded; None where not even that can be read."""
    try:
        return _IDENTITY.decode(raw).metadata
    except (msgspec.MsgspecError, RecursionError):
        return None


class _Name(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct, frozen=True):
    metadata: _Name


_IDENTITY: Final = msgspec.json.Decoder(_Identity)
