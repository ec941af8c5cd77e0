"""The numbers of monitoring against hand-worked values and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from pilotfish_control_plane.monitoring.rules import (
    classification_quality,
    histogram_quantile,
    quality_of,
    regression_quality,
)

SEED = 20261125
BOUNDS = (100, 200, 400)


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, 50.0),
        ((0, 10, 0, 0), 0.5, 150.0),
        ((5, 5, 0, 0), 0.5, 100.0),
        ((5, 0, 5, 0), 0.75, 300.0),
        ((0, 0, 0, 7), 0.5, 400.0),
        ((0, 4, 0, 0), 0.0, 100.0),
        ((0, 4, 0, 0), 1.0, 200.0),
        ((1, 1, 1, 1), 0.99, 400.0),
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(
    counts: tuple[int, ...], q: float, expected: float | None
) -> None:
    assert histogram_quantile(BOUNDS, counts, q) == (None if expected is None else pytest.approx(expected))


def test_a_quantile_lies_in_the_bucket_of_the_true_one_and_never_falls() -> None:
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    bounds = [int(2**i) for i in range(1, 22)]
    for _ in range(50):
        values = np.clip(rng.lognormal(8, 1.5, size=500), 1, 2**20)
        counts = np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds) + 1)
        before = 0.0
        for q in (0.01, 0.5, 0.95, 0.99):
            found = histogram_quantile(bounds, counts.tolist(), q)
            true = np.quantile(values, q, method="inverted_cdf")
            assert found is not None and before <= found
            assert 2.0 ** (math.ceil(math.log2(true)) - 1) <= found <= 2.0 ** math.ceil(math.log2(true))
            before = found


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_agrees_with_scikit_learn(classes: int) -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for _ in range(40):
        n = int(rng.integers(1, 60))
        truths, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
        found = classification_quality(predicted, truths)
        seen = sorted({*truths.tolist(), *predicted.tolist()})
        options: dict[str, object] = {"zero_division": 0.0}
        options |= {"average": "binary", "pos_label": seen[-1]} if len(seen) == 2 else {"average": "macro"}
        assert found["accuracy"] == pytest.approx(oracle.accuracy_score(truths, predicted))
        for name, score in (
            ("precision", oracle.precision_score),
            ("recall", oracle.recall_score),
            ("f1_score", oracle.f1_score),
        ):
            assert found[name] == pytest.approx(score(truths, predicted, **options)), (name, seen)


def test_roc_auc_agrees_with_scikit_learn_with_many_ties() -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for levels in (1, 2, 3, 10, 1000):
        truths = np.array([0, 1, *rng.integers(0, 2, 200)])
        scores = rng.integers(0, levels, truths.size) / levels
        found = classification_quality((scores > 0.5).astype(int), truths, {"1": scores})
        assert found["roc_auc"] == pytest.approx(oracle.roc_auc_score(truths, scores))


def test_roc_auc_is_left_out_where_it_means_nothing() -> None:
    ones = np.ones(5, dtype=int)
    assert "roc_auc" not in classification_quality(np.array([0, 1, 0, 1, 1]), ones, {"1": np.full(5, 0.5)})
    assert "roc_auc" not in classification_quality(ones, np.array([0, 1, 2, 1, 1]), {"1": np.full(5, 0.5)})
    assert "roc_auc" not in classification_quality(ones, np.array([0, 1, 0, 1, 1]))


def test_regression_agrees_with_scikit_learn() -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for _ in range(20):
        truths = rng.normal(size=50) * 10
        predicted = truths + rng.normal(size=50)
        found = regression_quality(predicted, truths)
        assert found["mae"] == pytest.approx(oracle.mean_absolute_error(truths, predicted))
        assert found["rmse"] == pytest.approx(oracle.root_mean_squared_error(truths, predicted))
        assert found["r2"] == pytest.approx(oracle.r2_score(truths, predicted))


def test_regression_leaves_out_what_is_not_finite_and_r2_of_a_constant() -> None:
    nan = float("nan")
    found = regression_quality(np.array([1.0, nan, 3.0, np.inf]), np.array([2.0, 2.0, 2.0, nan]))
    assert found == {"mae": 1.0, "rmse": 1.0}
    assert regression_quality(np.array([nan]), np.array([1.0])) == {}


def test_one_class_has_one_name_whatever_its_type() -> None:
    texts, floats = np.array(["1", "0", "1.0"], dtype=object), np.array([1.0, 0.0, 0.0])
    assert classification_quality(texts, floats)["accuracy"] == pytest.approx(2 / 3)
    assert classification_quality(np.array([True, False]), np.array([1, 0]))["accuracy"] == 1.0
    assert classification_quality(np.array([], dtype=int), np.array([], dtype=int)) == {}


def test_the_kind_of_model_decides_what_is_measured() -> None:
    truths = np.array([0, 1, 1])
    outputs = {"label": np.array([0, 1, 0]), "probability_1": np.array([0.1, 0.9, 0.4])}
    found = quality_of(outputs, truths, label=None, classes=())
    assert found["accuracy"] == pytest.approx(2 / 3) and found["roc_auc"] == 1.0
    assert set(quality_of({"price": np.array([1.5, 2.5])}, np.array([1, 2]), label=None, classes=())) == {
        "mae", "rmse", "r2",
    }  # fmt: skip
    assert "accuracy" in quality_of({"label": np.array([0.0, 1.0])}, np.array([0, 1]), label=None, classes=("0", "1"))
    assert quality_of({"a": truths, "b": truths}, truths, label=None, classes=()) == {}
    assert quality_of(outputs, np.array([], dtype=int), label=None, classes=()) == {}
