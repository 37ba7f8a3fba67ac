"""What is likely wrong about a spec among other objects: cycles, names that do not exist, pins to nothing.

Warnings alone: another object may come, change or go a moment later, and the controller decides by what there is
then. Reads what watches hold, so it belongs to the loop of the reflectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

import msgspec

from configregistry.admission.request import Request
from configregistry.errors import FieldError
from configregistry.kube.objects import MetaObject, RegistryObject, RevisionObject
from configregistry.model.names import version_name
from configregistry.model.spec import Spec, parse_spec
from configregistry.reconcile import links
from configregistry.reconcile.memory import Key


def _nobody(_key: Key) -> Collection[Key]:
    return ()


class View(NamedTuple):
    """What is known of the cluster.

    `current`: whether all of a namespace has been listed; else absence means nothing. `followers`: who names a
    registry as fallback or dependency.
    """

    current: Callable[[str], bool]
    registry: links.RegistryOf
    revision: Callable[[Key], RevisionObject | None]
    configmap: Callable[[Key], MetaObject | None]
    followers: Callable[[Key], Collection[Key]] = _nobody


def warnings(view: View, request: Request, spec: Spec) -> Iterator[str]:
    """All that is to be warned of."""
    if request.new is None or not view.current(request.namespace):
        return
    key = (request.namespace, request.name)
    ring = links.cycle(key, spec, view.registry)
    if ring is not None:
        yield f"{ring.message}: no version of it is rolled out until one of these names is gone"
    yield from _absent(view, key, spec)
    yield from _pin(view, request, spec)


def followed(view: View, request: Request) -> Iterator[str]:
    """Who will miss a registry that is deleted."""
    for namespace, name in sorted(view.followers((request.namespace, request.name)))[:3]:
        yield f"{namespace}/{name} names this registry as its fallback or dependency: change that one, too"


def _absent(view: View, key: Key, spec: Spec) -> Iterator[str]:
    namespace, _name = key
    for index, each in enumerate(spec.depends_on):
        if view.registry((namespace, each.name)) is None:
            yield (
                f"spec.dependsOn[{index}].name: {each.name!r}: there is no such ConfigRegistry in {namespace}: no "
                "rollout starts until there is one"
            )
    if spec.fallback is not None and view.registry((namespace, spec.fallback.name)) is None:
        yield (
            f"spec.fallback.name: {spec.fallback.name!r}: there is no such ConfigRegistry in {namespace}: until there "
            "is one, keys are looked for in this one alone"
        )
    for index, source in enumerate(spec.data_from):
        name = source.config_map_ref.name
        if not source.config_map_ref.optional and view.configmap((namespace, name)) is None:
            yield (
                f"spec.dataFrom[{index}].configMapRef.name: {name!r}: there is no such ConfigMap in {namespace}: new "
                "content waits until there is one"
            )
    if spec.project is not None:
        target = view.configmap((namespace, spec.project.config_map))
        registry = view.registry(key)
        if target is not None and not (registry is not None and target.meta.owned_by(registry.meta.uid)):
            yield (
                f"spec.project.configMap: {spec.project.config_map!r}: exists and does not belong to this registry: it "
                "is never written over: choose another name, or delete it"
            )


def _pin(view: View, request: Request, spec: Spec) -> Iterator[str]:
    number, new = spec.pinned_version, request.new
    if number is None or new is None:
        return
    status = _status(new)
    if status.stable is None or status.stable.version != number:
        revision = view.revision((request.namespace, version_name(request.name, number)))
        if revision is None or revision.owner_uid != new.meta.uid:
            yield f"spec.pinnedVersion: {number}: there is no such version: nothing changes: name one that is recorded"
        elif revision.hash in status.rejected_hashes:
            yield (
                f"spec.pinnedVersion: {number}: this version was rejected, so nothing changes: annotate "
                "configregistry.dev/command-retry for it first"
            )
    before = _spec(request.old)
    if before is not None and (before.data, before.data_from) != (spec.data, spec.data_from):
        yield f"spec.pinnedVersion: {number}: stays served: new content is rolled out once this field is removed"


class _Version(msgspec.Struct, frozen=True):
    version: int = 0


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    stable: _Version | None = None
    rejected_hashes: tuple[str, ...] = ()


_STATUS: Final = msgspec.json.Decoder(_Status)


def _status(found: RegistryObject) -> _Status:
    try:
        return _STATUS.decode(found.status or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _Status()


def _spec(found: RegistryObject | None) -> Spec | None:
    try:
        return parse_spec(found.spec) if found is not None else None
    except FieldError:
        return None
