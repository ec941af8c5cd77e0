"""Tensors in the protocol's JSON form, and numpy.

Owns the reading of `{"name", "datatype", "shape", "data"}` (nested or flat) and the writing of `data`.
`null` is a missing value of a floating datatype, both ways, as JSON has no NaN; infinities become `null` too.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from pilotfish_sidecar.decode.datatypes import Array, Datatype, count_elements, find_datatype
from pilotfish_sidecar.decode.reasons import Reason, TensorError

__all__ = ["array_to_json", "clean_text", "json_to_array"]

_MAX_NESTING = 16


def json_to_array(entry: Any) -> tuple[str, Datatype, tuple[int, ...], Array]:
    """Return name, datatype, shape and flat values of one tensor of a parsed body.

    Args:
        entry: what `json.loads` gave; anything.

    Raises:
        TensorError: it is no tensor; the reason says in what.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise TensorError(Reason.BAD_JSON, "a tensor must be an object with a name")
    datatype = entry.get("datatype")
    kind = find_datatype(datatype if isinstance(datatype, str) else repr(datatype))
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise TensorError(Reason.BAD_SHAPE, "shape must be a list of integers")
    elements = count_elements(tuple(shape))
    if "data" not in entry:
        raise TensorError(Reason.TRUNCATED, "it has no data")
    flat = _flatten(entry["data"])
    if len(flat) != elements:
        reason = Reason.TRUNCATED if len(flat) < elements else Reason.BAD_SHAPE
        raise TensorError(reason, f"the shape holds {elements} elements, the data {len(flat)}")
    return clean_text(entry["name"]), kind, tuple(shape), _convert(flat, kind)


def clean_text(text: str) -> str:
    """Return a text that can be encoded: JSON may escape half of a surrogate pair, which no file or wire takes."""
    return text.encode("utf-8", "replace").decode()


def _flatten(data: Any) -> list[Any]:
    flat = data if isinstance(data, list) else [data]
    for _ in range(_MAX_NESTING):
        if not flat or not isinstance(flat[0], list):
            return flat
        if not all(isinstance(part, list) for part in flat):
            raise TensorError(Reason.BAD_SHAPE, "the data are nested unevenly")
        flat = list(itertools.chain.from_iterable(flat))
    raise TensorError(Reason.BAD_SHAPE, f"the data are nested more than {_MAX_NESTING} deep")


def _convert(flat: list[Any], kind: Datatype) -> Array:
    found = set(map(type, flat))
    if kind.name == "BYTES":
        _allow(found, {str}, kind)
        texts = np.empty(len(flat), dtype=object)
        texts[:] = flat if _encodable(flat) else [clean_text(text) for text in flat]
        return texts
    if kind.name == "BOOL":
        _allow(found, {bool}, kind)
        return np.array(flat, dtype=np.bool_)
    if kind.dtype.kind == "f":
        _allow(found, {int, float, type(None)}, kind)
        try:
            with np.errstate(over="ignore"):
                return np.array(flat, dtype=np.float64).astype(kind.dtype)
        except OverflowError as error:
            raise TensorError(Reason.BAD_VALUE, f"a value does not fit {kind.name}") from error
    _allow(found, {int}, kind)
    limits = np.iinfo(kind.dtype)
    if flat and (min(flat) < limits.min or max(flat) > limits.max):
        raise TensorError(Reason.BAD_VALUE, f"a value does not fit {kind.name}")
    return np.array(flat, dtype=kind.dtype)


def _encodable(texts: list[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _allow(found: set[type], allowed: set[type], kind: Datatype) -> None:
    if found - allowed:
        names = ", ".join(sorted(one.__name__ for one in found - allowed))
        raise TensorError(Reason.BAD_VALUE, f"{names} is no value of {kind.name}")


def array_to_json(array: Array) -> list[Any]:
    """Return an array as a flat list for `data`, row by row; what is not finite becomes None."""
    flat = array.ravel()
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if finite else None for value, finite in zip(flat.tolist(), np.isfinite(flat), strict=True)]
    if flat.dtype.kind == "O":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in flat]
    return list(flat.tolist())
