"""Metrics, comparisons and verdicts against hand-worked numbers and other people's implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from pilotfish_control_plane.trainer.comparison import Comparison, Scored, compare, mcnemar_p
from pilotfish_control_plane.trainer.gate import Verdict, gate_passed, judge_champion, judge_thresholds
from pilotfish_control_plane.trainer.metrics import compute_metrics, confusion_matrix
from pilotfish_control_plane.trainer.spec import ChampionRule, Task, Threshold

TRUTH = np.asarray([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
SAID = np.asarray([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
SURE = np.asarray([0.9, 0.8, 0.7, 0.3, 0.6, 0.4, 0.2, 0.1, 0.2, 0.05])


def test_two_classes_by_hand() -> None:
    found = compute_metrics(Task.CLASSIFICATION, TRUTH, SAID, np.stack([1 - SURE, SURE], axis=1), [0, 1])
    # 3 of 4 ones found, 3 of 4 called one are one, 8 of 10 right.
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["precision"] == found["recall"] == found["f1_score"] == pytest.approx(0.75)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 5 / 6) / 2)
    # Of 24 pairs (one, zero) the one is surer in 22: 0.3 loses to 0.6 and 0.4.
    assert found["roc_auc"] == pytest.approx(22 / 24)
    own = np.where(TRUTH == 1, SURE, 1 - SURE)
    assert found["log_loss"] == pytest.approx(-np.log(own).mean())


def test_the_positive_class_can_be_chosen() -> None:
    found = compute_metrics(Task.CLASSIFICATION, TRUTH, SAID, None, [0, 1], positive_class="0")
    assert found["precision"] == found["recall"] == pytest.approx(5 / 6)
    texts = np.where(TRUTH == 1, "bad", "good").astype(object)
    said = np.where(SAID == 1, "bad", "good").astype(object)
    found = compute_metrics(Task.CLASSIFICATION, texts, said, None, ["bad", "good"], positive_class="bad")
    assert found["recall"] == pytest.approx(3 / 4)


def test_three_classes_are_averaged_as_asked() -> None:
    truth = np.asarray(["a"] * 5 + ["b"] * 3 + ["c"] * 2, dtype=object)
    said = np.asarray(["a", "a", "a", "a", "b", "b", "b", "a", "c", "a"], dtype=object)
    macro = compute_metrics(Task.CLASSIFICATION, truth, said, None, ["a", "b", "c"])
    assert macro["recall"] == pytest.approx((4 / 5 + 2 / 3 + 1 / 2) / 3)
    assert macro["precision"] == pytest.approx((4 / 6 + 2 / 3 + 1 / 1) / 3)
    weighted = compute_metrics(Task.CLASSIFICATION, truth, said, None, ["a", "b", "c"], averaging="weighted")
    assert weighted["recall"] == pytest.approx(0.7)
    sure = np.full((10, 3), 0.1)
    sure[np.arange(10), [0, 0, 0, 0, 1, 1, 1, 0, 2, 0]] = 0.8
    area = compute_metrics(Task.CLASSIFICATION, truth, said, sure, ["a", "b", "c"])["roc_auc"]
    # One class against the rest, ties count half: a (4·3+4·2·.5+1·3·.5)/25, b (2·6+2·.5+1·6·.5)/21, c (1·8+1·8·.5)/16.
    assert area == pytest.approx(((4 * 3 + 4 * 2 * 0.5 + 3 * 0.5) / 25 + (12 + 1 + 3) / 21 + 12 / 16) / 3)


def test_what_is_not_defined_is_none_and_never_nan() -> None:
    one = np.asarray([1, 1, 1])
    found = compute_metrics(Task.CLASSIFICATION, one, np.asarray([1, 1, 1]), np.asarray([[0.1, 0.9]] * 3), [0, 1])
    assert found["roc_auc"] is None
    found = compute_metrics(Task.CLASSIFICATION, np.asarray([1, 0]), np.asarray([0, 0]), None, [0, 1])
    assert found["precision"] is None
    assert found["recall"] == 0.0
    assert set(compute_metrics(Task.CLASSIFICATION, np.asarray([]), np.asarray([])).values()) == {None}
    # A class that the model does not know has no probability.
    found = compute_metrics(
        Task.CLASSIFICATION, np.asarray([0, 1, 2]), np.asarray([0, 1, 1]), np.full((3, 2), 0.5), [0, 1]
    )
    assert (found["roc_auc"], found["log_loss"]) == (None, None)
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_regression_by_hand() -> None:
    found = compute_metrics(Task.REGRESSION, np.asarray([1.0, 2.0, 4.0]), np.asarray([2.0, 2.0, 2.0]))
    assert found == {
        "mae": pytest.approx(1.0),
        "mse": pytest.approx(5 / 3),
        "rmse": pytest.approx((5 / 3) ** 0.5),
        "mape": pytest.approx((1 + 0 + 0.5) / 3),
        "r2": pytest.approx(1 - 5 / (14 / 3)),
    }
    assert compute_metrics(Task.REGRESSION, np.asarray([0.0, 2.0]), np.asarray([1.0, 1.0]))["mape"] is None
    assert compute_metrics(Task.REGRESSION, np.asarray([2.0, 2.0]), np.asarray([1.0, 1.0]))["r2"] is None


def test_the_confusion_matrix_counts_true_classes_by_row() -> None:
    found = confusion_matrix(TRUTH, SAID, [0, 1])
    assert found == {"classes": [0, 1], "counts": [[5, 1], [1, 3]]}
    found = confusion_matrix(np.asarray(["x", "new"], dtype=object), np.asarray(["x", "x"], dtype=object), ["x"])
    assert found == {"classes": ["x", "new"], "counts": [[1, 0], [1, 0]]}


# Comparison


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (8, 2), (2, 8), (31, 2), (50, 50), (1500, 1400)])
def test_mcnemar_is_a_fair_coin(better: int, worse: int) -> None:
    expected = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert mcnemar_p(better, worse) == pytest.approx(expected, rel=1e-9)


def scored(right: npt.NDArray[Any], means: bool = True) -> Scored:
    scores = right.astype(np.float64)
    return Scored(right, scores if means else None, lambda rows: float(scores[rows].mean()))


@pytest.mark.parametrize("means", [True, False])
def test_the_interval_of_a_difference_agrees_with_its_theory(means: bool) -> None:
    draw = np.random.default_rng(8)
    champion = (draw.random(2000) < 0.80).astype(int)
    candidate = np.where(draw.random(2000) < 0.06, 1, champion)
    found = compare(
        "accuracy", scored(candidate, means), scored(champion, means), candidate - champion, np.random.default_rng(1)
    )
    assert found is not None and found.low is not None and found.high is not None
    gain = candidate - champion
    half = 1.96 * gain.std() / 2000**0.5
    assert found.difference == pytest.approx(gain.mean())
    assert found.low == pytest.approx(gain.mean() - half, abs=0.4 * half)
    assert found.high == pytest.approx(gain.mean() + half, abs=0.4 * half)
    assert (found.only_candidate, found.only_champion) == (int((gain > 0).sum()), 0)


def test_a_smaller_error_is_a_positive_difference() -> None:
    candidate, champion = np.full(50, 1.0), np.full(50, 4.0)
    wins = np.ones(50, dtype=np.int64)
    found = compare("rmse", squared(candidate), squared(champion), wins, np.random.default_rng(0))
    assert found is not None
    assert (found.candidate, found.champion, found.difference) == (1.0, 2.0, 1.0)
    assert (found.low, found.high) == (1.0, 1.0)


def squared(errors: npt.NDArray[Any]) -> Scored:
    return Scored(errors, errors, lambda rows: float(np.sqrt(errors[rows].mean())))


# Verdicts


def verdict(value: float | None, comparison: str, bound: float, rows: int = 100, least: int = 20) -> Verdict:
    (entry,) = judge_thresholds({"accuracy": value}, [Threshold("accuracy", comparison, bound)], rows, least)
    assert (entry.value, entry.bound, entry.n, entry.against) == (value, bound, rows, "threshold")
    return entry.verdict


def test_thresholds_have_three_verdicts() -> None:
    assert verdict(0.9, ">=", 0.9) is Verdict.PASS
    assert verdict(0.9, ">", 0.9) is Verdict.FAIL
    assert verdict(0.3, "<=", 0.3) is Verdict.PASS
    assert verdict(0.3, "<", 0.3) is Verdict.FAIL
    assert verdict(None, ">=", 0.0) is Verdict.INCONCLUSIVE
    assert verdict(0.99, ">=", 0.5, rows=19) is Verdict.INCONCLUSIVE
    (entry,) = judge_thresholds({"accuracy": 1.0}, [Threshold("accuracy", ">=", 0.5, min_sample=200)], 100, 20)
    assert entry.verdict is Verdict.INCONCLUSIVE


def comparison(difference: float, low: float | None, high: float | None, rows: int = 100) -> Comparison:
    return Comparison("accuracy", 0.8 + difference, 0.8, difference, low, high, 5, 3, 0.7, rows)


@pytest.mark.parametrize(
    ("rule", "found", "expected"),
    [
        (ChampionRule(), comparison(0.0, -0.1, 0.1), Verdict.PASS),
        (ChampionRule(), comparison(-0.01, -0.1, 0.1), Verdict.FAIL),
        (ChampionRule(margin=0.1), comparison(0.9 - 0.8, 0.0, 0.2), Verdict.PASS),
        (ChampionRule(margin=-0.02), comparison(-0.01, -0.1, 0.1), Verdict.PASS),
        (ChampionRule(require="significant"), comparison(0.05, 0.01, 0.1), Verdict.PASS),
        (ChampionRule(require="significant"), comparison(0.05, -0.01, 0.1), Verdict.INCONCLUSIVE),
        (ChampionRule(require="significant"), comparison(-0.05, -0.1, -0.01), Verdict.FAIL),
        (ChampionRule(require="significant"), comparison(0.05, None, None), Verdict.INCONCLUSIVE),
        (ChampionRule(), comparison(0.2, 0.1, 0.3, rows=5), Verdict.INCONCLUSIVE),
        (ChampionRule(), None, Verdict.INCONCLUSIVE),
    ],
)
def test_the_champion_is_beaten_tied_or_not(rule: ChampionRule, found: Comparison | None, expected: Verdict) -> None:
    entry = judge_champion(rule, "accuracy", found, "it does not load", 20, "a note")
    assert entry.verdict is expected
    assert entry.against == "champion"
    if found is None:
        assert entry.reason == "it does not load"


def test_a_smaller_metric_has_its_bound_below_the_champion() -> None:
    found = Comparison("rmse", 1.7, 2.0, 0.3, 0.1, 0.5, 9, 1, 0.02, 100)
    entry = judge_champion(ChampionRule(margin=0.25), "rmse", found, "", 20)
    assert (entry.comparison, entry.bound, entry.verdict) == ("<=", 1.75, Verdict.PASS)


def test_only_passes_pass_the_gate() -> None:
    entries = judge_thresholds({"accuracy": 0.9, "roc_auc": None}, [Threshold("accuracy", ">=", 0.5)], 100, 20)
    assert gate_passed(entries)
    assert gate_passed([])
    more = judge_thresholds({"roc_auc": None}, [Threshold("roc_auc", ">=", 0.5)], 100, 20)
    assert not gate_passed([*entries, *more])
