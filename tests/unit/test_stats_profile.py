"""Profiles: bins, atoms, levels, and reading them from JSON that nobody vouches for."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish.stats import (
    FeatureGroup,
    FeatureKind,
    Profile,
    build_profile,
    columns_from_matrix,
    count_window,
)


def one(column: object, **options: object) -> object:
    return build_profile({"x": column}, **options).features[0]  # type: ignore[arg-type]


def mixed_profile() -> Profile:
    rng = np.random.default_rng(7)
    return build_profile(
        {
            "age": np.where(rng.random(500) < 0.1, np.nan, rng.normal(40, 10, 500)),
            "pixel": rng.integers(0, 17, 500),
            "country": np.array(["de", "fr", "at", "xx"])[rng.choice(4, 500, p=[0.6, 0.3, 0.098, 0.002])],
        },
        {"label": rng.integers(0, 3, 500), "score": rng.random(500)},
    )


def test_continuous_values_get_twenty_bins_of_equal_reference_mass() -> None:
    feature = one(np.random.default_rng(0).normal(size=2000))
    assert feature.counts == (100,) * 20
    assert feature.atoms == ()
    assert len(feature.edges) == 19


def test_a_value_with_a_bins_worth_of_rows_gets_a_bin_of_its_own() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate((np.zeros(600), rng.exponential(size=400)))
    feature = one(values)
    assert feature.atoms == (0.0,)
    assert 600 in feature.counts
    # Slightly above the atom is not the atom.
    profile = build_profile({"x": values})
    above = count_window(profile, {"x": np.full(10, 1e-9)}).features[0]
    assert above.bins[list(feature.counts).index(600)] == 0


def test_a_constant_has_bins_on_both_sides_so_that_leaving_it_is_seen() -> None:
    profile = build_profile({"x": np.full(300, 5.0)})
    assert profile.features[0].counts == (0, 300, 0)
    for value, expected in [(4.9, [10, 0, 0]), (5.0, [0, 10, 0]), (5.1, [0, 0, 10])]:
        assert count_window(profile, {"x": np.full(10, value)}).features[0].bins.tolist() == expected


def test_an_atom_of_float64_is_met_by_its_float32() -> None:
    profile = build_profile({"x": np.repeat([0.1, 0.2, 0.3], 100)})
    served = np.array([0.1, 0.2, 0.3] * 5, dtype=np.float32)
    assert served[0].astype(np.float64) != 0.1
    exact = count_window(profile, {"x": np.array([0.1, 0.2, 0.3] * 5)})
    assert count_window(profile, {"x": served}).bins.tolist() == exact.bins.tolist()


def test_something_between_two_atoms_has_its_own_place() -> None:
    profile = build_profile({"x": np.repeat([0.0, 1.0], 200)})
    counts = count_window(profile, {"x": np.full(10, 0.5)}).features[0]
    reference = np.array(profile.features[0].counts)
    assert (counts.bins[reference > 0] == 0).all()


def test_whole_numbers_need_no_place_between_neighbours() -> None:
    feature = one(np.repeat(np.arange(6), 50))
    assert feature.counts == (0, 50, 50, 50, 50, 50, 50, 0)
    assert feature.atoms == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_a_value_between_neighbouring_atoms_belongs_to_the_nearer() -> None:
    profile = build_profile({"x": np.repeat(np.arange(6), 50)})
    counts = count_window(profile, {"x": np.array([0.4, 0.6, 4.6])}).features[0]
    assert counts.bins.tolist() == [0, 1, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("distinct", [1, 2, 3, 10, 20, 21, 60])
@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32])
def test_never_more_than_max_bins_and_no_row_is_lost(seed: int, distinct: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(distinct, 0.5))
    values = (rng.choice(distinct, 1000, p=weights) * 7 - 3).astype(dtype)
    for max_bins in (4, 10, 20):
        feature = one(values, max_bins=max_bins)
        assert len(feature.counts) <= max_bins
        assert sum(feature.counts) == 1000
        assert all(a < b for a, b in zip(feature.edges, feature.edges[1:], strict=False))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=80))
def test_any_floats_make_a_profile_that_counts_its_own_rows_as_it_did(values: list[float]) -> None:
    profile = build_profile({"x": np.array(values)})
    feature = profile.features[0]
    counts = count_window(profile, {"x": np.array(values)}).features[0]
    assert counts.bins.tolist() == list(feature.counts)
    assert counts.missing == feature.missing == sum(not math.isfinite(v) for v in values)
    assert all(math.isfinite(v) for v in (feature.mean, feature.sd, feature.min, feature.max))
    assert Profile.from_json(profile.to_json()) == profile


def test_moments_are_numpys() -> None:
    values = np.array([1.0, 2.0, 4.0, np.nan, 9.0])
    feature = one(values)
    assert (feature.mean, feature.min, feature.max) == (4.0, 1.0, 9.0)
    assert feature.sd == pytest.approx(np.nanstd(values))
    assert (feature.missing, feature.rows, feature.present) == (1, 5, 4)


def test_kinds_follow_type_and_side() -> None:
    rows = 60
    profile = build_profile(
        {
            "flag": np.arange(rows) % 2 == 0,
            "text": np.array(["a", "b", "c"] * 20),
            "objects": np.array([1, 2.5, None] * 20, dtype=object),
            "mixed": np.array([1, "a", None] * 20, dtype=object),
            "code": np.arange(rows) % 3,
            "day": np.arange(rows).astype("datetime64[D]"),
        },
        {
            "label": np.arange(rows) % 3,
            "verdict": np.arange(rows) % 2 == 0,
            "amount": np.arange(rows) * 1.5,
            "big": np.arange(rows),
        },
        kinds={"code": FeatureKind.CATEGORICAL},
    )
    kinds = {f.name: f.kind.value for f in profile.features}
    assert kinds == {
        "flag": "numeric",
        "text": "categorical",
        "objects": "numeric",
        "mixed": "categorical",
        "code": "categorical",
        "day": "numeric",
        "label": "categorical",
        "verdict": "categorical",
        "amount": "numeric",
        "big": "numeric",
    }
    assert [f.group for f in profile.features[-4:]] == [FeatureGroup.OUTPUT] * 4


def test_levels_with_enough_rows_have_bins_and_the_rest_is_other() -> None:
    column = np.array(["a"] * 60 + ["b"] * 30 + ["c"] * 4 + ["d"] * 2 + ["e"] * 1 + [None] * 3, dtype=object)
    feature = one(column)
    assert feature.levels == ("a", "b")
    assert feature.rare == ("c", "d", "e")
    assert feature.counts == (60, 30, 7)
    assert (feature.missing, feature.novel, feature.unlisted) == (3, 1, 0)


def test_levels_beyond_the_longest_list_are_unlisted_and_count_as_novel() -> None:
    feature = one(np.array([f"user{i}" for i in range(3000)]))
    assert len(feature.rare) == 2000
    assert feature.counts == (2000,)
    assert (feature.unlisted, feature.novel) == (1000, 3000)


def test_a_date_without_value_is_missing() -> None:
    feature = one(np.array(["2026-01-01", "NaT", "2026-01-03"], dtype="datetime64[s]"))
    assert (feature.missing, feature.min) == (1, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp() * 1e9)


def test_id_is_the_contents_and_nothing_else() -> None:
    first, second = mixed_profile(), mixed_profile()
    assert first == second
    assert first.id == second.id
    assert len(first.id) == 16
    assert set(first.id) <= set("0123456789abcdef")
    assert dataclasses.replace(first, learned=True).id != first.id
    assert Profile.from_json(first.to_json()).id == first.id


def test_id_of_a_known_profile_stays_what_it_was() -> None:
    profile = build_profile({"x": np.array([1.0, 2.0, 3.0]), "c": np.array(["a", "b", "a"])})
    assert json.loads(profile.to_json())["version"] == 1
    assert profile.id == "7e374102a1284af2"


def test_feature_finds_by_name_and_side_and_names_what_there_is() -> None:
    profile = mixed_profile()
    assert profile.feature("age", FeatureGroup.INPUT).kind is FeatureKind.NUMERIC
    assert set(profile.feature("label", FeatureGroup.OUTPUT).levels) == {"0", "1", "2"}
    with pytest.raises(KeyError, match="no input feature 'label'; it has: age, pixel, country"):
        profile.feature("label", FeatureGroup.INPUT)


def test_empty_references_and_ragged_columns_are_refused_with_every_reason() -> None:
    with pytest.raises(InvalidArgument, match="at least one row"):
        build_profile({})
    with pytest.raises(InvalidArgument, match="at least one row"):
        build_profile({"x": np.array([])})
    with pytest.raises(InvalidArgument, match="max_bins"):
        build_profile({"x": np.ones(3)}, max_bins=2)
    with pytest.raises(InvalidArgument, match="at least one row"):
        build_profile({"x": np.ones(3)}, {"y": np.array([])})
    with pytest.raises(InvalidArgument) as caught:
        build_profile({"a": np.ones(3), "b": np.ones(4), "c": np.ones((3, 2)), "": np.ones(3)})
    assert [(v.field, v.reason) for v in caught.value.violations] == [
        ("inputs.b", "LENGTHS_DIFFER"),
        ("inputs.c", "NOT_ONE_DIMENSIONAL"),
        ("inputs.''", "BAD_NAME"),
    ]


def test_outputs_may_come_from_held_out_rows() -> None:
    profile = build_profile({"x": np.arange(300.0)}, {"score": np.linspace(0, 1, 80)})
    assert profile.rows == 300
    assert [f.rows for f in profile.features] == [300, 80]
    assert Profile.from_json(profile.to_json()) == profile
    assert build_profile({}, {"score": np.linspace(0, 1, 80)}).rows == 80


def test_a_column_without_any_value_makes_a_profile_that_says_so() -> None:
    feature = one(np.full(5, np.nan))
    assert (feature.counts, feature.missing, feature.present) == ((0,), 5, 0)


def test_columns_from_matrix_names_columns_and_refuses_what_does_not_fit() -> None:
    matrix = np.arange(6).reshape(3, 2)
    columns = columns_from_matrix(matrix, ["a", "b"])
    assert {name: column.tolist() for name, column in columns.items()} == {"a": [0, 2, 4], "b": [1, 3, 5]}
    assert columns_from_matrix(np.arange(3), ["a"])["a"].tolist() == [0, 1, 2]
    with pytest.raises(InvalidArgument, match="does not fit 3 names"):
        columns_from_matrix(matrix, ["a", "b", "c"])
    with pytest.raises(InvalidArgument, match="more than once: a"):
        columns_from_matrix(matrix, ["a", "a"])


def test_masked_arrays_keep_their_mask() -> None:
    feature = one(np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[False, True, False]))
    assert (feature.missing, sum(feature.counts)) == (1, 2)
    assert one(np.ma.MaskedArray(["a", "b"], mask=[True, False])).missing == 1


def test_json_round_trip_is_exact_and_canonical() -> None:
    profile = mixed_profile()
    again = Profile.from_json(profile.to_json())
    assert again == profile
    assert again.to_json() == profile.to_json()
    reordered = json.dumps(json.loads(profile.to_json()), indent=3, sort_keys=False)
    assert Profile.from_json(reordered).id == profile.id


def test_levels_of_any_text_survive_json() -> None:
    odd = ["", "\ud800", "ü" * 500, '"', "\x00", "a" * 5000, "🐟"]
    profile = build_profile({"x": np.array(odd * 10, dtype=object)})
    assert Profile.from_json(profile.to_json()) == profile
    assert count_window(profile, {"x": np.array(odd, dtype=object)}).features[0].unseen == 0
    assert count_window(profile, {"x": np.array(odd)}).features[0].unseen <= 1  # numpy drops a trailing NUL


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 2, "format 2 is unknown"),
        (["rows"], -1, "rows: must be a whole number >= 0"),
        (["rows"], True, "rows: must be a whole number >= 0"),
        (["learned"], 1, "learned: must be true or false"),
        (["features"], {}, "features: must be a list"),
        (["surprise"], 1, "surprise: is not a field"),
        (["features", 0, "kind"], "vector", r"features\[0\].kind: must be one of numeric, categorical"),
        (["features", 0, "group"], None, r"features\[0\].group: must be one of input, output"),
        (["features", 0, "counts", 3], -4, r"features\[0\].counts\[3\]: must be a whole number"),
        (["features", 0, "counts", 3], 4.5, r"features\[0\].counts\[3\]: must be a whole number"),
        (["features", 0, "counts"], [1, 2], r"counts: has 2 bins"),
        (["features", 0, "edges", 2], "a", r"features\[0\].edges\[2\]: must be a finite number"),
        (["features", 0, "edges", 2], 1e9, r"features\[0\].edges: must rise"),
        (["features", 0, "mean"], 10**400, r"features\[0\].mean: must be a finite number"),
        (["features", 0, "sd"], -1.0, "sd must be >= 0"),
        (["features", 0, "missing"], 10**6, "more than 500 rows"),
        (["features", 0, "novel"], 9999, r"novel: is 9999, must be in 0\.\."),
        (["features", 0, "rows"], 499, "the profile has 500 rows"),
        (["features", 0, "name"], "n" * 600, "at most 512 characters"),
        (["features", 1, "name"], "age", "input 'age' comes twice"),
        (["features", 2, "levels", 1], "de", "a level comes twice"),
        (["features", 2, "levels", 1], 5, r"features\[2\].levels\[1\]: must be a text"),
        (["features", 2, "edges"], [1.0], "has no edges"),
        (["features", 1], "text", r"features\[1\]: must be an object"),
        (["features", 1, "levels"], ["a"], "a numeric feature has no levels"),
    ],
)
def test_a_profile_with_a_wrong_field_is_refused_and_the_field_named(path: list, value: object, message: str) -> None:
    document = json.loads(mixed_profile().to_json())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidArgument, match=message):
        Profile.from_json(json.dumps(document))


def test_all_wrong_fields_are_named_at_once() -> None:
    document = json.loads(mixed_profile().to_json())
    document["rows"] = "many"
    document["features"][0]["kind"] = "x"
    document["features"][2]["missing"] = -1
    with pytest.raises(InvalidArgument) as caught:
        Profile.from_json(json.dumps(document))
    fields = [v.field for v in caught.value.violations]
    assert {"rows", "features[0].kind", "features[2].missing"} <= set(fields)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", '{"version":1}', '{"version":1,"version":1}', '{"version":NaN}', "[" * 100_000, "1" * 5000],
)
def test_what_is_no_profile_is_refused_as_such(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Profile.from_json(text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_profile_with_any_field_replaced_by_anything_is_refused_or_whole(data: st.DataObject) -> None:
    document = json.loads(mixed_profile().to_json())
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and data.draw(st.booleans()):
            place = place[key]
            continue
        anything = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
        place[key] = data.draw(anything | st.lists(anything, max_size=3))
        break
    try:
        profile = Profile.from_json(json.dumps(document))
    except InvalidArgument:
        return
    columns = {f.name: np.array([1.0, np.nan, 3.0]) for f in profile.features if f.group is FeatureGroup.INPUT}
    assert count_window(profile, columns).rows == (3 if columns else 0)
