"""Decoding gRPC bodies: every datatype both ways, columns by name, and a reason for everything else."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish_sidecar.decode import Decoded, DecodeSignature, Reason, Undecodable, decode_oip

FIELDS = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}
EDGES = {
    "BOOL": [True, False, True],
    "INT8": [-128, 127, 5],
    "INT16": [-(2**15), 2**15 - 1, 300],
    "INT32": [-(2**31), 2**31 - 1, 70000],
    "INT64": [-(2**63), 2**63 - 1, 0],
    "UINT8": [0, 255, 127],
    "UINT16": [0, 2**16 - 1, 128],
    "UINT32": [0, 2**32 - 1, 1],
    "UINT64": [0, 2**64 - 1, 200],
    "FP32": [1.5, -math.inf, 3.4028234663852886e38],
    "FP64": [1e-320, 1.7976931348623157e308, -0.1],
}


def request(name="X", datatype="FP32", shape=(3,), raw=None, ident="", **contents):
    message = pb.ModelInferRequest(model_name="m", model_version="2", id=ident)
    tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def decoded(message, response=b"", *rest):
    result = decode_oip(message.SerializeToString(), response, *rest)
    assert isinstance(result, Decoded), result
    return result


def reason(message, *rest):
    result = decode_oip(message if isinstance(message, bytes) else message.SerializeToString(), b"", *rest)
    assert isinstance(result, Undecodable), result
    return result.reason


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_of_every_datatype_come_back_exactly(datatype):
    field, _ = FIELDS[datatype]
    column = decoded(request(datatype=datatype, **{field: EDGES[datatype]})).inputs["X"]
    assert column.tolist() == EDGES[datatype] and column.shape == (3,)


@pytest.mark.parametrize("datatype", FIELDS)
def test_raw_contents_of_every_datatype_come_back_exactly(datatype):
    raw = struct.pack(f"<3{FIELDS[datatype][1]}", *EDGES[datatype])
    assert decoded(request(datatype=datatype, raw=raw)).inputs["X"].tolist() == EDGES[datatype]


def test_fp16_travels_raw_only():
    raw = struct.pack("<3e", 1.5, -2.0, 65504.0)
    assert decoded(request(datatype="FP16", raw=raw)).inputs["X"].tolist() == [1.5, -2.0, 65504.0]
    assert reason(request(datatype="FP16", fp32_contents=[1, 2, 3])) is Reason.WRONG_CONTENTS


def test_bytes_are_text_typed_and_raw():
    values = [b"a", "größe".encode(), b""]
    raw = b"".join(struct.pack("<I", len(value)) + value for value in values)
    assert decoded(request(datatype="BYTES", bytes_contents=values)).inputs["X"].tolist() == ["a", "größe", ""]
    assert decoded(request(datatype="BYTES", raw=raw)).inputs["X"].tolist() == ["a", "größe", ""]
    assert decoded(request(datatype="BYTES", shape=(1,), bytes_contents=[b"\xff\xfe"])).inputs["X"][0] == "\ufffd\ufffd"


def test_nan_stays_nan():
    assert math.isnan(decoded(request(shape=(1,), fp32_contents=[math.nan])).inputs["X"][0])


def test_a_matrix_becomes_the_features_of_the_signature():
    message = request(shape=(2, 3), fp32_contents=[1, 2, 3, 4, 5, 6])
    columns = decoded(message, b"", DecodeSignature(("X",), ("age", "sum", "days"))).inputs
    assert {name: column.tolist() for name, column in columns.items()} == {"age": [1, 4], "sum": [2, 5], "days": [3, 6]}
    assert list(decoded(message).inputs) == ["X_0", "X_1", "X_2"]
    assert list(decoded(message, b"", DecodeSignature(("X",), ("a", "b"))).inputs) == ["X_0", "X_1", "X_2"]


def test_one_tensor_per_feature_becomes_one_column_each():
    message = request("age", "FP32", (2, 1), fp32_contents=[30, 40])
    message.inputs.add(name="city", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"x", b"y"])
    columns = decoded(message, b"", DecodeSignature(("X",), ("age", "city"))).inputs
    assert {name: column.tolist() for name, column in columns.items()} == {"age": [30, 40], "city": ["x", "y"]}


def answer(rows, classes, names=("label", "probabilities"), **more):
    message = pb.ModelInferResponse(model_name="m", model_version="7", **more)
    message.outputs.add(name=names[0], datatype="INT64", shape=[rows]).contents.int64_contents.extend(range(rows))
    table = message.outputs.add(name=names[1], datatype="FP32", shape=[rows, classes])
    table.contents.fp32_contents.extend([0.5] * (rows * classes))
    return message.SerializeToString()


def test_outputs_are_the_label_and_a_probability_per_class():
    signature = DecodeSignature(("X",), (), ("cat", "dog"))
    outputs = decoded(request(shape=(2, 1), fp32_contents=[1, 2]), answer(2, 2), signature).outputs
    assert {name: column.tolist() for name, column in outputs.items()} == {
        "label": [0, 1],
        "probability_cat": [0.5, 0.5],
        "probability_dog": [0.5, 0.5],
    }


def test_probabilities_without_known_classes_are_numbered_and_other_matrices_keep_their_name():
    message = request(shape=(1, 1), fp32_contents=[1])
    assert list(decoded(message, answer(1, 2)).outputs) == ["label", "probability_0", "probability_1"]
    assert list(decoded(message, answer(1, 2, ("y", "embedding"))).outputs) == ["y", "embedding_0", "embedding_1"]


def test_raw_outputs_are_read_like_typed_ones():
    message = pb.ModelInferResponse(model_name="m", raw_output_contents=[struct.pack("<2q", 4, 5)])
    message.outputs.add(name="label", datatype="INT64", shape=[2])
    result = decoded(request(shape=(2,), fp32_contents=[1, 2]), message.SerializeToString())
    assert result.outputs["label"].tolist() == [4, 5]


def test_rows_get_ids_from_the_call_s_id():
    one = decoded(request(shape=(1,), ident="a", fp32_contents=[1]))
    three = decoded(request(ident="a", fp32_contents=[1, 2, 3]))
    assert one.row_ids() == ["a"] and three.row_ids() == ["a/0", "a/1", "a/2"]
    nameless = decoded(request(shape=(2,), fp32_contents=[1, 2]))
    assert nameless.row_ids("tap") == ["tap/0", "tap/1"]
    assert decoded(request(shape=(1,), fp32_contents=[1]), answer(1, 1, id="server")).row_ids("tap") == ["server"]


def test_the_version_that_answered_counts_not_the_one_asked_for():
    message = request(shape=(1,), fp32_contents=[1])
    assert decoded(message).model_version == "2"
    assert decoded(message, answer(1, 1)).model_version == "7"


def test_a_failed_call_still_has_its_inputs():
    result = decoded(request(fp32_contents=[1, 2, 3]))
    assert result.rows == 3 and result.outputs == {}


def test_an_output_that_cannot_be_read_costs_only_itself():
    message = pb.ModelInferResponse(model_name="m")
    message.outputs.add(name="label", datatype="INT64", shape=[1]).contents.int64_contents.append(3)
    message.outputs.add(name="odd", datatype="BF16", shape=[1])
    message.outputs.add(name="per_model", datatype="FP32", shape=[5]).contents.fp32_contents.extend([0] * 5)
    result = decoded(request(shape=(1,), fp32_contents=[1]), message.SerializeToString())
    assert list(result.outputs) == ["label"]
    assert dict(result.skipped) == {"odd": Reason.UNKNOWN_DTYPE, "per_model": Reason.BAD_SHAPE}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"\xff\xff\xff", Reason.BAD_PROTOBUF),
        (pb.ModelInferRequest(model_name="m"), Reason.NO_INPUTS),
        (b"", Reason.NO_INPUTS),
        (request(datatype="FLOAT", fp32_contents=[1, 2, 3]), Reason.UNKNOWN_DTYPE),
        (request(shape=(4,), fp32_contents=[1, 2, 3]), Reason.TRUNCATED),
        (request(shape=(2,), fp32_contents=[1, 2, 3]), Reason.BAD_SHAPE),
        (request(shape=(-1,), fp32_contents=[1]), Reason.BAD_SHAPE),
        (request(shape=(2**62, 2**62), fp32_contents=[1]), Reason.BAD_SHAPE),
        (request(shape=(10**9, 0)), Reason.BAD_SHAPE),
        (request(fp64_contents=[1, 2, 3]), Reason.WRONG_CONTENTS),
        (request(fp32_contents=[1, 2, 3], fp64_contents=[1]), Reason.WRONG_CONTENTS),
        (request(datatype="INT64", int_contents=[1, 2, 3]), Reason.WRONG_CONTENTS),
        (request(datatype="BYTES", fp32_contents=[1, 2, 3]), Reason.WRONG_CONTENTS),
        (request(datatype="INT8", int_contents=[1, 2, 200]), Reason.BAD_VALUE),
        (request(datatype="INT64", shape=(2,), int64_contents=[300]), Reason.TRUNCATED),  # two bytes, one value
        (request(datatype="UINT8", uint_contents=[1, 2, 256]), Reason.BAD_VALUE),
        (request(datatype="BOOL", raw=b"\x00\x01\x02"), Reason.BAD_VALUE),
        (request(raw=b"\x00" * 11), Reason.TRUNCATED),
        (request(raw=b"\x00" * 13), Reason.BAD_SHAPE),
        (request(raw=b"\x00" * 12, fp32_contents=[1, 2, 3]), Reason.WRONG_CONTENTS),
        (request(datatype="BYTES", raw=b"\xff\xff\xff\x7f"), Reason.TRUNCATED),
        (request(datatype="BYTES", raw=b"\x01"), Reason.TRUNCATED),
        (request(shape=(1, 5000), raw=b"\x00" * 20000), Reason.TOO_MANY_COLUMNS),
    ],
)
def test_what_cannot_be_read_has_a_reason(message, expected):
    assert reason(message) is expected


def test_tensors_that_disagree_in_rows_are_a_bad_shape():
    message = request("a", shape=(3,), fp32_contents=[1, 2, 3])
    message.inputs.add(name="b", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1, 2])
    assert reason(message) is Reason.BAD_SHAPE


def test_a_tensor_that_the_signature_does_not_know_is_skipped_and_alone_is_a_reason():
    signature = DecodeSignature(("X",), ("age",))
    assert reason(request("other", fp32_contents=[1, 2, 3]), signature) is Reason.UNKNOWN_TENSOR
    message = request("age", fp32_contents=[1, 2, 3])
    message.inputs.add(name="debug", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    result = decoded(message, b"", signature)
    assert list(result.inputs) == ["age"] and result.skipped == (("debug", Reason.UNKNOWN_TENSOR),)


def test_unpacked_repeated_fields_are_read_too():
    contents = b"".join(b"\x35" + struct.pack("<f", value) for value in (1.0, 2.0))  # field 6, one by one
    tensor = b"\x0a\x01X" + b"\x12\x04FP32" + b"\x18\x02" + b"\x2a" + bytes([len(contents)]) + contents
    result = decode_oip(b"\x2a" + bytes([len(tensor)]) + tensor)
    assert isinstance(result, Decoded) and result.inputs["X"].tolist() == [1.0, 2.0]


@settings(max_examples=500)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_random_bytes_never_raise(first, second):
    assert isinstance(decode_oip(first, second), Decoded | Undecodable)


@settings(max_examples=500)
@given(st.data())
def test_damaged_calls_never_raise_and_never_give_ragged_rows(data):
    whole = request(shape=(2, 3), ident="é", fp32_contents=[1, 2, 3, 4, 5, 6])
    whole.inputs.add(name="n", datatype="INT32", shape=[2]).contents.int_contents.extend([-5, 300])
    whole.inputs.add(name="b", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"u", b"v"])
    body, reply = bytearray(whole.SerializeToString()), bytearray(answer(2, 3))
    for target in (body, reply):
        for _ in range(data.draw(st.integers(0, 4))):
            target[data.draw(st.integers(0, len(target) - 1))] = data.draw(st.integers(0, 255))
    result = decode_oip(bytes(body), bytes(reply), DecodeSignature((), ("a", "b", "c"), ("x", "y", "z")))
    if isinstance(result, Decoded):
        assert {len(column) for column in (result.inputs | result.outputs).values()} == {result.rows}


@settings(max_examples=200)
@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_decoding_agrees_with_protobuf_s_own_reading(datatype, data):
    field, code = FIELDS[datatype]
    if code in "fd":
        values = data.draw(st.lists(st.floats(width=32 if code == "f" else 64), min_size=1, max_size=200))
    elif code == "?":
        values = data.draw(st.lists(st.booleans(), min_size=1, max_size=200))
    else:
        limits = np.iinfo(np.dtype(code))
        values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1, max_size=200))
    message = request(datatype=datatype, shape=(len(values),), **{field: values})
    expected = list(getattr(message.inputs[0].contents, field))
    got = decoded(message).inputs["X"].tolist()
    assert json.dumps(got) == json.dumps(expected)


def test_decoding_leaves_the_default_descriptor_pool_alone():
    code = (
        "import pilotfish_sidecar.decode\n"
        "from google.protobuf import descriptor_pool as p\n"
        "try:\n    p.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError:\n    print('alone')\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "alone"
