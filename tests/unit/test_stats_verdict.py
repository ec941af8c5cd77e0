"""Verdicts: what is drift, what is not, and why; by every method, with every reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from pilotfish.errors import InvalidArgument
from pilotfish.stats import (
    METHODS,
    DriftConfig,
    DriftVerdict,
    FeatureGroup,
    Profile,
    build_profile,
    chi_square,
    count_window,
    js_distance,
    psi,
    sum_counts,
    usable_scales,
    validate_drift_config,
    verdict,
)

CALIBRATED = DriftConfig()
EVERY_METHOD = [DriftConfig(method=name) for name in METHODS]


def shuffled(column: list | np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.array(column))


def judge(
    reference: dict, window: dict, config: DriftConfig = CALIBRATED, outputs: tuple[dict, dict] = ({}, {})
) -> DriftVerdict:
    profile = build_profile(reference, outputs[0])
    return verdict(profile, count_window(profile, window, outputs[1]), config)


def normals(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, n)


@pytest.mark.parametrize("config", EVERY_METHOD, ids=lambda c: c.method)
def test_a_shift_of_one_deviation_is_drift_by_every_method(config: DriftConfig) -> None:
    found = judge(
        {"x": normals(5000, 1), "y": normals(5000, 2)}, {"x": normals(1000, 3, 1.0), "y": normals(1000, 4)}, config
    )
    assert found.drifted
    assert [f.drifted for f in found.features] == [True, False]
    assert found.method == config.method
    assert found.score == found.features[0].score
    assert found.n == 1000


@pytest.mark.parametrize("config", EVERY_METHOD, ids=lambda c: c.method)
def test_unchanged_data_is_no_drift_by_any_method(config: DriftConfig) -> None:
    found = judge({"x": normals(5000, 1)}, {"x": normals(1000, 5)}, config)
    assert not found.drifted
    assert found.reason == ""


def test_a_constant_that_moves_up_is_drift_by_every_method() -> None:
    for config in EVERY_METHOD:
        found = judge({"x": np.full(1000, 5.0)}, {"x": np.full(500, 5.1)}, config)
        # In units of its own size this constant moved by 2 %: small, and said so.
        assert found.drifted == (config.method != "wasserstein"), config.method
    assert judge({"x": np.full(1000, 5.0)}, {"x": np.full(500, 9.0)}, DriftConfig(method="wasserstein")).drifted


def test_a_window_equal_to_the_reference_scores_nothing() -> None:
    values = normals(2000, 1)
    for config in EVERY_METHOD:
        found = judge({"x": values}, {"x": values}, config)
        assert found.score == pytest.approx(0.0, abs=1e-3)
        assert not found.drifted


def test_data_drift_and_prediction_drift_are_told_apart() -> None:
    reference, labels = {"x": normals(5000, 1)}, {"p": normals(5000, 2)}
    data = judge(reference, {"x": normals(1000, 3, 1.0)}, outputs=(labels, {"p": normals(1000, 4)}))
    assert (data.data_drifted, data.prediction_drifted) == (True, False)
    prediction = judge(reference, {"x": normals(1000, 3)}, outputs=(labels, {"p": normals(1000, 4, 1.0)}))
    assert (prediction.data_drifted, prediction.prediction_drifted) == (False, True)
    assert prediction.drifted
    assert prediction.prediction_score == prediction.score > prediction.data_score
    assert prediction.features[1].group is FeatureGroup.OUTPUT


def test_calibrated_scores_are_digits_of_evidence_against_a_corrected_threshold() -> None:
    found = judge({"x": normals(5000, 1), "y": normals(5000, 2)}, {"x": normals(1000, 3, 1.0), "y": normals(1000, 4)})
    # 5000 rows carry one scale of 1000: two features, one scale.
    assert found.threshold == pytest.approx(-math.log10(0.001 / 2))
    for feature in found.features:
        assert feature.p_value == pytest.approx(10**-feature.score, rel=1e-9)
        assert feature.threshold == found.threshold


def test_a_threshold_for_calibrated_is_the_chance_of_a_false_alarm() -> None:
    strict = judge({"x": normals(5000, 1)}, {"x": normals(1000, 3)}, DriftConfig(threshold=1e-6))
    assert strict.threshold == pytest.approx(6.0)


def test_the_effect_floor_keeps_certain_trifles_quiet_and_says_so() -> None:
    rng = np.random.default_rng(1)
    reference, window = {"x": rng.normal(size=400_000)}, {"x": rng.normal(0.05, 1.0, 100_000)}
    config = DriftConfig(window_size=100_000)
    found = judge(reference, window, config)
    assert found.features[0].effect < 0.03
    assert found.score > found.threshold
    assert not found.drifted
    assert (found.reason, found.features[0].reason) == ("BELOW_EFFECT_FLOOR", "BELOW_EFFECT_FLOOR")
    assert judge(reference, window, DriftConfig(window_size=100_000, effect_floor=0.0)).drifted


def test_effects_are_the_binned_ks_distance_and_the_total_variation() -> None:
    reference, window = np.arange(1000) % 10, np.arange(500) % 5
    found = judge({"x": reference, "c": reference.astype(str)}, {"x": window, "c": window.astype(str)})
    assert found.features[0].effect == pytest.approx(scipy_stats.ks_2samp(reference, window).statistic)
    assert found.features[1].effect == pytest.approx(0.5)


def test_missing_values_that_appear_or_vanish_are_drift() -> None:
    rng = np.random.default_rng(2)
    full = rng.normal(size=5000)
    holes = np.where(rng.random(5000) < 0.2, np.nan, full)
    appeared = judge({"x": full}, {"x": holes[:1000]})
    assert appeared.drifted
    assert appeared.features[0].method == "missing"
    assert "missing 0.0% in the reference" in appeared.features[0].detail
    assert judge({"x": holes}, {"x": full[:1000]}).drifted
    assert not judge({"x": holes}, {"x": holes[:1000]}).drifted
    assert judge({"x": full, "y": full}, {"y": full[:1000]}).features[0].method == "missing"


def test_unseen_levels_are_drift_by_their_mass_and_not_by_their_being() -> None:
    reference = {"c": np.array(["a"] * 600 + ["b"] * 400)}
    few = judge(reference, {"c": shuffled(["a"] * 600 + ["b"] * 398 + ["new"] * 2)})
    assert not few.drifted
    many = judge(reference, {"c": shuffled(["a"] * 560 + ["b"] * 380 + ["new"] * 60)})
    assert many.drifted
    assert many.features[0].method == "unseen"
    # Exactly: all of the 60 drawn into the window's half of 2000 rows.
    exact = scipy_stats.hypergeom.logsf(59, 2000, 60, 1000) + math.log(2)
    assert many.features[0].score == pytest.approx(-exact / math.log(10), rel=1e-6)


def test_levels_that_nearly_all_are_new_are_no_drift_where_they_always_were() -> None:
    rng = np.random.default_rng(3)
    ids = np.array([f"id{i}" for i in range(100_000)])
    reference = {
        "id": rng.choice(ids, 5000, replace=False),
        "mixed": np.where(rng.random(5000) < 0.5, "a", rng.choice(ids, 5000)),
    }
    window = {
        "id": rng.choice(ids, 1000, replace=False),
        "mixed": np.where(rng.random(1000) < 0.5, "a", rng.choice(ids, 1000)),
    }
    found = judge(reference, window)
    assert not found.drifted
    assert found.score < 3.0


def test_a_change_among_levels_is_drift() -> None:
    rng = np.random.default_rng(4)
    found = judge(
        {"c": rng.choice(["a", "b", "c"], 5000, p=[0.5, 0.3, 0.2])},
        {"c": rng.choice(["a", "b", "c"], 1000, p=[0.35, 0.3, 0.35])},
    )
    assert found.drifted
    assert found.features[0].method == "chi_square"


def test_text_where_numbers_were_is_drift() -> None:
    found = judge({"x": normals(2000, 1)}, {"x": np.array(["broken"] * 100 + [0.1] * 400, dtype=object)})
    assert found.drifted


def test_fewer_rows_than_a_verdict_needs_give_none() -> None:
    found = judge({"x": normals(2000, 1)}, {"x": normals(99, 2, 5.0)})
    assert (found.drifted, found.reason, found.score, found.n) == (False, "TOO_FEW_ROWS", 0.0, 99)
    assert found.features == ()
    assert judge({"x": normals(2000, 1)}, {"x": normals(100, 2, 5.0)}).drifted


def test_no_verdict_while_the_reference_is_learned_or_is_another_one() -> None:
    profile = build_profile({"x": normals(2000, 1)})
    counts = count_window(profile, {"x": normals(500, 2, 5.0)})
    assert verdict(None, counts, CALIBRATED).reason == "LEARNING"
    other = build_profile({"x": normals(2000, 9)})
    assert verdict(other, counts, CALIBRATED).reason == "PROFILE_MISMATCH"
    assert verdict(profile, {}, CALIBRATED).reason == "TOO_FEW_ROWS"
    assert verdict(Profile((), 10), {}, CALIBRATED).reason == "NO_FEATURES"
    for reason in (None, other):
        assert not verdict(reason, counts, CALIBRATED).drifted


def test_features_without_values_have_a_reason_and_fire_nothing_by_distance() -> None:
    none = np.full(500, np.nan)
    for config in EVERY_METHOD:
        empty_window = judge({"x": normals(2000, 1)}, {"x": none}, config).features[0]
        assert empty_window.reason in ({""} if config.method == "calibrated" else {"NO_VALUES"}) | {"NO_VALUES"}
        assert empty_window.drifted == (config.method == "calibrated")  # every value has gone missing
        empty_reference = judge({"x": np.full(2000, np.nan)}, {"x": none}, config).features[0]
        assert (empty_reference.reason, empty_reference.drifted) == ("NO_REFERENCE_VALUES", False)
        unwatched = judge(
            {"x": normals(2000, 1)}, {"x": normals(500, 2)}, config, outputs=({"p": normals(2000, 3)}, {})
        )
        assert (unwatched.features[1].reason, unwatched.features[1].drifted) == ("NOT_OBSERVED", False)
        assert unwatched.features[1].p_value is None


def test_a_distance_of_numbers_says_that_it_is_none_for_categories() -> None:
    found = judge({"c": np.array(["a", "b"] * 500)}, {"c": np.array(["a"] * 500)}, DriftConfig(method="wasserstein"))
    assert (found.drifted, found.features[0].reason) == (False, "METHOD_NEEDS_NUMBERS")


def test_ks_test_scores_d_and_decides_by_p() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.integers(0, 12, 3000), rng.integers(0, 12, 800)
    found = judge({"x": x}, {"x": y}, DriftConfig(method="ks_test")).features[0]
    theirs = scipy_stats.ks_2samp(x, y, method="asymp")
    assert found.score == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=0.01)
    assert found.threshold == 0.05
    assert not found.drifted
    assert judge({"x": x}, {"x": y}, DriftConfig(method="ks_test", threshold=1.0)).drifted


def test_named_distances_are_those_of_the_profiles_bins() -> None:
    reference, window = {"x": normals(4000, 1)}, {"x": normals(1000, 2, 0.4)}
    profile = build_profile(reference)
    r, w = profile.features[0].counts, count_window(profile, window).features[0].bins
    assert judge(reference, window, DriftConfig(method="psi")).score == pytest.approx(psi(r, w))
    assert judge(reference, window, DriftConfig(method="js_distance")).score == pytest.approx(js_distance(r, w))
    assert judge(reference, window, DriftConfig(method="chi_square")).score == pytest.approx(chi_square(r, w).statistic)
    near = judge(reference, window, DriftConfig(method="wasserstein")).score
    assert near == pytest.approx(scipy_stats.wasserstein_distance(reference["x"], window["x"]), rel=0.15)
    assert "base 2" in judge(reference, window, DriftConfig(method="js_distance")).features[0].detail
    assert "nats" in judge(reference, window, DriftConfig(method="psi")).features[0].detail


def test_unseen_and_missing_values_are_bins_of_the_named_distances() -> None:
    found = judge(
        {"c": np.array(["a"] * 500 + ["b"] * 300 + ["c"] * 200)},
        {"c": np.array(["a"] * 200 + ["b"] * 200 + ["c"] * 50 + ["d"] * 50)},
        DriftConfig(method="js_distance"),
    )
    assert found.score == pytest.approx(0.267286, abs=5e-7)


@pytest.mark.parametrize("method", ["psi", "js_distance", "hellinger", "chi_square"])
def test_values_that_always_were_missing_or_unlisted_are_no_drift_by_name(method: str) -> None:
    holes = np.where(np.arange(4000) % 4 == 0, np.nan, normals(4000, 1))
    ids = np.array([f"id{i}" for i in range(4000)])
    found = judge({"x": holes}, {"x": holes[:1000]}, DriftConfig(method=method))
    assert not found.drifted
    found = judge({"id": ids}, {"id": ids[::-1]}, DriftConfig(method=method))
    # 2000 of the levels are listed, 2000 are not, on both sides.
    assert found.score == pytest.approx(0.0, abs=1e-9)


def test_sums_of_windows_find_what_one_window_cannot() -> None:
    profile = build_profile({"x": normals(100_000, 1)})
    windows = [count_window(profile, {"x": normals(1000, 200 + i, 0.08)}) for i in range(16)]
    alone = verdict(profile, windows[-1], CALIBRATED)
    together = verdict(profile, {1: windows[-1], 4: sum_counts(windows[-4:]), 16: sum_counts(windows)}, CALIBRATED)
    assert not alone.drifted
    assert together.drifted
    assert (together.scale, together.n) == (16, 16_000)
    assert together.threshold == alone.threshold == pytest.approx(-math.log10(0.001 / 3))


def test_a_small_reference_carries_fewer_scales_and_always_one() -> None:
    config = DriftConfig(window_size=200, scales=(1, 2, 8))
    assert usable_scales(100, config) == (1,)
    assert usable_scales(2000, config) == (1, 2)
    assert usable_scales(8000, config) == (1, 2, 8)
    assert usable_scales(10**9, DriftConfig(method="psi")) == (1,)
    profile = build_profile({"x": normals(500, 1)})
    shifted = count_window(profile, {"x": normals(400, 2, 1.0)})
    assert not verdict(profile, {2: shifted}, config).drifted
    assert verdict(profile, {1: shifted, 2: shifted}, config).scale == 1


def test_sums_over_replicas_are_judged_by_what_they_hold() -> None:
    config = DriftConfig(window_size=200, scales=(1, 2))
    profile = build_profile({"x": normals(2000, 1)})
    one, three = (count_window(profile, {"x": normals(400 * n, 2, 1.0)}) for n in (1, 3))
    clean = count_window(profile, {"x": normals(200, 3)})
    assert verdict(profile, {1: clean, 2: one}, config).scale == 2
    assert not verdict(profile, {1: clean, 2: three}, config).drifted


def test_rows_that_depend_on_each_other_are_noticed_and_corrected_for() -> None:
    rng = np.random.default_rng(8)
    reference, window = np.repeat(rng.normal(size=2000), 10), np.repeat(rng.normal(size=100), 10)
    found = judge({"x": reference}, {"x": window})
    assert found.overdispersion > 2.0
    assert found.overdispersed
    fixed = judge({"x": reference}, {"x": window}, DriftConfig(overdispersion=1.0))
    assert fixed.overdispersion == 1.0
    assert fixed.score > found.score
    independent = judge({"x": rng.normal(size=20_000)}, {"x": rng.normal(size=1000)})
    assert (independent.overdispersion, independent.overdispersed) == (1.0, False)


def test_drift_in_a_sorted_batch_is_still_seen() -> None:
    window = {"x": np.sort(normals(1000, 2, 1.0)), "c": np.sort(np.random.default_rng(3).choice(["a", "b"], 1000))}
    reference = {"x": normals(5000, 1), "c": np.array(["a"] * 4500 + ["b"] * 500)}
    found = judge(reference, window)
    assert [f.drifted for f in found.features] == [True, True]
    assert found.overdispersed


def test_an_unknown_method_is_refused_with_the_allowed_names() -> None:
    profile = build_profile({"x": normals(200, 1)})
    config = DriftConfig(method="magic")
    with pytest.raises(InvalidArgument, match="'magic' is unknown; use one of calibrated, ks_test, psi, js_distance"):
        verdict(profile, count_window(profile, {"x": normals(200, 2)}), config)
    assert [v.reason for v in validate_drift_config(config)] == ["UNKNOWN_METHOD"]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (DriftConfig(threshold=0.0), "threshold"),
        (DriftConfig(threshold=math.nan), "threshold"),
        (DriftConfig(method="js_distance", threshold=1.5), "threshold"),
        (DriftConfig(method="psi", threshold=math.inf), "threshold"),
        (DriftConfig(window_size=99), "window_size"),
        (DriftConfig(window_size=True), "window_size"),
        (DriftConfig(min_rows=50), "min_rows"),
        (DriftConfig(window_size=200, min_rows=300), "min_rows"),
        (DriftConfig(scales=(2, 4)), "scales"),
        (DriftConfig(scales=(1, 1)), "scales"),
        (DriftConfig(scales=(1, 1000)), "scales"),
        (DriftConfig(scales=()), "scales"),
        (DriftConfig(alpha=0.0), "alpha"),
        (DriftConfig(alpha=0.9), "alpha"),
        (DriftConfig(effect_floor=-0.1), "effect_floor"),
        (DriftConfig(effect_floor=math.nan), "effect_floor"),
        (DriftConfig(overdispersion=0.5), "overdispersion"),
        (DriftConfig(time_limit_s=0.0), "time_limit_s"),
    ],
)
def test_a_wrong_option_is_named(config: DriftConfig, field: str) -> None:
    assert [v.field for v in validate_drift_config(config)] == [field]


def test_all_wrong_options_are_named_at_once_and_right_ones_not() -> None:
    wrong = DriftConfig(
        method="x", window_size=1, min_rows=1, scales=(), alpha=2.0, effect_floor=2.0, time_limit_s=-1.0
    )
    assert {v.field for v in validate_drift_config(wrong)} == {
        "method",
        "window_size",
        "min_rows",
        "scales",
        "alpha",
        "effect_floor",
        "time_limit_s",
    }
    for config in EVERY_METHOD:
        assert validate_drift_config(config) == []


def test_default_thresholds_are_the_documented_ones() -> None:
    assert {c.method: c.effective_threshold for c in EVERY_METHOD} == {
        "calibrated": 0.001,
        "ks_test": 0.05,
        "psi": 0.2,
        "js_distance": 0.1,
        "wasserstein": 0.1,
        "hellinger": 0.1,
        "chi_square": 0.05,
    }


cells = st.one_of(st.none(), st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=3), st.booleans())


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(cells, min_size=1, max_size=30),
    st.lists(cells, min_size=1, max_size=30),
    st.sampled_from(EVERY_METHOD),
)
def test_no_column_of_anything_makes_nan_or_an_error(reference: list, window: list, config: DriftConfig) -> None:
    columns = {"x": np.array([*reference, None] * 10, dtype=object)}
    profile = build_profile(columns, columns)
    cells_now = {"x": np.array([*window, None] * 60, dtype=object)}
    for counts in (count_window(profile, cells_now, cells_now), count_window(profile, columns)):
        found = verdict(profile, counts, config)
        numbers = [found.score, found.threshold, found.overdispersion, found.data_score, found.prediction_score]
        for feature in found.features:
            numbers += [feature.score, feature.threshold, feature.effect, feature.overdispersion]
            numbers += [] if feature.p_value is None else [feature.p_value]
            assert 0.0 <= feature.effect <= 1.0 + 1e-12
        assert all(math.isfinite(v) for v in numbers)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(), min_size=1, max_size=40),
    st.lists(st.floats(), min_size=1, max_size=40),
    st.sampled_from(EVERY_METHOD),
)
def test_no_floats_make_nan_or_an_error(reference: list[float], window: list[float], config: DriftConfig) -> None:
    found = judge({"x": np.array(reference * 5)}, {"x": np.array(window * 100)}, config)
    assert math.isfinite(found.score)
    assert all(math.isfinite(f.effect) for f in found.features)


def test_the_same_counts_give_the_same_verdict_to_the_last_bit() -> None:
    def once() -> DriftVerdict:
        profile = build_profile(
            {"x": normals(5000, 1), "c": np.array(["a", "b", None] * 1000 + ["a"] * 2000, dtype=object)}
        )
        counts = count_window(
            profile, {"x": normals(1000, 2, 0.1), "c": np.array(["a", "b", "z", None] * 250, dtype=object)}
        )
        return verdict(Profile.from_json(profile.to_json()), type(counts).from_bytes(counts.to_bytes()), CALIBRATED)

    assert once() == once()
