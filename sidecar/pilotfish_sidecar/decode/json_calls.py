"""Decoding of JSON calls of a service of one's own, by pointers into its bodies.

Owns RFC 6901 and where inputs, outputs and ids are. Hostile bytes give an `Undecodable`, never an exception.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from pilotfish_sidecar.decode.columns import NO_SIGNATURE, Decoded, DecodeSignature, NamedTensor, arrange
from pilotfish_sidecar.decode.json_rows import read_rows
from pilotfish_sidecar.decode.json_tensors import clean_text
from pilotfish_sidecar.decode.reasons import Reason, TensorError, Undecodable

__all__ = ["JsonPointers", "Pointer", "decode_json", "load_json", "parse_pointer", "resolve"]

Pointer = tuple[str, ...]
"""The keys and positions on the way to a value, unescaped; empty: the whole document."""

_ESCAPE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class JsonPointers:
    """Where things are in the bodies.

    Attributes:
        inputs: in the request.
        outputs: in the response.
        id: in the request, or else in the response; None: the calls have no id.
    """

    inputs: Pointer = ()
    outputs: Pointer = ()
    id: Pointer | None = None


def parse_pointer(text: str) -> Pointer:
    """Return a JSON pointer's parts.

    Raises:
        ValueError: it is none by RFC 6901.
    """
    if not text:
        return ()
    if not text.startswith("/"):
        raise ValueError("must be empty or begin with a slash")
    if _ESCAPE.search(text):
        raise ValueError("has a ~ that is neither ~0 nor ~1")
    # In this order: ~01 is the text ~1.
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))


def resolve(document: Any, pointer: Pointer) -> Any:
    """Return what a pointer leads to.

    Raises:
        TensorError: it leads nowhere (`not_found`).
    """
    for part in pointer:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and _INDEX.fullmatch(part) and int(part) < len(document):
            document = document[int(part)]
        else:
            raise TensorError(Reason.NOT_FOUND, f"nothing at {'/'.join(('', *pointer))[:200]!r}")
    return document


def load_json(body: bytes) -> Any:
    """Return a parsed body.

    Raises:
        TensorError: it is no JSON (`bad_json`).
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise TensorError(Reason.BAD_JSON, f"not JSON: {error}") from error


def decode_json(
    request: bytes, response: bytes, pointers: JsonPointers, signature: DecodeSignature = NO_SIGNATURE
) -> Decoded | Undecodable:
    """Return one JSON call as rows of columns, or why it has none.

    Args:
        request: the request's body.
        response: the response's body; anything without the outputs counts as a call that failed.
        pointers: where things are.
        signature: what is known of the model.
    """
    skipped: dict[str, Reason] = {}
    try:
        asked = load_json(request)
        name = signature.inputs[0] if signature.inputs else "input"
        inputs = read_rows(_without_id(resolve(asked, pointers.inputs), pointers.inputs, pointers.id), name, skipped)
        answered, outputs = _outputs(response, pointers, inputs, skipped)
        ident = _ident(asked, pointers.id) or _ident(answered, pointers.id)
        return arrange(inputs, outputs, signature, ident=ident, model_name="", model_version="", skipped=skipped)
    except TensorError as error:
        return Undecodable(error.reason, str(error))


def _outputs(
    response: bytes, pointers: JsonPointers, inputs: list[NamedTensor], skipped: dict[str, Reason]
) -> tuple[Any, list[NamedTensor]]:
    """Return the response's JSON and its outputs; none where they cannot be read."""
    try:
        answered = load_json(response)
    except TensorError:
        return None, []
    rows = inputs[0][1][0] if inputs else 1
    try:
        value = _without_id(resolve(answered, pointers.outputs), pointers.outputs, pointers.id)
        return answered, read_rows(value, "prediction", skipped, rows=rows)
    except TensorError as error:
        skipped["prediction"] = error.reason
        return answered, []


def _without_id(value: Any, at: Pointer, ident: Pointer | None) -> Any:
    """Return an object without the member that is the call's id: an id is no feature."""
    if ident is None or not isinstance(value, dict) or ident[:-1] != at or not ident:
        return value
    return {key: cell for key, cell in value.items() if key != ident[-1]}


def _ident(document: Any, pointer: Pointer | None) -> str:
    if pointer is None:
        return ""
    try:
        value = resolve(document, pointer)
    except TensorError:
        return ""
    if isinstance(value, str):
        return clean_text(value)
    return str(value) if type(value) is int and abs(value) < 1 << 64 else ""
