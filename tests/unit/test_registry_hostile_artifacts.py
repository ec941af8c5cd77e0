"""Artifacts that somebody made to do harm, or by mistake: each is refused with its reason, and harms nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pilotfish_control_plane.artifacts.confinement import Limits
from pilotfish_control_plane.artifacts.model import ValidationReport
from pilotfish_control_plane.artifacts.sandbox import validate_directory
from tests.registry_models import bare_files, linear_model, signature, whole_files

Files = dict[str, bytes]


def check(directory: Path, files: Files, **options: Any) -> ValidationReport:
    for path, data in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return validate_directory(directory, options.pop("framework", "onnx"), **options)


def reasons(report: ValidationReport) -> set[str]:
    return {p.reason for p in report.errors}


def model(
    nodes: list[Any], *, inputs: Any = None, outputs: Any = None, initializers: Any = (), opset: int = 17
) -> bytes:
    one = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])
    out = helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, None])
    graph = helper.make_graph(nodes, "g", inputs or [one], outputs or [out], list(initializers))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("evil", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


def external(location: str) -> bytes:
    made = linear_model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return bytes(made.SerializeToString())


def hidden_external() -> bytes:
    """External data in a constant of a branch of an If: no top-level initializer shows it."""
    tensor = helper.make_tensor("T", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["B"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("B", TensorProto.FLOAT, [1])],
    )
    return model(
        [
            helper.make_node("Constant", [], ["C"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
            helper.make_node("If", ["C"], ["Y"], then_branch=branch, else_branch=branch),
        ]
    )


def sequence_of_maps() -> bytes:
    out = helper.make_value_info(
        "Y",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        ),
    )
    node = helper.make_node("ZipMap", ["X"], ["Y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    one = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])
    graph = helper.make_graph([node], "g", [one], [out])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def absurd_shape() -> bytes:
    made = linear_model()
    made.graph.initializer[0].dims[:] = [2**40, 2**40]
    return bytes(made.SerializeToString())


def giant_constant() -> bytes:
    """A few bytes that ask for 64 GiB as soon as they run."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**17, 2**17])
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    return model([helper.make_node("ConstantOfShape", ["shape"], ["Y"], value=value)], initializers=[shape])


def endless() -> bytes:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [None, None]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [None, None]),
        ],
    )
    rounds = helper.make_tensor("rounds", TensorProto.INT64, [], [2**62])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    return model([helper.make_node("Loop", ["rounds", "yes", "X"], ["Y"], body=body)], initializers=[rounds, yes])


def unknown_operator() -> bytes:
    return model([helper.make_node("Execute", ["X"], ["Y"], domain="evil")])


class _Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/pilotfish-was-here",)


ONLY_MODEL: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "NOT_ONNX"),
    "text": (lambda: b"this is no model", "NOT_ONNX"),
    "truncated": (lambda: bare_files()["model.onnx"][:-40], "NOT_ONNX"),
    "html": (lambda: b"<!doctype html><html>" * 50, "NOT_ONNX"),
    "zeros": (lambda: bytes(4096), "NOT_ONNX"),
    "no graph": (lambda: bytes(onnx.ModelProto(ir_version=8).SerializeToString()), "NOT_ONNX"),
    "external absolute": (lambda: external("/etc/passwd"), "EXTERNAL_DATA"),
    "external traversal": (lambda: external("../../../pilotfish.db"), "EXTERNAL_DATA"),
    "external beside it": (lambda: external("weights.bin"), "EXTERNAL_DATA"),
    "external in a branch": (hidden_external, "EXTERNAL_DATA"),
    "absurd shape": (absurd_shape, "BAD_SHAPE"),
    "unknown operator": (unknown_operator, "DOES_NOT_LOAD"),
    "future opset": (lambda: model([helper.make_node("Relu", ["X"], ["Y"])], opset=9999), "DOES_NOT_LOAD"),
    "map output": (sequence_of_maps, "UNSERVABLE_TENSOR"),
    "missing input": (lambda: model([helper.make_node("Add", ["X", "nothing"], ["Y"])]), "CHECKER"),
    "wrong weights": (
        lambda: model(
            [helper.make_node("MatMul", ["X", "W"], ["Y"])],
            initializers=[helper.make_tensor("W", TensorProto.FLOAT, [5, 1], [1.0] * 5)],
        ),
        "DOES_NOT_LOAD",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONLY_MODEL)
def test_a_bad_model_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    make, reason = ONLY_MODEL[name]
    report = check(tmp_path, {"model.onnx": make()})
    assert not report.ok and reason in reasons(report), report.errors


def test_an_honest_artifact_passes_with_every_check_told(tmp_path: Path) -> None:
    report = check(tmp_path, whole_files())
    assert report.ok, report.errors
    assert report.example_ok is True
    assert dict(report.signature) == signature()
    assert dict(report.dependencies) == {"onnxruntime": "1.20", "numpy": "2.0"}
    assert report.size_bytes == sum(len(data) for data in whole_files().values())
    told = "\n".join(report.checks)
    for word in ("ONNX checker", "loads in", "signature.json: compared", "example.json: reproduced", "profile"):
        assert word in told


@pytest.mark.parametrize(
    "name", ["model.pkl", "weights.joblib", "x.PICKLE", "model.pt", "hidden.json", "deep/er/model.sav", "noextension"]
)
def test_pickles_are_refused_by_name_and_by_content_and_never_loaded(tmp_path: Path, name: str) -> None:
    marker = Path("/tmp/pilotfish-was-here")
    marker.unlink(missing_ok=True)
    report = check(tmp_path, {**bare_files(), name: pickle.dumps(_Bomb())})
    assert [(p.path, p.reason) for p in report.errors] == [(name, "PICKLE")]
    assert not marker.exists()


def test_hashes_of_training_rows_may_look_like_anything_but_are_whole(tmp_path: Path) -> None:
    files = {**bare_files(), "training_rows.bin": b"\x80\x04" + bytes(14), "model_card.json": b"{}"}
    assert check(tmp_path, files).ok
    report = check(tmp_path, {"training_rows.bin": bytes(15), "model_card.json": b"[]"})
    assert {(p.path, p.reason) for p in report.errors} == {
        ("training_rows.bin", "BAD_HASHES"),
        ("model_card.json", "NOT_AN_OBJECT"),
    }


def test_the_signature_keeps_the_kinds_of_features_and_the_label(tmp_path: Path) -> None:
    said = {**signature(), "feature_kinds": {"age": "numeric", "debt": "categorical"}, "label": "left"}
    files = {**bare_files(), "signature.json": json.dumps(said).encode()}
    report = check(tmp_path, files)
    assert report.ok and dict(report.signature) == said
    for kinds in ({"age": "round"}, {"age": []}, [], "numeric"):
        report = check(tmp_path, {"signature.json": json.dumps({**said, "feature_kinds": kinds}).encode()})
        assert reasons(report) == {"BAD_SIGNATURE"}, kinds


def test_a_pickle_instead_of_the_model_is_refused(tmp_path: Path) -> None:
    report = check(tmp_path, {"model.onnx": pickle.dumps(_Bomb())})
    assert "PICKLE" in reasons(report)


def test_unknown_files_links_and_pipes_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "artifact"
    directory.mkdir()
    (directory / "link.json").symlink_to("/etc/passwd")
    (directory / "etc").symlink_to("/etc")
    os.mkfifo(directory / "profile.json")
    report = check(directory, {**bare_files(), "run.sh": b"#!/bin/sh\n"})
    found = {(p.path, p.reason) for p in report.errors}
    assert found >= {
        ("link.json", "NOT_A_FILE"), ("etc", "NOT_A_FILE"), ("profile.json", "NOT_A_FILE"), ("run.sh", "UNKNOWN_FILE"),
    }  # fmt: skip


def test_a_model_that_wants_too_much_memory_is_refused(tmp_path: Path) -> None:
    report = check(tmp_path, {"model.onnx": giant_constant()}, limits=Limits(memory_bytes=2 * 1024**3))
    assert reasons(report) == {"MEMORY_LIMIT"}, report


def test_a_model_that_never_ends_is_stopped(tmp_path: Path) -> None:
    files = {"model.onnx": endless(), "example.json": b'{"inputs":{"X":[[1,1,1,1]]}}'}
    started = time.monotonic()
    report = check(tmp_path, files, limits=Limits(wall_s=30, cpu_s=2))
    assert reasons(report) == {"CPU_LIMIT"} and time.monotonic() - started < 25
    assert "answering the example" in report.errors[0].description
    report = check(tmp_path, {}, limits=Limits(wall_s=2.5, cpu_s=60))
    assert reasons(report) == {"TIME_LIMIT"}


EXAMPLES: dict[str, tuple[Any, str]] = {
    "not json": (b"{", "NOT_JSON"),
    "nan": (b'{"inputs": {"X": [[NaN, 1, 1, 1]]}}', "NOT_JSON"),
    "deep": (b"[" * 100_000, "NOT_JSON"),
    "list": ([], "BAD_EXAMPLE"),
    "no inputs": ({"outputs": {}}, "BAD_EXAMPLE"),
    "unknown tensor": ({"inputs": {"Z": [[1, 1, 1, 1]]}}, "BAD_EXAMPLE"),
    "wrong width": ({"inputs": {"X": [[1, 1, 1]]}}, "BAD_EXAMPLE"),
    "ragged": ({"inputs": {"X": [[1, 1, 1, 1], [1]]}}, "BAD_EXAMPLE"),
    "text": ({"inputs": {"X": [["a", "b", "c", "d"]]}}, "BAD_EXAMPLE"),
    "lax tolerance": ({"inputs": {"X": [[1, 1, 1, 1]]}, "rtol": 10}, "BAD_EXAMPLE"),
    "wrong output shape": (
        {"inputs": {"X": [[1, 1, 1, 1]]}, "outputs": {"score": [[2.5], [2.5]]}}, "EXAMPLE_NOT_REPRODUCED",
    ),
    "wrong value": ({"inputs": {"X": [[1, 1, 1, 1]]}, "outputs": {"score": [[2.6]]}}, "EXAMPLE_NOT_REPRODUCED"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_bad_example_is_refused(tmp_path: Path, name: str) -> None:
    document, reason = EXAMPLES[name]
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    report = check(tmp_path, {**bare_files(), "example.json": raw})
    assert reasons(report) == {reason}, report.errors
    assert report.example_ok is False


def test_the_example_may_name_columns_or_protocol_tensors(tmp_path: Path) -> None:
    columns = {"inputs": {"age": [1], "income": [1], "debt": [1], "years": [1]}, "outputs": {"score": [[2.5]]}}
    tensor = {"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
    for number, example in enumerate((columns, {"inputs": [tensor]})):
        files = {**whole_files(), "example.json": json.dumps(example).encode()}
        report = check(tmp_path / str(number), files)
        assert report.ok and report.example_ok, report.errors


SIGNATURES: dict[str, tuple[Any, str]] = {
    "type": ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}]}, "SIGNATURE_MISMATCH"),
    "shape": ({"inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}]}, "SIGNATURE_MISMATCH"),
    "rank": ({"inputs": [{"name": "X", "datatype": "FP32", "shape": [4]}]}, "SIGNATURE_MISMATCH"),
    "name": ({"inputs": [{"name": "Z", "datatype": "FP32", "shape": [-1, 4]}]}, "SIGNATURE_MISMATCH"),
    "output": ({"outputs": [{"name": "Z", "datatype": "FP32", "shape": [-1, 1]}]}, "SIGNATURE_MISMATCH"),
    "names": ({"feature_names": ["a", "b"]}, "SIGNATURE_MISMATCH"),
    "twice": ({"feature_names": ["a", "a", "b", "c"]}, "BAD_SIGNATURE"),
    "form": ({"inputs": [{"name": "X", "datatype": "float", "shape": "any"}], "more": 1}, "BAD_SIGNATURE"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_that_the_model_does_not_have_is_refused_wherever_it_was_said(tmp_path: Path, name: str) -> None:
    document, reason = SIGNATURES[name]
    report = check(tmp_path, {**bare_files(), "signature.json": json.dumps(document).encode()})
    assert reasons(report) == {reason}, report.errors
    (tmp_path / "signature.json").unlink()
    report = check(tmp_path, {}, requested=document)
    assert reasons(report) == {reason}, report.errors


def test_signature_and_request_must_agree_with_each_other(tmp_path: Path) -> None:
    other = {**signature(), "feature_names": ["a", "b", "c", "d"]}
    report = check(tmp_path, whole_files(), requested=other)
    assert [p.description for p in report.errors] == ["feature_names differ between signature.json and the request"]


def test_another_framework_has_no_validator_and_says_which_there_are(tmp_path: Path) -> None:
    report = check(tmp_path, bare_files(), framework="sklearn")
    assert reasons(report) == {"NO_VALIDATOR"} and "onnx" in report.errors[0].description


SPY = """
import json, os, resource, socket, sys
from pathlib import Path
from pilotfish_control_plane.artifacts.confinement import Limits, confine

said = confine(Limits(cpu_s=7, memory_bytes=3 * 1024**3))
found = {"said": said, "limits": [resource.getrlimit(r) for r in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]}
try:
    Path(sys.argv[1], "written").write_text("x")
    found["wrote"] = True
except OSError as error:
    found["wrote"] = False
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), 2).close()
    found["connected"] = True
except OSError:
    found["connected"] = False
os.write(1, json.dumps(found).encode())
"""


def test_the_validating_process_can_neither_write_nor_reach_the_network(tmp_path: Path) -> None:
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", SPY, str(tmp_path), str(port)], capture_output=True, check=True, timeout=60
        )
    found = json.loads(done.stdout)
    assert found["wrote"] is False
    assert found["limits"] == [[7, 12], [3 * 1024**3, 3 * 1024**3]]
    cut_off = "confined: no network" in found["said"]
    assert cut_off is not found["connected"], "what is reported must be true"


def test_findings_before_a_crash_are_kept(tmp_path: Path) -> None:
    files = {"model.onnx": endless(), "notes.txt": b"x", "example.json": b'{"inputs":{"X":[[1,1,1,1]]}}'}
    (tmp_path / "ok").mkdir()
    report = check(tmp_path, files, limits=Limits(wall_s=30, cpu_s=2))
    # notes.txt is a problem, so the model is not even loaded; what is told is the problem.
    assert reasons(report) == {"UNKNOWN_FILE"}


def test_random_damage_to_a_model_never_passes_unnoticed_or_harms(tmp_path: Path) -> None:
    """Flipped bytes either still give the same interface, or are refused; the parent always gets a report."""
    rng = np.random.default_rng(11)
    whole = bare_files()["model.onnx"]
    for number in range(6):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 5):
            damaged[at] ^= int(rng.integers(1, 256))
        directory = tmp_path / str(number)
        report = check(directory, {"model.onnx": bytes(damaged)})
        assert report.ok == bool(not report.errors)
        if report.ok:
            assert onnx.load(io.BytesIO(bytes(damaged))) is not None and report.signature
