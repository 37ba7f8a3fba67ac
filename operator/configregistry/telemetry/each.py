"""What exists once per ConfigRegistry: a few small values, made into series only when somebody scrapes.

10,000 of prometheus_client's own histograms would take 40 MB. A registry that is forgotten has no series from then
on, and with `each` off nothing is labelled by a registry's name.

Values are pushed by the event loop and read by another thread, so whatever is read is copied first. It must never
know what a registry is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from configregistry.telemetry.names import LOAD_BUCKETS, METRICS, OTHER, READY, REASONS
from configregistry.telemetry.text import Family, Spread

Key = tuple[str, str]
"""Namespace and name."""


class Shown(NamedTuple):
    """What one registry gives at present. 0 means there is none."""

    revision: int = 0
    stable: int = 0
    canary: int = 0
    weight: int = 0
    versions: int = 0
    """How many of its versions are in memory."""
    size: int = 0
    """Bytes of keys and values of all of these, each counted whole."""


class Served:
    """What serve gives of each registry, and how long it took to load it."""

    def __init__(self, env: str, cluster: str, *, each: bool) -> None:
        self._place = (env, cluster)
        self._each = each
        self._shown: dict[Key, Shown] = {}
        self._steps: dict[Key, int] = {}
        self._loads: dict[Key, _Loads] = {}

    def show(self, key: Key, shown: Shown) -> None:
        """Tell what a registry gives."""
        self._shown[key] = shown

    def step(self, key: Key, step: int | None) -> None:
        """Tell the step of its candidate; None: it has none."""
        if step is None:
            self._steps.pop(key, None)
        else:
            self._steps[key] = step

    def load(self, key: Key, seconds: float) -> None:
        """Observe a load."""
        # Without series for each registry all of them are told in one, whose labels are empty.
        place = key if self._each else ("", "")
        loads = self._loads.get(place)
        if loads is None:
            loads = self._loads[place] = _Loads()
        loads.observe(seconds)

    def forget(self, key: Key) -> None:
        """It does not exist any more."""
        self._shown.pop(key, None)
        self._steps.pop(key, None)
        if self._each:
            self._loads.pop(key, None)

    def gives(self, key: Key, version: int) -> bool:
        """Whether anybody is given this version."""
        shown = self._shown.get(key)
        return shown is not None and version in (shown.stable, shown.canary)

    def families(self) -> Iterator[Family]:
        """All of it."""
        shown, place = list(self._shown.items()), self._place
        versions, size = sum(each.versions for _, each in shown), sum(each.size for _, each in shown)
        yield Family(METRICS["configregistry_snapshot_versions"], [((), versions)])
        yield Family(METRICS["configregistry_snapshot_bytes"], [((), size)])
        if self._each:
            yield from self._gauges(shown)
        loads = list(self._loads.items())
        yield Family(
            METRICS["registry_load_duration_seconds"],
            (((*place, *key), Spread(each.counts.copy(), each.total)) for key, each in loads),
        )

    def _gauges(self, shown: list[tuple[Key, Shown]]) -> Iterator[Family]:
        variants = (
            ((*self._place, *key, variant), number)
            for key, each in shown
            for variant, number in (("stable", each.stable), ("canary", each.canary))
            if number
        )
        yield Family(METRICS["registry_version_active"], variants)
        yield Family(METRICS["configregistry_revision"], ((key, each.revision) for key, each in shown))
        weights = ((key, each.weight) for key, each in shown if each.canary)
        yield Family(METRICS["configregistry_canary_weight"], weights)
        yield Family(METRICS["configregistry_rollout_step"], list(self._steps.items()))


class Standings:
    """Where each registry stands, as the one who decides sees it."""

    def __init__(self, *, each: bool) -> None:
        self._each = each
        self._reasons: dict[Key, str] = {}
        self.told = False
        """Only one process says it: what another one saw before it lost its office is not so any more."""

    def stand(self, key: Key, reason: str) -> None:
        """Tell where a registry stands; empty: nobody has decided yet."""
        if reason:
            self._reasons[key] = reason if reason in REASONS else OTHER
        else:
            self._reasons.pop(key, None)

    def forget(self, key: Key) -> None:
        """It does not exist any more."""
        self._reasons.pop(key, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._reasons.clear()

    def families(self) -> Iterator[Family]:
        """All of it, where there is any."""
        reasons = list(self._reasons.items()) if self.told else []
        counts = Counts(dict.fromkeys(REASONS, 0) if self.told else {})
        counts.update(reason for _, reason in reasons)
        yield Family(METRICS["configregistry_registries"], [((reason,), number) for reason, number in counts.items()])
        if self._each:
            not_ready = [((*key, reason), 1) for key, reason in reasons if reason not in READY]
            yield Family(METRICS["configregistry_not_ready"], not_ready)


class Consumers:
    """Live consumers by what they observed, asked for when somebody scrapes.

    A consumer says which version it runs with, and may say any number: only those that somebody is given have
    series of their own.
    """

    def __init__(self, gives: Callable[[Key, int], bool], *, each: bool) -> None:
        self._gives = gives
        self._each = each
        self.counts: Callable[[], Iterable[tuple[str, str, int, str, int]]] = tuple

    def families(self) -> Iterator[Family]:
        """All of it."""
        # Without series for each registry a version's number says nothing, so it is left out as well.
        sums: Counts[tuple[str, str, str, str]] = Counts()
        for namespace, name, version, status, number in self.counts():
            place = ("", "", "")
            if self._each:
                place = (namespace, name, self._told((namespace, name), version))
            sums[(*place, status)] += number
        yield Family(METRICS["configregistry_consumers"], sums.items())

    def _told(self, key: Key, version: int) -> str:
        if not version:
            return ""
        return str(version) if self._gives(key, version) else OTHER


class HotKeys:
    """The few keys that are read most, asked for when somebody scrapes."""

    def __init__(self, *, each: bool) -> None:
        self._each = each
        self.hottest: Callable[[], Iterable[tuple[str, str, str, float, float]]] = tuple

    def families(self) -> Iterator[Family]:
        """All of it."""
        hot = [((namespace, name, key), rate, slow) for namespace, name, key, rate, slow in self.hottest()]
        yield Family(METRICS["configregistry_hot_keys"], [((), len(hot))])
        if self._each:
            yield Family(METRICS["configregistry_hot_key_rate"], [(place, rate) for place, rate, _ in hot])
            yield Family(METRICS["configregistry_hot_key_slow_ratio"], [(place, slow) for place, _, slow in hot])


class _Loads:
    """One registry's load histogram: eight counts and a sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LOAD_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LOAD_BUCKETS, seconds)] += 1
        self.total += seconds
