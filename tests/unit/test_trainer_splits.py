"""Every row is in one part, copies stay together, and the same seed gives the same parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish_control_plane.trainer.outcome import Reason, TrainingFailed
from pilotfish_control_plane.trainer.spec import FeatureConfig, SplitConfig, Task
from pilotfish_control_plane.trainer.splits import Split, split_rows
from pilotfish_control_plane.trainer.table import Table, data_hash, prepare_table, resolve_roles


def table(frame: pd.DataFrame, task: Task = Task.CLASSIFICATION, **roles: Any) -> Table:
    found, issues = resolve_roles(frame, FeatureConfig(label="y", **roles))
    assert not issues
    prepared, issues = prepare_table(frame, found, task)
    assert not issues
    return prepared


def frame(rows: int, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(rows) * 1.0, "y": np.arange(rows) % 2, **columns})


def sizes(split: Split) -> tuple[int, int, int]:
    return len(split.train), len(split.validation), len(split.test)


def check_partition(split: Split, rows: int) -> None:
    every = np.concatenate([split.train, split.validation, split.test])
    assert sorted(every.tolist()) == list(range(rows))


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_the_parts_have_the_wanted_sizes_and_share_no_row(method: str) -> None:
    split = split_rows(table(frame(100)), SplitConfig(method, seed=1), Task.CLASSIFICATION)
    check_partition(split, 100)
    assert sizes(split) == (60, 20, 20)


def test_stratified_parts_keep_the_share_of_every_class() -> None:
    y = np.repeat([0, 1, 2], [100, 50, 10])
    data = table(pd.DataFrame({"x": np.arange(160) * 1.0, "y": y}))
    split = split_rows(data, SplitConfig("stratified", seed=5), Task.CLASSIFICATION)
    for part, share in ((split.train, 0.6), (split.validation, 0.2), (split.test, 0.2)):
        counts = np.bincount(data.label[part], minlength=3)
        assert counts.tolist() == [round(100 * share), round(50 * share), round(10 * share)]


def test_the_oldest_rows_are_trained_on_and_rows_of_one_instant_stay_together() -> None:
    times = pd.to_datetime("2026-01-01") + pd.to_timedelta(np.repeat(np.arange(20), 5), unit="h")
    data = table(frame(100, at=times.astype(str)), time_column="at")
    split = split_rows(data, SplitConfig("time", 0.58, 0.21, 0.21), Task.CLASSIFICATION)
    check_partition(split, 100)
    assert data.time is not None
    parts = [data.time[part] for part in (split.train, split.validation, split.test)]
    assert parts[0].max() < parts[1].min() <= parts[1].max() < parts[2].min()
    assert sizes(split) == (55, 20, 25)


def test_no_group_is_in_two_parts() -> None:
    groups = np.repeat(np.arange(25), 4)
    data = table(frame(100, who=groups), group_column="who")
    split = split_rows(data, SplitConfig("group", seed=2), Task.CLASSIFICATION)
    check_partition(split, 100)
    assert data.group is not None
    found = [set(data.group[part].tolist()) for part in (split.train, split.validation, split.test)]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert sizes(split) == (60, 20, 20)


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_copies_of_a_row_stay_on_one_side(method: str) -> None:
    single = frame(60)
    data = table(pd.concat([single, single, single.head(20)], ignore_index=True))
    split = split_rows(data, SplitConfig(method, seed=4), Task.CLASSIFICATION)
    check_partition(split, 140)
    found = [set(data.hashes[part].tolist()) for part in (split.train, split.validation, split.test)]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert abs(len(split.train) - 84) <= 3


def test_parts_do_not_depend_on_the_order_in_which_a_source_returns_its_rows() -> None:
    rows = frame(80)
    shuffled = rows.sample(frac=1, random_state=9).reset_index(drop=True)
    tables = table(rows), table(shuffled)
    assert data_hash(tables[0]) == data_hash(tables[1])
    splits = [split_rows(item, SplitConfig("random", seed=3), Task.CLASSIFICATION) for item in tables]
    assert tables[0].features["x"].tolist() == tables[1].features["x"].tolist()
    assert splits[0].test.tolist() == splits[1].test.tolist()


def test_another_seed_gives_other_parts_and_another_value_another_hash() -> None:
    data = table(frame(80))
    split = [
        split_rows(data, SplitConfig("random", seed=seed), Task.CLASSIFICATION).test.tolist() for seed in (1, 1, 2)
    ]
    assert split[0] == split[1] != split[2]
    changed = frame(80)
    changed.loc[5, "x"] = 5.5
    assert data_hash(table(changed)) != data_hash(data)
    renamed = table(frame(80).rename(columns={"x": "z"}))
    assert data_hash(renamed) != data_hash(data)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(10, 120),
    classes=st.integers(2, 4),
    copies=st.integers(1, 5),
    shares=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.34, 0.33, 0.33)]),
    method=st.sampled_from(["random", "stratified", "group", "time"]),
    seed=st.integers(0, 1000),
)
def test_every_split_is_a_partition_or_says_why_not(
    rows: int, classes: int, copies: int, shares: tuple[float, float, float], method: str, seed: int
) -> None:
    numbers = np.arange(rows)
    data = table(
        pd.DataFrame({"x": (numbers // copies) * 1.0, "y": numbers % classes, "g": numbers // 3, "t": numbers // 2}),
        group_column="g",
        time_column="t",
        features=("x",),
    )
    try:
        split = split_rows(data, SplitConfig(method, *shares, seed=seed), Task.CLASSIFICATION)
    except TrainingFailed as failure:
        assert failure.reason is Reason.SPLIT_FAILED
        return
    check_partition(split, rows)
    assert len(split.train) and len(split.test)
    assert (len(split.validation) > 0) == (shares[1] > 0)


def test_too_few_rows_and_a_class_that_cannot_be_learned_are_named() -> None:
    with pytest.raises(TrainingFailed) as caught:
        split_rows(table(frame(2)), SplitConfig("random"), Task.CLASSIFICATION)
    assert any("is empty: 2 rows are too few" in issue.message for issue in caught.value.issues)
    late = pd.DataFrame({"x": np.arange(50) * 1.0, "y": [0] * 25 + [1] * 15 + [2] * 10, "t": np.arange(50)})
    with pytest.raises(TrainingFailed) as caught:
        split_rows(table(late, time_column="t"), SplitConfig("time"), Task.CLASSIFICATION)
    assert "no row of class 2" in caught.value.issues[0].message
