"""Decoding of REST calls of the Open Inference Protocol v2.

Owns the reading of the JSON bodies, with the binary-data extension. Hostile bytes give an `Undecodable`,
never an exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pilotfish_sidecar.decode.columns import NO_SIGNATURE, Decoded, DecodeSignature, NamedTensor, arrange
from pilotfish_sidecar.decode.datatypes import count_elements, find_datatype, unpack_raw
from pilotfish_sidecar.decode.json_tensors import clean_text, json_to_array
from pilotfish_sidecar.decode.reasons import Reason, TensorError, Undecodable

__all__ = ["decode_oip_json", "model_of_path"]

_PATH: Final = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer/?")
_DECODER: Final = json.JSONDecoder()


def model_of_path(path: str) -> tuple[str, str] | None:
    """Return model name and version (or empty) of an inference path; None for any other path."""
    match = _PATH.fullmatch(path.partition("?")[0])
    return (match["model"], match["version"] or "") if match else None


def decode_oip_json(
    request: bytes,
    response: bytes = b"",
    signature: DecodeSignature = NO_SIGNATURE,
    *,
    path: str = "",
    json_bytes: int | None = None,
) -> Decoded | Undecodable:
    """Return one REST inference call as rows of columns, or why it has none.

    Args:
        request: the request's body.
        response: the response's body; anything without `outputs` counts as a call that failed.
        signature: what is known of the model.
        path: of the request; names the model.
        json_bytes: the request header `inference-header-content-length`, when binary data follow the JSON.
    """
    model, version = model_of_path(path) or ("", "")
    try:
        asked, binary = _split(request, json_bytes)
        answered, answer_binary = _answer(response)
        skipped: dict[str, Reason] = {}
        inputs = _tensors(asked.get("inputs"), binary, None)
        outputs = _tensors(answered.get("outputs", []), answer_binary, skipped)
        return arrange(
            inputs,
            outputs,
            signature,
            ident=_text(asked, "id") or _text(answered, "id"),
            model_name=model or _text(answered, "model_name"),
            model_version=_text(answered, "model_version") or version,
            skipped=skipped,
        )
    except TensorError as error:
        return Undecodable(error.reason, str(error))


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return clean_text(value) if isinstance(value, str) else ""


def _split(body: bytes, json_bytes: int | None) -> tuple[dict[str, Any], bytes]:
    end = len(body) if json_bytes is None else json_bytes
    if not 0 <= end <= len(body):
        raise TensorError(Reason.TRUNCATED, f"the JSON part has {end} bytes, the body {len(body)}")
    try:
        document = json.loads(body[:end])
    except (ValueError, RecursionError) as error:
        raise TensorError(Reason.BAD_JSON, f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise TensorError(Reason.BAD_JSON, "not a JSON object")
    return document, body[end:]


def _answer(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the response's JSON and what follows it; {} when it has none, as errors may be plain text."""
    try:
        return _split(body, None)
    except TensorError:
        pass
    try:
        # Latin-1 keeps one character per byte, so the end of the JSON is a position in the body.
        _, end = _DECODER.raw_decode(body.decode("latin-1"))
        return _split(body, end)
    except (TensorError, ValueError, RecursionError):
        return {}, b""


def _tensors(entries: Any, binary: bytes, skipped: dict[str, Reason] | None) -> list[NamedTensor]:
    """Return the readable tensors; a bad one is noted in `skipped`, or ends the call when that is None.

    Raises:
        TensorError: `entries` is no list, or a tensor cannot be read and `skipped` is None.
    """
    if not isinstance(entries, list):
        if skipped is not None:
            return []
        raise TensorError(Reason.NO_INPUTS, "the body has no list `inputs`")
    found: list[NamedTensor] = []
    position = 0
    for entry in entries:
        size = _binary_size(entry)
        try:
            if size is None:
                name, _, shape, values = json_to_array(entry)
                found.append((name, shape, values))
            else:
                found.append(_binary_tensor(entry, binary[position : position + size]))
        except TensorError as error:
            if skipped is None:
                raise
            skipped[clean_text(str(entry.get("name") if isinstance(entry, dict) else None))] = error.reason
        position += size or 0
    return found


def _binary_size(entry: Any) -> int | None:
    parameters = entry.get("parameters") if isinstance(entry, dict) else None
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    return size if type(size) is int and size >= 0 else None


def _binary_tensor(entry: Mapping[str, Any], raw: bytes) -> NamedTensor:
    name, shape = entry.get("name"), entry.get("shape")
    if not isinstance(name, str):
        raise TensorError(Reason.BAD_JSON, "a tensor must be an object with a name")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise TensorError(Reason.BAD_SHAPE, "shape must be a list of integers")
    kind = find_datatype(str(entry.get("datatype")))
    return clean_text(name), tuple(shape), unpack_raw(raw, kind, count_elements(tuple(shape)))
