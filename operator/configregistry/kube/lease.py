"""A `coordination.k8s.io` Lease as an object: read it, take it, renew it, give it up; each write on what was read.

The election (see `election`) decides by these; here no time passes and nothing is tried twice. What others wrote
into the object (labels, owners) stays. The epoch is kept as `leaseTransitions`, where `kubectl get lease -o yaml`
shows it and every client of Leases leaves it alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.failures import NotFound
from configregistry.kube.paths import LEASES

RELEASED: Final = 1
"""Seconds that a Lease nobody holds is said to last: as client-go says it."""


class Place(NamedTuple):
    """Where the Lease is."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Found(NamedTuple):
    """A Lease as it was read. `holder` is empty where nobody holds it; `seconds`: how long it lasts."""

    version: str
    holder: str
    seconds: int
    epoch: int
    document: dict[str, Any]


class Leases:
    """One Lease. Everything that is awaited asks the API server and raises `ApiError`."""

    def __init__(self, api: Api, place: Place) -> None:
        self.place = place
        self._api = api

    async def read(self) -> Found | None:
        """The Lease now; None: 404."""
        try:
            return _found(await self._api.get(LEASES.path(*self.place)))
        except NotFound:
            return None

    async def take(self, found: Found | None, holder: str, epoch: int, seconds: int, now: datetime) -> Found:
        """Hold it from now on. Raises `Conflict` or `AlreadyExists` where somebody was faster."""
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": _micro(now),
            "renewTime": _micro(now),
            "leaseTransitions": epoch,
        }
        return await self._write(found, spec)

    async def renew(self, found: Found, seconds: int, now: datetime) -> Found:
        """Say that its holder is still there. Raises `Conflict` where somebody has changed it, `NotFound`."""
        return await self._write(found, {"renewTime": _micro(now), "leaseDurationSeconds": seconds})

    async def release(self, found: Found, now: datetime) -> None:
        """Let whoever waits for it take it at once."""
        await self._write(found, {"holderIdentity": "", "leaseDurationSeconds": RELEASED, "renewTime": _micro(now)})

    async def _write(self, found: Found | None, spec: dict[str, Any]) -> Found:
        if found is None:
            body = {
                "apiVersion": f"{LEASES.group}/{LEASES.version}",
                "kind": "Lease",
                "metadata": {"name": self.place.name, "namespace": self.place.namespace},
                "spec": spec,
            }
            return _found(await self._api.create(LEASES.path(self.place.namespace), msgspec.json.encode(body)))
        # With the resourceVersion that was read within.
        body = {**found.document, "spec": {**(found.document.get("spec") or {}), **spec}}
        return _found(await self._api.replace(LEASES.path(*self.place), msgspec.json.encode(body)))


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()


def _found(raw: bytes) -> Found:
    lease = msgspec.json.decode(raw, type=_Lease)
    spec = lease.spec
    return Found(
        lease.metadata.resource_version,
        spec.holder_identity or "",
        spec.lease_duration_seconds or 0,
        spec.lease_transitions or 0,
        msgspec.json.decode(raw),
    )


def _micro(moment: datetime) -> str:
    """`metav1.MicroTime`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
