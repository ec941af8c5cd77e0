"""From captured calls to rows: stack equal calls into columns.

Owns the turning of tap records into batches, and the counting of those that cannot be read. It keeps no state,
opens no file and never raises for what was on the wire.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np

from pilotfish_sidecar.calls import Read, find_binding, read_call
from pilotfish_sidecar.config import ALL_ROWS_BP, Binding
from pilotfish_sidecar.decode import Decoded
from pilotfish_sidecar.outcomes import Call, grpc_code
from pilotfish_sidecar.rows import (
    INPUT,
    LATEST_US,
    LIVE,
    MAX_ID_BYTES,
    MAX_NAME_CHARACTERS,
    OUTPUT,
    Cells,
    RowBatch,
    RowColumn,
    hash_rows,
    pack_column,
)
from pilotfish_sidecar.tap.records import Flag, Protocol, Role, TapRecord

__all__ = ["MAX_BATCH_ROWS", "Captured", "find_binding", "read_calls", "split_batch", "split_sample"]

MAX_BATCH_ROWS: Final = 1000
_MAX_BATCH_BYTES: Final = 640 << 10
_MAX_ROW_BYTES: Final = 800 << 10
_KEPT_HEADER: Final = "pilotfish-metadata"


@dataclass(slots=True)
class Captured:
    """What came of a batch of calls.

    Attributes:
        batches: rows, those that share replica and columns together, at most 1000 rows and about 640 KiB each.
        calls: the live ones, also those that could not be decoded.
        replicas: what `Call.replica` counts into.
        undecodable: replica → reason → calls.
    """

    batches: list[RowBatch] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    replicas: list[str] = field(default_factory=list)
    undecodable: dict[str, Counter[str]] = field(default_factory=dict)

    def miss(self, replica: str, reason: str) -> None:
        """Count a call without rows."""
        self.undecodable.setdefault(replica, Counter())[reason] += 1

    def merge(self, other: Captured) -> None:
        """Take what came of another batch."""
        self.batches += other.batches
        for call in other.calls:
            replica = other.replicas[call.replica]
            if replica not in self.replicas:
                self.replicas.append(replica)
            self.calls.append(call._replace(replica=self.replicas.index(replica)))
        for replica, reasons in other.undecodable.items():
            self.undecodable.setdefault(replica, Counter()).update(reasons)


def read_calls(records: Sequence[TapRecord], bindings: Mapping[str, Binding]) -> Captured:
    """Return the rows of captured calls.

    Args:
        records: in the order of their arrival.
        bindings: by replica; not empty.
    """
    captured = Captured()
    groups: dict[tuple[object, ...], list[Read]] = {}
    owners: dict[tuple[object, ...], Binding] = {}
    places: dict[str, int] = {}
    for record in records:
        if record.drop is not None:
            _note_call(captured, places, find_binding(record, bindings), record)
            continue
        binding, reads, missed = read_call(record, bindings)
        replica = binding.who.replica if binding is not None else ""
        if not record.flags & Flag.CONTINUES:
            _note_call(captured, places, binding, record)
        if missed is not None:
            captured.miss(replica, missed.reason.value)
        if binding is None:
            if missed is None:
                captured.miss("", "unknown_replica")
            continue
        for read in reads:
            key = _form(replica, read.decoded)
            owners[key] = binding
            groups.setdefault(key, []).append(read)
    captured.replicas = list(places)
    for key, reads in groups.items():
        for batch in split_batch(_stack(reads, owners[key])):
            if len(batch) == 1 and batch.row_bytes > _MAX_ROW_BYTES:
                captured.miss(batch.who.replica, "row_too_large")
            else:
                captured.batches.append(batch)
    return captured


def _note_call(captured: Captured, places: dict[str, int], binding: Binding | None, record: TapRecord) -> None:
    if record.role is Role.LIVE and binding is not None:
        place = places.setdefault(binding.who.replica, len(places))
        code = grpc_code(record.code, http=record.protocol is Protocol.REST)
        captured.calls.append(Call(place, code, record.latency_us, _time_us(record)))


def _form(replica: str, decoded: Decoded) -> tuple[object, ...]:
    """Return what two calls share whose blocks can be stacked."""
    return (
        replica,
        tuple((block.names, block.values.dtype.str) for block in decoded.input_blocks),
        tuple((block.names, block.values.dtype.str) for block in decoded.output_blocks),
    )


def _stack(reads: Sequence[Read], binding: Binding) -> RowBatch:
    rows = [read.decoded.rows for read in reads]
    records = [read.record for read in reads]
    columns: list[RowColumn] = []
    for side, group in ((0, INPUT), (1, OUTPUT)):
        blocks = [read.decoded.output_blocks if side else read.decoded.input_blocks for read in reads]
        for i, first in enumerate(blocks[0]):
            table: Cells = np.concatenate([each[i].values for each in blocks])
            columns += (_column(name, group, table[:, j], columns) for j, name in enumerate(first.names))
    total = sum(rows)
    roles = [int(record.role) + LIVE for record in records]
    codes = [grpc_code(record.code, http=record.protocol is Protocol.REST) for record in records]
    return RowBatch(
        who=binding.who,
        ids=[_clean_id(ident) for read in reads for ident in read.decoded.row_ids(read.fallback_id)],
        times_us=np.repeat(np.array([_time_us(record) for record in records], dtype=np.int64), rows),
        latencies_us=np.repeat(np.array([record.latency_us for record in records], dtype=np.int64), rows),
        roles=np.repeat(np.array(roles, dtype=np.uint8), rows),
        codes=np.repeat(np.array(codes, dtype=np.uint32), rows),
        hashes=hash_rows(columns, total),
        columns=tuple(columns),
        metadata=_metadata(reads),
    )


def _time_us(record: TapRecord) -> int:
    # What a broken clock says must still be a time that can be written.
    return min(max(record.start_us, 0), LATEST_US)


def _clean(text: str) -> str:
    """Return the text without half characters: JSON may bring them, protobuf refuses them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _clean_id(text: str) -> str:
    # An id that is too long to be stored joins no truth: the row is kept without one.
    ident = _clean(text)
    return ident if len(ident) <= MAX_ID_BYTES // 4 or len(ident.encode()) <= MAX_ID_BYTES else ""


@lru_cache(maxsize=8192)
def _clean_name(text: str) -> str:
    # Printable, as profiles and the prediction log want names.
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in _clean(text)) or "unnamed"
    if len(name) <= MAX_NAME_CHARACTERS - 8:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME_CHARACTERS - 32]}~{digest}"


def _column(name: str, group: int, values: Cells, before: Sequence[RowColumn]) -> RowColumn:
    # Two tensors may bring the same name; a table has each once.
    name = _clean_name(name)
    taken = {column.name for column in before if column.group == group}
    while name in taken:
        name += "_"
    if values.dtype.kind == "O":
        values = np.array([None if cell is None else _clean(str(cell)) for cell in values], dtype=object)
    return pack_column(name, group, np.ascontiguousarray(values))


def _metadata(reads: Sequence[Read]) -> Sequence[str]:
    texts = []
    for read in reads:
        given = [value for key, value in read.record.headers if key == _KEPT_HEADER]
        texts += [_json_object(given[0]) if given else ""] * read.decoded.rows
    return texts if any(texts) else ()


def _json_object(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    return text if isinstance(document, dict) else json.dumps({"text": text})


def split_batch(batch: RowBatch) -> Iterable[RowBatch]:
    """Yield the batch in pieces that fit one message: at most 1000 rows, about 640 KiB."""
    size = max(1, min(MAX_BATCH_ROWS, _MAX_BATCH_BYTES // max(batch.row_bytes, 1)))
    if len(batch) <= size:
        yield batch
        return
    for start in range(0, len(batch), size):
        yield batch.pick(slice(start, start + size))


def split_sample(batch: RowBatch, sample_bp: int) -> tuple[RowBatch | None, RowBatch | None]:
    """Return the rows that are kept as predictions, and those that only the windows count.

    Which is which follows from the prediction id, so that a shadow keeps the rows that the live deployment keeps.
    """
    if sample_bp >= ALL_ROWS_BP:
        return batch, None
    by_id = np.array([zlib.crc32(i.encode()) if i else 0 for i in batch.ids], dtype=np.uint64)
    draw = np.where(by_id > 0, by_id, batch.hashes) % np.uint64(ALL_ROWS_BP)
    kept = draw < np.uint64(sample_bp)
    if kept.all() or not kept.any():
        return (batch, None) if kept.any() else (None, batch)
    return batch.pick(kept), batch.pick(~kept)
