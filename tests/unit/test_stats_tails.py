"""Tail probabilities against scipy, from the bulk to where doubles end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special
from scipy import stats as scipy_stats

from pilotfish.stats.tails import (
    kolmogorov_sf,
    log_chi_square_sf,
    log_factorial,
    log_hypergeometric_sf,
    log_normal_sf,
    log_weighted_chi_square_sf,
)


def test_log_factorial_is_exact_on_both_sides_of_its_table() -> None:
    n = np.array([0, 1, 5, 170, 1022, 1023, 1024, 1025, 50_000, 10**9])
    assert log_factorial(n) == pytest.approx(special.gammaln(n + 1.0), rel=1e-13, abs=1e-12)


@pytest.mark.parametrize("z", [-8.0, -1.0, 0.0, 2.0, 10.0, 24.9, 25.1, 37.0, 60.0, 1e4])
def test_log_normal_tail_agrees_with_scipy(z: float) -> None:
    assert log_normal_sf(z) == pytest.approx(scipy_stats.norm.logsf(z), rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 19, 20, 51])
@pytest.mark.parametrize("x", [0.01, 0.5, 3.0, 20.0, 80.0, 400.0])
def test_log_chi_square_tail_agrees_with_scipy(x: float, df: int) -> None:
    assert log_chi_square_sf(x, df) == pytest.approx(scipy_stats.chi2.logsf(x, df), rel=1e-9, abs=1e-12)


def test_log_chi_square_tail_stays_finite_where_scipy_gives_infinity() -> None:
    assert scipy_stats.chi2.logsf(4000.0, 19) == -math.inf
    assert -2000.0 < log_chi_square_sf(4000.0, 19) < -1900.0


@pytest.mark.parametrize("df", [1, 2, 5, 12])
@pytest.mark.parametrize("p", [0.9, 0.5, 0.1, 1e-2, 1e-4, 1e-8, 1e-30])
def test_saddlepoint_of_equal_weights_is_the_chi_square_tail(p: float, df: int) -> None:
    x = scipy_stats.chi2.isf(p, df)
    weights = np.full((1, df), 0.37)
    ours = math.exp(log_weighted_chi_square_sf(np.array([0.37 * x]), weights)[0])
    assert 0.97 * p <= ours <= 1.11 * p


def test_saddlepoint_of_anderson_darlings_weights_gives_its_published_critical_values() -> None:
    # Anderson and Darling 1954: 10 %, 5 %, 1 % points of the limiting A^2 are 1.933, 2.492, 3.857.
    j = np.arange(1, 400)
    weights = np.tile(1.0 / (j * (j + 1.0)), (3, 1))
    # What the 400th and later terms lack is nearly constant: their mean.
    x = np.array([1.933, 2.492, 3.857]) - 1.0 / 400
    ratio = np.exp(log_weighted_chi_square_sf(x, weights)) / [0.10, 0.05, 0.01]
    assert (ratio > 0.99).all()
    assert (ratio < 1.11).all()


def test_saddlepoint_agrees_with_simulation_of_uneven_weights() -> None:
    rng = np.random.default_rng(11)
    weights = np.array([1.0, 0.4, 0.1, 0.1, 0.02])
    draws = (rng.standard_normal((400_000, 5)) ** 2) @ weights
    for quantile in (0.5, 0.9, 0.99, 0.999):
        x = np.quantile(draws, quantile)
        ours = math.exp(log_weighted_chi_square_sf(np.array([x]), weights[None])[0])
        assert ours == pytest.approx(1.0 - quantile, rel=0.12)


def test_saddlepoint_is_smooth_through_the_mean_and_one_without_weights() -> None:
    weights = np.tile([1.0, 0.5, 0.25], (201, 1))
    x = np.linspace(1.749, 1.751, 201)
    values = log_weighted_chi_square_sf(x, weights)
    assert (np.diff(values) < 0).all()
    assert np.abs(np.diff(values)).max() < 1e-4
    assert log_weighted_chi_square_sf(np.array([3.0, 0.0]), np.array([[0.0, 0.0], [1.0, 1.0]])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("drawn", "draws", "marked", "total"),
    [
        (5, 50, 5, 150),
        (11, 200, 12, 600),
        (1, 1000, 1, 6000),
        (30, 1000, 40, 21_000),
        (0, 10, 3, 50),
        (60, 100, 60, 160),
    ],
)
def test_hypergeometric_tail_agrees_with_scipy(drawn: int, draws: int, marked: int, total: int) -> None:
    theirs = scipy_stats.hypergeom.logsf(drawn - 1, total, marked, draws)
    assert log_hypergeometric_sf(drawn, draws, marked, total) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_hypergeometric_tail_never_claims_less_than_the_truth() -> None:
    rng = np.random.default_rng(2)
    total = rng.integers(200, 50_000, 300)
    draws, marked = rng.integers(1, total), rng.integers(1, total)
    mean = draws * marked / total
    drawn = np.clip(
        mean + rng.normal(0, 4, 300) * np.sqrt(mean), np.maximum(0, draws + marked - total), np.minimum(draws, marked)
    )
    drawn = drawn.astype(int)
    ours = log_hypergeometric_sf(drawn, draws, marked, total)
    theirs = np.array(
        [scipy_stats.hypergeom.logsf(x - 1, t, m, d) for x, d, m, t in zip(drawn, draws, marked, total, strict=True)]
    )
    assert (ours >= theirs - 1e-6 * np.abs(theirs) - 1e-7).all()
    deep = theirs < math.log(1e-3)
    assert deep.sum() > 20
    assert ours[deep] == pytest.approx(theirs[deep], abs=0.2)


def test_hypergeometric_tail_of_the_impossible_and_the_certain() -> None:
    assert log_hypergeometric_sf(6, 50, 5, 150) == -math.inf
    assert log_hypergeometric_sf(0, 50, 5, 150) == 0.0


@pytest.mark.parametrize(("n", "off"), [(50, 0.13), (300, 0.03), (4000, 0.01)])
@pytest.mark.parametrize("p", [0.9, 0.5, 0.1, 0.01, 1e-4])
def test_kolmogorov_tail_agrees_with_the_exact_law_of_scipy(p: float, n: int, off: float) -> None:
    d = scipy_stats.kstwo.isf(p, n)
    assert kolmogorov_sf(d, n) == pytest.approx(p, rel=off)


def test_kolmogorov_tail_is_one_at_zero_and_zero_far_out() -> None:
    assert kolmogorov_sf(0.0, 100) == 1.0
    assert kolmogorov_sf(1e-6, 100) == 1.0
    assert kolmogorov_sf(1.0, 10_000) == 0.0
