"""What the parts of the program tell the metrics: the words are those of the table, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
from tests.serve_fakes import World

from configregistry.admission import certificates, guard, review
from configregistry.admission.review import Reviewer
from configregistry.admission.tls import Tls
from configregistry.kube.access import Access, no_token
from configregistry.kube.client import Api, Unavailable
from configregistry.model import conditions
from configregistry.model.conditions import Condition, standing
from configregistry.rollout import summary
from configregistry.rollout.summary import Row
from configregistry.serve.app import App
from configregistry.serve.hotkeys import WINDOW, HotKeys, HotLimits
from configregistry.serve.routes import Routes
from configregistry.telemetry.metrics import Metrics
from configregistry.telemetry.names import METRICS, READY, REASONS

REQUEST = {
    "uid": "review-1",
    "operation": "CREATE",
    "namespace": "shop",
    "name": "checkout",
    "resource": {"group": "configregistry.dev", "version": "v1alpha1", "resource": "configregistries"},
    "kind": {"group": "configregistry.dev", "version": "v1alpha1", "kind": "ConfigRegistry"},
    "object": {"metadata": {"name": "checkout", "namespace": "shop", "uid": "uid"}, "spec": {}},
}


def spoken(row: Row) -> list[Condition]:
    marks = {"Ready": row.ready, "Reconciling": row.reconciling, "Stalled": row.stalled}
    available = Condition("Available", "True", "VersionServed")
    return [available, *(Condition(kind, truth, reason) for kind, (truth, reason) in marks.items())]


def rows() -> list[Row]:
    """All that the conditions table has."""
    found = list[Row]()
    for value in vars(summary).values():
        found += [value] if isinstance(value, Row) else []
        found += [each for each in value.values() if isinstance(each, Row)] if isinstance(value, dict) else []
    return found


def test_where_a_registry_may_stand_is_where_its_conditions_say() -> None:
    assert {standing(spoken(row)) for row in rows()} == set(REASONS)
    assert {standing(spoken(row)) for row in rows() if row.ready[0] == "True"} == set(READY)


def test_what_is_stalled_comes_before_what_is_under_way() -> None:
    both = [Condition("Reconciling", "True", "Paused"), Condition("Stalled", "True", "InvalidSpec")]
    assert standing(both) == "InvalidSpec"
    assert standing([]) == ""
    assert set(REASONS) <= {value for value in vars(conditions).values() if isinstance(value, str)}


def test_hot_keys_that_do_not_exist_are_not_named() -> None:
    world = World()
    world.serve("checkout", {"k": 1})
    now = [0.0]
    hot = HotKeys(lambda: now[0], HotLimits(sample=20, shed=1000), metrics=world.metrics)
    world.app = App(Routes(hot.over(world.service.routes.all)), world.metrics, lambda: 0.0)
    one = "/v1/namespaces/shop/registries/checkout/keys"
    for _ in range(50):
        assert world.get(f"{one}/k").status == HTTPStatus.OK
        assert world.get(f"{one}/no-such-key").status == HTTPStatus.NOT_FOUND
        assert world.get("/v1/namespaces/nowhere/registries/none/keys/k").status == HTTPStatus.NOT_FOUND
    now[0] += WINDOW
    world.get(f"{one}/k")
    assert [(each.name, each.key) for each in hot.hottest()] == [("checkout", "k")]
    assert "no-such-key" not in world.metrics.expose("")[1].decode()


def test_the_size_of_what_is_held_is_told() -> None:
    world = World()
    world.serve("checkout", {"timeout": 2500})
    value = world.metrics.registry.get_sample_value("configregistry_snapshot_bytes")
    assert value == len("timeout") + len("2500")


def test_until_when_the_webhooks_certificate_is_valid() -> None:
    told = list[float]()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    pair = certificates.make(("localhost",), now)
    tls = Tls(told.append)
    tls.use(pair)
    assert told == [0.0, (now + certificates.LIFE).timestamp()]  # none yet, and then the pair's
    with pytest.raises(ValueError, match="do not belong together"):
        tls.use(pair._replace(key=certificates.make(("localhost",), now).key))
    assert len(told) == 2


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (review.ALLOWED, "allowed"),
        (review.Answer(allowed=True, warnings=("mind",)), "warned"),
        (review.Answer(allowed=False, warnings=("mind",), message="no", code=422), "denied"),
        (RuntimeError("a defect"), "failed"),
    ],
)
async def test_each_review_is_counted_once(
    answer: review.Answer | Exception, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[tuple[str, float]]()

    async def given(*_: Any) -> review.Answer:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def never(_namespace: str) -> bool:
        return False

    monkeypatch.setattr(Reviewer, "_answer", given)
    unseen: Any = None
    loop = asyncio.get_running_loop()
    consumers: guard.Consumers | None = None
    reviewer = Reviewer(
        unseen, review.to_loop(loop), consumers=consumers, going=never, reviewed=lambda *each: told.append(each)
    )
    await reviewer.review(json.dumps({"request": REQUEST}).encode())
    ((found, seconds),) = told
    assert found == result
    assert seconds >= 0
    assert (found,) in METRICS["configregistry_admission_reviews_total"].rows


async def test_requests_to_the_api_server_are_counted_by_what_came_of_them() -> None:
    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if b"/good" in line else b"503 Sorry"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    metrics = Metrics()
    server = await asyncio.start_server(answered, "127.0.0.1", 0)
    async with server, Api(Access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", no_token)) as api:
        api.count(metrics.asked)
        await api.get("/good")
        with pytest.raises(Unavailable):
            await api.create("/bad", b"{}")
        async with api.watch("/good") as lines:
            with pytest.raises(Unavailable):
                await anext(lines)
        server.close()
        await server.wait_closed()
        with pytest.raises(Unavailable):
            await api.get("/good")

    def count(verb: str, result: str) -> Any:
        labels = {"verb": verb, "result": result}
        return metrics.registry.get_sample_value("configregistry_api_requests_total", labels)

    assert (count("GET", "2xx"), count("POST", "5xx"), count("WATCH", "2xx"), count("GET", "none")) == (1, 1, 1, 1)
