"""Decoding REST bodies of the Open Inference Protocol: the same rows as gRPC, and a reason for everything else."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish_sidecar.decode import Decoded, DecodeSignature, Reason, Undecodable, decode_oip_json, model_of_path

SIGNATURE = DecodeSignature(("X",), ("age", "sum"), ("no", "yes"))


def body(*tensors, **more):
    return json.dumps({"inputs": list(tensors), **more}).encode()


def tensor(data, shape, datatype="FP32", name="X", **more):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def decoded(*arguments, **more):
    result = decode_oip_json(*arguments, **more)
    assert isinstance(result, Decoded), result
    return result


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5], [3, 4]]])
def test_flat_and_nested_data_are_the_same_rows(data):
    columns = decoded(body(tensor(data, [2, 2])), b"", SIGNATURE).inputs
    assert {name: column.tolist() for name, column in columns.items()} == {"age": [1, 3], "sum": [2.5, 4]}


def test_a_whole_call_has_inputs_outputs_ids_and_names():
    reply = json.dumps(
        {
            "model_name": "m",
            "model_version": "7",
            "id": "a",
            "outputs": [
                tensor(["no", "yes"], [2], "BYTES", "label"),
                tensor([0.9, 0.1, 0.2, 0.8], [2, 2], "FP64", "probabilities"),
            ],
        }
    ).encode()
    result = decoded(body(tensor([1, 2, 3, 4], [2, 2]), id="a"), reply, SIGNATURE, path="/v2/models/e/infer")
    assert {name: column.tolist() for name, column in result.outputs.items()} == {
        "label": ["no", "yes"],
        "probability_no": [0.9, 0.2],
        "probability_yes": [0.1, 0.8],
    }
    assert (result.row_ids(), result.model_name, result.model_version) == (["a/0", "a/1"], "e", "7")


def test_null_is_a_missing_number():
    assert math.isnan(decoded(body(tensor([None], [1]))).inputs["X"][0])


def test_integers_keep_all_their_digits():
    assert decoded(body(tensor([2**63 - 1], [1], "INT64"))).inputs["X"].tolist() == [2**63 - 1]


def test_half_a_surrogate_pair_is_replaced_so_that_every_text_can_be_stored():
    raw = rb'{"id": "\ud800", "inputs": [{"name": "n\ud800", "datatype": "BYTES", "shape": [1], "data": ["\udfff"]}]}'
    result = decoded(raw)
    assert (result.id, result.inputs["n?"].tolist()) == ("?", ["?"])


def test_an_error_answer_leaves_the_inputs():
    for reply in (b'{"error": "no"}', b"<html>", b"", b"\xff\xfe", b"[1]", b'{"outputs": 5}'):
        result = decoded(body(tensor([1], [1])), reply)
        assert result.outputs == {} and result.rows == 1


def test_binary_data_behind_the_json_are_read_in_order():
    head = body(
        {"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "b", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
        id="größe",
    )
    raw = struct.pack("<2f2q", 1.5, 2.5, -3, 4)
    outputs = [{"name": "y", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}]
    reply = json.dumps({"outputs": outputs, "id": "größe"}, ensure_ascii=False).encode() + struct.pack("<2d", 7, 8)
    result = decoded(head + raw, reply, json_bytes=len(head))
    assert {n: c.tolist() for n, c in result.inputs.items()} == {"a": [1.5, 2.5], "b": [-3, 4]}
    assert result.outputs["y"].tolist() == [7, 8] and result.id == "größe"
    short = decode_oip_json(head + raw[:-1], b"", json_bytes=len(head))
    assert isinstance(short, Undecodable) and short.reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("request_body", "expected"),
    [
        (b"", Reason.BAD_JSON),
        (b"[]", Reason.BAD_JSON),
        (b"\xff\xfe\x00", Reason.BAD_JSON),
        (b"[" * 100_000, Reason.BAD_JSON),
        (b"{}", Reason.NO_INPUTS),
        (b'{"inputs": 3}', Reason.NO_INPUTS),
        (b'{"inputs": []}', Reason.NO_INPUTS),
        (b'{"inputs": [5]}', Reason.BAD_JSON),
        (body(tensor([1], [1], "FLOAT")), Reason.UNKNOWN_DTYPE),
        (body(tensor([1], [1], None)), Reason.UNKNOWN_DTYPE),
        (body(tensor([1], "1")), Reason.BAD_SHAPE),
        (body(tensor([1], [True])), Reason.BAD_SHAPE),
        (body(tensor([1], [2])), Reason.TRUNCATED),
        (body(tensor([1, 2], [1])), Reason.BAD_SHAPE),
        (body(tensor([[1, 2], 3], [1, 3])), Reason.BAD_SHAPE),
        (body(tensor([1, [2, 3]], [2])), Reason.BAD_VALUE),
        (body(tensor(["a"], [1])), Reason.BAD_VALUE),
        (body(tensor([10**400], [1])), Reason.BAD_VALUE),
        (body(tensor([128], [1], "INT8")), Reason.BAD_VALUE),
        (body(tensor([1.5], [1], "INT8")), Reason.BAD_VALUE),
        (body(tensor([True], [1], "INT8")), Reason.BAD_VALUE),
        (body(tensor([1], [1], "BOOL")), Reason.BAD_VALUE),
        (body({"name": "X", "datatype": "FP32", "shape": [1]}), Reason.TRUNCATED),
    ],
)
def test_what_cannot_be_read_has_a_reason(request_body, expected):
    result = decode_oip_json(request_body)
    assert isinstance(result, Undecodable) and result.reason is expected


def test_only_inference_paths_name_a_model():
    assert model_of_path("/v2/models/m/infer") == ("m", "")
    assert model_of_path("/v2/models/m/versions/3/infer?x=1") == ("m", "3")
    assert model_of_path("/v2/models/m/ready") is None
    assert model_of_path("/v1/models/m:predict") is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("X") | anything,
        "datatype": st.sampled_from(["FP32", "INT8", "BOOL", "BYTES", "FP16", "UINT64"]) | anything,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | anything,
        "data": st.lists(st.integers(-3, 300), max_size=9) | anything,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | anything}),
    },
)


@settings(max_examples=400)
@given(
    st.lists(entries | anything, max_size=3) | anything,
    st.lists(entries | anything, max_size=3),
    st.binary(max_size=30),
)
def test_any_json_with_any_bytes_behind_never_raises_and_never_gives_ragged_rows(inputs, outputs, raw):
    head = json.dumps({"inputs": inputs, "id": "a"}).encode()
    result = decode_oip_json(head + raw, json.dumps({"outputs": outputs}).encode() + raw, json_bytes=len(head))
    assert isinstance(result, Decoded | Undecodable)
    if isinstance(result, Decoded):
        assert {len(column) for column in (result.inputs | result.outputs).values()} == {result.rows}


@settings(max_examples=200)
@given(st.binary(max_size=60), st.binary(max_size=60), st.none() | st.integers(-5, 80))
def test_random_bytes_never_raise(first, second, json_bytes):
    assert isinstance(decode_oip_json(first, second, json_bytes=json_bytes), Decoded | Undecodable)
