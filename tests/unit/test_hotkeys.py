"""Hot keys: found whatever else is read, in bounded memory, and nobody else is ever shed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve_fakes import FakeClock, World, body, header

from configregistry.serve.app import App
from configregistry.serve.hotkeys import HOLD, TOP, WINDOW, HotKeys, HotLimits, Lag
from configregistry.serve.responses import Problem
from configregistry.serve.routes import Routes

SIZE = 16
LIMITS = HotLimits(sample=40, shed=100, slow=0.01)
KEY = ("shop", "checkout", "k")


def made(**options: Any) -> tuple[HotKeys, FakeClock]:
    clock = FakeClock()
    return HotKeys(clock.monotonic, LIMITS, **{"size": SIZE, **options}), clock


def read(hot: HotKeys, times: int, seconds: float = 0.0, key: str = "k") -> int:
    """Read so often; gives how many were shed."""
    shed = 0
    for _ in range(times):
        try:
            seen = hot.before("shop", "checkout", key)
        except Problem:
            shed += 1
        else:
            hot.after(seen, hot._now() - seconds)
    return shed


def test_a_slow_hot_key_is_held_to_its_limit() -> None:
    hot, clock = made()
    assert read(hot, 150, 0.02) == 0  # that it is slow is known when the window is over
    for _ in range(3):
        clock.now += WINDOW
        assert read(hot, 150, 0.001) == 50
        assert read(hot, 150, 0.001, key="fast") == 0


def test_it_is_let_go_when_it_has_been_fast_for_long_enough() -> None:
    hot, clock = made()
    read(hot, 150, 0.02)
    clock.now += WINDOW
    assert read(hot, 150, 0.001) == 50
    clock.now += HOLD - 0.5
    assert read(hot, 150, 0.001) == 50
    clock.now += WINDOW
    assert read(hot, 150, 0.001) == 0


@pytest.mark.parametrize(("times", "seconds"), [(150, 0.009), (100, 1.0)])
def test_neither_fast_nor_seldom_read_keys_are_shed(times: int, seconds: float) -> None:
    hot, clock = made()
    for _ in range(5):
        assert read(hot, times, seconds) == 0
        clock.now += WINDOW
    assert read(hot, 150, 0.001) == 0


@pytest.mark.parametrize(("slow", "shed"), [(2, 0), (3, 100)])
def test_the_99th_percentile(slow: int, shed: int) -> None:
    hot, clock = made()
    read(hot, 200 - slow, 0.001)
    read(hot, slow, 0.02)
    clock.now += WINDOW
    assert read(hot, 200, 0.001) == shed


def test_what_the_event_loop_is_late_counts() -> None:
    lag = Lag(float)
    hot, clock = made(lag=lag)
    read(hot, 150, 0.001)
    clock.now += WINDOW
    assert read(hot, 150, 0.001) == 0
    lag.worst = 0.02
    clock.now += WINDOW
    read(hot, 150, 0.001)
    clock.now += WINDOW
    assert read(hot, 150, 0.001) == 50


def test_the_metrics_have_the_hottest_of_the_last_window() -> None:
    world = World()
    hot, clock = made(metrics=world.metrics, size=64)
    for number in range(20):
        read(hot, 50 + number, 0.02 if number == 19 else 0.001, key=f"k{number:02}")
    clock.now += WINDOW
    for number in range(20):  # of these, five reach the sampling limit
        read(hot, 25 + number, key=f"k{number:02}")
    assert [(each.key, each.rate) for each in hot.hottest()] == [(f"k{n}", 50 + n) for n in range(19, 9, -1)]
    sample = world.metrics.registry.get_sample_value
    labels = {"namespace": "shop", "registry": "checkout"}
    assert sample("configregistry_hot_keys") == TOP
    assert sample("configregistry_hot_key_rate", {**labels, "key": "k19"}) == 69
    assert sample("configregistry_hot_key_slow_ratio", {**labels, "key": "k19"}) == 1
    assert sample("configregistry_hot_key_slow_ratio", {**labels, "key": "k18"}) == 0
    assert sample("configregistry_hot_key_rate", {**labels, "key": "k09"}) is None
    clock.now += WINDOW
    read(hot, 1)
    assert [each.key for each in hot.hottest()] == ["k19", "k18", "k17", "k16", "k15"]
    clock.now += 2 * WINDOW  # nobody reads any more
    assert hot.hottest() == ()


def test_only_routes_that_read_a_key_are_observed() -> None:
    world = World()
    world.serve("checkout", {"k": 1})
    slow = Lag(float)
    slow.worst = 1.0
    hot, clock = made(metrics=world.metrics, lag=slow)
    routes = Routes(hot.over(world.service.routes.all))
    world.app = App(routes, world.metrics, lambda: 0.0)
    one = "/v1/namespaces/shop/registries/checkout"
    for _ in range(101):
        assert world.get(f"{one}/keys/k").status == 200
        assert world.get(one).status == 200
    clock.now += WINDOW
    codes = [world.get(f"{one}/keys/k").status for _ in range(101)]
    assert Counter(codes) == {200: 100, 429: 1}
    refused = world.get(f"{one}/keys/k")
    assert (header(refused, "retry-after"), body(refused)["type"].rpartition("/")[2]) == ("1", "HotKey")
    assert world.metrics.registry.get_sample_value("configregistry_hot_key_shed_total") == 2
    assert world.get(one).status == 200
    assert [each.key for each in hot.hottest()] == ["k"]


def test_a_full_table_loses_its_median() -> None:
    hot, _clock = made(size=4)
    for key, times in (("a", 10), ("b", 6), ("c", 3), ("d", 1), ("e", 2)):
        read(hot, times, key=key)
    assert {place[2]: seen.count for place, seen in hot._table.items()} == {"a": 4, "e": 2}


def test_lag() -> None:
    clock = FakeClock()
    rings: list[Any] = []
    lag = Lag(clock.monotonic, lambda seconds, ring: rings.append((clock.now + seconds, ring)))
    hot = HotKeys(clock.monotonic, LIMITS, lag=lag)
    lag.start()
    for late, told in ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.0, 0.0)):
        due, ring = rings.pop()
        clock.now = due + late
        seen = hot.before(*KEY)
        slow = seen.slow
        hot.after(seen, clock.now)
        # Overdue, and not rung yet; or late before.
        assert (seen.slow > slow) == (late > 0 or lag.worst > 0)
        ring()
        assert lag.worst == pytest.approx(told)


# Whatever is read: reads come in runs, so that some keys are hot and many are new.

RUNS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from("ab"), st.integers(0, 200).map(str)),
        st.integers(1, 60),
        st.sampled_from([0.001, 0.02]),
        st.sampled_from([0.0, 0.0, 0.0, 0.4]),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=100)
@given(RUNS)
def test_bounds_of_the_counts_and_of_shedding(runs: list[tuple[str, int, float, float]]) -> None:
    hot, clock = made()
    truth: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    slow: Counter[str] = Counter()
    ends = 0.0
    must: dict[str, float] = {}
    for key, times, seconds, rest in runs:
        for _ in range(times):
            if clock.now >= ends:
                error = 2 * truth.total() / SIZE
                for each, count in truth.items():
                    if count > LIMITS.shed + error and slow[each] == answered[each]:
                        must[each] = clock.now + HOLD
                ends = clock.now + WINDOW
                truth.clear()
                answered.clear()
                slow.clear()
            truth[key] += 1
            shed = read(hot, 1, seconds, key)
            answered[key] += 1 - shed
            slow[key] += not shed and seconds > LIMITS.slow
            counted = hot._table[("shop", "checkout", key)].count
            assert truth[key] - 2 * truth.total() / SIZE <= counted <= truth[key]
            assert len(hot._table) <= SIZE
            if shed:
                assert truth[key] > LIMITS.shed
            elif clock.now < must.get(key, 0):
                assert truth[key] <= LIMITS.shed + 2 * truth.total() / SIZE
        clock.now += rest


@given(st.lists(st.text(max_size=3), max_size=300), st.integers(60, 200))
def test_a_hot_key_is_found_among_any_others(others: list[str], times: int) -> None:
    hot, clock = made()
    every = max(1, len(others) // times)
    for index in range(max(times, len(others))):
        if index < times:
            read(hot, 1, key="hot")
        for other in others[index * every : (index + 1) * every]:
            read(hot, 1, key=f"-{other}")
    clock.now += WINDOW
    read(hot, 1)
    found = {each.key: each.rate for each in hot.hottest()}
    total = times + len(others)
    assert times - 2 * total / SIZE <= found.get("hot", LIMITS.sample) <= times
    assert "hot" in found or times - 2 * total / SIZE < LIMITS.sample
