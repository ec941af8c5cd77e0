"""Decoding of TensorFlow Serving's Predict, gRPC and REST.

Owns the reading of PredictRequest and PredictResponse, of TensorProto, and of the REST forms with rows (`instances`)
and with columns (`inputs`). Hostile bytes give an `Undecodable`, never an exception. The stubs are in a descriptor
pool of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from pilotfish.tfserving import predict_pb2 as pb
from pilotfish_sidecar.decode.columns import NO_SIGNATURE, Decoded, DecodeSignature, NamedTensor, arrange
from pilotfish_sidecar.decode.datatypes import Array, count_elements
from pilotfish_sidecar.decode.json_calls import load_json
from pilotfish_sidecar.decode.json_rows import read_columns, read_rows
from pilotfish_sidecar.decode.reasons import Reason, TensorError, Undecodable

__all__ = ["decode_tf", "decode_tf_json", "tf_model_of_path"]

_PATH: Final = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?:predict"
)
_STRING, _HALF, _BFLOAT16 = 7, 19, 14
# tensorflow.DataType -> numpy's type, and the field of its values.
_KINDS: Final[Mapping[int, tuple[np.dtype[Any], str]]] = {
    number: (np.dtype(dtype), field)
    for number, dtype, field in (
        (1, "<f4", "float_val"),
        (2, "<f8", "double_val"),
        (3, "<i4", "int_val"),
        (4, "u1", "int_val"),
        (5, "<i2", "int_val"),
        (6, "i1", "int_val"),
        (_STRING, "O", "string_val"),
        (9, "<i8", "int64_val"),
        (10, "?", "bool_val"),
        (_BFLOAT16, "<u2", "half_val"),
        (17, "<u2", "int_val"),
        (_HALF, "<f2", "half_val"),
        (22, "<u4", "uint32_val"),
        (23, "<u8", "uint64_val"),
    )
}
_MAX_REPEATED: Final = 1 << 16
"""Elements of a tensor that is written with fewer values than it has; a few bytes must not become gigabytes."""


def decode_tf(
    request: bytes, response: bytes = b"", signature: DecodeSignature = NO_SIGNATURE
) -> Decoded | Undecodable:
    """Return one gRPC Predict call as rows of columns, or why it has none.

    Args:
        request: a serialised PredictRequest.
        response: a serialised PredictResponse; empty for a call that failed.
        signature: what is known of the model.
    """
    try:
        asked, answered = pb.PredictRequest.FromString(request), pb.PredictResponse.FromString(response)
    except DecodeError as error:
        return Undecodable(Reason.BAD_PROTOBUF, str(error))
    skipped: dict[str, Reason] = {}
    try:
        return arrange(
            _tensors(asked.inputs, None),
            _tensors(answered.outputs, skipped),
            signature,
            ident="",
            model_name=asked.model_spec.name or answered.model_spec.name,
            model_version=_version(answered.model_spec) or _version(asked.model_spec),
            skipped=skipped,
        )
    except TensorError as error:
        return Undecodable(error.reason, str(error))


def _version(spec: pb.ModelSpec) -> str:
    return str(spec.version.value) if spec.HasField("version") else spec.version_label


def _tensors(tensors: Mapping[str, pb.TensorProto], skipped: dict[str, Reason] | None) -> list[NamedTensor]:
    """Return the readable tensors by name; a bad one is noted in `skipped`, or ends the call when that is None.

    Raises:
        TensorError: a tensor cannot be read and `skipped` is None.
    """
    found: list[NamedTensor] = []
    for name in sorted(tensors):
        tensor = tensors[name]
        try:
            if tensor.tensor_shape.unknown_rank:
                raise TensorError(Reason.BAD_SHAPE, f"{name[:80]!r} has no shape")
            shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
            found.append((name, shape, _values(tensor, count_elements(shape))))
        except TensorError as error:
            if skipped is None:
                raise
            skipped[name] = error.reason
    return found


def _values(tensor: pb.TensorProto, elements: int) -> Array:
    if tensor.dtype not in _KINDS:
        raise TensorError(Reason.UNKNOWN_DTYPE, f"tensorflow.DataType {tensor.dtype} holds no values of a row")
    dtype, field = _KINDS[tensor.dtype]
    if tensor.tensor_content and tensor.dtype != _STRING:
        values = _from_content(tensor.tensor_content, dtype, elements)
    else:
        values = _fill(_from_field(getattr(tensor, field), tensor.dtype, dtype), elements)
    if tensor.dtype == _BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _from_content(content: bytes, dtype: np.dtype[Any], elements: int) -> Array:
    if len(content) != elements * dtype.itemsize:
        short = len(content) < elements * dtype.itemsize
        raise TensorError(
            Reason.TRUNCATED if short else Reason.BAD_SHAPE, f"{len(content)} bytes for {elements} elements of {dtype}"
        )
    if dtype.kind != "b":
        values: Array = np.frombuffer(content, dtype)
        return values
    flags = np.frombuffer(content, np.uint8)
    if flags.size and flags.max() > 1:
        raise TensorError(Reason.BAD_VALUE, "a DT_BOOL is neither 0 nor 1")
    return flags.view(np.bool_)


def _from_field(field: Any, number: int, dtype: np.dtype[Any]) -> Array:  # Any: protobuf's repeated container
    if number == _STRING:
        texts = np.empty(len(field), dtype=object)
        texts[:] = [value.decode("utf-8", "replace") for value in field]
        return texts
    if dtype.kind not in "iu" and number != _HALF:
        return np.array(field, dtype=dtype)
    bits = np.dtype("<u2") if number == _HALF else dtype
    wide = np.array(field, dtype=np.uint64 if dtype.itemsize == 8 and dtype.kind == "u" else np.int64)
    limits = np.iinfo(bits)
    if wide.size and dtype.itemsize < 8 and (wide.min() < limits.min or wide.max() > limits.max):
        raise TensorError(Reason.BAD_VALUE, f"a value does not fit {dtype}")
    return wide.astype(bits).view(dtype)


def _fill(values: Array, elements: int) -> Array:
    """Return as many values as elements: the last is repeated, none are zeros, as TensorFlow reads them."""
    missing = elements - len(values)
    if missing < 0:
        raise TensorError(Reason.BAD_SHAPE, f"the shape holds {elements} elements, the data {len(values)}")
    if not missing:
        return values
    if elements > _MAX_REPEATED:
        raise TensorError(Reason.TRUNCATED, f"the shape holds {elements} elements, the data {len(values)}")
    last: Any = values[-1] if len(values) else ("" if values.dtype.kind == "O" else 0)
    rest = np.empty(missing, dtype=values.dtype)
    rest[:] = last
    return np.concatenate([values, rest])


def tf_model_of_path(path: str) -> tuple[str, str] | None:
    """Return model name and version or label (or empty) of a predict path; None for any other path."""
    match = _PATH.fullmatch(path.partition("?")[0])
    return (match["model"], match["version"] or match["label"] or "") if match else None


def decode_tf_json(
    request: bytes, response: bytes = b"", signature: DecodeSignature = NO_SIGNATURE, *, path: str = ""
) -> Decoded | Undecodable:
    """Return one REST predict call as rows of columns, or why it has none.

    Args:
        request: the request's body, with rows in `instances` or columns in `inputs`.
        response: the response's body; anything without `predictions` or `outputs` counts as a call that failed.
        signature: what is known of the model.
        path: of the request; names the model.
    """
    model, version = tf_model_of_path(path) or ("", "")
    skipped: dict[str, Reason] = {}
    try:
        asked = load_json(request)
        inputs = _inputs(asked, signature.inputs[0] if signature.inputs else "input", skipped)
        outputs = _outputs(response, inputs[0][1][0] if inputs else 1, skipped)
        return arrange(inputs, outputs, signature, ident="", model_name=model, model_version=version, skipped=skipped)
    except TensorError as error:
        return Undecodable(error.reason, str(error))


def _inputs(asked: Any, name: str, skipped: dict[str, Reason]) -> list[NamedTensor]:
    if not isinstance(asked, dict):
        raise TensorError(Reason.BAD_JSON, "not a JSON object")
    rows = asked.get("instances")
    if isinstance(rows, list):
        return read_rows(rows, name, skipped, rows=len(rows))
    if "inputs" in asked:
        return read_columns(asked["inputs"], name, skipped)
    raise TensorError(Reason.NO_INPUTS, "the body has neither a list `instances` nor `inputs`")


def _outputs(response: bytes, rows: int, skipped: dict[str, Reason]) -> list[NamedTensor]:
    try:
        answered = load_json(response)
        if not isinstance(answered, dict):
            return []
        if isinstance(answered.get("predictions"), list):
            return read_rows(answered["predictions"], "prediction", skipped, rows=rows)
        return read_columns(answered["outputs"], "prediction", skipped) if "outputs" in answered else []
    except TensorError as error:
        if error.reason is not Reason.BAD_JSON:
            skipped["prediction"] = error.reason
        return []
