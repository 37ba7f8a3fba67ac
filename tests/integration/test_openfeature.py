"""OpenFeature's own SDKs with their OFREP providers, in Python and JavaScript, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from tests.clients.js import JavaScript
from tests.serve_fakes import World, status_of

from configregistry.rollout.buckets import bucket
from configregistry.serve import App, HttpServer, serve_http

HOST = "127.0.0.1"
KEY = ("shop", "checkout")
PATH = "/v1/namespaces/shop/registries/checkout"
EVENTS = f"{PATH}/ofrep/v1/events"
BULK = f"{PATH}/ofrep/v1/evaluate/flags"
DATA: dict[str, Any] = {
    "on": True,
    "off": False,
    "text": "grün ☃",
    "limit": 2500,
    "ratio": 0.25,
    "whole": 1.0,
    "retry": {"max": 3, "codes": [500, 503]},
    "list": [1, "two"],
    "a/b.c_d-e": "deep",
    "none": None,
    "odd//key": 1,
    "odd/../key": 2,
}
CANARY = {**DATA, "text": "new", "on": False}
SEED = "9d3c1a2b4e5f6071"
TARGETS = [
    case["target"]
    for case in json.loads((Path(__file__).parents[2] / "docs" / "spec" / "bucket-vectors.json").read_text())["buckets"]
    if case["seed"] == SEED
]


class Shop:
    """A server with one registry, and its rollout."""

    def __init__(self, world: World, app: App, http: HttpServer) -> None:
        self.world = world
        self.app = app
        self.http = http
        self.revision = 1

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http.port}{PATH}"

    @property
    def root(self) -> str:
        return f"http://{HOST}:{self.http.port}"

    def weight(self, weight: int | None, stable: dict[str, Any] | None = None, version: int = 1) -> None:
        """Roll version 2 out to so many percent; None: there is no rollout."""
        self.revision += 1
        canary = None if weight is None else {"version": 2, "weight": weight, "seed": SEED, "match": RULES}
        self.world.put(KEY, "uid-checkout", status_of(self.revision, version, stable or DATA, canary, CANARY))
        self.world.flush()


RULES = [{"attribute": "region", "values": ["eu", "7", "true"]}]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    world = World()
    world.serve("defaults", {"from.below": 7}, version=5)
    world.serve(data=DATA, canary={"version": 2, "weight": 0, "seed": SEED}, canary_data=CANARY)
    app = App(world.service.routes, world.metrics, lambda: 0.0)
    http = await serve_http(app, HOST, 0)
    made = Shop(world, app, http)
    made.weight(None)
    yield made
    await made.http.stop()


# Python.


@pytest.fixture
async def evaluate(shop: Shop) -> AsyncIterator[Any]:
    """Gives what the SDK of Python makes of a flag: (value, reason, variant, error code)."""
    provider = OFREPProvider(shop.url)
    provider.session.trust_env = False
    await asyncio.to_thread(api.set_provider, provider)
    client = api.get_client()

    async def evaluated(kind: str, key: str, default: Any, target: str = "", **attributes: Any) -> Any:
        context = EvaluationContext(target, attributes) if target or attributes else None
        return await asyncio.to_thread(getattr(client, f"get_{kind}_details"), key, default, context)

    yield evaluated
    await asyncio.to_thread(api.shutdown)
    provider.session.close()


@pytest.mark.parametrize(
    ("kind", "key", "default"),
    [
        ("boolean", "on", False),
        ("boolean", "off", True),
        ("string", "text", ""),
        ("string", "a/b.c_d-e", ""),
        ("integer", "limit", 0),
        ("integer", "whole", 0),
        ("float", "ratio", 0.0),
        ("object", "retry", {}),
        ("object", "list", {}),
    ],
)
async def test_python_evaluates_each_type(evaluate: Any, kind: str, key: str, default: Any) -> None:
    details = await evaluate(kind, key, default, "pod-0")
    assert details.error_code is None
    assert details.value == DATA[key]
    assert (details.reason, details.variant) == ("STATIC", "stable")
    assert details.flag_metadata["flagSetId"] == "shop/checkout"
    assert details.flag_metadata["version"] == 1
    assert (await evaluate(kind, key, default)).value == DATA[key], "without a context"


@pytest.mark.parametrize(
    ("kind", "key", "default", "error"),
    [
        ("boolean", "nothing", True, "FLAG_NOT_FOUND"),
        ("string", "a/b", "mine", "FLAG_NOT_FOUND"),
        ("boolean", "text", True, "TYPE_MISMATCH"),
        ("string", "limit", "mine", "TYPE_MISMATCH"),
        ("integer", "ratio", 4, "TYPE_MISMATCH"),
        ("float", "limit", 4.5, "TYPE_MISMATCH"),
        ("float", "whole", 4.5, "TYPE_MISMATCH"),
        ("object", "on", {"mine": 1}, "TYPE_MISMATCH"),
        ("string", "none", "mine", None),
        ("boolean", "none", True, None),
    ],
)
async def test_python_falls_back_to_the_codes_default(
    evaluate: Any, kind: str, key: str, default: Any, error: str | None
) -> None:
    details = await evaluate(kind, key, default)
    assert details.value == default
    assert details.error_code == error


async def test_python_keys_with_their_registry(shop: Shop) -> None:
    provider = OFREPProvider(shop.root)
    provider.session.trust_env = False
    found = await asyncio.to_thread(provider.resolve_integer_details, "shop/checkout/limit", 0)
    assert found.value == 2500
    provider.session.close()


async def test_python_follows_a_rollout(shop: Shop, evaluate: Any) -> None:
    async def given() -> dict[str, tuple[str, str]]:
        told = {target: await evaluate("string", "text", "", target) for target in TARGETS}
        return {target: (details.value, details.reason) for target, details in told.items()}

    await follow(shop, given)


async def follow(shop: Shop, given: Callable[[], Any]) -> None:
    """Go through a rollout, and compare who gets what with the buckets."""
    old, new = DATA["text"], CANARY["text"]
    assert await given() == dict.fromkeys(TARGETS, (old, "STATIC"))
    for weight in (10, 25, 75, 100):
        shop.weight(weight)
        chosen = {target for target in TARGETS if bucket(SEED, target) < weight * 100}
        assert await given() == {target: (new if target in chosen else old, "SPLIT") for target in TARGETS}
    shop.weight(None)
    assert await given() == dict.fromkeys(TARGETS, (old, "STATIC")), "rolled back"
    shop.weight(100)
    shop.weight(None, CANARY, 2)
    assert await given() == dict.fromkeys(TARGETS, (new, "STATIC")), "completed"


async def test_python_match_rules(shop: Shop, evaluate: Any) -> None:
    shop.weight(0)
    for region, expected in (("eu", "new"), (7, "new"), (True, "new"), ("us", DATA["text"]), (7.5, DATA["text"])):
        details = await evaluate("string", "text", "", "pod-0", region=region)
        assert details.value == expected
        assert details.reason == ("TARGETING_MATCH" if expected == "new" else "STATIC")


async def test_python_an_overlong_target_is_an_invalid_context(evaluate: Any) -> None:
    details = await evaluate("boolean", "on", False, "x" * 2000)
    assert (details.value, details.error_code) == (False, "INVALID_CONTEXT")
    assert details.error_message == "context.targetingKey: expected at most 1024 characters, not 2000"


# The event stream by itself.


@pytest.mark.parametrize("http2", [False, True])
async def test_an_event_stream(shop: Shop, http2: bool) -> None:
    async with httpx.AsyncClient(http1=not http2, http2=http2, trust_env=False, base_url=shop.root) as client:
        head = await client.head(EVENTS)
        assert (head.status_code, head.content) == (200, b"")
        async with client.stream("GET", EVENTS, timeout=60) as answer:
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert answer.headers["content-type"] == "text/event-stream"
            lines = answer.aiter_lines()
            ids = [await following(lines)]
            shop.weight(10)
            ids.append(await following(lines))
            assert ids[0] != ids[1]
            if not http2:  # h2 takes a GOAWAY for the end of everything
                draining = asyncio.create_task(shop.http.stop())
                assert [line async for line in lines if line and not line.startswith(":")] == []
                await draining
    async with asyncio.timeout(60):
        while len(shop.world.service.ofrep_events):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def following(lines: AsyncIterator[str]) -> str:
    """Give the id of the next event, which says what it has to."""
    told = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        told[name] = value
        if name == "data":
            assert json.loads(value) == {"type": "refetchEvaluation", "etag": told["id"]}
            return told["id"]
    raise AssertionError("the stream ended")


# JavaScript on a server.


@pytest.fixture
async def node(shop: Shop) -> AsyncIterator[JavaScript]:
    async with JavaScript("ofrep.cjs", "server", shop.url) as client:
        await client.call("start")
        yield client


async def test_javascript_evaluates_each_type(node: JavaScript) -> None:
    for kind, key, default in (
        ("boolean", "on", False),
        ("boolean", "off", True),
        ("string", "text", ""),
        ("string", "a/b.c_d-e", ""),
        ("number", "limit", 0),
        ("number", "ratio", 0),
        ("object", "retry", {}),
        ("object", "list", []),
    ):
        details = await node.call("evaluate", type=kind, key=key, default=default, context={"targetingKey": "pod-0"})
        assert details["value"] == DATA[key]
        assert (details["reason"], details["variant"]) == ("STATIC", "stable")
        assert details["flagMetadata"]["version"] == 1
        assert "errorCode" not in details
        assert (await node.call("evaluate", type=kind, key=key, default=default))["value"] == DATA[key]


async def test_javascript_falls_back_to_the_codes_default(node: JavaScript) -> None:
    for kind, key, default, error in (
        ("boolean", "nothing", True, "FLAG_NOT_FOUND"),
        ("string", "limit", "mine", "TYPE_MISMATCH"),
        ("number", "text", 4, "TYPE_MISMATCH"),
        ("boolean", "retry", True, "TYPE_MISMATCH"),
    ):
        details = await node.call("evaluate", type=kind, key=key, default=default)
        assert (details["value"], details["errorCode"]) == (default, error)
    assert (await node.call("evaluate", type="string", key="none", default="mine"))["value"] == "mine"


async def test_javascript_as_the_protocol_is_now(node: JavaScript) -> None:
    for key in ("limit", "a/b.c_d-e", "odd//key", "odd/../key", "retry", "text"):
        details = await node.call("resolve", key=key, default=DATA[key], context={"targetingKey": "pod-0"})
        assert (details["value"], details["reason"], details["variant"]) == (DATA[key], "STATIC", "stable")
    told = await node.call("resolve", key="none", default="mine")
    assert (told["value"], told.get("errorCode")) == ("mine", None), "null is the code's default, without an error"
    told = await node.call("resolve", key="nothing/here", default="mine")
    assert (told["key"], told["errorCode"]) == ("nothing/here", "FLAG_NOT_FOUND")


async def test_javascript_follows_a_rollout(shop: Shop, node: JavaScript) -> None:
    async def given() -> dict[str, tuple[str, str]]:
        found = {}
        for target in TARGETS:
            details = await node.call(
                "evaluate", type="string", key="text", default="", context={"targetingKey": target}
            )
            found[target] = details["value"], details["reason"]
        return found

    await follow(shop, given)


# JavaScript in a page.


def requests(client: JavaScript, path: str = BULK) -> list[dict[str, Any]]:
    return [event for event in client.events if event["event"] == "request" and event["path"] == path]


def changes(client: JavaScript) -> list[dict[str, Any]]:
    return [event for event in client.events if event["event"] == "PROVIDER_CONFIGURATION_CHANGED"]


async def seen(client: JavaScript, key: str = "text", kind: str = "string") -> Any:
    return (await client.call("evaluate", type=kind, key=key, default=""))["value"]


async def test_a_page_evaluates_all_flags_by_one_request(shop: Shop) -> None:
    async with JavaScript("ofrep.cjs", "web", shop.url, json.dumps({"changeDetection": "none"})) as page:
        await page.call("start", context={"targetingKey": "pod-0"})
        for kind, key, default in (
            ("boolean", "on", False),
            ("string", "text", ""),
            ("string", "a/b.c_d-e", ""),
            ("number", "limit", 0),
            ("number", "ratio", 0),
            ("object", "retry", {}),
            ("object", "list", []),
        ):
            details = await page.call("evaluate", type=kind, key=key, default=default)
            assert details["value"] == DATA[key]
            assert (details["reason"], details["variant"]) == ("STATIC", "stable")
        for kind, key, default, error in (
            ("boolean", "nothing", True, "FLAG_NOT_FOUND"),
            ("string", "limit", "mine", "TYPE_MISMATCH"),
            ("string", "none", "mine", None),
        ):
            details = await page.call("evaluate", type=kind, key=key, default=default)
            assert (details["value"], details.get("errorCode")) == (default, error)
        assert len(requests(page)) == 1
        shop.weight(50)
        inside = next(target for target in TARGETS if bucket(SEED, target) < 5000)
        await page.call("context", context={"targetingKey": inside})
        assert await seen(page) == "new"


async def test_a_page_that_polls_revalidates(shop: Shop) -> None:
    options = json.dumps({"changeDetection": "polling", "pollInterval": 50})
    async with JavaScript("ofrep.cjs", "web", shop.url, options) as page:
        await page.call("start", context={"targetingKey": TARGETS[0]})
        await page.until(lambda: [each["status"] for each in requests(page)[:3]] == [200, 304, 304])
        assert requests(page)[1]["known"].startswith('"')
        shop.weight(100)
        await page.until(lambda: bool(changes(page)))
        assert await seen(page) == "new"


async def test_a_page_follows_a_rollout_by_events(shop: Shop) -> None:
    inside = min(TARGETS, key=lambda target: bucket(SEED, target))
    least = bucket(SEED, inside) // 100 + 1
    async with JavaScript("ofrep.cjs", "web", shop.url) as page:
        await page.call("start", context={"targetingKey": inside})
        await page.until(lambda: len(requests(page)) == 2)
        assert requests(page)[1]["status"] == 304, "told on connecting, in case it missed something"
        assert requests(page)[1]["query"].startswith("?flagConfigEtag=")

        shop.weight(least - 1)
        await page.until(lambda: len(changes(page)) == 1)
        assert await seen(page) == DATA["text"]
        shop.weight(least)
        await page.until(lambda: len(changes(page)) == 2)
        assert await seen(page) == "new"
        before = len(requests(page))
        shop.weight(100)
        await page.until(lambda: len(requests(page)) == before + 1)
        assert requests(page)[-1]["status"] == 304, "a step that changes nothing here"
        shop.weight(None)
        await page.until(lambda: len(changes(page)) == 3)
        assert await seen(page) == DATA["text"]


async def test_a_page_comes_back_when_the_server_was_away(shop: Shop) -> None:
    async with JavaScript("ofrep.cjs", "web", shop.url) as page:
        await page.call("start", context={"targetingKey": "pod-0"})
        await page.until(lambda: len(requests(page)) == 2)
        await shop.http.stop()
        await page.until(lambda: any(event["event"] == "PROVIDER_STALE" for event in page.events))
        assert await seen(page) == DATA["text"], "what was known is still there"
        shop.weight(100)
        shop.http = await serve_http(shop.app, HOST, shop.http.port)
        await page.until(lambda: bool(changes(page)))
        assert await seen(page) == "new"
