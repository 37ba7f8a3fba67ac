"""Responses to bytes, and what one client may take."""

from __future__ import annotations

import resource

import pytest

from configregistry.serve.responses import Response
from configregistry.serve.wire import encode
from configregistry.serve.wire.limits import HEADROOM, Limits


def test_a_head_is_three_pieces() -> None:
    response = Response(200, [("a", "b"), ("c", "ä")], b"body")
    head = encode.start(200, 784_111_777.9) + encode.rest(response)
    assert head.decode().split("\r\n") == [
        "HTTP/1.1 200 OK",
        "date: Sun, 06 Nov 1994 08:49:37 GMT",
        "a: b",
        "c: ä",
        "content-length: 4",
        "",
        "",
    ]
    assert encode.rest(response) is encode.rest(response), "once"
    assert encode.rest(response._replace(headers=[("d", "e")])) == b"d: e\r\ncontent-length: 4\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_length(status: int) -> None:
    assert encode.rest(Response(status, [], b"")) == b"\r\n"


def test_a_status_without_a_phrase() -> None:
    assert encode.start(299, 0).startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\0b", "a\r\nb: c"])
def test_no_header_ends_early(bad: str) -> None:
    for headers in ([("a", bad)], [(bad, "a")]):
        with pytest.raises(ValueError, match="no header"):
            encode.fields(headers)


def test_chunks() -> None:
    assert encode.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_there_is_room_for_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, wanted, room in (
        (20_000, 20_000, 20_000 - HEADROOM),
        (20_000, 100, 100),
        (256, 20_000, 64),
        (resource.RLIM_INFINITY, 20_000, 20_000),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, files=files: (files, files))
        assert Limits(connections=wanted).room() == room
