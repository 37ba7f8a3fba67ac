"""Where one consumer stands in one registry, and how to get from there to somewhere else. Pure.

A `Standing` is a position (numbers: comparable, and what cursors are made of) with the view that it stands for.

It must never say that something is gone where it is only not known at present.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from configregistry.kube.objects import Key
from configregistry.serve.responses import Problem
from configregistry.serve.view import Consumer, Given, View, Views
from configregistry.serve.watch.cursor import UNKNOWN, Link, Position, mark
from configregistry.serve.watch.past import Moment, Past
from configregistry.state import Change, Changes, Registry, Snapshot

_GONE: Final = {"RegistryNotFound", "NamespaceNotFound"}
_EMPTY: Final = "NoVersion"

Kind = Literal["snapshot", "delta", "deleted"]


class Standing(NamedTuple):
    """What a consumer has of one registry."""

    position: Position
    view: View | None
    """None: it has nothing, or something whose content is not to be had here."""

    @property
    def gives(self) -> bool:
        """Whether the consumer holds data."""
        return bool(self.position and self.position[0].version)


NOWHERE: Final = Standing(UNKNOWN, None)


class Lag(NamedTuple):
    """How a replica stands to what a client has seen."""

    behind: bool
    """The client has seen more: nothing may be sent until this replica has as well."""
    doubtful: bool
    """The client has seen a registry that this replica has never heard of: it is gone, or still to come."""


def stand(views: Views, past: Past, at: Moment, key: Key, consumer: Consumer) -> Standing | None:
    """Give where the consumer stands at a moment; None where that is not known."""
    namespace, name = key

    def link(name: str, registry: Registry | None, given: Given | None) -> Link:
        key = (namespace, name)
        if registry is None:
            return Link(name, b"", past.former(key), 0, 0, b"", canary=False, dropped=False)
        return Link(
            name,
            mark(registry.uid),
            past.former(key, mark(registry.uid)),
            registry.revision,
            given.version.number if given is not None else 0,
            mark(given.version.hash) if given is not None else b"",
            canary=given is not None and given.variant == "canary",
            dropped=key in at.dropped,
        )

    try:
        view = views.of(at.snapshot, namespace, name, consumer)
    except Problem as problem:
        if problem.name in _GONE:
            return Standing((link(name, None, None),), None)
        if problem.name == _EMPTY:
            return Standing((link(name, at.snapshot.registry(*key), None),), None)
        return None
    given = {each.registry.name: each for each in (view.given, *view.links)}
    links = [link(met.name, met, given.get(met.name)) for met in view.met]
    if len(view.names) > len(view.met):
        links.append(link(view.names[-1], None, None))
    return Standing(tuple(links), view)


def recall(views: Views, now: Snapshot, namespace: str, position: Position) -> Standing:
    """Give a position that a client told of with its content, as far as that is (still) to be had."""
    given = []
    for link in position:
        if not link.version:
            continue
        registry = now.registry(namespace, link.name)
        if registry is None or mark(registry.uid) != link.uid:
            return Standing(position, None)
        version = views.source.history(namespace, registry, link.version)
        if version is None or mark(version.hash) != link.hash:
            return Standing(position, None)
        given.append(Given(registry, version, variant(link)))
    if not given or not position[0].version:
        return Standing(position, None)
    return Standing(position, View(given[0], tuple(given[1:]), ()))


def lag(past: Past, now: Snapshot, namespace: str, position: Position) -> Lag:
    """Tell whether a client has seen something that is not here yet."""
    doubtful = False
    for link in position:
        key = (namespace, link.name)
        registry = now.registry(*key)
        uid = mark(registry.uid) if registry is not None else b""
        if uid and uid == link.former and not past.buried(key, uid):
            return Lag(behind=True, doubtful=False)
        if not link.uid:
            continue
        if registry is None:
            doubtful = doubtful or not past.buried(key, link.uid)
        elif uid == link.uid and (registry.revision, key in past.dropped) < (link.revision, link.dropped):
            if past.buried(key, uid, link.revision):
                continue
            return Lag(behind=True, doubtful=False)
    return Lag(behind=doubtful, doubtful=doubtful)


def kind(before: Standing, after: Standing) -> Kind | None:
    """Give what a consumer has to be sent to get from one standing to the other; None: nothing but where it is."""
    if not after.gives:
        return "deleted" if before.gives else None
    if not before.gives or before.view is None or after.view is None:
        return "snapshot"
    return "delta" if before.position[0].uid == after.position[0].uid else "snapshot"


def changes(now: Snapshot, namespace: str, before: Standing, after: Standing) -> Changes | None:
    """Give what a delta has to say; None: this consumer's view has not changed."""
    if before.view is None or after.view is None:
        return None
    found = differ(now, namespace, before.view, after.view)
    was, is_ = before.position[0], after.position[0]
    same = (was.version, was.hash, was.canary) == (is_.version, is_.hash, is_.canary)
    return None if same and not found else found


def differ(now: Snapshot, namespace: str, before: View, after: View) -> Changes:
    """Give what differs for a reader of the whole: looks only at keys that changed in a registry of the chain."""
    old = {each.registry.name: each for each in (before.given, *before.links)}
    new = {each.registry.name: each for each in (after.given, *after.links)}
    if len(old) == len(new) == 1 and old.keys() == new.keys():
        return _diff(now, namespace, before.given, after.given)
    keys: set[str] = set()
    for name in old.keys() | new.keys():
        a, b = old.get(name), new.get(name)
        if a is not None and b is not None:
            keys.update(change.key for change in _diff(now, namespace, a, b))
        elif (each := a or b) is not None:
            keys.update(each.version.data)
    # The order of the chain may have changed as well; then what was hidden is looked at too.
    if [name for name in old if name in new] != [name for name in new if name in old]:
        keys.update(*(each.version.data for each in new.values()))
    found = ((key, before.find(key), after.find(key)) for key in sorted(keys))
    changes = (Change(key, a and a[0], b and b[0]) for key, a, b in found)
    return tuple(change for change in changes if change.old != change.new)


def variant(link: Link) -> str:
    """Name the variant that a link gives."""
    return "canary" if link.canary else "stable"


def _diff(now: Snapshot, namespace: str, before: Given, after: Given) -> Changes:
    registry = now.registry(namespace, after.registry.name) or after.registry
    return registry.diff(before.version, after.version)
