"""Failures, paths, objects, payloads and the cache: what kube does without a server."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64encode
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from configregistry.kube import payload, shallow
from configregistry.kube.cache import Cache
from configregistry.kube.envelopes import decode_event, decode_page
from configregistry.kube.failures import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
    from_answer,
    from_event,
)
from configregistry.kube.objects import (
    Key,
    Meta,
    MetaObject,
    decode_meta,
    decode_registry,
    decode_revision,
)
from configregistry.kube.paths import CONFIGMAPS, REGISTRIES, REVISIONS
from configregistry.kube.payload import DamagedVersion
from configregistry.model.canonical import content_hash
from configregistry.model.content import build
from configregistry.model.names import MAX_CONTENT_BYTES


def status(code: int, reason: str, **more: Any) -> bytes:
    body = {"kind": "Status", "code": code, "reason": reason, "message": "why", **more}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (404, status(404, "NotFound"), NotFound),
        (404, b"404 page not found", Unavailable),
        (404, b'{"kind":"Nonsense"}', Unavailable),
        (404, b"\xff\xfe", Unavailable),
        (409, status(409, "Conflict"), Conflict),
        (409, status(409, "AlreadyExists"), AlreadyExists),
        (409, b"busy", Unavailable),
        (410, status(410, "Expired"), Gone),
        (410, status(410, "Gone"), Gone),
        (400, status(400, "BadRequest"), Invalid),
        (422, status(422, "Invalid"), Invalid),
        (422, b"no", Unavailable),
        (401, b"who are you", Unauthorized),
        (403, status(403, "Forbidden"), Forbidden),
        (429, b"", Throttled),
        (500, status(500, "InternalError"), Unavailable),
        (503, b"<html>", Unavailable),
        (504, status(504, "Timeout"), Unavailable),
        (302, b"", Unavailable),
    ],
)
def test_an_answer_is_what_its_status_says_if_an_api_server_says_it(
    code: int, body: bytes, kind: type[ApiError]
) -> None:
    error = from_answer(code, body, what="GET /x", write=True)
    assert type(error) is kind
    assert error.status == code
    assert str(error).startswith(f"GET /x: {code} ")
    assert error.outcome_unknown == (kind is Unavailable)
    assert not from_answer(code, body, what="GET /x").outcome_unknown


def test_an_answer_tells_when_to_come_again_and_what_it_is_about() -> None:
    details = {"name": "a", "kind": "configmaps", "retryAfterSeconds": 3}
    error = from_answer(429, status(429, "TooManyRequests", details=details), what="x")
    assert error.retry_after == 3
    assert error.details.name == "a"
    assert from_answer(503, b"", what="x", retry_after="9").retry_after == 9
    assert from_answer(503, b"", what="x", retry_after="Wed, 21 Oct").retry_after is None


def test_the_object_of_an_error_event_is_a_failure_like_any() -> None:
    assert type(from_event(status(410, "Expired"), what="x")) is Gone
    assert type(from_event(b"[]", what="x")) is Unavailable


def test_paths() -> None:
    assert CONFIGMAPS.path("shop", "a") == "/api/v1/namespaces/shop/configmaps/a"
    assert REVISIONS.path() == "/apis/apps/v1/controllerrevisions"
    assert REGISTRIES.path("shop", "a", "status").endswith("/shop/configregistries/a/status")
    assert CONFIGMAPS.path("shop", "a/../b?c") == "/api/v1/namespaces/shop/configmaps/a%2F..%2Fb%3Fc"
    for bad in ("", ".", ".."):
        with pytest.raises(ValueError, match="no path"):
            CONFIGMAPS.path("shop", bad)
        with pytest.raises(ValueError, match="no path"):
            CONFIGMAPS.path(bad)


REGISTRY: dict[str, Any] = {
    "metadata": {
        "name": "checkout",
        "namespace": "shop",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": None,
        "labels": None,
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x" * 999, "a": "b"},
        "ownerReferences": [{"kind": "ConfigRegistry", "uid": "o", "controller": True}],
        "managedFields": [
            {"manager": "argocd", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}},
            {"manager": "kubectl", "time": "2026-01-02T00:00:00Z"},
            {"manager": "operator", "time": "2026-01-03T00:00:00Z", "subresource": "status"},
        ],
    },
    "spec": {"data": {"a": None}},
}


def test_an_object_is_its_metadata_and_bytes() -> None:
    found = decode_registry(json.dumps(REGISTRY).encode())
    assert found.meta.key == ("shop", "checkout")
    assert found.meta.annotations == {"a": "b"}
    assert found.meta.labels == {}
    assert found.meta.editor == "kubectl"
    assert found.meta.owned_by("o")
    assert not found.meta.owned_by("u")
    assert not found.meta.terminating
    assert found.spec == b'{"data": {"a": null}}'
    assert found.status == b""


@pytest.mark.parametrize(
    ("name", "registry", "number", "revision"),
    [
        ("checkout-7", "checkout", 7, 7),
        ("checkout-7", "checkout", 7, None),
        ("checkout-7", "checkout", 0, 8),
        ("checkout-007", "checkout", 0, 7),
        ("checkout-0", "checkout", 0, 0),
        ("checkout-x", "checkout", 0, 1),
        ("checkout-2-7", "checkout", 0, 7),
        ("checkout-2-7", "checkout-2", 7, 7),
        ("checkout-" + "9" * 30, "checkout", 0, 1),
        ("checkout-7", None, 0, 7),
    ],
)
def test_a_version_has_the_number_of_its_name(
    name: str, registry: str | None, number: int, revision: int | None
) -> None:
    labels = {"configregistry.dev/registry": registry} if registry else {}
    raw: dict[str, Any] = {"metadata": {"name": name, "labels": labels}}
    if revision is not None:
        raw["revision"] = revision
    assert decode_revision(json.dumps(raw).encode()).number == number


def test_an_object_without_readable_metadata_raises() -> None:
    for raw in (b"{}", b"[]", b'{"metadata":{"name":1}}', b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            decode_meta(raw)


trees = st.recursive(
    st.text() | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
DEEP = b"[" * 9000 + b"]" * 9000


def test_an_object_nested_beyond_what_decoders_follow_hides_no_other() -> None:
    deep = b'{"spec":{"a":%b},"metadata":{"name":"deep","resourceVersion":"2"}}' % DEEP
    page = b'{"items":[%b,{"metadata":{"name":"b"}}],"metadata":{"resourceVersion":"9"}}' % deep
    found = decode_page(page)
    assert [decode_registry(item).meta.name for item in found.items] == ["deep", "b"]
    assert found.resource_version == "9"
    assert decode_registry(found.items[0]).spec == b'{"a":%b}' % DEEP
    event = decode_event(b'{"type":"ADDED","object":%b}' % deep)
    assert (event.type, event.resource_version) == ("ADDED", "2")
    revision = b'{"revision":3,"data":%b,"metadata":{"name":"r-3"}}' % DEEP
    assert decode_revision(revision).payload == DEEP
    assert decode_meta(deep).meta.name == "deep"
    for bad in (DEEP, b'{"spec":%b}' % DEEP, b'{"spec":%b,"metadata":3}' % DEEP):
        with pytest.raises(ValueError, match=r"."):
            decode_registry(bad)
        with pytest.raises(ValueError, match=r"."):
            decode_event(bad)
        with pytest.raises(ValueError, match=r"."):
            decode_page(bad)


@given(st.dictionaries(st.text(), trees))
def test_shallow_finds_the_members_and_elements_that_json_has(found: dict[str, Any]) -> None:
    for indent in (None, 1):
        parts = shallow.members(json.dumps(found, indent=indent).encode())
        assert {key: json.loads(part) for key, part in parts.items()} == found
        items = shallow.elements(json.dumps(list(found.values()), indent=indent).encode())
        assert [json.loads(item) for item in items] == list(found.values())


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[",
        b"{",
        b"}",
        b"1",
        b'{"a"}',
        b"{1:2}",
        b'{"a":1',
        b'{"a":{}}}',
        b"[1]]",
        b"[[1]",
        b'{"a":[}',
        b'{"a":1}{}',
    ],
)
def test_shallow_refuses_what_is_not_whole(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|truncated|malformed"):
        (shallow.members if bad[:1] != b"[" else shallow.elements)(bad)


def test_ten_thousand_registries_take_tens_of_megabytes() -> None:
    pages = []
    meta: dict[str, Any] = dict(REGISTRY["metadata"])
    for start in range(0, 10_000, 500):
        items = []
        for number in range(start, start + 500):
            metadata = meta | {
                "name": f"r{number}",
                "labels": {"team": f"t{number}"},
            }
            items.append(REGISTRY | {"metadata": metadata, "spec": {"data": {"k": f"{number:01900}"}}})
        pages.append(json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [decode_registry(item) for page in pages for item in decode_page(page).items]
    pages.clear()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(kept) == 10_000
    assert used < 50_000_000, f"{used / 1e6:.0f} MB"


# Payloads.

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda each: not 2**53 <= abs(each) < 1e21)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_content_comes_back_byte_for_byte(value: Any) -> None:
    content = build({"k": value})
    stored = payload.encode(content.json)
    assert payload.decode(stored, content.hash) == content.json


@given(values)
def test_stored_content_is_what_go_would_write(value: Any) -> None:
    """Go escapes these wherever it writes JSON; see the module."""
    stored = payload.encode(build({"k": value}).json).decode()
    assert not set(stored) & set("<>&\u2028\u2029")


@given(values)
def test_content_in_other_words_is_still_that_content(value: Any) -> None:
    """As a backup tool restores it: other order, white space, escapes; never another hash."""
    content = build({"k": value, "a": 1})
    told = json.loads(content.json)
    other = json.dumps({"data": dict(reversed(told.items()))}, indent=1).encode()
    assert payload.decode(other, content.hash) == content.json


@pytest.mark.parametrize("text", ["\\u003c<", "\\\\u2028\u2028", "\\", '\\"<', "\\\\\\u0026&"])
def test_escapes_that_content_itself_has_stay(text: str) -> None:
    content = build({"k": {text: text}})
    assert payload.decode(payload.encode(content.json), content.hash) == content.json


def test_content_above_64_kib_is_packed() -> None:
    small = build({"k": "x" * (payload.SMALL - len('{"k":""}'))})
    large = build({"k": "x" * (payload.SMALL - len('{"k":""}') + 1)})
    assert payload.encode(small.json) == b'{"data":' + small.json + b"}"
    stored = payload.encode(large.json)
    assert json.loads(stored)["encoding"] == "zstd"
    assert len(stored) < 1000
    assert payload.decode(stored, large.hash) == large.json


def packed(data: bytes) -> bytes:
    return json.dumps({"encoding": "zstd", "data": b64encode(data).decode()}).encode()


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"null",
        b"{}",
        b'{"data":{"a":2}}',
        b'{"data":{"a":1},"more":1}',
        b'{"data":{"a":NaN}}',
        b'{"data":{"a":"\\ud800"}}',
        b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"data":' + b"9" * 400 + b"}",
        b'{"data":"x","encoding":"gzip"}',
        b'{"data":{},"encoding":"zstd"}',
        b'{"data":"?","encoding":"zstd"}',
        packed(b"no zstd"),
        packed(b""),
        packed(zstandard.compress(b'{"a":1}')[:-3]),
        packed(zstandard.compress(b'{"a":2}')),
    ],
)
def test_damage_is_told_as_damage(stored: bytes) -> None:
    with pytest.raises(DamagedVersion):
        payload.decode(stored, content_hash(b'{"a":1}'))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(b" " * 300_000_000)
    lying = zstandard.ZstdCompressor(write_content_size=False).compress(b" " * (MAX_CONTENT_BYTES + 1))
    for data in (bomb, lying):
        tracemalloc.start()
        with pytest.raises(DamagedVersion, match="more than"):
            payload.decode(packed(data), "0" * 16)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8_000_000


def test_what_it_holds_is_refused_under_another_hash() -> None:
    content = build({"a": 1})
    with pytest.raises(DamagedVersion, match="recorded as"):
        payload.decode(payload.encode(content.json), "0123456789abcdef")


# The cache.


class Kept:
    def __init__(self) -> None:
        self.counted: list[str] = []
        self.told: list[tuple[str, str | None, str | None]] = []
        self.cache = Cache("things", self._decode, self.counted.append)
        self.cache.subscribe(self._tell)

    @staticmethod
    def _decode(raw: bytes | msgspec.Raw) -> MetaObject:
        found = decode_meta(raw)
        if found.meta.labels.get("bad"):
            raise ValueError("bad")
        return found

    def _tell(self, key: Key, old: MetaObject | None, new: MetaObject | None) -> None:
        versions = [each.meta.resource_version if each else None for each in (old, new)]
        self.told.append((key[1], versions[0], versions[1]))

    def replace(self, *raws: bytes) -> None:
        self.cache.replace(self.cache.read(raw) for raw in raws)


def thing(name: str, version: int, uid: str = "u", *, bad: bool = False) -> bytes:
    metadata: dict[str, Any] = {"name": name, "resourceVersion": str(version), "uid": uid}
    if bad:
        metadata["labels"] = {"bad": "yes"}
    return json.dumps({"metadata": metadata}).encode()


def test_a_list_tells_only_what_differs_and_deletions_first() -> None:
    kept = Kept()
    kept.replace(thing("a", 1), thing("b", 2), thing("c", 3))
    kept.told.clear()
    kept.replace(thing("d", 9), thing("b", 2), thing("c", 8))
    assert kept.told == [("a", "1", None), ("d", None, "9"), ("c", "3", "8")]


def test_a_list_with_an_object_without_a_name_deletes_nothing() -> None:
    kept = Kept()
    kept.replace(thing("a", 1), thing("b", 2))
    kept.replace(thing("b", 3), b'{"metadata":{}}')
    assert {key[1] for key in kept.cache.store} == {"a", "b"}
    kept.replace(thing("b", 3))
    assert {key[1] for key in kept.cache.store} == {"b"}


def test_an_object_that_turns_unreadable_stays_as_it_was_until_it_is_deleted() -> None:
    kept = Kept()
    kept.replace(thing("a", 1), thing("b", 1, bad=True))
    kept.replace(thing("a", 2, bad=True), thing("b", 1, bad=True))
    assert kept.cache.store["", "a"].meta.resource_version == "1"
    assert set(kept.cache.unreadable) == {("", "a"), ("", "b")}
    kept.replace()
    assert not kept.cache.store
    assert not kept.cache.unreadable
    assert kept.told == [("a", None, "1"), ("a", "1", None)]


def test_meta_is_cheap_to_make_by_hand() -> None:
    assert Meta("a").key == ("", "a")
