"""Reads beside their peers: one key, the same unchanged, with authentication, and a registry of 100 KB.

    PYTHONPATH=operator python -m tests.bench --only serve

`configregistry serve`, nginx with the same bytes in a file, and etcd with its own client, each on one core and in
turn; the load is on the other cores.
"""

from __future__ import annotations

import json
import os
import urllib.request
from functools import partial

import msgspec
from tests.bench import harness, peers
from tests.bench.etcd import Peer as Etcd
from tests.bench.etcd import etcd
from tests.bench.load import CONNECTIONS, Measured, wrk
from tests.bench.nginx import nginx
from tests.bench.peers import Peer
from tests.bench.product import SERVER_CORE, Product, client_cores, pin
from tests.bench.world import World, place

from configregistry.kube.client import Api
from configregistry.kube.paths import REGISTRIES

REGISTRIES_HELD = 100
ROUNDS = 7
SECONDS = 4.0
WORKERS = 16
"""Of each of etcd's connections, for as much as one core of clients can ask."""
LARGE = 100_000
LARGE_KEYS = 1_000
PREFIX = f"/v1/namespaces/{place(0)[0]}/registries/"
KEY = f"{PREFIX}{place(0)[1]}/keys/key.1"
READER = "bench-reader"

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def run(world: World, *, quick: bool = False) -> str:
    """Measure; gives the report."""
    world.grow_decided(REGISTRIES_HELD)
    with world.product() as product:
        product.ready()
        world.run(_large)
        product.settled()
    tokens: list[str] = []
    world.run(lambda api: _reader(api, tokens))
    pin(os.getpid(), client_cores())
    try:
        return _run(world, tokens[0], *((1, 1.0) if quick else (ROUNDS, SECONDS)))
    finally:
        pin(os.getpid(), set(range(os.cpu_count() or 1)))


def _run(world: World, token: str, rounds: int, seconds: float) -> str:
    core, client = {SERVER_CORE}, list[float]()
    with (
        world.product("serve", cores=core) as open_to_all,
        world.product("serve", ["--auth", "kubernetes"], cores=core, name="guarded") as guarded,
        etcd(world.directory) as other,
    ):
        open_to_all.ready()
        guarded.ready()
        with _open(open_to_all.url + KEY, timeout=5) as answer:
            body, etag = answer.read(), answer.headers["etag"]
        with _open(open_to_all.url + PREFIX + "large", timeout=5) as answer:
            large = answer.read()
        other.put(len(body))
        with nginx(world.directory, key=body, large=large) as static:

            def ours(product: Product, path: str, **headers: str) -> Peer:
                return Peer(product.pid, partial(wrk, product.url + path, headers=headers))

            found = peers.in_turn(
                {
                    "configregistry": ours(open_to_all, KEY),
                    "the same, 304": ours(open_to_all, KEY, if_none_match=etag),
                    "the same, authenticated": ours(guarded, KEY, authorization=f"Bearer {token}"),
                    "nginx, the same bytes from a file": Peer(static.pid, partial(wrk, static.url)),
                    f"etcd, {CONNECTIONS} connections, one read at a time each": _etcd(other, 1, client),
                    f"etcd, {CONNECTIONS} connections, {WORKERS} reads at a time each": _etcd(other, WORKERS, client),
                },
                rounds,
                seconds,
            )
            whole = peers.in_turn(
                {
                    "configregistry": ours(open_to_all, PREFIX + "large"),
                    "nginx, the same bytes from a file": Peer(
                        static.pid, partial(wrk, static.url.replace("/key", "/large"))
                    ),
                },
                rounds,
                seconds,
            )
        memory = f"{open_to_all.resident():.0f} MiB; etcd: {other.resident():.0f} MiB"
    least = f"{min(client) * 1e6:.0f} to {max(client) * 1e6:.0f}"
    own, unchanged, allowed, static_key, alone, many = found.values()
    own_large, static_large = whole.values()
    goals = [
        peers.compared("one key, beside etcd, one read at a time", 3, own, alone),
        peers.compared(f"one key, beside etcd, {WORKERS} reads at a time", 3, own, many),
        peers.compared("one key, beside nginx", 0.5, own, static_key),
        peers.compared("authenticated, beside not", 0.8, allowed, own),
        peers.compared("304, beside 200", 1, unchanged, own),
        peers.compared(f"a registry of {len(large) / 1000:.0f} KB, beside nginx", 0.5, own_large, static_large),
    ]
    rows = [peers.row(name, each) for name, each in found.items()]
    large_rows = [peers.row(name, each) for name, each in whole.items()]
    return "\n".join(
        [
            f"## Reads beside their peers\n\n{harness.facts()}\n",
            harness.table(peers.COMPARED, goals),
            "",
            harness.table([f"one key ({len(body)} B), {CONNECTIONS} connections", *peers.HEADER], rows),
            "",
            harness.table([f"a registry of {len(large) / 1000:.0f} KB", *peers.HEADER], large_rows),
            "",
            f"Resident with {REGISTRIES_HELD} registries: {memory}. etcd's client used {least} µs of processor a read.",
        ]
    )


def _etcd(other: Etcd, workers: int, client: list[float]) -> Peer:
    def load(seconds: float) -> Measured:
        told = other.range(seconds, connections=CONNECTIONS, workers=workers)
        client.append(told["client"])
        return Measured(told["rate"], told["p50"], told["p99"])

    return Peer(other.pid, load)


async def _large(api: Api) -> None:
    namespace = place(0)[0]
    length = LARGE // LARGE_KEYS - len('"key.0000":"",')
    data = {f"key.{key:04}": f"{key}.".ljust(length, "x") for key in range(LARGE_KEYS)}
    made = {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": "large", "namespace": namespace},
        "spec": {"data": data},
    }
    await api.create(REGISTRIES.path(namespace), msgspec.json.encode(made))


async def _reader(api: Api, tokens: list[str]) -> None:
    """Make an account that may read, and give a token of it."""
    namespace = place(0)[0]
    await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", _object(READER))
    rules = [{"apiGroups": ["configregistry.dev"], "resources": ["configregistries/data"], "verbs": ["get"]}]
    await api.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", _object(READER, rules=rules))
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": READER}
    who = [{"kind": "ServiceAccount", "name": READER, "namespace": namespace}]
    binding = _object(READER, roleRef=role, subjects=who)
    await api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    made = await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{READER}/token", b"{}")
    tokens.append(json.loads(made)["status"]["token"])


def _object(name: str, **fields: object) -> bytes:
    return msgspec.json.encode({"metadata": {"name": name}, **fields})
