"""Fields of `spec.rollout` whose effect no other suite shows on a real API server; tests/unit/test_every_field.py
says where each field's is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.running import Client, Operator, candidate, condition, said, stable
from tests.servers import AppServer, Prometheus

from configregistry.rollout.buckets import bucket

pytestmark = [pytest.mark.xdist_group("gitops"), pytest.mark.usefixtures("operator")]


def version(operator: Operator, client: Client, name: str, query: str) -> int:
    """What a consumer gets."""
    found = operator.read(f"/v1/namespaces/{client.namespace}/registries/{name}?{query}")
    return int(found["version"])


async def test_a_preset_is_its_steps_and_its_bake(client: Client) -> None:
    preset = {"preset": "Canary10Percent20Minutes"}
    await client.apply("preset", data={"n": 1}, rollout=preset)
    await client.ready("preset")
    await client.apply("preset", data={"n": 2}, rollout=preset)
    for step, weight in ((0, 10), (2, 20), (4, 40), (6, 80)):
        await client.until("preset", lambda s, weight=weight: candidate(s, 2, weight))  # type: ignore[misc]
        await client.command("preset", "promote", f"2:{step}:{step}")
    baking = await client.until("preset", lambda s: candidate(s, 2, 100) and said(s, Reconciling=("True", "Baking")))
    assert condition(baking, "Ready")["message"].endswith("bakes for 10m")


async def test_match_goes_before_weight_and_the_seed_decides_who_is_first(client: Client, operator: Operator) -> None:
    rules = [{"attribute": "region", "values": ["eu-test", "us-test"]}]
    rollout: dict[str, Any] = {"match": rules, "seed": "2026", "steps": [{"setWeight": 0}, {"pause": {}}]}
    await client.apply("matched", data={"n": 1}, rollout=rollout)
    await client.ready("matched")
    await client.apply("matched", data={"n": 2}, rollout=rollout)
    found = await client.until("matched", lambda s: candidate(s, 2, 0) and said(s, Ready=("False", "Paused")))
    assert (found["canary"]["match"], found["canary"]["seed"]) == (rules, "2026")

    async def given() -> bool:
        return version(operator, client, "matched", "target=a&attr.region=us-test") == 2

    await client.wait(given, lambda: "the match rule to be served")
    assert version(operator, client, "matched", "target=a&attr.region=us") == 1
    assert version(operator, client, "matched", "target=a") == 1
    rollout = {**rollout, "steps": [{"setWeight": 30}, {"pause": {}}]}
    await client.apply("matched", data={"n": 2}, rollout=rollout)
    await client.until("matched", lambda s: candidate(s, 2, 30) and said(s, Ready=("False", "Paused")))
    targets = [f"pod-{number}" for number in range(40)]
    chosen = {target for target in targets if bucket("2026", target) < 3000}

    async def picked() -> bool:
        return {each for each in targets if version(operator, client, "matched", f"target={each}") == 2} == chosen

    await client.wait(picked, lambda: f"version 2 to be given to {chosen}")


async def test_the_lowest_good_value(client: Client, prometheus: Prometheus) -> None:
    query = {"address": prometheus.address, "query": "vector(1)"}
    for name, least, ends_at in (("enough", 1, 2), ("too-little", 1.5, 1)):
        check = {"name": "clicks", "interval": "100ms", "min": least, "prometheus": query}
        rollout = {"steps": [{"setWeight": 50}], "checks": [check]}
        await client.apply(name, data={"n": 1}, rollout=rollout)
        await client.ready(name)
        await client.apply(name, data={"n": 2}, rollout=rollout)
        ended = await client.until(name, lambda s: not s.get("canary") and s["lastVersion"] == 2)
        assert stable(ended, ends_at)
    assert "expected at least 1.5" in condition(ended, "Stalled")["message"]


async def test_the_interval_is_from_one_measurement_to_the_next(client: Client) -> None:
    """While one is asked again and again, the other is asked once."""
    with AppServer() as often, AppServer() as seldom:
        for name, app, interval in (("seldom", seldom, "1h"), ("often", often, "100ms")):
            check = {"name": "alive", "interval": interval, "http": {"url": f"http://{app.address}/healthz"}}
            rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "checks": [check]}
            await client.apply(name, data={"n": 1}, rollout=rollout)
            await client.ready(name)
            await client.apply(name, data={"n": 2}, rollout=rollout)

        async def asked() -> bool:
            return len(often.asked) >= 5 and bool(seldom.asked)

        await client.wait(asked, lambda: f"measurements: {len(often.asked)} and {len(seldom.asked)}")
        assert len(seldom.asked) == 1
