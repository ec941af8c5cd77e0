"""The public face of pilotfish.stats: its names, and what it does not drag in."""

from __future__ import annotations

import subprocess
import sys

import pilotfish.stats

NAMES = [
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


def test_public_names_are_pinned() -> None:
    assert sorted(pilotfish.stats.__all__) == sorted(NAMES)
    assert all(hasattr(pilotfish.stats, name) for name in NAMES)


def test_statistics_need_numpy_and_nothing_else() -> None:
    code = (
        "import sys, pilotfish.stats;"
        "bad = {'grpc', 'google', 'scipy', 'pandas', 'sqlalchemy', 'typer'} & set(sys.modules);"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
