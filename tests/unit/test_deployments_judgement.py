"""The judge: three values, least samples, baselines, and never a pass without data."""

from __future__ import annotations

import math
import operator
import random
from dataclasses import dataclass

import pytest

from pilotfish_control_plane.deployments.rollout_model import Comparison, Criterion, Verdict
from pilotfish_control_plane.deployments.rules.judgement import judge

AT_MOST = Criterion("error_ratio", Comparison.LESS_THAN_OR_EQUAL, 0.05)


@dataclass(frozen=True)
class Value:
    value: float | None
    n: int = 100
    source: str = "w"


@pytest.mark.parametrize(
    ("comparison", "value", "verdict"),
    [
        (Comparison.LESS_THAN, 1.0, Verdict.FAIL),
        (Comparison.LESS_THAN, 0.999, Verdict.PASS),
        (Comparison.LESS_THAN_OR_EQUAL, 1.0, Verdict.PASS),
        (Comparison.LESS_THAN_OR_EQUAL, 1.001, Verdict.FAIL),
        (Comparison.GREATER_THAN, 1.0, Verdict.FAIL),
        (Comparison.GREATER_THAN, 1.001, Verdict.PASS),
        (Comparison.GREATER_THAN_OR_EQUAL, 1.0, Verdict.PASS),
        (Comparison.GREATER_THAN_OR_EQUAL, 0.999, Verdict.FAIL),
    ],
)
def test_each_comparison_holds_exactly_where_it_says(comparison: Comparison, value: float, verdict: Verdict) -> None:
    found = judge([Criterion("accuracy", comparison, 1.0)], {"accuracy": Value(value)})
    assert found.verdict is verdict
    assert f"{value:g} {comparison.value} 1" in found.verdicts[0].explanation


@pytest.mark.parametrize("n", [0, 1, 29])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_fewer_observations_than_asked_for_decide_nothing(n: int, value: float) -> None:
    found = judge([AT_MOST], {"error_ratio": Value(value, n)})
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "30 are needed" in found.verdicts[0].explanation
    assert judge([AT_MOST], {"error_ratio": Value(value, 30)}).verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("evidence", [{}, {"error_ratio": Value(None)}, {"error_ratio": Value(math.nan, 1000)}])
def test_no_data_is_never_a_pass(evidence: dict[str, Value]) -> None:
    assert judge([AT_MOST], evidence).verdict is Verdict.INCONCLUSIVE


def test_no_criteria_at_all_are_no_pass_either() -> None:
    assert judge([], {"error_ratio": Value(0.0)}).verdict is Verdict.INCONCLUSIVE


def test_one_failure_outweighs_everything_and_one_gap_outweighs_a_pass() -> None:
    slow = Criterion("latency_p99_ms", Comparison.LESS_THAN, 100)
    rare = Criterion("accuracy", Comparison.GREATER_THAN, 0.9)
    evidence = {"error_ratio": Value(0.0), "latency_p99_ms": Value(150.0)}
    assert judge([AT_MOST, rare, slow], evidence).verdict is Verdict.FAIL
    assert judge([AT_MOST, rare], evidence).verdict is Verdict.INCONCLUSIVE
    assert judge([AT_MOST], evidence).verdict is Verdict.PASS
    assert [v.verdict for v in judge([AT_MOST, rare, slow], evidence).verdicts] == [
        Verdict.PASS,
        Verdict.INCONCLUSIVE,
        Verdict.FAIL,
    ]


def test_a_bound_against_the_baseline_is_added_to_what_production_shows() -> None:
    near = Criterion("latency_p99_ms", Comparison.LESS_THAN_OR_EQUAL, 10, against_baseline=True)
    evidence, production = {"latency_p99_ms": Value(55.0)}, {"latency_p99_ms": Value(50.0)}
    passed = judge([near], evidence, production).verdicts[0]
    assert (passed.verdict, passed.bound, passed.baseline_value) == (Verdict.PASS, 60.0, 50.0)
    assert judge([near], {"latency_p99_ms": Value(60.5)}, production).verdict is Verdict.FAIL


@pytest.mark.parametrize("baseline", [None, {}, {"accuracy": Value(0.9, 29)}, {"accuracy": Value(None, 100)}])
def test_a_missing_or_thin_baseline_decides_nothing(baseline: dict[str, Value] | None) -> None:
    no_worse = Criterion("accuracy", Comparison.GREATER_THAN_OR_EQUAL, 0, against_baseline=True)
    assert judge([no_worse], {"accuracy": Value(0.1)}, baseline).verdict is Verdict.INCONCLUSIVE


def test_too_few_calls_so_far_are_no_failure() -> None:
    enough = Criterion("prediction_count", Comparison.GREATER_THAN_OR_EQUAL, 1000)
    assert judge([enough], {"prediction_count": Value(999, 999)}).verdict is Verdict.INCONCLUSIVE
    assert judge([enough], {"prediction_count": Value(1000, 1000)}).verdict is Verdict.PASS
    few = Criterion("prediction_count", Comparison.LESS_THAN, 10)
    assert judge([few], {"prediction_count": Value(10, 10)}).verdict is Verdict.FAIL


def test_the_judgement_names_its_evidence_once() -> None:
    against = Criterion("error_ratio", Comparison.LESS_THAN, 0.1, against_baseline=True)
    evidence = {"error_ratio": Value(0.0, source="calls/d1")}
    baseline = {"error_ratio": Value(0.0, source="calls/d0")}
    assert judge([AT_MOST, against], evidence, baseline).evidence == ("calls/d1", "calls/d0")


def test_random_judgements_agree_with_a_plain_reading_of_the_words() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    generator = random.Random(seed)
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
    for _ in range(2000):
        comparison = generator.choice(list(Comparison))
        bound, need = generator.choice([0.0, 0.5, 1.0]), generator.choice([1, 30])
        value, n = generator.choice([0.0, 0.5, 1.0, None]), generator.choice([0, 1, 29, 30, 31])
        criterion = Criterion("rmse", comparison, bound, need)
        found = judge([criterion], {"rmse": Value(value, n)}).verdict
        if value is None or n < need:
            assert found is Verdict.INCONCLUSIVE
        else:
            assert found is (Verdict.PASS if compare[comparison.value](value, bound) else Verdict.FAIL)
