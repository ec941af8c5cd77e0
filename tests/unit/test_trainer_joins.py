"""Sources become one table, and a join that does something else than what was meant is refused."""

from __future__ import annotations

import pandas as pd
import pytest

from pilotfish_control_plane.trainer.joins import join_sources
from pilotfish_control_plane.trainer.outcome import Reason, TrainingFailed
from pilotfish_control_plane.trainer.spec import JoinConfig, JoinStep

LEFT = pd.DataFrame({"id": [1, 2, 3], "x": [0.1, 0.2, 0.3]})


def step(how: str = "inner", fan_out: bool = False) -> JoinStep:
    return JoinStep("labels", ("id",), ("key",), how, fan_out)


def refused(frames: dict[str, pd.DataFrame], config: JoinConfig, wanted: list[str] | None = None) -> list[str]:
    with pytest.raises(TrainingFailed) as caught:
        join_sources(frames, config, wanted)
    assert caught.value.reason is Reason.JOIN_FAILED
    return [issue.message for issue in caught.value.issues]


def test_keys_of_different_names_are_joined_and_lost_rows_are_counted() -> None:
    labels = pd.DataFrame({"key": [3, 1, 9], "label": ["c", "a", "z"]})
    table, warnings = join_sources({"rows": LEFT, "labels": labels}, JoinConfig("rows", (step(),)), None)
    assert table[["id", "label"]].values.tolist() == [[1, "a"], [3, "c"]]
    assert [(issue.value, issue.message) for issue in warnings] == [
        (1.0, "1 of 3 rows have no match in 'labels' and were dropped")
    ]


def test_a_left_join_keeps_rows_without_values() -> None:
    labels = pd.DataFrame({"key": [1], "label": ["a"]})
    table, warnings = join_sources({"rows": LEFT, "labels": labels}, JoinConfig("rows", (step("left"),)), None)
    assert list(table["id"]) == [1, 2, 3]
    assert table["label"].isna().tolist() == [False, True, True]
    assert "kept without values" in warnings[0].message


def test_rows_multiplied_by_a_repeated_key_are_refused_unless_wanted() -> None:
    labels = pd.DataFrame({"key": [1, 1, 2], "label": ["a", "b", "c"]})
    frames = {"rows": LEFT, "labels": labels}
    assert "1 rows of 'labels' repeat a key" in refused(frames, JoinConfig("rows", (step(),)))[0]
    table, _ = join_sources(frames, JoinConfig("rows", (step(fan_out=True),)), None)
    assert list(table["label"]) == ["a", "b", "c"]


def test_missing_keys_match_nothing_instead_of_each_other() -> None:
    rows = pd.DataFrame({"id": [1.0, None, None], "x": [1, 2, 3]})
    labels = pd.DataFrame({"key": [1.0, None], "label": ["a", "b"]})
    table, _ = join_sources({"rows": rows, "labels": labels}, JoinConfig("rows", (step(),)), None)
    assert list(table["label"]) == ["a"]


def test_several_keys_match_together() -> None:
    rows = pd.DataFrame({"a": [1, 1, 2], "b": ["x", "y", "x"], "v": [1, 2, 3]})
    labels = pd.DataFrame({"a": [1, 2], "b": ["y", "x"], "label": [10, 20]})
    config = JoinConfig("rows", (JoinStep("labels", ("a", "b"), ("a", "b")),))
    table, _ = join_sources({"rows": rows, "labels": labels}, config, None)
    assert table[["v", "label"]].values.tolist() == [[2, 10], [3, 20]]


def test_missing_keys_of_both_sides_are_named_together() -> None:
    labels = pd.DataFrame({"kye": [1], "label": ["a"]})
    messages = refused({"rows": LEFT, "labels": labels}, JoinConfig("rows", (JoinStep("labels", ("idd",), ("key",)),)))
    assert "no column 'idd'; did you mean 'id'?" in messages[0]
    assert "no column 'key'; did you mean 'kye'?" in messages[1]


def test_keys_of_different_types_are_refused_instead_of_matching_nothing() -> None:
    labels = pd.DataFrame({"key": ["1", "2"], "label": ["a", "b"]})
    assert "make them the same type" in refused({"rows": LEFT, "labels": labels}, JoinConfig("rows", (step(),)))[0]


def test_a_join_that_matches_nothing_is_refused() -> None:
    labels = pd.DataFrame({"key": [7], "label": ["a"]})
    frames = {"rows": LEFT, "labels": labels}
    assert "no row of 'labels' matches" in refused(frames, JoinConfig("rows", (step("left"),)))[0]


def test_columns_of_one_name_on_both_sides_are_refused() -> None:
    labels = pd.DataFrame({"key": [1], "x": [5]})
    assert "both sides have the column x" in refused({"rows": LEFT, "labels": labels}, JoinConfig("rows", (step(),)))[0]


def test_joined_data_and_logged_rows_are_stacked() -> None:
    labels = pd.DataFrame({"key": [1, 2, 3], "label": [0, 1, 0]})
    log = pd.DataFrame({"label": [1], "x": [0.9], "deployment": ["d1"]})
    table, warnings = join_sources(
        {"rows": LEFT, "labels": labels, "log": log}, JoinConfig("rows", (step(),), ("log",)), ["x", "label"]
    )
    assert table[["x", "label"]].values.tolist() == [[0.1, 0], [0.2, 1], [0.3, 0], [0.9, 1]]
    assert list(table.columns) == ["id", "x", "key", "label"]
    assert "1 columns of 'log'" in warnings[0].message


def test_a_stacked_source_without_a_needed_column_is_refused() -> None:
    log = pd.DataFrame({"x": [0.9]})
    messages = refused({"rows": LEFT, "log": log}, JoinConfig("rows", (), ("log",)), ["x", "label", "id"])
    assert messages == ["source 'log' lacks 2 of 3 columns: label, id"]
