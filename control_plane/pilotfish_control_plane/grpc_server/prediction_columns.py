"""Batches of predictions and truths between the wire and the prediction log.

Owns the check and conversion of columns, both ways. Hostile sizes are refused before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish_control_plane.prediction_log import ColumnBatch, TruthBatch

__all__ = ["batch_from_wire", "columns_to_wire", "truths_from_wire"]

Cells = npt.NDArray[Any]  # float32, float64, int64, bool or object (str and None)

DTYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
}
# The wire's roles count from 1 with 0 for "unset: live"; the log's from 0.
ROLES = {0: 0, pb.PREDICTION_ROLE_LIVE: 0, pb.PREDICTION_ROLE_SHADOW: 1, pb.PREDICTION_ROLE_REPLAY: 2}
MAX_ROWS = 100_000
MAX_COLUMNS = 10_000


class _Problems:
    def __init__(self) -> None:
        self.found: list[Violation] = []

    def add(self, field: str, text: str) -> None:
        self.found.append(Violation(field, text))

    def refuse(self, what: str) -> None:
        if self.found:
            raise InvalidArgument(f"{what} cannot be taken", violations=self.found)


def batch_from_wire(message: pb.PredictionBatch, *, now_us: int | None = None) -> ColumnBatch:
    """Return a batch for the prediction log.

    Args:
        message: as sent.
        now_us: time of rows that bring none, microseconds since 1970 UTC; None: times are required.

    Raises:
        InvalidArgument: every problem of the batch.
    """
    problems, rows = _Problems(), len(message.prediction_ids)
    if rows > MAX_ROWS or len(message.columns) > MAX_COLUMNS:
        problems.add("batch", f"{rows} rows and {len(message.columns)} columns; at most {MAX_ROWS} and {MAX_COLUMNS}")
        problems.refuse("the batch")
    if rows == 0:
        problems.add("batch.prediction_ids", "there is no row")
    times = np.asarray(message.times_us, dtype=np.int64)
    if times.size == 0 and now_us is not None:
        times = np.full(rows, now_us, dtype=np.int64)
    latencies = np.asarray(message.latencies_us or [-1] * rows, dtype=np.int64)
    codes = np.asarray(message.codes or [0] * rows, dtype=np.int64)
    hashes = np.asarray(message.input_hashes or [0] * rows, dtype=np.uint64)
    roles = np.asarray([ROLES.get(r, 255) for r in message.roles] or [0] * rows, dtype=np.uint8)
    named: dict[str, Cells] = {
        "times_us": times,
        "latencies_us": latencies,
        "codes": codes,
        "input_hashes": hashes,
        "roles": roles,
    }
    for name, values in named.items():
        if values.size != rows:
            problems.add(f"batch.{name}", f"{values.size} values for {rows} rows")
    if (roles == 255).any():
        problems.add("batch.roles", "unknown role")
    if codes.size and (codes.min() < 0 or codes.max() > 65_535):
        problems.add("batch.codes", "a code is between 0 and 65535")
    if message.metadata_json and len(message.metadata_json) != rows:
        problems.add("batch.metadata_json", f"{len(message.metadata_json)} values for {rows} rows")
    inputs, outputs = _columns(message.columns, rows, problems)
    problems.refuse("the batch of predictions")
    return ColumnBatch(
        message.deployment, message.endpoint, message.model, message.version, message.replica,
        list(message.prediction_ids), times, latencies, roles, codes.astype(np.uint16), inputs, outputs, hashes,
        list(message.metadata_json) or None,
    )  # fmt: skip


def _columns(columns: Sequence[pb.Column], rows: int, problems: _Problems) -> tuple[dict[str, Cells], dict[str, Cells]]:
    inputs: dict[str, Cells] = {}
    outputs: dict[str, Cells] = {}
    for i, column in enumerate(columns):
        field = f"batch.columns[{i}]"
        into = {pb.COLUMN_GROUP_INPUT: inputs, pb.COLUMN_GROUP_OUTPUT: outputs}.get(column.group)
        if into is None:
            problems.add(f"{field}.group", "is neither input nor output")
            continue
        if not column.name or column.name in into:
            problems.add(f"{field}.name", f"{column.name!r} is empty or there already")
            continue
        values = _cells(column, rows, field, problems)
        if values is not None:
            into[column.name] = values
    return inputs, outputs


def _cells(column: pb.Column, rows: int, field: str, problems: _Problems) -> Cells | None:
    if column.missing and len(column.missing) != rows:
        problems.add(f"{field}.missing", f"{len(column.missing)} bytes for {rows} rows")
        return None
    missing = np.frombuffer(column.missing, dtype=np.uint8).astype(bool) if column.missing else None
    if column.datatype == "BYTES":
        if len(column.strings) != rows:
            problems.add(f"{field}.strings", f"{len(column.strings)} values for {rows} rows")
            return None
        texts = np.array(list(column.strings), dtype=object)
        if missing is not None:
            texts[missing] = None
        return texts
    dtype = DTYPES.get(column.datatype)
    if dtype is None:
        problems.add(f"{field}.datatype", f"{column.datatype!r} is not one of {', '.join([*DTYPES, 'BYTES'])}")
        return None
    if len(column.data) != rows * dtype.itemsize:
        problems.add(
            f"{field}.data", f"{len(column.data)} bytes; {rows} rows of {column.datatype} are {rows * dtype.itemsize}"
        )
        return None
    values: Cells = np.frombuffer(column.data, dtype=dtype)
    if missing is not None and missing.any():
        values = values.astype(np.float64)
        values[missing] = np.nan
    return values


def truths_from_wire(message: pb.GroundTruthBatch, *, now_us: int) -> TruthBatch:
    """Return a batch of truths for the prediction log.

    Raises:
        InvalidArgument: every problem of the batch.
    """
    problems, rows = _Problems(), len(message.prediction_ids)
    if rows == 0:
        problems.add("batch.prediction_ids", "there is no row")
    if bool(message.values) == bool(message.labels) and rows:
        problems.add("batch.values", "give either values or labels, one per row")
    given: list[float | str] = list(message.labels) if message.labels else list(message.values)
    if len(given) != rows:
        problems.add("batch.values", f"{len(given)} truths for {rows} rows")
    if any(isinstance(v, float) and not np.isfinite(v) for v in given):
        problems.add("batch.values", "a truth is not a finite number")
    empty = [i for i, name in enumerate(message.prediction_ids) if not name]
    if empty:
        problems.add("batch.prediction_ids", f"rows {empty[:5]} have no prediction id and can join nothing")
    times = np.asarray(message.times_us, dtype=np.int64)
    if times.size == 0:
        times = np.full(rows, now_us, dtype=np.int64)
    elif times.size != rows:
        problems.add("batch.times_us", f"{times.size} values for {rows} rows")
    problems.refuse("the batch of truths")
    scope = [message.deployment] * rows if message.deployment else None
    return TruthBatch(list(message.prediction_ids), given, times, scope)


def columns_to_wire(group: pb.ColumnGroup, columns: dict[str, Cells]) -> list[pb.Column]:
    """Return columns in the wire's form; group is a ColumnGroup."""
    found = []
    for name, values in columns.items():
        if values.dtype.kind in "OUS":
            texts = ["" if v is None else str(v) for v in values.tolist()]
            missing = bytes(int(v is None) for v in values.tolist())
            found.append(
                pb.Column(
                    name=name, group=group, datatype="BYTES", strings=texts, missing=missing if any(missing) else b""
                )
            )
            continue
        kind = {"f": "FP64", "i": "INT64", "u": "INT64", "b": "BOOL"}[values.dtype.kind]
        kind = "FP32" if values.dtype == np.float32 else kind
        found.append(pb.Column(name=name, group=group, datatype=kind, data=values.astype(DTYPES[kind]).tobytes()))
    return found
