"""What the admission webhook costs whoever applies, by the size of the registry.

    PYTHONPATH=operator python -m tests.bench --only admission

Two looks at one product, in turn within each round:

- the webhook alone, over TLS as the API server asks it: a review that is judged, beside one of the same bytes that
  is allowed unread (a subresource). The peer has the same way: TLS, aiohttp, kopf, one parse; what is left is ours.
- a server-side apply with `dryRun=All` in a namespace that the webhook is asked for, beside the same apply in one
  that it is not: the API server's own work is the peer. Every apply changes a value, or it would pass unread.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import msgspec
from tests.bench import harness
from tests.bench.product import Product
from tests.bench.world import World, place, say
from tests.cluster import wait_for
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.helm import Helm

from configregistry.handlers.webhook import PATH
from configregistry.kube.client import Api
from configregistry.kube.paths import REGISTRIES

SIZES = {"2 KB": 2_000, "100 KB": 100_000, "512 KB": 510_000}
"""Bytes of content, in keys of some 40."""
REVIEWS = {"2 KB": 400, "100 KB": 200, "512 KB": 100}
APPLIES = {"2 KB": 40, "100 KB": 12, "512 KB": 4}
ROUNDS = 3
PROCESSOR = """\
Processor of the product for one review, which other programs' load does not lengthen. What else the product does in
that time, such as asking for consumers every 2 s, is in it."""
CONFIGURATION = "bench-admission"
APPLY = "application/apply-patch+yaml"


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    world.grow_decided(100)
    (port,) = pick_ports(1)
    with_it, without_it = place(0)[0], place(1)[0]
    _configure(world, with_it, port)
    options = [
        f"--webhook-port={port}",
        f"--webhook-secret={with_it}/webhook",
        f"--webhook-configuration={CONFIGURATION}",
    ]
    try:
        with world.product(options=options) as product:
            product.ready()
            product.settled()
            wait_for(lambda: _bundle(world), "the caBundle")
            webhook = Webhook(product, port, _bundle(world))
            rounds = 1 if quick else ROUNDS
            share = 0.1 if quick else 1.0
            alone = {size: _alone(webhook, size, rounds, share) for size in SIZES}
            applied = {size: _applied(world, size, (with_it, without_it), rounds, share) for size in SIZES}
            return _report(webhook, alone, applied)
    finally:
        world.cluster.kubectl("delete", "validatingwebhookconfiguration", CONFIGURATION, "--ignore-not-found")


class Webhook:
    """One kept connection, as an API server has."""

    def __init__(self, product: Product, port: int, bundle: str) -> None:
        self.product = product
        self.processor: dict[tuple[str, str], list[float]] = {}
        """Seconds of the product's processor for one review, by size and candidate, round by round."""
        context = ssl.create_default_context(cadata=bundle)
        self._connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=30, context=context)

    def ask(self, body: bytes) -> float:
        """Seconds to the answer, which must allow and must not warn."""
        started = time.perf_counter()
        self._connection.request("POST", PATH, body=body, headers={"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        seconds = time.perf_counter() - started
        response = json.loads(text)["response"]
        assert response["allowed"], text
        assert "warnings" not in response, text
        return seconds


def _data(size: int, edit: int) -> dict[str, Any]:
    count = size // 41
    values = ("value of key {}, x", {"max": 3, "of": ["{}"]}, 0.25, True, "value of key {} longer by a bit")
    data = {f"key.{number:05}.longer": values[number % len(values)] for number in range(count)}
    return {**data, "edit": edit}


def _object(namespace: str, size: int, edit: int) -> dict[str, Any]:
    return {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": "measured", "namespace": namespace},
        "spec": {
            "data": _data(size, edit),
            "schema": {"type": "object", "required": ["edit"], "properties": {"edit": {"type": "integer"}}},
        },
    }


def _review(size: int, subresource: str) -> bytes:
    """An UPDATE of one value: both objects are in it."""
    namespace = place(0)[0]
    request = {
        "uid": "0",
        "kind": {"group": "configregistry.dev", "version": "v1alpha1", "kind": "ConfigRegistry"},
        "resource": {"group": "configregistry.dev", "version": "v1alpha1", "resource": "configregistries"},
        "subResource": subresource,
        "operation": "UPDATE",
        "name": "measured",
        "namespace": namespace,
        "userInfo": {"username": "bench"},
        "object": _object(namespace, size, 2),
        "oldObject": _object(namespace, size, 1),
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(review).encode()


def _alone(webhook: Webhook, size: str, rounds: int, share: float) -> dict[str, list[list[float]]]:
    """By candidate, the seconds of each review of each round."""
    say(f"reviews of {size}")
    bodies = {name: _review(SIZES[size], "status" if name == "unread" else "") for name in ("judged", "unread")}
    count = max(10, int(REVIEWS[size] * share))

    def measure(name: str) -> list[float]:
        for _ in range(5):
            webhook.ask(bodies[name])
        before = webhook.product.cpu()
        found = [webhook.ask(bodies[name]) for _ in range(count)]
        webhook.processor.setdefault((size, name), []).append((webhook.product.cpu() - before) / count)
        return found

    return _in_turn({name: functools.partial(measure, name) for name in bodies}, rounds)


def _applied(
    world: World, size: str, namespaces: tuple[str, str], rounds: int, share: float
) -> dict[str, list[list[float]]]:
    """The same of applies, with the webhook and without."""
    say(f"applies of {size}")
    count = max(5, int(APPLIES[size] * share))
    found: dict[str, list[list[float]]] = {}

    async def work(api: Api) -> None:
        async def apply(namespace: str, *, dry: bool = True) -> float:
            path = REGISTRIES.path(namespace, "measured") + "?fieldManager=bench&force=true" + "&dryRun=All" * dry
            body = msgspec.json.encode(_object(namespace, SIZES[size], world.edit()))
            started = time.perf_counter()
            await api.patch(path, body, kind=APPLY)
            return time.perf_counter() - started

        # On a busy machine the API server alone takes longer for 512 KB than a controller would wait.
        api.timeouts = api.timeouts._replace(total=60.0)
        names = dict(zip(("with", "without"), namespaces, strict=True))
        for namespace in namespaces:
            await apply(namespace, dry=False)
        for turn in range(rounds):
            for name in sorted(names, reverse=bool(turn % 2)):
                await apply(names[name])
                found.setdefault(name, []).append([await apply(names[name]) for _ in range(count)])

    world.run(work)
    return found


def _in_turn(candidates: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {name: [] for name in candidates}
    for turn in range(rounds):
        for name in sorted(candidates, reverse=bool(turn % 2)):
            found[name].append(candidates[name]())
    return found


def _configure(world: World, namespace: str, port: int) -> None:
    """The chart's configuration, called by URL, for one namespace, and strict: what fails must show."""
    (found,) = (each for each in Helm().template() if each["kind"] == "ValidatingWebhookConfiguration")
    found["metadata"]["name"] = CONFIGURATION
    (webhook,) = found["webhooks"]
    webhook["clientConfig"] = {"url": f"https://{LOOPBACK}:{port}{PATH}"}
    webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    webhook["failurePolicy"] = "Fail"
    world.cluster.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(found))


def _bundle(world: World) -> str:
    told = world.cluster.kubectl(
        "get", "validatingwebhookconfiguration", CONFIGURATION, "--output=jsonpath={.webhooks[0].clientConfig.caBundle}"
    ).stdout
    return base64.b64decode(told).decode()


def _report(
    webhook: Webhook, alone: dict[str, dict[str, list[list[float]]]], applied: dict[str, dict[str, list[list[float]]]]
) -> str:
    spent = [
        [size, *(harness.spread(webhook.processor[size, name], 1e-3, 1) for name in ("judged", "unread"))]
        for size in SIZES
    ]
    return "\n".join(
        [
            "### The admission webhook\n",
            harness.facts("kopf", "aiohttp", "msgspec", "jsonschema-rs"),
            "",
            "One review at a time over one connection; an UPDATE, so both objects are in it. Goal: p99 below 50 ms.",
            "",
            _table("judged", "allowed unread (peer)", alone, ("judged", "unread")),
            "",
            PROCESSOR,
            "",
            harness.table(["content", "judged: ms", "allowed unread: ms"], spent),
            "",
            "The same seen from outside: `PATCH` (server-side apply, `dryRun=All`), one at a time.",
            "",
            _table("with the webhook", "without it (peer)", applied, ("with", "without")),
        ]
    )


def _table(ours: str, peers: str, measured: dict[str, dict[str, list[list[float]]]], names: tuple[str, str]) -> str:
    header = ["content", f"{ours}: p50 ms", "p99 ms", f"{peers}: p50 ms", "p99 ms", "ratio of p50", "ratio of p99"]
    rows = []
    for size, found in measured.items():
        row: list[Any] = [size]
        by_round = {
            (name, share): [harness.percentile(each, share) for each in found[name]]
            for name in names
            for share in (0.5, 0.99)
        }
        row += [
            f"{harness.percentile([second for each in found[name] for second in each], share) * 1e3:.1f}"
            for name in names
            for share in (0.5, 0.99)
        ]
        row += [harness.ratios(by_round[names[0], share], by_round[names[1], share]) for share in (0.5, 0.99)]
        rows.append(row)
    return harness.table(header, rows)
