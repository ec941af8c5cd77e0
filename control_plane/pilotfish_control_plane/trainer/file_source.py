"""Reads rows from files under allowed directories: CSV, Parquet, JSON and JSON Lines.

Owns the rule that no path leads out of an allowed directory, by `..`, by a link, or by being swapped while it is
opened. Never writes.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from pilotfish_control_plane.trainer.spec import FileSource, PredictionLogSource

__all__ = ["SourceError", "allowed_path", "read_files", "read_prediction_log"]

_BY_ENDING = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_MAX_TEXT_BYTES = 4 * 1024**3


class SourceError(Exception):
    """A source cannot be read; the text says which part of it, and what to do."""


def allowed_path(path: str, roots: Sequence[str]) -> Path:
    """Return the real path of `path`, which must exist and lie under one of `roots`.

    Args:
        path: absolute, or relative to a root.
        roots: absolute directories.

    Raises:
        SourceError: it is missing, has `..` in it, or leads outside, also by a link.
    """
    if not roots:
        raise SourceError(f"{path!r} cannot be read: no directory is allowed for files; set one for this installation")
    if "\0" in path or ".." in Path(path).parts:
        raise SourceError(f"{path!r} has '..' or a zero byte in it; name the file directly")
    real_roots = [os.path.realpath(root) for root in roots]
    candidates = [path] if os.path.isabs(path) else [os.path.join(root, path) for root in real_roots]
    found = [candidate for candidate in candidates if os.path.lexists(candidate)]
    for candidate in found:
        real = os.path.realpath(candidate)
        if any(real != root and os.path.commonpath([real, root]) == root for root in real_roots):
            if not os.path.exists(real):
                raise SourceError(f"{path!r} is a link to a file that does not exist")
            return Path(real)
    listed = ", ".join(roots)
    if found or os.path.isabs(path):
        # The same text whether it exists or not: what lies outside is nobody's business.
        raise SourceError(f"{path!r} does not lie under an allowed directory ({listed})")
    raise SourceError(f"there is no file {path!r} under {listed}")


def _open(path: Path) -> BinaryIO:
    """Open a regular file whose real path is `path`; a link put there since it was checked is refused."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{path.name!r} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError(f"{path.name!r} is not a regular file")
    actual = Path(f"/proc/self/fd/{descriptor}")
    if actual.exists() and os.path.realpath(actual) != str(path):
        os.close(descriptor)
        raise SourceError(f"{path.name!r} was moved while it was opened; run the job again")
    return os.fdopen(descriptor, "rb")


def read_files(source: FileSource, roots: Sequence[str]) -> pd.DataFrame:
    """Return the rows of all files of the source, stacked.

    Raises:
        SourceError: a path is not allowed, a file is damaged, or there are more than `max_rows` rows.
    """
    parts: list[pd.DataFrame] = []
    for given in source.paths:
        real = allowed_path(given, roots)
        for file in _files_of(real, given, roots):
            parts.append(_read(file, source))
            _check_rows(sum(len(part) for part in parts), source.max_rows)
    if len(parts) > 1:
        _check_same_columns(parts, source.paths)
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)


def read_prediction_log(source: PredictionLogSource, roots: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a Parquet export of the prediction log.

    Raises:
        SourceError: as `read_files`.
    """
    return read_files(FileSource(source.name, (source.path,), "parquet", max_rows=source.max_rows), roots)


def _files_of(real: Path, given: str, roots: Sequence[str]) -> list[Path]:
    if not real.is_dir():
        return [real]
    names = sorted(item for item in os.listdir(real) if item.endswith(".parquet") and not item.startswith("."))
    if not names:
        raise SourceError(f"the directory {given!r} has no .parquet file; name the files, or export again")
    return [allowed_path(str(real / name), roots) for name in names]


def _read(path: Path, source: FileSource) -> pd.DataFrame:
    kind = source.format or _BY_ENDING.get(path.suffix.lower())
    if kind is None:
        endings = ", ".join(sorted(_BY_ENDING))
        raise SourceError(f"the format of {path.name!r} is unknown; set format, or use an ending of {endings}")
    with _open(path) as stream:
        if kind != "parquet" and os.fstat(stream.fileno()).st_size > _MAX_TEXT_BYTES:
            raise SourceError(f"{path.name!r} is larger than {_MAX_TEXT_BYTES} bytes; use Parquet")
        try:
            return _parse(kind, stream, source)
        except SourceError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # each format has its own exceptions; all mean that the file is not what was said
            raise SourceError(f"{path.name!r} is no readable {kind} file: {error}") from error


def _parse(kind: str, stream: BinaryIO, source: FileSource) -> pd.DataFrame:
    if kind == "parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(stream)
        _check_rows(file.metadata.num_rows, source.max_rows)
        frame: pd.DataFrame = file.read().to_pandas()
        return frame
    if kind == "csv":
        return _checked_columns(
            pd.read_csv(
                stream,
                sep=source.delimiter,
                encoding=source.encoding,
                nrows=source.max_rows + 1,
                on_bad_lines="error",
                low_memory=False,
                index_col=False,
            )
        )
    text = io.TextIOWrapper(stream, encoding=source.encoding)
    if kind == "json":
        return records_frame(json.load(text), "the file")
    return records_frame([_json_line(line, number) for number, line in enumerate(text, 1) if line.strip()], "the file")


def _json_line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise SourceError(f"line {number} is not JSON: {error}") from error


def records_frame(records: Any, where: str) -> pd.DataFrame:
    """Return an array of flat JSON objects as a table.

    Raises:
        SourceError: it is no array of objects, or a value is itself an object or a list.
    """
    if not isinstance(records, list):
        raise SourceError(f"{where} must hold an array of objects, got {type(records).__name__}")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise SourceError(f"record {index} in {where} must be an object, got {type(record).__name__}")
        for key, value in record.items():
            if isinstance(value, (dict, list)):
                raise SourceError(
                    f"field {key!r} of record {index} in {where} is a nested {type(value).__name__}; flatten it first"
                )
    return pd.DataFrame.from_records(records)


def _checked_columns(frame: pd.DataFrame) -> pd.DataFrame:
    if not len(frame.columns):
        raise SourceError("it has no header line")
    return frame


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise SourceError(f"it has {rows} rows or more, max_rows is {limit}; raise max_rows or select fewer rows")


def _check_same_columns(parts: Sequence[pd.DataFrame], names: Sequence[str]) -> None:
    first = set(parts[0].columns)
    for index, part in enumerate(parts[1:], 1):
        if set(part.columns) != first:
            odd = ", ".join(sorted(map(str, first ^ set(part.columns)))[:5])
            raise SourceError(f"part {index} of {', '.join(names)} has other columns than the first one: {odd}")
