"""Which change of which object queues which registry. Names only; nothing is read or decided here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from configregistry.kube.objects import MetaObject, RegistryObject, RevisionObject
from configregistry.model.spec import Spec
from configregistry.reconcile.cluster import VersionIndex
from configregistry.reconcile.memory import Key
from configregistry.reconcile.queue import WorkQueue
from configregistry.reconcile.sources import sources_of

Followed = tuple[str, str, str]
"""What a registry depends on: "registry" or "configmap", namespace, name."""


class Triggers:
    """Turns changes into names in the queue, once `open`ed: before that, all is listed first."""

    def __init__(self, queue: WorkQueue[Key], versions: VersionIndex) -> None:
        self._queue = queue
        self._versions = versions
        self._open = False
        self._follows: dict[Key, frozenset[Followed]] = {}
        self._followers: defaultdict[Followed, set[Key]] = defaultdict(set)

    def open(self, registries: Iterable[Key]) -> None:
        """Everything has been listed: queue all registries, and each change from now on."""
        self._open = True
        for key in registries:
            self._queue.add(key)

    def named(self, namespace: str, name: str) -> None:
        """Kopf has heard of a registry."""
        if self._open:
            self._queue.add((namespace, name))

    def registry_changed(self, key: Key, old: RegistryObject | None, new: RegistryObject | None) -> None:
        """A ConfigRegistry came, changed or went."""
        self.named(*key)
        if (old and old.status) != (new and new.status):
            self._wake(("registry", *key))

    def revision_changed(self, key: Key, old: RevisionObject | None, new: RevisionObject | None) -> None:
        """A version came or went."""
        registry = self._versions.changed(key, old, new)
        if registry is not None and (old is None or new is None):
            self.named(*registry)

    def configmap_changed(self, key: Key, _old: MetaObject | None, _new: MetaObject | None) -> None:
        """A ConfigMap came, changed or went."""
        self._wake(("configmap", *key))

    def follow(self, key: Key, spec: Spec | None) -> None:
        """Remember what a registry depends on, so that a change of that queues it; None: the registry is gone."""
        follows: frozenset[Followed] = frozenset()
        if spec is not None:
            sources = {("configmap", key[0], name) for name in sources_of(spec)}
            follows = frozenset(sources | {("registry", key[0], each.name) for each in spec.depends_on})
        before = self._follows.get(key, frozenset())
        if follows == before:
            return
        for gone in before - follows:
            self._followers[gone].discard(key)
            if not self._followers[gone]:
                del self._followers[gone]
        for new in follows - before:
            self._followers[new].add(key)
        if follows:
            self._follows[key] = follows
        else:
            self._follows.pop(key, None)

    def _wake(self, changed: Followed) -> None:
        for key in self._followers.get(changed, ()):
            self.named(*key)
