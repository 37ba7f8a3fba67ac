"""What a registry becomes when it follows a status, as pure functions of what is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from configregistry.kube.objects import Key, RevisionObject
from configregistry.model.names import version_name
from configregistry.serve.contents import open_content
from configregistry.serve.wanted import Named, Wanted
from configregistry.state import Registry


@dataclass(slots=True)
class Pending:
    """A status that waits for content."""

    uid: str
    wanted: Wanted
    since: float
    lacking: dict[int, bool] = field(default_factory=dict)
    """By version: True once a GET by name answered 404 (or something that is not it)."""
    found: dict[int, RevisionObject] = field(default_factory=dict)
    """What such a GET gave, where the watch has not (yet)."""

    @property
    def known(self) -> bool:
        """Whether it is known that the content does not exist."""
        return bool(self.lacking) and all(self.lacking.values())


def gather(
    revisions: Mapping[Key, RevisionObject],
    namespace: str,
    served: Registry,
    wanted: Wanted,
    found: Mapping[int, RevisionObject],
) -> tuple[Registry, list[int]]:
    """Bring all content together that a status names; give the versions that lack it as well.

    `found` is what was got by name, where the watch has not brought it (yet).
    """
    names = wanted.named()
    lacking = []
    new = served
    if any(n.number in new.versions and new.versions[n.number].hash != n.hash for n in names):
        # A number came again with other content: a hand was in it. Nothing old is kept.
        new = Registry(served.name, served.uid)
    for named in names:
        if named.number in new.versions:
            continue
        watched = revisions.get((namespace, version_name(new.name, named.number)))
        for revision in (watched, found.get(named.number)):
            if revision is None:
                continue
            content = open_content(revision, new.uid, named)
            if content is not None:
                new = new.record(named.number, named.hash, content, parent=revision.parent or None)
                break
        else:
            lacking.append(named.number)
    return new, lacking


def without_dropped(served: Registry, wanted: Wanted) -> Registry:
    """Take the candidate away if the status no longer names it, and change nothing else."""
    canary = served.canary
    if canary is None or Named(canary.version.number, canary.version.hash) in wanted.named():
        return served
    return replace(served, canary=None)


def pruned(revisions: Mapping[Key, RevisionObject], namespace: str, registry: Registry) -> Registry:
    """Forget history whose ControllerRevision is gone. What is served stays."""
    for number in registry.versions:
        revision = revisions.get((namespace, version_name(registry.name, number)))
        if revision is None or not revision.meta.owned_by(registry.uid):
            registry = registry.forget(number)
    return registry
