"""What a reply of Prometheus means, case by case; integration tests ask the real one."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from configregistry.health import (
    Answer,
    Finding,
    Means,
    Question,
    StageKey,
    Subject,
    UnansweredError,
)
from configregistry.health.prometheus_check import TIMEOUT, probe, timeout
from configregistry.model.spec import Check, PrometheusCheck
from configregistry.rollout.observation import Verdict

PASS, FAIL, ERROR, NO_DATA = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA
SUBJECT = Subject("shop", "checkout", 8, "9d3c1a2b4e5f6071", 7)


class Wire:
    """Takes the place of `Outbound`."""

    def __init__(self, status: int, body: bytes) -> None:
        self.answer = Answer(status, body)
        self.asked: list[tuple[Any, ...]] = []

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        self.asked.append((method, url, options))
        if self.answer.status == 0:
            raise UnansweredError("http://p: no connection: Connection refused")
        return self.answer


async def ask(
    wire: Wire, least: float | None = None, most: float | None = None, address: str = "http://p:9"
) -> Finding:
    check = Check(
        name="c",
        min=least,
        max=most,
        prometheus=PrometheusCheck(address, 'x{v="{{version}}"} + {{ stableVersion }}'),
    )
    question = Question(check, SUBJECT, StageKey(0, False, ""), 10.0)
    return await probe(question, Means(wire))  # type: ignore[arg-type]


def success(kind: str, result: object) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def vector(*values: str) -> bytes:
    return success(
        "vector",
        [{"metric": {"i": str(i)}, "value": [1.5, value]} for i, value in enumerate(values)],
    )


@pytest.mark.parametrize(
    ("values", "least", "most", "verdict", "value"),
    [
        (["1"], None, 1, PASS, "1"),
        (["1"], 1, None, PASS, "1"),
        (["1"], 1, 1, PASS, "1"),
        (["1.0000001"], None, 1, FAIL, "1.0000001"),
        (["0.99"], 1, None, FAIL, "0.99"),
        (["0"], 0, None, PASS, "0"),
        (["-1"], 0, None, FAIL, "-1"),
        (["0.5", "2"], None, 1, FAIL, "2"),
        (["2", "0.5"], None, 1, FAIL, "2"),
        (["5", "0.5"], 1, None, FAIL, "0.5"),
        (["2", "3", "9"], 1, 8, FAIL, "9"),
        (["0", "3", "5"], 1, 8, FAIL, "0"),
        (["3", "0.5"], None, 9, PASS, "3"),
        (["3", "0.5"], 0, None, PASS, "0.5"),
        (["NaN"], None, 1, NO_DATA, "NaN"),
        (["NaN", "NaN"], 0, 1, NO_DATA, "NaN"),
        (["NaN", "0.5"], None, 1, PASS, "0.5"),
        (["0.5", "NaN", "2"], None, 1, FAIL, "2"),
        (["+Inf"], None, 1, FAIL, "+Inf"),
        (["+Inf"], 1, None, PASS, "+Inf"),
        (["-Inf"], 1, None, FAIL, "-Inf"),
        (["-Inf"], None, 1, PASS, "-Inf"),
        (["+Inf", "-Inf"], 0, 1, FAIL, "+Inf"),
        (["-Inf"], 0, 1, FAIL, "-Inf"),
        (["1e308", "-1e308"], -1e308, 1, FAIL, "1e308"),
        ([], None, 1, NO_DATA, ""),
        (["0." + "3" * 400], None, 1, PASS, "0.3333333333333333"),
    ],
)
async def test_values(values: list[str], least: float | None, most: float | None, verdict: Verdict, value: str) -> None:
    finding = await ask(Wire(200, vector(*values)), least, most)
    assert (finding.verdict, finding.value) == (verdict, value)


@pytest.mark.parametrize(
    ("values", "least", "most", "message"),
    [
        (["0.5"], None, 0.03, "got 0.5, expected at most 0.03"),
        (["0.5"], 99.95, None, "got 0.5, expected at least 99.95"),
        (["1", "2", "NaN"], None, 0, "got 2, expected at most 0 (the worst of 2 series)"),
        ([], None, 1, "no series"),
        (["NaN"], None, 1, "every value is NaN"),
        (["1"], None, 1, ""),
    ],
)
async def test_messages(values: list[str], least: float | None, most: float | None, message: str) -> None:
    assert (await ask(Wire(200, vector(*values)), least, most)).message == message


@pytest.mark.parametrize(("text", "verdict"), [("0.5", PASS), ("2", FAIL), ("NaN", NO_DATA), ("+Inf", FAIL)])
async def test_a_scalar(text: str, verdict: Verdict) -> None:
    assert (await ask(Wire(200, success("scalar", [1, text])), most=1)).verdict is verdict


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (0, b"", "http://p: no connection: Connection refused"),
        (
            400,
            b'{"status":"error","errorType":"bad_data","error":"1:2: parse error"}',
            "Prometheus: bad_data: 1:2: parse error",
        ),
        (
            503,
            b'{"status":"error","errorType":"timeout","error":"too slow"}',
            "Prometheus: timeout: too slow",
        ),
        (200, b'{"status":"error","error":"x"}', "Prometheus: 200: x"),
        (
            400,
            b'{"status":"error","errorType":"e","error":"' + b"y" * 5000 + b'"}',
            "Prometheus: e: " + "y" * 300 + "...",
        ),
        (
            503,
            b'{"status":"error","error":"x","data":{"resultType":"scalar","result":[1,"1"]}}',
            "Prometheus: 503: x",
        ),
        (200, b'{"status":"success"}', "Prometheus: 200: "),
        (404, b"<html>", "got status 404 and no reply of a Prometheus"),
        (200, b"", "got status 200 and no reply of a Prometheus"),
        (200, b"null", "got status 200 and no reply of a Prometheus"),
        (200, b"[" * 100_000, "got status 200 and no reply of a Prometheus"),
        (200, b"\xff", "got status 200 and no reply of a Prometheus"),
        (200, success("vector", {}), "got status 200 and no reply of a Prometheus"),
        (200, success("scalar", [1, 2]), "got status 200 and no reply of a Prometheus"),
        (200, success("scalar", "1"), "got status 200 and no reply of a Prometheus"),
        (200, success("matrix", []), "the query gives a matrix, expected a scalar or a vector"),
        (
            200,
            success("string", [1, "1"]),
            "the query gives a string, expected a scalar or a vector",
        ),
        (
            200,
            success("vector", [{"metric": {}, "histogram": [1, {}]}]),
            "the query gives a histogram, expected numbers",
        ),
        (200, vector("many"), "the reply holds a value that is no number"),
    ],
)
async def test_what_is_no_clear_answer_is_an_error(status: int, body: bytes, told: str) -> None:
    assert await ask(Wire(status, body), most=1) == Finding(ERROR, "", told)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://p:9090", "http://p:9090/api/v1/query"),
        ("http://p:9090/", "http://p:9090/api/v1/query"),
        ("https://u:w@p/prom/", "https://u:w@p/prom/api/v1/query"),
        ("http://p/a?tenant={{namespace}}", "http://p/a/api/v1/query?tenant=shop"),
        ("http://{{registry}}.{{namespace}}.svc", "http://checkout.shop.svc/api/v1/query"),
    ],
)
async def test_how_it_is_asked(address: str, url: str) -> None:
    wire = Wire(200, vector("1"))
    await ask(wire, most=1, address=address)
    [(method, asked, options)] = wire.asked
    assert (method, asked, options["within"]) == ("POST", url, 10.0)
    assert parse_qs(options["body"].decode()) == {"query": ['x{v="8"} + 7'], "timeout": ["10s"]}


def test_the_timeout_is_fixed() -> None:
    assert timeout(Check("c", prometheus=PrometheusCheck("http://p", "1"))) == TIMEOUT
