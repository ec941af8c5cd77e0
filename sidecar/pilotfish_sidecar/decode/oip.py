"""Decoding of gRPC calls of the Open Inference Protocol v2, from the bytes that were on the wire.

Owns the reading of ModelInferRequest and ModelInferResponse, and the pairing of a stream's messages. Hostile bytes give
an `Undecodable`, never an exception. It uses stubs in a descriptor pool of their own, so that it can live in any model
server's process.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish_sidecar.decode.columns import NO_SIGNATURE, Decoded, DecodeSignature, NamedTensor, arrange
from pilotfish_sidecar.decode.datatypes import count_elements, find_datatype, unpack_raw, unpack_typed
from pilotfish_sidecar.decode.reasons import Reason, TensorError, Undecodable

if TYPE_CHECKING:
    Tensors = Sequence[pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor]

__all__ = ["decode_oip", "decode_oip_stream"]

_parse_request = pb.ModelInferRequest.FromString
_parse_response = pb.ModelInferResponse.FromString


def decode_oip(
    request: bytes, response: bytes = b"", signature: DecodeSignature = NO_SIGNATURE
) -> Decoded | Undecodable:
    """Return one ModelInfer call as rows of columns, or why it has none.

    A matrix input [n, d] is split into the signature's feature names, else `name_0` …; an output matrix
    into `probability_<class>`, else `name_0` ….

    Args:
        request: a serialised ModelInferRequest.
        response: a serialised ModelInferResponse; empty for a call that failed.
        signature: what is known of the model.
    """
    try:
        asked, answered = _parse_request(request), _parse_response(response)
    except DecodeError as error:
        return Undecodable(Reason.BAD_PROTOBUF, str(error))
    return _decode(asked, answered, signature)


def decode_oip_stream(
    request: bytes, response: bytes = b"", signature: DecodeSignature = NO_SIGNATURE
) -> list[Decoded | Undecodable]:
    """Return the questions of a ModelStreamInfer call, each with its answer, or why one has no rows.

    A question without an answer is a call that failed. Servers with several answers a question (decoupled ones) are
    told by ids that differ: those pairs are `unpaired`, never rows of the wrong question.

    Args:
        request: messages, each behind gRPC's five-byte prefix.
        response: likewise; Triton's wrapped answers and MLServer's plain ones are told apart.
        signature: what is known of the model.
    """
    asked, answered = _messages(request), _messages(response)
    if asked is None or answered is None:
        return [Undecodable(Reason.TRUNCATED, "the messages do not fill the body")]
    found: list[Decoded | Undecodable] = []
    for question, answer in itertools.zip_longest(asked, answered):
        if question is None:
            found.append(Undecodable(Reason.UNPAIRED, "more answers than questions"))
        else:
            found.append(_decode_pair(question, answer or b"", signature))
    return found


def _decode_pair(question: bytes, answer: bytes, signature: DecodeSignature) -> Decoded | Undecodable:
    try:
        asked, answered = _parse_request(question), _unwrap(answer)
    except DecodeError as error:
        return Undecodable(Reason.BAD_PROTOBUF, str(error))
    if asked.id and answered.id and asked.id != answered.id:
        return Undecodable(Reason.UNPAIRED, f"the answer {answered.id[:80]!r} stands where {asked.id[:80]!r} was asked")
    return _decode(asked, answered, signature)


def _unwrap(answer: bytes) -> pb.ModelInferResponse:
    """Return the answer that is in one message of a stream; an empty one for an error.

    Raises:
        DecodeError: it is no answer of either kind.
    """
    try:
        plain = _parse_response(answer)
    except DecodeError:
        # Triton's: what would be the version's text is a message there.
        return pb.ModelStreamInferResponse.FromString(answer).infer_response
    if not answer or plain.outputs or plain.id or plain.raw_output_contents:
        return plain
    try:
        return pb.ModelStreamInferResponse.FromString(answer).infer_response
    except DecodeError:
        return plain


def _messages(body: bytes) -> list[bytes] | None:
    """Return the messages of a stream; None when they do not fill the body, or one is compressed."""
    found, position = [], 0
    while position < len(body):
        start = position + 5
        end = start + int.from_bytes(body[position + 1 : start], "big")
        if body[position] or start > len(body) or end > len(body):
            return None
        found.append(body[start:end])
        position = end
    return found


def _decode(
    asked: pb.ModelInferRequest, answered: pb.ModelInferResponse, signature: DecodeSignature
) -> Decoded | Undecodable:
    skipped: dict[str, Reason] = {}
    try:
        inputs = _tensors(asked.inputs, asked.raw_input_contents, None)
        outputs = _tensors(answered.outputs, answered.raw_output_contents, skipped)
        return arrange(
            inputs,
            outputs,
            signature,
            ident=asked.id or answered.id,
            model_name=asked.model_name,
            model_version=answered.model_version or asked.model_version,
            skipped=skipped,
        )
    except TensorError as error:
        return Undecodable(error.reason, str(error))


def _tensors(tensors: Tensors, raws: Sequence[bytes], skipped: dict[str, Reason] | None) -> list[NamedTensor]:
    """Return the readable tensors; a bad one is noted in `skipped`, or ends the call when that is None.

    Raises:
        TensorError: a tensor cannot be read and `skipped` is None.
    """
    found: list[NamedTensor] = []
    mixed = bool(raws) and len(raws) != len(tensors)
    for index, tensor in enumerate(tensors):
        try:
            if mixed:
                raise TensorError(Reason.TRUNCATED, f"{len(raws)} raw contents for {len(tensors)} tensors")
            shape = tuple(tensor.shape)
            kind, elements = find_datatype(tensor.datatype), count_elements(shape)
            if not raws:
                values = unpack_typed(tensor.contents, kind, elements)
            elif tensor.HasField("contents"):
                raise TensorError(Reason.WRONG_CONTENTS, f"{tensor.name[:80]!r} has typed contents beside raw ones")
            else:
                values = unpack_raw(raws[index], kind, elements)
        except TensorError as error:
            if skipped is None:
                raise
            skipped[tensor.name] = error.reason
        else:
            found.append((tensor.name, shape, values))
    return found
