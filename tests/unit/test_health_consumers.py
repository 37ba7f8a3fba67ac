"""What reports of consumers come to as a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.health import Finding, Known, Means, Outbound, Question, StageKey, Subject
from configregistry.health.consumers_check import STALE, judge, probe
from configregistry.model.reports import Observed, Report
from configregistry.model.spec import Check, ConsumersCheck
from configregistry.rollout.observation import Verdict

PASS, FAIL, ERROR, NO_DATA = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA
SUBJECT = Subject("shop", "checkout", 8, "9d3c", 7)
ELAPSED = 60.0


def check(percent: float = 3, least: int = 2, **limits: Any) -> Check:
    return Check("consumers", consumers=ConsumersCheck(percent, least), **limits)


def report(
    name: str, version: int | None = 8, status: Any = "ok", message: str = "", *, age: float = 1.0, said: float = 0.0
) -> Report:
    """A consumer whose last heartbeat is `age` old, and whose last word on a version is `said` older than that."""
    observed = None if version is None else Observed(version, status, message)
    return Report(
        "shop",
        "checkout",
        "uid",
        name,
        "replica",
        90.0,
        age,
        500.0,
        owner="sesame",
        labels={"password": "sesame"},
        observed=observed,
        observed_age=None if observed is None else age + said,
    )


def some(good: int, bad: int, *, message: str = "boom") -> list[Report]:
    return [report(f"good-{number}") for number in range(good)] + [
        report(f"bad-{number}", status="error", message=message) for number in range(bad)
    ]


CASES: list[tuple[str, Check, list[Report], Verdict, str, str]] = [
    ("nobody", check(), [], NO_DATA, "", "0 consumers reported on version 8 since the step began, expected at least 2"),
    ("too few", check(), some(1, 0), NO_DATA, "", "1 consumer reported on version 8 since the step began"),
    ("too few, and all broken", check(), some(0, 1), NO_DATA, "", "1 consumer reported"),
    ("just enough", check(), some(2, 0), PASS, "0 %", "0 of 2 consumers (0 %) report an error"),
    ("one is enough", check(least=1), some(1, 0), PASS, "0 %", "0 of 1 consumer (0 %)"),
    (
        "all broken",
        check(),
        some(0, 2),
        FAIL,
        "100 %",
        "2 of 2 consumers (100 %) report an error, expected at most 3 %",
    ),
    ("at the limit", check(), some(97, 3), PASS, "3 %", "3 of 100"),
    ("over the limit", check(), some(96, 4), FAIL, "4 %", "4 of 100 consumers (4 %)"),
    ("7 of 100, exactly", check(7), some(93, 7), PASS, "7 %", ""),
    ("23 of 1000, exactly", check(2.3), some(977, 23), PASS, "2.3 %", ""),
    ("24 of 1000", check(2.3), some(976, 24), FAIL, "2.4 %", "expected at most 2.3 %"),
    ("a third", check(50), some(2, 1), PASS, "33.3 %", ""),
    ("no error is allowed", check(0), some(999, 1), FAIL, "0.1 %", "expected at most 0 %"),
    ("all errors are allowed", check(100), some(0, 5), PASS, "100 %", ""),
    ("max is lower", check(50, max=10), some(80, 20), FAIL, "20 %", "expected at most 10 %"),
    ("max is higher", check(3, max=10), some(95, 5), FAIL, "5 %", "expected at most 3 %"),
    (
        "min",
        check(100, min=5),
        some(99, 1),
        FAIL,
        "1 %",
        "1 of 100 consumers (1 %) report an error, expected at least 5 %",
    ),
    ("min is good itself", check(100, min=5), some(95, 5), PASS, "5 %", ""),
    ("other versions say nothing", check(), [*some(2, 0), report("old", 7, "error")], PASS, "0 %", "0 of 2"),
    ("only other versions", check(), [report("a", 7), report("b", 9)], NO_DATA, "", "0 consumers"),
    ("who says nothing", check(), [*some(1, 0), report("silent", None)], NO_DATA, "", "1 consumer"),
    ("before the step", check(), [*some(1, 0), report("a", age=60.1)], NO_DATA, "", "1 consumer"),
    ("as the step began", check(), [*some(1, 0), report("a", age=60.0)], PASS, "0 %", ""),
    ("alive, but its word is old", check(), [*some(1, 0), report("a", age=1, said=60)], NO_DATA, "", "1 consumer"),
    ("an error from before the step", check(), [*some(2, 0), report("a", status="error", age=61)], PASS, "0 %", ""),
]


@pytest.mark.parametrize(
    ("asked", "consumers", "verdict", "value", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_verdict(asked: Check, consumers: list[Report], verdict: Verdict, value: str, told: str) -> None:
    finding = judge(asked, consumers, 8, ELAPSED)
    assert (finding.verdict, finding.value) == (verdict, value)
    assert finding.message.startswith(told) or told in finding.message


def test_a_failure_names_some_of_the_consumers_with_what_they_say() -> None:
    broken = [
        report(f"pod-{name}", status="error", message=text) for name, text in [("b", "no\nroute\x1b[31m"), ("a", "")]
    ]
    assert judge(check(), broken, 8, ELAPSED).message == (
        "2 of 2 consumers (100 %) report an error, expected at most 3 %: pod-a: no message; pod-b: no route [31m"
    )
    many = judge(check(), some(0, 30, message="x" * 5000), 8, ELAPSED).message
    assert many.endswith("; and 27 more")
    assert many.count("bad-") == 3
    assert len(many) < 600


@given(
    st.lists(st.tuples(st.sampled_from([7, 8]), st.booleans(), st.floats(0, 120)), max_size=40),
    st.integers(0, 100),
    st.integers(1, 5),
    st.floats(0, 120),
)
def test_the_share_is_of_those_who_spoke_of_it_in_time(
    said: list[tuple[int, bool, float]], percent: int, least: int, elapsed: float
) -> None:
    consumers = [
        report(str(number), version, "error" if broken else "ok", age=age)
        for number, (version, broken, age) in enumerate(said)
    ]
    counted = [broken for version, broken, age in said if version == 8 and age <= elapsed]
    verdict = judge(check(percent, least), consumers, 8, elapsed).verdict
    if len(counted) < least:
        assert verdict is NO_DATA
    else:
        assert (verdict is FAIL) == (100 * sum(counted) > percent * len(counted))


# What is known


class Told:
    """Knows what a test says."""

    def __init__(self, consumers: list[Report], errors: Mapping[str, str] = {}, age: float = 1.0) -> None:
        self.known_now = Known(tuple(consumers), errors, age)
        self.asked: list[tuple[str, str, str]] = []

    async def known(self, namespace: str, registry: str, uid: str) -> Known:
        self.asked.append((namespace, registry, uid))
        return self.known_now


async def ask(told: Told | None) -> Finding:
    question = Question(check(), SUBJECT, StageKey(0, False, "t"), 5.0, ELAPSED, "uid")
    return await probe(question, Means(cast("Outbound", None), told))


async def test_the_registry_of_this_uid_is_asked_for() -> None:
    told = Told(some(2, 0))
    assert (await ask(told)).verdict is PASS
    assert told.asked == [("shop", "checkout", "uid")]


@pytest.mark.parametrize("consumers", [[], some(2, 0), some(0, 2)])
async def test_a_silent_replica_is_an_error_whatever_the_others_say(consumers: list[Report]) -> None:
    finding = await ask(Told(consumers, {"serve-b": "no answer in 1.5 s"}))
    assert finding == Finding(ERROR, "", "a replica does not answer: serve-b: no answer in 1.5 s")


async def test_some_silent_replicas_are_named() -> None:
    finding = await ask(Told([], {f"serve-{number}": "x" * 1000 for number in range(9)}))
    assert finding.message.startswith("9 replicas do not answer: serve-0: xxx")
    assert len(finding.message) < 500


async def test_an_old_list_is_an_error() -> None:
    assert (await ask(Told(some(2, 0), age=STALE))).verdict is PASS
    assert (await ask(Told(some(2, 0), age=STALE + 1))).verdict is ERROR


async def test_without_replicas_it_cannot_be_made() -> None:
    assert (await ask(None)).verdict is ERROR


@pytest.mark.parametrize("told", [Told([], {"a": "b"}), Told(some(0, 2)), Told([]), Told(some(2, 0)), None])
async def test_nothing_of_owners_and_labels_is_told(told: Told | None) -> None:
    assert "sesame" not in str(await ask(told))
