"""Rows to columns and back: DataFrames, mappings, matrices; text, missing values, dtypes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish.frames import batch_from_rows, columns_of, rows_from_batch, to_pandas
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish.v1 import monitoring_service_pb2 as svc


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), ["a", "b"]),
        ({"a": [1, 2], "b": ["x", "y"]}, ["a", "b"]),
        ([1, 2], ["label"]),
        (np.array([[1, 2, 3], [4, 5, 6]]), ["label_0", "label_1", "label_2"]),
    ],
)
def test_rows_of_any_form_become_named_columns(rows: Any, names: list[str]) -> None:
    found = columns_of(rows)
    assert list(found) == names and all(len(v) == 2 for v in found.values())


def test_columns_of_different_lengths_are_refused_each_with_its_length() -> None:
    with pytest.raises(InvalidArgument) as caught:
        columns_of({"a": [1, 2], "b": [1]})
    assert {v.field: v.description for v in caught.value.violations} == {"a": "2 rows", "b": "1 rows"}


def test_what_is_no_number_and_no_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="column a"):
        batch_from_rows({"a": np.array(["2026-01-01"], dtype="datetime64[D]")}, [1], None, None, None)


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        (np.array([1.5], dtype=np.float32), "FP32"),
        (np.array([1.5]), "FP64"),
        (np.array([2], dtype=np.int8), "INT64"),
        (np.array([2], dtype=np.uint16), "INT64"),
        (np.array([True]), "BOOL"),
        (np.array(["x"]), "BYTES"),
    ],
)
def test_a_column_keeps_its_kind(values: np.ndarray[Any, Any], datatype: str) -> None:
    batch = batch_from_rows({"a": values}, [0], ["p"], None, None)
    column = batch.columns[0]
    assert (column.datatype, column.group) == (datatype, pb.COLUMN_GROUP_INPUT)
    back = rows_from_batch(svc.ExportPredictionsResponse(batch=batch)).inputs["a"]
    assert back.tolist() == values.tolist()


def test_missing_text_stays_missing_and_empty_text_empty() -> None:
    batch = batch_from_rows({"a": np.array(["x", None, ""], dtype=object)}, [1, 2, 3], None, None, None)
    back = rows_from_batch(svc.ExportPredictionsResponse(batch=batch)).inputs["a"]
    assert back.tolist() == ["x", None, ""]
    assert not batch_from_rows({"a": ["x"]}, [1], None, None, None).columns[0].missing


def test_ids_times_and_metadata_go_with_their_rows() -> None:
    at = datetime(2026, 11, 23, 12, 0, 0, 250000, tzinfo=UTC)
    batch = batch_from_rows({"a": [1, 2]}, {"label": [0, 1]}, ["p1", "p2"], [{"k": 1}, {}], [at, at])
    assert list(batch.prediction_ids) == ["p1", "p2"]
    assert list(batch.times_us) == [1795435200250000] * 2
    assert [json.loads(m) for m in batch.metadata_json] == [{"k": 1}, {}]
    fresh = batch_from_rows({"a": [1, 2]}, [0, 1], None, None, None)
    assert len(set(fresh.prediction_ids)) == 2 and not fresh.metadata_json


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, st.integers(-(2**63), 2**63 - 1), st.text(), st.booleans()), min_size=1, max_size=20))
def test_what_is_logged_is_what_is_exported(rows: list[tuple[float, int, str, bool]]) -> None:
    inputs = {
        "f": np.array([r[0] for r in rows]),
        "i": np.array([r[1] for r in rows], dtype=np.int64),
        "s": np.array([r[2] for r in rows], dtype=object),
        "b": np.array([r[3] for r in rows]),
    }
    batch = batch_from_rows(inputs, {"label": inputs["i"]}, None, None, None)
    answer = svc.ExportPredictionsResponse(batch=pb.PredictionBatch.FromString(batch.SerializeToString()))
    back = rows_from_batch(answer)
    for name, values in inputs.items():
        assert back.inputs[name].tolist() == values.tolist()
    assert back.outputs["label"].tolist() == inputs["i"].tolist()


def test_parts_of_an_export_become_one_frame() -> None:
    def part(name: str, truth: str) -> svc.ExportPredictionsResponse:
        batch = batch_from_rows({"a": [1.0]}, {"label": [1]}, [name], None, None)
        batch.deployment, batch.version = "d", 3
        batch.latencies_us.append(250)
        batch.codes.append(0)
        return svc.ExportPredictionsResponse(batch=batch, truths=[truth], attempts=[1], conflicts=[False])

    frame = to_pandas([rows_from_batch(part("p1", "1")), rows_from_batch(part("p2", ""))])
    assert frame.index.tolist() == ["p1", "p2"] and frame["truth"].tolist() == ["1", ""]
    assert frame["input.a"].tolist() == [1.0, 1.0] and frame["version"].unique().tolist() == [3]
    assert to_pandas([]).empty
