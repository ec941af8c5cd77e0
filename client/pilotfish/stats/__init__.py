"""Drift statistics: profiles of training data, counts of windows, verdicts that can be believed. numpy alone.

    profile = build_profile({"age": ages, "country": countries})
    tracker = WindowTracker(profile, config)
    for window in tracker.add({"age": …, "country": …}, {}, at):
        found = verdict(profile, window.sums, config)

The sidecar and the control plane call the same functions on the same counts. Nothing here reads a clock, draws a
random number or knows the wire.
"""

from __future__ import annotations

from pilotfish.stats.building import build_profile
from pilotfish.stats.columns import columns_from_matrix
from pilotfish.stats.config import METHODS, DriftConfig, usable_scales, validate_drift_config
from pilotfish.stats.counting import count_window
from pilotfish.stats.counts import FeatureCounts, WindowCounts, merge_counts, sum_counts
from pilotfish.stats.distances import (
    TwoSampleResult,
    chi_square,
    hellinger,
    js_distance,
    ks_2samp,
    psi,
    shared_bins,
    total_variation,
    wasserstein_distance,
)
from pilotfish.stats.episodes import EpisodeEvent, EpisodeState, advance
from pilotfish.stats.learning import ReferenceLearner
from pilotfish.stats.profile import FeatureGroup, FeatureKind, FeatureProfile, Profile
from pilotfish.stats.verdict import DriftVerdict, FeatureVerdict, verdict
from pilotfish.stats.windows import ClosedWindow, WindowTracker

__all__ = [
    "METHODS",
    "ClosedWindow",
    "DriftConfig",
    "DriftVerdict",
    "EpisodeEvent",
    "EpisodeState",
    "FeatureCounts",
    "FeatureGroup",
    "FeatureKind",
    "FeatureProfile",
    "FeatureVerdict",
    "Profile",
    "ReferenceLearner",
    "TwoSampleResult",
    "WindowCounts",
    "WindowTracker",
    "advance",
    "build_profile",
    "chi_square",
    "columns_from_matrix",
    "count_window",
    "hellinger",
    "js_distance",
    "ks_2samp",
    "merge_counts",
    "psi",
    "shared_bins",
    "sum_counts",
    "total_variation",
    "usable_scales",
    "validate_drift_config",
    "verdict",
    "wasserstein_distance",
]
