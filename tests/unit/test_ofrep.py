"""OFREP without sockets: evaluations, reasons, the context, failures, the bulk answer and its ETag."""

from __future__ import annotations

import gzip
import json
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_fakes import World, body, digest, header, request, revision, status_of

from configregistry.model.names import KEY_PATTERN
from configregistry.rollout.buckets import bucket
from configregistry.serve.responses import Response
from configregistry.serve.routes import Need

DATA = {
    "flag": True,
    "text": "grün",
    "timeout.ms": 2500,
    "ratio": 0.25,
    "retry": {"max": 3, "on": ["a"]},
    "list": [1, 2],
    "a/b.c": "deep",
    "none": None,
}
ONE = "/v1/namespaces/shop/registries/checkout"
FLAGS = "/ofrep/v1/evaluate/flags"
SEED = "9d3c1a2b4e5f6071"


def post(
    world: World, path: str, context: Any = None, *, query: str = "", raw: bytes | None = None, **headers: str
) -> Response:
    content = json.dumps({} if context is None else {"context": context}).encode() if raw is None else raw
    lower = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = world.app(request(path, query, method="POST", headers=lower, content=content))
    assert isinstance(reply, Response), reply
    return reply


def flag(world: World, key: str, context: Any = None) -> Any:
    response = post(world, f"{ONE}{FLAGS}/{key}", context)
    assert response.status == 200, response
    return body(response)


@pytest.fixture
def world() -> World:
    made = World()
    made.serve("checkout", DATA, version=7, revision_number=31)
    return made


def test_one_flag(world: World) -> None:
    response = post(world, f"{ONE}{FLAGS}/timeout.ms", {"targetingKey": "pod-1"})
    assert response.status == 200
    assert body(response) == {
        "key": "timeout.ms",
        "value": 2500,
        "reason": "STATIC",
        "variant": "stable",
        "metadata": {
            "flagSetId": "shop/checkout",
            "version": 7,
            "revision": 31,
            "source": "checkout",
            "hash": digest(DATA),
        },
    }
    assert header(response, "content-type") == "application/json"
    assert header(response, "cache-control") == "no-cache"
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"


@pytest.mark.parametrize("key", [key for key, value in DATA.items() if value is not None])
def test_each_value_is_given_as_it_is(world: World, key: str) -> None:
    assert flag(world, key)["value"] == DATA[key]


def test_large_answers_are_packed_for_whom_that_is_welcome() -> None:
    world = World()
    world.serve(data={"big": ["grün"] * 5000})
    for path in ("", "/big"):
        plain = post(world, f"{ONE}{FLAGS}{path}")
        packed = post(world, f"{ONE}{FLAGS}{path}", accept_encoding="gzip")
        assert header(packed, "content-encoding") == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        assert header(packed, "etag") != header(plain, "etag")


def test_null_is_told_as_the_codes_default(world: World) -> None:
    assert "value" not in flag(world, "none")
    assert flag(world, "none")["variant"] == "stable"


@pytest.mark.parametrize("key", ["checkout/flag", "checkout/a/b.c"])
def test_at_the_root_a_key_names_its_registry(world: World, key: str) -> None:
    response = post(world, f"{FLAGS}/shop/{key}")
    answer = body(response)
    assert answer["key"] == f"shop/{key}"
    assert answer["value"] == DATA[key.removeprefix("checkout/")]
    below = flag(world, key.removeprefix("checkout/"))
    assert below["key"] == key.removeprefix("checkout/")
    assert answer == {**below, "key": f"shop/{key}"}


def test_what_a_client_must_be_allowed_to_do(world: World) -> None:
    def needs(method: str, path: str) -> tuple[Need, ...]:
        asked = request(path, method=method)
        route, place = world.service.routes.find(asked)
        return route.needs(asked, place)

    here = (Need("get", "data", "shop", "checkout"),)
    assert needs("POST", f"{ONE}{FLAGS}") == here
    assert needs("POST", f"{ONE}{FLAGS}/flag") == here
    assert needs("GET", f"{ONE}/ofrep/v1/events") == here
    assert needs("POST", f"{FLAGS}/shop/checkout/flag") == here
    assert needs("POST", f"{FLAGS}/shop/checkout/a/b.c") == here
    assert needs("POST", f"{FLAGS}/nonsense") == ()
    assert needs("POST", FLAGS) == ()


# Failures.


@pytest.mark.parametrize(
    ("path", "key", "detail"),
    [
        (f"{ONE}{FLAGS}/nothing", "nothing", "shop/checkout has no key 'nothing'"),
        (f"{ONE}{FLAGS}/a/b", "a/b", "shop/checkout has no key 'a/b'"),
        (f"{FLAGS}/shop/checkout/nothing", "shop/checkout/nothing", "shop/checkout has no key 'nothing'"),
        (f"{FLAGS}/nothing", "nothing", "expected namespace/registry/key, not 'nothing'"),
        (f"{FLAGS}/shop/checkout", "shop/checkout", "expected namespace/registry/key, not 'shop/checkout'"),
        (f"{FLAGS}/shop//x", "shop//x", "expected namespace/registry/key, not 'shop//x'"),
        (f"/v1/namespaces/shop/registries/no{FLAGS}/x", "x", "no registry 'no' in namespace 'shop'"),
        (f"/v1/namespaces/no/registries/no{FLAGS}/x", "x", "no registry in namespace 'no'"),
        (f"{FLAGS}/no/no/x", "no/no/x", "no registry in namespace 'no'"),
    ],
)
def test_a_flag_that_is_not_there(world: World, path: str, key: str, detail: str) -> None:
    response = post(world, path)
    assert response.status == 404
    assert body(response) == {"key": key, "errorCode": "FLAG_NOT_FOUND", "errorDetails": detail}
    assert header(response, "content-type") == "application/json"


def test_a_missing_flag_still_tells_the_version(world: World) -> None:
    response = post(world, f"{ONE}{FLAGS}/nothing")
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"


@pytest.mark.parametrize(
    ("raw", "code", "detail"),
    [
        (b"", "PARSE_ERROR", "body: "),
        (b"nonsense", "PARSE_ERROR", "body: "),
        (b"[]", "PARSE_ERROR", "body: "),
        (b'{"context":{}', "PARSE_ERROR", "body: "),
        (b'{"context":{"a":"\xff"}}', "PARSE_ERROR", "body: "),
        (b'{"context":{"a":"\\ud800"}}', "PARSE_ERROR", "body: "),
        (b'{"context":' + b"[" * 60_000, "PARSE_ERROR", "body: "),
        (b'{"context":null}', "INVALID_CONTEXT", "context: expected an object, not null"),
        (b'{"context":[1]}', "INVALID_CONTEXT", "context: expected an object, not [1]"),
        (b'{"context":"x"}', "INVALID_CONTEXT", 'context: expected an object, not "x"'),
        (
            b'{"context":{"targetingKey":7}}',
            "INVALID_CONTEXT",
            "context.targetingKey: expected a string, not 7",
        ),
        (
            b'{"context":{"targetingKey":"%b"}}' % (b"x" * 1025),
            "INVALID_CONTEXT",
            "context.targetingKey: expected at most 1024 characters, not 1025",
        ),
    ],
)
@pytest.mark.parametrize("path", ["", "/flag"])
def test_a_body_that_is_no_request(world: World, raw: bytes, code: str, detail: str, path: str) -> None:
    response = post(world, f"{ONE}{FLAGS}{path}", raw=raw)
    told = body(response)
    assert response.status == 400
    assert told["errorCode"] == code
    assert told["errorDetails"].startswith(detail)
    assert told.get("key") == ("flag" if path else None)


@pytest.mark.parametrize("query", ["version=7", "version=canary", "target=x", "attr.a=b", "raw", "flagConfigEtag=x"])
def test_the_query_says_nothing_here(world: World, query: str) -> None:
    response = post(world, f"{ONE}{FLAGS}/flag", query=query)
    assert response.status == 400
    assert body(response)["errorCode"] == "GENERAL"
    assert body(response)["errorDetails"].startswith(query.split("=", maxsplit=1)[0] + ": unknown parameter")


@pytest.mark.parametrize("raw", [b"{}", b'{"context":{}}', b'{"context":{"targetingKey":null}}', b'{"else":1}'])
def test_nobody_in_particular(world: World, raw: bytes) -> None:
    assert post(world, f"{ONE}{FLAGS}/flag", raw=raw).status == 200


def test_what_is_not_known_here_is_a_problem_as_everywhere() -> None:
    world = World()
    world.put(("shop", "checkout"), "uid", None)
    world.flush()
    for path in ("", "/flag"):
        response = post(world, f"{ONE}{FLAGS}{path}")
        assert response.status == 503
        assert body(response)["type"].endswith("/NoVersion")
        assert header(response, "retry-after")


# Who gets what, and why.

RULES = [{"attribute": "Region", "values": ["eu", "7", "true", "1.5"]}]


def rolling(weight: int, rules: list[dict[str, Any]] | None = None) -> World:
    world = World()
    canary = {"version": 8, "weight": weight, "seed": SEED, "match": rules or []}
    world.serve("checkout", {"a": 1}, version=7, revision_number=40 + weight, canary=canary, canary_data={"a": 2})
    return world


@pytest.mark.parametrize(
    ("weight", "context", "variant", "reason"),
    [
        (0, {}, "stable", "STATIC"),
        (0, {"targetingKey": "user-42"}, "stable", "STATIC"),
        (0, {"Region": "eu"}, "canary", "TARGETING_MATCH"),
        (10, {}, "stable", "STATIC"),
        (10, {"targetingKey": ""}, "stable", "STATIC"),
        (10, {"targetingKey": "user-42"}, "stable", "SPLIT"),
        (13, {"targetingKey": "user-42"}, "canary", "SPLIT"),
        (13, {"targetingKey": "user-42", "Region": "eu"}, "canary", "TARGETING_MATCH"),
        (10, {"targetingKey": "user-42", "Region": "us"}, "stable", "SPLIT"),
        (10, {"region": "eu"}, "stable", "STATIC"),
        (10, {"Region": 7}, "canary", "TARGETING_MATCH"),
        (10, {"Region": 7.0}, "canary", "TARGETING_MATCH"),
        (10, {"Region": True}, "canary", "TARGETING_MATCH"),
        (10, {"Region": 1.5}, "canary", "TARGETING_MATCH"),
        (10, {"Region": None}, "stable", "STATIC"),
        (10, {"Region": ["eu"]}, "stable", "STATIC"),
        (10, {"Region": {"eu": "eu"}}, "stable", "STATIC"),
        (10, {"Region": 2**60}, "stable", "STATIC"),
        (100, {}, "canary", "SPLIT"),
    ],
)
def test_variant_and_reason(weight: int, context: Any, variant: str, reason: str) -> None:
    world = rolling(weight, RULES)
    told = flag(world, "a", context)
    assert (told["variant"], told["reason"]) == (variant, reason)
    assert (told["value"], told["metadata"]["version"]) == ((2, 8) if variant == "canary" else (1, 7))
    whole = body(post(world, f"{ONE}{FLAGS}", context))["flags"]
    assert [(each["variant"], each["reason"], each["value"]) for each in whole] == [(variant, reason, told["value"])]


@given(
    weight=st.integers(0, 100),
    target=st.none() | st.text(max_size=20) | st.just("user-42"),
    attributes=st.dictionaries(st.sampled_from(["Region", "zone"]), st.sampled_from(["eu", "us", ""])),
)
def test_a_consumer_gets_the_same_as_by_a_read(weight: int, target: str | None, attributes: dict[str, str]) -> None:
    world = rolling(weight, RULES)
    context = attributes if target is None else {**attributes, "targetingKey": target}
    asked = {f"attr.{name}": value for name, value in attributes.items()}
    if target is not None:
        asked["target"] = target
    read = body(world.get(f"{ONE}/keys/a", urlencode(asked)))
    told = flag(world, "a", context)
    assert (told["variant"], told["value"]) == (read["variant"], read["value"])


def test_a_value_from_a_fallback_says_whose_it_is() -> None:
    world = World()
    canary = {"version": 4, "weight": 50, "seed": SEED}
    world.serve("base", {"b": 1, "c": 1}, version=3, revision_number=9, canary=canary, canary_data={"b": 2, "c": 2})
    world.serve("checkout", {"a": 0, "c": 0}, version=7, revision_number=31, fallback="base")
    assert bucket(SEED, "user-42") < 5000 <= bucket(SEED, "pod-0")
    for target, variant, version, value in (("user-42", "canary", 4, 2), ("pod-0", "stable", 3, 1)):
        response = post(world, f"{ONE}{FLAGS}/b", {"targetingKey": target})
        told = body(response)
        assert told["value"] == value
        assert (told["variant"], told["reason"]) == (variant, "SPLIT")
        assert told["metadata"] == {
            "flagSetId": "shop/checkout",
            "version": version,
            "revision": 9,
            "source": "base",
            "hash": digest({"b": value, "c": value}),
        }
        assert header(response, "x-configregistry-version") == "7"
        whole = body(post(world, f"{ONE}{FLAGS}", {"targetingKey": target}))
        assert [
            (each["key"], each["value"], each["variant"], each["metadata"]["source"]) for each in whole["flags"]
        ] == [
            ("a", 0, "stable", "checkout"),
            ("b", value, variant, "base"),
            ("c", 0, "stable", "checkout"),
        ]
    assert flag(world, "c", {"targetingKey": "user-42"})["metadata"]["source"] == "checkout"


def test_a_fallback_that_changes_is_seen_though_the_registry_is_the_same() -> None:
    world = World()
    world.serve("base", {"b": 1})
    world.serve("checkout", {}, fallback="base")
    before = flag(world, "b"), body(post(world, f"{ONE}{FLAGS}"))
    world.serve("base", {"b": 2}, version=2, revision_number=2)
    after = flag(world, "b"), body(post(world, f"{ONE}{FLAGS}"))
    assert [told["value"] for told in (before[0], before[1]["flags"][0])] == [1, 1]
    assert [told["value"] for told in (after[0], after[1]["flags"][0])] == [2, 2]


def test_answers_are_encoded_once_and_never_given_to_whom_another_is_due() -> None:
    world = rolling(13, RULES)
    contexts: list[Any] = [{}, {"targetingKey": "user-42"}, {"targetingKey": "pod-0"}, {"Region": "eu"}]
    for path in ("", "/a"):
        first = [post(world, f"{ONE}{FLAGS}{path}", context) for context in contexts]
        again = [post(world, f"{ONE}{FLAGS}{path}", context) for context in reversed(contexts)]
        assert first == again[::-1]
        assert len({response.body for response in first}) == 4
        assert all(one is two for one, two in zip(first, again[::-1], strict=True))


# The protocol's form, written down from service/openapi.yaml 0.3.0. Its own schema admits no value at all: each one
# is also a `codeDefaultFlag`, of which `oneOf` allows only one.


class Evaluation(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    reason: Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN"]
    variant: str
    metadata: dict[str, bool | str | int | float]
    value: bool | str | int | float | dict[str, Any] | list[Any] | msgspec.UnsetType = msgspec.UNSET


class Failure(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    errorCode: Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"]  # noqa: N815
    errorDetails: str  # noqa: N815


class NotFound(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    errorCode: Literal["FLAG_NOT_FOUND"]  # noqa: N815
    errorDetails: str  # noqa: N815


class BulkFailure(msgspec.Struct, forbid_unknown_fields=True):
    errorCode: str  # noqa: N815
    errorDetails: str  # noqa: N815


class Endpoint(msgspec.Struct, forbid_unknown_fields=True):
    requestUri: Annotated[str, msgspec.Meta(pattern="^/")]  # noqa: N815


class EventStream(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["sse"]
    endpoint: Endpoint
    inactivityDelaySec: Annotated[int, msgspec.Meta(ge=1)]  # noqa: N815


class Bulk(msgspec.Struct, forbid_unknown_fields=True):
    flags: list[Evaluation]
    metadata: dict[str, bool | str | int | float]
    eventStreams: list[EventStream]  # noqa: N815


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.from_regex(KEY_PATTERN, fullmatch=True).map(lambda key: key[:40].rstrip("._/-"))


@given(
    data=st.dictionaries(_KEYS, _VALUES, max_size=5), weight=st.sampled_from([0, 50, 100]), raw=st.binary(max_size=20)
)
def test_every_answer_has_the_protocols_form(data: dict[str, Any], weight: int, raw: bytes) -> None:
    world = World()
    world.serve(data=data, canary={"version": 2, "weight": weight}, canary_data={**data, "new": 1})
    context = {"targetingKey": "pod-0"}
    whole = msgspec.json.decode(post(world, f"{ONE}{FLAGS}", context).body, type=Bulk)
    for told in whole.flags:
        one = msgspec.json.decode(post(world, f"{ONE}{FLAGS}/{told.key}", context).body, type=Evaluation)
        assert (one.key, one.value, one.reason, one.variant) == (told.key, told.value, told.reason, told.variant)
        if told.key in data:
            assert one.value == (msgspec.UNSET if data[told.key] is None else data[told.key])
    assert {told.key for told in whole.flags} - {"new"} == set(data) - {"new"}
    missing = post(world, f"{ONE}{FLAGS}/not.there/x")
    assert missing.status == 404
    msgspec.json.decode(missing.body, type=NotFound)
    forms: dict[str, dict[int, Any]] = {
        "": {200: Bulk, 400: BulkFailure},
        "/x": {200: Evaluation, 400: Failure, 404: NotFound},
    }
    for path, form in forms.items():
        answer = post(world, f"{ONE}{FLAGS}{path}", raw=raw)
        msgspec.json.decode(answer.body, type=form[answer.status])


# All flags.


def test_bulk(world: World) -> None:
    response = post(world, f"{ONE}{FLAGS}", {"targetingKey": "pod-1"})
    told = body(response)
    assert [each["key"] for each in told["flags"]] == sorted(DATA)
    assert {each["key"]: each["value"] for each in told["flags"] if "value" in each} == {
        key: value for key, value in DATA.items() if value is not None
    }
    assert [each["key"] for each in told["flags"] if "value" not in each] == ["none"]
    assert all(each["reason"] == "STATIC" and each["variant"] == "stable" for each in told["flags"])
    assert all(each["metadata"] == {"version": 7, "source": "checkout"} for each in told["flags"])
    assert told["metadata"] == {"flagSetId": "shop/checkout", "version": 7, "hash": digest(DATA)}
    assert told["eventStreams"] == [
        {"type": "sse", "endpoint": {"requestUri": f"{ONE}/ofrep/v1/events"}, "inactivityDelaySec": 120}
    ]
    assert header(response, "x-configregistry-version") == "7"
    assert header(response, "x-configregistry-revision") == "31"


def test_bulk_of_nothing() -> None:
    world = World()
    world.serve("checkout", {})
    assert body(post(world, f"{ONE}{FLAGS}"))["flags"] == []


def test_bulk_is_of_one_registry(world: World) -> None:
    response = post(world, FLAGS)
    assert response.status == 400
    assert body(response)["errorCode"] == "GENERAL"
    assert "of one registry only" in body(response)["errorDetails"]


@pytest.mark.parametrize("path", ["/v1/namespaces/shop/registries/no", "/v1/namespaces/no/registries/no"])
def test_bulk_of_a_registry_that_is_not_there(world: World, path: str) -> None:
    response = post(world, f"{path}{FLAGS}")
    assert response.status == 404
    assert body(response) == {"errorCode": "GENERAL", "errorDetails": body(response)["errorDetails"]}


def test_the_etag_is_of_what_this_context_gets() -> None:
    world = rolling(13)
    stable, canary = {"targetingKey": "pod-0"}, {"targetingKey": "user-42"}
    tags = {name: header(post(world, f"{ONE}{FLAGS}", who), "etag") for name, who in (("s", stable), ("c", canary))}
    assert tags["s"] != tags["c"]
    assert post(world, f"{ONE}{FLAGS}", stable, if_none_match=tags["s"]).status == 304
    assert post(world, f"{ONE}{FLAGS}", canary, if_none_match=tags["s"]).status == 200
    assert post(world, f"{ONE}{FLAGS}", stable, if_none_match=tags["c"]).status == 200
    unchanged = post(world, f"{ONE}{FLAGS}", canary, if_none_match=tags["c"])
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert header(unchanged, "etag") == tags["c"]
    assert header(unchanged, "x-configregistry-version") == "8"


def test_a_step_that_changes_nothing_for_a_consumer_leaves_its_etag() -> None:
    key, data, canary = ("shop", "checkout"), {"a": 1}, {"a": 2}
    world = World()
    world.serve(
        "checkout",
        data,
        version=7,
        revision_number=1,
        canary={"version": 8, "weight": 1, "seed": SEED},
        canary_data=canary,
    )
    assert 100 <= bucket(SEED, "user-42") < 5000 <= bucket(SEED, "pod-0")
    tags = {who: header(post(world, f"{ONE}{FLAGS}", {"targetingKey": who}), "etag") for who in ("user-42", "pod-0")}
    world.put(key, "uid-checkout", status_of(2, 7, data, {"version": 8, "weight": 50, "seed": SEED}, canary))
    world.flush()
    again = {who: post(world, f"{ONE}{FLAGS}", {"targetingKey": who}, if_none_match=tags[who]) for who in tags}
    assert {who: response.status for who, response in again.items()} == {"user-42": 200, "pod-0": 304}
    assert {header(response, "x-configregistry-revision") for response in again.values()} == {"2"}


def test_one_snapshot_for_each_answer(world: World) -> None:
    """After a swap nothing of the former version is given, whatever was asked for before."""
    before = post(world, f"{ONE}{FLAGS}")
    flag(world, "flag")
    data = {**DATA, "flag": False}
    world.record(("shop", "checkout"), 8, revision("uid-checkout", data, 7))
    world.put(("shop", "checkout"), "uid-checkout", status_of(32, 8, data))
    world.flush()
    assert flag(world, "flag")["value"] is False
    after = post(world, f"{ONE}{FLAGS}", if_none_match=header(before, "etag"))
    assert after.status == 200
    assert {each["metadata"]["version"] for each in body(after)["flags"]} == {8}
