"""Distances and two-sample tests against hand-worked numbers and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.spatial.distance import jensenshannon

from pilotfish.stats import (
    chi_square,
    hellinger,
    js_distance,
    ks_2samp,
    psi,
    shared_bins,
    total_variation,
    wasserstein_distance,
)

A_REF = np.arange(100) / 10
A_CUR = np.arange(40) / 10 * 1.1 + 2.5
B_REF = np.repeat([1, 2, 3, 4, 5], 10)
B_CUR = np.array([1, 2, 2, 2, 3, 5, 5, 5, 5, 5] * 2)
H_REF = [50, 30, 20, 0]
H_CUR = [20, 20, 5, 5]

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=30).filter(lambda c: sum(c) > 0)


def test_oracle_a_of_two_shifted_ramps() -> None:
    result = ks_2samp(A_REF, A_CUR)
    assert result.statistic == pytest.approx(0.32, abs=1e-12)
    assert result.p_value == pytest.approx(0.00454346, abs=5e-9)
    assert wasserstein_distance(A_REF, A_CUR) == pytest.approx(1.417100, abs=5e-7)
    assert psi(*shared_bins(A_REF, A_CUR, rule="reference_quantiles")) == pytest.approx(3.829416, abs=5e-7)
    assert js_distance(*shared_bins(A_REF, A_CUR, rule="pooled_equal")) == pytest.approx(0.562712, abs=5e-7)


def test_oracle_b_of_tied_values() -> None:
    result = ks_2samp(B_REF, B_CUR)
    assert result.statistic == pytest.approx(0.3, abs=1e-12)
    assert result.p_value == pytest.approx(0.129911, abs=5e-7)
    assert wasserstein_distance(B_REF, B_CUR) == pytest.approx(0.5, abs=1e-12)


def test_oracle_d_keeps_the_digits_of_a_tiny_p_value() -> None:
    result = ks_2samp(A_REF, A_REF + 100)
    assert result.statistic == 1.0
    assert result.p_value == pytest.approx(2.20876e-59, rel=1e-5)


def test_oracle_h_of_an_unseen_category_is_unlikely_and_not_impossible() -> None:
    result = chi_square(H_REF, H_CUR)
    assert result.statistic == pytest.approx(13.714286, abs=5e-7)
    assert result.p_value == pytest.approx(0.00332102, abs=5e-9)
    assert js_distance(H_REF, H_CUR) == pytest.approx(0.267286, abs=5e-7)


def test_js_distance_of_disjoint_counts_is_one_in_base_two() -> None:
    assert js_distance([10, 0], [0, 7]) == pytest.approx(1.0)
    assert hellinger([10, 0], [0, 7]) == pytest.approx(1.0)
    assert total_variation([10, 0], [0, 7]) == pytest.approx(1.0)


def test_psi_of_a_hand_worked_table() -> None:
    expected = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert psi([50, 50], [25, 75]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_exact_ks_agrees_with_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=rng.integers(3, 300)), rng.normal(0.3, 1.2, size=rng.integers(3, 200))
    theirs = scipy_stats.ks_2samp(x, y, method="exact")
    ours = ks_2samp(x, y, method="exact")
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-12)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-8)


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.04, 0.08])
def test_asymptotic_ks_agrees_with_scipy(shift: float) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=20_000), rng.normal(shift, 1.0, size=12_000)
    theirs = scipy_stats.ks_2samp(x, y, method="asymp")
    ours = ks_2samp(x, y)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-12)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=5e-3)


def test_ks_leaves_nan_out_where_scipy_gives_nan() -> None:
    with_nan = np.concatenate((A_CUR, [np.nan, np.nan]))
    assert math.isnan(scipy_stats.ks_2samp(A_REF, with_nan).pvalue)
    assert ks_2samp(A_REF, with_nan) == ks_2samp(A_REF, A_CUR)


def test_ks_counts_infinities_as_the_extremes_they_are() -> None:
    assert ks_2samp([1.0, 2.0], [np.inf, np.inf]).statistic == 1.0


def test_ks_of_equal_samples_is_nothing() -> None:
    result = ks_2samp([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (result.statistic, result.p_value) == (0.0, 1.0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
)
def test_wasserstein_agrees_with_scipy(x: list[float], y: list[float]) -> None:
    theirs = scipy_stats.wasserstein_distance(x, y)
    assert wasserstein_distance(x, y) == pytest.approx(theirs, rel=1e-9, abs=1e-6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts, st.randoms(use_true_random=False))
def test_share_distances_agree_with_scipy_and_stay_in_range(reference: list[int], random: object) -> None:
    window = list(reversed(reference))
    r, w = np.array(reference, float), np.array(window, float)
    assert js_distance(r, w) == pytest.approx(jensenshannon(r, w, base=2), abs=1e-7)
    p, q = r / r.sum(), w / w.sum()
    assert hellinger(r, w) == pytest.approx(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / math.sqrt(2), abs=1e-9)
    assert 0.0 <= total_variation(r, w) <= 1.0
    assert 0.0 <= psi(r, w) < math.inf


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts)
def test_chi_square_agrees_with_scipys_contingency_table(reference: list[int]) -> None:
    window = [1 + c // 3 for c in reversed(reference)]
    table = np.array([reference, window])
    theirs = scipy_stats.chi2_contingency(table[:, table.sum(axis=0) > 0], correction=False)
    ours = chi_square(reference, window)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-9)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("function", [psi, js_distance, hellinger, chi_square, total_variation])
def test_counts_that_are_not_of_the_same_bins_are_refused(function: object) -> None:
    assert callable(function)
    for expected, actual in [([1, 2], [1, 2, 3]), ([0, 0], [1, 2]), ([1, 2], [0, 0]), ([1, -2], [1, 2]), ([], [])]:
        with pytest.raises(ValueError, match=r"bins|rows|counts"):
            function(expected, actual)


@pytest.mark.parametrize("function", [ks_2samp, wasserstein_distance])
def test_samples_without_values_are_refused_and_named(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="sample y has no values"):
        function([1.0], [np.nan])
