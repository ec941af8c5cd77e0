"""The bundled model server as a process: a real scikit-learn model over gRPC and REST."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket

import grpc
import httpx
import numpy as np
import onnxruntime
import pytest

from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish.oip import grpc_predict_v2_pb2_grpc as oip
from pilotfish_sidecar.decode import Decoded, DecodeSignature, decode_oip, decode_oip_json
from pilotfish_sidecar.tap import Protocol, Role
from pilotfish_sidecar.tap.counters import Closed, read_books
from pilotfish_sidecar.tap.receiver import TapReceiver
from tests.digits_model import CLASSES, FEATURES, ServerProcess, digits, start_server, write_digits_model

IMAGES, LABELS = digits()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits")
    write_digits_model(directory)
    return directory


@pytest.fixture(scope="module")
def oracle(model_dir):
    """Return what onnxruntime itself answers for rows."""
    session = onnxruntime.InferenceSession(str(model_dir / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"X": rows})


@pytest.fixture(scope="module")
def server(model_dir, tmp_path_factory):
    running = ServerProcess(model_dir, tmp_path_factory.mktemp("run"), "--deployment", "d1", "--replica", "r1")
    yield running
    assert running.terminate() == 0


@pytest.fixture
async def stub(server):
    async with grpc.aio.insecure_channel(server.target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield oip.GRPCInferenceServiceStub(channel)


@pytest.fixture
async def http(server):
    async with httpx.AsyncClient(base_url=server.url) as client:
        yield client


def matrix_request(rows, *, raw=False, name="digits", version="", ident=""):
    request = pb.ModelInferRequest(model_name=name, model_version=version, id=ident)
    tensor = request.inputs.add(name="X", datatype="FP32", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.astype("<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    return request


def feature_request(rows, datatype="FP32", field="fp32_contents", shape=lambda n: [n]):
    request = pb.ModelInferRequest(model_name="digits")
    for index, name in enumerate(FEATURES):
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape(len(rows)))
        getattr(tensor.contents, field).extend(rows[:, index].astype(int if "int" in field else float).tolist())
    return request


def check(response, expected):
    label, probabilities = response.outputs
    if response.raw_output_contents:
        got = [np.frombuffer(raw, kind) for raw, kind in zip(response.raw_output_contents, ("<i8", "<f4"), strict=True)]
    else:
        got = [np.array(label.contents.int64_contents), np.array(probabilities.contents.fp32_contents, np.float32)]
    assert [label.name, label.datatype, list(label.shape)] == ["label", "INT64", [len(expected[0])]]
    assert [probabilities.name, probabilities.datatype] == ["probabilities", "FP32"]
    assert list(probabilities.shape) == list(expected[1].shape)
    assert np.array_equal(got[0], expected[0]) and np.array_equal(got[1], expected[1].ravel())


@pytest.mark.parametrize("rows", [1, 2, 300])
@pytest.mark.parametrize("raw", [False, True])
async def test_answers_are_those_of_onnxruntime_to_the_last_bit(stub, oracle, rows, raw):
    response = await stub.ModelInfer(matrix_request(IMAGES[:rows], raw=raw))
    assert bool(response.raw_output_contents) == raw
    check(response, oracle(IMAGES[:rows]))


async def test_answers_are_those_of_scikit_learn(stub, tmp_path):
    model = write_digits_model(tmp_path)
    rows = IMAGES[600:1600]
    response = await stub.ModelInfer(matrix_request(rows))
    got = np.array(response.outputs[1].contents.fp32_contents).reshape(-1, 10)
    assert np.abs(got - model.predict_proba(rows)).max() < 1e-5
    assert (np.array(response.outputs[0].contents.int64_contents) == model.predict(rows)).all()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"shape": lambda n: [n, 1]},
        {"datatype": "FP64", "field": "fp64_contents"},
        {"datatype": "INT64", "field": "int64_contents"},
        {"datatype": "UINT8", "field": "uint_contents"},
    ],
)
async def test_one_tensor_per_feature_is_the_same_as_the_matrix(stub, oracle, form):
    check(await stub.ModelInfer(feature_request(IMAGES[:5], **form)), oracle(IMAGES[:5]))


async def test_only_the_outputs_asked_for_are_answered(stub):
    request = matrix_request(IMAGES[:1])
    request.outputs.add(name="label")
    assert [output.name for output in (await stub.ModelInfer(request)).outputs] == ["label"]


async def test_the_answer_says_who_answered_and_under_which_id(stub):
    call = stub.ModelInfer(matrix_request(IMAGES[:1], ident="abc"), metadata=(("x-request-id", "h"),))
    response = await call
    assert (response.id, response.model_name, response.model_version) == ("abc", "digits", "3")
    headers = dict(await call.trailing_metadata())
    assert headers["pilotfish-prediction-id"] == "abc"
    assert (headers["pilotfish-deployment"], headers["pilotfish-version"]) == ("d1", "3")
    assert (await stub.ModelInfer(matrix_request(IMAGES[:1]), metadata=(("x-request-id", "h"),))).id == "h"
    made = {(await stub.ModelInfer(matrix_request(IMAGES[:1]))).id for _ in range(3)}
    assert len(made) == 3 and all(len(one) == 32 for one in made)


async def test_metadata_and_readiness(stub):
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="digits", version="3"))).ready
    about = await stub.ModelMetadata(pb.ModelMetadataRequest(name="digits"))
    assert (about.name, list(about.versions), about.platform) == ("digits", ["3"], "onnx_onnxv1")
    assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [("X", "FP32", [-1, 64])]
    assert [t.name for t in about.outputs] == ["label", "probabilities"]


def edited(**changes):
    request = matrix_request(IMAGES[:1])
    for key, value in changes.items():
        setattr(request.inputs[0], key, value)
    return request


def with_tensor(request, **more):
    request.inputs.add(**more)
    return request


def wrong_field():
    request = matrix_request(IMAGES[:1])
    request.inputs[0].contents.Clear()
    request.inputs[0].contents.fp64_contents.extend([0.0] * 64)
    return request


def without(request, index):
    del request.inputs[index]
    return request


def shaped(*shape):
    request = matrix_request(IMAGES[:1])
    request.inputs[0].shape[:] = shape
    return request


BAD = [
    (edited(name="Y"), ["inputs[Y]: unknown tensor; the model takes X", "inputs[X]: is missing"]),
    (edited(datatype="FLOAT"), ["inputs[X]: unknown datatype 'FLOAT'"]),
    (edited(datatype="FP64"), ["FP64 travels in fp64_contents, the tensor has fp32_contents"]),
    (wrong_field(), ["FP32 travels in fp32_contents, the tensor has fp64_contents"]),
    (shaped(1, 63), ["the shape holds 63 elements, the data 64"]),
    (shaped(2, 64), ["the shape holds 128 elements, the data 64"]),
    (shaped(2, 32), ["shape is [2, 32], the model takes [-1, 64]"]),
    (shaped(64), ["shape is [64], the model takes [-1, 64]"]),
    (shaped(0, 64), ["shape [0, 64] is not possible"]),
    (shaped(-1, 64), ["shape [-1, 64] is not possible"]),
    (pb.ModelInferRequest(model_name="digits"), ["the request has no tensors"]),
    (with_tensor(matrix_request(IMAGES[:1]), name="X", datatype="BOOL", shape=[1]), ["the shape holds 1 elements"]),
    (
        pb.ModelInferRequest(
            model_name="digits",
            inputs=[pb.ModelInferRequest.InferInputTensor(name="X", datatype="FP32", shape=[1, 64])],
            raw_input_contents=[b"\0" * 255],
        ),
        ["64 elements of FP32 are 256 bytes, the data 255"],
    ),
    (
        pb.ModelInferRequest(model_name="digits", raw_input_contents=[b"", b""]),
        ["raw_input_contents: 2 entries for 0 tensors"],
    ),
    (without(feature_request(IMAGES[:1]), 3), ["inputs[pixel_3]: is missing"]),
    (
        feature_request(IMAGES[:2], shape=lambda n: [1, 2]),
        ["inputs[pixel_0]: shape is [1, 2]; a feature is [1] or [1, 1]"],
    ),
]


@pytest.mark.parametrize(("request_message", "texts"), BAD)
async def test_a_call_that_does_not_fit_says_what_is_wrong_with_which_tensor(stub, request_message, texts):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.ModelInfer(request_message)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for text in texts:
        assert text in failed.value.details()
    assert len(dict(failed.value.trailing_metadata())["pilotfish-prediction-id"]) == 32


async def test_an_unknown_output_is_refused_by_name(stub):
    request = matrix_request(IMAGES[:1])
    request.outputs.add(name="logits")
    with pytest.raises(grpc.aio.AioRpcError, match=r"outputs\[logits\]: unknown output; the model gives label, probab"):
        await stub.ModelInfer(request)


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("digits", "4"), ("", "")])
async def test_another_model_or_version_is_not_found(stub, name, version):
    calls = [stub.ModelInfer(matrix_request(IMAGES[:1], name=name, version=version))]
    calls.append(stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)))
    calls.append(stub.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version)))
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError, match="here; this server") as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_bytes_that_are_no_request_are_refused(server):
    async with grpc.aio.insecure_channel(server.target) as channel:
        for method in ("ModelInfer", "ModelReady", "ModelMetadata"):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff\xff")
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def rest_body(rows, **more):
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}], **more}


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v2/models/digits/versions/3/infer"])
async def test_rest_answers_are_those_of_onnxruntime(http, oracle, path):
    answer = await http.post(path, json=rest_body(IMAGES[:7], id="abc"))
    assert answer.status_code == 200, answer.text
    document = answer.json()
    label, probabilities = document["outputs"]
    expected = oracle(IMAGES[:7])
    assert (document["id"], document["model_name"], document["model_version"]) == ("abc", "digits", "3")
    assert label == {"name": "label", "datatype": "INT64", "shape": [7], "data": expected[0].tolist()}
    assert probabilities["shape"] == [7, 10]
    assert np.array_equal(np.array(probabilities["data"], np.float32), expected[1].ravel())
    assert answer.headers["pilotfish-prediction-id"] == "abc"
    assert (answer.headers["pilotfish-deployment"], answer.headers["pilotfish-version"]) == ("d1", "3")


async def test_rest_takes_one_tensor_per_feature_too(http, oracle):
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [2], "data": IMAGES[:2, index].astype(int).tolist()}
        for index, name in enumerate(FEATURES)
    ]
    document = (await http.post("/v2/models/digits/infer", json={"inputs": inputs})).json()
    assert document["outputs"][0]["data"] == oracle(IMAGES[:2])[0].tolist()


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "text"),
    [
        ("POST", "/v2/models/digits/infer", b"{", 400, "not JSON"),
        ("POST", "/v2/models/digits/infer", b"[]", 400, "not a JSON object"),
        ("POST", "/v2/models/digits/infer", b"{}", 400, "no list `inputs`"),
        ("POST", "/v2/models/digits/infer", b'{"inputs": [{}]}', 400, "an object with a name"),
        ("POST", "/v2/models/digits/infer", b"[" * 100_000, 400, "not JSON"),
        ("POST", "/v2/models/other/infer", b"{}", 404, "no model 'other' here"),
        ("POST", "/v2/models/digits/versions/9/infer", b"{}", 404, "no version '9'"),
        ("GET", "/v2/models/digits/infer", b"", 405, "takes POST"),
        ("POST", "/v2/models/digits", b"", 405, "takes GET"),
        ("GET", "/v2/models/other", b"", 404, "no model 'other' here"),
        ("GET", "/nothing", b"", 404, "no such path"),
    ],
)
async def test_rest_errors_are_precise(http, method, path, content, status, text):
    answer = await http.request(method, path, content=content)
    assert answer.status_code == status and text in answer.json()["error"]


async def test_a_rest_body_without_end_is_refused(http):
    async def endless():
        for _ in range(66):
            yield b" " * (1 << 20)

    answer = await http.post("/v2/models/digits/infer", content=endless())
    assert answer.status_code == 413


async def test_rest_health_and_metadata(http):
    paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/v2/models/digits/versions/3/ready")
    assert [(await http.get(path)).status_code for path in paths] == [200] * 4
    assert (await http.get("/v2")).json()["name"] == "pilotfish-model-server"
    about = (await http.get("/v2/models/digits")).json()
    assert about["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 64]}]


async def health(channel, service=b""):
    raw = b"\x0a" + bytes([len(service)]) + service if service else b""
    return await channel.unary_unary("/grpc.health.v1.Health/Check")(raw)


async def test_health_speaks_the_standard_protocol(server):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            status = (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(health_pb2.HealthCheckRequest(service="nope"))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


class Agent:
    """A receiver that keeps everything."""

    def __init__(self, path):
        self.records = []
        self.receiver = TapReceiver(path, self.store)

    async def store(self, records):
        self.records += records


async def test_every_call_is_tapped_with_its_bytes_and_decodes_to_its_rows(model_dir, tmp_path):
    agent = Agent(tmp_path / "tap.sock")
    await agent.receiver.start()
    flags = ("--tap-socket", str(tmp_path / "tap.sock"), "--tap-counters", str(tmp_path / "counters"))
    server = ServerProcess(model_dir, tmp_path / "run", "--deployment", "d1", "--replica", "r1", *flags)
    async with grpc.aio.insecure_channel(server.target) as channel, httpx.AsyncClient(base_url=server.url) as client:
        stub = oip.GRPCInferenceServiceStub(channel)
        sent = matrix_request(IMAGES[:2], ident="a")
        answered = await stub.ModelInfer(sent, metadata=(("pilotfish-role", "shadow"),))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ModelInfer(shaped(1, 3))
        rest = await client.post("/v2/models/digits/infer", json=rest_body(IMAGES[:1]))
        refused = await client.post("/v2/models/digits/infer", content=b"no")
    assert server.terminate() == 0
    books = read_books(tmp_path / "counters")
    assert (books.served, books.captured, books.in_flight, books.closed) == (4, 4, 0, Closed.BY_TAP)
    first, second, third, fourth = agent.records
    assert (first.request, first.response) == (sent.SerializeToString(), answered.SerializeToString())
    assert (first.role, first.prediction_id, first.code) == (Role.SHADOW, "a", 0)
    assert (first.identity.deployment, first.identity.replica, first.identity.version) == ("d1", "r1", "3")
    assert (second.code, second.response, second.role) == (3, b"", Role.LIVE)
    assert (third.protocol, third.code, third.response) == (Protocol.REST, 200, rest.content)
    assert (fourth.code, fourth.response) == (400, refused.content)
    signature = DecodeSignature(("X",), tuple(FEATURES), tuple(CLASSES))
    rows = decode_oip(first.request, first.response, signature)
    assert isinstance(rows, Decoded) and rows.row_ids() == ["a/0", "a/1"]
    assert np.array_equal(np.column_stack([rows.inputs[name] for name in FEATURES]), IMAGES[:2])
    assert rows.outputs["label"].tolist() == list(answered.outputs[0].contents.int64_contents)
    assert set(rows.outputs) == {"label", *(f"probability_{digit}" for digit in range(10))}
    over_rest = decode_oip_json(third.request, third.response, signature, path=third.method)
    assert isinstance(over_rest, Decoded)
    assert over_rest.inputs["pixel_20"][0] == IMAGES[0, 20] and over_rest.id == third.prediction_id
    await agent.receiver.close()


async def test_sigterm_finishes_what_is_running_and_refuses_what_is_new(model_dir, tmp_path):
    server = ServerProcess(model_dir, tmp_path / "run")
    large = matrix_request(np.tile(IMAGES, (100, 1)), raw=True)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        stub = oip.GRPCInferenceServiceStub(channel)
        watcher = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watcher.read() == b"\x08\x01"
        calls = [asyncio.ensure_future(stub.ModelInfer(large)) for _ in range(8)]
        _, running = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert running, "the server answers one after the other: all eight have begun, not all have ended"
        server.process.terminate()
        assert await watcher.read() == b"\x08\x02"
        assert not (tmp_path / "run" / "ready.json").exists()
        for answer in await asyncio.gather(*running):
            assert answer.outputs[0].shape[0] == 100 * len(IMAGES)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ModelInfer(matrix_request(IMAGES[:1]))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(server.process.wait, 10) == 0


def manifest_of(directory, path, **changes):
    entries = []
    for name in ("model.onnx", "signature.json"):
        data = (directory / name).read_bytes()
        entries.append({"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    path.write_text(json.dumps(changes.get("replace", entries)))
    return entries


def test_files_that_fit_the_manifest_are_served(model_dir, tmp_path):
    manifest_of(model_dir, tmp_path / "manifest.json")
    server = ServerProcess(model_dir, tmp_path / "run", "--manifest", str(tmp_path / "manifest.json"))
    assert server.ready["sha256"]["model.onnx"] == hashlib.sha256((model_dir / "model.onnx").read_bytes()).hexdigest()
    assert server.terminate() == 0


def refusal(model_dir, run_dir, *flags):
    run_dir.mkdir(exist_ok=True)
    process = start_server(model_dir, run_dir, *flags)
    status = process.wait(30)
    assert not (run_dir / "ready.json").exists()
    return status, (run_dir / "server.log").read_text()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e: e[0].update(sha256="0" * 64), "model.onnx: its SHA-256 is not the manifest's"),
        (lambda e: e[0].update(size=1), "bytes, the manifest says 1"),
        (lambda e: e.pop(1), "signature.json: not in the manifest"),
        (lambda e: e.append({"path": "extra", "size": 1, "sha256": ""}), "extra: No such file"),
        (lambda e: e.append({"path": "../x", "size": 1, "sha256": ""}), "leaves the model's directory"),
        (lambda e: e.append(5), "is not a list of path, size and sha256"),
    ],
)
def test_files_that_are_not_those_of_the_manifest_are_never_loaded(model_dir, tmp_path, change, text):
    entries = manifest_of(model_dir, tmp_path / "m.json")
    change(entries)
    (tmp_path / "m.json").write_text(json.dumps(entries))
    status, log = refusal(model_dir, tmp_path / "run", "--manifest", str(tmp_path / "m.json"))
    assert status == 3 and text in log


def test_a_signature_that_is_not_the_graph_s_is_refused_with_every_difference(model_dir, tmp_path):
    write_digits_model(tmp_path)
    document = json.loads((tmp_path / "signature.json").read_text())
    document["inputs"][0]["name"] = "pixels"
    document["outputs"][1]["datatype"] = "FP64"
    (tmp_path / "signature.json").write_text(json.dumps(document))
    status, log = refusal(tmp_path, tmp_path / "run")
    assert status == 1
    for text in ("the graph has no 'pixels'", "the graph's input 'X' is missing", "'probabilities' is FP64"):
        assert text in log


def test_a_graph_that_does_not_load_a_missing_file_and_a_taken_port_are_refused_with_the_reason(model_dir, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"junk")
    assert refusal(tmp_path, tmp_path / "a")[0] == 1
    status, log = refusal(tmp_path / "a", tmp_path / "b")
    assert status == 1 and "model.onnx" in log
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag in ("--grpc-port", "--http-port"):
            status, log = refusal(model_dir, tmp_path / "c", flag, port)
            assert status == 1 and f"cannot listen on 127.0.0.1:{port}" in log


def test_an_address_that_others_can_reach_is_refused(model_dir, tmp_path):
    status, log = refusal(model_dir, tmp_path / "run", "--grpc-host", "0.0.0.0")
    assert status == 1 and "--trusted-network" in log


async def test_a_model_without_signature_and_with_zipmap_answers_the_same_matrix(tmp_path):
    model = write_digits_model(tmp_path, signature=False, zipmap=True)
    server = ServerProcess(tmp_path, tmp_path / "run")
    async with grpc.aio.insecure_channel(server.target) as channel:
        response = await oip.GRPCInferenceServiceStub(channel).ModelInfer(matrix_request(IMAGES[:5]))
    assert list(response.outputs[1].shape) == [5, 10]
    got = np.array(response.outputs[1].contents.fp32_contents).reshape(5, 10)
    assert np.abs(got - model.predict_proba(IMAGES[:5])).max() < 1e-5
    assert server.terminate() == 0
