"""Log files and the records in them.

Owns the names of log files, what a record's head says, and reading a file back after a crash: a torn end is
cut off, a damaged record is put aside and reported. It decides nothing about offsets or parts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .batches import Batch, ColumnBatch, Source
from .columns import encode
from .durable import publish
from .frames import ALIGNMENT, Frame, Scan, encode_frame, scan

__all__ = ["Damage", "Encoded", "Record", "Segment", "decode", "load_segment", "record_of", "segment_path"]

_logger = logging.getLogger(__name__)

END, PREDICTIONS, TRUTHS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Record:
    """Where one appended batch is, and what is the same for all of its rows.

    Attributes:
        body_offset: first byte of its Arrow schema in the file; the rows follow `schema_bytes` later.
        first_row: number of its first row among all rows of the file.
        mark: first offset of the source that is not in it.
        gap: offsets `[gap, first)` were given up when it was appended; None for none.
        deployment: "" for truths.
    """

    kind: int
    body_offset: int
    schema_bytes: int
    body_bytes: int
    first_row: int
    rows: int
    source: Source
    first: int
    mark: int
    gap: int | None
    deployment: str
    endpoint: str
    model: str
    version: int
    replica: str

    def placed(self, body_offset: int, first_row: int) -> Record:
        """Return the record at its place in a file."""
        return replace(self, body_offset=body_offset, first_row=first_row)


@dataclass(slots=True)
class Segment:
    """One log file: numbered, append-only, and removed when its rows are in parts.

    Attributes:
        records: whole and durable records, in order.
        end: bytes that are durable.
        opened_s: monotonic seconds when its first record came; for rolling by age.
    """

    number: int
    path: Path
    records: list[Record] = field(default_factory=list)
    end: int = 0
    rows: int = 0
    opened_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Damage:
    """A log file in which acknowledged bytes could not be read back.

    Attributes:
        kept_as: where the file was put for inspection.
        ranges: the unreadable bytes, `(offset, end)`.
    """

    segment: int
    kept_as: Path
    ranges: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch that is ready to be written."""

    batch: Batch
    table: pa.RecordBatch

    def tail(self, rows: int) -> Encoded:
        """Return only the last `rows` rows."""
        return Encoded(self.batch, self.table.slice(self.table.num_rows - rows))

    @staticmethod
    def of(batch: Batch) -> Encoded:
        """Convert a batch, see `columns.encode`."""
        return Encoded(batch, encode(batch))


def segment_path(directory: Path, number: int) -> Path:
    """Return the path of a log file."""
    return directory / f"{number:012d}.seg"


def frame_buffers(
    item: Encoded, source: Source, first: int, last: int, gap: int | None, *, group_start: int
) -> tuple[list[bytes | memoryview], int, Record]:
    """Return the buffers of a record, their length in bytes, and the record as if they began the file."""
    schema = memoryview(item.table.schema.serialize())
    schema_bytes = len(schema) + -len(schema) % ALIGNMENT
    body = memoryview(item.table.serialize())
    batch, rows = item.batch, item.table.num_rows
    head: dict[str, Any] = {"s": [source.instance, source.incarnation, source.stream], "o": [first, last]}
    head |= {"n": rows, "c": schema_bytes}
    if gap is not None:
        head["g"] = gap
    kind = TRUTHS
    if isinstance(batch, ColumnBatch):
        kind = PREDICTIONS
        head["d"] = [batch.deployment, batch.endpoint, batch.model, batch.version, batch.replica]
    parts: list[bytes | memoryview] = [schema, bytes(schema_bytes - len(schema)), body]
    buffers, size, body_offset = encode_frame(kind, head, parts, group_start=group_start)
    return buffers, size, _record(kind, head, body_offset, schema_bytes + len(body), 0)


def _record(kind: int, head: Mapping[str, Any], body_offset: int, body_bytes: int, first_row: int) -> Record:
    constants = head.get("d", ["", "", "", 0, ""])
    first, last = head["o"]
    return Record(
        kind, body_offset, head["c"], body_bytes, first_row, head["n"], Source(*head["s"]), first, last, head.get("g"),
        *constants,
    )  # fmt: skip


def record_of(frame: Frame, first_row: int) -> Record:
    """Return what a frame's head says."""
    return _record(frame.kind, frame.head, frame.body_offset, frame.body_bytes, first_row)


def decode(data: pa.Buffer, record: Record, schemas: dict[bytes, pa.Schema]) -> tuple[pa.RecordBatch, bytes]:
    """Return the rows of a record in place, without a copy, and its serialised schema as a key.

    Args:
        data: the file's bytes.
        record: where the rows are.
        schemas: a cache from serialised to parsed schemas, for one call after another.
    """
    raw = data.slice(record.body_offset, record.schema_bytes).to_pybytes()
    schema = schemas.get(raw)
    if schema is None:
        schema = schemas[raw] = pa.ipc.read_schema(pa.py_buffer(raw))
    start = record.body_offset + record.schema_bytes
    return pa.ipc.read_record_batch(data.slice(start, record.body_bytes - record.schema_bytes), schema), raw


def map_file(path: Path) -> pa.Buffer:
    """Return the bytes of a file; they stay readable after it is removed."""
    with pa.memory_map(str(path), "r") as source:
        return source.read_buffer()


def load_segment(path: Path, quarantine: Path, *, newest: bool) -> tuple[Segment, Damage | None]:
    """Read a log file back, repairing it first where it needs to be.

    Args:
        path: the file.
        quarantine: folder in which a damaged file is kept.
        newest: it may end in a write that was never acknowledged.
    """
    number = int(path.stem)
    size = path.stat().st_size
    damage: Damage | None = None
    found = scan(memoryview(map_file(path))) if size else Scan((), 0, ())
    ranges = list(found.damaged)
    if found.good_end < size:
        if newest:
            _cut(path, found.good_end, size, quarantine)
        else:
            # A newer file was begun, so every byte of this one had been acknowledged.
            ranges.append((found.good_end, size))
    if ranges:
        # The caller asks for this once per damaged file, so the copy in memory is affordable.
        damage = _salvage(path, number, found.frames, ranges, quarantine)
        found = scan(memoryview(map_file(path))) if path.stat().st_size else Scan((), 0, ())
    segment = Segment(number, path, end=found.good_end)
    for frame in found.frames:
        if frame.kind == END:
            continue
        record = record_of(frame, segment.rows)
        segment.records.append(record)
        segment.rows += record.rows
    return segment, damage


def _cut(path: Path, end: int, size: int, quarantine: Path) -> None:
    kept = quarantine / f"{path.stem}-{end}.torn"
    kept.write_bytes(path.read_bytes()[end:])
    _logger.warning(
        "%s: cut off %d bytes after byte %d, a write that was not acknowledged; kept as %s", path, size - end, end, kept
    )
    handle = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(handle, end)
        os.fsync(handle)
    finally:
        os.close(handle)


def _salvage(
    path: Path, number: int, frames: Sequence[Frame], ranges: Sequence[tuple[int, int]], quarantine: Path
) -> Damage:
    """Keep the damaged file aside and put a file with its readable records in its place."""
    data = path.read_bytes()
    kept = quarantine / path.name
    copy = 0
    while kept.exists():
        copy += 1
        kept = quarantine / f"{path.stem}-{copy}.seg"
    temporary = kept.with_suffix(".tmp")
    temporary.write_bytes(data)
    publish(temporary, kept)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        for frame in frames:
            body = memoryview(data)[frame.body_offset : frame.body_offset + frame.body_bytes]
            buffers, _, _ = encode_frame(frame.kind, frame.head, [body], group_start=file.tell())
            file.writelines(buffers)
    publish(temporary, path)
    _logger.error(
        "%s: %d bytes of acknowledged predictions cannot be read back (disk fault?); the damaged file is kept as %s, "
        "its readable records stay in the log",
        path, sum(end - offset for offset, end in ranges), kept,
    )  # fmt: skip
    return Damage(number, kept, tuple(ranges))


def sequence_numbers(segment: int, record: Record) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the number of each row of a record, unique in the log and rising in the order of arrival."""
    start = (segment << 32) + record.first_row
    return np.arange(start, start + record.rows, dtype=np.int64)
