"""The example that a model brings along: reading it, feeding it, comparing the answer.

Owns the form of `example.json`: `{"inputs": …, "outputs": …, "rtol": …, "atol": …}`, each side either
`{tensor: nested list}` or a list of Open Inference Protocol tensors `{"name", "shape", "datatype", "data"}`. Inputs
may also name the feature columns of a single matrix. It never loads a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # JSON before it is checked, numpy arrays of any type

import numpy as np

from pilotfish_control_plane.artifacts.signatures import Signature, Tensor

__all__ = ["Example", "compare", "numpy_type", "read_example", "zeros"]

DEFAULT_RTOL = 1e-3
DEFAULT_ATOL = 1e-4
MAX_TOLERANCE = 0.05
MAX_ELEMENTS = 16 * 1024 * 1024
"""Elements of one trial tensor; more would only measure the machine's memory."""

_TYPES = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
    "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32,
    "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip

Arrays = dict[str, "np.ndarray[Any, Any]"]


def numpy_type(datatype: str) -> Any:
    """Return numpy's type of a protocol datatype."""
    return _TYPES[datatype]


@dataclass(frozen=True, slots=True)
class Example:
    """What to feed, and what must come back; `outputs` may be empty, then the model must only answer."""

    inputs: Arrays
    outputs: Arrays
    rtol: float
    atol: float


def read_example(document: object, signature: Signature) -> tuple[Example | None, list[str]]:
    """Return the example, or None, and everything that is wrong with it."""
    if not isinstance(document, dict):
        return None, ["is not a JSON object"]
    found = [
        f"{key[:64]!r} is not a field of an example"
        for key in sorted(set(document) - {"inputs", "outputs", "rtol", "atol"})[:5]
    ]
    inputs = _side(document.get("inputs"), "inputs", signature.inputs, found, signature)
    outputs = _side(document.get("outputs", {}), "outputs", signature.outputs, found)
    if not inputs and not found:
        found.append("inputs: there are none")
    tolerances = []
    for name, default in (("rtol", DEFAULT_RTOL), ("atol", DEFAULT_ATOL)):
        value = document.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_TOLERANCE:
            found.append(f"{name}: must be a number in 0..{MAX_TOLERANCE}")
            value = default
        tolerances.append(float(value))
    return (None if found else Example(inputs, outputs, *tolerances)), found


def _side(
    value: object, where: str, tensors: Sequence[Tensor], found: list[str], signature: Signature | None = None
) -> Arrays:
    given = _by_name(value, where, found)
    columns = signature.feature_names if signature and len(tensors) == 1 else ()
    if columns and given and tensors[0].name not in given and set(given) == set(columns):
        return _matrix(given, tensors[0], columns, where, found)
    known = {t.name: t for t in tensors}
    arrays: Arrays = {}
    for name, data in given.items():
        if name not in known:
            found.append(f"{where}: {name[:64]!r} is not a tensor of the model; it has: {', '.join(known) or 'none'}")
            continue
        array = _array(data, known[name], f"{where}.{name}", found)
        if array is not None:
            arrays[name] = array
    if where == "inputs":
        found += [f"{where}: {name!r} is missing" for name in known if name not in given]
    return arrays


def _by_name(value: object, where: str, found: list[str]) -> dict[str, Any]:
    if isinstance(value, dict):
        return {str(k): v for k, v in value.items()}
    if isinstance(value, list) and all(isinstance(t, dict) and "name" in t and "data" in t for t in value):
        return {str(t["name"]): t for t in value}
    found.append(f"{where}: must be an object of tensors by name, or a list of objects with name, shape and data")
    return {}


def _array(data: Any, tensor: Tensor, where: str, found: list[str]) -> np.ndarray[Any, Any] | None:
    shape: Any = None
    if isinstance(data, dict):
        shape, datatype = data.get("shape"), data.get("datatype", tensor.datatype)
        if datatype != tensor.datatype:
            found.append(f"{where}: is {datatype}, the model takes {tensor.datatype}")
            return None
        data = data.get("data")
    try:
        array: np.ndarray[Any, Any] = np.asarray(data, dtype=_TYPES[tensor.datatype])
        if array.dtype.kind in "iu" and not np.array_equal(np.asarray(data, dtype=float), array):
            raise ValueError("it holds numbers that are not whole or out of range")
        if shape is not None:
            array = array.reshape([int(d) for d in shape])
    except (ValueError, TypeError, OverflowError) as error:
        found.append(f"{where}: is not {tensor}: {error}")
        return None
    if array.size > MAX_ELEMENTS:
        found.append(f"{where}: has {array.size} elements, at most {MAX_ELEMENTS} are allowed")
        return None
    wanted = tensor.shape
    if wanted is not None and (
        len(wanted) != array.ndim or any(w not in (-1, d) for w, d in zip(wanted, array.shape, strict=True))
    ):
        found.append(f"{where}: has shape {list(array.shape)}, the model takes {tensor}")
        return None
    return array


def _matrix(given: Mapping[str, Any], tensor: Tensor, columns: Sequence[str], where: str, found: list[str]) -> Arrays:
    column = Tensor(tensor.name, tensor.datatype, None)
    read = [_array(given[name], column, f"{where}.{name}", found) for name in columns]
    arrays = [a.reshape(-1) for a in read if a is not None]
    if len(arrays) < len(columns):
        return {}
    if len({len(a) for a in arrays}) > 1:
        found.append(f"{where}: the columns have different lengths")
        return {}
    return {tensor.name: np.stack(arrays, axis=1)}


def zeros(inputs: Sequence[Tensor]) -> Arrays | None:
    """Return zeros (empty texts) with 1 for every variable size; None when they are too large."""
    arrays: Arrays = {}
    for tensor in inputs:
        shape = [1 if d == -1 else d for d in tensor.shape or ()]
        if tensor.shape is None or np.prod(shape, dtype=float) > MAX_ELEMENTS:
            return None
        array: np.ndarray[Any, Any] = np.zeros(shape, dtype=_TYPES[tensor.datatype])
        if tensor.datatype == "BYTES":
            array[...] = ""
        arrays[tensor.name] = array
    return arrays


def compare(example: Example, answered: Mapping[str, Any]) -> list[str]:
    """Return every output that was not reproduced within the tolerance."""
    found = []
    for name, wanted in example.outputs.items():
        got = np.asarray(answered[name])
        if got.shape != wanted.shape:
            found.append(f"output {name!r} has shape {list(got.shape)}, the example says {list(wanted.shape)}")
        elif wanted.dtype.kind == "f":
            close = np.isclose(got, wanted, rtol=example.rtol, atol=example.atol, equal_nan=True)
            if not close.all():
                worst = float(np.nanmax(np.abs(got.astype(float) - wanted.astype(float))))
                found.append(
                    f"output {name!r}: {int((~close).sum())} of {close.size} values differ by up to {worst:.6g} "
                    f"(rtol {example.rtol:g}, atol {example.atol:g})"
                )
        elif (differ := int((_plain(got) != _plain(wanted)).sum())) > 0:
            found.append(f"output {name!r}: {differ} of {wanted.size} values differ")
    return found


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return texts as str, whether they came as bytes or str; other types unchanged."""
    if array.dtype.kind not in "OSU":
        return array
    texts = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in array.reshape(-1)]
    return np.array(texts, dtype=np.object_).reshape(array.shape)
