"""Calls of attached servers find their replica by model and path, and streams become one row a question."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.tfserving import predict_pb2 as tf
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish_sidecar.calls import find_binding
from pilotfish_sidecar.capture import Captured, read_calls
from pilotfish_sidecar.config import Binding, parse_config
from pilotfish_sidecar.decode import Decoded, Reason, Undecodable, decode_oip_stream, model_of_call
from pilotfish_sidecar.rows import INPUT, OUTPUT, RowBatch
from pilotfish_sidecar.tap.records import DropReason, Flag, Protocol, Role, TapIdentity, TapRecord

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def binding(replica: str, **fields: Any) -> fleet.ReplicaBinding:
    return fleet.ReplicaBinding(replica=replica, deployment="d", endpoint=f"e-{replica}", version=1, **fields)


def bound(*messages: fleet.ReplicaBinding) -> dict[str, Binding]:
    return {each.who.replica: each for each in parse_config(fleet.SidecarConfig(bindings=messages))}


def record(method: str, request: bytes = b"", response: bytes = b"", **changes: Any) -> TapRecord:
    rest = method.startswith(("/v1/", "/v2/", "/score"))
    fields: dict[str, Any] = {
        "incarnation": b"i" * 16, "seq": 0, "protocol": Protocol.REST if rest else Protocol.GRPC, "role": Role.LIVE,
        "identity": TapIdentity(), "code": 200 if rest else 0, "start_us": 1_000_000, "latency_us": 900,
        "method": method, "prediction_id": "", "headers": (), "request": request, "response": response,
    }  # fmt: skip
    return TapRecord(**(fields | changes))


def question(ident: str, value: float, model: str = "fraud", version: str = "") -> bytes:
    made = oip.ModelInferRequest(model_name=model, model_version=version, id=ident)
    made.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(value)
    return made.SerializeToString()


def answer(ident: str, value: float, version: str = "7") -> oip.ModelInferResponse:
    made = oip.ModelInferResponse(model_name="fraud", model_version=version, id=ident)
    made.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(value)
    return made


def wrapped(made: oip.ModelInferResponse) -> bytes:
    return oip.ModelStreamInferResponse(infer_response=made).SerializeToString()


def messages(*each: bytes) -> bytes:
    return b"".join(b"\0" + len(one).to_bytes(4, "big") + one for one in each)


def columns(batch: RowBatch, group: int) -> dict[str, list[Any]]:
    return {each.name: each.values.tolist() for each in batch.columns if each.group == group}


def stream(asked: bytes, answered: bytes, **changes: Any) -> Captured:
    call = record(STREAM, asked, answered, flags=Flag.STREAMING, **changes)
    return read_calls([call], bound(binding("r1")))


@pytest.mark.parametrize("kind", ["mlserver", "triton"])
def test_the_nth_answer_of_a_stream_belongs_to_the_nth_question(kind: str) -> None:
    pack = wrapped if kind == "triton" else oip.ModelInferResponse.SerializeToString
    asked = messages(*(question(f"p{i}", i) for i in range(3)))
    captured = stream(asked, messages(*(pack(answer(f"p{i}", 10 + i)) for i in range(3))))
    (batch,) = captured.batches
    assert list(batch.ids) == ["p0", "p1", "p2"] and columns(batch, INPUT) == {"x": [0, 1, 2]}
    assert columns(batch, OUTPUT) == {"y": [10, 11, 12]}
    assert len(captured.calls) == 1 and captured.undecodable == {}


def test_answers_without_anything_but_names_are_still_told_apart() -> None:
    bare = oip.ModelInferResponse(model_name="fraud", model_version="7").SerializeToString()
    (one,) = decode_oip_stream(messages(question("p", 1)), messages(bare))
    assert isinstance(one, Decoded) and one.outputs == {}


def test_a_question_whose_answer_is_an_error_or_missing_has_inputs_only() -> None:
    failed = oip.ModelStreamInferResponse(error_message="no such model").SerializeToString()
    (batch,) = stream(messages(question("a", 1), question("b", 2)), messages(failed)).batches
    assert list(batch.ids) == ["a", "b"] and columns(batch, OUTPUT) == {}


def test_answers_that_stand_at_the_wrong_question_make_no_rows() -> None:
    asked = messages(question("a", 1), question("b", 2))
    captured = stream(asked, messages(wrapped(answer("a", 1)), wrapped(answer("a", 2)), wrapped(answer("b", 3))))
    assert [list(batch.ids) for batch in captured.batches] == [["a"]]
    assert captured.undecodable == {"r1": {"unpaired": 1}} and len(captured.calls) == 1


def test_rows_of_a_stream_without_ids_never_share_one() -> None:
    body = messages(question("", 1), question("", 2))
    calls = [
        record(STREAM, body, b"", prediction_id="call", seq=4, flags=Flag.STREAMING | Flag.CONTINUES),
        record(STREAM, body, b"", prediction_id="call", seq=5, flags=Flag.STREAMING),
    ]
    captured = read_calls(calls, bound(binding("r1")))
    (batch,) = captured.batches
    assert list(batch.ids) == ["call/4.0", "call/4.1", "call/5.0", "call/5.1"]
    assert len(captured.calls) == 1


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\0\5ab", b"\1\0\0\0\0", b"\0\xff\xff\xff\xff"])
def test_a_stream_that_is_cut_says_so(body: bytes) -> None:
    (one,) = decode_oip_stream(body, b"")
    assert isinstance(one, Undecodable) and one.reason is Reason.TRUNCATED


@given(
    st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=3), st.lists(st.binary(max_size=40), max_size=3)
)
def test_hostile_streams_never_raise(junk: bytes, asked: list[bytes], answered: list[bytes]) -> None:
    for request, response in ((junk, junk), (messages(*asked), messages(*answered))):
        for one in decode_oip_stream(request, response):
            assert isinstance(one, Decoded | Undecodable)


def test_the_model_that_a_call_asks_for_is_read_from_its_first_bytes() -> None:
    asked = question("p", 1, "fraud", "3")
    assert model_of_call(INFER, asked) == ("fraud", "3")
    assert model_of_call(STREAM, messages(asked, asked)) == ("fraud", "3")
    predict = tf.PredictRequest(model_spec=tf.ModelSpec(name="n" * 300)).SerializeToString()
    assert model_of_call(PREDICT, predict) == ("n" * 300, "")
    assert model_of_call("/v2/models/fraud/versions/3/infer?x=1", b"") == ("fraud", "3")
    assert model_of_call("/v1/models/fraud/labels/stable:predict", b"") == ("fraud", "stable")
    assert model_of_call("/score", b"") == ("", "")


@given(st.sampled_from([INFER, STREAM, PREDICT]), st.binary(max_size=60))
def test_a_model_is_looked_for_in_any_bytes_without_raising(method: str, body: bytes) -> None:
    assert all(isinstance(each, str) for each in model_of_call(method, body))
    assert all(isinstance(each, str) for each in model_of_call(method, b"\x0a" + body))


def test_several_models_of_one_server_are_told_by_the_names_that_the_server_uses() -> None:
    both = bound(binding("r1", server_model="fraud"), binding("r2", server_model="churn"))
    assert find_binding(record(INFER, question("p", 1, "churn")), both) is both["r2"]
    assert find_binding(record("/v1/models/fraud:predict"), both) is both["r1"]
    assert find_binding(record(INFER, question("p", 1, "other")), both) is None
    captured = read_calls([record(INFER, question("p", 1, "other"))], both)
    assert captured.batches == [] and captured.undecodable == {"": {"unknown_replica": 1}} and captured.calls == []


def test_a_model_that_nobody_bound_is_not_filed_under_the_only_replica() -> None:
    one = bound(binding("r1", server_model="fraud"))
    assert find_binding(record(INFER, question("p", 1, "fraud")), one) is one["r1"]
    assert find_binding(record(INFER, question("p", 1, "other")), one) is None
    # A call whose bodies were let go tells no model: the only replica has it.
    assert find_binding(record(INFER, drop=DropReason.STRIPPED), one) is one["r1"]


def test_versions_of_one_model_are_told_by_the_call_or_else_by_its_answer() -> None:
    both = bound(
        binding("r1", server_model="fraud", server_version="1"), binding("r2", server_model="fraud", server_version="2")
    )
    assert find_binding(record(INFER, question("p", 1, "fraud", "2")), both) is both["r2"]
    calls = [
        record(INFER, question("p", 1), answer("p", 1, version=each).SerializeToString()) for each in ("2", "1", "3")
    ]
    captured = read_calls(calls, both)
    assert [batch.who.replica for batch in captured.batches] == ["r2", "r1"]
    assert captured.undecodable == {"": {"unknown_replica": 1}}


def test_json_calls_are_read_as_their_codec_says() -> None:
    pointers = fleet.JsonCodec(path="/score/*", inputs="/rows", outputs="/scores", id="/id")
    codec = fleet.Codec(kind="json", json=pointers)
    both = bound(binding("r1", server_model="fraud"), binding("r2", codec=codec))
    body = json.dumps({"id": "p1", "rows": [{"a": 1, "b": None}]}).encode()
    captured = read_calls([record("/score/eu?x=1", body, b'{"scores": [0.5]}')], both)
    (batch,) = captured.batches
    assert batch.who.replica == "r2" and list(batch.ids) == ["p1"] and columns(batch, OUTPUT) == {"prediction": [0.5]}


def test_texts_that_are_missing_in_some_rows_are_stored() -> None:
    codec = fleet.Codec(kind="json", json=fleet.JsonCodec(path="/score"))
    body = json.dumps([{"a": "x"}, {"a": None}, {}]).encode()
    (batch,) = read_calls([record("/score", body, b"[1, 2, 3]")], bound(binding("r1", codec=codec))).batches
    assert len(batch) == 3


def test_tensorflow_calls_become_rows_by_either_protocol() -> None:
    asked = tf.PredictRequest(model_spec=tf.ModelSpec(name="fraud"))
    tensor = asked.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=1)
    tensor.float_val.append(2)
    one = bound(binding("r1", server_model="fraud", codec=fleet.Codec(kind="tfserving")))
    rest = record("/v1/models/fraud:predict", b'{"instances": [[2]]}', b'{"predictions": [[5]]}')
    captured = read_calls([record(PREDICT, asked.SerializeToString()), rest], one)
    assert [columns(batch, INPUT) for batch in captured.batches] == [{"x": [2]}, {"input": [2]}]
    assert len(captured.calls) == 2 and captured.undecodable == {}


@pytest.mark.parametrize(
    ("codec", "field"),
    [
        (fleet.Codec(kind="grpc-web"), "codec.kind"),
        (fleet.Codec(kind="json"), "codec.json.path"),
        (fleet.Codec(kind="json", json=fleet.JsonCodec(path="score")), "codec.json.path"),
        (fleet.Codec(kind="json", json=fleet.JsonCodec(path="/s", inputs="rows")), "codec.json.inputs"),
        (fleet.Codec(kind="json", json=fleet.JsonCodec(path="/s", id="/~")), "codec.json.id"),
    ],
)
def test_a_codec_that_cannot_work_is_refused(codec: fleet.Codec, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bound(binding("r1", codec=codec))
    assert [each.field for each in caught.value.violations] == [f"bindings[0].{field}"]
