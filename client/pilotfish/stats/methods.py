"""The classical methods by name, from the same counts as the calibrated tests.

Bins are the profile's: quantile bins with atoms of their own, or levels; missing and unseen values are bins of their
own for the distances of shares. It owns which statistic a name means. It never corrects for many features: these are
the textbook's methods, as configured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pilotfish.stats.counts import FeatureCounts
from pilotfish.stats.distances import chi_square, hellinger, js_distance, psi, total_variation
from pilotfish.stats.profile import FeatureKind, FeatureProfile
from pilotfish.stats.tails import kolmogorov_sf

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """A statistic of one feature: what was computed, and p where it is defined; or why there is none."""

    method: str
    value: float = 0.0
    p_value: float | None = None
    reason: str = ""
    detail: str = ""


def score_feature(method: str, feature: FeatureProfile, counts: FeatureCounts) -> Score:
    """Return the statistic of a named method for one feature; a reason instead where it is undefined.

    Args:
        method: a name in `config.METHODS` other than calibrated.
        feature: the reference.
        counts: the window.
    """
    if counts.n + counts.missing == 0:
        return Score(method, reason="NOT_OBSERVED", detail="the window has no such column")
    if feature.present == 0:
        return Score(method, reason="NO_REFERENCE_VALUES", detail="every reference row is missing")
    if counts.n == 0:
        return Score(method, reason="NO_VALUES", detail="every row of the window is missing")
    return _METHODS[method](feature, counts)


def _ks_test(feature: FeatureProfile, counts: FeatureCounts) -> Score:
    if feature.kind is FeatureKind.CATEGORICAL:
        r, w = _share_counts(feature, counts)
        return Score("chi_square", total_variation(r, w), chi_square(r, w).p_value, detail="levels have no order")
    pair = _number_counts(feature, counts)
    if pair is None:
        return Score("ks_test", reason="NO_VALUES", detail="no row holds a number")
    r, w = pair
    d = float(np.abs(r.cumsum() / r.sum() - w.cumsum() / w.sum()).max())
    m, n = float(r.sum()), float(w.sum())
    return Score("ks_test", d, kolmogorov_sf(d, m * n / (m + n)), detail=f"D over {r.size} bins")


def _chi_square(feature: FeatureProfile, counts: FeatureCounts) -> Score:
    r, w = _share_counts(feature, counts)
    result = chi_square(r, w)
    return Score("chi_square", result.statistic, result.p_value)


def _psi(feature: FeatureProfile, counts: FeatureCounts) -> Score:
    r, w = _share_counts(feature, counts)
    return Score("psi", psi(r, w), detail=f"nats, {r.size} bins, shares >= 1e-4")


def _js_distance(feature: FeatureProfile, counts: FeatureCounts) -> Score:
    r, w = _share_counts(feature, counts)
    return Score("js_distance", js_distance(r, w), detail=f"base 2, {r.size} bins")


def _hellinger(feature: FeatureProfile, counts: FeatureCounts) -> Score:
    r, w = _share_counts(feature, counts)
    return Score("hellinger", hellinger(r, w), detail=f"{r.size} bins")


def _wasserstein(feature: FeatureProfile, counts: FeatureCounts) -> Score:
    if feature.kind is FeatureKind.CATEGORICAL:
        return Score("wasserstein", reason="METHOD_NEEDS_NUMBERS", detail="levels have no distance")
    pair = _number_counts(feature, counts)
    if pair is None:
        return Score("wasserstein", reason="NO_VALUES", detail="no row holds a number")
    r, w = pair
    gap = np.abs(r.cumsum() / r.sum() - w.cumsum() / w.sum())[:-1]
    places = _bin_places(feature, counts)
    # In units of the data's size first: distances of huge numbers must not overflow.
    scale = max(float(np.abs(places).max(initial=0.0)), abs(feature.mean), float(np.finfo(np.float64).tiny))
    distance = float((gap * np.diff(places / scale)).sum())
    if distance == 0.0:
        return Score("wasserstein", 0.0, detail="in standard deviations of the reference")
    spread, unit = feature.sd / scale, "in standard deviations of the reference"
    if spread <= 0.0:
        # A constant reference has no spread to measure by: take the size of its value.
        spread, unit = max(abs(feature.mean) / scale, 1e-12), "in units of the constant reference"
    return Score("wasserstein", min(distance / spread, float(np.finfo(np.float64).max)), detail=unit)


def _number_counts(feature: FeatureProfile, counts: FeatureCounts) -> tuple[Floats, Floats] | None:
    r = np.array(feature.counts, dtype=np.float64)
    w = counts.bins.astype(np.float64)
    return (r, w) if r.sum() > 0 and w.sum() > 0 else None


def _share_counts(feature: FeatureProfile, counts: FeatureCounts) -> tuple[Floats, Floats]:
    """Return reference and window counts with unseen and missing values as the last two bins."""
    r = np.array([*feature.counts, feature.unlisted, feature.missing], dtype=np.float64)
    w = np.concatenate((counts.bins, [counts.unseen, counts.missing])).astype(np.float64)
    filled = r + w > 0
    return r[filled], w[filled]


def _bin_places(feature: FeatureProfile, counts: FeatureCounts) -> Floats:
    """Return one place per bin: its middle; the open bins end at the smallest and largest value of both sides."""
    low = min(feature.min, math.inf if counts.min is None else counts.min)
    high = max(feature.max, -math.inf if counts.max is None else counts.max)
    edges = np.array(feature.edges, dtype=np.float64)
    bounds = np.concatenate(([min(low, *feature.edges)], edges, [max(high, *feature.edges)])) if edges.size else edges
    if bounds.size == 0:
        return np.array([low])
    middle: Floats = 0.5 * bounds[:-1] + 0.5 * bounds[1:]
    return middle


_METHODS: dict[str, Callable[[FeatureProfile, FeatureCounts], Score]] = {
    "ks_test": _ks_test,
    "psi": _psi,
    "js_distance": _js_distance,
    "wasserstein": _wasserstein,
    "hellinger": _hellinger,
    "chi_square": _chi_square,
}
