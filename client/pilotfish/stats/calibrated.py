"""The calibrated tests: log p-values and effects of all features of all scales at once.

Numbers: binned two-sample Anderson-Darling. Categories: pooled chi-square. Missing and unseen values: exact tails.
Every test is of two samples and conditions on what both have together, so the reference's own size is accounted for.

Two departures from the textbook keep the far tail honest. Each squared standard deviation is replaced by the
likelihood ratio of its 2 x 2 table where that is smaller: with few expected rows a squared deviation grows far faster
than its probability falls, the likelihood ratio does not. And all statistics are divided by the overdispersion of the
rows, estimated from sums over blocks of neighbours, up to a limit.

It owns these statistics. It never decides what counts as drift: `verdict.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pilotfish.stats.counts import MISSING, UNSEEN, WindowCounts
from pilotfish.stats.overdispersion import estimate_overdispersion
from pilotfish.stats.profile import FeatureKind, Profile
from pilotfish.stats.tails import (
    log_chi_square_sf,
    log_hypergeometric_sf,
    log_normal_sf,
    log_weighted_chi_square_sf,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHAPE: Final = 0
MISSING_TEST: Final = 1
UNSEEN_TEST: Final = 2

FEWEST_VALUES = 10
"""Values that a window needs for a test of the shape."""
LARGEST_CORRECTION = 8.0
"""The largest estimated factor that statistics are divided by.

A batch sorted by one of its columns looks as dependent as a slow process, and drift in it must still be seen. Up to
AR 0.8 this is enough (0 alarms in 96 clean windows; 15 at AR 0.9); beyond, the configuration can give the factor.
"""
_FEWEST_EXPECTED = 5.0
# Below this the moments' approximation of the bulk gives way to eigenvalues and saddlepoint.
_ROUGH_BELOW = np.log(0.1)


@dataclass(frozen=True, slots=True)
class FeatureTests:
    """What the tests found, per row (one feature at one scale) and test.

    Attributes:
        log_p: natural logarithm of p, shape (rows, 3); 0 where the test does not apply.
        effect: 0..1, shape (rows, 3).
        applies: shape (rows, 3).
        overdispersion: factor found or given, >= 1, shape (rows,); of one found, at most 8 was divided by.
    """

    log_p: Floats
    effect: Floats
    applies: npt.NDArray[np.bool_]
    overdispersion: Floats


class _Layout:
    """Where the features of a kind lie in the array of all bins, padded to equal width, and their reference counts."""

    __slots__ = ("features", "gather", "reference")

    def __init__(self, profile: Profile, kind: FeatureKind) -> None:
        chosen = [i for i, f in enumerate(profile.features) if f.kind is kind]
        offsets = profile.offsets()
        width = max((int(offsets[i + 1] - offsets[i]) for i in chosen), default=1)
        pad = int(offsets[-1])
        self.features: Ints = np.array(chosen, dtype=np.int64)
        self.gather: Ints = np.full((len(chosen), width), pad, dtype=np.int64)
        self.reference: Floats = np.zeros((len(chosen), width))
        for row, i in enumerate(chosen):
            counts = profile.features[i].counts
            self.gather[row, : len(counts)] = np.arange(offsets[i], offsets[i + 1])
            self.reference[row, : len(counts)] = counts
            if kind is FeatureKind.CATEGORICAL:
                # A level that occurs once would be unseen, not `other`, had its row been in the window instead.
                feature = profile.features[i]
                self.reference[row, len(counts) - 1] -= feature.novel - feature.unlisted


class _Reference:
    """What the tests need of a profile, computed once."""

    __slots__ = ("categorical", "missing", "novel", "numeric", "present")

    def __init__(self, profile: Profile) -> None:
        self.numeric = _Layout(profile, FeatureKind.NUMERIC)
        self.categorical = _Layout(profile, FeatureKind.CATEGORICAL)
        self.missing = np.array([f.missing for f in profile.features], dtype=np.float64)
        self.present = np.array([f.present for f in profile.features], dtype=np.float64)
        self.novel = np.array([f.novel for f in profile.features], dtype=np.float64)


def _reference(profile: Profile) -> _Reference:
    kept = profile._kept.get("calibrated")
    if not isinstance(kept, _Reference):
        kept = profile._kept["calibrated"] = _Reference(profile)
    return kept


def run_tests(profile: Profile, windows: list[WindowCounts], overdispersion: float | None) -> FeatureTests:
    """Return the tests of every feature in every window, rows ordered by window and then by feature.

    Args:
        profile: the reference, with at least one feature.
        windows: counts against this profile.
        overdispersion: a factor for all features; None: estimated per feature and window.
    """
    reference = _reference(profile)
    features = len(profile.features)
    # One more bin, always 0, for the padding to point at.
    bins = np.zeros((len(windows), int(profile.offsets()[-1]) + 1))
    for row, window in enumerate(windows):
        bins[row, :-1] = window.bins
    whole = np.concatenate([window.whole for window in windows]).astype(np.float64)
    present = np.add.reduceat(bins[:, :-1], profile.offsets()[:-1], axis=1).ravel() + whole[:, UNSEEN]
    if overdispersion is None:
        shown = estimate_overdispersion(profile, windows)
        factor = np.minimum(shown, LARGEST_CORRECTION)
    else:
        shown = factor = np.full(len(windows) * features, overdispersion)
    log_p = np.zeros((len(windows) * features, 3))
    effect = np.zeros_like(log_p)
    applies = np.zeros(log_p.shape, dtype=np.bool_)
    for layout, test in ((reference.numeric, _anderson_darling), (reference.categorical, _chi_square)):
        if layout.features.size:
            rows = (np.arange(len(windows))[:, None] * features + layout.features).ravel()
            counts = bins[:, layout.gather].reshape(rows.size, -1)
            base = np.tile(layout.reference, (len(windows), 1))
            enough = (counts.sum(axis=1) >= FEWEST_VALUES) & (base.sum(axis=1) > 0)
            applies[rows, SHAPE] = enough
            usable = rows[enough]
            log_p[usable, SHAPE], effect[usable, SHAPE] = test(base[enough], counts[enough], factor[usable])
    _share_tests(reference, whole, present, factor, len(windows), log_p, effect, applies)
    return FeatureTests(log_p, effect, applies, shown)


def _cut_statistics(reference: Floats, window: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return, per cut between bins: the statistic, its weight, the pooled odds below it, the difference of shares.

    The statistic is the squared deviation of the rows below the cut, given the pooled rows there, in units of its
    variance; or the likelihood ratio of the same table, where smaller.
    """
    below_r, below_w = reference.cumsum(axis=1), window.cumsum(axis=1)
    m, n = below_r[:, -1:], below_w[:, -1:]
    below_r, below_w = below_r[:, :-1], below_w[:, :-1]
    total = m + n
    below = below_r + below_w
    above = total - below
    inside = (below > 0) & (above > 0)
    squared = (m * below_w - n * below_r) ** 2 * (total - 1.0) / np.where(inside, m * n * below * above, 1.0)
    ratio = 2.0 * (
        _xlogx(below_w)
        + _xlogx(below_r)
        + _xlogx(n - below_w)
        + _xlogx(m - below_r)
        - _xlogx(below)
        - _xlogx(above)
        - _xlogx(n)
        - _xlogx(m)
        + _xlogx(total)
    )
    statistic = np.where(inside, np.clip(np.minimum(squared, ratio), 0.0, None), 0.0)
    pooled = (reference + window) / total
    weight = np.where(inside, 0.5 * (pooled[:, :-1] + pooled[:, 1:]), 0.0)
    odds = np.where(inside, below / np.where(inside, above, 1.0), 1.0)
    return statistic, weight, odds, np.abs(below_w / n - below_r / m)


def _anderson_darling(reference: Floats, window: Floats, factor: Floats) -> tuple[Floats, Floats]:
    """Return ln p and the binned KS distance per row.

    The statistic sums the cuts' squared deviations, each weighted by the pooled mass beside it. Given the pooled rows
    the deviations are (nearly) normal with correlation sqrt(odds_i / odds_j), so the sum is a weighted chi-square with
    the eigenvalues of the weighted correlations (Scholz and Stephens, JASA 1987, for the statistic with ties).
    """
    statistic, weight, odds, distance = _cut_statistics(reference, window)
    observed = (weight * statistic).sum(axis=1) / factor
    root = np.sqrt(odds)
    ascending = root[:, :, None] / root[:, None, :]
    correlation = np.minimum(ascending, ascending.transpose(0, 2, 1))
    mean = weight.sum(axis=1)
    squares = np.einsum("ri,rij,rij,rj->r", weight, correlation, correlation, weight, optimize=False)
    log_p = _gamma_bulk(observed, mean, 2.0 * squares)
    deep = np.flatnonzero(log_p < _ROUGH_BELOW)
    if deep.size:
        scaled = np.sqrt(weight[deep])
        eigenvalues = np.linalg.eigvalsh(scaled[:, :, None] * correlation[deep] * scaled[:, None, :])
        log_p[deep] = log_weighted_chi_square_sf(observed[deep], np.clip(eigenvalues, 0.0, None))
    return log_p, distance.max(axis=1, initial=0.0)


def _gamma_bulk(observed: Floats, mean: Floats, variance: Floats) -> Floats:
    """Return ln p of a gamma variable with this mean and variance (Wilson-Hilferty); for the bulk only."""
    usable = (mean > 0.0) & (variance > 0.0)
    safe_mean = np.where(usable, mean, 1.0)
    ninth = np.where(usable, variance, 1.0) / (9.0 * safe_mean**2)
    z = (np.cbrt(observed / safe_mean) - (1.0 - ninth)) / np.sqrt(ninth)
    return np.array([log_normal_sf(v) if ok else 0.0 for v, ok in zip(z.tolist(), usable.tolist(), strict=True)])


def _chi_square(reference: Floats, window: Floats, factor: Floats) -> tuple[Floats, Floats]:
    """Return ln p and the total variation distance per row of a 2 x levels table; sparse levels are pooled."""
    m, n = reference.sum(axis=1, keepdims=True), window.sum(axis=1, keepdims=True)
    total = m + n
    distance = 0.5 * np.abs(window / n - reference / m).sum(axis=1)
    sparse = (reference + window) * np.minimum(m, n) < _FEWEST_EXPECTED * total
    reference, window = (
        np.concatenate((np.where(sparse, 0.0, c), np.where(sparse, c, 0.0).sum(axis=1, keepdims=True)), axis=1)
        for c in (reference, window)
    )
    pooled = reference + window
    filled = pooled > 0
    squared = ((m * window - n * reference) ** 2 / np.where(filled, m * n * pooled, 1.0)).sum(axis=1)
    ratio = 2.0 * (_xlogx(window) + _xlogx(reference) - _xlogx(pooled)).sum(axis=1)
    ratio += 2.0 * (_xlogx(total) - _xlogx(m) - _xlogx(n))[:, 0]
    statistic = np.clip(np.minimum(squared, ratio), 0.0, None) / factor
    freedom = filled.sum(axis=1) - 1
    log_p = [
        log_chi_square_sf(x, df) if df > 0 else 0.0 for x, df in zip(statistic.tolist(), freedom.tolist(), strict=True)
    ]
    return np.array(log_p), distance


def _share_tests(
    reference: _Reference,
    whole: Floats,
    present: Floats,
    factor: Floats,
    windows: int,
    log_p: Floats,
    effect: Floats,
    applies: npt.NDArray[np.bool_],
) -> None:
    """Fill in the tests of the shares of missing values (two-sided) and of unseen values (more of them)."""
    ref_missing, ref_present, ref_novel = (
        np.tile(v, windows) for v in (reference.missing, reference.present, reference.novel)
    )
    missing, unseen = whole[:, MISSING], whole[:, UNSEEN]
    rows, ref_rows = present + missing, ref_present + ref_missing
    at = np.flatnonzero((missing + ref_missing > 0) & (rows > 0) & (ref_rows > 0))
    if at.size:
        pooled, total = missing[at] + ref_missing[at], rows[at] + ref_rows[at]
        more = log_hypergeometric_sf(missing[at], rows[at], pooled, total)
        fewer = log_hypergeometric_sf(present[at], rows[at], total - pooled, total)
        log_p[at, MISSING_TEST] = np.minimum(np.log(2.0) + np.minimum(more, fewer), 0.0) / factor[at]
        effect[at, MISSING_TEST] = np.abs(missing[at] / rows[at] - ref_missing[at] / ref_rows[at])
        applies[at, MISSING_TEST] = True
    at = np.flatnonzero((unseen + ref_novel > 0) & (present > 0) & (ref_present > 0))
    if at.size:
        pooled, total = unseen[at] + ref_novel[at], present[at] + ref_present[at]
        log_p[at, UNSEEN_TEST] = log_hypergeometric_sf(unseen[at], present[at], pooled, total) / factor[at]
        effect[at, UNSEEN_TEST] = np.clip(unseen[at] / present[at] - ref_novel[at] / ref_present[at], 0.0, None)
        applies[at, UNSEEN_TEST] = True


def _xlogx(x: Floats) -> Floats:
    result: Floats = x * np.log(np.maximum(x, 1.0))
    return result
