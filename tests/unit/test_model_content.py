"""Content: what sources and data merge to, what is refused and how it is told, and canonical JSON (RFC 8785)."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.errors import FieldError
from configregistry.model import content
from configregistry.model.canonical import MAX_SAFE_INTEGER, canonical, content_hash, join_object
from configregistry.model.content import Source
from configregistry.model.names import KEY_PATTERN, MAX_CONTENT_BYTES, MAX_KEYS, is_key, version_name
from configregistry.model.spec import ConfigMapRef, DataFrom


def source(data: dict[str, str], **more: Any) -> Source:
    return Source(DataFrom(ConfigMapRef("base"), **more), data)


def refused(merged: dict[str, Any]) -> FieldError:
    with pytest.raises(FieldError) as raised:
        content.build(merged)
    return raised.value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# --- merging -----------------------------------------------------------------------------------------------------


def test_the_later_source_wins_and_data_wins_over_all() -> None:
    sources = [source({"a": "1", "b": "1", "c": "1"}), source({"b": "2", "c": "2"})]
    assert content.merge(sources, {"c": 3}) == {"a": 1, "b": 2, "c": 3}


def test_merging_is_shallow() -> None:
    assert content.merge([source({"a": '{"x": 1, "y": 1}'})], {"a": {"x": 2}}) == {"a": {"x": 2}}


def test_a_prefix_is_put_before_each_key() -> None:
    assert content.merge([source({"a": "x"}, prefix="base.")], {"a": "y"}) == {"base.a": "x", "a": "y"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2500", 2500),
        ("2.5", 2.5),
        (" 7 ", 7),
        ("true", True),
        ("null", None),
        ('"quoted"', "quoted"),
        ('{"items": [1, 2]}', {"items": [1, 2]}),
        ("plain", "plain"),
        ("", ""),
        ("True", "True"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1 2", "1 2"),
        ("{a: 1}", "{a: 1}"),
        ("1e400", "1e400"),
        ("007", "007"),
        ('"\\ud800"', '"\\ud800"'),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
    ],
)
def test_auto_is_json_where_it_parses_whole_and_else_the_text(text: str, value: Any) -> None:
    assert content.merge([source({"a": text})], {}) == {"a": value}
    assert content.merge([source({"a": text}, format="String")], {}) == {"a": text}


@pytest.mark.parametrize("name", ["_x", ".x", "x.", "x-"])
def test_a_bad_key_of_a_configmap_is_told_as_its(name: str) -> None:
    with pytest.raises(FieldError) as raised:
        content.merge([source({"ok": "1"}), source({name: "1"}, prefix="")], {})
    assert str(raised.value).startswith(f"spec.dataFrom[1]: ConfigMap base: '{name}': expected a key of the form")
    if name in ("_x", ".x"):
        assert content.merge([source({name: "1"}, prefix="p")], {}) == {"p" + name: 1}


# --- building ----------------------------------------------------------------------------------------------------


def test_a_content_has_its_hash_its_bytes_and_its_number_of_keys() -> None:
    built = content.build({"b": {"z": 1, "a": None}, "a": "x"})
    assert built.json == b'{"a":"x","b":{"a":null,"z":1}}'
    assert built.hash == hashlib.sha256(built.json).hexdigest()[:16]
    assert built.keys == 2
    assert content.members(built.json) == {"a": b'"x"', "b": b'{"a":null,"z":1}'}


def test_empty_content_is_content() -> None:
    assert content.build({}) == (content_hash(b"{}"), b"{}", 0)


def test_equal_content_has_an_equal_hash() -> None:
    texts = ['{"a": 1.0, "b": [true]}', '{"b":[true],"a":1}', '{ "a" : 10e-1 , "b" : [ true ] }']
    assert len({content.build(json.loads(text)).hash for text in texts}) == 1


@pytest.mark.parametrize(
    "key", ["a", "A1", "timeout.ms", "feature.new-basket", "a/b/c", "a..b", "0", "a" * 253, "a_b", "a--b"]
)
def test_keys(key: str) -> None:
    assert is_key(key)
    assert content.build({key: 1}).keys == 1


@pytest.mark.parametrize(
    "key", ["", ".a", "a.", "-a", "a-", "/a", "a/", "_a", "a b", "ä", "a\n", "a" * 254, "a:b", "a\u0663"]
)
def test_keys_that_are_refused(key: str) -> None:
    error = refused({key: 1})
    assert error.field == f"spec.data[{key!r}]"
    assert KEY_PATTERN in str(error)


def test_20_000_keys_and_not_one_more() -> None:
    merged = {f"key-{number}": 1 for number in range(MAX_KEYS)}
    assert content.build(merged).keys == 20_000
    error = refused(merged | {"one.more": 1})
    assert str(error) == "spec.data: '20001 keys': expected at most 20,000 keys"


def test_512_kib_and_not_one_byte_more() -> None:
    overhead = len(b'{"a":""}')
    assert len(content.build({"a": "x" * (MAX_CONTENT_BYTES - overhead)}).json) == MAX_CONTENT_BYTES
    error = refused({"a": "x" * (MAX_CONTENT_BYTES - overhead + 1)})
    assert str(error).startswith("spec.data: '524,289 bytes': expected at most 524,288 bytes")
    assert refused({"a": "ä" * (MAX_CONTENT_BYTES // 2)}).field == "spec.data", "bytes are counted, not characters"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (2**53, "spec.data['a']"),
        (-(2**53), "spec.data['a']"),
        ([1, {"b": [0, 2**63]}], "spec.data['a'][1].b[1]"),
        ({"x": {"y": 10**30}}, "spec.data['a'].x.y"),
        ({"deep": nested(5000), "a": 2**53}, "spec.data['a'].a"),
        (1e20, "spec.data['a']"),
        ([-(2.0**53)], "spec.data['a'][0]"),
    ],
)
def test_an_unsafe_integer_is_told_with_its_path(value: Any, place: str) -> None:
    error = refused({"a": value})
    assert error.field == place
    assert str(error).endswith(f"expected an integer within ±{MAX_SAFE_INTEGER}")


@pytest.mark.parametrize(
    "value",
    [
        MAX_SAFE_INTEGER,
        -MAX_SAFE_INTEGER,
        True,
        [True, 0],
        1e21,
        0.1234567890123456,
        "1" * 20,
        [1e300, "1" * 20],
    ],
)
def test_a_safe_integer_is_taken(value: Any) -> None:
    assert content.build({"a": value}).keys == 1


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"x": -math.inf}, {1: 2}, dt.date(2026, 1, 1), b"bytes", {"a"}, "\ud800"],
    ids=str,
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    error = refused({"a": value})
    assert error.field == "spec.data['a']"
    assert "expected a JSON value" in str(error)


def test_what_is_nested_too_deeply_is_refused() -> None:
    assert content.build({"a": nested(200)}).keys == 1
    assert str(refused({"a": nested(100_000)})) == "spec.data['a']: expected a value that is nested less deeply"


def test_the_name_of_a_version() -> None:
    assert version_name("checkout", 7) == "checkout-7"


# --- canonical JSON ----------------------------------------------------------------------------------------------

NUMBERS = [
    # RFC 8785, appendix B: IEEE 754 bits, text
    ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"), ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"), ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"), ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"), ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"), ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"), ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"), ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_of_rfc_8785(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number) == text.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_numbers_that_rfc_8785_refuses(bits: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(ValueError, match="not representable"):
        canonical(number)


def test_the_sample_of_rfc_8785() -> None:
    """Sections 3.2.2 and 3.2.4: the input and the bytes that it must become."""
    text = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    assert canonical(json.loads(text)) == bytes.fromhex(
        "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e"
        "756d62657273223a5b3333333333333333332e333333333333332c31652b3330"
        "2c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac24"
        "5c75303030665c6e4127425c225c5c5c5c5c222f227d"
    )


def test_the_sorting_of_rfc_8785() -> None:
    """Section 3.2.3: by UTF-16 code units, in which an emoji sorts before U+FB33."""
    text = r"""{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"}"""
    expected = ["Carriage Return", "One", "Control", "Latin Small Letter O With Diaeresis", "Euro Sign",
                "Emoji: Grinning Face", "Hebrew Letter Dalet With Dagesh"]  # fmt: skip
    document = json.loads(text)
    assert list(json.loads(canonical(document)).values()) == expected
    members = [(key, canonical(value)) for key, value in document.items()]
    assert join_object(members) == canonical(document)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(values)
def test_canonical_json_means_the_same_and_is_its_own_canonical_form(value: Any) -> None:
    encoded = canonical(value)
    assert canonical(json.loads(encoded, parse_int=int_or_float)) == encoded
    assert json.loads(encoded, parse_int=int_or_float) == value


def int_or_float(text: str) -> float:
    """ECMAScript writes large doubles without an exponent; they are doubles all the same."""
    number = int(text)
    return number if abs(number) <= MAX_SAFE_INTEGER else float(text)


@given(st.text())
def test_short_cuts_of_strings_are_right(text: str) -> None:
    try:
        expected = canonical([text])[1:-1]
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            canonical(text)
    else:
        assert canonical(text) == expected
