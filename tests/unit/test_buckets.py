"""Who gets the candidate: the published vectors, and what must hold for any seed and target."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.model.spec import MatchRule
from configregistry.model.status import Canary as StatusCanary
from configregistry.rollout.buckets import BUCKETS, bucket, gets_candidate
from configregistry.state import Canary, Match, Version

VECTORS = json.loads((Path(__file__).parents[2] / "docs/spec/bucket-vectors.json").read_text(encoding="utf-8"))
CONTENT = Version.derive(None, 1, "0" * 16, {})


def candidate(weight: int, seed: str = "seed", match: tuple[Match, ...] = ()) -> Canary:
    return Canary(CONTENT, weight, seed, match)


@pytest.mark.parametrize("vector", VECTORS["buckets"], ids=str)
def test_bucket_is_that_of_the_published_vectors(vector: Any) -> None:
    assert bucket(vector["seed"], vector["target"]) == vector["bucket"]


def test_a_vector_worked_out_by_hand() -> None:
    # printf '9d3c1a2b4e5f6071\npod-0' | sha256sum  ->  0f4211c5e0d52e45...
    assert bucket("9d3c1a2b4e5f6071", "pod-0") == 0x0F4211C5E0D52E45 % 10_000


@pytest.mark.parametrize("case", VECTORS["decisions"]["cases"], ids=str)
def test_decision_is_that_of_the_published_vectors(case: Any) -> None:
    told = VECTORS["decisions"]
    match = tuple(Match(rule["attribute"], tuple(rule["values"])) for rule in told["match"])
    canary = candidate(case["weight"], told["seed"], match)
    assert gets_candidate(canary, case["target"], case["attributes"]) is case["candidate"]


def test_a_status_and_a_snapshot_decide_alike() -> None:
    rules = (MatchRule("region", ("eu",)),)
    of_status = StatusCanary(8, "h", weight=30, seed="s", match=rules)
    of_state = candidate(30, "s", (Match("region", ("eu",)),))
    for number in range(200):
        for attributes in ({}, {"region": "eu"}):
            target = f"pod-{number}"
            assert gets_candidate(of_status, target, attributes) == gets_candidate(of_state, target, attributes)


@given(st.text(), st.text(min_size=1), st.integers(0, 100), st.integers(0, 100))
def test_a_growing_weight_never_takes_the_candidate_away(seed: Any, target: Any, one: Any, other: Any) -> None:
    low, high = sorted((one, other))
    if gets_candidate(candidate(low, seed), target, {}):
        assert gets_candidate(candidate(high, seed), target, {})


@given(st.text(), st.text(min_size=1), st.integers(0, 100))
def test_a_target_is_treated_alike_each_time(seed: Any, target: Any, weight: Any) -> None:
    first = gets_candidate(candidate(weight, seed), target, {})
    assert {gets_candidate(candidate(weight, seed), target, {"a": "b"}) for _ in range(3)} == {first}


@given(st.text(), st.text(min_size=1))
def test_nobody_at_zero_and_everybody_at_a_hundred(seed: Any, target: Any) -> None:
    assert not gets_candidate(candidate(0, seed), target, {})
    assert gets_candidate(candidate(100, seed), target, {})
    assert gets_candidate(candidate(100, seed), None, {})


@pytest.mark.parametrize("target", [None, ""])
def test_without_a_target_stable_below_a_hundred(target: Any) -> None:
    assert not any(gets_candidate(candidate(weight), target, {}) for weight in range(100))


def test_a_match_rule_gives_it_at_weight_zero_and_without_a_target() -> None:
    canary = candidate(0, match=(Match("region", ("eu", "us")), Match("tier", ("test",))))
    assert gets_candidate(canary, None, {"region": "us"})
    assert gets_candidate(canary, "pod", {"tier": "test", "region": "asia"})
    assert not gets_candidate(canary, "pod", {"region": "EU"})
    assert not gets_candidate(canary, "pod", {"other": "eu"})


@pytest.mark.parametrize("seed", ["9d3c1a2b4e5f6071", "", "another", "0" * 16])
@pytest.mark.parametrize("shape", ["pod-{}", "{}", "user-{:08x}", "checkout-7d9c-{:05d}"])
def test_targets_spread_evenly(seed: Any, shape: Any) -> None:
    count, cells = 20_000, 20
    found = [0] * cells
    for number in range(count):
        found[bucket(seed, shape.format(number)) * cells // BUCKETS] += 1
    expected = count / cells
    chi_squared = sum((seen - expected) ** 2 / expected for seen in found)
    # 19 degrees of freedom: above 43.8 in one of a thousand honest samples; these 16 are fixed.
    assert chi_squared < 43.8


@pytest.mark.parametrize("weight", [1, 5, 10, 50, 99])
def test_the_share_is_the_weight(weight: Any) -> None:
    count = 20_000
    share = sum(gets_candidate(candidate(weight), f"pod-{n}", {}) for n in range(count)) / count
    deviation = math.sqrt(weight / 100 * (1 - weight / 100) / count)
    assert abs(share - weight / 100) < 4 * deviation


def test_another_seed_picks_others_first() -> Any:
    def chosen(seed: str) -> set[int]:
        return {n for n in range(10_000) if gets_candidate(candidate(10, seed), f"pod-{n}", {})}

    both = len(chosen("a") & chosen("b"))
    assert 50 < both < 150  # 1 % of 10,000 by chance, not 10 %
