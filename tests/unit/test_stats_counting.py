"""Counts of windows: what falls where, exact addition, bytes that can be trusted after a check."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish.stats import (
    FeatureCounts,
    Profile,
    WindowCounts,
    build_profile,
    count_window,
    merge_counts,
    sum_counts,
)
from pilotfish.stats.counting import OpenBlock


def profile() -> Profile:
    rng = np.random.default_rng(3)
    return build_profile(
        {
            "x": rng.normal(size=1000),
            "zeros": np.where(rng.random(1000) < 0.7, 0.0, rng.exponential(size=1000)),
            "country": np.array(["de", "fr", "at", "rare"])[rng.choice(4, 1000, p=[0.6, 0.3, 0.097, 0.003])],
        },
        {"label": rng.integers(0, 3, 1000)},
    )


def rows(n: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.2, 1.3, size=n)
    x[rng.random(n) < 0.05] = np.nan
    inputs = {
        "x": x,
        "zeros": np.where(rng.random(n) < 0.5, 0.0, rng.exponential(size=n)),
        "country": np.array(["de", "fr", "nowhere", None], dtype=object)[rng.integers(0, 4, n)],
    }
    return inputs, {"label": rng.integers(0, 5, n)}


def part(table: tuple[dict[str, np.ndarray], dict[str, np.ndarray]], piece: slice) -> tuple[dict, dict]:
    return tuple({name: column[piece] for name, column in group.items()} for group in table)  # type: ignore[return-value]


def test_bins_agree_with_numpys_histogram() -> None:
    reference = profile()
    edges = np.array(reference.features[0].edges)
    values = np.random.default_rng(4).normal(size=3000)
    expected = np.histogram(values, np.concatenate(([-np.inf], edges, [np.inf])))[0]
    assert count_window(reference, {"x": values}).features[0].bins.tolist() == expected.tolist()


def test_every_row_of_every_feature_is_somewhere() -> None:
    counts = count_window(profile(), *rows(777, seed=1))
    for feature in counts.features:
        assert int(feature.bins.sum()) + feature.missing + feature.unseen == 777
        assert feature.n == 777 - feature.missing


def test_missing_values_of_every_spelling_are_missing_and_not_in_the_last_bin() -> None:
    reference = build_profile({"x": np.arange(100.0), "c": np.array(["a", "b"] * 50)})
    numbers = np.array([1.0, np.nan, np.inf, -np.inf])
    cells = np.array(["a", None, float("nan"), np.datetime64("NaT")], dtype=object)
    counts = count_window(reference, {"x": numbers, "c": cells})
    assert [f.missing for f in counts.features] == [3, 3]
    assert [int(f.bins.sum()) for f in counts.features] == [1, 1]


def test_pandas_na_and_none_are_missing() -> None:
    pd = pytest.importorskip("pandas")
    reference = build_profile({"x": np.arange(100.0), "c": np.array(["a", "b"] * 50)})
    counts = count_window(
        reference, {"x": pd.Series([1, None, 3], dtype="Int64"), "c": pd.Series(["a", None, pd.NA], dtype="string")}
    )
    assert [f.missing for f in counts.features] == [1, 2]


def test_text_among_numbers_is_unseen_and_text_that_is_a_number_is_one() -> None:
    reference = build_profile({"x": np.arange(100.0)})
    counts = count_window(reference, {"x": np.array(["5", "oops", None, 7, [1]], dtype=object)}).features[0]
    assert (int(counts.bins.sum()), counts.unseen, counts.missing) == (2, 2, 1)
    assert (counts.min, counts.max, counts.sum) == (5.0, 7.0, 12.0)


def test_a_complex_number_is_no_number() -> None:
    counts = count_window(build_profile({"x": np.arange(100.0)}), {"x": np.array([1 + 2j])}).features[0]
    assert counts.unseen == 1


def test_known_rare_levels_are_other_and_unknown_ones_unseen() -> None:
    reference = profile()
    feature = reference.features[2]
    assert feature.rare == ("rare",)
    counts = count_window(reference, {"country": np.array(["rare", "rare", "mars", feature.levels[0]])}).features[2]
    assert counts.bins[-1] == 2
    assert (counts.unseen, counts.n) == (1, 4)


@pytest.mark.parametrize(
    "column", [[0, 1, 2], [0.0, 1.0, 2.0], ["0", "1", "2"], np.array([0, 1, 2], np.int8), [b"0", b"1", b"2"]]
)
def test_the_same_label_in_every_dtype_is_one_level(column: object) -> None:
    reference = build_profile({}, {"label": np.arange(30) % 3})
    counts = count_window(reference, {}, {"label": column}).features[0]
    assert sorted(counts.bins.tolist()) == [0, 1, 1, 1]


def test_true_and_one_are_the_same_label() -> None:
    reference = build_profile({}, {"fraud": np.arange(30) % 3 == 0})
    assert reference.features[0].levels == ("0", "1")
    for column in (np.array([True, False]), np.array([1, 0]), [1.0, 0.0], np.array([True, False], dtype=object)):
        assert count_window(reference, {}, {"fraud": column}).features[0].bins.tolist() == [1, 1, 0]


def test_a_lacking_column_is_missing_and_a_lacking_group_is_not_counted() -> None:
    counts = count_window(profile(), {"x": np.zeros(5), "unknown": np.zeros((7, 2))})
    x, zeros, country, label = counts.features
    assert (x.missing, zeros.missing, country.missing) == (0, 5, 5)
    assert (label.n, label.missing) == (0, 0)
    stranger = count_window(profile(), {"unknown": np.zeros(7)})
    assert stranger.rows == 7
    assert [f.missing for f in stranger.features] == [7, 7, 7, 0]


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="has 3 rows, the first column has 2"):
        count_window(profile(), {"x": np.zeros(2), "zeros": np.zeros(3)})


def test_no_rows_count_as_nothing() -> None:
    counts = count_window(profile(), {"x": np.array([]), "zeros": np.array([]), "country": np.array([])})
    assert (counts.rows, counts.blocks, int(counts.bins.sum())) == (0, 0, 0)
    assert counts.features[0].min is None


def test_arrays_of_the_caller_are_not_changed() -> None:
    table = rows(50, seed=9)
    before = [column.copy() for group in table for column in group.values()]
    for group in table:
        for column in group.values():
            column.setflags(write=False)
    count_window(profile(), *table)
    after = [column for group in table for column in group.values()]
    assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(before, after, strict=True))


def test_huge_numbers_overflow_nothing() -> None:
    reference = build_profile({"x": np.array([1e308, -1e308, 3.0] * 10)})
    counts = count_window(reference, {"x": np.array([1e308] * 30 + [-1e308] * 30)})
    assert np.isfinite(counts.moments).all()
    assert WindowCounts.from_bytes(sum_counts([counts] * 5).to_bytes()).rows == 300


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_any_size_add_up_to_the_whole(seed: int) -> None:
    reference, table = profile(), rows(400, seed)
    rng = np.random.default_rng(seed)
    cuts = [0, *sorted(rng.choice(np.arange(1, 400), 23, replace=False).tolist()), 400]
    block = OpenBlock(len(reference.features))
    parts = [count_window(reference, *part(table, slice(a, b)), block=block) for a, b in itertools.pairwise(cuts)]
    whole, added = count_window(reference, *table), sum_counts(parts)
    assert (added.rows, added.blocks) == (whole.rows, whole.blocks) == (400, 40)
    assert np.array_equal(added.bins, whole.bins)
    assert np.array_equal(added.whole, whole.whole)
    assert added.moments == pytest.approx(whole.moments)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 300), min_size=3, max_size=3), st.integers(0, 1000))
def test_merging_is_associative_and_commutative_and_exact(sizes: list[int], seed: int) -> None:
    reference = profile()
    a, b, c = (count_window(reference, *rows(n, seed + i)) for i, n in enumerate(sizes))
    left, right = merge_counts(merge_counts(a, b), c), merge_counts(a, merge_counts(b, c))
    swapped = sum_counts([c, b, a])
    for other in (right, swapped):
        assert (left.rows, left.blocks) == (other.rows, other.blocks)
        assert np.array_equal(left.bins, other.bins)
        assert np.array_equal(left.whole, other.whole)
        assert left.moments == pytest.approx(other.moments, rel=1e-12)


def test_windows_of_different_profiles_do_not_add_up() -> None:
    a = count_window(profile(), *rows(10, 0))
    b = count_window(build_profile({"x": np.arange(100.0)}), {"x": np.zeros(10)})
    with pytest.raises(InvalidArgument, match=f"profile {a.profile_id} and of {b.profile_id}"):
        merge_counts(a, b)
    with pytest.raises(InvalidArgument, match="no window"):
        sum_counts([])


def test_counts_made_feature_by_feature_are_the_counts() -> None:
    counts = count_window(profile(), *rows(100, 0))
    again = WindowCounts(counts.profile_id, counts.rows, counts.features, counts.blocks)
    assert again == counts
    assert isinstance(counts.features[0], FeatureCounts)
    assert WindowCounts("0" * 16, 0, ()).features == ()


def test_counts_cannot_be_changed_by_accident() -> None:
    counts = count_window(profile(), *rows(100, 0))
    with pytest.raises(ValueError, match="read-only"):
        counts.bins[0] = 7


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 3000), st.integers(0, 1000))
def test_bytes_round_trip_exactly(n: int, seed: int) -> None:
    counts = count_window(profile(), *rows(n, seed))
    again = WindowCounts.from_bytes(counts.to_bytes())
    assert again == counts
    assert again.to_bytes() == counts.to_bytes()


def test_a_window_of_fifty_features_takes_about_three_kilobytes() -> None:
    rng = np.random.default_rng(0)
    columns = {f"f{i}": rng.normal(size=5000) for i in range(50)}
    counts = count_window(build_profile(columns), {name: column[:1000] for name, column in columns.items()})
    assert len(counts.to_bytes()) < 3200


def test_bytes_of_a_known_window_stay_what_they_were() -> None:
    reference = build_profile({"x": np.array([1.0, 2.0, 3.0])})
    packed = count_window(reference, {"x": np.array([1.0, 2.5, np.nan])}).to_bytes()
    assert packed[:5] == b"PFWC\x01"
    assert packed[5:21].decode() == reference.id
    assert zlib.crc32(packed) == zlib.crc32(WindowCounts.from_bytes(packed).to_bytes())


def resealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_every_single_damaged_byte_is_noticed() -> None:
    packed = count_window(profile(), *rows(50, 0)).to_bytes()
    for i in range(len(packed)):
        broken = bytearray(packed)
        broken[i] ^= 0x41
        with pytest.raises(InvalidArgument):
            WindowCounts.from_bytes(bytes(broken))


def test_every_cut_is_noticed_also_under_a_right_checksum() -> None:
    packed = count_window(profile(), *rows(50, 0)).to_bytes()
    for size in range(len(packed) - 4):
        with pytest.raises(InvalidArgument):
            WindowCounts.from_bytes(packed[:size])
        with pytest.raises(InvalidArgument):
            WindowCounts.from_bytes(resealed(packed[:-4][:size]))
    with pytest.raises(InvalidArgument, match="left over"):
        WindowCounts.from_bytes(resealed(packed[:-4] + b"\x00"))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60), st.binary(max_size=200), st.integers(0, 200))
def test_hostile_bytes_under_a_right_checksum_are_refused_or_consistent(junk: bytes, patch: bytes, at: int) -> None:
    packed = count_window(profile(), *rows(50, 0)).to_bytes()[:-4]
    patched = packed[: 21 + at] + patch + packed[21 + at + len(patch) :]
    for body in (b"PFWC\x01" + b"0" * 16 + junk, patched):
        try:
            counts = WindowCounts.from_bytes(resealed(body))
        except InvalidArgument:
            continue
        assert (counts.bins <= counts.rows).all()
        assert all(f.n + f.missing <= counts.rows for f in counts.features)


def test_a_bomb_of_many_features_is_refused_before_it_is_made() -> None:
    body = b"PFWC\x01" + b"0" * 16 + b"\x00\x00" + b"\xff\xff\xff\xff\x0f"
    with pytest.raises(InvalidArgument, match="features are more than"):
        WindowCounts.from_bytes(resealed(body))
