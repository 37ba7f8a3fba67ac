"""Checks of kind `prometheus`: the value of an instant query, compared with min and max.

Both limits are good values themselves. A query may give several series; the worst counts, since
one bad instance must not hide among good ones. NaN is no data (0/0: nothing happened), and so is
an empty vector; a series without data does not speak for those with some. Whatever is not a clear
answer, be it an error of Prometheus, a histogram or a matrix, is an Error and never a Pass.
"""

from __future__ import annotations

import math
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from configregistry.health.outbound import Answer, UnansweredError, parse_url
from configregistry.health.question import Finding, Means, Question, Subject
from configregistry.health.template import render_promql, render_url
from configregistry.model.spec import Check, PrometheusCheck
from configregistry.rollout.observation import Verdict

TIMEOUT: Final = 10.0
"""Seconds for one query; told to Prometheus too, so that it does not go on for nobody."""

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_SHOWN: Final = 300
_LONGEST_VALUE: Final = 32


class _Sample(msgspec.Struct):
    """One series of a vector; a histogram has no `value`."""

    value: tuple[float, str] | None = None


class _Data(msgspec.Struct, rename="camel"):
    """What was found: of a type that says how to read it."""

    result_type: str
    result: msgspec.Raw


class _Reply(msgspec.Struct, rename="camel"):
    """The envelope of Prometheus' HTTP API."""

    status: str
    data: _Data | None = None
    error_type: str = ""
    error: str = ""


class _UnclearError(Exception):
    """The reply is not one that a value can be read from."""


async def probe(question: Question, means: Means) -> Finding:
    """Ask once."""
    asked = _asked(question.check)
    query = render_promql(asked.query, question.subject, "query")
    form = urlencode({"query": query, "timeout": f"{question.timeout:g}s"})
    try:
        answer = await means.outbound.request(
            "POST",
            _endpoint(asked, question.subject, "address"),
            within=question.timeout,
            body=form.encode(),
            headers=_FORM,
        )
        return _judged(question.check, _values(answer))
    except (UnansweredError, _UnclearError) as error:
        return Finding(Verdict.ERROR, "", str(error))


def timeout(check: Check) -> float:  # noqa: ARG001 - one signature for all kinds
    """Seconds for the whole of one probe."""
    return TIMEOUT


def examine(check: Check, sample: Subject, field: str) -> None:
    """Raise `FieldError` for what could never be asked."""
    asked = _asked(check)
    render_promql(asked.query, sample, f"{field}.prometheus.query")
    _endpoint(asked, sample, f"{field}.prometheus.address")


def _asked(check: Check) -> PrometheusCheck:
    assert check.prometheus is not None
    return check.prometheus


def _endpoint(asked: PrometheusCheck, subject: Subject, field: str) -> str:
    """The API's URL under the address, which may have a path and a query of its own."""
    address = parse_url(render_url(asked.address, subject, field), field)
    return str(address.joinpath("api", "v1", "query").with_query(address.query))


def _values(answer: Answer) -> list[str]:
    """The values as Prometheus wrote them."""
    try:
        reply = msgspec.json.decode(answer.body, type=_Reply)
        if reply.status != "success" or reply.data is None:
            raise _UnclearError(f"Prometheus: {reply.error_type or answer.status}: {_cut(reply.error)}")
        if reply.data.result_type == "scalar":
            return [msgspec.json.decode(reply.data.result, type=tuple[float, str])[1]]
        if reply.data.result_type != "vector":
            raise _UnclearError(f"the query gives a {_cut(reply.data.result_type)}, expected a scalar or a vector")
        samples = msgspec.json.decode(reply.data.result, type=list[_Sample])
    except (msgspec.MsgspecError, RecursionError):
        note = f" ({answer.note})" if answer.note else ""
        raise _UnclearError(f"got status {answer.status} and no reply of a Prometheus{note}") from None
    if any(sample.value is None for sample in samples):
        raise _UnclearError("the query gives a histogram, expected numbers")
    return [sample.value[1] for sample in samples if sample.value is not None]


def _judged(check: Check, texts: list[str]) -> Finding:
    """The verdict on the value that is nearest to its limit, or furthest over it."""
    try:
        numbers = [(float(text), text) for text in texts]
    except ValueError:
        raise _UnclearError("the reply holds a value that is no number") from None
    known = [(number, text) for number, text in numbers if not math.isnan(number)]
    if not known:
        return Finding(
            Verdict.NO_DATA,
            "NaN" if numbers else "",
            "every value is NaN" if numbers else "no series",
        )
    number, text = min(known, key=lambda each: _margin(check, each[0]))
    value = text if len(text) <= _LONGEST_VALUE else repr(number)
    of = f" (the worst of {len(known)} series)" if len(known) > 1 else ""
    if check.max is not None and number > check.max:
        return Finding(Verdict.FAIL, value, f"got {value}, expected at most {check.max:.12g}{of}")
    if check.min is not None and number < check.min:
        return Finding(Verdict.FAIL, value, f"got {value}, expected at least {check.min:.12g}{of}")
    return Finding(Verdict.PASS, value)


def _margin(check: Check, number: float) -> float:
    """How far a value is inside its limits; negative outside."""
    above = math.inf if check.max is None else check.max - number
    below = math.inf if check.min is None else number - check.min
    return min(above, below)


def _cut(text: Any) -> str:
    text = str(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
