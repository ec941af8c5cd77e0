"""Rows and true values from files: CSV, JSON, or standard input. Owns the reading; it knows no model."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilotfish.errors import InvalidArgument, Violation

__all__ = ["choose", "read_columns", "split_truths"]

# Any: cells are numbers or text, as the file has them.
Columns = dict[str, list[Any]]


def read_columns(path: Path) -> Columns:
    """Return a file's columns; "-" is standard input.

    CSV needs a header; JSON is a list of objects or an object of columns. Cells that are all numbers become numbers.

    Raises:
        InvalidArgument: there is no such file, or it has another form.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read", violations=[Violation("file", str(error))]) from error
    is_json = path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "[")
    columns = _from_json(text, path) if is_json else _from_csv(text, path)
    if not columns or not any(columns.values()):
        raise InvalidArgument(f"{path} holds no row", violations=[Violation("file", "is empty")])
    return columns


def _from_csv(text: str, path: Path) -> Columns:
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise InvalidArgument(f"{path} is no CSV", violations=[Violation("file", str(error))]) from error
    ragged = [i for i, row in enumerate(rows, 2) if None in row or None in row.values()]
    if ragged:
        lines = ", ".join(str(i) for i in ragged[:5])
        raise InvalidArgument(
            f"{path} is ragged", violations=[Violation("file", f"line {lines}: not as many cells as the header")]
        )
    names = list(rows[0]) if rows else []
    return {name: _numbers([row[name] for row in rows]) for name in names}


def _numbers(cells: list[str]) -> list[Any]:
    """Return cells as numbers if each is one, or missing; else as they are."""
    try:
        found = [float(c) if c.strip() else float("nan") for c in cells]
    except ValueError:
        return list(cells)
    whole = all(c.strip().lstrip("+-").isdigit() for c in cells)
    return [int(c) for c in cells] if whole else list(found)


def _from_json(text: str, path: Path) -> Columns:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{path} is no JSON", violations=[Violation("file", str(error))]) from error
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        return {str(k): v for k, v in value.items()}
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise InvalidArgument(f"{path} holds no rows", violations=[Violation("file", "a list of objects is wanted")])
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def choose(columns: Columns, names: Sequence[str]) -> Columns:
    """Return the named columns in their order.

    Raises:
        InvalidArgument: some are not there; names each.
    """
    missing = [n for n in names if n not in columns]
    if missing:
        raise InvalidArgument(
            f"columns are missing: {', '.join(missing[:10])}",
            violations=[Violation("file", f"has {', '.join(list(columns)[:20])}")],
        )
    return {n: columns[n] for n in names}


def split_truths(columns: Columns, id_column: str, truth_column: str) -> tuple[list[str], list[float] | list[str]]:
    """Return ids and true values of a file of both; unset column names mean the first and the second.

    Raises:
        InvalidArgument: a column is missing.
    """
    names = list(columns)
    if len(names) < 2 and not (id_column and truth_column):
        raise InvalidArgument("two columns are wanted: prediction ids and true values")
    chosen = choose(columns, [id_column or names[0], truth_column or names[1]])
    ids, truths = chosen.values()
    if all(isinstance(t, (int, float)) for t in truths):
        return [str(i) for i in ids], [float(t) for t in truths]
    return [str(i) for i in ids], [str(t) for t in truths]
