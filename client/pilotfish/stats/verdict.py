"""The verdict on a window: drifted or not, by how much, and why. The sidecar and the control plane both call it.

It owns the decision: corrections for many features and scales, effect floors, reasons. It never sees rows, never
keeps state between windows (`episodes.py` does) and never gives NaN: an undefined drift has a reason and fires nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pilotfish.errors import InvalidArgument
from pilotfish.stats.calibrated import MISSING_TEST, UNSEEN_TEST, run_tests
from pilotfish.stats.config import METHODS, P_VALUE_METHODS, REFERENCE_TO_WINDOW, DriftConfig, usable_scales
from pilotfish.stats.counts import MISSING, UNSEEN, WindowCounts
from pilotfish.stats.methods import score_feature
from pilotfish.stats.profile import FeatureGroup, FeatureKind, FeatureProfile, Profile

LN10 = math.log(10.0)


@dataclass(frozen=True, slots=True)
class FeatureVerdict:
    """What was found for one feature.

    Attributes:
        name, group: the feature.
        method: what was really computed: calibrated: anderson_darling, chi_square, missing or unseen, whichever was
            strongest; else the configured method, or its counterpart for categories.
        score: calibrated: -log10 p, in digits of evidence; ks_test: D; psi, js_distance, …: the distance. Finite.
        p_value: corrected for the feature's own tests; None for distances.
        threshold: calibrated, distances: drift needs score > threshold; ks_test, chi_square: drift needs p < threshold.
        n: rows of the window that hold a value.
        drifted: whether this feature drifted.
        effect: 0..1, the size beside the certainty: KS distance, total variation distance or difference of shares.
        reason: machine-readable, empty where there is nothing to say: NOT_OBSERVED, NO_VALUES, NO_REFERENCE_VALUES,
            METHOD_NEEDS_NUMBERS, BELOW_EFFECT_FLOOR.
        detail: for people.
        scale: base windows in the sum that was strongest.
        overdispersion: how much dependence between neighbouring rows inflates variances; 1 = independent rows.
    """

    name: str
    group: FeatureGroup
    method: str
    score: float
    p_value: float | None
    threshold: float
    n: int
    drifted: bool
    effect: float
    reason: str = ""
    detail: str = ""
    scale: int = 1
    overdispersion: float = 1.0


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """What was found for a window; the overall score is the maximum over its features.

    Attributes:
        drifted: whether any feature drifted.
        score: the largest feature score; 0 where there is none. Its meaning: see `FeatureVerdict.score`.
        threshold: see `FeatureVerdict.threshold`.
        method: as configured.
        n: rows of the sum in which the largest score was found.
        features: every feature of the profile, in its order; empty where nothing was judged.
        scale: base windows in that sum.
        reason: empty, or LEARNING, PROFILE_MISMATCH, TOO_FEW_ROWS, NO_FEATURES, BELOW_EFFECT_FLOOR.
        overdispersion: largest factor of any feature in the base window; above 2 the p-values of ks_test and chi_square
            are not calibrated, and those of calibrated rest on its correction.
        data_score, data_drifted: the same over inputs.
        prediction_score, prediction_drifted: the same over outputs.
    """

    drifted: bool
    score: float
    threshold: float
    method: str
    n: int
    features: tuple[FeatureVerdict, ...]
    scale: int
    reason: str
    overdispersion: float
    data_score: float = 0.0
    data_drifted: bool = False
    prediction_score: float = 0.0
    prediction_drifted: bool = False

    @property
    def overdispersed(self) -> bool:
        """Whether rows depend on each other so much (factor above 2) that p-values need a warning beside them."""
        return self.overdispersion > 2.0


def verdict(
    profile: Profile | None, counts: Mapping[int, WindowCounts] | WindowCounts, config: DriftConfig
) -> DriftVerdict:
    """Return whether the newest window drifted from the reference.

    Args:
        profile: the reference; None: it is still being learned.
        counts: scale → sum of so many newest base windows; or one base window. Scales that are not configured, or for
            which the reference is too small (`usable_scales`), are left out.
        config: valid by `validate_drift_config`.

    Raises:
        InvalidArgument: the method is unknown.
    """
    if config.method not in METHODS:
        raise InvalidArgument(
            f"drift method {config.method!r} is unknown; use one of {', '.join(METHODS)}", reason="UNKNOWN_METHOD"
        )
    sums = {1: counts} if isinstance(counts, WindowCounts) else dict(counts)
    base = sums.get(min(sums)) if sums else None
    rows = base.rows if base is not None else 0
    if profile is None:
        return _nothing(config, rows, "LEARNING")
    if any(window.profile_id != profile.id for window in sums.values()):
        return _nothing(config, rows, "PROFILE_MISMATCH")
    if not profile.features:
        return _nothing(config, rows, "NO_FEATURES")
    scales = usable_scales(profile.rows, config)
    # Sums over many replicas are larger than the scale says; the reference must carry what they really hold.
    chosen = {
        scale: sums[scale]
        for scale in scales
        if scale in sums
        and sums[scale].rows >= config.min_rows
        and (scale == 1 or profile.rows >= REFERENCE_TO_WINDOW * sums[scale].rows)
    }
    if not chosen:
        return _nothing(config, rows, "TOO_FEW_ROWS")
    if config.method == "calibrated":
        return _calibrated(profile, chosen, len(scales), config)
    return _classical(profile, chosen[min(chosen)], config)


def _nothing(config: DriftConfig, rows: int, reason: str) -> DriftVerdict:
    return DriftVerdict(False, 0.0, config.effective_threshold, config.method, rows, (), 1, reason, 1.0)


def _calibrated(profile: Profile, sums: Mapping[int, WindowCounts], scales: int, config: DriftConfig) -> DriftVerdict:
    windows = list(sums.values())
    results = run_tests(profile, windows, config.overdispersion)
    limit = math.log(config.effective_threshold / (len(profile.features) * scales))
    tests = np.maximum(results.applies.sum(axis=1, keepdims=True), 1)
    log_p = np.minimum(np.where(results.applies, results.log_p + np.log(tests), 0.0), 0.0)
    alarms = (log_p < limit) & (results.effect >= config.effect_floor)
    # Prefer a test that fires to one that is more certain but below the effect floor.
    best = np.where(alarms, log_p - 1e12, log_p).argmin(axis=1)
    every = np.arange(best.size)
    found, fired = log_p[every, best], alarms[every, best]
    features = len(profile.features)
    key = np.where(fired, found - 1e12, found).reshape(len(windows), features)
    strongest = key.argmin(axis=0) * features + np.arange(features)
    columns = (
        strongest // features,
        best[strongest],
        found[strongest],
        fired[strongest],
        results.effect[strongest, best[strongest]],
        results.applies[strongest].any(axis=1),
        results.overdispersion[strongest],
    )
    scale_of, rows_of = tuple(sums), [_row_counts(window) for window in windows]
    verdicts = []
    for feature, (at, *judged), i in zip(
        profile.features, zip(*(c.tolist() for c in columns), strict=True), range(features), strict=True
    ):
        counted = (scale_of[at], *rows_of[at][i])
        verdicts.append(_calibrated_feature(feature, limit, counted, *judged))
    shown = float(results.overdispersion[:features].max(initial=1.0))
    return _overall(config, -limit / LN10, verdicts, {s: w.rows for s, w in sums.items()}, shown)


def _row_counts(window: WindowCounts) -> list[tuple[int, int, int]]:
    """Return rows with a value, rows without, and rows with an unseen value, per feature."""
    filled = np.add.reduceat(window.bins, window.offsets[:-1])
    missing, unseen = window.whole[:, MISSING], window.whole[:, UNSEEN]
    return list(zip((filled + unseen).tolist(), missing.tolist(), unseen.tolist(), strict=True))


def _calibrated_feature(
    feature: FeatureProfile,
    limit: float,
    counted: tuple[int, int, int, int],
    test: int,
    log_p: float,
    fired: bool,
    effect: float,
    applies: bool,
    overdispersion: float,
) -> FeatureVerdict:
    scale, n, missing, unseen = counted
    reason = ""
    if n + missing == 0:
        reason = "NOT_OBSERVED"
    elif log_p < limit and not fired:
        reason = "BELOW_EFFECT_FLOOR"
    elif feature.present == 0:
        reason = "NO_REFERENCE_VALUES"
    elif n == 0:
        reason = "NO_VALUES"
    if test == MISSING_TEST:
        now, before = missing / max(n + missing, 1), feature.missing / max(feature.rows, 1)
        method, detail = "missing", f"missing {before:.1%} in the reference, {now:.1%} now"
    elif test == UNSEEN_TEST:
        now, before = unseen / max(n, 1), feature.novel / max(feature.present, 1)
        method, detail = "unseen", f"unseen values: {before:.1%} expected, {now:.1%} now"
    elif feature.kind is FeatureKind.CATEGORICAL:
        method, detail = "chi_square", f"total variation distance {effect:.3f} over {len(feature.counts)} levels"
    else:
        method, detail = "anderson_darling", f"KS distance {effect:.3f} over {len(feature.counts)} bins"
    return FeatureVerdict(
        name=feature.name,
        group=feature.group,
        method=method,
        score=max(0.0, -log_p / LN10),
        p_value=math.exp(log_p) if applies else None,
        threshold=-limit / LN10,
        n=n,
        drifted=fired,
        effect=effect,
        reason=reason,
        detail=detail,
        scale=scale,
        overdispersion=overdispersion,
    )


def _classical(profile: Profile, window: WindowCounts, config: DriftConfig) -> DriftVerdict:
    threshold = config.effective_threshold
    by_p = config.method in P_VALUE_METHODS
    verdicts = []
    for i, feature in enumerate(profile.features):
        counts = window.features_at(i)
        score = score_feature(config.method, feature, counts)
        exceeded = (score.p_value is not None and score.p_value < threshold) if by_p else score.value > threshold
        verdicts.append(
            FeatureVerdict(
                name=feature.name,
                group=feature.group,
                method=score.method,
                score=score.value,
                p_value=score.p_value,
                threshold=threshold,
                n=counts.n,
                drifted=not score.reason and exceeded,
                effect=score.value if score.method not in {"chi_square", "psi", "wasserstein"} else 0.0,
                reason=score.reason,
                detail=score.detail,
            )
        )
    factors = run_tests(profile, [window], config.overdispersion).overdispersion
    return _overall(config, threshold, verdicts, {1: window.rows}, float(factors.max(initial=1.0)))


def _overall(
    config: DriftConfig, threshold: float, features: Sequence[FeatureVerdict], rows: Mapping[int, int], factor: float
) -> DriftVerdict:
    # A feature that fired stands before one with a larger score below the effect floor.
    top = max(features, key=lambda f: (f.drifted, f.score))
    drifted = any(f.drifted for f in features)
    floored = not drifted and any(f.reason == "BELOW_EFFECT_FLOOR" for f in features)
    inputs = [f for f in features if f.group is FeatureGroup.INPUT]
    outputs = [f for f in features if f.group is FeatureGroup.OUTPUT]
    return DriftVerdict(
        drifted=drifted,
        score=max(f.score for f in features),
        threshold=threshold,
        method=config.method,
        n=rows[top.scale],
        features=tuple(features),
        scale=top.scale,
        reason="BELOW_EFFECT_FLOOR" if floored else "",
        overdispersion=factor,
        data_score=max((f.score for f in inputs), default=0.0),
        data_drifted=any(f.drifted for f in inputs),
        prediction_score=max((f.score for f in outputs), default=0.0),
        prediction_drifted=any(f.drifted for f in outputs),
    )
