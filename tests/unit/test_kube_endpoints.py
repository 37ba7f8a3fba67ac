"""Which pods stand behind a Service, by its EndpointSlices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from configregistry.kube.client import Api
from configregistry.kube.endpoints import Endpoint, Slice, endpoints_of, list_endpoints
from configregistry.kube.failures import Unavailable


def endpoint(name: str, *addresses: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": list(addresses), "conditions": conditions, "targetRef": {"name": name, "uid": f"uid-{name}"}}


def slice_of(
    *endpoints: dict[str, Any], kind: str = "IPv4", ports: tuple[tuple[str, int], ...] = (("http", 8080),)
) -> dict[str, Any]:
    return {
        "addressType": kind,
        "endpoints": list(endpoints),
        "ports": [{"name": name, "port": port} for name, port in ports],
    }


def found(*slices: dict[str, Any]) -> list[Endpoint]:
    return endpoints_of(msgspec.convert(list(slices), list[Slice]), "http")


@pytest.mark.parametrize(
    ("conditions", "serving"),
    [
        ({}, True),
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_who_must_answer(conditions: dict[str, bool], serving: bool) -> None:
    assert found(slice_of(endpoint("a", "10.0.0.1", **conditions))) == [Endpoint("a", "10.0.0.1", 8080, serving)]


def test_each_pod_once() -> None:
    four = slice_of(endpoint("b", "10.0.0.2", "10.0.0.9"), endpoint("a", "10.0.0.1"))
    six = slice_of(endpoint("b", "fd00::2"), endpoint("c", "fd00::3"), kind="IPv6")
    moved = slice_of(endpoint("a", "10.0.0.1"))
    assert found(six, four, moved) == [
        Endpoint("a", "10.0.0.1", 8080, True),
        Endpoint("b", "10.0.0.2", 8080, True),
        Endpoint("c", "[fd00::3]", 8080, True),
    ]


def test_one_that_serves_by_any_slice_must_answer() -> None:
    assert found(slice_of(endpoint("a", "10.0.0.1", ready=False)), slice_of(endpoint("a", "10.0.0.1", ready=True))) == [
        Endpoint("a", "10.0.0.1", 8080, True)
    ]


def test_without_a_pod_the_address_is_the_name() -> None:
    assert found(slice_of({"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]})) == [
        Endpoint("10.0.0.1", "10.0.0.1", 8080, True),
        Endpoint("10.0.0.2", "10.0.0.2", 8080, True),
    ]


@pytest.mark.parametrize(
    "odd",
    [
        slice_of(endpoint("a", "10.0.0.1"), ports=(("grpc", 9090),)),
        slice_of(endpoint("a", "a.example"), kind="FQDN"),
        slice_of(endpoint("a")),
        {"addressType": "IPv4", "endpoints": None, "ports": None},
    ],
)
def test_what_cannot_be_asked_is_left_out(odd: dict[str, Any]) -> None:
    assert found(odd) == []


class Pages:
    """A list of EndpointSlices in pages."""

    def __init__(self, *pages: list[Any]) -> None:
        self.pages = pages
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    async def list(self, path: str, params: Mapping[str, str]) -> bytes:
        self.asked.append((path, dict(params)))
        number = int(params.get("continue", "0"))
        more = str(number + 1) if number + 1 < len(self.pages) else ""
        return json.dumps(
            {"metadata": {"resourceVersion": "7", "continue": more}, "items": self.pages[number]}
        ).encode()


async def test_all_pages_of_the_service_are_read() -> None:
    pages = Pages([slice_of(endpoint("a", "10.0.0.1"))], [slice_of(endpoint("b", "10.0.0.2"))])
    assert [each.name for each in await list_endpoints(cast("Api", pages), "ops", "serve", "http")] == ["a", "b"]
    path, params = pages.asked[0]
    assert path == "/apis/discovery.k8s.io/v1/namespaces/ops/endpointslices"
    assert params["labelSelector"] == "kubernetes.io/service-name=serve"


async def test_what_is_no_slice_is_an_error_and_not_no_pod() -> None:
    with pytest.raises(Unavailable):
        await list_endpoints(cast("Api", Pages([{"endpoints": 7}])), "ops", "serve", "http")
