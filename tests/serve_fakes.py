"""A cluster as serving sees it, made of dicts: objects come, change and go, in any order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

from configregistry.kube import payload
from configregistry.kube.objects import Meta, OwnerReference, RegistryObject, RevisionObject
from configregistry.model.canonical import canonical, content_hash
from configregistry.model.names import API_VERSION, KIND
from configregistry.serve.app import App
from configregistry.serve.hydrate import Hydrator
from configregistry.serve.responses import Handle, Request, Response
from configregistry.serve.service import Service
from configregistry.state import Registry
from configregistry.telemetry.metrics import Metrics

Key = tuple[str, str]


class FakeClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> Any:
        raise AssertionError("serving has no use for wall time")


def revision(
    uid: str, data: dict[str, Any], parent: int = 0, *, label: str = "", raw: bytes | None = None
) -> RevisionObject:
    """A version without a name yet; `World.record` gives it one."""
    owner = OwnerReference(API_VERSION, KIND, "any", uid, controller=True)
    json = canonical(data)
    return RevisionObject(
        Meta("", owner_references=(owner,)),
        0,
        label or content_hash(json),
        parent,
        len(data),
        payload.encode(json) if raw is None else raw,
    )


def named(made: RevisionObject, namespace: str, registry: str, number: int) -> RevisionObject:
    """The same version under its name."""
    meta = msgspec.structs.replace(made.meta, namespace=namespace, name=f"{registry}-{number}")
    return msgspec.structs.replace(made, meta=meta, number=number)


def digest(data: dict[str, Any]) -> str:
    return content_hash(canonical(data))


@dataclass
class World:
    """Objects, the hydrator that follows them, and the routes over it."""

    begun: bool = True
    metrics: Metrics = field(default_factory=Metrics)
    clock: FakeClock = field(default_factory=FakeClock)
    registries: dict[Key, RegistryObject] = field(default_factory=dict)
    revisions: dict[Key, RevisionObject] = field(default_factory=dict)
    asked: list[tuple[Key, str, int]] = field(default_factory=list)
    woken: int = 0

    def __post_init__(self) -> None:
        self.counter = 0
        self.hydrator = Hydrator(
            self.registries,
            self.revisions,
            metrics=self.metrics,
            clock=self.clock,
            ask=lambda key, uid, number: self.asked.append((key, uid, number)),
            wake=self._wake,
        )
        self.stale = 0.0
        self.service = Service(self.hydrator)
        self.app = App(self.service.routes, self.metrics, lambda: self.stale)
        if self.begun:
            self.hydrator.begin()

    def _wake(self) -> None:
        self.woken += 1

    def put(self, key: Key, uid: str, status: dict[str, Any] | bytes | None) -> None:
        self.counter += 1
        raw = status if isinstance(status, bytes) else json.dumps(status).encode() if status else b""
        meta = Meta(key[1], key[0], uid, str(self.counter))
        self.registries[key] = RegistryObject(meta, b"{}", raw)
        self.hydrator.registry_changed(key)

    def drop(self, key: Key) -> None:
        del self.registries[key]
        self.hydrator.registry_changed(key)

    def record(self, key: Key, number: int, made: RevisionObject) -> None:
        name = (key[0], f"{key[1]}-{number}")
        self.revisions[name] = named(made, *key, number)
        self.hydrator.revision_changed(name)

    def forget(self, key: Key, number: int) -> None:
        name = (key[0], f"{key[1]}-{number}")
        del self.revisions[name]
        self.hydrator.revision_changed(name)

    def flush(self) -> None:
        while self.hydrator.flush():
            pass

    def published(self, namespace: str, name: str) -> Registry:
        registry = self.hydrator.snapshot().registry(namespace, name)
        assert registry is not None
        return registry

    def serve(
        self,
        name: str = "checkout",
        data: dict[str, Any] | None = None,
        *,
        namespace: str = "shop",
        revision_number: int = 1,
        version: int = 1,
        canary: dict[str, Any] | None = None,
        canary_data: dict[str, Any] | None = None,
        fallback: str | None = None,
        uid: str = "",
    ) -> None:
        """Put a registry with its content, and publish it."""
        key = (namespace, name)
        uid = uid or f"uid-{name}"
        data = {} if data is None else data
        self.record(key, version, revision(uid, data))
        status = status_of(revision_number, version, data, canary, canary_data, fallback)
        if canary is not None:
            assert canary_data is not None
            self.record(key, canary["version"], revision(uid, canary_data, version))
        self.put(key, uid, status)
        self.flush()

    def get(self, path: str, query: str = "", *, method: str = "GET", **headers: str) -> Response:
        return ask(self.app, path, query, method=method, **headers)


def status_of(
    revision_number: int,
    version: int | None,
    data: dict[str, Any] | None,
    canary: dict[str, Any] | None = None,
    canary_data: dict[str, Any] | None = None,
    fallback: str | None = None,
) -> dict[str, Any]:
    status: dict[str, Any] = {"revision": revision_number, "observedGeneration": 1}
    if version is not None and data is not None:
        status["stable"] = {
            "version": version,
            "hash": digest(data),
            "since": "",
            "keys": len(data),
        }
    if canary is not None and canary_data is not None:
        status["canary"] = {"weight": 0, "seed": "s", **canary, "hash": digest(canary_data)}
    if fallback:
        status["fallback"] = {"name": fallback}
    return status


def ask(handle: Handle, path: str, query: str = "", *, method: str = "GET", **headers: str) -> Response:
    """A request that is answered whole and at once."""
    lower = {name.lower().replace("_", "-"): value for name, value in headers.items()}
    reply = handle(request(path, query, method=method, headers=lower))
    assert isinstance(reply, Response), reply
    return reply


def request(
    path: str,
    query: str = "",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    content: bytes = b"",
    user: str = "",
    peer: str = "192.0.2.1",
) -> Request:
    """A request as a server makes it; header names in lower case."""
    return Request(method, path, query, (headers or {}).get, content, peer, user)


def header(response: Response, name: str) -> Any:
    found = [value for key, value in response.headers if key == name]
    assert len(found) <= 1, found
    return found[0] if found else None


def body(response: Response) -> Any:
    return json.loads(response.body)
