"""The gRPC face: inference.GRPCInferenceService and grpc.health.v1.Health.

Owns the conversion between messages and tensors, and status codes. Handlers take and give bytes, so that
the tap sees exactly what was on the wire. It never runs a model itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from pilotfish.errors import InvalidArgument, PilotfishError, Violation
from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish_model_server.assembly import Tensor
from pilotfish_model_server.prediction import Predictor, Stopwatch
from pilotfish_sidecar.decode.datatypes import (
    count_elements,
    find_datatype,
    pack_raw,
    pack_typed,
    unpack_raw,
    unpack_typed,
)
from pilotfish_sidecar.decode.reasons import TensorError
from pilotfish_sidecar.tap.headers import answer_headers, read_headers

__all__ = ["EXTENSIONS", "INFER_METHOD", "PLATFORM", "SERVER_NAME", "Health", "inference_handlers"]

log = logging.getLogger(__name__)

SERVICE: Final = "inference.GRPCInferenceService"
INFER_METHOD: Final = f"/{SERVICE}/ModelInfer"
SERVER_NAME: Final = "pilotfish-model-server"
PLATFORM: Final = "onnx_onnxv1"
EXTENSIONS: Final[tuple[str, ...]] = ()

Context = Any  # grpc.aio.ServicerContext: grpcio ships no types


def read_request(request: pb.ModelInferRequest) -> list[Tensor]:
    """Return the tensors of a request.

    Raises:
        InvalidArgument: datatypes, shapes and data disagree; all are named.
    """
    raws = request.raw_input_contents
    problems: list[Violation] = []
    if raws and len(raws) != len(request.inputs):
        text = f"{len(raws)} entries for {len(request.inputs)} tensors; give one per tensor, in their order"
        raise InvalidArgument("the request's data do not fit", violations=[Violation("raw_input_contents", text)])
    tensors = []
    for index, tensor in enumerate(request.inputs):
        try:
            kind = find_datatype(tensor.datatype)
            shape = tuple(tensor.shape)
            elements = count_elements(shape)
            if not raws:
                values = unpack_typed(tensor.contents, kind, elements)
            elif tensor.HasField("contents"):
                raise InvalidArgument("typed and raw contents are mixed")
            else:
                values = unpack_raw(raws[index], kind, elements)
        except (TensorError, InvalidArgument) as error:
            problems.append(Violation(f"inputs[{tensor.name[:80]}]", str(error)))
        else:
            tensors.append(Tensor(tensor.name, kind, shape, values))
    if problems:
        raise InvalidArgument("the request's tensors cannot be read", violations=problems)
    return tensors


def write_response(response: pb.ModelInferResponse, tensors: list[Tensor], raw: bool) -> None:
    """Put the outputs into a response, raw where the request was raw or the datatype has no typed form."""
    raw = raw or any(not tensor.datatype.field for tensor in tensors)
    for tensor in tensors:
        out = response.outputs.add(name=tensor.name, datatype=tensor.datatype.name, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(pack_raw(tensor.values, tensor.datatype))
        else:
            pack_typed(out.contents, tensor.values, tensor.datatype)


class _Inference:
    """The handlers of inference.GRPCInferenceService, bytes to bytes."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def model_infer(self, raw: bytes, context: Context) -> bytes:
        """Run inference; every call goes to the tap, failed ones too."""
        watch = Stopwatch()
        headers = read_headers(context.invocation_metadata() or ())
        code, answer, ident = grpc.StatusCode.INTERNAL, b"", ""
        predictor = self._predictor
        try:
            try:
                request = pb.ModelInferRequest.FromString(raw)
            except DecodeError as error:
                raise InvalidArgument(f"the request is not a ModelInferRequest: {error}") from error
            ident = predictor.prediction_id(request.id, headers)
            answer = await self._infer(request, ident)
            code = grpc.StatusCode.OK
            context.set_trailing_metadata(self._metadata(ident))
        except PilotfishError as error:
            ident = ident or predictor.prediction_id("", headers)
            code = grpc.StatusCode[error.code]
            context.set_trailing_metadata(self._metadata(ident))
            await context.abort(code, str(error))
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            log.exception("prediction %s failed", ident)
            await context.abort(code, f"the prediction failed; the server's log has it under {ident}")
        finally:
            if predictor.tap is not None:
                predictor.tap.record(
                    INFER_METHOD,
                    raw,
                    answer,
                    code.value[0],
                    watch.start_us,
                    watch.latency_us(),
                    ident,
                    headers.kept,
                    role=headers.role,
                )
        return answer

    async def _infer(self, request: pb.ModelInferRequest, ident: str) -> bytes:
        predictor = self._predictor
        predictor.check_address(request.model_name, request.model_version)
        tensors = read_request(request)
        outputs = await predictor.predict(tensors, [output.name for output in request.outputs])
        mine = predictor.address
        response = pb.ModelInferResponse(model_name=mine.model, model_version=mine.version, id=ident)
        write_response(response, outputs, raw=bool(request.raw_input_contents))
        return response.SerializeToString()

    def _metadata(self, ident: str) -> tuple[tuple[str, str], ...]:
        return answer_headers(ident, self._predictor.address.identity)

    async def server_live(self, raw: bytes, context: Context) -> bytes:
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, raw: bytes, context: Context) -> bytes:
        return pb.ServerReadyResponse(ready=self._predictor.ready).SerializeToString()

    async def model_ready(self, raw: bytes, context: Context) -> bytes:
        request = await self._parse(pb.ModelReadyRequest, raw, context)
        await self._check(request.name, request.version, context)
        return pb.ModelReadyResponse(ready=self._predictor.ready).SerializeToString()

    async def server_metadata(self, raw: bytes, context: Context) -> bytes:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=self._predictor.address.version, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_metadata(self, raw: bytes, context: Context) -> bytes:
        request = await self._parse(pb.ModelMetadataRequest, raw, context)
        await self._check(request.name, request.version, context)
        mine, signature = self._predictor.address, self._predictor.model.signature
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=mine.model,
            versions=[mine.version],
            platform=PLATFORM,
            inputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in signature.inputs],
            outputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in signature.outputs],
        ).SerializeToString()

    async def _parse(self, message: Any, raw: bytes, context: Context) -> Any:  # Any: one of several messages
        try:
            return message.FromString(raw)
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not a {message.DESCRIPTOR.name}: {error}")

    async def _check(self, name: str, version: str, context: Context) -> None:
        try:
            self._predictor.check_address(name, version)
        except PilotfishError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))


def inference_handlers(predictor: Predictor) -> Any:  # Any: grpc.GenericRpcHandler, grpcio ships no types
    """Return the generic handler of inference.GRPCInferenceService."""
    service = _Inference(predictor)
    methods = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ModelReady": service.model_ready,
        "ServerMetadata": service.server_metadata,
        "ModelMetadata": service.model_metadata,
        "ModelInfer": service.model_infer,
    }
    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


class Health:
    """grpc.health.v1.Health, by hand: its package would bind the environment to a newest protobuf.

    The two messages are one field each: the request's service (field 1, text), the response's status
    (field 1, enum).
    """

    SERVING: Final = 1
    NOT_SERVING: Final = 2
    SERVICE_UNKNOWN: Final = 3

    def __init__(self) -> None:
        """Start as SERVING."""
        self._status = self.SERVING
        self._changed = asyncio.Event()
        self._ended = False

    def stop_serving(self) -> None:
        """Answer NOT_SERVING from now on, tell watchers so and end their streams."""
        self._status, self._ended = self.NOT_SERVING, True
        self._changed.set()

    def _status_of(self, raw: bytes) -> int:
        service = raw[2:].decode("utf-8", "replace") if raw[:1] == b"\x0a" else ""
        return self._status if service in ("", SERVICE) else self.SERVICE_UNKNOWN

    async def check(self, raw: bytes, context: Context) -> bytes:
        """Answer the status now; NOT_FOUND for an unknown service."""
        status = self._status_of(raw)
        if status == self.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service; known are '' and {SERVICE!r}")
        return bytes((8, status))

    async def watch(self, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        """Stream the status now and when it changes."""
        yield bytes((8, self._status_of(raw)))
        if not self._ended:
            await self._changed.wait()
            yield bytes((8, self._status_of(raw)))

    def handlers(self) -> Any:  # Any: grpc.GenericRpcHandler, grpcio ships no types
        """Return the generic handler."""
        methods: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler(self.check),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)
