"""Columns as they come from models and files, read as numbers or as levels.

It owns the reading of values: what counts as missing, what is no number, how a value becomes the text of a level.
It never decides bins and never changes the arrays it is given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any  # Any: the cells of object columns, of whatever type the user stored

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument, Violation

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEVEL_CHARACTERS = 160
"""The longest text of a level; longer ones keep their beginning and a hash of the whole."""

NAME_CHARACTERS = 512
"""The longest name of a column."""

_NULL_TYPE_NAMES = frozenset({"NAType", "NaTType"})


def columns_from_matrix(X: npt.ArrayLike, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a matrix by name, without a copy.

    Args:
        X: shape (rows, features), or (rows,) for one name.
        names: one name per column, all different.

    Raises:
        InvalidArgument: the shape and the names do not agree, or a name comes twice.
    """
    matrix = np.asarray(X)
    if matrix.ndim == 1 and len(names) == 1:
        matrix = matrix.reshape(-1, 1)
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise InvalidArgument(
            f"a matrix of shape {matrix.shape} does not fit {len(names)} names: give shape (rows, {len(names)})",
            reason="SHAPE_MISMATCH",
        )
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InvalidArgument(f"names come more than once: {', '.join(twice)}", reason="DUPLICATE_NAME")
    return {name: matrix[:, i] for i, name in enumerate(names)}


def checked_columns(
    inputs: Mapping[str, npt.ArrayLike], outputs: Mapping[str, npt.ArrayLike]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]], int]:
    """Return both groups as 1-d arrays and the number of rows they share.

    Raises:
        InvalidArgument: columns that are not 1-d, or that differ in length; every one is named.
    """
    arrays = tuple({name: _array(column) for name, column in group.items()} for group in (inputs, outputs))
    violations: list[Violation] = []
    rows: int | None = None
    for label, group in zip(("inputs", "outputs"), arrays, strict=True):
        for name, array in group.items():
            if not is_column_name(name):
                text = f"a column's name is a printable text of 1..{NAME_CHARACTERS} characters"
                violations.append(Violation(f"{label}.{str(name)[:64]!r}", text, "BAD_NAME"))
            if array.ndim != 1:
                text = f"has shape {array.shape}, a column has one dimension; use columns_from_matrix"
                violations.append(Violation(f"{label}.{name}", text, "NOT_ONE_DIMENSIONAL"))
                continue
            rows = array.shape[0] if rows is None else rows
            if array.shape[0] != rows:
                text = f"has {array.shape[0]} rows, the first column has {rows}"
                violations.append(Violation(f"{label}.{name}", text, "LENGTHS_DIFFER"))
    if violations:
        raise InvalidArgument("the columns are not one table", reason="BAD_COLUMNS", violations=violations)
    return arrays[0], arrays[1], rows or 0


def is_column_name(name: object) -> bool:
    """Return whether this can name a column: a printable text of 1..512 characters."""
    return isinstance(name, str) and 1 <= len(name) <= NAME_CHARACTERS and name.isprintable()


def _array(column: npt.ArrayLike) -> npt.NDArray[Any]:
    if type(column) is not np.ndarray and isinstance(column, np.ma.MaskedArray):
        return np.array([*column.tolist(), None], dtype=object)[:-1]
    try:
        return np.asarray(column)
    except ValueError:  # lists of unequal length
        return np.empty((0, 0))


def is_missing(value: Any) -> bool:
    """Return whether a cell holds no value: None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return type(value).__name__ in _NULL_TYPE_NAMES


def as_numbers(column: npt.NDArray[Any]) -> tuple[Floats, Bools | None]:
    """Return the column as float64 with NaN where missing, and a mask of cells that are present but no numbers.

    Infinite values count as missing: they have no place on the axis and would make every moment infinite.

    Args:
        column: shape (rows,), any dtype. Dates become nanoseconds since 1970.
    """
    kind = column.dtype.kind
    if kind in "fiub":
        numbers = column.astype(np.float64, copy=False)
        finite = np.isfinite(numbers)
        return (numbers if finite.all() else np.where(finite, numbers, np.nan)), None
    if kind in "mM":
        whole = column.astype(column.dtype.kind + "8[ns]").astype(np.int64).astype(np.float64)
        return np.where(np.isnat(column), np.nan, whole), None
    # Complex numbers would lose their imaginary part silently: as objects they are refused one by one.
    return _parse_numbers(column.astype(object) if kind == "c" else column)


def _parse_numbers(column: npt.NDArray[Any]) -> tuple[Floats, Bools | None]:
    try:
        with np.errstate(all="ignore"):
            numbers = column.astype(np.float64)
        return np.where(np.isfinite(numbers), numbers, np.nan), None
    except (TypeError, ValueError, OverflowError):
        pass
    numbers = np.full(column.shape[0], np.nan)
    unreadable = np.zeros(column.shape[0], dtype=np.bool_)
    for i, cell in enumerate(column.tolist()):
        if is_missing(cell):
            continue
        try:
            number = float(cell)
        except (TypeError, ValueError, OverflowError):
            unreadable[i] = True
            continue
        if math.isfinite(number):
            numbers[i] = number
    return numbers, unreadable if unreadable.any() else None


def as_levels(column: npt.NDArray[Any]) -> list[str | None]:
    """Return the column as texts of levels, None where missing.

    The same value has the same text in every dtype: 3, 3.0 and "3" are one level, and so are True and 1.

    Args:
        column: shape (rows,), any dtype.
    """
    cells: list[Any] = column.tolist() if column.dtype.kind not in "mM" else [str(cell) for cell in column]
    if column.dtype.kind == "U":
        return [cell if len(cell) <= LEVEL_CHARACTERS and cell.isascii() else level_text(cell) for cell in cells]
    if column.dtype.kind in "mM":
        return [None if cell == "NaT" else cell for cell in cells]
    if column.dtype.kind in "fiub":
        texts = {cell: level_text(cell) for cell in set(cells)}
        return [None if cell != cell else texts[cell] for cell in cells]
    return [None if is_missing(cell) else level_text(cell) for cell in cells]


def level_text(value: Any) -> str:
    """Return the text under which a value is counted as a level; at most 160 characters."""
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    if isinstance(value, (float, np.floating)):
        number = float(value)
        text = str(int(number)) if number.is_integer() and abs(number) < 1e16 else repr(number)
    elif isinstance(value, bytes):
        text = value.decode("utf-8", errors="replace")
    else:
        text = str(value)
    if not text.isascii():
        text = text.encode("utf-8", errors="replace").decode()  # lone surrogates have no place in JSON
    if len(text) <= LEVEL_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[: LEVEL_CHARACTERS - 17]}~{digest}"


def holds_numbers(column: npt.NDArray[Any]) -> bool:
    """Return whether a column is numeric by nature: of numbers, bools or dates, or objects that all are numbers."""
    if column.dtype.kind in "fiubmM":
        return True
    if column.dtype.kind != "O":
        return False
    return all(isinstance(c, (int, float, np.number, np.bool_)) for c in column.tolist() if not is_missing(c))
