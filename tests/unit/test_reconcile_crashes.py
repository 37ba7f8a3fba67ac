"""Every request of a whole rollout fails once, in every way: the same outcome, nothing lost, nothing repeated.

The API server is a fake (reconcile_world), for no real one fails on demand between carrying a write out and
saying so. The same with real processes and a real API server: tests/integration/test_reconcile_kills.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace
from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, Fault, Process, VirtualLoop

from configregistry.kube.paths import REGISTRIES
from configregistry.model.status import Stable, Status
from configregistry.reconcile.belief import Belief, believed
from configregistry.reconcile.memory import Memory
from configregistry.rollout.machine import gives
from configregistry.rollout.observation import Verdict

T = TypeVar("T")
PAUSE, BAKE = 12.0, 5.0
FAULTS = ("kill-before", "kill-after", "lost-before", "lost-after", "refused", "conflict", "late", "later", "slow")
PLACES = 3
"""Of a status: stable, candidate, weight; then baking and how it waits."""


def played(main: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def spec(n: int) -> dict[str, Any]:
    return {
        "data": {"n": n},
        "rollout": {
            "steps": [
                {"setWeight": 20},
                {"pause": {"duration": f"{PAUSE:.0f}s"}},
                {"setWeight": 60},
                {"pause": {}},
            ],
            "bake": f"{BAKE:.0f}s",
            "checks": [{"name": "alive", "interval": "1s", "failureLimit": 1, "http": {"url": "http://a.b/"}}],
        },
    }


@dataclass
class Played:
    """A rollout that is over."""

    statuses: list[tuple[float, Status]]
    versions: dict[int, str]
    requests: list[str]
    fails: int
    took: float
    last: Status

    @property
    def outline(self) -> list[Any]:
        places = [place(status) for _, status in self.statuses]
        once = [each for each, before in zip(places, [None, *places], strict=False) if each != before]
        outcome = self.last.last_outcome
        return [*once, outcome and outcome.result, [each.version for each in self.last.rejected]]

    def stay(self, weight: int, *, baking: bool = False) -> float:
        """Seconds from the first write of a weight to the first of the next one."""
        began = next(
            at for at, s in self.statuses if s.canary and (s.canary.weight, s.canary.baking) == (weight, baking)
        )
        after = (at for at, s in self.statuses if at > began and place(s)[2:4] != (weight, baking))
        return next(after) - began


def place(status: Status) -> tuple[Any, ...]:
    canary = status.canary
    return (
        status.stable and status.stable.version,
        canary and canary.version,
        canary and canary.weight,
        canary and canary.baking,
        canary and canary.paused and canary.paused.by,
    )


async def rollout(fault: Fault | None, *, bad: bool) -> Played:
    """Version 1, then version 2 out by its steps, a person promoting; the fault counts from version 2 on."""
    api, checks = FakeApi(), Checks()
    loop = asyncio.get_running_loop()
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec(1)})
    process = Process(api, checks, 0.0)
    while api.status.stable is None:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    api.statuses.clear()
    api.requests.clear()
    api.fault = fault
    began = loop.time()
    api.edit(REGISTRY, spec=spec(2))
    quiet = 0
    while quiet < 200 and loop.time() < began + 400:
        await asyncio.sleep(0.05)
        if api.killed.is_set():
            await process.kill()
            api.killed.clear()
            process = Process(api, checks, loop.time() - 7)
        status = api.status
        if status.canary is not None and status.canary.weight == 60:
            if bad:
                checks.verdict = Verdict.FAIL
            elif status.canary.paused is not None:
                index = status.canary.current_step_index
                api.edit(REGISTRY, annotations={"configregistry.dev/command-promote": f"2:{index}:go"})
        quiet = quiet + 1 if status.canary is None and status.last_version == 2 else 0
    await process.kill()
    fails = sum(verdict is Verdict.FAIL for verdict in checks.made)
    return Played(api.statuses, api.versions(), api.requests, fails, loop.time() - began, api.status)


def judge(found: Played, wanted: Played, fault: Fault) -> None:
    assert found.outline == wanted.outline, fault
    assert found.versions == wanted.versions, fault
    for (_, before), (_, after) in pairwise(found.statuses):
        assert after.revision >= before.revision, fault
        if gives(after) != gives(before):
            assert after.revision > before.revision, fault
    assert found.last.revision == wanted.last.revision, fault
    assert found.stay(20) >= PAUSE, (fault, found.stay(20))
    assert found.took <= wanted.took + 14, (fault, found.took, wanted.took)
    if found.last.canary is None and not found.last.rejected:
        assert found.stay(100, baking=True) >= BAKE, fault
    elif fault.kind.startswith("kill"):
        assert wanted.fails <= found.fails <= wanted.fails + 1, (fault, found.fails)
    else:
        # Counted once each, whatever became of the write that counted them.
        assert found.fails == wanted.fails == 2, (fault, found.fails)


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
@pytest.mark.parametrize("kind", FAULTS)
def test_each_request_fails_once(kind: str, bad: bool) -> None:
    wanted = played(rollout(None, bad=bad))
    assert wanted.outline[-2:] == (["RolledBack", [2]] if bad else ["Completed", []])
    assert len(wanted.requests) >= (8 if bad else 10)
    for at in range(1, len(wanted.requests) + 3):
        fault = Fault(kind, at)
        judge(played(rollout(fault, bad=bad)), wanted, fault)


def test_what_a_hand_gave_under_a_revision_is_taken_back_under_a_higher_one() -> None:
    """Serve refuses to go back, and consumers hear of nothing that has no new revision."""
    stable = Stable(1, "0" * 16)
    known = Status(uid="u", stable=stable, revision=7)
    for there, revision in (
        (replace(known, stable=Stable(2, "1" * 16)), 8),
        (replace(known, stable=Stable(2, "1" * 16), revision=5000), 5001),
        (replace(known, revision=5000), 5000),
        (replace(known, stable=None, revision=3), 7),
        (replace(known, last_version=9), 7),
        (None, 7),
    ):
        memory = Memory("u", written=known, saved_at=0.0)
        found = believed(memory, there, {}, 1.0)
        assert (found.drifted, found.status) == (True, replace(known, revision=revision))
    assert believed(Memory("u", written=known, saved_at=0.0), known, {}, 1.0) == Belief(known, drifted=False)


async def behind(*, lag: float) -> float:
    """Seconds from a failed check to the rollback, the object having been touched while watches are behind."""
    api, checks = FakeApi(), Checks()
    loop = asyncio.get_running_loop()
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec(1)})
    process = Process(api, checks, 0.0)
    await asyncio.sleep(1)
    api.edit(REGISTRY, spec=spec(2))
    await asyncio.sleep(2)
    assert api.status.canary is not None
    api.lag = lag
    api.edit(REGISTRY, annotations={"touched": "yes"})
    checks.verdict = Verdict.FAIL
    began = loop.time()
    while api.status.canary is not None and loop.time() < began + 100:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.01)
    await process.kill()
    return loop.time() - began


def test_a_conflict_is_read_and_decided_again_at_once_though_the_watch_is_behind() -> None:
    # Two probes, a second apart, and each failure is a write.
    assert played(behind(lag=60.0)) < played(behind(lag=0.02)) + 0.5
