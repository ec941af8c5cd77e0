"""Rows as Parquet: grouping records by deployment and day, writing parts, merging small ones.

Owns the layout `parts/deployment=<id>/day=<YYYY-MM-DD>/<part>.parquet` and `truth/day=<YYYY-MM-DD>/…`. A part is
written under a temporary name, synced and renamed; whether it counts is the manifest's word, never this module's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .arrays import column_to_numpy, text_to_arrow, to_arrow
from .columns import CONSTANTS, DAY_US, INPUT, OUTPUT
from .durable import make_directory, publish
from .manifest import Part
from .segments import PREDICTIONS, Record, decode, sequence_numbers

__all__ = ["PARTS", "TRUTH", "day_name", "merge_parts", "read_part", "remove_strays", "stack", "write_segment_parts"]

PARTS, TRUTH = "parts", "truth"
ROW_GROUP_ROWS = 122_880  # DuckDB's own size: one task per row group
SUFFIX = ".parquet"
_FIRST_COLUMNS = ("prediction_id", "id_hash", "seq", "time", *CONSTANTS, "latency_us", "role", "code", "input_hash")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day_name(day: int) -> str:
    """Return `YYYY-MM-DD` of a number of days since 1970."""
    return (_EPOCH + timedelta(days=day)).strftime("%Y-%m-%d")


@dataclass(slots=True)
class _Group:
    """Records whose columns fit into one table: no name has two types, and none differs only in case."""

    types: dict[str, tuple[str, pa.DataType]]
    batches: list[pa.RecordBatch]
    records: list[tuple[int, Record]]

    def accepts(self, schema: pa.Schema) -> bool:
        for column in schema:
            known = self.types.get(column.name.casefold())
            if known is not None and known != (column.name, column.type):
                return False
        return True


def stack(items: Iterable[tuple[int, Record, pa.Buffer]]) -> list[pa.Table]:
    """Return the rows of records of one kind, in order, in as few tables as their columns allow.

    Args:
        items: number of the log file, record, and the file's bytes.
    """
    schemas: dict[bytes, pa.Schema] = {}
    groups: list[_Group] = []
    chosen: dict[bytes, _Group] = {}
    for segment, record, data in items:
        batch, key = decode(data, record, schemas)
        group = chosen.get(key)
        if group is None:
            group = next((g for g in groups if g.accepts(batch.schema)), None)
            if group is None:
                group = _Group({}, [], [])
                groups.append(group)
            group.types |= {c.name.casefold(): (c.name, c.type) for c in batch.schema}
            chosen[key] = group
        group.batches.append(batch)
        group.records.append((segment, record))
    return [_table(group) for group in groups]


def _table(group: _Group) -> pa.Table:
    runs: list[pa.Table] = []
    start = 0
    for index in range(1, len(group.batches) + 1):
        if index == len(group.batches) or not group.batches[index].schema.equals(group.batches[start].schema):
            runs.append(pa.Table.from_batches(group.batches[start:index]))
            start = index
    table = pa.concat_tables(runs, promote_options="default")
    numbers = np.concatenate([sequence_numbers(segment, record) for segment, record in group.records])
    table = table.append_column("seq", to_arrow(numbers))
    if group.records[0][1].kind == PREDICTIONS:
        counts = np.array([record.rows for _, record in group.records])
        for name in CONSTANTS:
            table = table.append_column(name, _constants([getattr(r, name) for _, r in group.records], counts))
    return table.select(_ordered(table.column_names))


def _constants(values: Sequence[str | int], counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    distinct = {value: index for index, value in enumerate(dict.fromkeys(values))}
    codes = np.repeat(np.array([distinct[v] for v in values], np.int32), counts)
    if isinstance(values[0], int):
        return to_arrow(np.array(list(distinct), np.int64)[codes])
    return pa.DictionaryArray.from_arrays(to_arrow(codes), text_to_arrow([str(value) for value in distinct]))


def _ordered(names: Iterable[str]) -> list[str]:
    present = list(names)
    first = [name for name in _FIRST_COLUMNS if name in present]
    return first + [name for name in present if name not in first]


def write_segment_parts(root: Path, number: int, records: Sequence[Record], data: pa.Buffer) -> Iterator[Part]:
    """Write the rows of a log file as parts, each durable when it is yielded."""
    by_deployment: dict[tuple[int, str], list[Record]] = {}
    for record in (r for r in records if r.rows):
        by_deployment.setdefault((record.kind, record.deployment), []).append(record)
    for (kind, deployment), chosen in by_deployment.items():
        counter = 0
        for table in stack((number, record, data) for record in chosen):
            for day, rows in _by_day(table):
                name = f"{number:012d}-{counter}{SUFFIX}"
                folder = PARTS if kind == PREDICTIONS else TRUTH
                yield _write(root, folder, deployment, day, name, rows, merged=False)
                counter += 1


def _by_day(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    days = column_to_numpy(table["time"]) // DAY_US
    first, last = int(days.min()), int(days.max())
    if first == last:
        yield first, table
        return
    for day in np.unique(days):
        yield int(day), table.filter(to_arrow(days == day))


def _write(root: Path, kind: str, deployment: str, day: int, name: str, table: pa.Table, *, merged: bool) -> Part:
    folder = root / kind
    if kind == PARTS:
        folder = folder / f"deployment={deployment}"
    folder = folder / f"day={day_name(day)}"
    make_directory(folder, root)
    final = folder / name
    temporary = folder / f"{name}.tmp"
    try:
        pq.write_table(table, str(temporary), row_group_size=ROW_GROUP_ROWS, **_settings(table.schema, merged=merged))
        publish(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    times, numbers = column_to_numpy(table["time"]), column_to_numpy(table["seq"])
    features = tuple((f.name, str(f.type)) for f in table.schema if f.name not in _FIRST_COLUMNS)
    return Part(
        path=final.relative_to(root).as_posix(),
        kind=kind,
        deployment=deployment,
        day=day,
        rows=table.num_rows,
        size_bytes=final.stat().st_size,
        first_us=int(times.min()),
        last_us=int(times.max()),
        first_segment=int(numbers.min()) >> 32,
        last_segment=int(numbers.max()) >> 32,
        columns=features if kind == PARTS else (),
        merged=merged,
    )


def _settings(schema: pa.Schema, *, merged: bool) -> dict[str, Any]:  # Any: keywords of pyarrow, each of its own type
    """Return how a part is written: fresh ones quickly, so that rolling keeps up; merged ones small."""
    dictionary = [f.name for f in schema if _repeats(f)]
    numbers = [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    quick = {} if merged else dict.fromkeys(numbers, "lz4")
    return {
        "compression": {f.name: quick.get(f.name, "zstd") for f in schema},
        "use_dictionary": dictionary,
        "column_encoding": {"seq": "DELTA_BINARY_PACKED", "time": "DELTA_BINARY_PACKED"},
        "write_statistics": ["seq", "time"],
    }


def _repeats(field: pa.Field) -> bool:
    """Tell whether a dictionary is worth trying; float columns would only pay for the attempt."""
    if field.name in ("role", "code", "version") or pa.types.is_dictionary(field.type):
        return True
    return bool(field.name.startswith((INPUT, OUTPUT)) and pa.types.is_string(field.type))


def read_part(root: Path, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a part; `pyarrow.parquet.read_table` would take `deployment=…` for a further column."""
    with pq.ParquetFile(str(root / part.path)) as file:
        return file.read(columns)


def merge_parts(root: Path, parts: Sequence[Part]) -> Part:
    """Write one part with the rows of several of the same deployment, day and columns, in order of arrival."""
    tables = [read_part(root, part) for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    numbers = column_to_numpy(table["seq"])
    if (numbers[1:] < numbers[:-1]).any():
        table = table.take(to_arrow(np.argsort(numbers)))
    head = parts[0]
    name = f"{min(p.first_segment for p in parts):012d}-{max(p.last_segment for p in parts):012d}"
    folder = (root / head.path).parent
    counter = 0
    while (folder / f"{name}-m{counter}{SUFFIX}").exists():
        counter += 1
    return _write(root, head.kind, head.deployment, head.day, f"{name}-m{counter}{SUFFIX}", table, merged=True)


def remove_strays(root: Path, known: Iterable[str]) -> int:
    """Delete files below the part folders that the manifest does not name, and return how many.

    They are what a crash left: parts that were never committed, or merged away and not yet deleted.
    """
    wanted = {root / path for path in known}
    strays = [p for kind in (PARTS, TRUTH) for p in (root / kind).rglob("*") if p.is_file() and p not in wanted]
    for path in strays:
        path.unlink()
    return len(strays)
