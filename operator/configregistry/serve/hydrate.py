"""From Kubernetes' objects to the published state: what each status names, once it is here.

Follows ConfigRegistry (the status, never the spec: the spec is what somebody wishes) and
ControllerRevision. An event only marks a name; `flush` works the marked names off, so many events
about one registry cost one turn, and nothing ever looks at all registries.

The rules, for each registry by itself:
- A status is published only together with all content that it names, hash checked.
- Until then a candidate that the status no longer names is dropped at once (that is a rollback, and
  needs nothing that is not here), and the former stable stays, under the former revision.
- A revision never goes back under one uid, and a status that cannot be read is not followed. Where etcd was restored
  (`relent`) and no controller has put back what it knows, what there is now is followed all the same.
- Another uid is another registry: it starts anew, and its predecessor is gone.

It must never publish content that was not checked, never let one registry hold up another, never do
I/O, and never take an answer's lack for an absence: only `answered(…, None)` says that.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Final

import structlog

from configregistry.clock import Clock
from configregistry.kube.objects import Key, RegistryObject, RevisionObject
from configregistry.serve.contents import History, Recorded, named_by, open_content
from configregistry.serve.gather import Pending, gather, pruned, without_dropped
from configregistry.serve.traces import Traces
from configregistry.serve.wanted import Unreadable, Wanted, read_status
from configregistry.state import Registry, Snapshot, Store, Version
from configregistry.telemetry import tracing
from configregistry.telemetry.metrics import Metrics, Shown

Ask = Callable[[Key, str, int], None]
"""Called with a registry's key, its uid and a version: somebody shall GET it by name."""

Published = Callable[[Snapshot, Snapshot, Collection[Key]], None]
"""Called with the state before, the state now, and the registries that differ."""

COMPONENT: Final = "serve"
SLICE: Final = 0.005
"""Seconds of one flush: reads wait for no longer than this."""

_log = structlog.get_logger(__name__)


class Hydrator:
    """Fills `store`. All of it runs in one thread; `wake` is called when there is work to flush."""

    def __init__(
        self,
        registries: Mapping[Key, RegistryObject],
        revisions: Mapping[Key, RevisionObject],
        *,
        metrics: Metrics,
        clock: Clock,
        ask: Ask,
        wake: Callable[[], None],
        store: Store | None = None,
    ) -> None:
        self.store = store or Store()
        self._registries = registries
        self._revisions = revisions
        self._metrics = metrics
        self._clock = clock
        self._ask = ask
        self._wake = wake
        self._dirty: OrderedDict[Key, float] = OrderedDict()
        self._pending: dict[Key, Pending] = {}
        self._refused: dict[Key, tuple[str, str]] = {}
        self._behind: dict[Key, bool] = {}
        """Whose status is behind what is served; True: it is to be followed all the same."""
        self._distrusted: dict[Key, str] = {}
        self._failures = 0
        self._awaited: set[Key] | None = None
        self._history = History(revisions)
        self._listeners: list[Published] = []
        self.traces = Traces()
        """Which traces the publications belong to."""

    # What reads are answered from.

    def snapshot(self) -> Snapshot:
        """Give the published state."""
        return self.store.snapshot()

    @property
    def ready(self) -> bool:
        """Whether every object listed at the start is published or known to lack its content."""
        return self._awaited is not None and not self._awaited

    def waits(self) -> str | None:
        """Say what readiness waits for; None once it waits for nothing."""
        if self._awaited is None:
            return "the first lists"
        if not self._awaited:
            return None
        some = ", ".join("/".join(key) for key in islice(self._awaited, 5))
        return f"{len(self._awaited)} registries to be published, such as {some}"

    def lacking(self, namespace: str, name: str) -> int | None:
        """Give the version that the status names and whose content is not in memory."""
        pending = self._pending.get((namespace, name))
        return next(iter(pending.lacking), None) if pending is not None else None

    def history(self, namespace: str, registry: Registry, number: int) -> Version | None:
        """Give a recorded version, decoded for the occasion if need be."""
        return self._history.get(namespace, registry, number)

    def recorded(self, namespace: str, registry: Registry) -> list[Recorded]:
        """Give all versions that there are of a registry, the newest number first."""
        return self._history.recorded(namespace, registry)

    def subscribe(self, told: Published) -> None:
        """Tell of each publication from now on, right behind it."""
        self._listeners.append(told)

    # What happens.

    def begin(self) -> None:
        """Both kinds of objects have been listed: work off all of them, and follow from here."""
        self._awaited = set(self._registries)
        for key in self._awaited:
            self._mark(key)
        self._wake()  # what the first lists marked has woken nobody: there was nothing to flush yet

    def registry_changed(self, key: Key, _old: object = None, _new: object = None) -> None:
        """Note that a ConfigRegistry came, changed or went."""
        self._mark(key)

    def revision_changed(self, key: Key, _old: object = None, _new: object = None) -> None:
        """Note that a ControllerRevision came or went: `<registry>-<number>`."""
        namespace, name = key
        registry, number = named_by(name)
        if number:
            self._history.noted(namespace, registry, number)
            self._mark((namespace, registry))

    def answered(self, key: Key, uid: str, number: int, found: RevisionObject | None) -> None:
        """Take the answer of a GET by name; None is 404, and nothing else may be told as None."""
        pending = self._pending.get(key)
        if pending is None or pending.uid != uid or number not in pending.lacking:
            return
        named = next(named for named in pending.wanted.named() if named.number == number)
        if found is not None and open_content(found, uid, named) is not None:
            pending.found[number] = found
            self._mark(key)
        elif not pending.lacking[number]:
            pending.lacking[number] = True
            reason = "version-missing" if found is None else "version-damaged"
            self._failed(reason)
            _log.error(
                "content is not to be had",
                reason=reason,
                namespace=key[0],
                registry=key[1],
                version=number,
                hash=named.hash,
            )
            self._settle(key)

    def relent(self) -> None:
        """The API server was restored some time ago: statuses that went back with it are what there is."""
        for key in self._behind:
            self._behind[key] = True
            self._mark(key)

    def lacks(self, key: Key, uid: str, number: int) -> bool:
        """Tell whether somebody should go on asking for this content."""
        pending = self._pending.get(key)
        return pending is not None and pending.uid == uid and number in pending.lacking

    def astray(self, key: Key) -> str | None:
        """Say how what is published differs from what it follows, where nothing is under way that would mend it."""
        if self._awaited is None or not self.settled(key):
            return None
        item, served = self._registries.get(key), self.store.snapshot().registry(*key)
        if item is None:
            return None if served is None else "it was deleted, and is still served"
        if served is None or served.uid != item.meta.uid:
            return "it is not served"
        if key in self._refused:
            return None
        try:
            met = read_status(item.status, item.meta.uid).met_by(served)
        except Unreadable:
            return None
        return None if met else "another decision is served than its status says"

    def again(self, key: Key, distrusted: str = "") -> None:
        """Follow a registry anew. `distrusted`: the uid of it whose content in memory is not what was recorded.

        That is then taken from its ControllerRevisions; until it is there, what is served stays.
        """
        if distrusted:
            self._distrusted[key] = distrusted
        self._mark(key)

    def settled(self, key: Key) -> bool:
        """Tell whether nothing of a registry is under way: no turn, no question, nothing to be replaced."""
        return not (key in self._dirty or key in self._pending or key in self._distrusted)

    def flush(self, seconds: float = SLICE) -> bool:
        """Work off what is marked, for some time, and publish it at once. True: there is more."""
        if self._awaited is None or not self._dirty:
            return False
        started = time.perf_counter()
        before = self.store.snapshot()
        changes: dict[Key, Registry | None] = {}
        turned: dict[Key, float] = {}
        failures = self._failures
        self._metrics.stage(COMPONENT, "loading")
        while self._dirty and (not turned or time.perf_counter() - started < seconds):
            key, since = self._dirty.popitem(last=False)
            pending = self._pending.get(key)
            turned[key] = since if pending is None else min(since, pending.since)
            served = before.registry(*key)
            new = self._turn_safely(key, served, since)
            if new is not served:
                changes[key] = new
        if changes:
            self._metrics.stage(COMPONENT, "switching")
            before = self._ended(before, changes)
            now = self.store.publish(before, changes)
            self._metrics.switched(COMPONENT, time.perf_counter() - started)
            if tracing.on() and self.ready:
                elapsed = self._clock.monotonic()
                for key, new in changes.items():
                    self.traces.published(key, self._registries.get(key), new, elapsed - turned[key])
            self._tell(before, now, changes)
        self._metrics.stage(COMPONENT, "success" if failures == self._failures else "failed")
        for key, since in turned.items():
            if key in changes:
                self._told(key, before.registry(*key), changes[key], since)
            self._settle(key)
        return bool(self._dirty)

    def _ended(self, before: Snapshot, changes: Mapping[Key, Registry | None]) -> Snapshot:
        """End what goes back: to whoever follows it, it was deleted and begins anew. No read comes in between."""
        ended: dict[Key, Registry | None] = {}
        for key, new in changes.items():
            served = before.registry(*key)
            if served is not None and new is not None and served.uid == new.uid and new.revision < served.revision:
                ended[key] = None
        if not ended:
            return before
        now = self.store.publish(before, ended)
        self._tell(before, now, ended)
        return now

    # One registry.

    def _turn_safely(self, key: Key, served: Registry | None, since: float) -> Registry | None:
        """Never let a registry that breaks something hold up the others: it stays as it is."""
        try:
            return self._turn(key, served, since)
        except Exception:  # noqa: BLE001 - see above
            self._failed("error")
            _log.exception("a registry could not be followed", namespace=key[0], registry=key[1])
            return served

    def _turn(self, key: Key, served: Registry | None, since: float) -> Registry | None:
        """Work out what a registry gives from now on."""
        namespace, name = key
        item = self._registries.get(key)
        if item is None:
            self._pending.pop(key, None)
            self._refused.pop(key, None)
            self._behind.pop(key, None)
            self._distrusted.pop(key, None)
            return None
        uid = item.meta.uid
        served_here = Registry(name, uid)
        if served is not None and served.uid == uid:
            served_here = served
        pending = self._pending.get(key)
        if pending is not None and pending.uid != uid:
            del self._pending[key]
            pending = None
        wanted = self._accept(key, item, served_here, pending)
        if wanted is not None:
            # A step may begin without anything else changing for readers.
            self._metrics.step(*key, wanted.canary.step if wanted.canary else None)
        distrusted = self._distrusted.get(key) == uid
        if wanted is None or (wanted.met_by(served_here) and not distrusted):
            self._pending.pop(key, None)
            return pruned(self._revisions, namespace, served_here)
        found = pending.found if pending is not None else {}
        # What is distrusted gives nothing to its successor, not even what seems equal.
        held = Registry(name, uid) if distrusted else served_here
        new, lacking = gather(self._revisions, namespace, held, wanted, found)
        if not lacking:
            self._pending.pop(key, None)
            self._distrusted.pop(key, None)
            return pruned(self._revisions, namespace, wanted.decide(new))
        self._wait(key, uid, wanted, lacking, since)
        return pruned(self._revisions, namespace, without_dropped(served_here, wanted))

    def _accept(self, key: Key, item: RegistryObject, served: Registry, pending: Pending | None) -> Wanted | None:
        """Give the newest status that may be followed, or None where what is served is it."""
        held = pending.wanted if pending is not None else None
        try:
            wanted = read_status(item.status, item.meta.uid)
        except Unreadable as error:
            self._refuse(key, item, "unreadable", str(error))
            return held
        newest = held.revision if held is not None else served.revision
        if wanted.revision < newest and not self._behind.setdefault(key, False):
            self._refuse(key, item, "revision-back", f"revision {wanted.revision} after {newest}")
            return held
        if wanted.stable is None and served.stable is not None:
            self._refuse(key, item, "no-stable", "names no stable version, but one is served")
            return held
        self._refused.pop(key, None)
        if self._behind.pop(key, False):
            _log.warning("followed back", namespace=key[0], registry=key[1], revision=wanted.revision, after=newest)
        return wanted

    def _refuse(self, key: Key, item: RegistryObject, reason: str, detail: str) -> None:
        """Count and say, once for each state of the object, that it is not followed."""
        told = (item.meta.uid, item.meta.resource_version)
        if self._refused.get(key) != told:
            self._refused[key] = told
            self._failed(reason)
            _log.error(
                "status is not followed",
                namespace=key[0],
                registry=key[1],
                reason=reason,
                detail=detail,
            )

    def _wait(self, key: Key, uid: str, wanted: Wanted, lacking: list[int], since: float) -> None:
        """Remember a status until its content is here, and have somebody ask for that by name."""
        former = self._pending.get(key)
        pending = Pending(uid, wanted, since)
        if former is not None:
            pending.found = former.found
            if former.wanted.revision == wanted.revision:
                pending.since = former.since
        self._pending[key] = pending
        for number in lacking:
            asked = former is not None and number in former.lacking
            pending.lacking[number] = former.lacking[number] if former and asked else False
            if not asked:
                self._ask(key, uid, number)

    # Afterwards.

    def _mark(self, key: Key) -> None:
        if key not in self._dirty:
            self._dirty[key] = self._clock.monotonic()
            self._wake()

    def _told(self, key: Key, before: Registry | None, now: Registry | None, since: float) -> None:
        """Bring the metrics up to date with what was published."""
        if now is None:
            self._metrics.forget(*key)
            return
        canary = now.canary
        shown = Shown(
            revision=now.revision,
            stable=now.stable.number if now.stable is not None else 0,
            canary=canary.version.number if canary else 0,
            weight=canary.weight if canary else 0,
            versions=len(now.versions),
            size=sum(version.size for version in now.versions.values()),
        )
        self._metrics.show(*key, shown)
        if before is None or (before.uid, before.revision) != (now.uid, now.revision):
            self._metrics.loaded(*key, self._clock.monotonic() - since)

    def _tell(self, before: Snapshot, now: Snapshot, changed: Collection[Key]) -> None:
        """Tell the listeners; a defect of one is not another's, and is no reason to stop following."""
        for told in self._listeners:
            try:
                told(before, now, changed)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("a listener failed at a publication")

    def _failed(self, reason: str) -> None:
        self._failures += 1
        self._metrics.failed(COMPONENT, reason)

    def _settle(self, key: Key) -> None:
        if self._awaited and key in self._awaited:
            pending = self._pending.get(key)
            if pending is None or pending.known:
                self._awaited.discard(key)
