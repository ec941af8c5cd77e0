"""Artifacts for tests of the registry: a small honest model, and a client that uploads and registers it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper

from pilotfish.v1 import artifact_service_pb2 as artifact_pb
from pilotfish.v1 import artifact_service_pb2_grpc as artifact_grpc
from pilotfish.v1 import registry_pb2
from pilotfish.v1 import registry_service_pb2 as registry_service
from pilotfish.v1 import registry_service_pb2_grpc as registry_grpc

WEIGHTS = np.array([[1.0], [2.0], [-1.0], [0.5]], dtype=np.float32)


def linear_model(weights: np.ndarray[Any, Any] = WEIGHTS) -> onnx.ModelProto:
    """Return `score = X @ weights`, X of shape (-1, features)."""
    features = int(weights.shape[0])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("W", TensorProto.FLOAT, weights.shape, weights.astype(np.float32).tobytes(), raw=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bare_files(seed: int = 0) -> dict[str, bytes]:
    """Return an artifact of model.onnx alone; each seed gives other bytes."""
    return {"model.onnx": linear_model(WEIGHTS + np.float32(seed)).SerializeToString()}


def whole_files() -> dict[str, bytes]:
    """Return an artifact with everything that an artifact may have."""
    rows = [[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 4.0]]
    # By hand: 1 + 2 - 1 + 0.5 and 4 + 2.
    example = {"inputs": {"X": rows}, "outputs": {"score": [[2.5], [6.0]]}}
    return {
        **bare_files(),
        "signature.json": _json(signature()),
        "example.json": _json(example),
        "profile.json": profile_json().encode(),
        "feature_set.json": _json({"name": "applicants", "version": 2}),
        "requirements.json": _json({"onnxruntime": "1.20", "numpy": "2.0"}),
    }


def signature() -> dict[str, Any]:
    """Return the signature of `linear_model`."""
    return {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
        "feature_names": ["age", "income", "debt", "years"],
        "classes": [],
    }


@functools.cache
def profile_json() -> str:
    """Return the canonical JSON of a profile of four rows of one feature, written by hand."""
    feature = {
        "name": "age", "group": "input", "kind": "numeric", "dtype": "float64", "edges": [2.0], "atoms": [],
        "levels": [], "counts": [1, 3], "missing": 0, "rows": 4, "mean": 2.5, "sd": 1.118, "min": 1.0, "max": 4.0,
        "rare": [], "novel": 0,
    }  # fmt: skip
    document = {"version": 1, "rows": 4, "learned": False, "features": [feature]}
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def listing(files: Mapping[str, bytes]) -> list[registry_pb2.ArtifactFile]:
    """Return the files as they are announced."""
    return [
        registry_pb2.ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in files.items()
    ]


class Client:
    """What a client library does, on the bare stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.registry = registry_grpc.RegistryServiceStub(channel)
        self.artifacts = artifact_grpc.ArtifactServiceStub(channel)

    async def open_upload(self, files: Mapping[str, bytes], request_id: str = "") -> artifact_pb.Upload:
        request = artifact_pb.CreateUploadRequest(files=listing(files), request_id=request_id)
        return (await self.artifacts.CreateUpload(request)).upload

    async def send(
        self, upload: str, files: Mapping[str, bytes], *, chunk: int = 1024 * 1024
    ) -> artifact_pb.WriteChunksResponse:
        async def chunks() -> AsyncIterator[artifact_pb.WriteChunksRequest]:
            for path, data in files.items():
                for offset in range(0, max(len(data), 1), chunk):
                    piece = data[offset : offset + chunk]
                    yield artifact_pb.WriteChunksRequest(upload=upload, path=path, offset=offset, data=piece)

        return await self.artifacts.WriteChunks(chunks())

    async def upload(self, files: Mapping[str, bytes]) -> str:
        opened = await self.open_upload(files)
        await self.send(opened.id, files)
        return str(opened.id)

    async def register(
        self, model: str, files: Mapping[str, bytes] | None = None, **fields: Any
    ) -> registry_pb2.Version:
        upload = await self.upload(bare_files() if files is None else files)
        request = registry_service.RegisterVersionRequest(model=model, upload=upload, **fields)
        return (await self.registry.RegisterVersion(request)).version
