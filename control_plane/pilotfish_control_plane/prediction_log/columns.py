"""Batches as Arrow tables: the one layout that log, parts and queries share.

Owns column names, types and the hash of prediction ids. It never reads or writes a file.

Features are stored as `input.<name>` and `output.<name>`. DuckDB takes names that differ only in case for
one, so the second such name of a batch gets the suffix `~case<k>`, which `feature_name` removes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pilotfish.errors import InvalidArgument, Violation

from .arrays import feature_to_arrow, text_to_arrow, to_arrow
from .batches import Batch, Column, ColumnBatch, TruthBatch

__all__ = ["CONSTANTS", "DAY_US", "ID_PATTERN", "encode", "feature_name", "hash_ids", "physical_names"]

DAY_US = 86_400_000_000
CONSTANTS = ("deployment", "endpoint", "model", "version", "replica")
INPUT, OUTPUT = "input.", "output."
TIME = pa.timestamp("us", tz="UTC")
LAST_US = 253_402_300_799_999_999  # the last microsecond of year 9999, what Parquet readers can still print
MOST_ID_BYTES = 512
MOST_ROWS = 1_000_000

ID_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
_CASE = re.compile(r"~case\d+$")
_MIX = np.uint64(0x9E3779B97F4A7C15)


def physical_names(names: Iterable[str], prefix: str) -> list[str]:
    """Return the stored name of each feature; those that differ only in case get a suffix."""
    seen: dict[str, int] = {}
    result: list[str] = []
    for name in names:
        folded = name.casefold()
        count = seen[folded] = seen.get(folded, 0) + 1
        result.append(f"{prefix}{name}" if count == 1 else f"{prefix}{name}~case{count}")
    return result


def feature_name(physical: str) -> str:
    """Return the name in results, `input.<name>` or `output.<name>`, of a stored column."""
    return _CASE.sub("", physical)


def hash_ids(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash per prediction id, shape (rows,); 0 only for the empty id.

    It is stored, so it must never change. Equal hashes are only candidates: the ids themselves decide.
    """
    rows = len(ids)
    result = np.zeros(rows, np.uint64)
    if rows == 0:
        return result
    _, offset_buffer, data_buffer = ids.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[ids.offset : ids.offset + rows + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    for length in set(lengths.tolist()) - {0}:
        chosen = np.flatnonzero(lengths == length)
        words = np.zeros((len(chosen), -(-length // 8) * 8), np.uint8)
        if len(chosen) == rows:  # ids of one length, the usual case, lie in one block
            words[:, :length] = data[offsets[0] : offsets[-1]].reshape(rows, length)
        else:
            words[:, :length] = data[offsets[chosen][:, None] + np.arange(length)]
        result[chosen] = _mix(words.view("<u8"), length)
    return result


def _mix(words: npt.NDArray[np.uint64], length: int) -> npt.NDArray[np.uint64]:
    state = np.full(len(words), length, np.uint64) * _MIX
    with np.errstate(over="ignore"):
        for column in range(words.shape[1]):
            state ^= words[:, column]
            state *= _MIX
            state ^= state >> np.uint64(29)
    state[state == 0] = 1
    return state


def encode(batch: Batch) -> pa.RecordBatch:
    """Return the batch as Arrow columns, without what is the same for all of its rows.

    Raises:
        InvalidArgument: with every problem of the batch.
    """
    problems: list[Violation] = []
    if isinstance(batch, ColumnBatch):
        columns = _prediction_columns(batch, problems)
    else:
        columns = _truth_columns(batch, problems)
    if problems:
        kind = "predictions" if isinstance(batch, ColumnBatch) else "truths"
        raise InvalidArgument(f"the batch of {len(batch)} {kind} cannot be stored", violations=problems)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _prediction_columns(batch: ColumnBatch, problems: list[Violation]) -> dict[str, pa.Array]:
    rows = len(batch)
    _check_names(batch, problems)
    columns: dict[str, pa.Array] = {}
    _put_ids(columns, batch.prediction_ids, problems)
    times = _integers("times_us", batch.times_us, rows, np.int64, problems)
    latency = _integers("latency_us", batch.latency_us, rows, np.int64, problems)
    roles = _integers("roles", batch.roles, rows, np.uint8, problems)
    codes = _integers("codes", batch.codes, rows, np.uint16, problems)
    hashes = _integers("input_hash", batch.input_hash, rows, np.uint64, problems)
    _check_times(times, problems)
    if roles.size and int(roles.max()) > 2:
        problems.append(Violation("roles", f"{int(roles.max())} is none of 0 live, 1 shadow, 2 replay"))
    columns["time"] = to_arrow(times).cast(TIME)
    columns["latency_us"] = to_arrow(latency, latency >= 0)
    columns["role"], columns["code"] = to_arrow(roles), to_arrow(codes)
    columns["input_hash"] = to_arrow(hashes)
    if batch.metadata is not None:
        columns["metadata"] = _metadata(batch.metadata, rows, problems)
    _put_features(columns, batch.inputs, INPUT, rows, problems)
    _put_features(columns, batch.outputs, OUTPUT, rows, problems)
    return columns


def _truth_columns(batch: TruthBatch, problems: list[Violation]) -> dict[str, pa.Array]:
    rows = len(batch)
    columns: dict[str, pa.Array] = {}
    _put_ids(columns, batch.prediction_ids, problems)
    if any(not i for i in batch.prediction_ids):
        problems.append(Violation("prediction_ids", "an empty id can join no prediction"))
    times = _integers("times_us", batch.times_us, rows, np.int64, problems)
    _check_times(times, problems)
    columns["time"] = to_arrow(times).cast(TIME)
    if len(batch.values) != rows:
        problems.append(Violation("values", f"has {len(batch.values)} entries for {rows} rows"))
    numeric = np.fromiter((not isinstance(v, str) for v in batch.values), np.bool_, len(batch.values))
    try:
        numbers = np.array([0.0 if isinstance(v, str) else float(v) for v in batch.values], np.float64)
        texts = [v if isinstance(v, str) else None for v in batch.values]
        columns["truth"] = to_arrow(numbers, numeric)
        columns["truth_text"] = text_to_arrow(texts, nullable=True)
        if np.isnan(numbers).any():
            problems.append(Violation("values", "NaN is no truth: leave the row out"))
    except (TypeError, ValueError) as error:
        problems.append(Violation("values", f"every value must be a number or a text: {error}"))
    deployments = batch.deployments if batch.deployments is not None else [""] * rows
    if len(deployments) != rows:
        problems.append(Violation("deployments", f"has {len(deployments)} entries for {rows} rows"))
    bad = sorted({d for d in deployments if d and not ID_PATTERN.match(d)})
    if bad:
        problems.append(Violation("deployments", f"not ids of deployments: {bad[:3]}"))
    else:
        columns["deployment"] = text_to_arrow(deployments)
    return columns


def _check_names(batch: ColumnBatch, problems: list[Violation]) -> None:
    if not ID_PATTERN.match(batch.deployment):
        problems.append(Violation("deployment", f"{batch.deployment!r} is no id: it must match {ID_PATTERN.pattern}"))
    for field, features in (("inputs", batch.inputs), ("outputs", batch.outputs)):
        bad = [n for n in features if not n or "\0" in n or len(n) > 256]
        if bad:
            problems.append(Violation(field, f"names of features have 1 to 256 characters and no NUL: {bad[:3]!r}"))


def _put_ids(columns: dict[str, pa.Array], ids: Sequence[str], problems: list[Violation]) -> None:
    if len(ids) > MOST_ROWS:
        problems.append(Violation("prediction_ids", f"{len(ids)} rows in one batch, the limit is {MOST_ROWS}"))
    try:
        array = text_to_arrow(ids)
    except (TypeError, ValueError) as error:
        problems.append(Violation("prediction_ids", f'every id must be text, "" for none: {error}'))
        return
    offsets = np.frombuffer(array.buffers()[1], np.int32)[: len(array) + 1] if len(array) else np.zeros(1, np.int32)
    if len(array) and int(np.diff(offsets).max()) > MOST_ID_BYTES:
        problems.append(Violation("prediction_ids", f"an id is longer than {MOST_ID_BYTES} bytes"))
        return
    columns["prediction_id"] = array
    columns["id_hash"] = to_arrow(hash_ids(array))


def _integers(
    field: str, values: Column, rows: int, dtype: type[np.integer], problems: list[Violation]
) -> npt.NDArray[np.integer]:
    array = np.ascontiguousarray(values)
    if array.shape != (rows,):
        problems.append(Violation(field, f"has shape {array.shape} for {rows} rows"))
        return np.zeros(rows, dtype)
    if array.dtype != dtype:
        if array.dtype.kind not in "iu":
            problems.append(Violation(field, f"has type {array.dtype}, it must be {np.dtype(dtype).name}"))
            return np.zeros(rows, dtype)
        limits = np.iinfo(dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            problems.append(Violation(field, f"has values outside of {np.dtype(dtype).name}"))
            return np.zeros(rows, dtype)
        array = array.astype(dtype)
    return array


def _check_times(times: npt.NDArray[np.integer], problems: list[Violation]) -> None:
    if times.size and (int(times.min()) < 0 or int(times.max()) > LAST_US):
        problems.append(Violation("times_us", "a time is before 1970 or after 9999: give microseconds since 1970 UTC"))


def _metadata(values: Sequence[str | None], rows: int, problems: list[Violation]) -> pa.Array:
    if len(values) != rows:
        problems.append(Violation("metadata", f"has {len(values)} entries for {rows} rows"))
        return pa.nulls(rows, pa.string())
    try:
        return text_to_arrow([v or None for v in values], nullable=True)
    except (TypeError, ValueError) as error:
        problems.append(Violation("metadata", f"every entry must be JSON text: {error}"))
        return pa.nulls(rows, pa.string())


def _put_features(
    columns: dict[str, pa.Array], features: Mapping[str, Column], prefix: str, rows: int, problems: list[Violation]
) -> None:
    for name, physical in zip(features, physical_names(features, prefix), strict=True):
        field = f"{prefix[:-1]}s[{name}]"
        values = np.asarray(features[name])
        if values.shape != (rows,):
            problems.append(Violation(field, f"has shape {values.shape} for {rows} rows"))
            continue
        try:
            array = feature_to_arrow(values)
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(Violation(field, f"cannot be stored: {error}"))
            continue
        # A column without any value has no type yet: leaving it out means null, and fixes none.
        if array is not None:
            columns[physical] = array
