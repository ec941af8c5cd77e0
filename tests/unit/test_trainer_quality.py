"""The data is checked before anything is learned from it, and everything wrong is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pilotfish.errors import Violation
from pilotfish.stats import build_profile
from pilotfish_control_plane.trainer.association import association, recovers
from pilotfish_control_plane.trainer.fields import Fields
from pilotfish_control_plane.trainer.outcome import Issue, Severity
from pilotfish_control_plane.trainer.quality import check_quality
from pilotfish_control_plane.trainer.quality_drift import check_drift
from pilotfish_control_plane.trainer.spec import FeatureConfig, FeatureSet, QualityConfig, Task, Transformation
from pilotfish_control_plane.trainer.spec_quality import read_quality
from pilotfish_control_plane.trainer.table import Table, prepare_table, resolve_roles

ROWS = 200


def config(document: dict[str, Any]) -> QualityConfig:
    problems: list[Violation] = []
    found = read_quality(Fields({"quality_config": document}, "", problems))
    assert not problems
    return found


def clean() -> pd.DataFrame:
    draw = np.random.default_rng(11)
    y = draw.integers(0, 2, ROWS)
    return pd.DataFrame(
        {
            "x": draw.normal(size=ROWS) + y,
            "n": draw.integers(0, 50, ROWS),
            "c": draw.choice(np.asarray(["a", "b", "d"], dtype=object), ROWS),
            "y": y,
        }
    )


def table_of(frame: pd.DataFrame, task: Task = Task.CLASSIFICATION, **roles: Any) -> tuple[Table, list[Issue]]:
    found, issues = resolve_roles(frame, FeatureConfig(label="y", **roles))
    table, more = prepare_table(frame, found, task)
    return table, issues + more


def issues_of(
    frame: pd.DataFrame, document: dict[str, Any] | None = None, task: Task = Task.CLASSIFICATION
) -> list[Issue]:
    table, types = table_of(frame, task)
    return check_quality(table, len(frame) - len(table), config(document or {}), task, types)


def only(issues: list[Issue], check: str) -> Issue:
    (found,) = [issue for issue in issues if issue.check == check]
    return found


def test_clean_data_has_no_issue() -> None:
    assert issues_of(clean()) == []


def test_every_fault_is_found_in_one_run() -> None:
    frame = clean().astype({"x": "float64"})
    frame.loc[:149, "n"] = np.nan
    frame.loc[3, "x"] = np.inf
    frame["same"] = 7
    frame["copy"] = frame["y"]
    frame.loc[150:189, "y"] = 0
    frame["copy"] = frame["y"]
    frame = pd.concat([frame, frame.tail(40)], ignore_index=True)
    found = issues_of(
        frame,
        {
            "columns": {"x": {"max": 2.0}, "c": {"allowed": ["a", "b"], "type": "numeric"}, "gone": {"min": 0}},
            "size": {"min_rows": 1000},
            "label": {"min_class_rows": 500},
        },
    )
    assert {issue.check for issue in found} == {
        "schema", "missing", "range", "duplicates", "label", "size", "leakage", "constant",
    }  # fmt: skip
    assert [issue.severity for issue in found] == sorted(
        (issue.severity for issue in found), key=lambda severity: severity is not Severity.ERROR
    )


def test_missing_values_are_measured_against_the_limit_of_the_column() -> None:
    frame = clean()
    frame.loc[: ROWS // 10 - 1, "c"] = None
    assert issues_of(frame) == []
    found = only(issues_of(frame, {"columns": {"c": {"max_missing": 0.05}}}), "missing")
    assert (found.column, found.value, found.limit, found.severity) == ("c", 0.1, 0.05, Severity.ERROR)
    assert only(issues_of(frame, {"missing": {"max_fraction": 0.01}}), "missing").column == "c"


def test_ranges_tell_the_worst_value() -> None:
    frame = clean()
    found = only(issues_of(frame, {"columns": {"n": {"max": 30}}}), "range")
    assert (found.value, found.limit) == (float(frame["n"].max()), 30.0)
    assert f"{int((frame['n'] > 30).sum())} values" in found.message
    below = only(issues_of(frame, {"columns": {"x": {"min": 0.0}}}), "range")
    assert below.value == pytest.approx(float(frame["x"].min()))


def test_a_value_too_large_for_serving_is_an_error_whatever_the_severity() -> None:
    frame = clean()
    frame.loc[0, "x"] = 1e300
    found = only(issues_of(frame, {"range": {"severity": "warning"}}), "range")
    assert found.severity is Severity.ERROR
    assert "32-bit" in found.message


def test_categories_outside_the_allowed_ones_are_listed() -> None:
    found = only(issues_of(clean(), {"columns": {"c": {"allowed": ["a", "b"]}}}), "range")
    assert "1 values that are not allowed: 'd'" in found.message
    assert issues_of(clean(), {"columns": {"n": {"allowed": list(range(50))}}}) == []


def test_repeated_rows_warn_by_default_and_fail_when_told_to() -> None:
    frame = pd.concat([clean(), clean().head(50)], ignore_index=True)
    found = only(issues_of(frame), "duplicates")
    assert found.severity is Severity.WARNING
    assert found.value == pytest.approx(50 / 250)
    assert only(issues_of(frame, {"duplicates": {"severity": "error"}}), "duplicates").severity is Severity.ERROR
    assert issues_of(frame, {"duplicates": False}) == []


def test_labels_must_be_there_differ_and_not_be_rare() -> None:
    frame = clean()
    frame["y"] = frame["y"].astype(float)
    frame.loc[:149, "y"] = None
    found = [issue for issue in issues_of(frame) if issue.check == "label"]
    assert found[0].value == pytest.approx(0.75)
    frame["y"] = 1
    assert "every label is '1'" in only(issues_of(frame), "label").message
    frame["y"] = [0] * 195 + [1] * 5
    assert "'1' (5)" in only(issues_of(frame), "label").message
    frame["y"] = None
    assert only(issues_of(frame), "label").message == "no row has a label"


def test_a_number_as_a_class_is_sent_to_regression() -> None:
    frame = clean()
    frame["y"] = np.arange(ROWS) * 0.37
    assert "use a regression model" in only([i for i in issues_of(frame) if "classes in" in i.message], "label").message


def test_regression_labels_must_be_numbers_that_vary() -> None:
    frame = clean()
    frame["y"] = 3.0
    assert "one value only" in only(issues_of(frame, task=Task.REGRESSION), "label").message
    frame["y"] = [np.inf, *range(ROWS - 1)]
    assert [i.message for i in issues_of(frame, task=Task.REGRESSION) if i.check == "label"] == [
        "'y' has infinite values"
    ]
    frame["y"] = ["x"] * 100 + ["1.5"] * 100
    assert any("100 labels are no numbers" in issue.message for issue in issues_of(frame, task=Task.REGRESSION))


def test_the_label_under_another_name_is_an_error() -> None:
    frame = clean()
    frame["outcome"] = np.where(frame["y"] == 1, "yes", "no")
    found = only(issues_of(frame), "leakage")
    assert (found.column, found.severity) == ("outcome", Severity.ERROR)


def test_a_feature_that_nearly_tells_the_label_is_a_suspect() -> None:
    frame = clean()
    frame["late"] = frame["y"] * 10 + np.random.default_rng(1).normal(size=ROWS)
    found = only(issues_of(frame), "leakage")
    assert (found.column, found.severity) == ("late", Severity.WARNING)
    assert issues_of(frame, {"leakage": False}) == []
    # What is off entirely is off: even a plain copy.
    assert issues_of(clean().assign(copy=lambda f: f["y"]), {"leakage": {"enabled": False}}) == []


def test_constant_features_are_named_together() -> None:
    found = only(issues_of(clean().assign(k1=1, k2="z")), "constant")
    assert (found.severity, found.value) == (Severity.WARNING, 2.0)
    assert "k1, k2" in found.message
    assert only(issues_of(clean()[["y"]].assign(k=1)), "constant").severity is Severity.ERROR


def test_missing_columns_are_named_with_the_nearest_one() -> None:
    roles, issues = resolve_roles(clean(), FeatureConfig(label="yy", features=("x", "nn"), time_column="at"))
    assert roles.features == ("x",)
    assert [issue.column for issue in issues] == ["yy", "at", "nn"]
    assert "did you mean 'y'?" in issues[0].message
    assert "did you mean 'n'?" in issues[2].message


def test_types_that_cannot_be_features_are_refused() -> None:
    frame = clean()
    frame["when"] = pd.date_range("2026-01-01", periods=ROWS)
    frame["label"] = "z"
    _, issues = resolve_roles(frame, FeatureConfig(label="y"))
    assert [issue.column for issue in issues] == ["when", "label"]
    frame = clean().astype({"n": object})
    frame.loc[:1, "n"] = "many"
    feature_set = FeatureSet(kinds={"n": "numeric"})
    _, issues = table_of(frame, feature_set=feature_set)
    assert [(issue.column, issue.value) for issue in issues] == [("n", 2.0)]


def test_codes_named_for_encoding_are_categories() -> None:
    feature_set = FeatureSet(transformations=(Transformation("encoding", "onehot", ("n",)),))
    table, issues = table_of(clean(), feature_set=feature_set)
    assert not issues
    assert table.roles.kinds == {"x": "numeric", "n": "categorical", "c": "categorical"}
    assert set(table.features["n"]) <= {str(value) for value in range(50)}


def test_a_code_keeps_its_name_when_a_missing_value_makes_its_column_float() -> None:
    frame = clean()
    frame["n"] = frame["n"].astype(float)
    frame.loc[0, "n"] = np.nan
    table, _ = table_of(frame, feature_set=FeatureSet(kinds={"n": "categorical"}))
    assert "" in set(table.features["n"])
    assert not any("." in value for value in table.features["n"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], {0, 1}),
        ([1.0, 2.0], {1, 2}),
        (["1", "2"], {1, 2}),
        (["01", "2"], {"01", "2"}),
        (["no", "yes"], {"no", "yes"}),
        ([1.5, 2.0], {"1.5", "2"}),
    ],
)
def test_labels_become_whole_numbers_or_texts(values: list[Any], expected: set[Any]) -> None:
    frame = clean()
    frame["y"] = values * (ROWS // 2)
    table, _ = table_of(frame)
    assert set(table.label.tolist()) == expected


# Drift against the last run


def profile(path: Path, frame: pd.DataFrame) -> str:
    table, _ = table_of(frame)
    (path / "profile.json").write_text(
        build_profile({str(name): table.features[name].to_numpy() for name in table.features}).to_json()
    )
    return str(path / "profile.json")


def test_the_same_data_has_not_drifted_and_shifted_data_has(tmp_path: Path) -> None:
    last = profile(tmp_path, clean())
    settings = config({}).checks["drift"]
    assert check_drift(table_of(clean())[0], last, settings) == []
    shifted = clean().assign(x=lambda f: f["x"] + 3, c="a")
    found = check_drift(table_of(shifted)[0], last, settings)
    assert {issue.column for issue in found} == {"x", "c"}
    assert all(issue.severity is Severity.WARNING and (issue.value or 0) > 0.2 for issue in found)
    assert check_drift(table_of(shifted)[0], last, config({"drift": False}).checks["drift"]) == []
    strict = config({"drift": {"severity": "error", "max_psi": 0.2}}).checks["drift"]
    assert check_drift(table_of(shifted)[0], last, strict)[0].severity is Severity.ERROR


def test_columns_that_came_and_went_are_told_and_a_broken_profile_is_not_fatal(tmp_path: Path) -> None:
    last = profile(tmp_path, clean())
    settings = config({}).checks["drift"]
    found = check_drift(table_of(clean().rename(columns={"n": "m"}))[0], last, settings)
    assert ["new since" in found[0].message, "were features in" in found[1].message] == [True, True]
    (tmp_path / "profile.json").write_text("{}")
    assert "drift was not checked" in check_drift(table_of(clean())[0], last, settings)[0].message


# Measures of association, by hand


def test_auc_strength_is_two_auc_minus_one() -> None:
    values = np.arange(40, dtype=np.float32)
    label = np.asarray([0, 1] * 20)
    # Pairs (one, zero) where the one is larger: 20·21/2 of 400.
    expected = abs(2 * (210 / 400) - 1)
    assert association(values, label, numeric=True, task=Task.CLASSIFICATION) == pytest.approx(expected)
    assert association(values, (values >= 20).astype(int), numeric=True, task=Task.CLASSIFICATION) == 1.0


def test_lambda_counts_the_errors_that_a_category_removes() -> None:
    values = np.asarray(["a"] * 20 + ["b"] * 20, dtype=object)
    label = np.asarray([0] * 15 + [1] * 5 + [1] * 20)
    # Always 1: 15 errors. Knowing the category: a → 0 (5 errors), b → 1 (0): 1 - 5/15.
    assert association(values, label, numeric=False, task=Task.CLASSIFICATION) == pytest.approx(2 / 3)


def test_rank_correlation_squared_sees_any_rising_curve() -> None:
    values = np.linspace(1, 5, 50).astype(np.float32)
    assert association(values, np.exp(values.astype(float)), numeric=True, task=Task.REGRESSION) == pytest.approx(1.0)


def test_association_is_not_defined_where_it_means_nothing() -> None:
    few = np.asarray([1.0] * 5, dtype=np.float32)
    assert association(few, np.asarray([0, 1, 0, 1, 0]), numeric=True, task=Task.CLASSIFICATION) is None
    ids = np.asarray([f"u{i}" for i in range(100)], dtype=object)
    assert association(ids, np.arange(100) % 2, numeric=False, task=Task.CLASSIFICATION) is None
    constant = np.full(50, 3, dtype=np.float32)
    assert association(constant, np.arange(50) % 2, numeric=True, task=Task.CLASSIFICATION) is None


def test_a_renaming_of_the_label_is_recognised_and_a_finer_code_is_not() -> None:
    label = np.asarray([0, 1, 2] * 20)
    assert recovers(np.asarray(["x", "y", "z"] * 20, dtype=object), label, numeric=False)
    assert recovers((label * 2 + 1).astype(np.float32), label, numeric=True)
    assert not recovers(np.arange(60, dtype=np.float32), label, numeric=True)
    assert not recovers(np.asarray(["x", "y"] * 30, dtype=object), label, numeric=False)
    numbers = np.random.default_rng(0).normal(size=60)
    assert recovers(numbers.astype(np.float32), numbers, numeric=True)
