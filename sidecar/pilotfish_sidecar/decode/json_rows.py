"""Rows in plain JSON: objects, lists of objects, lists of numbers, lists of lists.

Owns the turning of such values into tensors. Numbers are always doubles, so that `1` and `1.0` are one column and not
two; `null` is a missing value. It raises `TensorError` only.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from pilotfish_sidecar.decode.columns import MAX_COLUMNS, NamedTensor
from pilotfish_sidecar.decode.datatypes import Array
from pilotfish_sidecar.decode.json_tensors import clean_text
from pilotfish_sidecar.decode.reasons import Reason, TensorError

__all__ = ["read_columns", "read_rows"]

_MAX_NESTING: Final = 16
_NUMBERS: Final = {int, float, type(None)}


def read_rows(value: Any, name: str, skipped: dict[str, Reason], *, rows: int | None = None) -> list[NamedTensor]:
    """Return the tensors of a value that holds one row or a list of rows.

    Args:
        value: an object (one row), a list of objects, a list of lists, or a list of single values: one row, but with
            `rows` one value a row where so many are there. A single value is one row of one column.
        name: of the tensor whose columns have no names.
        skipped: gets the columns that cannot be read, and why.
        rows: how many there must be, where that is known.

    Raises:
        TensorError: it has no such form.
    """
    if isinstance(value, dict) and "b64" not in value:
        return _objects([value], skipped)
    if not isinstance(value, list):
        return [_column(name, [value])]
    if not value:
        raise TensorError(Reason.NO_INPUTS, f"{name!r} has no rows")
    if all(isinstance(cell, dict) and "b64" not in cell for cell in value):
        return _objects(value, skipped)
    if isinstance(value[0], list) or rows == len(value):
        return [_column(name, value)]
    return [_column(name, [value])]


def read_columns(value: Any, name: str, skipped: dict[str, Reason]) -> list[NamedTensor]:
    """Return the tensors of a value that holds columns: an object of tensors, or one tensor; rows come first in each.

    Raises:
        TensorError: it has no such form.
    """
    tensors: Mapping[str, Any] = value if isinstance(value, dict) and "b64" not in value else {name: value}
    _check_width(len(tensors))
    return _each({key: cells if isinstance(cells, list) else [cells] for key, cells in tensors.items()}, skipped)


def _objects(objects: list[dict[str, Any]], skipped: dict[str, Reason]) -> list[NamedTensor]:
    names = dict.fromkeys(itertools.chain.from_iterable(objects))
    _check_width(len(names))
    return _each({name: [each.get(name) for each in objects] for name in names}, skipped)


def _each(columns: Mapping[str, list[Any]], skipped: dict[str, Reason]) -> list[NamedTensor]:
    found: list[NamedTensor] = []
    for name, cells in columns.items():
        try:
            found.append(_column(name, cells))
        except TensorError as error:
            skipped[clean_text(name)] = error.reason
    return found


def _check_width(columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise TensorError(Reason.TOO_MANY_COLUMNS, f"{columns} columns, the limit is {MAX_COLUMNS}")


def _column(name: str, cells: list[Any]) -> NamedTensor:
    """Return a tensor of one row a cell; cells may be lists, which must then all hold as many values."""
    if not cells:
        raise TensorError(Reason.BAD_SHAPE, f"{name[:80]!r} has no rows")
    if not any(isinstance(cell, list) for cell in cells):
        return clean_text(name), (len(cells),), _values(cells)
    flat = [_flatten(cell) for cell in cells]
    if len({len(row) for row in flat}) > 1 or not flat[0]:
        raise TensorError(Reason.BAD_SHAPE, f"the rows of {name[:80]!r} hold unequal numbers of values, or none")
    return clean_text(name), (len(flat), len(flat[0])), _values(list(itertools.chain.from_iterable(flat)))


def _flatten(cell: Any) -> list[Any]:
    flat = cell if isinstance(cell, list) else [cell]
    for _ in range(_MAX_NESTING):
        if not any(isinstance(part, list) for part in flat):
            return flat
        if not all(isinstance(part, list) for part in flat) or len({len(part) for part in flat}) > 1:
            raise TensorError(Reason.BAD_SHAPE, "the data are nested unevenly")
        flat = list(itertools.chain.from_iterable(flat))
    raise TensorError(Reason.BAD_SHAPE, f"the data are nested more than {_MAX_NESTING} deep")


def _values(flat: list[Any]) -> Array:
    kinds = set(map(type, flat))
    if dict in kinds:
        flat = [_bytes(cell) if isinstance(cell, dict) else cell for cell in flat]
        kinds = set(map(type, flat))
    if kinds == {bool}:
        return np.array(flat, dtype=np.bool_)
    if kinds <= _NUMBERS or kinds <= {bool, type(None)}:
        try:
            return np.array(flat, dtype=np.float64)
        except OverflowError as error:
            raise TensorError(Reason.BAD_VALUE, "a number is no double") from error
    if kinds <= {str, type(None)}:
        texts = np.empty(len(flat), dtype=object)
        texts[:] = [cell if cell is None else clean_text(cell) for cell in flat]
        return texts
    raise TensorError(Reason.BAD_VALUE, f"{', '.join(sorted(kind.__name__ for kind in kinds))} in one column")


def _bytes(cell: dict[str, Any]) -> str:
    """Return what TensorFlow Serving writes as `{"b64": ...}`, as text."""
    encoded = cell.get("b64")
    if len(cell) != 1 or not isinstance(encoded, str):
        raise TensorError(Reason.BAD_VALUE, "an object where a value should be")
    try:
        return base64.b64decode(encoded.encode("ascii", "replace"), validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise TensorError(Reason.BAD_VALUE, f"no base64: {error}") from error
