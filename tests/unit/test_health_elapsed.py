"""How long a stage has run, as probes are told: never longer than it has, through restarts, pauses and promotes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, Process, VirtualLoop

from configregistry.health import Finding, Means, Question
from configregistry.kube.paths import REGISTRIES
from configregistry.rollout.observation import Verdict

STORED = 10.0
"""Seconds of a stage that a leader may lose with its predecessor (rollout.md: stored every 10 s)."""


class Recorded(Checks):
    """Remembers what each probe was told, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, tuple[int, bool], float]] = []

    async def probe(self, question: Question, means: Means) -> Finding:
        stage = question.stage.step, question.stage.baking
        self.told.append((asyncio.get_running_loop().time(), stage, question.elapsed))
        return await super().probe(question, means)


def spec(n: int) -> dict[str, Any]:
    steps = [{"setWeight": 20}, {"pause": {"duration": "60s"}}, {"setWeight": 100}, {"pause": {"duration": "60s"}}]
    checks = [{"name": "alive", "interval": "3s", "http": {"url": "http://a.b/"}}]
    return {"data": {"n": n}, "rollout": {"steps": steps, "checks": checks}}


async def played(*, restart: float | None, pause: float | None, promote: float | None) -> Recorded:
    """One rollout; at these seconds after its start the operator restarts, a person pauses (for 30 s), promotes."""
    api, checks = FakeApi(), Recorded()
    loop = asyncio.get_running_loop()
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": spec(1)})
    process = Process(api, checks, 0.0)
    while api.status.stable is None:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.05)
    api.edit(REGISTRY, spec=spec(2))
    began = loop.time()
    acts = {"restart": restart, "pause": pause, "resume": None if pause is None else pause + 30, "promote": promote}
    for at, act in sorted((at, act) for act, at in acts.items() if at is not None):
        await asyncio.sleep(began + at - loop.time())
        if act == "restart":
            await process.kill()
            await asyncio.sleep(2)
            process = Process(api, checks, loop.time() - 7)
        elif api.status.canary is not None:
            step = api.status.canary.current_step_index
            api.edit(REGISTRY, annotations={f"configregistry.dev/command-{act}": f"2:{step}:go"})
    while api.status.canary is not None and loop.time() < began + 600:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await process.kill()
    assert checks.verdict is Verdict.PASS
    assert api.status.stable is not None
    assert api.status.stable.version == 2
    lost = 0.0 if restart is None else STORED + 3
    if restart is not None and pause is not None and pause < restart:
        lost += 30
    _judge(api, checks, lost if promote is None else None)
    return checks


def _judge(api: FakeApi, checks: Recorded, lost: float | None) -> None:
    """Never longer than it has run, and shorter by so many seconds at most (None: not to be said)."""
    stages: dict[tuple[int, bool], float] = {}
    for at, status in api.statuses:
        if status.canary is not None:
            stages.setdefault((status.canary.current_step_index, status.canary.baking), at)
    for at, stage, elapsed in checks.told:
        assert elapsed <= at - stages[stage] + 1e-3
        if lost is not None:
            assert elapsed >= at - stages[stage] - lost - 0.1


def run(main: Coroutine[Any, Any, Recorded]) -> Recorded:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def test_one_leader_knows_it_exactly_and_pauses_do_not_stop_it() -> None:
    told = run(played(restart=None, pause=20, promote=None)).told
    assert max(elapsed for _, _, elapsed in told) > 80


def test_a_new_leader_knows_what_was_stored() -> None:
    told = run(played(restart=33, pause=None, promote=None)).told
    assert max(elapsed for _, _, elapsed in told) > 40


def test_a_pause_before_a_restart_is_not_counted() -> None:
    run(played(restart=55, pause=10, promote=None))


def test_promote_does_not_make_a_stage_older() -> None:
    """It ends the wait of the last stage by setting its time, which a new leader then reads."""
    run(played(restart=82, pause=None, promote=75))
    run(played(restart=76.5, pause=74, promote=76))
