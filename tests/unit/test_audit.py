"""The audit line: one for each accepted decision, and who it was. The API server is a fake (reconcile_world)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, Fault, Process, played, until
from tests.unit.test_reconcile_crashes import rollout

from configregistry.kube.objects import Meta
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES
from configregistry.model.status import Canary, Stable, Status
from configregistry.reconcile.audit import audited
from configregistry.rollout.machine import gives
from configregistry.rollout.observation import Note, Verdict
from configregistry.telemetry import audit
from configregistry.telemetry.audit import Record

CHECK = {"name": "alive", "interval": "1s", "failureLimit": 0, "http": {"url": "http://a.b/"}}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Record]]:
    """All that is told."""
    found: list[Record] = []
    monkeypatch.setattr(audit, "tell", found.append)
    yield found
    assert len({(each.before["revision"], each.what, each.why, each.command) for each in found}) == len(found)


@pytest.mark.parametrize("kind", ["kill-after", "lost-before", "lost-after", "late", "later"])
def test_each_accepted_change_of_what_is_given_is_told_once(told: list[Record], kind: str) -> None:
    """Whichever request of a rollout fails, and however: also where only a later look shows that it was accepted."""
    whole = played(rollout(None, bad=False))
    assert whole.statuses
    for at in range(1, len(whole.requests) + 3):
        told.clear()
        found = played(rollout(Fault(kind, at), bad=False))
        statuses = [each for _, each in found.statuses]
        first = Status(stable=Stable(1, ""), revision=1)
        changed = [
            (before.revision, after.revision)
            for before, after in pairwise([first, *statuses])
            if gives(before) != gives(after)
        ]
        lines = [(each.before["revision"], each.after["revision"]) for each in told[1:]]
        lines = [(before, after) for before, after in lines if before != after]
        if kind.startswith("kill"):  # what dies between the write and the line cannot tell it
            assert len(lines) >= len(changed) - 1
            assert set(lines) <= set(changed)
            assert len(set(lines)) == len(lines)
        else:
            assert lines == changed, (kind, at)


def by(api: FakeApi, manager: str) -> None:
    """From now on this manager is who edited last."""
    api.objects[REGISTRY]["metadata"]["managedFields"] = [
        {"manager": "configregistry", "subresource": "status", "time": "2031-01-01T00:00:00Z"},
        {"manager": manager, "time": "2030-01-01T00:00:00Z"},
    ]


def spec(n: Any, **rollout: Any) -> dict[str, Any]:
    steps = [{"setWeight": 20}, {"pause": {"duration": "20s"}}, {"setWeight": 60}, {"pause": {}}]
    return {"data": {"n": n}, "rollout": {"steps": steps, "checks": [CHECK], **rollout}}


Line = tuple[str, str, str]


async def lived(told: list[Record]) -> list[Line]:  # noqa: PLR0915 - a life is long
    """A life with all that may happen; who, why now and what of each line."""
    api, checks = FakeApi(), Checks()
    annotations = {"configregistry.dev/traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    made = {"name": NAME, "managedFields": [{"manager": "kubectl", "time": "2030-01-01T00:00:00Z"}]}
    api.add(REGISTRIES.path(SPACE), {"metadata": {**made, "annotations": annotations}, "spec": spec(1)})
    process = Process(api, checks, 0.0)

    async def comes(what: str) -> Record:
        await until(lambda: any(each.what == what for each in told[count:]), 60)
        return told[-1]

    count = 0
    first = await comes("RolloutCompleted")
    assert (first.trace_id, first.namespace, first.registry) == (TRACE, SPACE, NAME)
    assert (first.before, first.after) == (
        {"stable": 0, "canary": 0, "revision": 0},
        {"stable": 1, "canary": 0, "revision": 1},
    )
    count = len(told)
    by(api, "helm")
    api.edit(REGISTRY, spec=spec(2))
    await comes("RolloutStarted")
    count = len(told)
    by(api, "flux")
    api.edit(REGISTRY, spec=spec(2, match=[{"attribute": "region", "values": ["test"]}]))
    await comes("TargetsChanged")
    count = len(told)
    paused = await comes("RolloutPaused")
    assert (paused.after["weight"], paused.after["paused"]) == (60, "Step")
    count = len(told)
    by(api, "kubectl-annotate")
    api.edit(REGISTRY, annotations={"configregistry.dev/command-promote": "7:0:wrong"})
    ignored = await comes("CommandIgnored")
    assert ignored.command == "promote wrong"
    api.edit(REGISTRY, annotations={"configregistry.dev/command-promote": "2:2:right"})
    count = len(told)
    promoted = await comes("StepAdvanced")
    assert promoted.command == "promote right"
    checks.verdict = Verdict.FAIL
    count = len(told)
    back = await comes("RolledBack")
    assert back.why.startswith("version 2 rolled back, back on 1: check alive (failed once, limit 0)")
    assert (back.before["canary"], back.after["canary"]) == (2, 0)
    checks.verdict = Verdict.PASS
    count = len(told)
    by(api, "kubectl")
    api.edit(REGISTRY, spec={**spec(3), "schema": {"properties": {"n": {"const": "hunter2"}}}})
    refused = await comes("InvalidSpec")
    assert refused.why == "spec.data['n'] is refused: the condition Stalled says why"
    api.edit(REGISTRY, spec={"data": {"n": 1}, "dataFrom": [{"configMapRef": {"name": "base", "optional": True}}]})
    await asyncio.sleep(5)
    count = len(told)
    api.add(CONFIGMAPS.path(SPACE), {"metadata": {"name": "base"}, "data": {"more": "text"}})
    await comes("RolloutStarted")
    await until(lambda: api.status.canary is None)
    by(api, "argocd")
    count = len(told)
    api.edit(REGISTRY, spec={"data": {"n": 1}, "fallback": {"name": "defaults"}})
    await comes("FallbackChanged")
    await until(lambda: api.status.canary is None)
    await asyncio.sleep(5)
    count = len(told)
    api.edit(REGISTRY, status={**api.objects[REGISTRY]["status"], "stable": {"version": 2, "hash": "x", "keys": 1}})
    await comes("StatusRestored")
    await asyncio.sleep(60)
    await process.kill()
    return [(each.who, each.trigger, each.what) for each in told]


def test_who_it_was(told: list[Record]) -> None:
    assert played(lived(told)) == [
        ("kubectl", "User", "RolloutCompleted"),
        ("helm", "User", "RolloutStarted"),
        ("flux", "User", "TargetsChanged"),
        ("operator", "System", "StepAdvanced"),
        ("operator", "System", "RolloutPaused"),
        ("kubectl-annotate", "User", "CommandIgnored"),
        ("kubectl-annotate", "User", "StepAdvanced"),
        ("operator", "Check", "RolledBack"),
        ("kubectl", "User", "InvalidSpec"),
        ("source", "Source", "RolloutStarted"),
        ("operator", "System", "RolloutCompleted"),
        ("argocd", "User", "RolloutStarted"),
        ("argocd", "User", "FallbackChanged"),
        ("operator", "System", "RolloutCompleted"),
        ("operator", "System", "StatusRestored"),
    ]
    assert "hunter2" not in str(told)


def test_what_is_only_stored_is_not_told() -> None:
    before = Status(stable=Stable(1, "a"), canary=Canary(2, "b", weight=20, elapsed="10s"), revision=2)
    after = Status(stable=Stable(1, "a"), canary=Canary(2, "b", weight=20, elapsed="20s"), revision=2)
    assert audited(Meta("a"), before, after, (), follows=False) is None


def test_one_whose_manager_is_not_known_is_unknown() -> None:
    before, after = Status(), Status(stable=Stable(1, "a"), revision=1)
    note = Note("Normal", "RolloutCompleted", "version 1 is the first version")
    record = audited(Meta("a", generation=1), before, after, (note,), follows=False)
    assert record is not None
    assert (record.who, record.trigger) == ("unknown", "User")


def test_the_line_is_json_with_a_name_of_its_own() -> None:
    meta = Meta("checkout", "shop", "uid-1", generation=4, editor="kubectl")
    record = audited(meta, Status(), Status(stable=Stable(1, "a"), revision=1), (), follows=False)
    assert record is not None
    with capture_logs() as lines:
        audit.tell(record._replace(command="retry now", trace_id=TRACE))
    (line,) = lines
    assert json.loads(json.dumps(line)) == {
        "event": "audit",
        "log_level": "info",
        "namespace": "shop",
        "registry": "checkout",
        "uid": "uid-1",
        "generation": 4,
        "revision": 1,
        "who": "kubectl",
        "trigger": "User",
        "what": "TargetsChanged",
        "why": record.why,
        "from": {"stable": 0, "canary": 0, "revision": 0},
        "to": {"stable": 1, "canary": 0, "revision": 1},
        "command": "retry now",
        "trace_id": TRACE,
    }
