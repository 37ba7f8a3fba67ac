"""Checks of kind prometheus against a real Prometheus that scrapes a real app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.servers import AppServer, Prometheus

from configregistry.health import Finding, Means, Outbound, Question, StageKey, Subject
from configregistry.health.prometheus_check import probe
from configregistry.model.spec import Check, PrometheusCheck
from configregistry.rollout.observation import Verdict

SUBJECT = Subject("shop", "checkout", 8, "9d3c1a2b4e5f6071", 7)


@pytest.fixture
async def means() -> AsyncIterator[Means]:
    outbound = Outbound(allow_local=True)
    yield Means(outbound)
    await outbound.close()


@pytest.fixture(scope="module")
def scraped(prometheus: Prometheus) -> Iterator[Prometheus]:
    """Prometheus, after it has scraped an app."""
    with AppServer() as app:
        app.metrics = {
            'checkout_errors{version="8",pod="a"}': 3,
            'checkout_errors{version="8",pod="b"}': 0,
            'checkout_errors{version="7",pod="c"}': 9,
            'checkout_requests{version="8"}': 100,
            'checkout_idle{version="8"}': 0,
        }
        prometheus.scrape(app.address)
        prometheus.wait_for("checkout_requests")
        yield prometheus


async def ask(
    means: Means,
    server: Prometheus | str,
    query: str,
    *,
    least: float | None = None,
    most: float | None = None,
    subject: Subject = SUBJECT,
) -> Finding:
    address = server if isinstance(server, str) else server.address
    check = Check("errors", min=least, max=most, prometheus=PrometheusCheck(address, query))
    return await probe(Question(check, subject, StageKey(0, False, ""), 10.0), means)


ERROR_RATE = 'sum(checkout_errors{version="{{version}}"}) / sum(checkout_requests{version="{{version}}"})'


@pytest.mark.parametrize(
    ("query", "least", "most", "finding"),
    [
        (ERROR_RATE, None, 0.03, Finding(Verdict.PASS, "0.03")),
        (ERROR_RATE, None, 0.02, Finding(Verdict.FAIL, "0.03", "got 0.03, expected at most 0.02")),
        (ERROR_RATE, 0.5, None, Finding(Verdict.FAIL, "0.03", "got 0.03, expected at least 0.5")),
        ('checkout_errors{version="{{ version }}"}', None, 3, Finding(Verdict.PASS, "3")),
        (
            'checkout_errors{version="{{ version }}"}',
            None,
            2,
            Finding(Verdict.FAIL, "3", "got 3, expected at most 2 (the worst of 2 series)"),
        ),
        (
            'checkout_errors{version="{{ version }}"}',
            1,
            None,
            Finding(Verdict.FAIL, "0", "got 0, expected at least 1 (the worst of 2 series)"),
        ),
        ('checkout_errors{version="{{stableVersion}}"}', None, 9, Finding(Verdict.PASS, "9")),
        ('scalar(checkout_requests{version="8"})', None, 100, Finding(Verdict.PASS, "100")),
        ("1", 1, 1, Finding(Verdict.PASS, "1")),
        ("nothing_of_this_name", None, 1, Finding(Verdict.NO_DATA, "", "no series")),
        (
            "checkout_idle / checkout_idle",
            None,
            1,
            Finding(Verdict.NO_DATA, "NaN", "every value is NaN"),
        ),
        (
            "scalar(nothing_of_this_name)",
            None,
            1,
            Finding(Verdict.NO_DATA, "NaN", "every value is NaN"),
        ),
        (
            "checkout_requests / checkout_idle",
            None,
            1,
            Finding(Verdict.FAIL, "+Inf", "got +Inf, expected at most 1"),
        ),
        (
            "-checkout_requests / checkout_idle",
            0,
            None,
            Finding(Verdict.FAIL, "-Inf", "got -Inf, expected at least 0"),
        ),
        ("checkout_requests / checkout_idle", 1, None, Finding(Verdict.PASS, "+Inf")),
        ("1e300", None, 1, Finding(Verdict.FAIL, "1e+300", "got 1e+300, expected at most 1")),
    ],
)
async def test_a_query(
    means: Means,
    scraped: Prometheus,
    query: str,
    least: float | None,
    most: float | None,
    finding: Finding,
) -> None:
    assert await ask(means, scraped, query, least=least, most=most) == finding


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("sum(", "Prometheus: bad_data: invalid parameter"),
        ("checkout_requests[1m]", "the query gives a matrix, expected a scalar or a vector"),
        ("nonsense()", "Prometheus: bad_data: invalid parameter"),
        ("checkout_requests * on (version) checkout_errors", "Prometheus: execution: "),
        ('"text"', "the query gives a string, expected a scalar or a vector"),
    ],
)
async def test_what_prometheus_cannot_answer_is_an_error(
    means: Means, scraped: Prometheus, query: str, told: str
) -> None:
    finding = await ask(means, scraped, query, most=1)
    assert (finding.verdict, finding.value) == (Verdict.ERROR, "")
    assert finding.message.startswith(told)


@pytest.mark.parametrize("value", ['a"b', "a'b", "a\\b", "a`b", "a\nb\tc", "a\\x22b", 'é"} or vector(0) #', "\x7f\x01"])
@pytest.mark.parametrize("quote", ['"', "'"])
async def test_prometheus_reads_back_any_value(means: Means, scraped: Prometheus, value: str, quote: str) -> None:
    subject = SUBJECT._replace(namespace=value, registry=value)
    query = f'label_replace(vector(1), "a", {quote}{{{{registry}}}}{quote}, "", "")'
    # The label's value is compared by Prometheus itself, with the value spelt by code points.
    spelt = "".join(f"\\U{ord(char):08x}" for char in value)
    query = f'count({query} and on (a) label_replace(vector(1), "a", "{spelt}", "", ""))'
    finding = await ask(means, scraped, query, least=1, subject=subject)
    assert finding == Finding(Verdict.PASS, "1")


async def test_what_is_scraped_anew_is_seen(means: Means, prometheus: Prometheus) -> None:
    with AppServer() as app:
        app.metrics = {"moving_errors": 1}
        prometheus.scrape(app.address, job="moving")
        prometheus.wait_for("moving_errors == 1")
        assert (await ask(means, prometheus, "moving_errors", most=1)).verdict is Verdict.PASS
        app.metrics = {"moving_errors": 2}
        prometheus.wait_for("moving_errors == 2")
        assert (await ask(means, prometheus, "moving_errors", most=1)).verdict is Verdict.FAIL
        app.metrics = None
        prometheus.wait_for('absent(moving_errors) and on () up{job="moving"} == 0')
        assert (await ask(means, prometheus, "moving_errors", most=1)).verdict is Verdict.NO_DATA


async def test_a_prometheus_that_is_stopped_is_an_error_until_it_is_back(means: Means) -> None:
    with Prometheus() as server:
        assert (await ask(means, server, "1", most=1)).verdict is Verdict.PASS
        server.stop()
        finding = await ask(means, server, "1", most=1)
        assert finding.verdict is Verdict.ERROR
        assert finding.message.startswith(f"{server.address}/api/v1/query: no connection: ")
        server.start()
        assert (await ask(means, server, "1", most=1)).verdict is Verdict.PASS


async def test_what_is_no_prometheus_is_an_error(means: Means) -> None:
    with AppServer() as app:
        finding = await ask(means, f"http://{app.address}", "1", most=1)
    assert finding == Finding(Verdict.ERROR, "", "got status 501 and no reply of a Prometheus")
