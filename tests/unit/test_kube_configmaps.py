"""What a write of a ConfigMap says: only the difference, and which object in which state it is meant for.

`Wire` is no API server, it keeps what is sent. What the real one makes of it: tests/integration/test_projection.py.
"""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.kube.client import Api
from configregistry.kube.configmaps import ConfigMapObject, Wanted, change, create, holds, read_whole, remove
from configregistry.kube.failures import Conflict, Forbidden, NotFound, Unavailable
from configregistry.kube.objects import Meta

META: dict[str, Any] = {"name": "files", "namespace": "shop", "uid": "u", "resourceVersion": "7"}
FOUND = ConfigMapObject(Meta("files", "shop", "u", "7"), {"a": "1", "b": "2"})
WANTED = Wanted({"l": "x"}, {"n": "y"}, {"a": "1", "c": "3"})
PATH = "/api/v1/namespaces/shop/configmaps"


class Wire:
    """Keeps what is sent, and answers what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sent: list[tuple[str, str, Any]] = []

    def _answer(self, method: str, path: str, body: Any = None) -> bytes:
        self.sent.append((method, path, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()

    async def get(self, path: str) -> bytes:
        return self._answer("GET", path)

    async def create(self, path: str, body: bytes) -> bytes:
        return self._answer("POST", path, json.loads(body))

    async def patch(self, path: str, body: bytes, *, accept: str) -> bytes:
        assert "PartialObjectMetadata" in accept
        return self._answer("PATCH", path, json.loads(body))

    async def delete(self, path: str, *, uid: str, resource_version: str) -> bytes:
        return self._answer("DELETE", path, (uid, resource_version))

    @property
    def api(self) -> Api:
        return cast("Api", self)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"data": {"a": "1", "b": "2"}}, FOUND),
        ({"data": None}, FOUND._replace(data={})),
        ({"immutable": False, "binaryData": {}}, FOUND._replace(data={})),
        ({"binaryData": {"x": "AAAA"}, "immutable": True}, FOUND._replace(data={}, binary=True, immutable=True)),
    ],
)
async def test_a_whole_one_is_read(parts: dict[str, Any], found: ConfigMapObject) -> None:
    assert await read_whole(Wire({"metadata": META, **parts}).api, "shop", "files") == found


async def test_absent_is_what_an_api_server_calls_absent() -> None:
    assert await read_whole(Wire(NotFound("x")).api, "shop", "files") is None
    for error in (Forbidden("x"), Unavailable("x")):
        with pytest.raises(type(error)):
            await read_whole(Wire(error).api, "shop", "files")
    for body in (b"[]", b"{}", b"<html>", b'{"metadata":{"name":"files"},"data":{"a":1}}'):
        with pytest.raises(Unavailable, match="not a ConfigMap"):
            await read_whole(Wire(body).api, "shop", "files")


async def test_a_new_one_says_whose_it_is() -> None:
    wire = Wire({"metadata": META})
    made = await create(wire.api, Meta("checkout", "shop", "uid-1"), "files", WANTED)
    assert (made.uid, made.resource_version) == ("u", "7")
    [(method, path, body)] = wire.sent
    assert (method, path, body["kind"], body["data"]) == ("POST", PATH, "ConfigMap", {"a": "1", "c": "3"})
    [owner] = body["metadata"]["ownerReferences"]
    assert (owner["name"], owner["uid"], owner["controller"]) == ("checkout", "uid-1", True)
    assert (body["metadata"]["labels"], body["metadata"]["annotations"]) == ({"l": "x"}, {"n": "y"})


async def test_a_change_is_the_difference_to_what_was_read_and_for_that_alone() -> None:
    wire = Wire({"metadata": META})
    await change(wire.api, FOUND, WANTED)
    await change(wire.api, FOUND._replace(binary=True), WANTED)
    metadata = {"uid": "u", "resourceVersion": "7", "labels": {"l": "x"}, "annotations": {"n": "y"}}
    body = {"metadata": metadata, "data": {"b": None, "c": "3"}}
    assert wire.sent == [
        ("PATCH", f"{PATH}/files", body),
        ("PATCH", f"{PATH}/files", {**body, "binaryData": None}),
    ]
    await remove(wire.api, FOUND.meta)
    assert wire.sent[-1] == ("DELETE", f"{PATH}/files", ("u", "7"))
    for act in (change(Wire(Conflict("x")).api, FOUND, WANTED), remove(Wire(Conflict("x")).api, FOUND.meta)):
        with pytest.raises(Conflict):
            await act


DATA = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["", "1", "2"]), max_size=6)


@given(DATA, DATA)
async def test_a_merge_patch_leads_from_any_data_to_any_other(before: dict[str, str], after: dict[str, str]) -> None:
    wire = Wire({"metadata": META})
    await change(wire.api, FOUND._replace(data=before), WANTED._replace(data=after))
    [(_, _, body)] = wire.sent
    merged = {**before, **body["data"]}
    assert {key: text for key, text in merged.items() if text is not None} == after
    assert not [key for key, text in body["data"].items() if before.get(key) == text]


def test_what_holds_what_it_should() -> None:
    meta = Meta("files", "shop", "u", "7", labels={"l": "x", "other": "1"}, annotations={"n": "y", "other": "1"})
    right = ConfigMapObject(meta, dict(WANTED.data))
    assert holds(right, WANTED)
    wrong = [
        right._replace(data={"a": "1"}),
        right._replace(data={**WANTED.data, "more": ""}),
        right._replace(binary=True),
        right._replace(immutable=True),
        right._replace(meta=Meta("files", labels={"l": "x"}, annotations={"n": "z"})),
        right._replace(meta=Meta("files", annotations={"n": "y"})),
    ]
    assert [each for each in wrong if holds(each, WANTED)] == []
