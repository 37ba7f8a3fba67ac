"""What a process remembers beside the status: what it must forget, and what it must not. See reconcile_world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, cast

import pytest
from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, LoopClock, Process, played, until

from configregistry.clock import timestamp
from configregistry.health import Answer, UnansweredError
from configregistry.kube.paths import REGISTRIES, ROLLOUT_POLICIES
from configregistry.kube.workloads import Container, Pod, Workload
from configregistry.model import conditions
from configregistry.model.status import Status
from configregistry.reconcile import Collector
from configregistry.reconcile.reconciler import TIDY_RETRY
from configregistry.rollout.gates import SAVE_EVERY
from configregistry.rollout.observation import Verdict

PLACE: Final = REGISTRIES.path(SPACE)
POLICIES: Final = ROLLOUT_POLICIES.path()
DAY: Final = 86_400.0
CHECK: Final = {"name": "alive", "interval": "1s", "failureLimit": 0, "http": {"url": "http://a.b/"}}
VALIDATED: Final = {"validators": [{"name": "sane", "url": "http://sane.example/"}]}


def spec(n: int, weights: tuple[int, ...] = (20,), **rollout: Any) -> dict[str, Any]:
    steps = [step for weight in weights for step in ({"setWeight": weight}, {"pause": {"duration": "1h"}})]
    return {"data": {"n": n}, "rollout": {"steps": steps, "checks": [CHECK], **rollout}}


def add(api: FakeApi, wanted: dict[str, Any], name: str = NAME) -> None:
    made = {"name": name, "creationTimestamp": timestamp(LoopClock().wall() - timedelta(days=365))}
    api.add(PLACE, {"metadata": made, "spec": wanted})


def ready(status: Status) -> str:
    return next(each.reason for each in status.conditions if each.type == conditions.READY)


def stalled(status: Status) -> str:
    return next(each.message for each in status.conditions if each.type == conditions.STALLED)


# Another registry of the same name


async def replaced(times: int, gone_for: float) -> tuple[int, int]:
    """How many candidates are checked, and how often, after a registry was replaced while a candidate was out."""
    api, checks = FakeApi(), Checks()
    add(api, spec(1))
    process = Process(api, checks, 0.0)
    await until(lambda: api.status.stable)
    for n in range(times):
        api.edit(REGISTRY, spec=spec(100 + n))
        assert await until(lambda: process.checked, 5) < 5
        api.remove(REGISTRY)
        if gone_for:
            await asyncio.sleep(gone_for)  # else the watch tells of both before anybody looks
        add(api, spec(n))
        await until(lambda: api.status.stable)
        await asyncio.sleep(2)
    made = len(checks.made)
    await asyncio.sleep(60)
    found = len(process.checked), len(checks.made) - made
    await process.kill()
    return found


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("gone_for", [0.0, 0.001, 5.0], ids=["at-once", "soon", "later"])
def test_a_registry_that_is_replaced_leaves_no_checks_behind(times: int, gone_for: float) -> None:
    assert played(replaced(times, gone_for)) == (0, 0)


# An API server that does not know all of the status


class Reads:
    """In place of the collector: what all replicas say of when a registry was read; None: they cannot say."""

    def __init__(self, age: float | None) -> None:
        self.age = age

    def subscribe(self, _: object) -> Callable[[], None]:
        return lambda: None

    subscribe_reads = subscribe

    def reported(self, *_: str) -> tuple[int, ...]:
        return ()

    def last_read(self, *_: str) -> float | None:
        return self.age


async def dropped(drops: frozenset[str], *, out: bool) -> tuple[int, bool]:
    """The status writes of ten minutes, by an API server that drops these fields; whether it is unused then."""
    api, checks, reads = FakeApi(drops=drops), Checks(), Reads(None)
    add(api, spec(1))
    process = Process(api, checks, 0.0, collector=cast("Collector", reads))
    await until(lambda: api.status.stable)
    if out:
        api.edit(REGISTRY, spec=spec(2))
        await until(lambda: api.status.canary)
    reads.age = float("inf")
    api.edit(REGISTRY, annotations={"touched": "yes"})
    before = len(api.requests)
    await asyncio.sleep(600)
    writes = sum(each == f"PUT {REGISTRY}/status" for each in api.requests[before:])
    unused = api.status.unused
    # And nothing else is held up by it.
    api.edit(REGISTRY, spec=spec(3))
    assert await until(lambda: api.status.canary and api.status.canary.version == 2 + out, 10) < 1
    await asyncio.sleep(3)
    checks.verdict = Verdict.FAIL
    assert await until(lambda: api.status.canary is None, 60) < 3
    await process.kill()
    return writes, unused


@pytest.mark.parametrize("out", [False, True], ids=["steady", "candidate"])
@pytest.mark.parametrize("drops", [(), ("unused",), ("unused", "lastReadAt")], ids=["none", "one", "two"])
def test_an_old_crd_that_drops_fields_of_the_status_is_not_written_to_without_end(
    drops: tuple[str, ...], out: bool
) -> None:
    writes, unused = played(dropped(frozenset(drops), out=out))
    # It may be tried again, for the CRD may come; and the time of a candidate is saved each SAVE_EVERY.
    assert writes <= 3 + 600 / (SAVE_EVERY if out else TIDY_RETRY)
    assert unused is not bool(drops)


# Policies that nobody can read


def no_policies(kind: str) -> Callable[[str, str], str]:
    return lambda _method, path: kind if path.startswith(POLICIES) else ""


async def limits(kind: str, *, edited_first: bool) -> None:
    api, checks = FakeApi(), Checks()
    api.add(POLICIES, {"metadata": {"name": "strict"}, "spec": {"limits": {"maxStep": 20}}})
    follows = {"policyRef": {"name": "strict"}}
    allowed, too_fast = (20, 40, 60, 80), (90,)
    add(api, spec(1, allowed, **follows))
    process = Process(api, checks, 0.0)
    await until(lambda: api.status.stable)
    api.edit(REGISTRY, spec=spec(2, allowed, **follows))
    await until(lambda: api.status.canary)
    await asyncio.sleep(3)
    actions: list[Callable[[], None]] = [
        lambda: api.edit(REGISTRY, spec=spec(2, too_fast, **follows)),
        lambda: setattr(api, "ill", no_policies(kind)),
    ]
    for act in actions if edited_first else reversed(actions):
        act()
        await asyncio.sleep(5)
    for n in range(20):
        api.edit(REGISTRY, annotations={"touched": str(n)})
        await asyncio.sleep(60)
        canary = api.status.canary
        assert canary is not None
        assert canary.weight == 20
    if edited_first:
        assert "limits.maxStep of RolloutPolicy 'strict'" in stalled(api.status)
    # It is still checked, and goes back.
    checks.verdict = Verdict.FAIL
    assert await until(lambda: api.status.canary is None, 60) < 10
    await process.kill()


@pytest.mark.parametrize("edited_first", [True, False], ids=["edited-first", "unreadable-first"])
@pytest.mark.parametrize("kind", ["hangs", "down", "refused"])
def test_the_limits_that_were_read_last_hold_while_policies_cannot_be_read(kind: str, edited_first: bool) -> None:
    played(limits(kind, edited_first=edited_first))


async def fallback_ring(kind: str) -> None:
    api = FakeApi(ill=no_policies(kind))
    add(api, spec(1))
    add(api, {"data": {"n": 1}, "fallback": {"name": NAME}}, "other")
    process = Process(api, Checks(), 0.0)
    await until(lambda: api.status.stable and api.status_of("other").fallback)
    api.edit(REGISTRY, spec=spec(1, policyRef={"name": "strict"}) | {"fallback": {"name": "other"}})
    await asyncio.sleep(100)
    assert api.status.fallback is None
    assert f"{NAME} -> other -> {NAME}" in stalled(api.status)
    await process.kill()


@pytest.mark.parametrize("kind", ["hangs", "down", "refused"])
def test_a_ring_of_fallbacks_is_refused_while_policies_cannot_be_read(kind: str) -> None:
    played(fallback_ring(kind))


# A ring of dependencies


async def dependency_ring(back: Callable[[FakeApi, Checks], None], outcome: str) -> None:
    api, checks = FakeApi(), Checks()
    depends = {"dependsOn": [{"name": "base"}]}
    add(api, {"data": {"n": 1}}, "base")
    add(api, spec(1) | depends)
    process = Process(api, checks, 0.0)
    await until(lambda: api.status.stable)
    api.edit(REGISTRY, spec=spec(2) | depends)
    await until(lambda: api.status.canary)
    await asyncio.sleep(3)
    api.edit(f"{PLACE}/base", spec={"data": {"n": 1}, "dependsOn": [{"name": NAME}]})
    await asyncio.sleep(60)
    assert api.status.canary is not None
    back(api, checks)
    assert await until(lambda: api.status.canary is None, 60) < 5
    assert api.status.last_outcome is not None
    assert api.status.last_outcome.result == outcome
    # What is new still goes nowhere.
    api.edit(REGISTRY, spec=spec(3) | depends)
    await asyncio.sleep(60)
    assert api.status.canary is None
    assert ready(api.status) == conditions.INVALID_SPEC
    assert "spec.dependsOn: expected no cycle" in stalled(api.status)
    await process.kill()


WAYS_BACK: Final[Mapping[str, Callable[[FakeApi, Checks], None]]] = {
    "Cancelled": lambda api, _: api.edit(REGISTRY, spec=spec(1) | {"dependsOn": [{"name": "base"}]}),
    "RolledBack": lambda _, checks: setattr(checks, "verdict", Verdict.FAIL),
}


@pytest.mark.parametrize("outcome", WAYS_BACK)
def test_a_ring_of_dependencies_does_not_block_the_way_back_to_stable(outcome: str) -> None:
    played(dependency_ring(WAYS_BACK[outcome], outcome))


# Counters of a policy's check


async def policy_gone(*, restarted: bool) -> None:
    api, checks = FakeApi(), Checks()
    strict = {"metadata": {"name": "strict"}, "spec": {"checks": [CHECK | {"failureLimit": 3}]}}
    api.add(POLICIES, strict)
    follows: dict[str, Any] = {"policyRef": {"name": "strict"}, "checks": []}
    add(api, spec(1, **follows))
    process = Process(api, checks, 0.0)

    def failed() -> list[int]:
        assert api.status.canary is not None
        return [each.failed for each in api.status.canary.checks]

    await until(lambda: api.status.stable)
    api.edit(REGISTRY, spec=spec(2, **follows))
    await until(lambda: api.status.canary)
    await asyncio.sleep(3)
    checks.verdict = Verdict.FAIL
    await until(lambda: failed() == [2])
    checks.verdict = Verdict.PASS
    api.remove(f"{POLICIES}/strict")
    if restarted:
        await process.kill()
        process = Process(api, checks, 77.0)
    api.edit(REGISTRY, annotations={"touched": "yes"})
    await asyncio.sleep(600)
    assert failed() == [2]
    api.add(POLICIES, strict)
    api.edit(REGISTRY, annotations={"touched": "again"})
    await asyncio.sleep(30)
    assert failed() == [2]
    made = len(checks.made)
    checks.verdict = Verdict.FAIL
    assert await until(lambda: api.status.canary is None, 60) < 10
    assert len(checks.made) - made == 2
    await process.kill()


@pytest.mark.parametrize("restarted", [False, True], ids=["same-process", "restarted"])
def test_what_a_check_of_a_policy_has_counted_survives_that_the_policy_is_gone(restarted: bool) -> None:
    played(policy_gone(restarted=restarted))


# A resume after a container restarted


class OnePod:
    """In place of the API server's workloads: one pod, whose only container restarts when it is told to."""

    def __init__(self) -> None:
        self._clock = LoopClock()
        self._made = self._started = timestamp(self._clock.wall() - timedelta(days=1))
        self._restarts, self._ended = 0, ""

    def restart(self) -> None:
        self._restarts += 1
        self._started = self._ended = timestamp(self._clock.wall())

    async def look(self, _namespace: str, _kind: str, _name: str, *, fresh: bool) -> Workload | None:
        await asyncio.sleep(0.01 + fresh * 0.01)
        container = Container("app", self._restarts, self._started, self._ended, "Error" if self._ended else "")
        return Workload("uid-w", 1, 1, 0, (Pod("app-0", "uid-p", self._made, False, (container,)),))


async def resumed(*, restarted: bool, out_for: float) -> None:
    api, pod = FakeApi(), OnePod()
    check = {"name": "pods", "interval": "5s", "failureLimit": 0, "workload": {"kind": "Deployment", "name": "app"}}
    kept: dict[str, Any] = {"onFailure": "Pause", "checks": [check]}
    add(api, spec(1, **kept))
    process = Process(api, Checks(), 0.0, workloads=pod)

    def failed() -> bool:
        assert api.status.canary is not None
        return bool(api.status.canary.failed)

    async def resume(token: str) -> None:
        assert api.status.canary is not None
        named = f"{api.status.canary.version}:{api.status.canary.current_step_index}:{token}"
        api.edit(REGISTRY, annotations={"configregistry.dev/command-resume": named})
        assert await until(lambda: not failed(), 10) < 1

    await until(lambda: api.status.stable)
    api.edit(REGISTRY, spec=spec(2, **kept))
    await until(lambda: api.status.canary)
    await asyncio.sleep(out_for)
    assert not failed()
    for token in ("once", "twice"):
        pod.restart()
        assert await until(failed, 60, every=0.1) < 15
        await asyncio.sleep(300)
        if restarted:
            await process.kill()
            process = Process(api, Checks(), 55.0, workloads=pod)
            await asyncio.sleep(10)
        await resume(token)
        assert await until(failed, 300, every=1.0) > 300
    await process.kill()


@pytest.mark.parametrize("restarted", [False, True], ids=["same-process", "restarted"])
@pytest.mark.parametrize("out_for", [10.0, 200.0, 1200.0])
def test_a_resume_fails_by_the_next_restart_of_a_container_and_not_by_the_same_again(
    restarted: bool, out_for: float
) -> None:
    played(resumed(restarted=restarted, out_for=out_for))


# Validators


class Validator:
    """A validator that says what it is told to say: an answer, or that nobody is there (None)."""

    def __init__(self, body: bytes | None) -> None:
        self.body = body
        self.asked = 0

    async def request(self, *_: Any, **__: Any) -> Answer:
        self.asked += 1
        await asyncio.sleep(0.5)
        if self.body is None:
            raise UnansweredError("nobody is there")
        return Answer(200, self.body)


UNWANTED: Final[Mapping[str, dict[str, Any]]] = {
    "its source is gone": {"data": {"n": 2}, "dataFrom": [{"configMapRef": {"name": "gone"}}]},
    "it is not as its schema says": {"data": {"n": 2}, "schema": {"properties": {"n": {"type": "string"}}}},
    "the spec cannot be read": {"data": {"n": 2}, "revisionHistoryLimit": "many"},
    "its steps are no steps": {"data": {"n": 2}, "rollout": {"steps": [{"setWeight": 101}]}},
    "it is the stable one again": {"data": {"n": 1}},
    "another version is pinned": {"data": {"n": 2}, "pinnedVersion": 1},
}


async def unwanted(then: dict[str, Any]) -> tuple[int, int]:
    """How often validators are asked in an hour: about content that is wanted, and after it is not any more."""
    api, nobody = FakeApi(), Validator(None)
    add(api, {"data": {"n": 1}})
    process = Process(api, Checks(), 0.0, outbound=nobody)
    await until(lambda: api.status.stable)
    counts = []
    for wanted in ({"data": {"n": 2}}, then):
        api.edit(REGISTRY, spec=wanted | VALIDATED)
        await asyncio.sleep(5)
        before = nobody.asked
        await asyncio.sleep(3600)
        counts.append(nobody.asked - before)
    await process.kill()
    return counts[0], counts[1]


@pytest.mark.parametrize("why", UNWANTED)
def test_nobody_is_asked_about_content_that_is_not_wanted_any_more(why: str) -> None:
    wanted, not_wanted = played(unwanted(UNWANTED[why]))
    assert wanted >= 50
    assert not_wanted == 0


async def asked_again(restarts: int) -> None:
    api, says = FakeApi(), Validator(b'{"allowed": false, "message": "too many"}')
    add(api, {"data": {"n": 1}})
    process = Process(api, Checks(), 0.0, outbound=says)
    await until(lambda: api.status.stable)
    api.edit(REGISTRY, spec={"data": {"n": 2}} | VALIDATED)
    await asyncio.sleep(5)
    told = "spec.validators[0] (sane): too many"
    assert (ready(api.status), stalled(api.status)) == (conditions.INVALID_SPEC, told)
    assert [note.reason for note in process.notes.told].count("InvalidSpec") == 1
    before, asked = len(api.statuses), says.asked
    for n in range(restarts):
        await process.kill()
        await asyncio.sleep(60)
        process = Process(api, Checks(), 5.0 * n, outbound=says)
        await asyncio.sleep(5)
        assert process.notes.told == []
    assert says.asked == asked + restarts
    assert api.statuses[before:] == []
    # It was asked all the same, and a yes is a yes; so is an edit asked about as what it is.
    says.body = b'{"allowed": true}'
    await process.kill()
    process = Process(api, Checks(), 500.0, outbound=says)
    assert await until(lambda: api.status.stable and api.status.stable.version == 2, 10) < 5
    await process.kill()


def test_a_restart_writes_nothing_while_a_validator_that_refused_is_asked_again() -> None:
    played(asked_again(restarts=3))
