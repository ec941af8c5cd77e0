"""Numpy arrays and lists as Arrow columns.

Owns the conversion of one column. `pyarrow.array` is avoided throughout: its first call imports pandas, which
costs most of a second and tens of megabytes; so does `to_numpy`. It knows nothing of batches or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["column_to_numpy", "feature_to_arrow", "text_to_arrow", "to_arrow"]

Column = npt.NDArray[Any]  # of any type that a feature may have; the dtype is looked at here
_DTYPES = {"float": "float32", "double": "float64"}  # Arrow's names that numpy gives to other types
_MOST_TEXT_BYTES = 2**31 - 1


def to_arrow(values: Column, valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return a float, integer or bool array as a column over the same memory, null where not `valid`."""
    data = np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    nulls, bitmap = 0, None
    if valid is not None:
        nulls = len(values) - int(np.count_nonzero(valid))
        bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(data)], nulls)


def column_to_numpy(column: pa.Array | pa.ChunkedArray) -> Column:
    """Return a column as an array: NaN for a missing number, object with None where text or flags are missing."""
    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks or [pa.nulls(0, column.type)]
        column = pa.concat_arrays(chunks) if len(chunks) > 1 else chunks[0]
    kind = column.type
    if pa.types.is_timestamp(kind):
        column, kind = column.cast(pa.int64()), pa.int64()
    if column.null_count and pa.types.is_integer(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if column.null_count and pa.types.is_floating(kind):
        column = pc.fill_null(column, pa.scalar(float("nan"), kind))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype = _DTYPES.get(str(kind), str(kind))
        return np.frombuffer(column.buffers()[1] or b"", dtype)[column.offset : column.offset + len(column)]
    flags = pa.types.is_boolean(kind) and not column.null_count
    return np.array(column.to_pylist(), dtype=np.bool_ if flags else object)


def text_to_arrow(values: Sequence[str | None], *, nullable: bool = False) -> pa.Array:
    """Return texts as a column.

    Args:
        values: shape (rows,).
        nullable: None is allowed, and stands for null.

    Raises:
        TypeError: an entry is no text.
        ValueError: the texts cannot be UTF-8, or are 2 GiB together.
    """
    valid = None
    if nullable:
        valid = np.fromiter((v is not None for v in values), np.bool_, len(values))
        values = [v if v is not None else "" for v in values]
    joined = "".join(values)  # type: ignore[arg-type]  # None fails here, with a TypeError, as it should
    data = joined.encode()
    parts: Sequence[Any] = values if len(data) == len(joined) else [v.encode() for v in values if v is not None]
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
    if len(data) > _MOST_TEXT_BYTES:
        raise ValueError(f"{len(data)} bytes of text in one column, the limit is {_MOST_TEXT_BYTES}")
    nulls = 0 if valid is None else len(values) - int(np.count_nonzero(valid))
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if valid is not None and nulls else None
    buffers = [bitmap, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(values), buffers, nulls)


def feature_to_arrow(values: Column) -> pa.Array | None:
    """Return a feature as float32, float64, int64, bool or string, NaN and None as null; None if all of it is.

    Raises:
        TypeError: another type, or several in one column.
        ValueError: an integer that int64 cannot hold, or a text that cannot be UTF-8.
    """
    kind = values.dtype.kind
    if kind == "f":
        floats = np.ascontiguousarray(values, dtype=np.float32 if values.dtype.itemsize <= 4 else np.float64)
        return to_arrow(floats, floats == floats)  # only NaN differs from itself
    if kind == "b":
        return to_arrow(values)
    if kind in "iu":
        if values.size and int(values.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{int(values.max())} is too large for int64")
        return to_arrow(values.astype(np.int64))
    if kind == "U":
        return text_to_arrow(values.tolist())
    if kind == "S":
        return text_to_arrow([v.decode() for v in values.tolist()])
    if kind == "O":
        return _mixed_to_arrow(values.tolist())
    raise TypeError(f"type {values.dtype}: use float32, float64, int64, bool or str")


def _mixed_to_arrow(values: list[Any]) -> pa.Array | None:  # Any: the entries of an object array
    valid = np.fromiter((v is not None and v == v for v in values), np.bool_, len(values))
    kinds = {type(v) for v, there in zip(values, valid, strict=True) if there}
    if not kinds:
        return None
    if all(issubclass(k, str) for k in kinds):
        return text_to_arrow([v if there else None for v, there in zip(values, valid, strict=True)], nullable=True)
    filled = [v if there else 0 for v, there in zip(values, valid, strict=True)]
    if all(issubclass(k, bool | np.bool_) for k in kinds):
        return to_arrow(np.array(filled, np.bool_), valid)
    if all(issubclass(k, int | np.integer) and not issubclass(k, bool) for k in kinds):
        return to_arrow(np.array(filled, np.int64), valid)
    if all(issubclass(k, int | float | np.number) and not issubclass(k, bool) for k in kinds):
        return to_arrow(np.array(filled, np.float64), valid)
    names = ", ".join(sorted(k.__name__ for k in kinds))
    raise TypeError(f"values of type {names} in one column: use float32, float64, int64, bool or str")
