"""The Open Inference Protocol from and to columns: tensors, raw contents, texts, matrices."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pilotfish.errors import InvalidArgument
from pilotfish.inference import Predictions, infer_request, read_answer, rows_of
from pilotfish.oip import grpc_predict_v2_pb2 as oip


def metadata(*inputs: tuple[str, str, list[int]]) -> oip.ModelMetadataResponse:
    """Return a model's metadata with some inputs."""
    found = oip.ModelMetadataResponse(name="m")
    for name, datatype, shape in inputs:
        found.inputs.add(name=name, datatype=datatype, shape=shape)
    return found


MATRIX = metadata(("X", "FP32", [-1, 3]))
FEATURES = metadata(("amount", "FP32", [-1, 1]), ("word", "BYTES", [-1]))


@pytest.mark.parametrize(
    "rows", [[[1, 2, 3], [4, 5, 6]], np.arange(1, 7).reshape(2, 3), {"a": [1, 4], "b": [2, 5], "c": [3, 6]},
             pd.DataFrame({"a": [1, 4], "b": [2, 5], "c": [3, 6]})],
)  # fmt: skip
def test_a_matrix_model_takes_a_matrix_or_columns_in_order(rows: Any) -> None:
    [(tensor, values)] = rows_of(rows, MATRIX)
    assert tensor.name == "X" and values.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_one_row_may_stand_alone() -> None:
    assert rows_of([1, 2, 3], MATRIX)[0][1].shape == (1, 3)


def test_a_matrix_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="takes 3 features, 2 columns"):
        rows_of({"a": [1], "b": [2]}, MATRIX)


def test_a_model_of_named_inputs_takes_what_it_needs_and_names_what_is_missing() -> None:
    found = rows_of({"word": ["x", "y"], "amount": [1, 2], "more": [0, 0]}, FEATURES)
    assert [(t.name, v.shape) for t, v in found] == [("amount", (2, 1)), ("word", (2,))]
    with pytest.raises(InvalidArgument, match="columns are missing: amount, word"):
        rows_of({"more": [0]}, FEATURES)


def test_a_request_holds_the_rows_of_its_slice_in_the_models_types() -> None:
    tensors = rows_of({"word": ["x", "y", "z"], "amount": [1, 2, 3]}, FEATURES)
    request = infer_request("m", tensors, 1, 3, "call-1")
    assert (request.model_name, request.id) == ("m", "call-1")
    amount, word = request.inputs
    assert (amount.datatype, list(amount.shape), list(amount.contents.fp32_contents)) == ("FP32", [2, 1], [2.0, 3.0])
    assert (list(word.shape), list(word.contents.bytes_contents)) == ([2], [b"y", b"z"])


def answer(raw: bool) -> oip.ModelInferResponse:
    """Return label and probabilities of two rows and a text, typed or raw."""
    found = oip.ModelInferResponse(model_name="m")
    label = found.outputs.add(name="label", datatype="INT64", shape=[2])
    odds = found.outputs.add(name="odds", datatype="FP32", shape=[2, 2])
    word = found.outputs.add(name="word", datatype="BYTES", shape=[2])
    if raw:
        found.raw_output_contents.append(struct.pack("<2q", 1, -2))
        found.raw_output_contents.append(struct.pack("<4f", 0.25, 0.75, 1.0, 0.0))
        found.raw_output_contents.append(struct.pack("<I1sI2s", 1, b"a", 2, "é".encode()))
    else:
        label.contents.int64_contents.extend([1, -2])
        odds.contents.fp32_contents.extend([0.25, 0.75, 1.0, 0.0])
        word.contents.bytes_contents.extend([b"a", "é".encode()])
    return found


@pytest.mark.parametrize("raw", [False, True])
def test_typed_and_raw_answers_read_the_same(raw: bool) -> None:
    found = read_answer(answer(raw))
    assert found["label"].tolist() == [1, -2]
    assert found["odds"].tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert found["word"].tolist() == ["a", "é"]


def test_predictions_have_a_label_a_length_and_a_frame() -> None:
    found = Predictions(["p1", "p2"], read_answer(answer(False)), 3, "d")
    assert len(found) == 2 and found.label.tolist() == [1, -2]
    frame = found.to_pandas()
    assert frame.columns.tolist() == ["label", "odds_0", "odds_1", "word"] and frame.index.tolist() == ["p1", "p2"]
    assert Predictions(["p"], {"score": np.array([0.5])}, 1, "d").label.tolist() == [0.5]
