"""Bytes to requests: what is refused, what is bounded, and that it does not matter how bytes are split."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.serve.responses import Problem, Request
from configregistry.serve.wire.limits import Limits
from configregistry.serve.wire.parse import BODY, BOUNDARY, HEAD, PIECE, Incoming, Reader, target

LIMITS = Limits(head_bytes=1000, head_fields=20, url_bytes=300, body_bytes=500)
HOST = b"Host: x\r\n"


class Parsed(NamedTuple):
    requests: list[Incoming]
    problem: Problem | None
    phase: int


def parse(*parts: bytes, limits: Limits = LIMITS) -> Parsed:
    reader = Reader(limits, "peer")
    for part in parts:
        for at in range(0, len(part), PIECE):
            reader.feed(part[at : at + PIECE])
    return Parsed(list(reader.ready), reader.problem, reader.phase)


def told(parsed: Parsed) -> list[object]:
    """All that can be seen of it."""
    seen: list[object] = []
    for incoming in parsed.requests:
        request = incoming.request
        seen.append((request.method, request.path, request.query, request.body, request.peer, *incoming[1:]))
        seen.append([request.header(name) for name in ("host", "a", "b", "content-length", "transfer-encoding")])
    return [*seen, (parsed.problem.status, parsed.problem.name) if parsed.problem else None]


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0",
    ],
)
@pytest.mark.parametrize("step", [1, 7, PIECE])
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, step: int) -> None:
    parsed = parse(*(data[at : at + step] for at in range(0, len(data), step)))
    assert parsed.problem is not None
    assert parsed.problem.status == 400
    assert parsed.requests == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /" + b"a" * 10_000, 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 1000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"a%d: b\r\n" % n for n in range(20)) + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 501\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9999999999999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1f5\r\n" + b"a" * 501, 413),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 20_000, 413),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"a" * 20_000, 413),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Expect: miracles\r\n\r\n", 417),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET /\r\n\r\n", 505),
    ],
)
@pytest.mark.parametrize("step", [1, PIECE])
def test_bounds(data: bytes, status: int, step: int) -> None:
    parsed = parse(*(data[at : at + step] for at in range(0, len(data), step)))
    assert parsed.problem is not None
    assert parsed.problem.status == status
    assert parsed.requests == []


def test_what_is_just_within_the_bounds_is_taken() -> None:
    head = b"POST /" + b"a" * 299 + b" HTTP/1.1\r\n" + HOST
    head += b"Content-Length: 500\r\nA: " + b"b" * (1000 - 300 - 9 - 21 - 5) + b"\r\n\r\n"
    parsed = parse(head + b"c" * 500)
    assert parsed.problem is None
    assert parsed.requests[0].request.body == b"c" * 500
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(500)) + b"0\r\n\r\n"
    assert parse(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).problem is None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (b"/", ("/", "")),
        (b"/a%2Fb%25?c=%20&d", ("/a/b%", "c=%20&d")),
        (b"/a?b?c", ("/a", "b?c")),
        (b"//a/../b", ("//a/../b", "")),
        (b"/%ff", ("/�", "")),
        (b"/%", ("/%", "")),
        (b"/%00", ("/\0", "")),
        (b"*", ("*", "")),
        (b"http://x/a?b", ("/a", "b")),
        (b"https://x:1", ("/", "")),
        (b"http://x?b", ("/", "b")),
        (b"http://[x/a", None),
        (b"x:1", None),
        (b"", None),
    ],
)
def test_targets(url: bytes, found: object) -> None:
    assert target(url) == found


def test_headers() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\nA:  one \r\na:two\r\nB:\r\nC: \xc3\xa4\xff\r\n\r\n"
    header = parse(data).requests[0].request.header
    assert [header(name) for name in ("a", "b", "c", "d")] == ["one, two", "", "ä�", None]


def test_trailers_are_no_headers() -> None:
    """Whoever is in front of us has not looked at them."""
    data = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nHost: y\r\n\r\n"
    parsed = parse(data)
    assert parsed.problem is None
    assert [parsed.requests[0].request.header(name) for name in ("a", "host")] == [None, "x"]


@pytest.mark.parametrize(
    ("head", "keep_alive", "old", "plain"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True, False, True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", False, False, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n", True, False, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n", True, False, False),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n", True, False, False),
        (b"GET / HTTP/1.0\r\n", False, True, False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True, True, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", True, False, False),
    ],
)
def test_how_an_answer_has_to_look(head: bytes, keep_alive: bool, old: bool, plain: bool) -> None:
    parsed = parse(head + b"\r\n")
    assert parsed.problem is None
    assert parsed.requests[0][1:] == (keep_alive, old, plain)


def test_after_the_last_request_nothing_is_read() -> None:
    parsed = parse(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n\0garbage", b"more")
    assert parsed.problem is None
    assert len(parsed.requests) == 1


def test_what_came_before_a_mistake_is_there() -> None:
    parsed = parse(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n\0")
    assert [each.request.path for each in parsed.requests] == ["/1", "/2"]
    assert parsed.problem is not None


def test_phases() -> None:
    reader = Reader(LIMITS, "")
    for data, phase in (
        (b"\r\n", None),
        (b"POST / HT", HEAD),
        (b"TP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n", HEAD),
        (b"\r\n", BODY),
        (b"a", BODY),
        (b"b", BOUNDARY),
    ):
        reader.feed(data)
        assert phase in (reader.phase, None)
        assert reader.expects is (data == b"\r\n" and phase == BODY)


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def test_an_offer_to_upgrade_hides_no_content() -> None:
    """As Java's client and curl send it: what follows the head is the content, not the next request."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    after = b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
    for framed in (
        b"Content-Length: %d\r\n\r\n" % len(inner) + inner,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n",
    ):
        data = b"POST /1 HTTP/1.1\r\nHost: x\r\n" + UPGRADE + framed + after
        for step in (1, 13, PIECE):
            parsed = parse(*(data[at : at + step] for at in range(0, len(data), step)))
            assert parsed.problem is None
            found = [(each.request.path, each.request.body) for each in parsed.requests]
            assert found == [("/1", inner), ("/2", b"")]


values = st.sampled_from([b"", b"x", b" y ", b"GET / HTTP/1.1", b"a" * 90])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A request, right in most cases."""
    method = draw(st.sampled_from([b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE"]))
    url = draw(st.sampled_from([b"/", b"/a%20b?c=d", b"/a/b", b"http://x/y", b"*", b"/" + b"u" * 310, b"/a#b"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.1", b"1.0"]))
    lines = [b"Host: x"]
    lines += [b"A: " + value for value in draw(st.lists(values, max_size=2))]
    lines += draw(st.lists(st.sampled_from([b"B: c", b"Connection: close", b"Connection: keep-alive"]), max_size=1))
    if draw(st.booleans()):
        lines += UPGRADE.split(b"\r\n")[:-1] if b"Connection" not in b"".join(lines) else []
    body = draw(st.sampled_from([b"", b"abc", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"z" * 499, b"z" * 501]))
    match draw(st.sampled_from(["none", "length", "chunks"])):
        case "length":
            lines.append(b"Content-Length: %d" % len(body))
        case "chunks":
            lines.append(b"Transfer-Encoding: chunked")
            cut = draw(st.integers(0, len(body)))
            parts = [part for part in (body[:cut], body[cut:]) if part]
            trailer = draw(st.sampled_from([b"", b"T: u\r\n"]))
            body = b"".join(b"%x;e=f\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"
        case _:
            body = b""
    leading = draw(st.sampled_from([b"", b"", b"\r\n"]))
    return leading + b"\r\n".join([method + b" " + url + b" HTTP/" + version, *lines, b"", body])


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_request_may_be_admitted_with_more(framing: str) -> None:
    body = b"z" * (2 * LIMITS.body_bytes)
    heads = {"length": b"Content-Length: %d" % len(body), "chunks": b"Transfer-Encoding: chunked"}
    sent = body if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)

    def admit(request: Request) -> int:
        assert (request.method, request.header("x")) == ("POST", "y")
        return {"/large": len(body), "/small": 1}[request.path]

    for path, found in ((b"/large", [body]), (b"/small", [])):
        reader = Reader(LIMITS, "", admit)
        stream = b"POST %b HTTP/1.1\r\nHost: x\r\nX: y\r\n%b\r\n\r\n%b" % (path, heads[framing], sent)
        for at in range(0, len(stream), 7):
            reader.feed(stream[at : at + 7])
        assert [each.request.body for each in reader.ready] == found
        assert (reader.problem is None) is bool(found)
        if reader.problem is not None:
            assert reader.problem.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_the_last_request_is_the_last_one_whatever_it_offers() -> None:
    last = b"GET / HTTP/1.0\r\nHost: x\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabc"
    parsed = parse(last + b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [each.request.path for each in parsed.requests] == ["/"]
    assert parsed.problem is None


@given(st.lists(messages(), min_size=1, max_size=5), st.data())
def test_any_split_of_any_requests_reads_the_same(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    if data.draw(st.booleans(), label="broken"):
        at = data.draw(st.integers(0, len(stream)), label="where")
        stream = stream[:at] + data.draw(st.sampled_from([b"\0", b"\n", b"\r", b" ", b":"])) + stream[at:]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12), label="cuts"))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    together = parse(stream)
    assert told(parse(*parts)) == told(together)
    assert told(parse(*(stream[at : at + 1] for at in range(len(stream))))) == told(together)
