"""Which change of which object queues which registry. Names only; nothing is read or decided here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from configregistry.kube.objects import MetaObject, PolicyObject, RegistryObject, RevisionObject
from configregistry.reconcile.cluster import VersionIndex
from configregistry.reconcile.links import Followed, standing_of
from configregistry.reconcile.memory import Key
from configregistry.reconcile.policies import labelled
from configregistry.reconcile.queue import WorkQueue


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
        changed: Followed = ("registry", *key)
        # Read only where somebody waits: a status changes often, and few follow it.
        if self._followers.get(changed) and standing_of(old) != standing_of(new):
            self._wake(changed)

    def revision_changed(self, key: Key, old: RevisionObject | None, new: RevisionObject | None) -> None:
        """A version came or went."""
        registry = self._versions.changed(key, old, new)
        if registry is not None and (old is None or new is None):
            self.named(*registry)

    def configmap_changed(self, key: Key, _old: MetaObject | None, _new: MetaObject | None) -> None:
        """A ConfigMap came, changed or went."""
        self._wake(("configmap", *key))

    def policy_changed(self, key: Key, old: PolicyObject | None, new: PolicyObject | None) -> None:
        """A RolloutPolicy came, changed or went. Its labels and annotations mean nothing to anybody here."""
        if old is None or new is None or old.spec != new.spec:
            self._wake(("policy", *key))

    def namespace_changed(self, key: Key, old: MetaObject | None, new: MetaObject | None) -> None:
        """A namespace came, changed or went: only the policy that it names counts."""
        if labelled(old) != labelled(new):
            self._wake(("namespace", *key))

    def follow(self, key: Key, follows: frozenset[Followed]) -> None:
        """Remember what a registry depends on, so that a change of that queues it.

        To be called before it is read: a change that comes while it is being read must not be missed.
        """
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
