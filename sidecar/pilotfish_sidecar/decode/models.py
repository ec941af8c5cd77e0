"""Which model a call asks for, told without decoding it.

Owns the reading of names from paths and from the first bytes of requests. Hostile bytes give empty names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pilotfish_sidecar.decode.rest import model_of_path
from pilotfish_sidecar.decode.tfserving import tf_model_of_path

__all__ = ["OIP_INFER", "OIP_STREAM", "TF_PREDICT", "model_of_call"]

OIP_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
OIP_STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
TF_PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
_PREFIX: Final = 5
_NAMES: Final = 2


def model_of_call(method: str, request: bytes) -> tuple[str, str]:
    """Return name and version of the model that is asked, each empty where the call does not say.

    Args:
        method: gRPC path or HTTP path.
        request: body; for a streaming call messages behind gRPC's prefix, the first of which is looked at.
    """
    if method == OIP_INFER:
        return _oip(request)
    if method == OIP_STREAM:
        return _oip(request[_PREFIX : _PREFIX + int.from_bytes(request[1:_PREFIX], "big")])
    if method == TF_PREDICT:
        spec = dict(_texts(request)).get(1, b"")
        return _text(dict(_texts(spec)).get(1, b"")), ""
    return model_of_path(method) or tf_model_of_path(method) or ("", "")


def _oip(request: bytes) -> tuple[str, str]:
    texts = dict(_texts(request))
    return _text(texts.get(1, b"")), _text(texts.get(2, b""))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _texts(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield fields 1 and 2 of a message where they come first and are texts, as every serialiser writes them."""
    position = 0
    for _ in range(_NAMES):
        if position >= len(message) or message[position] not in (0x0A, 0x12):
            return
        number, size, shift = message[position] >> 3, 0, 0
        position += 1
        while position < len(message) and shift < 28:
            byte = message[position]
            size |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                break
        else:
            return
        if position + size > len(message):
            return
        yield number, message[position : position + size]
        position += size
