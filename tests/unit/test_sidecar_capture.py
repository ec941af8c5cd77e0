"""Captured calls become rows: named by the signature, typed, one record per form, and nothing raises."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pilotfish.errors import InvalidArgument
from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish_sidecar.capture import MAX_BATCH_ROWS, Captured, find_binding, read_calls, split_batch, split_sample
from pilotfish_sidecar.config import Binding, parse_signature
from pilotfish_sidecar.outcomes import LATENCY_BOUNDS_US, Call, OutcomeSpan, grpc_code, pack_calls, unpack_calls
from pilotfish_sidecar.rows import (
    INPUT,
    LIVE,
    OUTPUT,
    RowBatch,
    RowColumn,
    Who,
    from_message,
    hash_rows,
    join_batches,
    pack_column,
    read_batch,
    to_message,
)
from pilotfish_sidecar.tap import Protocol, Role, TapIdentity, TapRecord
from tests.sidecar_fleet import METHOD, SIGNATURE, call_bytes

WHO = Who("d1", "r1", "fraud", "fraud", 7)
BINDING = Binding(WHO, signature=parse_signature(json.dumps(SIGNATURE)))


def record(request: bytes, response: bytes = b"", **changes: Any) -> TapRecord:
    fields: dict[str, Any] = {
        "incarnation": b"i" * 16, "seq": 0, "protocol": Protocol.GRPC, "role": Role.LIVE,
        "identity": TapIdentity("d1", "r1", "7"), "code": 0, "start_us": 1_000_000, "latency_us": 900,
        "method": METHOD, "prediction_id": "tap-id", "headers": (), "request": request, "response": response,
    }  # fmt: skip
    return TapRecord(**(fields | changes))


def read(*records: TapRecord, **bindings: Binding) -> Captured:
    return read_calls(records, bindings or {"r1": BINDING})


def columns_of(batch: RowBatch, group: int) -> dict[str, list[Any]]:
    return {c.name: c.values.tolist() for c in batch.columns if c.group == group}


def test_a_call_becomes_rows_named_by_the_signature() -> None:
    captured = read(record(*call_bytes("p1", [[1, 2, 3], [4, 5, 6]])))
    (batch,) = captured.batches
    assert columns_of(batch, INPUT) == {"age": [1, 4], "income": [2, 5], "score": [3, 6]}
    assert columns_of(batch, OUTPUT) == {"prediction": [6, 15]}
    assert batch.who == WHO and list(batch.ids) == ["p1/0", "p1/1"]
    assert batch.times_us.tolist() == [1_000_000] * 2 and batch.latencies_us.tolist() == [900] * 2
    assert captured.calls == [Call(0, 0, 900, 1_000_000)] and captured.replicas == ["r1"]


def test_equal_calls_share_one_batch_and_failed_ones_have_their_own_without_outputs() -> None:
    calls = [record(*call_bytes(f"p{i}", [[i, 0, 0]])) for i in range(3)]
    failed = record(call_bytes("bad", [[9, 9, 9]])[0], b"", code=14)
    captured = read(calls[0], failed, *calls[1:])
    ok, wrong = captured.batches
    assert list(ok.ids) == ["p0", "p1", "p2"] and columns_of(ok, INPUT)["age"] == [0, 1, 2]
    assert list(wrong.ids) == ["bad"] and wrong.codes.tolist() == [14] and columns_of(wrong, OUTPUT) == {}
    assert [call.code for call in captured.calls] == [0, 14, 0, 0]


def test_a_call_without_an_id_of_its_own_gets_the_taps() -> None:
    (batch,) = read(record(*call_bytes("", [[1, 2, 3]]))).batches
    assert list(batch.ids) == ["tap-id"]


def test_hostile_bodies_are_counted_by_reason_and_their_calls_still_count() -> None:
    captured = read(record(b"\xff\xff"), record(b""), record(call_bytes("x", [[1, 2, 3]], name="other")[0]))
    assert captured.batches == []
    assert captured.undecodable == {"r1": {"bad_protobuf": 1, "no_inputs": 1, "unknown_tensor": 1}}
    assert len(captured.calls) == 3


def test_rest_calls_are_read_too_and_their_status_becomes_a_grpc_code() -> None:
    body = {"id": "h", "inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
    answer = {"outputs": [{"name": "prediction", "shape": [1, 1], "datatype": "FP32", "data": [6]}]}
    request, path = json.dumps(body).encode(), "/v2/models/fraud/infer"
    good = record(request, json.dumps(answer).encode(), protocol=Protocol.REST, code=200, method=path)
    bad = record(request, b"oops", protocol=Protocol.REST, code=503, method=path)
    captured = read(good, bad)
    assert [batch.codes.tolist() for batch in captured.batches] == [[0], [14]]
    assert columns_of(captured.batches[0], INPUT) == {"age": [1], "income": [2], "score": [3]}


def test_half_characters_from_json_do_not_stop_the_capture() -> None:
    body = (
        '{"id": "a\\ud800", "inputs": [{"name": "t\\udfff", "shape": [1], "datatype": "BYTES", "data": ["x\\ud83d"]}]}'
    )
    call = record(body.encode(), b"", protocol=Protocol.REST, code=200, method="/v2/models/fraud/infer")
    (batch,) = read(call, r1=Binding(WHO)).batches
    message = pb.PredictionBatch.FromString(to_message(batch).SerializeToString())
    assert message.prediction_ids == ["a?"] and message.columns[0].strings == ["x?"]


def test_names_and_ids_that_cannot_be_stored_are_made_storable() -> None:
    request = oip.ModelInferRequest(id="i" * 2000)
    for name in ("a" * 1000, "a" * 999 + "b", "nul\0\n"):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(1.0)
    (batch,) = read(record(request.SerializeToString()), r1=Binding(WHO)).batches
    names = [column.name for column in batch.columns]
    assert list(batch.ids) == [""] and len(set(names)) == 3
    assert all(1 <= len(name) <= 256 and name.isprintable() for name in names)


def test_impossible_times_are_clamped_so_that_they_can_be_written() -> None:
    request, response = call_bytes("p", [[1, 2, 3]])
    captured = read(record(request, response, start_us=-5), record(request, response, start_us=1 << 62))
    assert captured.batches[0].times_us.tolist() == [0, 253_402_300_000_000_000]
    span = OutcomeSpan()
    span.add(captured.calls)
    assert span.report(WHO).calls == 2


def test_large_calls_are_split_into_pieces_that_fit_a_message() -> None:
    (batch,) = [join_batches(list(read(record(*call_bytes("p", np.ones((2500, 3))))).batches))]
    pieces = list(split_batch(batch))
    assert [len(piece) for piece in pieces] == [MAX_BATCH_ROWS, MAX_BATCH_ROWS, 500]
    assert [i for piece in pieces for i in piece.ids] == list(batch.ids)
    wide = oip.ModelInferRequest(id="w")
    tensor = wide.inputs.add(name="t", datatype="BYTES", shape=[40])
    tensor.contents.bytes_contents.extend([b"x" * 50_000] * 40)
    sizes = [to_message(b).ByteSize() for b in read(record(wide.SerializeToString()), r1=Binding(WHO)).batches]
    assert len(sizes) > 1 and max(sizes) < 1 << 20


def test_a_row_larger_than_a_message_is_counted_not_stored() -> None:
    huge = oip.ModelInferRequest(id="w")
    tensor = huge.inputs.add(name="t", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"x" * 1_500_000)
    captured = read(record(huge.SerializeToString()), r1=Binding(WHO))
    assert captured.batches == [] and captured.undecodable == {"r1": {"row_too_large": 1}}


def test_the_replica_is_found_by_identity_then_deployment_then_model() -> None:
    first = Binding(Who("d1", "r1", "fraud", "fraud", 7))
    second = Binding(Who("d2", "r2", "churn", "churn", 1))
    both = {"r1": first, "r2": second}
    request, response = call_bytes("p", [[1, 2, 3]])
    assert find_binding(record(request, identity=TapIdentity("", "r2", "")), both) is second
    assert find_binding(record(request, identity=TapIdentity("d1", "x", "")), both) is first
    assert find_binding(record(request, identity=TapIdentity()), {"r2": second}) is second
    by_model = read(record(request, response, identity=TapIdentity()), **both)
    assert by_model.batches[0].who.replica == "r1"
    other = oip.ModelInferRequest.FromString(request)
    other.model_name = "nobody"
    unknown = read(record(other.SerializeToString(), identity=TapIdentity()), **both)
    assert unknown.undecodable == {"": {"unknown_replica": 1}} and unknown.calls == []


def test_shadow_calls_are_rows_with_their_role_and_no_outcome() -> None:
    captured = read(record(*call_bytes("p", [[1, 2, 3]]), role=Role.SHADOW))
    assert captured.batches[0].roles.tolist() == [pb.PREDICTION_ROLE_SHADOW] and captured.calls == []


def test_the_sample_is_the_share_asked_for_and_the_same_everywhere() -> None:
    columns = (pack_column("a", INPUT, np.ones(10_000)),)
    batch = RowBatch(
        WHO, [f"id{i}" for i in range(10_000)], np.ones(10_000, np.int64), np.ones(10_000, np.int64),
        np.full(10_000, LIVE, np.uint8), np.zeros(10_000, np.uint32), hash_rows(columns, 10_000), columns,
    )  # fmt: skip
    kept, rest = split_sample(batch, 3000)
    assert kept is not None and rest is not None
    assert 2800 <= len(kept) <= 3200 and len(kept) + len(rest) == 10_000
    assert set(kept.ids) == set(split_sample(batch.pick(slice(None, None, -1)), 3000)[0].ids)  # type: ignore[union-attr]  # kept above
    assert split_sample(batch, 10_000) == (batch, None) and split_sample(batch, 0) == (None, batch)


# Rows


def typed_batch(rows: int = 4) -> RowBatch:
    texts = np.array(["ä", None, "", "z"][:rows], dtype=object)
    columns = (
        pack_column("f16", INPUT, np.arange(rows, dtype=np.float16)),
        pack_column("f64", INPUT, np.array([0.1, np.nan, np.inf, -0.0][:rows])),
        pack_column("i8", INPUT, np.arange(rows, dtype=np.int8)),
        pack_column("u64", INPUT, np.full(rows, 2**63, dtype=np.uint64)),
        pack_column("bool", INPUT, np.arange(rows) % 2 == 0),
        RowColumn("masked", INPUT, "INT64", np.arange(rows, dtype="<i8"), np.arange(rows) == 1),
        pack_column("text", OUTPUT, texts),
    )
    return RowBatch(
        WHO, [f"p{i}" for i in range(rows)], np.arange(rows, dtype=np.int64), np.full(rows, -1, np.int64),
        np.arange(rows, dtype=np.uint8) % 3 + 1, np.arange(rows, dtype=np.uint32), hash_rows(columns, rows), columns,
        ["{}"] * rows,
    )  # fmt: skip


def same(a: RowBatch, b: RowBatch) -> bool:
    return to_message(a).SerializeToString(deterministic=True) == to_message(b).SerializeToString(deterministic=True)


def test_rows_survive_the_way_to_the_wire_and_back() -> None:
    batch = typed_batch()
    again = read_batch(to_message(batch).SerializeToString())
    assert same(batch, again)
    assert [c.datatype for c in again.columns] == ["FP32", "FP64", "INT64", "FP64", "BOOL", "INT64", "BYTES"]
    assert again.columns[-1].values.tolist() == ["ä", None, "", "z"]
    assert again.codes.tolist() == [0, 1, 2, 3] and again.roles.tolist() == [1, 2, 3, 1]


def test_pieces_joined_again_are_the_whole() -> None:
    batch = typed_batch()
    parts = [batch.pick(slice(0, 1)), batch.pick(slice(1, 3)), batch.pick(slice(3, None))]
    assert same(join_batches([read_batch(to_message(part).SerializeToString()) for part in parts]), batch)
    assert list(batch.pick(np.array([True, False, True, False])).ids) == ["p0", "p2"]


def test_windows_see_missing_cells_as_missing() -> None:
    cells = {column.name: column.for_windows() for column in typed_batch().columns}
    assert np.isnan(cells["masked"][1]) and cells["masked"].tolist()[2:] == [2, 3]
    assert cells["text"].tolist() == ["ä", None, "", "z"]


def test_equal_inputs_have_equal_hashes_whatever_their_type_order_or_outputs() -> None:
    values = np.array([1.5, -0.0, 3.0])
    a = [pack_column("x", INPUT, values), pack_column("y", INPUT, np.array(["a", "b", None], dtype=object))]
    b = [*reversed(a[1:]), pack_column("x", INPUT, values.astype(np.float32)), pack_column("o", OUTPUT, values)]
    c = [pack_column("y", INPUT, values), pack_column("x", INPUT, np.array(["a", "b", None], dtype=object))]
    assert hash_rows(a, 3).tolist() == hash_rows(b, 3).tolist()
    assert hash_rows(a, 3)[1] == hash_rows([pack_column("x", INPUT, np.zeros(3)), a[1]], 3)[1]
    assert not set(hash_rows(a, 3).tolist()) & set(hash_rows(c, 3).tolist())
    many = hash_rows([pack_column("x", INPUT, np.arange(100_000))], 100_000)
    assert len(set(many.tolist())) == 100_000


def test_a_batch_that_is_no_table_is_refused_with_everything_that_is_wrong() -> None:
    message = pb.PredictionBatch(prediction_ids=["a", "b"], times_us=[1], codes=[1, 2, 70_000], roles=[1, 9])  # type: ignore[list-item]  # no role on purpose
    message.columns.add(name="", group=INPUT, datatype="FP32", data=b"\0" * 7)
    message.columns.add(name="x", group=OUTPUT, datatype="COMPLEX")
    message.columns.add(name="x", group=OUTPUT, datatype="BOOL", data=b"\1\2", missing=b"\3\0")
    with pytest.raises(InvalidArgument) as caught:
        from_message(message)
    fields = {violation.field for violation in caught.value.violations}
    assert {"times_us", "codes", "roles", "columns[0]", "columns[1].datatype", "columns[2].data"} <= fields
    assert {"columns[2].missing", "columns"} <= fields


# Outcomes


def test_outcomes_count_calls_errors_and_latencies() -> None:
    span = OutcomeSpan()
    calls = [Call(0, 0, 100, 1_000), Call(0, 13, 1_000_000, 2_000), Call(0, 13, -1, 500), Call(0, 4, 10**9, 3_000)]
    span.add(calls)
    report = span.report(WHO)
    assert (report.calls, dict(report.errors)) == (4, {"INTERNAL": 2, "DEADLINE_EXCEEDED": 1})
    assert sum(report.latency_counts) == 3 and report.latency_counts[-1] == 1
    assert len(report.latency_counts) == len(report.latency_bounds_us) + 1
    assert report.latency_sum_us == 100 + 1_000_000 + 10**9
    assert report.start_time.ToMicroseconds() == 500 and report.end_time.ToMicroseconds() == 1_000_003_000
    assert unpack_calls(pack_calls(calls)) == calls


def test_a_span_survives_a_checkpoint() -> None:
    span = OutcomeSpan()
    span.add([Call(0, 13, 70, 5), Call(0, 0, 80, 6)])
    again = OutcomeSpan()
    again.restore(span.to_bytes())
    again.add([Call(0, 13, 90, 7)])
    span.add([Call(0, 13, 90, 7)])
    assert again.report(WHO) == span.report(WHO)


def test_percentiles_read_off_the_buckets_are_within_a_seventh_of_the_true_ones() -> None:
    latencies = np.random.default_rng(3).lognormal(8.5, 1.0, 20_000).astype(int)
    span = OutcomeSpan()
    span.add([Call(0, 0, int(latency), 1) for latency in latencies])
    report = span.report(WHO)
    for share in (0.5, 0.95, 0.99):
        bucket = int(np.searchsorted(np.cumsum(report.latency_counts), share * len(latencies)))
        true = float(np.quantile(latencies, share))
        upper = LATENCY_BOUNDS_US[bucket]
        assert true <= upper * 1.001 and upper / true < 1.3


@pytest.mark.parametrize(
    ("status", "http", "expected"),
    [(0, False, 0), (14, False, 14), (99, False, 2), (-1, False, 2), (200, True, 0), (204, True, 0), (400, True, 3),
     (404, True, 5), (429, True, 8), (500, True, 13), (503, True, 14), (418, True, 2), (0, True, 2)],
)  # fmt: skip
def test_every_status_becomes_a_grpc_code(status: int, http: bool, expected: int) -> None:
    assert grpc_code(status, http=http) == expected
