"""The served state in memory: namespace -> registry -> version -> key. Pure: no I/O, clock, thread.

Readers, in any thread, without locks:

    snapshot = store.snapshot()                     # one consistent state, held as long as needed
    registry = snapshot.registry("shop", "checkout")        # Registry | None
    snapshot.namespace("shop")                      # PMap name -> Registry; `for ns, r in snapshot`
    snapshot.generation                             # +1 with each publication
    registry.name .uid .revision .fallback          # fallback: a name in the same namespace | None
    registry.stable                                 # Version | None
    registry.canary                                 # Canary(version, weight, seed, match) | None
    registry.versions[7]                            # Mapping number -> Version, ascending, bounded
    registry.diff(old_version, new_version)         # net Changes in O(changes), ordered by key
    version.number .hash .size .parent .changes     # changes: against the parent (a number | None)
    version.get("timeout.ms")                       # canonical JSON text as bytes | None
    "timeout.ms" in version; len(version)
    version.scan(prefix="", start=None, end=None, after=None)   # ordered (key, bytes), lazily
    version.content()                               # ordered dict of all
    version.index.scan(prefix=…)                    # ordered keys alone

The writer (hydration):

    before = store.snapshot()
    registry = before.registry(ns, name) or Registry(name, uid)
    registry = registry.record(8, hash, {"timeout.ms": b"2500"}, parent=7)     # any order
    registry = registry.decide(revision=31, stable=7, fallback=None,
        canary=Canary(registry.versions[8], 50, seed, (Match("region", ("eu",)),)))
    registry = registry.forget(3)                   # its ControllerRevision was deleted
    store.publish(before, {(ns, name): registry, (ns, "deleted"): None})

`record` raises VersionDiffers (a number came again with another hash), `decide` UnknownVersion
(content not held); `publish` raises RevisionConflict (take a new snapshot, decide again) and
RevisionWentBack (same uid, lower revision). Whatever raises has changed nothing. A registry of
another uid starts from `Registry(name, uid)`, never from its namesake.

Never compare versions by identity: pruning may replace a Version by an equal one that counts its
changes from another parent. (uid, number) names content; `a.data is b.data` says it is the same.

It must never import what decides (rollout), talks (kube, serve) or waits.
"""

from configregistry.state.changes import Change, Changes, apply, compare, compose, invert
from configregistry.state.ordered import OrderedKeys
from configregistry.state.registry import (
    HISTORY_LIMIT,
    Canary,
    Match,
    Registry,
    UnknownVersion,
    VersionDiffers,
)
from configregistry.state.store import (
    Namespace,
    RevisionConflict,
    RevisionWentBack,
    Snapshot,
    Store,
)
from configregistry.state.version import Version

__all__ = [
    "HISTORY_LIMIT",
    "Canary",
    "Change",
    "Changes",
    "Match",
    "Namespace",
    "OrderedKeys",
    "Registry",
    "RevisionConflict",
    "RevisionWentBack",
    "Snapshot",
    "Store",
    "UnknownVersion",
    "Version",
    "VersionDiffers",
    "apply",
    "compare",
    "compose",
    "invert",
]
