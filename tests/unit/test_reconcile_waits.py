"""Nothing that is asked or written beside it holds up a rollback. The API server is a fake: see reconcile_world.

A failed probe and the status without the candidate are milliseconds apart, whatever hangs, is down or is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import pytest
from tests.unit.reconcile_world import NAME, REGISTRY, SLOW, SPACE, Checks, FakeApi, Process, played, until

from configregistry.kube.paths import CONFIGMAPS, REGISTRIES
from configregistry.model import conditions
from configregistry.reconcile.act import PROJECT_FIRST, PROJECT_LAST
from configregistry.reconcile.reconciler import TIDY_RETRY
from configregistry.rollout.observation import Verdict

SOON: Final = 0.5
"""Seconds within which a rollback is written that nothing holds up."""
OTHERS: Final = 200
WORKERS: Final = 8
"""As the program has."""


def spec(n: int, **more: Any) -> dict[str, Any]:
    return {
        "data": {"n": n},
        "rollout": {
            "steps": [{"setWeight": 20}, {"pause": {"duration": "1h"}}],
            "checks": [{"name": "alive", "interval": "1s", "failureLimit": 0, "http": {"url": "http://a.b/"}}],
        },
        **more,
    }


async def candidate(api: FakeApi, wanted: dict[str, Any]) -> None:
    api.edit(REGISTRY, spec=wanted)
    await until(lambda: api.status.canary)


async def rolled_back(api: FakeApi, checks: Checks) -> float:
    """Seconds from the first failed probe to the rollback."""
    made = len(checks.made)
    checks.verdict = Verdict.FAIL
    await until(lambda: Verdict.FAIL in checks.made[made:])
    took = await until(lambda: api.status.canary is None, 60)
    checks.verdict = Verdict.PASS
    return took


def of_projections(method: str, path: str) -> bool:
    return method in ("POST", "PATCH") and path.startswith(CONFIGMAPS.path(SPACE))


async def projecting(ill: str, others: int) -> list[float]:
    """How long rollbacks take while projections cannot be written: its own, or those of other registries."""
    api, checks = FakeApi(), Checks()
    mine: dict[str, Any] = {} if others else {"project": {"configMap": "out"}}
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec(1, **mine)})

    def other(i: int, n: int) -> dict[str, Any]:
        return {"data": {"n": n}, "project": {"configMap": f"out-{i}"}}

    def broken(method: str, path: str) -> str:
        return ill if of_projections(method, path) else ""

    for i in range(others):
        api.add(REGISTRIES.path(SPACE), {"metadata": {"name": f"other-{i}"}, "spec": other(i, 1)})
    api.ill = (lambda *_: "") if others else broken
    process = Process(api, checks, 0.0, workers=WORKERS)
    await until(lambda: api.status.stable)
    await asyncio.sleep(2 * TIDY_RETRY)
    took = []
    for n in range(2, 5):
        await candidate(api, spec(n, **mine))
        await asyncio.sleep(0.37 * n)
        api.ill = broken
        for i in range(others):
            api.edit(REGISTRIES.path(SPACE, f"other-{i}"), spec=other(i, n))
        await asyncio.sleep(1.7 * n)
        took.append(await rolled_back(api, checks))
    # Where nothing is wrong any more they are written, the own one too, and each holds what is stable.
    api.ill = lambda *_: ""
    told = {f"out-{i}": "4" for i in range(others)} or {"out": "1"}

    def written() -> bool:
        found = {name: api.objects.get(CONFIGMAPS.path(SPACE, name)) for name in told}
        return {name: each and each["data"]["n"] for name, each in found.items()} == told

    late = PROJECT_LAST + TIDY_RETRY
    assert await until(written, late, every=1.0) <= late
    await process.kill()
    return took


@pytest.mark.parametrize("others", [0, OTHERS], ids=["own", "others"])
@pytest.mark.parametrize("ill", ["hangs", "down", "refused"])
def test_a_projection_that_cannot_be_written_delays_no_rollback(ill: str, others: int) -> None:
    assert max(played(projecting(ill, others))) < SOON


async def refused_for(hours: float) -> list[float]:
    """The moments of the tries of a projection that is refused all the time, though the registry is touched."""
    api, loop = FakeApi(), asyncio.get_running_loop()
    tries: list[float] = []

    def ill(method: str, path: str) -> str:
        if not of_projections(method, path):
            return ""
        tries.append(loop.time())
        return "refused"

    api.ill = ill
    made: dict[str, Any] = {"data": {"n": 1}, "project": {"configMap": "out"}}
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": made})
    process = Process(api, Checks(), 0.0)
    for n in range(int(hours * 60)):
        await asyncio.sleep(60)
        api.edit(REGISTRY, annotations={"touched": str(n)})
    told = next(each for each in api.status.conditions if each.type == conditions.READY)
    assert told.reason == conditions.PROJECTION_CONFLICT
    api.ill = lambda *_: ""
    late = PROJECT_LAST + TIDY_RETRY
    assert await until(lambda: CONFIGMAPS.path(SPACE, "out") in api.objects, late, every=1.0) <= late
    assert await until(lambda: told not in api.status.conditions, 1) <= 1
    await process.kill()
    return tries


def test_a_projection_that_is_refused_is_tried_ever_more_rarely() -> None:
    tries = played(refused_for(hours=3))
    waits = [after - before for before, after in pairwise(tries)]
    # Each pass asks whether it is time, and there is one at least each TIDY_RETRY.
    assert PROJECT_FIRST <= waits[0] <= PROJECT_FIRST + TIDY_RETRY + 1
    assert all(after >= min(PROJECT_LAST, before) - 1 for before, after in pairwise(waits)), waits
    assert all(PROJECT_LAST - 1 <= wait <= PROJECT_LAST + TIDY_RETRY + 1 for wait in waits[-3:]), waits
    assert len(tries) <= 20


async def refused_and_then(wanted: dict[str, Any]) -> float:
    """How long it takes to write a projection that is asked for after another one was refused for hours."""
    api = FakeApi()
    api.ill = lambda method, path: "refused" if of_projections(method, path) else ""
    made: dict[str, Any] = {"data": {"n": 1}, "project": {"configMap": "out"}}
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": made})
    process = Process(api, Checks(), 0.0)
    await asyncio.sleep(4 * PROJECT_LAST)
    api.ill = lambda *_: ""
    api.edit(REGISTRY, spec=made | wanted)
    place = CONFIGMAPS.path(SPACE, (made | wanted)["project"]["configMap"])
    took = await until(lambda: place in api.objects, PROJECT_LAST, every=0.1)
    await process.kill()
    return took


@pytest.mark.parametrize("wanted", [{"project": {"configMap": "another"}}, {"data": {"n": 2}}], ids=["name", "content"])
def test_what_was_not_refused_yet_is_projected_at_once(wanted: dict[str, Any]) -> None:
    assert played(refused_and_then(wanted)) < SOON


async def asking(ill: Callable[[str, str], str], first: dict[str, Any], then: dict[str, Any], wait: float) -> float:
    """How long a rollback takes, so many seconds after what a spec asks for can no longer be asked."""
    api, checks = FakeApi(), Checks()
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": "base"}, "spec": {"data": {"n": 1}}})
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec(1, **first)})
    process = Process(api, checks, 0.0)
    await until(lambda: api.status.stable and api.status_of("base").stable)
    await candidate(api, spec(2, **first))
    await asyncio.sleep(3)
    api.ill = ill
    if then:
        api.edit(REGISTRY, spec=spec(3, **then))
    await asyncio.sleep(wait)
    took = await rolled_back(api, checks)
    assert api.status.last_outcome is not None
    assert api.status.last_outcome.result == "RolledBack"
    await process.kill()
    return took


BASE: Final = REGISTRIES.path(SPACE, "base")
OPTIONAL: Final = CONFIGMAPS.path(SPACE, "not-there")
SOURCE: Final = {"dataFrom": [{"configMapRef": {"name": "not-there", "optional": True}}]}
DEPENDENT: Final = {"dependsOn": [{"name": "base"}]}


@pytest.mark.parametrize("ill", ["hangs", "down", "refused"])
@pytest.mark.parametrize("wait", [0.5, 2.5, 4.5, 7.5, 30.0, 100.0])
def test_a_dependency_that_cannot_be_read_delays_no_rollback(ill: str, wait: float) -> None:
    what = asking(lambda method, path: ill if (method, path) == ("GET", BASE) else "", {}, DEPENDENT, wait)
    assert played(what) < SOON


@pytest.mark.parametrize("ill", ["hangs", "down"])
@pytest.mark.parametrize("wait", [0.0, 1.0, 8.0, 9.0, 10.0, 60.0])
def test_an_optional_configmap_that_is_absent_delays_no_rollback(ill: str, wait: float) -> None:
    what = asking(lambda method, path: ill if (method, path) == ("GET", OPTIONAL) else "", SOURCE, {}, wait)
    assert played(what) < SOON


def test_a_probe_that_fails_while_a_source_is_read_waits_for_no_dependency_either() -> None:
    ills = {OPTIONAL: "slow", BASE: "hangs"}
    both = asking(lambda _method, path: ills.get(path, ""), SOURCE, SOURCE | DEPENDENT, 0.0)
    assert played(both) < SLOW + SOON  # an edit whose source was never read is waited for
