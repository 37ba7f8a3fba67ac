"""Checks of kind `http`: a GET whose status is compared.

Fail means that the service answered, and not as expected. No answer (refused, timed out, a name
that is not found, a certificate that is not accepted, an answer that breaks off) is an Error: the
question could not be asked, and whether the service or the way to it is at fault cannot be told
from here. A service that crashed is therefore rolled back when consecutiveErrorLimit is exceeded,
by default with the fifth refusal in a row; whoever wants the first to do it sets that limit to 0.
It must never judge by the body.
"""

from __future__ import annotations

from configregistry.health.outbound import UnansweredError, parse_url
from configregistry.health.question import Finding, Means, Question, Subject
from configregistry.health.template import render_url
from configregistry.model.spec import Check, HttpCheck
from configregistry.rollout.observation import Verdict


async def probe(question: Question, means: Means) -> Finding:
    """Ask once."""
    asked = _asked(question.check)
    try:
        answer = await means.outbound.request(
            "GET",
            render_url(asked.url, question.subject, "url"),
            within=question.timeout,
            stop=asked.expected_status,
            # What is unexpected is told by the status alone; what is expected must also arrive
            # whole.
            wanted=lambda status: status in asked.expected_status,
        )
    except UnansweredError as error:
        return Finding(Verdict.ERROR, "", str(error))
    value = str(answer.status)
    if answer.status in asked.expected_status:
        return Finding(Verdict.PASS, value)
    expected = " or ".join(str(status) for status in asked.expected_status)
    note = f" ({answer.note})" if answer.note else ""
    return Finding(Verdict.FAIL, value, f"got status {value}, expected {expected}{note}")


def timeout(check: Check) -> float:
    """Seconds for the whole of one probe."""
    return float(_asked(check).timeout_seconds)


def examine(check: Check, sample: Subject, field: str) -> None:
    """Raise `FieldError` for what could never be asked."""
    field = f"{field}.http.url"
    parse_url(render_url(_asked(check).url, sample, field), field)


def _asked(check: Check) -> HttpCheck:
    assert check.http is not None
    return check.http
