"""TensorFlow Serving's calls become rows, written in each of the forms that its clients write; nothing raises."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.tfserving import predict_pb2 as pb
from pilotfish_sidecar.decode import Decoded, DecodeSignature, Reason, Undecodable, decode_tf, decode_tf_json

PATH = "/v1/models/fraud/versions/3:predict"


def tensor(dtype: int, shape: list[int], **fields: Any) -> pb.TensorProto:
    made = pb.TensorProto(dtype=dtype, **fields)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def request(**tensors: pb.TensorProto) -> bytes:
    made = pb.PredictRequest(model_spec=pb.ModelSpec(name="fraud"))
    for name, each in tensors.items():
        made.inputs[name].CopyFrom(each)
    return made.SerializeToString()


def response(**tensors: pb.TensorProto) -> bytes:
    made = pb.PredictResponse(model_spec=pb.ModelSpec(name="fraud", version=pb.Version(value=3)))
    for name, each in tensors.items():
        made.outputs[name].CopyFrom(each)
    return made.SerializeToString()


def rows(result: Decoded | Undecodable) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    assert isinstance(result, Decoded), result
    inputs = {name: values.tolist() for name, values in result.inputs.items()}
    return inputs, {name: values.tolist() for name, values in result.outputs.items()}


def reason(result: Decoded | Undecodable) -> Reason:
    assert isinstance(result, Undecodable), result
    return result.reason


def test_a_call_becomes_rows_and_names_its_model() -> None:
    asked = request(x=tensor(1, [2, 2], float_val=[1, 2, 3, 4]), y=tensor(9, [2], int64_val=[7, -8]))
    result = decode_tf(asked, response(score=tensor(2, [2, 1], double_val=[0.5, 0.25])))
    assert rows(result) == ({"x_0": [1, 3], "x_1": [2, 4], "y": [7, -8]}, {"score": [0.5, 0.25]})
    assert isinstance(result, Decoded) and (result.model_name, result.model_version) == ("fraud", "3")


def test_features_and_classes_are_named_by_the_signature() -> None:
    signature = DecodeSignature(("x",), ("age", "income"), ("no", "yes"))
    answer = response(p=tensor(1, [1, 2], float_val=[0.25, 0.75]))
    inputs, outputs = rows(decode_tf(request(x=tensor(1, [1, 2], float_val=[1, 2])), answer, signature))
    assert inputs == {"age": [1], "income": [2]} and outputs == {"probability_no": [0.25], "probability_yes": [0.75]}


@pytest.mark.parametrize(
    ("dtype", "content", "values"),
    [
        (1, struct.pack("<2f", 1.5, -2), [1.5, -2]),
        (2, struct.pack("<2d", 1.5, -2), [1.5, -2]),
        (3, struct.pack("<2i", 5, -2), [5, -2]),
        (4, b"\x05\xff", [5, 255]),
        (5, struct.pack("<2h", 5, -2), [5, -2]),
        (6, b"\x05\xff", [5, -1]),
        (9, struct.pack("<2q", 1 << 40, -2), [1 << 40, -2]),
        (10, b"\x01\x00", [True, False]),
        (14, b"\xc0\x3f\x00\xc0", [1.5, -2]),
        (17, struct.pack("<2H", 5, 65535), [5, 65535]),
        (19, struct.pack("<2e", 1.5, -2), [1.5, -2]),
        (22, struct.pack("<2I", 5, (1 << 32) - 1), [5, (1 << 32) - 1]),
        (23, struct.pack("<2Q", 5, (1 << 64) - 1), [5, (1 << 64) - 1]),
    ],
)
def test_every_datatype_is_read_from_content_and_from_its_own_field(
    dtype: int, content: bytes, values: list[Any]
) -> None:
    assert rows(decode_tf(request(x=tensor(dtype, [2], tensor_content=content))))[0] == {"x": values}
    fields = {1: "float_val", 2: "double_val", 9: "int64_val", 10: "bool_val", 22: "uint32_val", 23: "uint64_val"}
    if dtype in (14, 19):
        field, typed = "half_val", list(struct.unpack("<2H", content))
    else:
        field, typed = fields.get(dtype, "int_val"), values
    assert rows(decode_tf(request(x=tensor(dtype, [2], **{field: typed}))))[0] == {"x": values}


def test_texts_are_read_and_what_is_no_text_is_replaced() -> None:
    assert rows(decode_tf(request(x=tensor(7, [2], string_val=[b"ab", b"\xff"]))))[0] == {"x": ["ab", "\ufffd"]}


def test_fewer_values_than_elements_repeat_the_last_as_tensorflow_does_but_not_without_bound() -> None:
    assert rows(decode_tf(request(x=tensor(1, [3], float_val=[1, 2]))))[0] == {"x": [1, 2, 2]}
    assert rows(decode_tf(request(x=tensor(3, [2]))))[0] == {"x": [0, 0]}
    assert reason(decode_tf(request(x=tensor(1, [1 << 30], float_val=[1])))) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (tensor(8, [1]), Reason.UNKNOWN_DTYPE),
        (tensor(1, [2], tensor_content=b"1234"), Reason.TRUNCATED),
        (tensor(1, [1], tensor_content=b"12345"), Reason.BAD_SHAPE),
        (tensor(1, [-1], float_val=[1]), Reason.BAD_SHAPE),
        (tensor(1, [1], float_val=[1, 2]), Reason.BAD_SHAPE),
        (tensor(4, [1], int_val=[256]), Reason.BAD_VALUE),
        (tensor(10, [1], tensor_content=b"\x02"), Reason.BAD_VALUE),
    ],
)
def test_a_wrong_tensor_says_what_is_wrong(made: pb.TensorProto, expected: Reason) -> None:
    assert reason(decode_tf(request(x=made))) is expected


def test_a_wrong_output_is_left_out_and_the_rest_is_whole() -> None:
    answer = response(bad=tensor(8, [1]), good=tensor(1, [1], float_val=[2]))
    result = decode_tf(request(x=tensor(1, [1], float_val=[1])), answer)
    assert rows(result)[1] == {"good": [2]}
    assert isinstance(result, Decoded) and result.skipped == (("bad", Reason.UNKNOWN_DTYPE),)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_random_bytes_never_raise(first: bytes, second: bytes) -> None:
    assert isinstance(decode_tf(first, second), Decoded | Undecodable)
    assert isinstance(decode_tf_json(first, second, path=PATH), Decoded | Undecodable)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_never_raises(position: int, value: int) -> None:
    body = bytearray(request(x=tensor(1, [2, 2], float_val=[1, 2, 3, 4]), y=tensor(7, [2], string_val=[b"a", b"b"])))
    body[position % len(body)] = value
    assert isinstance(decode_tf(bytes(body), bytes(body)), Decoded | Undecodable)


def rest(asked: Any, answered: Any = None, *rest: Any) -> Decoded | Undecodable:
    answer = b"" if answered is None else json.dumps(answered).encode()
    return decode_tf_json(json.dumps(asked).encode(), answer, *rest, path=PATH)


def test_rows_of_rest_are_lists_objects_or_single_values() -> None:
    assert rows(rest({"instances": [[1, 2], [3, 4]]}, {"predictions": [0.5, 0.25]})) == (
        {"input_0": [1, 3], "input_1": [2, 4]},
        {"prediction": [0.5, 0.25]},
    )
    named = rest({"instances": [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]}, {"predictions": [[1, 2], [3, 4]]})
    inputs, outputs = rows(named)
    assert np.isnan(inputs["a"][1]) and inputs["b"] == ["x", "y"]
    assert outputs == {"prediction_0": [1, 3], "prediction_1": [2, 4]}
    assert rows(rest({"instances": [1, 2, 3]}, {"predictions": [[1], [2], [3]]})) == (
        {"input": [1, 2, 3]},
        {"prediction": [1, 2, 3]},
    )
    assert isinstance(named, Decoded) and (named.model_name, named.model_version) == ("fraud", "3")


def test_columns_of_rest_have_their_rows_first() -> None:
    result = rest({"inputs": {"a": [1, 2], "b": [[1, 2], [3, 4]]}}, {"outputs": {"p": [0.5, 0.25]}})
    assert rows(result) == ({"a": [1, 2], "b_0": [1, 3], "b_1": [2, 4]}, {"p": [0.5, 0.25]})
    assert rows(rest({"inputs": [[1, 2]]}, {"outputs": [[3]]})) == (
        {"input_0": [1], "input_1": [2]},
        {"prediction": [3]},
    )


def test_base64_is_text() -> None:
    cell = {"b64": base64.b64encode(b"hi").decode()}
    assert rows(rest({"instances": [cell, cell]}))[0] == {"input": ["hi", "hi"]}
    assert reason(rest({"instances": [{"b64": "%"}]})) is Reason.BAD_VALUE


def test_one_and_one_point_zero_are_the_same_type() -> None:
    whole, real = rest({"instances": [[1]]}), rest({"instances": [[1.0]]})
    assert isinstance(whole, Decoded) and isinstance(real, Decoded)
    assert whole.input_blocks[0].values.dtype == real.input_blocks[0].values.dtype


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], Reason.BAD_JSON),
        ({}, Reason.NO_INPUTS),
        ({"instances": []}, Reason.NO_INPUTS),
        ({"instances": [[1, 2], [3]]}, Reason.BAD_SHAPE),
        ({"instances": [[1, "a"]]}, Reason.BAD_VALUE),
        ({"instances": [{"a": {"b": 1}}]}, Reason.BAD_VALUE),
        ({"instances": [[10**400]]}, Reason.BAD_VALUE),
        ({"instances": [[0] * 5000]}, Reason.TOO_MANY_COLUMNS),
        ({"instances": [{f"k{i}": 0 for i in range(5000)}]}, Reason.TOO_MANY_COLUMNS),
    ],
)
def test_a_wrong_body_says_what_is_wrong(asked: Any, expected: Reason) -> None:
    assert reason(rest(asked)) is expected


def test_a_failed_call_keeps_its_inputs() -> None:
    assert rows(rest({"instances": [[1]]}, {"error": "no such model"}))[1] == {}
    assert rows(decode_tf_json(b'{"instances": [[1]]}', b"<html>", path=PATH))[1] == {}
