"""The content that a spec asks for: its ConfigMaps read, merged, checked against its schema.

Absent means that a GET answered 404. Any other failure to read is `Unreadable`: never a change.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from configregistry import failpoints
from configregistry.errors import ConfigRegistryError, FieldError
from configregistry.health import examine
from configregistry.kube.configmaps import ConfigMapData
from configregistry.kube.failures import ApiError
from configregistry.model import conditions, content, schema
from configregistry.model.content import Content, Source
from configregistry.model.spec import RolloutSpec, Spec
from configregistry.rollout.observation import Problem


class Unreadable(ConfigRegistryError):  # noqa: N818
    """A source could not be asked for."""


ReadConfigMap = Callable[[str, str], Awaitable[ConfigMapData | None]]
"""A GET by namespace and name; None is 404, everything else that goes wrong is raised as `ApiError`."""

COMPARED: Final = 256
"""Comparisons with costly schemas that are kept, or go on."""
COMPARED_AT_ONCE: Final = 2
"""Processes for them."""
CACHED: Final = 16 * 1024 * 1024
"""Bytes of ConfigMaps that are kept: forty registries that share one read it once."""


class Sources:
    """Reads ConfigMaps; one that is known at its present resourceVersion is not read again."""

    def __init__(self, read: ReadConfigMap) -> None:
        self._read = read
        self._cache: OrderedDict[tuple[str, str], ConfigMapData] = OrderedDict()
        self._bytes = 0
        self._comparing: OrderedDict[tuple[str, str], asyncio.Task[None]] = OrderedDict()
        self._places = asyncio.Semaphore(COMPARED_AT_ONCE)

    async def resolve(self, namespace: str, spec: Spec, present: Mapping[str, str]) -> Content | Problem:
        """The content of a spec. `present`: the resourceVersion of each ConfigMap that a watch knows of.

        Raises `Unreadable` when a source can neither be read nor be said to be absent.
        """
        try:
            found = []
            for index, ref in enumerate(spec.data_from):
                name = ref.config_map_ref.name
                data = await self._get(namespace, name, present.get(name))
                if data is None and not ref.config_map_ref.optional:
                    field = f"spec.dataFrom[{index}].configMapRef.name"
                    return Problem(
                        conditions.SOURCE_NOT_FOUND, f"{field}: {name!r}: expected a ConfigMap of {namespace}"
                    )
                found.append(Source(ref, data.data if data else {}))
            return await self._build(spec, found)
        except FieldError as error:
            return Problem(conditions.INVALID_SPEC, str(error))

    async def _build(self, spec: Spec, found: list[Source]) -> Content:
        merged: dict[str, Any] = content.merge(found, spec.data)
        built = content.build(merged)
        if spec.schema is None:
            return built
        if not schema.is_costly(spec.schema):
            schema.check(spec.schema, merged)
            return built
        await self._compared(spec.schema, merged, built.hash)
        return built

    async def _compared(self, asked: Mapping[str, Any], merged: Mapping[str, Any], content_hash: str) -> None:
        """Compare with a costly schema in the background: no worker waits, so no other registry does.

        Raises `Unreadable` until there is an answer, and then what is wrong.
        """
        key = (schema_hash(asked), content_hash)
        task = self._comparing.get(key)
        if task is None:
            while len(self._comparing) >= COMPARED:
                self._comparing.pop(next(iter(self._comparing))).cancel()
            task = self._comparing[key] = asyncio.create_task(self._compare(asked, merged))
        if not task.done():
            raise Unreadable("spec.schema: being compared with the content, in a process of its own")
        try:
            task.result()
        except (OSError, asyncio.CancelledError) as error:
            self._comparing.pop(key, None)
            raise Unreadable(f"spec.schema: could not be compared: {error}") from error

    async def _compare(self, asked: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
        async with self._places:
            failpoints.reach("sources.compare.before")
            await schema.check_apart(asked, merged)
            failpoints.reach("sources.compare.after")

    async def close(self) -> None:
        """End what is being compared."""
        for task in self._comparing.values():
            task.cancel()
        await asyncio.gather(*self._comparing.values(), return_exceptions=True)
        self._comparing.clear()

    async def _get(self, namespace: str, name: str, version: str | None) -> ConfigMapData | None:
        key = (namespace, name)
        known = self._cache.get(key)
        if known is not None and known.resource_version == version:
            self._cache.move_to_end(key)
            return known
        try:
            failpoints.reach("sources.read.before")
            data = await self._read(namespace, name)
            failpoints.reach("sources.read.after")
        except ApiError as error:
            raise Unreadable(f"ConfigMap {namespace}/{name} could not be read: {error}") from error
        self._keep(key, data)
        return data

    def _keep(self, key: tuple[str, str], data: ConfigMapData | None) -> None:
        former = self._cache.pop(key, None)
        self._bytes -= _size(former) if former else 0
        if data is None:
            return
        self._cache[key] = data
        self._bytes += _size(data)
        while self._bytes > CACHED and self._cache:
            self._bytes -= _size(self._cache.popitem(last=False)[1])


def schema_hash(asked: Mapping[str, Any]) -> str:
    """What a schema is known by."""
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


def _size(data: ConfigMapData) -> int:
    return sum(len(name) + len(text) for name, text in data.data.items())


def sources_of(spec: Spec) -> frozenset[str]:
    """The ConfigMaps that a spec reads."""
    return frozenset(ref.config_map_ref.name for ref in spec.data_from)


def examine_checks(rollout: RolloutSpec) -> None:
    """Raise `FieldError` for a check that this version could never make."""
    for index, check in enumerate(rollout.checks):
        examine(check, f"spec.rollout.checks[{index}]")
