"""Predictions as a file for other programs.

Owns the three formats and that a file appears complete or not at all. It never chooses rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pilotfish.errors import InvalidArgument, Violation

from .durable import disk_error, publish
from .queries import Session

__all__ = ["ExportFormat", "write_export"]

ExportFormat = Literal["parquet", "csv", "jsonl"]


def write_export(session: Session, text: str, names: Sequence[str], path: Path, file_format: ExportFormat) -> int:
    """Write the rows of a SELECT and return their number."""
    writers: dict[str, Callable[[Session, str, Sequence[str], Path], int]] = {
        "parquet": _parquet,
        "csv": _csv,
        "jsonl": _jsonl,
    }
    if file_format not in writers:
        raise InvalidArgument(
            f"an export is parquet, csv or jsonl, not {file_format!r}",
            violations=[Violation("file_format", f"{file_format!r} is unknown")],
        )
    temporary = path.with_name(path.name + ".tmp")
    try:
        rows = writers[file_format](session, text, names, temporary)
        publish(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path.parent, 5.0) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return rows


def _schema(session: Session, text: str, names: Sequence[str]) -> pa.Schema:
    return session.table(f"SELECT * FROM ({text}) LIMIT 0", names).schema


def _parquet(session: Session, text: str, names: Sequence[str], path: Path) -> int:
    rows = 0
    with pq.ParquetWriter(str(path), _schema(session, text, names), compression="zstd") as writer:
        for batch in session.batches(text, names):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _csv(session: Session, text: str, names: Sequence[str], path: Path) -> int:
    rows = 0
    with pyarrow.csv.CSVWriter(str(path), _schema(session, text, names)) as writer:
        for batch in session.batches(text, names):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _jsonl(session: Session, text: str, names: Sequence[str], path: Path) -> int:
    """Write one JSON object a line: times in ISO 8601, nothing for a missing value but null."""
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in session.batches(text, names):
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, default=lambda moment: moment.isoformat()) + "\n")
            rows += batch.num_rows
    return rows
