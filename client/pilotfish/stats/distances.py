"""The classical tests and distances on raw rows or on counts, each a plain function with its definition beside it.

It owns the formulas. It never bins by itself but for `shared_bins`, which says in its name and docstring how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pilotfish.stats.tails import kolmogorov_sf, log_chi_square_sf

Floats = npt.NDArray[np.float64]

EXACT_ROWS = 10_000
"""The larger sample's rows up to which `ks_2samp` is exact by default, as in scipy."""


@dataclass(frozen=True, slots=True)
class TwoSampleResult:
    """A statistic and its p-value, both finite."""

    statistic: float
    p_value: float


def ks_2samp(
    x: npt.ArrayLike, y: npt.ArrayLike, *, method: Literal["auto", "exact", "asymptotic"] = "auto"
) -> TwoSampleResult:
    """Return the two-sided Kolmogorov-Smirnov statistic D in 0..1 and its p-value.

    Args:
        x: first sample, shape (m,); NaN is left out.
        y: second sample, shape (n,); NaN is left out.
        method: exact: paths in the lattice (conservative with ties); asymptotic: the limiting law, corrected; auto:
            exact up to 10,000 rows.

    Raises:
        ValueError: a sample has no values.
    """
    a, b = _sample(x, "x"), _sample(y, "y")
    m, n = a.size, b.size
    both = np.concatenate((a, b))
    # D times m n, in whole numbers: rounding must not decide whether a path touches the boundary.
    below_a = np.searchsorted(a, both, side="right").astype(np.int64)
    below_b = np.searchsorted(b, both, side="right").astype(np.int64)
    reach = int(np.abs(below_a * n - below_b * m).max())
    d = reach / (m * n)
    if method == "exact" or (method == "auto" and max(m, n) <= EXACT_ROWS):
        return TwoSampleResult(d, _exact_ks_p(m, n, reach))
    return TwoSampleResult(d, kolmogorov_sf(d, m * n / (m + n)))


def _exact_ks_p(m: int, n: int, reach: int) -> float:
    """Return P(max |i n - j m| >= reach) over random lattice paths from (0, 0) to (m, n).

    Only positive terms are added (the chance to leave the band at each step), so that tiny p-values keep their digits.
    """
    if reach <= 0:
        return 1.0
    if m > n:
        m, n = n, m
    inside = np.zeros(m + 1)
    inside[0] = 1.0
    i = np.arange(m + 1)
    left_band = 0.0
    for step in range(m + n):
        j = step - i
        go_x = np.where((i < m) & (j >= 0), (m - i) / (m + n - step), 0.0)
        move = inside * go_x
        stay = inside * (1.0 - go_x)
        stay[1:] += move[:-1]
        j = step + 1 - i
        outside = (np.abs(i * n - j * m) >= reach) & (j >= 0) & (j <= n)
        left_band += float(stay[outside].sum())
        stay[outside] = 0.0
        inside = stay
    return min(1.0, left_band)


def wasserstein_distance(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the first Wasserstein distance between two samples, in the unit of the data, >= 0.

    Args:
        x: first sample, shape (m,); NaN is left out.
        y: second sample, shape (n,).

    Raises:
        ValueError: a sample has no finite values.
    """
    a, b = _sample(x, "x"), _sample(y, "y")
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if a.size == 0 or b.size == 0:
        raise ValueError("the Wasserstein distance needs finite values in both samples")
    both = np.sort(np.concatenate((a, b)))
    share_a = np.searchsorted(a, both[:-1], side="right") / a.size
    share_b = np.searchsorted(b, both[:-1], side="right") / b.size
    return float((np.abs(share_a - share_b) * np.diff(both)).sum())


def shared_bins(
    x: npt.ArrayLike, y: npt.ArrayLike, bins: int = 10, *, rule: Literal["reference_quantiles", "pooled_equal"]
) -> tuple[Floats, Floats]:
    """Return the counts of two samples in the same bins, each of shape (bins,) or less where quantiles coincide.

    Args:
        x: the reference, shape (m,); NaN is left out.
        y: the window, shape (n,).
        bins: number of bins.
        rule: reference_quantiles: cuts at numpy's linear quantiles of x, first and last bin open; pooled_equal: equal
            widths from the smallest to the largest value of both.
    """
    a, b = _sample(x, "x"), _sample(y, "y")
    if rule == "reference_quantiles":
        cuts = np.unique(np.quantile(a, np.arange(1, bins) / bins))
    else:
        cuts = np.linspace(min(a[0], b[0]), max(a[-1], b[-1]), bins + 1)[1:-1]
    counted = [np.bincount(np.searchsorted(cuts, v, side="right"), minlength=cuts.size + 1) for v in (a, b)]
    return counted[0].astype(np.float64), counted[1].astype(np.float64)


def psi(expected: npt.ArrayLike, actual: npt.ArrayLike, *, floor: float = 1e-4) -> float:
    """Return the population stability index in nats, >= 0; 0 means equal shares.

    Args:
        expected: counts per bin of the reference, shape (bins,).
        actual: counts per bin of the window, same bins.
        floor: smallest share a bin may have; keeps the logarithm finite.

    Raises:
        ValueError: the shapes differ, or either side sums to 0.
    """
    p, q = _shares(expected, actual)
    p, q = np.maximum(p, floor), np.maximum(q, floor)
    return max(0.0, float(((q - p) * np.log(q / p)).sum()))


def js_distance(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return the Jensen-Shannon distance, base 2, in 0..1: the square root of the divergence in bits.

    Args:
        expected: counts per bin of the reference, shape (bins,).
        actual: counts per bin of the window, same bins.

    Raises:
        ValueError: the shapes differ, or either side sums to 0.
    """
    p, q = _shares(expected, actual)
    middle = np.where(p + q > 0.0, 0.5 * (p + q), 1.0)
    divergence = sum(float((s * np.log2(np.where(s > 0.0, s, middle) / middle)).sum()) for s in (p, q)) / 2.0
    return math.sqrt(min(1.0, max(0.0, divergence)))


def hellinger(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return the Hellinger distance in 0..1.

    Args:
        expected: counts per bin of the reference, shape (bins,).
        actual: counts per bin of the window, same bins.

    Raises:
        ValueError: the shapes differ, or either side sums to 0.
    """
    p, q = _shares(expected, actual)
    return min(1.0, math.sqrt(float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum()) / 2.0))


def total_variation(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return half the summed difference of shares, in 0..1.

    Raises:
        ValueError: the shapes differ, or either side sums to 0.
    """
    p, q = _shares(expected, actual)
    return min(1.0, 0.5 * float(np.abs(p - q).sum()))


def chi_square(expected: npt.ArrayLike, actual: npt.ArrayLike) -> TwoSampleResult:
    """Return Pearson's chi-square of the 2 x bins table of two samples, without continuity correction, and its p-value.

    Of two samples: a bin that the reference never had is unlikely, not impossible. Bins empty on both sides are left
    out.

    Args:
        expected: counts per bin of the reference, shape (bins,).
        actual: counts per bin of the window, same bins.

    Raises:
        ValueError: the shapes differ, or either side sums to 0.
    """
    _shares(expected, actual)
    r, w = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    filled = r + w > 0
    r, w = r[filled], w[filled]
    m, n = r.sum(), w.sum()
    statistic = float(((m * w - n * r) ** 2 / (m * n * (r + w))).sum())
    if r.size < 2:
        return TwoSampleResult(0.0, 1.0)
    return TwoSampleResult(statistic, math.exp(log_chi_square_sf(statistic, r.size - 1)))


def _sample(values: npt.ArrayLike, name: str) -> Floats:
    """Return the values sorted, without NaN."""
    sample = np.asarray(values, dtype=np.float64).ravel()
    sample = np.sort(sample[~np.isnan(sample)])
    if sample.size == 0:
        raise ValueError(f"sample {name} has no values")
    return sample


def _shares(expected: npt.ArrayLike, actual: npt.ArrayLike) -> tuple[Floats, Floats]:
    r, w = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if r.ndim != 1 or r.shape != w.shape:
        raise ValueError(f"counts must be of the same bins: shapes {r.shape} and {w.shape}")
    if not (np.isfinite(r).all() and np.isfinite(w).all() and (r >= 0).all() and (w >= 0).all()):
        raise ValueError("counts must be finite and >= 0")
    if r.sum() <= 0 or w.sum() <= 0:
        raise ValueError("either side has no rows")
    return r / r.sum(), w / w.sum()
