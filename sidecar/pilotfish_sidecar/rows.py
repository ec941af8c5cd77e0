"""Rows of predictions as columns: packed for the wire and the spool, sliced, joined, hashed, given to the windows.

Owns the form of a batch inside the sidecar and its way from and to `PredictionBatch`. It never decides which rows
are kept and never opens a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import monitoring_pb2 as pb

__all__ = [
    "INPUT",
    "LATEST_US",
    "LIVE",
    "MAX_ID_BYTES",
    "MAX_NAME_CHARACTERS",
    "OUTPUT",
    "Cells",
    "RowBatch",
    "RowColumn",
    "Who",
    "from_message",
    "hash_rows",
    "join_batches",
    "pack_column",
    "read_batch",
    "to_message",
]

Cells = npt.NDArray[Any]
"""A column's values; which dtype is data, not type. Objects are str, None where missing."""

INPUT: Final = int(pb.COLUMN_GROUP_INPUT)
OUTPUT: Final = int(pb.COLUMN_GROUP_OUTPUT)
LIVE: Final = int(pb.PREDICTION_ROLE_LIVE)
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
}
_U64 = np.uint64
MAX_ID_BYTES: Final = 512
MAX_NAME_CHARACTERS: Final = 256
LATEST_US: Final = 253_402_300_000_000_000
"""The year 9999: no time beyond it can be written."""
_MAX_CODE: Final = 65_535


@dataclass(frozen=True, slots=True)
class Who:
    """Who answered: ids of deployment, replica, endpoint and model, and the version's number."""

    deployment: str = ""
    replica: str = ""
    endpoint: str = ""
    model: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RowColumn:
    """One column.

    Attributes:
        name: feature's or output's.
        group: INPUT or OUTPUT.
        datatype: FP32, FP64, INT64, BOOL or BYTES.
        values: shape (rows,).
        missing: shape (rows,), bool; None: none is missing (but NaN and None).
    """

    name: str
    group: int
    datatype: str
    values: Cells
    missing: npt.NDArray[np.bool_] | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """Return what two columns must share to be joined."""
        return self.name, self.group, self.datatype

    def pick(self, rows: slice | npt.NDArray[Any]) -> RowColumn:
        """Return the column of some of the rows."""
        return replace(self, values=self.values[rows], missing=None if self.missing is None else self.missing[rows])

    def for_windows(self) -> Cells:
        """Return the values with missing cells as NaN or None, as `pilotfish.stats` reads them."""
        if self.missing is None or not self.missing.any():
            return self.values
        if self.datatype == "BYTES" or self.datatype == "BOOL":
            cells = self.values.astype(object)
            cells[self.missing] = None
            return cells
        numbers = self.values.astype(np.float64)
        numbers[self.missing] = np.nan
        return numbers


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows of one replica that share their columns; every array has one entry per row.

    Attributes:
        who: that answered.
        ids: prediction ids; empty text where the caller has none.
        times_us: int64, microseconds since 1970 UTC.
        latencies_us: int64, -1 where unknown.
        roles: uint8, `PredictionRole`.
        codes: uint32, gRPC status.
        hashes: uint64, equal for equal inputs.
        columns: inputs and outputs.
        metadata: JSON per row; empty: none.
    """

    who: Who
    ids: Sequence[str]
    times_us: npt.NDArray[np.int64]
    latencies_us: npt.NDArray[np.int64]
    roles: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.uint64]
    columns: tuple[RowColumn, ...]
    metadata: Sequence[str] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    @property
    def key(self) -> tuple[object, ...]:
        """Return what two batches must share to be joined."""
        return self.who, bool(self.metadata), tuple(column.key for column in self.columns)

    def pick(self, rows: slice | npt.NDArray[Any]) -> RowBatch:
        """Return some of the rows, by slice, mask or positions."""
        chosen = range(len(self.ids))[rows] if isinstance(rows, slice) else np.arange(len(self.ids))[rows].tolist()
        return RowBatch(
            who=self.who,
            ids=[self.ids[i] for i in chosen],
            times_us=self.times_us[rows],
            latencies_us=self.latencies_us[rows],
            roles=self.roles[rows],
            codes=self.codes[rows],
            hashes=self.hashes[rows],
            columns=tuple(column.pick(rows) for column in self.columns),
            metadata=[self.metadata[i] for i in chosen] if self.metadata else (),
        )

    def watched(self) -> RowBatch:
        """Return the rows that windows count: live ones that were answered without an error."""
        mask = (self.roles == LIVE) & (self.codes == 0)
        return self if mask.all() else self.pick(mask)

    def by_name(self) -> tuple[dict[str, Cells], dict[str, Cells]]:
        """Return inputs and outputs by name, missing cells as NaN or None."""
        inputs = {c.name: c.for_windows() for c in self.columns if c.group == INPUT}
        outputs = {c.name: c.for_windows() for c in self.columns if c.group == OUTPUT}
        return inputs, outputs

    @property
    def row_bytes(self) -> int:
        """Return about how many bytes a row takes when packed; of strings the longest count."""
        size = 40 + max((len(i) for i in self.ids), default=0) + max((len(m) for m in self.metadata), default=0)
        for column in self.columns:
            if column.datatype == "BYTES":
                size += 4 + max((len(text.encode()) for text in column.values if text), default=0)
            else:
                size += column.values.dtype.itemsize
            size += column.missing is not None
        return size


def pack_column(name: str, group: int, values: Cells) -> RowColumn:
    """Return a column in the narrowest datatype of the wire that holds every value of its type."""
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return RowColumn(name, group, "BOOL", values)
    if kind in "iu":
        if kind == "u" and width == 8 and values.size and int(values.max()) >= 1 << 63:
            return RowColumn(name, group, "FP64", values.astype(np.float64))
        return RowColumn(name, group, "INT64", values.astype(np.int64))
    if kind == "f":
        return RowColumn(name, group, "FP32" if width <= 4 else "FP64", values.astype("<f4" if width <= 4 else "<f8"))
    return RowColumn(name, group, "BYTES", values.astype(object))


def join_batches(batches: Sequence[RowBatch]) -> RowBatch:
    """Return the rows of all batches, in order; all must have the same key, and there is at least one."""
    first = batches[0]
    if len(batches) == 1:
        return first
    columns = []
    for i, column in enumerate(first.columns):
        missing = None
        if any(batch.columns[i].missing is not None for batch in batches):
            missing = np.concatenate([_mask(batch.columns[i]) for batch in batches])
        values = np.concatenate([batch.columns[i].values for batch in batches])
        columns.append(replace(column, values=values, missing=missing))
    return RowBatch(
        who=first.who,
        ids=[i for batch in batches for i in batch.ids],
        times_us=np.concatenate([batch.times_us for batch in batches]),
        latencies_us=np.concatenate([batch.latencies_us for batch in batches]),
        roles=np.concatenate([batch.roles for batch in batches]),
        codes=np.concatenate([batch.codes for batch in batches]),
        hashes=np.concatenate([batch.hashes for batch in batches]),
        columns=tuple(columns),
        metadata=[text for batch in batches for text in batch.metadata],
    )


def _mask(column: RowColumn) -> npt.NDArray[np.bool_]:
    return np.zeros(len(column.values), dtype=np.bool_) if column.missing is None else column.missing


@lru_cache(maxsize=8192)
def _name_seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _mix(h: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # The finaliser of splitmix64: every bit of the input moves every bit of the output.
    h = (h ^ (h >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> _U64(27))) * _U64(0x94D049BB133111EB)
    return h ^ (h >> _U64(31))


def hash_rows(columns: Sequence[RowColumn], rows: int) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each row's inputs: the same for the same values by name, in any order of columns."""
    inputs = [column for column in columns if column.group == INPUT]
    if not inputs:
        return np.zeros(rows, dtype=np.uint64)
    cells = np.empty((len(inputs), rows), dtype=np.float64)
    bits = cells.view(np.uint64)
    for i, column in enumerate(inputs):
        if column.datatype == "BYTES":
            bits[i] = [0 if text is None else _name_seed(str(text)) for text in column.values]
        else:
            # As float64 the same number has the same bits in every datatype; + 0.0 turns -0.0 into 0.0.
            np.add(column.values, 0.0, out=cells[i], casting="unsafe")
        if column.missing is not None:
            bits[i][column.missing] = 1
    seeds = np.array([_name_seed(column.name) for column in inputs], dtype=np.uint64)
    mixed = _mix(bits ^ seeds[:, None])
    return _mix(mixed.sum(axis=0, dtype=np.uint64))


def to_message(batch: RowBatch) -> pb.PredictionBatch:
    """Return the batch as it goes over the wire and into the spool."""
    message = pb.PredictionBatch(
        deployment=batch.who.deployment,
        replica=batch.who.replica,
        endpoint=batch.who.endpoint,
        model=batch.who.model,
        version=batch.who.version,
        prediction_ids=batch.ids,
        times_us=batch.times_us.tolist(),
        latencies_us=batch.latencies_us.tolist(),
        input_hashes=batch.hashes.tolist(),
        metadata_json=batch.metadata,
    )
    if (batch.roles != LIVE).any():
        message.roles.extend(batch.roles.tolist())
    if batch.codes.any():
        message.codes.extend(batch.codes.tolist())
    for column in batch.columns:
        packed = message.columns.add(name=column.name, group=column.group, datatype=column.datatype)
        missing = column.missing
        if column.datatype == "BYTES":
            packed.strings.extend("" if text is None else str(text) for text in column.values)
            if missing is None:
                none = np.array([text is None for text in column.values], dtype=np.bool_)
                missing = none if none.any() else None
        else:
            packed.data = column.values.tobytes()
        if missing is not None and missing.any():
            packed.missing = missing.astype(np.uint8).tobytes()
    return message


def from_message(message: pb.PredictionBatch) -> RowBatch:
    """Return the batch of a message; `read_batch` is the one for bytes that the spool gave back.

    Raises:
        InvalidArgument: columns contradict the number of rows or their datatypes; `violations` names every one.
    """
    rows = len(message.prediction_ids)
    found: list[Violation] = []
    for name, size in (
        ("times_us", len(message.times_us)),
        ("latencies_us", len(message.latencies_us)),
        ("roles", len(message.roles)),
        ("codes", len(message.codes)),
        ("input_hashes", len(message.input_hashes)),
        ("metadata_json", len(message.metadata_json)),
    ):
        if size not in (rows, 0) or (size == 0 and name == "times_us"):
            found.append(Violation(name, f"has {size} entries for {rows} prediction ids", "LENGTHS_DIFFER"))
    if any(not 0 <= time_us <= LATEST_US for time_us in message.times_us):
        found.append(Violation("times_us", "must be microseconds since 1970 UTC, before the year 9999", "OUT_OF_RANGE"))
    if any(not 0 <= role <= LIVE + 2 for role in message.roles):
        found.append(Violation("roles", "must be LIVE, SHADOW or REPLAY", "OUT_OF_RANGE"))
    if any(code > _MAX_CODE for code in message.codes):
        found.append(Violation("codes", f"must be at most {_MAX_CODE}", "OUT_OF_RANGE"))
    if any(len(ident.encode()) > MAX_ID_BYTES for ident in message.prediction_ids):
        found.append(Violation("prediction_ids", f"have at most {MAX_ID_BYTES} bytes", "OUT_OF_RANGE"))
    columns = [_read_column(column, i, rows, found) for i, column in enumerate(message.columns)]
    keys = [(column.name, column.group) for column in columns]
    for name, _ in sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else ():
        found.append(Violation("columns", f"{name!r} comes twice", "DUPLICATE_NAME"))
    if found:
        raise InvalidArgument("the batch is not one table", reason="BAD_BATCH", violations=found[:50])
    who = Who(message.deployment, message.replica, message.endpoint, message.model, message.version)
    roles = np.array(message.roles, dtype=np.uint8) if message.roles else np.full(rows, LIVE, dtype=np.uint8)
    roles[roles == 0] = LIVE
    hashes = np.array(message.input_hashes, dtype=np.uint64) if message.input_hashes else hash_rows(columns, rows)
    return RowBatch(
        who=who,
        ids=list(message.prediction_ids),
        times_us=np.array(message.times_us, dtype=np.int64),
        latencies_us=np.array(message.latencies_us or [-1] * rows, dtype=np.int64),
        roles=roles,
        codes=np.array(message.codes or [0] * rows, dtype=np.uint32),
        hashes=hashes,
        columns=tuple(columns),
        metadata=list(message.metadata_json),
    )


def _read_column(column: pb.Column, index: int, rows: int, found: list[Violation]) -> RowColumn:
    where = f"columns[{index}]"
    if not column.name or column.group not in (INPUT, OUTPUT):
        found.append(Violation(where, "needs a name, and the group INPUT or OUTPUT", "BAD_COLUMN"))
    if len(column.name) > MAX_NAME_CHARACTERS or "\0" in column.name:
        text = f"has at most {MAX_NAME_CHARACTERS} characters and no NUL"
        found.append(Violation(f"{where}.name", text, "BAD_COLUMN"))
    missing: npt.NDArray[np.bool_] | None = None
    if column.missing:
        flags = np.frombuffer(column.missing, np.uint8)
        if len(flags) != rows or flags.max(initial=0) > 1:
            found.append(Violation(f"{where}.missing", f"must be {rows} bytes of 0 or 1", "BAD_COLUMN"))
        else:
            missing = flags.view(np.bool_)
    values: Cells = np.empty(0)
    if column.datatype == "BYTES":
        values = np.empty(len(column.strings), dtype=object)
        values[:] = list(column.strings)
        if missing is not None and len(values) == rows:
            values[missing] = None
    elif column.datatype in _DTYPES:
        dtype = _DTYPES[column.datatype]
        if len(column.data) % dtype.itemsize == 0:
            values = np.frombuffer(column.data, dtype)
        if dtype.kind == "b" and values.size and values.view(np.uint8).max() > 1:
            found.append(Violation(f"{where}.data", "a BOOL is neither 0 nor 1", "BAD_COLUMN"))
    else:
        text = f"is {column.datatype[:40]!r}, must be FP32, FP64, INT64, BOOL or BYTES"
        found.append(Violation(f"{where}.datatype", text, "UNKNOWN_DATATYPE"))
        return RowColumn(column.name, column.group, "BYTES", values)
    if len(values) != rows:
        found.append(Violation(where, f"holds {len(values)} values for {rows} prediction ids", "LENGTHS_DIFFER"))
    return RowColumn(column.name, column.group, column.datatype, values, missing)


def read_batch(payload: bytes) -> RowBatch:
    """Return the batch of a payload of the spool."""
    return from_message(pb.PredictionBatch.FromString(payload))
