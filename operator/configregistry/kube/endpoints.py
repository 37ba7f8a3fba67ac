"""The pods behind a Service, by its EndpointSlices: where each can be reached, and whether it must answer.

Why not the Service's own address: that reaches one pod, and here each of them is to be asked.

It must never leave out a pod that consumers may still be connected to: one that ends (`terminating`) serves
what it has, and one that is not ready may have been.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.envelopes import decode_page
from configregistry.kube.failures import NOT_KUBERNETES, Unavailable
from configregistry.kube.paths import ENDPOINT_SLICES

SERVICE_LABEL: Final = "kubernetes.io/service-name"
_PAGE: Final = 500


class Endpoint(NamedTuple):
    """One pod. `host` is an address as a URL has it (an IPv6 one in brackets).

    `serving`: it answers requests, be it that it is about to end. One that does not serve is starting, or
    in trouble: it may be asked, and may be silent.
    """

    name: str
    host: str
    port: int
    serving: bool


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None


class _Target(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""


class _Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: tuple[str, ...] = ()
    conditions: _Conditions | None = None
    target_ref: _Target | None = None


class _Port(msgspec.Struct, frozen=True):
    name: str | None = None
    port: int | None = None


class Slice(msgspec.Struct, frozen=True, rename="camel"):
    """An EndpointSlice, without what nobody here asks for."""

    address_type: str = "IPv4"
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None


_SLICE: Final = msgspec.json.Decoder(Slice)


async def list_endpoints(api: Api, namespace: str, service: str, port: str) -> list[Endpoint]:
    """The pods behind a Service now, by quorum; `port` is the name of one of its ports.

    Raises `ApiError`. A Service that does not exist has none.
    """
    params = {"labelSelector": f"{SERVICE_LABEL}={service}", "limit": str(_PAGE)}
    slices: list[Slice] = []
    while True:
        path = ENDPOINT_SLICES.path(namespace)
        page = decode_page(await api.list(path, params))
        try:
            slices.extend(_SLICE.decode(item) for item in page.items)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"LIST {path}: not EndpointSlices: {error}", reason=NOT_KUBERNETES) from error
        if not page.continue_token:
            return endpoints_of(slices, port)
        params["continue"] = page.continue_token


def endpoints_of(slices: Iterable[Slice], port: str) -> list[Endpoint]:
    """Each pod once, in the order of their names.

    A pod may be in several slices: one for each family of addresses (IPv4 is then taken), and twice for a moment
    when it is moved from one to another.
    """
    found: dict[str, Endpoint] = {}
    for each in sorted(slices, key=lambda each: each.address_type):
        number = next((one.port for one in each.ports or () if (one.name or "") == port), None)
        if number is None or each.address_type == "FQDN":
            continue
        for endpoint in each.endpoints or ():
            if not endpoint.addresses:
                continue
            address = endpoint.addresses[0]
            target = endpoint.target_ref or _Target()
            made = Endpoint(target.name or address, _host(address), number, _serves(endpoint.conditions))
            known = found.get(target.uid or address)
            if known is None or (made.serving and not known.serving):
                found[target.uid or address] = made
    return sorted(found.values())


def _serves(conditions: _Conditions | None) -> bool:
    """What is not told counts as true; `serving` is `ready` for who does not know it (the API's own rules)."""
    if conditions is None:
        return True
    ready = conditions.ready is not False
    return ready if conditions.serving is None else conditions.serving


def _host(address: str) -> str:
    return f"[{address}]" if ip_address(address).version == 6 else address  # noqa: PLR2004
