"""Content codings: what is chosen, that the bytes come back, and which ETag stands for which of them."""

from __future__ import annotations

import random
import threading
import time
import zlib
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_fakes import World, body, header, request

from configregistry.serve import compress
from configregistry.serve.compress import AT_ONCE, CODINGS, WORTH, accepted
from configregistry.serve.encoded import Cache
from configregistry.serve.responses import Answer, Request, Response

PATH = "/v1/namespaces/shop/registries/checkout"
UNPACK: dict[str | None, Any] = {
    None: lambda data: data,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompress(data),
    "br": brotli.decompress,
    "gzip": lambda data: zlib.decompress(data, wbits=31),
}


def settled() -> None:
    last = compress.in_background(lambda: None)  # one thread, in order
    assert last is not None
    last.result(10)


def test_few_bodies_wait_to_be_packed_and_the_next_one_who_asks_tries_again() -> None:
    go, wanted = threading.Event(), asking(accept_encoding="gzip")

    def block() -> None:
        go.wait(10)

    blocked = compress.in_background(block)
    assert blocked is not None
    answers = [Answer(bytes(compress.AT_ONCE + 1), []) for _ in range(2 * compress.MAX_QUEUED)]
    try:
        assert all(answer.to(wanted) is answer.found for answer in answers)
        assert compress.in_background(lambda: None) is None
        assert answers[-1].to(wanted) is answers[-1].found
    finally:
        go.set()
    blocked.result(10)
    for answer in answers:
        while answer.to(wanted) is answer.found:
            time.sleep(0.001)


def asking(**headers: str) -> Request:
    return request("/", headers={name.replace("_", "-"): value for name, value in headers.items()})


def names(header_value: str) -> list[str]:
    return [coding.name for coding in accepted(header_value)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("identity", []),
        ("deflate", []),
        ("gzip", ["gzip"]),
        ("x-gzip", ["gzip"]),
        ("GZIP", ["gzip"]),
        ("gzip, deflate, br, zstd", ["zstd", "br", "gzip"]),
        ("gzip;q=1.0, br;q=0.5", ["gzip", "br"]),
        ("zstd;q=0.1,br; q=0.2 ,gzip;q=0.3", ["gzip", "br", "zstd"]),
        ("gzip;q=0", []),
        ("*", ["zstd", "br", "gzip"]),
        ("*, zstd;q=0", ["br", "gzip"]),
        ("br;q=0.5, *;q=0.1", ["br", "zstd", "gzip"]),
        ("*;q=0", []),
        ("identity;q=0.5, gzip;q=0.4, br;q=0.5", ["br"]),
        ("gzip;q=much", []),
        ("gzip;q=2", []),
        ("gzip;q=nan", []),
        ("gzip;level=3", ["gzip"]),
        (",,;;gzip", []),
        ("gzip" + " " * 1000, ["gzip"]),
    ],
)
def test_what_a_client_takes(value: str, expected: list[str]) -> None:
    assert names(value) == expected


@given(st.text(max_size=600))
def test_any_header_is_read(value: str) -> None:
    assert set(names(value)) <= {"zstd", "br", "gzip"}


def test_what_is_known_of_headers_is_bounded() -> None:
    for number in range(3 * compress.MAX_KNOWN):
        accepted(f"gzip, x{number}")
    assert compress._known.cache_info().currsize <= compress.MAX_KNOWN


@pytest.mark.parametrize("size", [WORTH, AT_ONCE, AT_ONCE + 1, 300_000])
@pytest.mark.parametrize("coding", CODINGS)
def test_the_bytes_come_back(size: int, coding: Any) -> None:
    content = (b'{"timeout.ms":2500,"feature.new-basket":true}' * (size // 40))[:size]
    answer = Answer(content, [("vary", "x-configregistry-target")])
    asked = asking(accept_encoding=coding.name)
    first = answer.to(asked)
    settled()
    packed = answer.to(asked)
    assert packed is answer.to(asked)
    assert (first is packed) == (size <= AT_ONCE)  # larger ones are given plain until they are packed
    assert first.status == packed.status == 200
    assert UNPACK[header(first, "content-encoding")](first.body) == content
    assert header(packed, "content-encoding") == coding.name
    assert len(packed.body) < len(content)
    assert UNPACK[coding.name](packed.body) == content
    for response in (first, packed, answer.to(asking())):
        assert header(response, "vary") == "x-configregistry-target, accept-encoding"
        assert header(response, "content-type") == "application/json"
        assert header(response, "cache-control") == "no-cache"


def test_each_coding_has_an_etag_of_its_own() -> None:
    answer = Answer(b"a" * WORTH, [])
    given = {each: answer.to(asking(accept_encoding=each or "identity")) for each in UNPACK if each} | {
        None: answer.to(asking())
    }
    tags = {each: header(response, "etag") for each, response in given.items()}
    assert len(set(tags.values())) == 4
    assert tags["gzip"] == answer.etag[:-1] + '-gz"'
    for known, tag in tags.items():
        for wanted in tags:
            again = answer.to(asking(**{"if_none_match": tag, **({"accept_encoding": wanted} if wanted else {})}))
            # What it has already is a representation that it takes: either that very coding, or the plain one.
            if known in (wanted, None):
                assert (again.status, again.body, header(again, "etag")) == (304, b"", tag)
                assert header(again, "vary") == "accept-encoding"
            else:
                assert again is given[wanted]
    everything = asking(accept_encoding="gzip, br, zstd", if_none_match=f'"x", W/{tags["gzip"]}')
    assert (answer.to(everything).status, header(answer.to(everything), "etag")) == (304, tags["gzip"])
    assert answer.to(asking(accept_encoding="br", if_none_match="*")).status == 304


def test_an_etag_is_known_before_anything_is_packed_here() -> None:
    """Another replica gave it."""
    content = b"a" * (AT_ONCE + 1)
    elsewhere = Answer(content, [])
    elsewhere.to(asking(accept_encoding="gzip"))
    settled()
    tag = header(elsewhere.to(asking(accept_encoding="gzip")), "etag")
    answer = Answer(content, [])
    assert answer.to(asking(accept_encoding="gzip", if_none_match=tag)).status == 304
    assert answer._packed == {}


def test_what_is_short_stays_plain() -> None:
    answer = Answer(b"a" * (WORTH - 1), [("vary", "x")])
    response = answer.to(asking(accept_encoding="gzip, br, zstd"))
    assert response is answer.found
    assert header(response, "vary") == "x"
    assert answer.size == WORTH - 1


def test_what_packing_does_not_make_smaller_stays_plain() -> None:
    answer = Answer(random.Random(1).randbytes(4096), [])
    for coding in CODINGS:
        assert answer.to(asking(accept_encoding=coding.name)) is answer.found
    assert answer.to(asking(accept_encoding="identity;q=0")) is answer.found  # plain, rather than nothing


def test_packed_forms_are_bounded_together() -> None:
    """Base64 of noise packs to three quarters: one form fits into what is counted for, a second would not."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    answer = Answer(bytes(random.Random(2).choices(alphabet, k=8192)), [])
    for _ in range(2):
        responses = [answer.to(asking(accept_encoding=coding.name)) for coding in CODINGS]
        assert [header(each, "content-encoding") for each in responses] == ["zstd", None, None]
    kept = {id(each.body): len(each.body) for each in responses}
    assert sum(kept.values()) <= answer.size


def test_the_cache_counts_packed_forms() -> None:
    cache, world = Cache(10_000), World()
    world.serve("checkout", {"a": 1})
    entries = cache.of(world.published("shop", "checkout"))
    entries.keep("whole", Answer(b"x" * 4000, []))
    assert cache.size >= 8000
    entries.keep("more", Answer(b"x" * 5000, []))
    assert "more" not in entries.answers


def test_nothing_large_is_packed_in_the_event_loops_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def pack(data: bytes) -> bytes:
        threads.append(threading.current_thread())
        return data[:10]

    monkeypatch.setattr("configregistry.serve.responses.accepted", lambda _: (CODINGS[2]._replace(pack=pack),))
    for size in (AT_ONCE, AT_ONCE + 1):
        answer = Answer(b"a" * size, [])
        for _ in range(3):
            answer.to(asking(accept_encoding="gzip"))
        settled()
    assert len(threads) == 2
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


@pytest.mark.parametrize("path", [PATH, f"{PATH}/keys", f"{PATH}/versions/1", f"{PATH}/keys/long"])
def test_reads_are_packed(path: str) -> None:
    world = World()
    data = {f"key-{number:03}": "x" * 20 for number in range(100)} | {"long": "x" * 2000}
    world.serve("checkout", data)
    plain = world.get(path)
    packed = world.get(path, accept_encoding="gzip, deflate, br, zstd")
    assert header(packed, "content-encoding") == "zstd"
    assert "accept-encoding" in header(packed, "vary")
    unpacked = UNPACK["zstd"](packed.body)
    assert unpacked == plain.body
    assert body(Response(200, [], unpacked))
    assert world.get(path, accept_encoding="zstd", if_none_match=header(packed, "etag")).status == 304
